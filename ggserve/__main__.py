"""The entry point of `python -m ggserve`, which is the `ggserve` command."""

import sys

from ggserve.cli import main

if __name__ == "__main__":
    sys.exit(main())
