"""The vocabulary of generation that all layers share: sampling parameters and deltas. Computes nothing."""

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
    """The structure that an answer must follow: a JSON schema (`text`), a regular expression that it matches as a
    whole, one of several texts (`text` is a JSON list of them), a grammar (llguidance's dialect of Lark, or GBNF), or
    `rules` made by ggserve."""

    kind: GrammarKind
    text: str
    source: str | None = field(default=None, compare=False)  # the request's field that asks for it
    rules: Any = None  # of `ggserve.grammar.rules`, in place of a text


def schema_grammar(schema: Mapping[str, Any], source: str | None = None) -> Grammar:
    """Return the grammar of a request's JSON schema. Raises InvalidRequest if the schema cannot be written as JSON."""
    try:
        return Grammar("json_schema", orjson.dumps(schema).decode(), source)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"No answer can be held to the JSON schema: {error}", source) from error


# Parameters whose defaults a model's file, `models.toml` or the server's settings can change.
SAMPLING_DEFAULTS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
# The order of samplers: vLLM's, in which top_p and min_p see the distribution at the temperature. llama.cpp's order
# puts the temperature last.
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
    """The number of answers, and the sampling of their tokens; the same for all engines.

    `logit_bias` and tokens that must not occur are applied first, then `samplers` in their order; Mirostat replaces all
    of them but the temperature. Each sampler is llama.cpp's of that name. `repetition_penalty` divides or multiplies
    the logits of every token in prompt and answer (Keskar et al. 2019, arXiv:1909.05858); `presence_penalty` and
    `frequency_penalty` count the tokens sampled so far (OpenAI's definition). With `repeat_last_n` all three count the
    last tokens of prompt and answer (llama.cpp's definition).
    """

    max_tokens: int | None = None  # None: up to the end of the context
    min_tokens: int = 0  # before this many tokens, no end token may occur, and stop strings are ignored
    temperature: float = 0.8  # 0: greedy
    dynatemp_range: float = 0.0  # the temperature's range around its value, by entropy; 0: off
    dynatemp_exponent: float = 1.0
    top_k: int = 40  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.0  # 0: off
    typical_p: float = 1.0  # 1: off
    top_n_sigma: float = 0.0  # 0: off
    xtc_probability: float = 0.0  # 0: off
    xtc_threshold: float = 0.1  # above 0.5: off
    min_keep: int = 0  # minimum of tokens that top_p, min_p, typical_p and XTC keep
    repetition_penalty: float = 1.0  # 1: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int | None = None  # number of tokens that the penalties count; -1: all, 0: off
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75  # below 1: off
    dry_allowed_length: int = 2  # tokens
    dry_penalty_last_n: int = -1  # number of tokens; -1: all, 0: off
    dry_sequence_breakers: tuple[str, ...] = DRY_BREAKERS
    mirostat: Literal[0, 1, 2] = 0  # 0: off
    mirostat_tau: float = 5.0  # bits
    mirostat_eta: float = 0.1
    samplers: tuple[SamplerName, ...] = SAMPLERS
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    text_bias: Mapping[str, float] = field(default_factory=dict)  # like `logit_bias`, for each token of a text
    allowed_token_ids: frozenset[int] | None = None  # no other token may occur
    seed: int | None = None  # None: a random one
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()  # each ends the answer
    # include the stop string, or the token of `stop_token_ids`, that ended the answer in its text
    include_stop: bool = False
    banned_strings: tuple[str, ...] = ()  # texts that the answer must not contain, in any case
    bad_words: tuple[str, ...] = ()  # the same, case-sensitive
    skip_special: bool = True  # leave control tokens out of the text
    ignore_eos: bool = False
    grammar: Grammar | None = None  # the structure that the answer must follow
    # thinking budget of a chat in tokens, after which the thought is closed; None: no limit
    thinking_budget: int | None = None
    continues: bool = False  # the prompt ends with the beginning of this answer, which waits for no other request
    cache_prompt: bool = True  # reuse what is already evaluated of the prompt: fast, but it rounds differently
    truncate_prompt: int | None = None  # keep only this many of the prompt's last tokens
    confidence: ConfidenceField | None = (
        None  # report how sure the model was: of a choice, or of each value of a JSON schema's answer
    )
    n: int = 1  # number of answers to the prompt, which is evaluated once; answer i is sampled with `seed` + i
    # number of likeliest tokens to report with each token and its log-probability; None: no log-probabilities
    logprobs: int | None = None
    sampled_probabilities: bool = False  # report `logprobs` after all samplers
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    progress: PromptProgress | None = field(default=None, compare=False)  # tells how far the prompt is
    # scales of the loaded LoRA adapters by number, 0 for those that it leaves out; None: as loaded
    lora: Mapping[int, float] | None = None
    given: frozenset[str] | None = None  # fields that the request sets; None: all of them

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SamplingParams":
        """Return the parameters of a request that sets those that are not None; the model's defaults apply to the
        others."""
        some = {name: value for name, value in given.items() if value is not None}
        return cls(**some, given=frozenset(some))

    def over(self, defaults: Mapping[str, Any]) -> "SamplingParams":
        """Return the parameters with a model's defaults for what the request does not set."""
        if self.given is None:
            return self
        return replace(self, **{name: value for name, value in defaults.items() if name not in self.given})

    def kept(self, prompt: Sequence[int]) -> Sequence[int]:
        """Return the prompt without what `truncate_prompt` cuts off."""
        return prompt if self.truncate_prompt is None else prompt[max(0, len(prompt) - self.truncate_prompt) :]

    @property
    def named_tokens(self) -> tuple[tuple[str, Iterable[int]], ...]:
        """Return the token ids that the parameters name, by field."""
        return (
            ("logit_bias", self.logit_bias),
            ("stop_token_ids", self.stop_token_ids),
            ("allowed_token_ids", self.allowed_token_ids or ()),
        )

    @property
    def bans(self) -> str | None:
        """Return the name of the field that bans texts, or None."""
        return "banned_strings" if self.banned_strings else "bad_words" if self.bad_words else None

    @property
    def watches_tokens(self) -> bool:
        """Return whether each token must be examined as it arrives."""
        return bool(self.bans or self.stop_token_ids or self.min_tokens)

    def check(self) -> None:
        """Raise InvalidRequest if the parameters contradict each other."""
        if self.bans and self.grammar is not None:
            message = f"{self.bans} cannot be combined with structured output or tools: leave one of them out."
            raise InvalidRequest(message, self.bans)

    @property
    def repeats_cost(self) -> bool:
        """Return whether DRY has an effect."""
        return self.dry_multiplier != 0 and self.dry_base >= 1 and self.dry_penalty_last_n != 0

    @property
    def active_samplers(self) -> tuple[SamplerName, ...]:
        """Return the samplers that have an effect, in their order."""
        if self.mirostat:
            return ("temperature",)
        penalizes = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        active: dict[SamplerName, bool] = {
            "penalties": penalizes and self.repeat_last_n != 0,
            "dry": self.repeats_cost,
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
    """A prompt with images: its text, with the engine's marker for each image, and the images in base64."""

    text: str
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token and its probability according to the model: before temperature, penalties, bias and grammar."""

    id: int
    bytes: bytes  # the bytes that it adds to the text; for a control token, which adds none, its spelling in the file
    logprob: float | None  # natural logarithm; None: nothing comes before it
    top: tuple["ScoredToken", ...] = ()  # the likeliest tokens in its place, as many as requested, the likeliest first
    control: bool = False


@dataclass(frozen=True, slots=True)
class Citation:
    """A quotation and its place in the document."""

    document: int  # the document's index
    title: str | None  # the document's title
    start: int  # in characters of the document
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
    reasoning: str = ""  # the model's thought, if the engine separates it
    tool_calls: tuple[ToolCallDelta, ...] = ()
    stop_sequence: str | None = None  # on the last delta: the stop string that ended the answer
    stop_token: int | None = None  # on the last delta: the token of `stop_token_ids` that ended the answer
    index: int = 0  # the answer that this piece belongs to, of the `SamplingParams.n` answers
    tokens: tuple[ScoredToken, ...] = ()  # the tokens that begin in this piece, and a token that ends the answer
    accepted_tokens: int = 0  # speculative decoding: the accepted tokens, which are part of the answer
    rejected_tokens: int = 0  # and the rejected ones
    quotation: int | None = None  # number of the quotation that the text belongs to, in an answer with citations
    citation: Citation | None = None  # on the quotation's last delta, which has no text
    prompt: tuple[ScoredToken, ...] = ()  # on the first delta of all, if `prompt_logprobs` asks for it
    confidence: Mapping[str, Any] | None = None  # on an answer's last delta, on request: further fields of the response
    prompt_ids: tuple[int, ...] = ()  # on the first delta of all, if the engine received token ids
    cache_miss: CacheMiss | None = None  # why tokens of the prompt were evaluated again, if many were


@dataclass(frozen=True, slots=True)
class Scores:
    """The log-probabilities of given continuations of a prompt, before temperature, penalties, bias and grammar."""

    logprobs: tuple[tuple[float, ...], ...]  # by continuation: the log-probability of each token given those before it
    prompt_tokens: int
    cached_tokens: int  # prompt tokens that were already in the KV cache


@dataclass(frozen=True, slots=True)
class Embedding:
    """The meaning of a text as a vector of length 1."""

    vector: NDArray[np.float32]  # [embedding length]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """The relevance of documents to a query."""

    scores: tuple[float, ...]  # by document; the model's own scores, higher is better
    prompt_tokens: int


class Occupancy(Protocol):
    """The load of an engine."""

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
        """Return whether a new request would be turned away."""
        ...


@dataclass(frozen=True)
class File:
    """Another file, for the model to refer to."""

    name: str
    text: str


def check_tokens(tokens: Iterable[int], vocab_size: int, field: str | None = None) -> None:
    """Raises InvalidToken for an id that is outside of the vocabulary, in that field of the request."""
    for token in (min(tokens, default=0), max(tokens, default=0)):
        if not 0 <= token < vocab_size:
            raise InvalidToken(token, vocab_size, field)
