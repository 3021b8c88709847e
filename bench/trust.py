"""`python -m bench.trust [MODEL]`: the cost of answers that can be checked.

For each engine that runs the file: 100 labels of 3 to 8 tokens after a prompt of 1,000 tokens, as multiples of the
prompt alone, where labels begin alike in groups of ten and where no two do; field confidence, as a multiple of the same
answer without; and answers with citations of a document of 20 kB, whose quotations are all looked up in it. For the
grammar alone: the time to compile documents, and of masks.
"""

import argparse
import asyncio
import random
import statistics
import time
from pathlib import Path
from typing import Any

from bench.report import aligned
from ggserve.engines.choice import EngineName
from ggserve.errors import EngineError, ModelFileError
from ggserve.generation import Citation, SamplingParams, schema_grammar
from ggserve.grammar.citations import citation_grammar, marks_for
from ggserve.grammar.matcher import Grammars, byte_vocabulary
from ggserve.hub.default import default_model, packaged_model
from ggserve.machine import usable_cores
from ggserve.messages import Document
from ggserve.model.gguf_model import GGUFModel

ROOT = Path(__file__).parents[1]
CONTEXT = 2048
PROMPT, LABELS = 1000, 100  # tokens; labels of 3 to 8 tokens
RUNS = 3
ANSWER = 40  # tokens
TOGETHER = 10  # answers of one request, whose grammar is compiled once
BOOSTED = 6.0  # added to the logits of the opening mark, so that a model which knows nothing of quotations begins some
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{f"flag{number}": {"type": "boolean"} for number in range(4)},
        **{f"kind{number}": {"enum": ["billing", "shipping", "technical", None]} for number in range(4)},
    },
}
SCHEMA["required"] = list(SCHEMA["properties"])
QUESTION = [{"role": "user", "content": "Hi"}]


def text_of(size: int) -> str:
    """Return real text of about this many bytes: the documentation, repeated as needed."""
    pages = "\n".join(page.read_text("utf-8") for page in sorted(ROOT.glob("docs/*.md")))
    return (pages * (size // len(pages) + 1))[:size]


def labels_of(words: list[int], group: int) -> list[list[int]]:
    """Return labels of 3 to 8 tokens, as many as `group` of which differ in their last token only."""
    dice = random.Random(1)
    labels = []
    for _ in range(LABELS // group):
        beginning = [dice.choice(words) for _ in range(dice.randint(2, 7))]
        labels += [[*beginning, token] for token in dice.sample(sorted(set(words)), group)]
    return labels


async def decisions(model: GGUFModel, group: int) -> float:
    """Return the time of a prompt with labels, as a multiple of the prompt alone; the median of a few runs."""
    words = model.tokenize(text_of(20_000), add_special=False)
    labels = labels_of(words, group)
    await model.engine.score(words[:2], labels[:1])  # prepares what the first one waits for
    ratios = []
    for run in range(RUNS):
        seconds = []
        for kind, continuations in enumerate(([words[:1]], labels)):
            start = 100 * run + group  # no two prompts begin alike, or the prompt cache would answer
            prompt = [words[2 * start + kind], *words[start : start + PROMPT - 1]]
            started = time.perf_counter()
            await model.engine.score(prompt, continuations)
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios)


async def confidence(model: GGUFModel) -> float:
    """Return the time of a structured answer with field confidence, as a multiple of the same without."""
    params = SamplingParams(max_tokens=200, temperature=0, grammar=schema_grammar(SCHEMA))
    seconds: list[list[float]] = [[], []]
    for _ in range(RUNS):
        for kind, field in enumerate((None, "field_confidence")):
            started = time.perf_counter()
            wanted = SamplingParams(max_tokens=200, temperature=0, grammar=params.grammar, confidence=field)  # type: ignore[arg-type]
            async for _ in model.complete("Answer in JSON:", wanted):
                pass
            seconds[kind].append(time.perf_counter() - started)
    return statistics.median(seconds[1]) / statistics.median(seconds[0])


async def citations(model: GGUFModel, answers: int) -> tuple[int, int]:
    """Return the number of quotations in these answers, and how many of them are not at the stated place."""
    document = Document(text_of(20_000))
    liked = dict.fromkeys(model.tokenize("<quote>", add_special=False), BOOSTED)
    at_once = asyncio.Semaphore(model.parallel)

    async def cited(seed: int) -> list[Citation]:
        params = SamplingParams(max_tokens=ANSWER, temperature=1.2, seed=seed, logit_bias=liked, n=TOGETHER)
        async with at_once:
            deltas = model.chat(QUESTION, params, documents=[document], shows_documents=True)
            return [delta.citation async for delta in deltas if delta.citation]

    seeds = range(0, answers, TOGETHER)
    found = [citation for some in await asyncio.gather(*map(cited, seeds)) for citation in some]
    return len(found), sum(document.text[one.start : one.end] != one.text for one in found)


def grammar_rows() -> list[list[str]]:
    """Return, by size of the document, the time to compile it, and that of two masks of a quotation."""
    rows = [["document", "compiled", "first mask", "tenth mask"]]
    for size in (20_000, 200_000):
        document = text_of(size)[: size - size // 20]
        grammars, marks = Grammars(byte_vocabulary()), marks_for([document])
        started = time.perf_counter()
        matcher, _ = asyncio.run(grammars.matcher(citation_grammar([document], marks, "documents")))
        compiled = time.perf_counter() - started
        matcher.take_text(marks.open)
        masks = []
        for byte in document[:10].encode():
            started = time.perf_counter()
            matcher.allowed()
            masks.append(time.perf_counter() - started)
            matcher.take([byte])
        rows.append(
            [f"{size // 1000} kB", f"{compiled:.2f} s", f"{1e3 * masks[0]:.1f} ms", f"{1e3 * masks[-1]:.1f} ms"]
        )
        grammars.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="model file (default: the default model of each engine)")
    parser.add_argument("--answers", type=int, default=50, help="number of answers with citations")
    parser.add_argument("--only", choices=["decisions", "confidence", "citations"], help="measure only this")
    arguments = parser.parse_args()
    for line in aligned(grammar_rows()):
        print(line)
    files: list[tuple[EngineName, Path | None]] = [
        ("llama.cpp", packaged_model()),
        ("ctransformers", default_model(ROOT / "models")),
    ]
    for engine, path in files:
        try:
            file = arguments.model or path or ""
            model = GGUFModel(file, engine=engine, context_length=CONTEXT, parallel=2, threads=usable_cores())
        except (ModelFileError, EngineError) as error:
            print(f"{engine}: {error}")
            continue
        if arguments.only in (None, "decisions"):
            for group in (10, 1):
                ratio = asyncio.run(decisions(model, group))
                print(
                    f"{engine}: {LABELS} labels, {group} of which begin alike, after {PROMPT} tokens cost {ratio:.2f} "
                    "times the prompt alone",
                    flush=True,
                )
        if arguments.only in (None, "confidence"):
            print(
                f"{engine}: field confidence costs {asyncio.run(confidence(model)):.2f} times the answer without",
                flush=True,
            )
        if arguments.only in (None, "citations"):
            quotations, wrong = asyncio.run(citations(model, arguments.answers))
            print(f"{engine}: {quotations} quotations in {arguments.answers} answers, {wrong} not in the document")
        model.close()


if __name__ == "__main__":
    main()
