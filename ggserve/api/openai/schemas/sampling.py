"""Sampling fields: common to the request bodies of OpenAI, vLLM and llama-server."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, field_validator

from ggserve.api.fields import (
    Penalty,
    Probability,
    RepetitionPenalty,
    Strict,
    Temperature,
    TokenId,
    TokenIds,
    Whole,
    one_of,
    whole_items,
)
from ggserve.api.openai.schemas.structure import StructuredRequest
from ggserve.generation import SamplerName, SamplingParams

MAX_LOGPROBS = 20  # alternatives per token

_LETTERS: dict[str, SamplerName] = {  # llama.cpp's
    "e": "penalties",
    "d": "dry",
    "s": "top_n_sigma",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "x": "xtc",
    "t": "temperature",
}
_NAMES: dict[str, SamplerName] = {name: name for name in _LETTERS.values()} | {
    "typical_p": "typ_p",
    "temp": "temperature",
}

Stop = Annotated[list[str], Field(max_length=16)]
_LONGEST_ID = 10  # digits of a token id


def _none_if_minus_one(value: Any) -> Any:
    return None if value == -1 and not isinstance(value, bool) else value


def called(*names: str, **limits: Any) -> Any:
    """Return an optional field with several names."""
    return Field(None, validation_alias=AliasChoices(*names), **limits)


MaxTokens = Annotated[
    Annotated[Whole, Field(ge=0)] | None, BeforeValidator(_none_if_minus_one)
]  # -1: no limit, as in llama.cpp
Seed = Annotated[Whole | None, BeforeValidator(_none_if_minus_one)]  # -1: random, as in llama.cpp, vLLM and Ollama
Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
LastTokens = Annotated[Whole, Field(ge=-1, lt=2**31)]  # -1: all tokens
Phrases = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=64)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
BiasPair = tuple[TokenId | Annotated[str, Field(max_length=200)], Number | Literal[False]]
_MOST_BIASES = Field(max_length=10_000)
BiasPairs = Annotated[list[BiasPair], _MOST_BIASES]

_BIAS_FORMS = "an object of token ids and biases, or a list of pairs of a token id or text and a bias or false"


class LoraScale(Strict):
    """The scale of the LoRA adapter with this number."""

    id: Annotated[Whole, Field(ge=0)]
    scale: Number


class SamplingRequest(StructuredRequest):
    """The fields of `SamplingParams`, under the names that clients use."""

    max_tokens: MaxTokens = called("max_tokens", "n_predict")  # llama.cpp's name
    min_tokens: Whole | None = Field(None, ge=0)
    temperature: Temperature | None = None
    dynatemp_range: Positive | None = None
    dynatemp_exponent: Positive | None = None
    top_p: Probability | None = None
    top_k: Whole | None = Field(None, ge=-1)
    min_p: Probability | None = None
    typical_p: Probability | None = called("typical_p", "typ_p")
    top_n_sigma: Number | None = None
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    min_keep: Whole | None = Field(None, ge=0)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = called("repetition_penalty", "repeat_penalty")  # llama.cpp's name
    repeat_last_n: LastTokens | None = None
    dry_multiplier: Positive | None = None
    dry_base: Positive | None = None
    dry_allowed_length: Whole | None = Field(None, ge=0, lt=2**31)
    dry_penalty_last_n: LastTokens | None = None
    dry_sequence_breakers: Phrases | None = None
    mirostat: Literal[0, 1, 2] | None = called("mirostat", "mirostat_mode")
    mirostat_tau: Positive | None = None
    mirostat_eta: Positive | None = None
    samplers: list[str] | str | None = None
    logit_bias: Annotated[Annotated[dict[str, Bias], _MOST_BIASES] | BiasPairs, one_of(_BIAS_FORMS)] | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Phrases | None = None
    banned_strings: Phrases | None = None
    seed: Seed = None
    stop: Annotated[str | Stop, one_of("a string or a list of up to 16 strings")] | None = None
    stop_token_ids: Annotated[TokenIds, Field(max_length=1000)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    priority: Whole | None = Field(None, ge=-(2**31), lt=2**31)
    truncate_prompt_tokens: Annotated[Annotated[Whole, Field(ge=1)] | None, BeforeValidator(_none_if_minus_one)] = None
    n_probs: Whole | None = Field(None, ge=0, le=MAX_LOGPROBS)
    timings_per_token: bool | None = None
    lora: Annotated[list[LoraScale], Field(max_length=64)] | None = None

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _as_pairs(cls, bias: Any) -> Any:
        if isinstance(bias, list):
            return [tuple(whole_items(pair)) if isinstance(pair, list) else pair for pair in bias]
        return bias

    @field_validator("logit_bias")
    @classmethod
    def _token_keys(cls, bias: Any) -> Any:
        for key in bias if isinstance(bias, dict) else ():
            if not (key.isascii() and key.isdigit() and len(key) <= _LONGEST_ID):
                raise ValueError(f"{key[:20]!r} is not a token id")
        return bias

    @field_validator("samplers")
    @classmethod
    def _known_samplers(cls, samplers: list[str] | str | None) -> list[str] | str | None:
        known = _LETTERS if isinstance(samplers, str) else _NAMES
        for name in samplers or ():
            if name not in known:
                raise ValueError(f"{name[:20]!r} is not a sampler: use {', '.join(known)}")
        if samplers is not None and len(samplers) > 32:
            raise ValueError("has more than 32 samplers")
        return samplers

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling_params(self) -> SamplingParams:
        """Return the given parameters, with defaults for the rest. Raises InvalidRequest."""
        names = _LETTERS if isinstance(self.samplers, str) else _NAMES
        ids, texts = self._biases()
        given: dict[str, Any] = {
            name: getattr(self, name) for name in SamplingParams.__dataclass_fields__ if name in type(self).model_fields
        }
        given |= {
            "top_k": max(self.top_k, 0) if self.top_k is not None else None,
            "samplers": None if self.samplers is None else tuple(names[name] for name in self.samplers),
            "logit_bias": ids or None,
            "text_bias": texts or None,
            "stop": self.stops,
            "include_stop": self.include_stop_str_in_output,
            "skip_special": self.skip_special_tokens,
            "truncate_prompt": self.truncate_prompt_tokens,
            "logprobs": self.n_probs or None,
            "grammar": self.held_to,
            "confidence": self.confidence,
        }
        for name in ("dry_sequence_breakers", "bad_words", "banned_strings"):
            given[name] = None if given[name] is None else tuple(given[name])
        given["lora"] = None if self.lora is None else {each.id: each.scale for each in self.lora}
        given["allowed_token_ids"] = frozenset(self.allowed_token_ids) if self.allowed_token_ids else None
        given["stop_token_ids"] = frozenset(self.stop_token_ids or ())
        return SamplingParams.of(given)

    def _biases(self) -> tuple[dict[int, float], dict[str, float]]:
        bias = self.logit_bias or {}
        if isinstance(bias, dict):
            return {int(key): value for key, value in bias.items()}, {}
        values = [(token, float("-inf") if value is False else float(value)) for token, value in bias]
        ids = {token: value for token, value in values if isinstance(token, int)}
        return ids, {text: value for text, value in values if isinstance(text, str)}
