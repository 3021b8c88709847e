"""The vocabulary of generation that all layers share: parameters in, deltas out. Computes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from ggserve.errors import InvalidRequest
from ggserve.messages import ToolCallDelta

FinishReason = Literal["stop", "length", "tool_calls"]
GrammarKind = Literal["json_schema", "regex", "choice", "lark", "gbnf", "rules"]
Feature = Literal["generation", "embeddings", "rerank", "images", "scores"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer is held to: JSON of a schema (`text` is the schema), a regular expression that it fits as a whole,
    one of several texts (`text` is a JSON list of them), a grammar (llguidance's dialect of Lark, or GBNF), or
    `rules` of our own making."""

    kind: GrammarKind
    text: str
    source: str | None = field(default=None, compare=False)  # the field of the request that it comes from
    rules: Any = None  # of `ggserve.grammar.rules`, in place of a text


def schema_grammar(schema: Mapping[str, Any], source: str | None = None) -> Grammar:
    """JSON of a schema, from a request's field. Raises InvalidRequest where the schema cannot be written as JSON."""
    try:
        return Grammar("json_schema", orjson.dumps(schema).decode(), source)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"No answer can be held to the JSON schema: {error}", source) from error


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How many answers, and how to choose their tokens; one meaning for all engines.

    Order: penalties and bias, temperature, top_k, top_p, min_p, draw. `presence_penalty` and
    `frequency_penalty` count the tokens sampled so far (OpenAI's definition), `repetition_penalty` divides or
    multiplies the logits of every token in prompt and answer (Keskar et al. 2019, arXiv:1909.05858).
    """

    max_tokens: int | None = None  # None: up to the end of the context
    temperature: float = 0.8  # 0: greedy
    top_k: int = 40  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.0  # 0: off
    repetition_penalty: float = 1.0  # 1: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None: a random one
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    grammar: Grammar | None = None  # what the answer is held to
    cache_prompt: bool = True  # what is evaluated of the prompt already is not again: quick, but it rounds otherwise
    n: int = 1  # answers to the same prompt, which is evaluated once; number i is sampled with `seed` + i
    logprobs: int | None = None  # each token comes with its log-probability and as many likeliest ones; None: without
    prompt_logprobs: bool = False  # the prompt's tokens too; needs `logprobs`


@dataclass(frozen=True, slots=True)
class MediaPrompt:
    """A prompt with images: its text, in which the engine's marker stands for each, and their data in base64."""

    text: str
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, and how likely the model took it to be: before temperature, penalties, bias and grammar."""

    id: int
    bytes: bytes  # what it adds to the text; of a control token, which adds nothing, how the file spells it
    logprob: float | None  # natural logarithm; None: nothing comes before it
    top: tuple["ScoredToken", ...] = ()  # the likeliest in its place, as many as were asked for, the likeliest first
    control: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. Counts are totals of that answer, up to and including this piece."""

    text: str
    prompt_tokens: int
    cached_tokens: int  # prompt tokens that were already in the KV cache
    completion_tokens: int
    finish_reason: FinishReason | None = None  # set on the answer's last delta
    reasoning: str = ""  # what the model thinks before it answers, where the engine tells it apart
    tool_calls: tuple[ToolCallDelta, ...] = ()
    stop_sequence: str | None = None  # on the last delta: which of `SamplingParams.stop` was met
    index: int = 0  # which of `SamplingParams.n` answers goes on
    tokens: tuple[ScoredToken, ...] = ()  # those that begin in this piece, and a token that ends the answer
    accepted_tokens: int = 0  # of those that were guessed ahead, the right ones, which are part of the answer
    rejected_tokens: int = 0  # and the wrong ones
    prompt: tuple[ScoredToken, ...] = ()  # on the first delta of all, where `prompt_logprobs` asks for it


@dataclass(frozen=True, slots=True)
class Scores:
    """The log-probabilities of given continuations of a prompt, before temperature, penalties, bias and grammar."""

    logprobs: tuple[tuple[float, ...], ...]  # by continuation, of each token after those before it
    prompt_tokens: int
    cached_tokens: int  # prompt tokens that were already in the KV cache


@dataclass(frozen=True, slots=True)
class Embedding:
    """The meaning of a text as a vector of length 1."""

    vector: NDArray[np.float32]  # [embedding length]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well documents answer a query."""

    scores: tuple[float, ...]  # by document; the model's own, the higher the better
    prompt_tokens: int


class Occupancy(Protocol):
    """How busy an engine is."""

    capacity: int  # requests that may be in slots and in the queue

    @property
    def idle(self) -> int:
        """The number of slots without a request."""
        ...

    @property
    def queued(self) -> int:
        """The number of requests that wait for a slot."""
        ...

    @property
    def full(self) -> bool:
        """Whether a request that comes now is turned away."""
        ...


@dataclass(frozen=True)
class File:
    """Another file, which tells the model what it could refer to."""

    name: str
    text: str
