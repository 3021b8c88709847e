"""Collects answers, for tests that use the model without HTTP."""

import asyncio
from collections.abc import AsyncGenerator

from ggserve.generation import Delta


async def collect(deltas: AsyncGenerator[Delta, None]) -> tuple[str, Delta]:
    """Return the whole text, and the last delta."""
    text = ""
    async for delta in deltas:
        text += delta.text
    return text, delta


def answer(deltas: AsyncGenerator[Delta, None]) -> tuple[str, Delta]:
    return asyncio.run(collect(deltas))
