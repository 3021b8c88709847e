"""Answers with citations of random models, about parts of real documents: `python -m tests.faults.citations --count
1000`. Prints the number of quotations, and each one that is not in its document, word for word."""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from ggserve.chat.citations import with_citations
from ggserve.errors import GenerationError
from ggserve.generation import SamplingParams
from ggserve.grammar.citations import citation_grammar, marks_for
from ggserve.messages import Document
from ggserve.model.gguf_model import GGUFModel
from tests.conftest import FAMILY_FILES, ROOT
from tests.engines.tiny_models import write_tiny_model

SIZE = 20_000  # bytes of all documents
TOGETHER = 10  # answers about the same documents, whose grammar is compiled once
TOKENS = 60  # of an answer
FAMILIES = ("llama", "falcon", "starcoder", "gptj", "mpt")
ARCHITECTURES = ("qwen2", "llama")
LIKED, TEMPERATURE = 100.0, 20.0  # "<q" begins a quotation; random models are always sure


@dataclass
class Outcome:
    """The results of the answers."""

    answers: int = 0
    quotations: int = 0
    characters: int = 0  # of all quotations
    seconds: float = 0.0
    bad: list[str] = field(default_factory=list)  # a line for each mismatch

    def __str__(self) -> str:
        found = f"{self.quotations} quotations of {self.characters} characters in {self.answers} answers"
        return "\n".join([f"{found} in {self.seconds:.0f} s, {len(self.bad)} of them wrong", *self.bad])


def some_documents(dice: random.Random) -> list[Document]:
    """One to three documents of 20 kB together: parts of this project's pages."""
    pages = [page.read_text("utf-8") for page in (*sorted(ROOT.glob("docs/*.md")), ROOT / "README.ru.md")]
    count = dice.randint(1, 3)
    documents = []
    for page in dice.sample([page for page in pages if len(page.encode()) > SIZE // count], count):
        start = dice.randrange(len(page) - SIZE // count // 2)
        part = page[start : start + SIZE // count].encode()[: SIZE // count]
        documents.append(Document(part.decode(errors="ignore")))
    return documents


@contextmanager
def random_models(engine: Literal["ctransformers", "llama.cpp"], folder: Path) -> Iterator[list[GGUFModel]]:
    """Models with random weights that the engine runs."""
    models = []
    try:
        if engine == "llama.cpp":
            for architecture in ARCHITECTURES:
                path = write_tiny_model(folder, architecture)
                models.append(GGUFModel(path, engine=engine, parallel=1, threads=1, context_length=256))
        else:
            for name in FAMILIES:
                family = json.loads((FAMILY_FILES / f"{name}.json").read_text("utf-8"))["family"]
                path = FAMILY_FILES / f"{name}.f32.bin"
                models.append(GGUFModel(path, engine=engine, model_type=family, parallel=1, threads=1))
        yield models
    finally:
        for model in models:
            model.close()


async def cite(model: GGUFModel, documents: list[Document], seed: int, outcome: Outcome) -> None:
    """Some answers about the documents; each quotation is looked up in them."""
    texts = [document.text for document in documents]
    marks = marks_for(texts)
    liked = {model.tokenize(text, add_special=False)[-1]: LIKED for text in "<q"}
    params = SamplingParams(
        max_tokens=TOKENS,
        temperature=TEMPERATURE,
        seed=seed,
        n=TOGETHER,
        grammar=citation_grammar(texts, marks, "documents"),
        logit_bias=liked,
    )
    quoted: dict[tuple[int, int], str] = {}
    try:
        async for delta in with_citations(model.complete("The", params), documents, marks):
            if delta.quotation is not None and delta.text:
                place = (delta.index, delta.quotation)
                quoted[place] = quoted.get(place, "") + delta.text
            if (citation := delta.citation) is None:
                continue
            outcome.quotations += 1
            outcome.characters += len(citation.text)
            shown = quoted.get((delta.index, delta.quotation or 0))
            if not texts[citation.document][citation.start : citation.end] == citation.text == shown:
                outcome.bad.append(f"seed {seed}: {shown!r} is cited as {citation}")
    except GenerationError as error:
        outcome.bad.append(f"seed {seed}: {error}")
    outcome.answers += TOGETHER


def run(engine: Literal["ctransformers", "llama.cpp"], first: int, count: int, seed: int) -> Outcome:
    """Make this many answers, in requests of `TOGETHER`."""
    outcome, started = Outcome(), time.monotonic()
    with TemporaryDirectory() as folder, random_models(engine, Path(folder)) as models:
        for number in range(first, first + count // TOGETHER):
            dice = random.Random(seed << 32 | number)
            asyncio.run(cite(models[number % len(models)], some_documents(dice), number, outcome))
    outcome.seconds = time.monotonic() - started
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["ctransformers", "llama.cpp"], default="ctransformers")
    parser.add_argument("--count", type=int, default=1000, help="answers")
    parser.add_argument("--first", type=int, default=0, help="the number of the first request")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    outcome = run(arguments.engine, arguments.first, arguments.count, arguments.seed)
    print(outcome)
    return bool(outcome.bad)


if __name__ == "__main__":
    sys.exit(main())
