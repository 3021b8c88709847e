"""What the bodies of completions and chats have in common."""

from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BeforeValidator, Field, field_validator, model_validator

from ggserve.api.fields import (
    Effort,
    Penalty,
    Probability,
    RepetitionPenalty,
    Strict,
    Temperature,
    Whole,
    one_of,
    refuse,
    thinking_budget,
)
from ggserve.api.openai.schemas.structure import StructuredRequest
from ggserve.generation import SamplingParams

# Fields of OpenAI's API, vLLM's and llama.cpp's that would change an answer and are not supported, with the values that
# ask for nothing. Others that are unknown are ignored.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "modalities": (None, ["text"]),
    "store": (None, False),
    "web_search_options": (None,),
    "add_generation_prompt": (None, True),
    "allowed_token_ids": (None, []),
    "bad_words": (None, []),
    "chat_template": (None,),
    "continue_final_message": (None, False),
    "include_stop_str_in_output": (None, False),
    "length_penalty": (None, 1, 1.0),
    "min_tokens": (None, 0),
    "prompt_logprobs": (None, 0),
    "skip_special_tokens": (None, True),
    "stop_token_ids": (None, []),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (None, False),
    "dry_multiplier": (None, 0, 0.0),
    "dynatemp_range": (None, 0, 0.0),
    "json_schema": (None, {}),
    "lora": (None, []),
    "mirostat": (None, 0),
    "n_probs": (None, 0),
    "top_n_sigma": (None, -1, -1.0, 0, 0.0),
    "typical_p": (None, 1, 1.0),
    "xtc_probability": (None, 0, 0.0),
}

MAX_CHOICES = 16  # answers to one prompt
MAX_LOGPROBS = 20  # alternatives to a token

Stop = Annotated[list[str], Field(max_length=16)]
_LONGEST_ID = 10  # digits
TokenId = Annotated[Whole, Field(ge=0, lt=2**31)]
TokenIds = Annotated[
    list[TokenId], Field(fail_fast=True)
]  # the first error is told; to collect all of a long list takes a second


def _limit(value: Any) -> Any:
    return None if value == -1 and not isinstance(value, bool) else value


MaxTokens = Annotated[Annotated[Whole, Field(ge=0)] | None, BeforeValidator(_limit)]  # -1: no limit, as llama.cpp's


def _called(*names: str) -> Any:
    return Field(None, validation_alias=AliasChoices(*names))


class StreamOptions(Strict):
    include_usage: bool | None = None


class GenerationRequest(StructuredRequest):
    """What completions and chats have in common. `logprobs` differs."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = UNSUPPORTED

    max_tokens: MaxTokens = _called("max_tokens", "n_predict")  # llama.cpp's name
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Whole | None = Field(None, ge=-1)
    min_p: Probability | None = None
    n: Whole | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Annotated[str | Stop, one_of("a text or a list of up to 16 texts")] | None = None
    seed: Whole | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = _called("repetition_penalty", "repeat_penalty")  # llama.cpp's name
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Nothing here reads these, which clients send by habit.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    service_tier: str | None = None
    reasoning_effort: Effort | None = None
    # llama.cpp's name for the tokens of a thought in a request, and in its settings; -1: no bound
    thinking_budget_tokens: Annotated[Whole, Field(ge=-1)] | None = _called(
        "thinking_budget_tokens", "reasoning_budget"
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        return refuse(body, cls.unsupported)

    @field_validator("logit_bias")
    @classmethod
    def _token_keys(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for key in bias or {}:
            if not (key.isascii() and key.isdigit() and len(key) <= _LONGEST_ID):
                raise ValueError(f"{key[:20]!r} is not a token id")
        return bias

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling_params(self) -> SamplingParams:
        """The parameters given, and defaults for the rest."""
        given: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": max(self.top_k, 0) if self.top_k is not None else None,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "n": self.n,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {int(key): value for key, value in (self.logit_bias or {}).items()},
            "seed": self.seed,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "ignore_eos": self.ignore_eos,
            "cache_prompt": self.cache_prompt,
            "grammar": self.held_to,
            "confidence": self.confidence,
            "thinking_budget": thinking_budget(self.thinking_budget_tokens, self.reasoning_effort),
        }
        return SamplingParams.of(given)
