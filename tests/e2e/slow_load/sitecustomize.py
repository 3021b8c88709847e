"""Delays the load of a file by SLOW_SECONDS, or for ever.

For a server that a test starts with this folder in its PYTHONPATH.
"""

import os
import sys
import time


class _SlowReadAhead:
    """Finds `ggserve.modelfile.read_ahead` first, and slows it down for the file named in SLOW_LOAD."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "ggserve.model.load":
            from ggserve.modelfile import read_ahead

            original = read_ahead.read_ahead

            def slow(file, report):
                if file.path.stem == os.environ["SLOW_LOAD"]:
                    print(f"{file.path.name} is slow", flush=True)
                    time.sleep(float(os.environ.get("SLOW_SECONDS", "600")))
                original(file, report)

            read_ahead.read_ahead = slow


if "SLOW_LOAD" in os.environ:
    sys.meta_path.insert(0, _SlowReadAhead())
