"""Labels that a model may answer with, and the division of its probability between them.

The probability of a label is that of the answers whose tokens begin with it, in any of its spellings. Labels may have
any length.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggserve.errors import InvalidRequest
from ggserve.generation import Scores
from ggserve.model.load import LoadedModel

_MOST_TOKENS = 256  # of a label
_LITTLE = 0.5  # of the probability; less on the labels gives a warning


@dataclass(frozen=True)
class Option:
    """One of the answers to a question, and its description for the model."""

    label: str  # the text that the model writes to give it
    description: str | None = None
    spellings: tuple[str, ...] = ()  # other labels


@dataclass(frozen=True)
class Decision:
    """The probability of each option, with the sum 1, and the part of the model's probability that fell on the
    labels."""

    probabilities: tuple[float, ...]
    label_mass: float
    prompt_tokens: int
    cached_tokens: int

    @property
    def best(self) -> int:
        """The index of the likeliest option."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """The distance of the likeliest option from a guess: 0 if all are equally likely, 1 if one is certain."""
        count = len(self.probabilities)
        return 1.0 if count == 1 else max(0.0, (max(self.probabilities) - 1 / count) / (1 - 1 / count))

    @property
    def score(self) -> float:
        """The mean index of the options, weighted by their probabilities."""
        return sum(index * probability for index, probability in enumerate(self.probabilities))

    @property
    def warning(self) -> str | None:
        """A warning about an answer that the model would rather not give, or None."""
        if self.label_mass >= _LITTLE:
            return None
        return (
            f"Only {self.label_mass:.2g} of the model's probability is on the options: it would rather answer "
            "something else. Describe the options, or use a model that follows instructions better."
        )


def spellings(loaded: LoadedModel, options: Sequence[Option], source: str) -> list[list[tuple[int, ...]]]:
    """Return the tokens of each spelling of each option's label, with and without a space. Raises InvalidRequest."""
    codec = loaded.codec
    owners: dict[tuple[int, ...], int] = {}
    for index, option in enumerate(options):
        for text in (option.label, *option.spellings):
            for spelling in (text, f" {text}"):
                tokens = tuple(codec.encode_middle(spelling))
                if b"".join(codec.pieces(tokens)).lstrip() != text.encode().lstrip():
                    raise InvalidRequest(f"The model's tokenizer has no tokens for the option {text!r}.", source)
                if len(tokens) > _MOST_TOKENS:
                    message = f"The option {text[:50]!r}... has {len(tokens)} tokens; the limit is {_MOST_TOKENS}."
                    raise InvalidRequest(message, source)
                if owners.setdefault(tokens, index) != index:
                    other = options[owners[tokens]].label
                    raise InvalidRequest(f"The options {other!r} and {text!r} have the same tokens.", source)
    return [[tokens for tokens, owner in owners.items() if owner == index] for index in range(len(options))]


def decision(labels: Sequence[Sequence[tuple[int, ...]]], scores: Scores) -> Decision:
    """Return the decision. The probability of a spelling is that of its tokens, minus that of longer spellings that
    begin with them."""
    paths = [path for spellings in labels for path in spellings]
    logprobs = [sum(of_path) for of_path in scores.logprobs]
    peak = max(logprobs)
    masses = {path: math.exp(logprob - peak) for path, logprob in zip(paths, logprobs, strict=True)}
    own = dict(masses)
    for path, mass in masses.items():
        for length in range(len(path) - 1, 0, -1):
            if path[:length] in own:
                own[path[:length]] -= mass
                break
    sums = [sum(max(own[path], 0.0) for path in spellings) for spellings in labels]
    total = sum(sums)
    mass = min(total * math.exp(peak), 1.0)
    return Decision(tuple(one / total for one in sums), mass, scores.prompt_tokens, scores.cached_tokens)


async def choose(loaded: LoadedModel, prompt: Sequence[int], choices: Sequence[str], source: str) -> Decision:
    """Return the decision between texts that may follow a prompt. Raises InvalidRequest, and what `Engine.score`
    raises."""
    labels = spellings(loaded, [Option(choice) for choice in choices], source)
    return decision(labels, await loaded.engine.score(prompt, [path for paths in labels for path in paths]))


def choice_probabilities(choices: Sequence[str], found: Decision) -> Mapping[str, Any]:
    """Return a decision between texts, as a field of the response."""
    return {
        "probabilities": dict(zip(choices, found.probabilities, strict=True)),
        "confidence": found.confidence,
        "label_mass": found.label_mass,
        **({"warning": found.warning} if found.warning else {}),
    }
