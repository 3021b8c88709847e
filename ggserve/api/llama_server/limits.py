"""llama-server's additional limits of an answer: `n_indent` and `t_max_predict_ms`."""

import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from ggserve.generation import Delta


async def limited(deltas: AsyncGenerator[Delta, None], indent: int, seconds: float) -> AsyncGenerator[Delta, None]:
    """Yield the deltas up to a later line with less than `indent` blanks of indentation or, once there is a line break,
    up to `seconds` after the first delta. 0: no limit. The text of a line before its indentation stays, as in
    llama-server."""
    outdented = re.compile(rf"\n[ \t]{{0,{max(indent - 1, 0)}}}(?=[^ \t])")
    tail, broken, deadline = "", False, 0.0  # the last characters, and True after a line break
    async with aclosing(deltas):
        async for delta in deltas:
            deadline = deadline or time.perf_counter() + seconds
            known, text = len(tail), tail + delta.text
            broken = broken or "\n" in delta.text
            if indent and (cut := outdented.search(text)):
                yield replace(delta, text=text[known : cut.end()], finish_reason="length", stop_sequence=None)
                return
            tail = text[-indent:] if indent else ""
            if seconds > 0 and delta.finish_reason is None and broken and time.perf_counter() > deadline:
                yield replace(delta, finish_reason="length")
                return
            yield delta
