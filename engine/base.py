"""What every engine promises: parameters in, deltas out, typed errors. Engines differ in how, not in what."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "tool_calls"]
Feature = Literal["generation", "embeddings", "tools", "json_schema"]


class EngineError(Exception):
    """An engine cannot do what was asked; str() is one line for the user."""


class GenerationError(EngineError):
    """A generation failed inside the engine."""


class ContextOverflow(EngineError):
    """A prompt does not fit the context."""

    def __init__(self, prompt_tokens: int, context_length: int) -> None:
        super().__init__(
            f"This model's maximum context length is {context_length} tokens, and the prompt has "
            f"{prompt_tokens}: shorten it (at least one token must be left for the answer)."
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class InvalidToken(EngineError):
    """A token id outside of the vocabulary."""

    def __init__(self, token: int, vocab_size: int) -> None:
        super().__init__(f"Token id {token} is outside of the vocabulary (0 to {vocab_size - 1}).")


class InvalidRequest(EngineError):
    """The engine refuses what a request asks for."""


class QueueFull(EngineError):
    """As many requests wait as may wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"The server is busy: {waiting} requests are waiting already. Try again in a moment.")


class EngineClosed(EngineError):
    """The engine is shutting down."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens; one meaning for all engines.

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
    json_schema: Mapping[str, Any] | None = None  # the answer is JSON of this schema; needs Feature "json_schema"


@dataclass(frozen=True, slots=True)
class Tools:
    """Functions that the answer of a chat may call."""

    functions: tuple[Mapping[str, Any], ...]  # OpenAI's tool objects
    required: bool = False  # the answer must call one
    parallel: bool = True  # it may call several


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call: `id` and `name` come once, `arguments` is JSON text in pieces."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. Counts are totals up to and including this piece."""

    text: str
    prompt_tokens: int
    cached_tokens: int  # prompt tokens that were already in the KV cache
    completion_tokens: int
    finish_reason: FinishReason | None = None  # set on the last delta
    reasoning: str = ""  # what the model thinks before it answers, where the engine tells it apart
    tool_calls: tuple[ToolCallDelta, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedding:
    """The meaning of a text as a vector of length 1."""

    vector: NDArray[np.float32]  # [embedding length]
    prompt_tokens: int


class Line(Protocol):
    """How busy an engine is."""

    capacity: int  # requests that may be in slots and in line

    @property
    def idle(self) -> int:
        """The number of slots without a request."""
        ...

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a slot."""
        ...

    @property
    def full(self) -> bool:
        """Whether a request that comes now is turned away."""
        ...


class Engine(Protocol):
    """Token ids to deltas."""

    name: str
    context_length: int  # tokens, prompt and answer together
    features: frozenset[Feature]

    @property
    def pool(self) -> Line:
        """Its slots, and the line before them."""
        ...

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Continues `prompt`. Closing the generator frees what it holds at the next step.

        Raises ContextOverflow, InvalidToken, QueueFull or EngineClosed before the first delta, GenerationError
        at any time.
        """
        ...

    async def embed(self, inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        """The embedding of each input, which needs Feature "embeddings". Raises as `generate`."""
        ...

    def close(self) -> None:
        """Ends every generation and frees the model."""
        ...
