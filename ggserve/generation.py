"""The vocabulary of generation that all layers share: parameters in, deltas out. Computes nothing."""

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


# The parameters for which a model's file, `models.toml` and the server's settings may have other defaults.
SAMPLING_DEFAULTS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
# The order of samplers: vLLM's, in which top_p and min_p see the distribution at the temperature. llama.cpp's own order
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
    """How many answers, and how to choose their tokens; one meaning for all engines.

    `logit_bias` and tokens that may not come are applied first, then `samplers` in their order; Mirostat replaces all
    of them but the temperature. Each sampler is llama.cpp's of that name. `repetition_penalty` divides or multiplies
    the logits of every token in prompt and answer (Keskar et al. 2019, arXiv:1909.05858); `presence_penalty` and
    `frequency_penalty` count the tokens sampled so far (OpenAI's definition). With `repeat_last_n` all three look at
    the last tokens of prompt and answer (llama.cpp's definition).
    """

    max_tokens: int | None = None  # None: up to the end of the context
    min_tokens: int = 0  # before this many, no token may end the answer, and no stop string is looked for
    temperature: float = 0.8  # 0: greedy
    dynatemp_range: float = 0.0  # how far the temperature may follow the entropy, up and down; 0: off
    dynatemp_exponent: float = 1.0
    top_k: int = 40  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.0  # 0: off
    typical_p: float = 1.0  # 1: off
    top_n_sigma: float = 0.0  # 0: off
    xtc_probability: float = 0.0  # 0: off
    xtc_threshold: float = 0.1  # above 0.5: off
    min_keep: int = 0  # tokens that top_p, min_p, typical_p and XTC leave at least
    repetition_penalty: float = 1.0  # 1: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int | None = None  # tokens that the penalties look at; -1: all of them, 0: off
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75  # below 1: off
    dry_allowed_length: int = 2  # tokens
    dry_penalty_last_n: int = -1  # tokens; -1: all of them, 0: off
    dry_sequence_breakers: tuple[str, ...] = DRY_BREAKERS
    mirostat: Literal[0, 1, 2] = 0  # 0: off
    mirostat_tau: float = 5.0  # bits
    mirostat_eta: float = 0.1
    samplers: tuple[SamplerName, ...] = SAMPLERS
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    text_bias: Mapping[str, float] = field(default_factory=dict)  # as `logit_bias`, for each token of a text
    allowed_token_ids: frozenset[int] | None = None  # no other token may come
    seed: int | None = None  # None: a random one
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()  # each ends the answer
    include_stop: bool = False  # whether the text has the stop string, or the token of `stop_token_ids`, that ended it
    banned_strings: tuple[str, ...] = ()  # texts that the answer does not contain, in small or capital letters
    bad_words: tuple[str, ...] = ()  # the same, as they are spelled
    skip_special: bool = True  # whether control tokens are left out of the text
    ignore_eos: bool = False
    grammar: Grammar | None = None  # what the answer is held to
    thinking_budget: int | None = None  # tokens of a chat's thought, which is closed then; None: as many as it takes
    continues: bool = False  # the prompt ends with the beginning of this answer, which waits for no other request
    cache_prompt: bool = True  # what is evaluated of the prompt already is not again: quick, but it rounds otherwise
    truncate_prompt: int | None = None  # the prompt's last tokens are kept, this many
    confidence: ConfidenceField | None = (
        None  # how sure the model was: of a choice, or of each value in JSON of a schema
    )
    n: int = 1  # answers to the same prompt, which is evaluated once; number i is sampled with `seed` + i
    logprobs: int | None = None  # each token comes with its log-probability and as many likeliest ones; None: without
    sampled_probabilities: bool = False  # `logprobs` are those that tokens are drawn by, after all samplers
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    progress: PromptProgress | None = field(default=None, compare=False)  # tells how far its prompt is
    given: frozenset[str] | None = None  # the fields that a request sets; None: all mean what they say

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SamplingParams":
        """The parameters of a request, which sets those that are not None; a model has defaults for others."""
        some = {name: value for name, value in given.items() if value is not None}
        return cls(**some, given=frozenset(some))

    def over(self, defaults: Mapping[str, Any]) -> "SamplingParams":
        """The same with a model's defaults for what the request leaves out."""
        if self.given is None:
            return self
        return replace(self, **{name: value for name, value in defaults.items() if name not in self.given})

    def kept(self, prompt: Sequence[int]) -> Sequence[int]:
        """The prompt without what `truncate_prompt` cuts off."""
        return prompt if self.truncate_prompt is None else prompt[max(0, len(prompt) - self.truncate_prompt) :]

    @property
    def named_tokens(self) -> tuple[tuple[str, Iterable[int]], ...]:
        """Token ids that the parameters name, by field."""
        return (
            ("logit_bias", self.logit_bias),
            ("stop_token_ids", self.stop_token_ids),
            ("allowed_token_ids", self.allowed_token_ids or ()),
        )

    @property
    def bans(self) -> str | None:
        """The field that bans texts, if any does."""
        return "banned_strings" if self.banned_strings else "bad_words" if self.bad_words else None

    @property
    def watches_tokens(self) -> bool:
        """Whether each token must be looked at as it comes."""
        return bool(self.bans or self.stop_token_ids or self.min_tokens)

    def check(self) -> None:
        """Raises InvalidRequest where parameters do not go together."""
        if self.bans and self.grammar is not None:
            message = f"{self.bans} cannot be combined with structured output or tools: leave one of them out."
            raise InvalidRequest(message, self.bans)

    @property
    def repeats_cost(self) -> bool:
        """Whether DRY does anything."""
        return self.dry_multiplier != 0 and self.dry_base >= 1 and self.dry_penalty_last_n != 0

    @property
    def active_samplers(self) -> tuple[SamplerName, ...]:
        """The samplers that do anything, in their order."""
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
class Citation:
    """A quotation, and where its document has it."""

    document: int  # its index
    title: str | None  # its document's
    start: int  # in characters of the document
    end: int
    text: str


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
    stop_token: int | None = None  # on the last delta: which of `SamplingParams.stop_token_ids` came
    index: int = 0  # which of `SamplingParams.n` answers goes on
    tokens: tuple[ScoredToken, ...] = ()  # those that begin in this piece, and a token that ends the answer
    accepted_tokens: int = 0  # of those that were guessed ahead, the right ones, which are part of the answer
    rejected_tokens: int = 0  # and the wrong ones
    quotation: int | None = None  # the text belongs to the quotation with this number, in an answer with citations
    citation: Citation | None = None  # on the quotation's last delta, which has no text
    prompt: tuple[ScoredToken, ...] = ()  # on the first delta of all, where `prompt_logprobs` asks for it
    confidence: Mapping[str, Any] | None = None  # on an answer's last delta: fields of the response, where asked for
    prompt_ids: tuple[int, ...] = ()  # on the first delta of all, where the engine was given token ids
    cache_miss: CacheMiss | None = None  # why tokens of the prompt were evaluated again, where many were


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


def check_tokens(tokens: Iterable[int], vocab_size: int, field: str | None = None) -> None:
    """Raises InvalidToken for an id that is outside of the vocabulary, in that field of the request."""
    for token in (min(tokens, default=0), max(tokens, default=0)):
        if not 0 <= token < vocab_size:
            raise InvalidToken(token, vocab_size, field)
