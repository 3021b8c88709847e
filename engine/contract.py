"""What every engine promises: options at the start, parameters in, deltas out. Engines differ in how, not in what."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "tool_calls"]
GrammarKind = Literal["json_schema", "regex", "choice", "lark", "gbnf", "calls"]
Speculation = Literal["off", "ngram-mod"]
CacheType = Literal["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
Feature = Literal["generation", "embeddings", "rerank", "images"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What a user may set and an engine takes as it is."""

    gpu_layers: int = 0
    queue_size: int = 64  # requests that may wait for a slot
    speculate: Speculation = "off"  # how llama.cpp guesses tokens ahead of the model; what it guesses is checked
    draft_model: Path | None = None  # a small model of the same vocabulary, which guesses too
    prompt_cache: int = 1024  # MiB of main memory for what llama.cpp's slots held before
    kv_cache_type: CacheType = "f16"  # of llama.cpp's keys and values
    flash_attention: Literal["auto", "on", "off"] = "auto"  # llama.cpp's
    mmproj_path: Path | None = None  # a GGUF file of what turns images into embeddings, for llama.cpp
    lora_path: Path | None = None  # a GGUF file of a LoRA adapter, for llama.cpp
    lora_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Tuning):
    """How an engine shall run a file."""

    context_length: int  # tokens of one slot, prompt and answer together
    threads: int = 1
    parallel: int = 1  # slots: answers at the same time


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer is held to: JSON of a schema (`text` is the schema), a regular expression that it fits as a whole,
    one of several texts (`text` is a JSON list of them), or a grammar: llguidance's dialect of Lark, or GBNF. `calls`
    is Lark of our own making, with nothing of a user's that was not checked."""

    kind: GrammarKind
    text: str
    source: str | None = field(default=None, compare=False)  # the field of the request that it comes from


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


class Engine(Protocol):
    """Token ids to deltas."""

    name: str
    context_length: int  # tokens, prompt and answer together
    features: frozenset[Feature]

    @property
    def pool(self) -> Occupancy:
        """Its slots, and the queue before them."""
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
        """Ends every generation and frees the model; a second call does nothing."""
        ...


class NativeChat(Protocol):
    """What an engine may offer besides: chats by its own template engine and parsers."""

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams,
        tools: Tools | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """The assistant's answer, tool calls and thoughts told apart. `template_arguments` are variables of the chat
        template, as `enable_thinking`. Raises as `Engine.generate`."""
        ...

    def count_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Tools | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> int:
        """Tokens of the prompt that `chat` makes of the same messages. Blocks for a few milliseconds."""
        ...


class Reranker(Protocol):
    """What an engine may offer besides: the relevance of documents, which needs Feature "rerank"."""

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        """How well each document answers the query. Raises as `Engine.generate`."""
        ...
