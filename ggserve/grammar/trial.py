"""Compile a grammar in a child process with limited time and memory.

This file is also the child's program, so it imports llguidance and nothing from this package.
"""

import json
import signal
import subprocess
import sys
import threading
from typing import Any

_PROCESSOR_SECONDS = 2
_SECONDS = 30  # enough on a busy machine
_BYTES = 1 << 30  # of address space


class Trials:
    """Child processes that compile grammars. A grammar that crashes its process harms nothing else."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def check(self, grammar: str, limits: dict[str, Any]) -> None:
        """Block until the Lark grammar is compiled. Raises ValueError if it cannot be compiled or takes too much time
        or memory."""
        with self._lock:
            if self._closed:
                raise ValueError("the model is closed")
            process = subprocess.Popen(
                [sys.executable, "-I", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._running.add(process)
        try:
            problem, _ = process.communicate(json.dumps([grammar, limits]).encode(), timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            problem, _ = process.communicate()
        finally:
            self._running.discard(process)
        if process.returncode:
            raise ValueError("it takes too much time or memory to compile")
        if problem:
            raise ValueError(problem.decode())

    def close(self) -> None:
        """Kill all of them."""
        with self._lock:
            self._closed = True
            for process in list(self._running):
                process.kill()


class _Bytes:
    """A vocabulary of bytes, as llguidance expects it."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xff<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def main() -> None:
    """Read a grammar and its limits, and write the problem with the grammar."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_PROF, _PROCESSOR_SECONDS)  # the signal kills the process
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

    grammar, limits = json.load(sys.stdin)
    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes()), eos_token=256)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(**limits))
    if not matcher.is_error():
        matcher.compute_ff_tokens()
        matcher.compute_bitmask()
    sys.stdout.write(matcher.get_error() if matcher.is_error() else "")


if __name__ == "__main__":
    main()
