"""Decisions: typed questions about a state, answered with probabilities and without text.

The chat with a question in its last message is evaluated up to where the answer begins. The probability of a label is
that of the answers whose tokens begin with it, in any of its spellings. Labels may be of any length.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ggserve.errors import InvalidRequest
from ggserve.generation import Scores
from ggserve.model.chats import Chat, Chats
from ggserve.model.load import LoadedModel

_NO_THINKING = {"enable_thinking": False}
_MOST_TOKENS = 256  # of a label
_LITTLE = 0.5  # of the probability; less on the labels is worth a warning

# The last line of a question.
_ASKS = {
    "choice": "Answer with one of these options only, word for word.",
    "predicate": "Answer with yes or no only.",
    "score": "Answer with the number of one level only.",
}


@dataclass(frozen=True)
class Option:
    """One of the answers to a question, and what the model is told of it."""

    label: str  # what the model writes to give it
    description: str | None = None
    spellings: tuple[str, ...] = ()  # others


@dataclass(frozen=True)
class Question:
    """A question with the labels of its answers. `source` is the field of the request that has the options."""

    kind: Literal["choice", "predicate", "score"]
    instructions: str
    options: tuple[Option, ...]
    source: str

    @property
    def text(self) -> str:
        """The question as the model reads it."""
        lines = [f"Question: {self.instructions}"] if self.instructions else []
        for option in self.options:
            if option.description:
                lines.append(f"- {option.label}: {option.description}")
            elif self.kind != "predicate":
                lines.append(f"- {option.label}")
        return "\n".join([*lines, _ASKS[self.kind]])


@dataclass(frozen=True)
class Decision:
    """The probability of each option, which sum to 1, and how much of the model's probability fell on the labels."""

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
        """How far the likeliest option is above a guess: 0 where all are equally likely, 1 where one is certain."""
        count = len(self.probabilities)
        return 1.0 if count == 1 else max(0.0, (max(self.probabilities) - 1 / count) / (1 - 1 / count))

    @property
    def score(self) -> float:
        """The mean index of the options, weighted by their probabilities."""
        return sum(index * probability for index, probability in enumerate(self.probabilities))

    @property
    def warning(self) -> str | None:
        """What to think of an answer that the model would rather not give."""
        if self.label_mass >= _LITTLE:
            return None
        return (
            f"Only {self.label_mass:.2g} of the model's probability falls on the options: it would rather answer "
            "something else. Describe the options, or use a model that follows instructions better."
        )


class Decider:
    """Answers the questions about one state, one after the other: each finds the state in the prompt cache."""

    def __init__(self, loaded: LoadedModel, chats: Chats) -> None:
        self._loaded = loaded
        self._chats = chats

    async def decide(self, messages: list[dict[str, Any]], questions: Sequence[Question]) -> list[Decision]:
        """The decisions on a chat that tells the state. Raises InvalidRequest, and as `Engine.score`."""
        spelled = [self._spellings(question.options, question.source) for question in questions]
        return [
            await self._decide(with_question(messages, question.text), labels)
            for question, labels in zip(questions, spelled, strict=True)
        ]

    async def choose(self, prompt: Sequence[int], choices: Sequence[str], source: str) -> Decision:
        """The decision between texts that may follow a prompt. Raises as `decide`."""
        labels = self._spellings([Option(choice) for choice in choices], source)
        paths = [path for spellings in labels for path in spellings]
        return _decision(labels, await self._loaded.engine.score(prompt, paths))

    async def _decide(self, messages: list[dict[str, Any]], labels: Sequence[Sequence[tuple[int, ...]]]) -> Decision:
        paths = [path for spellings in labels for path in spellings]
        chat = Chat(messages, template_arguments=_NO_THINKING)
        return _decision(labels, await self._chats.score(chat, paths))

    def _spellings(self, options: Sequence[Option], source: str) -> list[list[tuple[int, ...]]]:
        """By option, the tokens of each spelling of its label, with and without a space before it."""
        codec = self._loaded.codec
        owners: dict[tuple[int, ...], int] = {}
        for index, option in enumerate(options):
            for text in (option.label, *option.spellings):
                for spelling in (text, f" {text}"):
                    tokens = tuple(codec.encode_middle(spelling))
                    if b"".join(codec.pieces(tokens)).lstrip() != text.encode().lstrip():
                        raise InvalidRequest(f"The model's tokenizer has no tokens for the option {text!r}.", source)
                    if len(tokens) > _MOST_TOKENS:
                        message = f"The option {text[:50]!r}... has {len(tokens)} tokens, and {_MOST_TOKENS} may be."
                        raise InvalidRequest(message, source)
                    if owners.setdefault(tokens, index) != index:
                        other = options[owners[tokens]].label
                        raise InvalidRequest(f"The options {other!r} and {text!r} are equal for the model.", source)
        return [[tokens for tokens, owner in owners.items() if owner == index] for index in range(len(options))]


def with_question(messages: list[dict[str, Any]], question: str) -> list[dict[str, Any]]:
    """The chat with a question at its end: as a part of the user's last message, or as one of its own."""
    if not messages or messages[-1]["role"] != "user":
        return [*messages, {"role": "user", "content": question}]
    content = messages[-1]["content"]
    if isinstance(content, str):
        content = f"{content}\n\n{question}" if content else question
    else:
        content = [*content, {"type": "text", "text": question}]
    return [*messages[:-1], {**messages[-1], "content": content}]


def _decision(labels: Sequence[Sequence[tuple[int, ...]]], scores: Scores) -> Decision:
    """The probability of a spelling is that of its tokens, less that of longer spellings which begin with them."""
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


def choice_probabilities(choices: Sequence[str], decision: Decision) -> Mapping[str, Any]:
    """A decision between texts, as the field of a response."""
    return {
        "probabilities": dict(zip(choices, decision.probabilities, strict=True)),
        "confidence": decision.confidence,
        "label_mass": decision.label_mass,
        **({"warning": decision.warning} if decision.warning else {}),
    }
