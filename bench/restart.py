"""`python -m bench.restart`: the time to the first token of a long chat after a restart, with and without
PROMPT_CACHE_DIR.

Runs the default model as it was published. Each figure is that of a freshly loaded model, as after a restart. Without
the folder it evaluates the whole history; with it, it reads the state that the previous model saved.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.machine import machine
from bench.others import Others
from bench.report import aligned
from ggserve.hub.default import packaged_model
from ggserve.machine import usable_cores
from ggserve.model.gguf_model import GGUFModel, SamplingParams

_STORY = "On day {number} the keeper counted {number} ships, wrote their names down and lit the lamp again. "


@dataclass(frozen=True)
class Run:
    """One answer of a freshly loaded model."""

    first_token_seconds: float
    prompt_tokens: int
    cached_tokens: int
    text: str


def run(path: Path, prompt: str, context: int, threads: int, folder: Path | None) -> Run:
    """Load the model, ask it and close it."""
    model = GGUFModel(
        path,
        engine="llama.cpp",
        threads=threads,
        parallel=1,
        context_length=context,
        prompt_cache_dir=folder,
    )

    async def answer() -> Run:
        params = SamplingParams(max_tokens=32, temperature=0)
        started, first, text = time.perf_counter(), 0.0, ""
        async for delta in model.complete(prompt, params):
            text += delta.text
            if delta.completion_tokens and not first:
                first = time.perf_counter() - started
        return Run(first, delta.prompt_tokens, delta.cached_tokens, text)

    try:
        return asyncio.run(answer())
    finally:
        model.close()


def history(path: Path, tokens: int) -> str:
    """Return a text of roughly this many tokens."""
    model = GGUFModel(path, engine="llama.cpp", threads=1, parallel=1, context_length=256)
    try:
        text, number = "", 1
        while len(model.tokenize(text)) < tokens:
            text += "".join(_STORY.format(number=number + each) for each in range(20))
            number += 20
        return model.detokenize(model.tokenize(text)[:tokens])
    finally:
        model.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.restart", description=__doc__)
    parser.add_argument("--tokens", type=int, default=8000, help="tokens in the history (default: 8000)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads (default: the usable cores)")
    parser.add_argument("--runs", type=int, default=3, help="number of restarts of each kind (default: 3)")
    options = parser.parse_args()
    path = packaged_model()
    if path is None:
        sys.exit("the default model is not installed: use `make bench`")
    folder = Path(tempfile.mkdtemp(prefix="restart-"))
    others = Others()
    try:
        asked = history(path, options.tokens), options.tokens + 128, options.threads
        run(path, *asked, folder)  # saves the state
        states = [state.stat().st_size for state in folder.glob("*/*.state")]
        pairs = [(run(path, *asked, None), run(path, *asked, folder)) for _ in range(options.runs)]
    finally:
        shutil.rmtree(folder)
    plain, saved = zip(*pairs, strict=True)
    seconds = [statistics.median(each.first_token_seconds for each in kind) for kind in (plain, saved)]
    rows = [["after a restart", "first token", "prompt tokens", "from disk"]]
    for name, kind, time_ in (("without PROMPT_CACHE_DIR", plain, seconds[0]), ("with it", saved, seconds[1])):
        rows.append([name, f"{time_:.3f} s", str(kind[0].prompt_tokens), str(kind[0].cached_tokens)])
    print("\n".join(aligned(rows)))
    print(
        f"{seconds[0] / seconds[1]:.1f} times sooner; {sum(states) / 1e6:.0f} MB on disk; greedy texts "
        f"{'equal' if {each.text for each in (*plain, *saved)} == {plain[0].text} else 'differ'}"
    )
    print(f"{machine()}; other programs used {others.cores:.1f} cores in the meantime")


if __name__ == "__main__":
    main()
