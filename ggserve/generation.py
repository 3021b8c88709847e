"""The vocabulary of generation that all layers share: sampling parameters in, deltas out. Contains no inference
code."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from ggserve.errors import InvalidRequest, InvalidToken
from ggserve.messages import ToolCallDelta
from ggserve.prompt_progress import CacheMiss, PromptProgress

FinishReason = Literal["stop", "length", "tool_calls"]
GrammarKind = Literal["json_schema", "regex", "choice", "lark", "gbnf", "rules", "citations"]
ConfidenceField = Literal["choice_probabilities", "field_confidence"]
SamplerName = Literal["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
Feature = Literal["generation", "embeddings", "rerank", "images", "scores"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """A constraint on an answer (structured output).

    `kind` says how to read it: a JSON schema (`text` is the schema), a regular expression that must match the whole
    answer, a choice of texts (`text` is a JSON list), a grammar (llguidance's dialect of Lark, or GBNF), or rules that
    ggserve builds itself (`rules`).
    """

    kind: GrammarKind
    text: str
    source: str | None = field(default=None, compare=False)  # the request field that it comes from
    rules: Any = None  # from `ggserve.grammar.rules`, instead of a text


def schema_grammar(schema: Mapping[str, Any], source: str | None = None) -> Grammar:
    """Return the grammar for a JSON schema from a request field. Raises InvalidRequest if the schema cannot be written
    as JSON."""
    try:
        return Grammar("json_schema", orjson.dumps(schema).decode(), source)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The JSON schema cannot be used: {error}", source) from error


# The parameters whose defaults can come from the model file, `models.toml` or the server's settings.
SAMPLING_DEFAULTS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
# The default order of samplers is vLLM's: top_p and min_p apply after the temperature. llama.cpp's own default applies
# the temperature last.
SAMPLERS: tuple[SamplerName, ...] = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "temperature",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
)
LLAMA_CPP_SAMPLERS: tuple[SamplerName, ...] = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)
DRY_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters, and the number of answers. Every parameter means the same on all engines.

    `logit_bias` and banned tokens are applied first, then `samplers` in order. Mirostat replaces all samplers except
    the temperature. Each sampler is llama.cpp's sampler of that name. `repetition_penalty` divides or multiplies the
    logits of every token in the prompt and the answer (Keskar et al. 2019, arXiv:1909.05858). `presence_penalty` and
    `frequency_penalty` count the tokens sampled so far (OpenAI's definition). If `repeat_last_n` is set, all three
    penalties count the last tokens of prompt and answer (llama.cpp's definition).
    """

    max_tokens: int | None = None  # None: up to the end of the context
    min_tokens: int = 0  # before this many, end tokens are masked and stop strings are ignored
    temperature: float = 0.8  # 0: greedy
    dynatemp_range: float = 0.0  # the temperature varies with the entropy by up to this much; 0: off
    dynatemp_exponent: float = 1.0
    top_k: int = 40  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.0  # 0: off
    typical_p: float = 1.0  # 1: off
    top_n_sigma: float = 0.0  # 0: off
    xtc_probability: float = 0.0  # 0: off
    xtc_threshold: float = 0.1  # above 0.5: off
    min_keep: int = 0  # least number of tokens that top_p, min_p, typical_p and XTC keep
    repetition_penalty: float = 1.0  # 1: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int | None = None  # number of last tokens that the penalties count; -1: all, 0: penalties off
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75  # below 1: off
    dry_allowed_length: int = 2  # tokens
    dry_penalty_last_n: int = -1  # tokens; -1: all, 0: off
    dry_sequence_breakers: tuple[str, ...] = DRY_BREAKERS
    mirostat: Literal[0, 1, 2] = 0  # 0: off
    mirostat_tau: float = 5.0  # bits
    mirostat_eta: float = 0.1
    samplers: tuple[SamplerName, ...] = SAMPLERS
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    text_bias: Mapping[str, float] = field(default_factory=dict)  # like `logit_bias`, for each token of a text
    allowed_token_ids: frozenset[int] | None = None  # all other tokens are masked
    seed: int | None = None  # None: random
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()  # each ends the answer
    include_stop: bool = False  # the text includes the stop string or stop token that ended it
    banned_strings: tuple[str, ...] = ()  # texts that the answer must not contain, case-insensitive
    bad_words: tuple[str, ...] = ()  # the same, case-sensitive
    skip_special: bool = True  # control tokens are left out of the text
    ignore_eos: bool = False
    grammar: Grammar | None = None  # structured output
    thinking_budget: int | None = None  # maximum tokens of reasoning in a chat; None: no limit
    priority: int = 0  # place in the queue: the lowest first
    continues: bool = False  # the prompt ends with the beginning of this answer, which skips the queue
    cache_prompt: bool = True  # reuse the KV cache of a shared prefix; faster, but it changes rounding
    truncate_prompt: int | None = None  # number of last prompt tokens to keep
    confidence: ConfidenceField | None = None  # return the confidence in a choice, or in each value of a schema's JSON
    n: int = 1  # answers to the prompt, which is evaluated once; answer i is sampled with `seed` + i
    logprobs: int | None = None  # return log-probabilities, with this many most likely tokens; None: off
    sampled_probabilities: bool = False  # `logprobs` describe the distribution after all samplers
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    progress: PromptProgress | None = field(default=None, compare=False)  # tells how far the prompt is
    # scales of the loaded LoRA adapters by number, 0 for those that it leaves out; None: as loaded
    lora: Mapping[int, float] | None = None
    given: frozenset[str] | None = None  # the fields that the request sets; None: all of them

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SamplingParams":
        """Return the parameters of a request. Fields that are None are not set and get the model's defaults."""
        some = {name: value for name, value in given.items() if value is not None}
        return cls(**some, given=frozenset(some))

    def over(self, defaults: Mapping[str, Any]) -> "SamplingParams":
        """Return these parameters with a model's defaults for the fields that the request leaves out."""
        if self.given is None:
            return self
        return replace(self, **{name: value for name, value in defaults.items() if name not in self.given})

    def kept(self, prompt: Sequence[int]) -> Sequence[int]:
        """Return the part of the prompt that `truncate_prompt` keeps."""
        return prompt if self.truncate_prompt is None else prompt[max(0, len(prompt) - self.truncate_prompt) :]

    @property
    def named_tokens(self) -> tuple[tuple[str, Iterable[int]], ...]:
        """The token ids in each field that names tokens."""
        return (
            ("logit_bias", self.logit_bias),
            ("stop_token_ids", self.stop_token_ids),
            ("allowed_token_ids", self.allowed_token_ids or ()),
        )

    @property
    def bans(self) -> str | None:
        """The field that bans texts, or None."""
        return "banned_strings" if self.banned_strings else "bad_words" if self.bad_words else None

    @property
    def watches_tokens(self) -> bool:
        """True if each token must be inspected as it is sampled."""
        return bool(self.bans or self.stop_token_ids or self.min_tokens)

    def check(self) -> None:
        """Check that the parameters can be combined. Raises InvalidRequest."""
        if self.bans and self.grammar is not None:
            message = f"{self.bans} cannot be combined with structured output or tools: leave one of them out."
            raise InvalidRequest(message, self.bans)

    @property
    def uses_dry(self) -> bool:
        """True if DRY has an effect."""
        return self.dry_multiplier != 0 and self.dry_base >= 1 and self.dry_penalty_last_n != 0

    @property
    def active_samplers(self) -> tuple[SamplerName, ...]:
        """The samplers that have an effect, in order."""
        if self.mirostat:
            return ("temperature",)
        penalizes = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        active: dict[SamplerName, bool] = {
            "penalties": penalizes and self.repeat_last_n != 0,
            "dry": self.uses_dry,
            "top_n_sigma": self.top_n_sigma > 0,
            "top_k": self.top_k > 0,
            "typ_p": self.typical_p < 1,
            "top_p": self.top_p < 1,
            "min_p": self.min_p > 0,
            "xtc": self.xtc_probability > 0 and self.xtc_threshold <= 0.5,
            "temperature": self.temperature != 1 or self.dynatemp_range > 0,
        }
        return tuple(name for name in self.samplers if active[name])


@dataclass(frozen=True, slots=True)
class MediaPrompt:
    """A prompt with images: its text, with the engine's marker in place of each image, and the images in base64."""

    text: str
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token and the probability that the model gave it, before temperature, penalties, bias and grammar."""

    id: int
    bytes: bytes  # its text; for a control token, which adds no text, its spelling in the model file
    logprob: float | None  # natural logarithm; None for the first token of a prompt
    top: tuple["ScoredToken", ...] = ()  # the most likely tokens in its place, in descending order
    control: bool = False


@dataclass(frozen=True, slots=True)
class Citation:
    """A quotation and its position in a document."""

    document: int  # index
    title: str | None  # of the document
    start: int  # character offset in the document
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. Counts are totals of the answer, up to and including this piece."""

    text: str
    prompt_tokens: int
    cached_tokens: int  # prompt tokens that were already in the KV cache
    completion_tokens: int
    finish_reason: FinishReason | None = None  # set on the answer's last delta
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    stop_sequence: str | None = None  # on the last delta: the item of `SamplingParams.stop` that ended the answer
    stop_token: int | None = None  # on the last delta: the item of `stop_token_ids` that ended it
    index: int = 0  # of the answer, below `SamplingParams.n`
    tokens: tuple[ScoredToken, ...] = ()  # those that begin in this piece, and the token that ends the answer
    accepted_tokens: int = 0  # draft tokens of speculative decoding that became part of the answer
    rejected_tokens: int = 0  # draft tokens that did not
    quotation: int | None = None  # number of the quotation that the text belongs to, in an answer with citations
    citation: Citation | None = None  # on a quotation's last delta, which has no text
    prompt: tuple[ScoredToken, ...] = ()  # on the request's first delta, if `prompt_logprobs` is set
    confidence: Mapping[str, Any] | None = None  # on an answer's last delta, if requested: fields of the response
    prompt_ids: tuple[int, ...] = ()  # on the request's first delta, if the engine received token ids
    cache_miss: CacheMiss | None = None  # why tokens of the prompt were evaluated again, if many were


@dataclass(frozen=True, slots=True)
class Scores:
    """The log-probabilities of given continuations of a prompt, before temperature, penalties, bias and grammar."""

    logprobs: tuple[tuple[float, ...], ...]  # for each continuation, one per token
    prompt_tokens: int
    cached_tokens: int  # prompt tokens that were already in the KV cache


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of a text, a vector of length 1."""

    vector: NDArray[np.float32]  # [embedding length]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """The relevance of documents to a query."""

    scores: tuple[float, ...]  # for each document, on the model's own scale; higher is better
    prompt_tokens: int


class Queue(Protocol):
    """The number of requests that wait for an engine."""

    capacity: int  # requests that may run and wait

    @property
    def queued(self) -> int:
        """The number of requests that wait."""
        ...

    @property
    def full(self) -> bool:
        """True if the next request would be turned away."""
        ...


class Occupancy(Queue, Protocol):
    """The load of an engine's slots."""

    @property
    def idle(self) -> int:
        """The number of slots without a request."""
        ...


@dataclass(frozen=True)
class File:
    """Another file that gives the model context for infill."""

    name: str
    text: str


def check_tokens(tokens: Iterable[int], vocab_size: int, field: str | None = None) -> None:
    """Check that ids are in the vocabulary. Raises InvalidToken with the request's field."""
    for token in (min(tokens, default=0), max(tokens, default=0)):
        if not 0 <= token < vocab_size:
            raise InvalidToken(token, vocab_size, field)
