"""Loads and runs legacy files, in a process that may die: families and paths in turn, a line each out."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from ggserve.errors import EngineError, ModelFileError
from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel


async def run(family: str, path: str) -> str:
    try:
        model = GGUFModel(path, model_type=family, threads=1, engine="ctransformers")
    except (ModelFileError, EngineError) as error:
        return f"refused: {error}"
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    length = min(model.engine.context_length - 4, 200)
    try:
        async for _ in model.complete([1] * max(length, 1), params):
            pass
    except EngineError as error:  # weights that are no numbers any more
        return f"failed: {error}"
    finally:
        model.close()
    return "ran"


for family, path in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    print(Path(path).name, flush=True, end=" ")
    print(asyncio.run(run(family, path)), flush=True)
