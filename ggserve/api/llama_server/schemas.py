"""llama-server's request bodies, validated."""

from typing import Annotated, Any

from pydantic import AliasChoices, Field, model_validator

from ggserve.api.fields import (
    ModelRequest,
    Penalty,
    Probability,
    RepetitionPenalty,
    Strict,
    Temperature,
    Whole,
    one_of,
    refuse,
)
from ggserve.api.openai.schemas.generation import UNSUPPORTED, MaxTokens, Stop, TokenIds
from ggserve.api.openai.schemas.structure import StructuredRequest
from ggserve.generation import File, SamplingParams

_UNSUPPORTED = UNSUPPORTED | {"ignore_eos": (None, False), "logit_bias": (None, {}, [])}
_LONGEST = 1_000_000  # characters of a text to tokenize


class SlotRequest(ModelRequest):
    """`POST /slots/ID?action=save|restore|erase`."""

    filename: str = ""


class TokenizeRequest(ModelRequest):
    """`add_special`: with the special tokens that the model wants around a text. `parse_special`: the text of a
    special token becomes that token. vLLM says `prompt` and `add_special_tokens` for `content` and `add_special`."""

    prompt_field = "content"

    content: Annotated[str, Field(max_length=_LONGEST, validation_alias=AliasChoices("content", "prompt"))]
    add_special: Annotated[bool, Field(validation_alias=AliasChoices("add_special", "add_special_tokens"))] = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(ModelRequest):
    prompt_field = "tokens"

    tokens: TokenIds


class ExtraFile(Strict):
    text: str
    filename: str = "tmp"


class InfillRequest(StructuredRequest):
    """`prompt` is what stands in the gap already, behind `input_prefix`; `input_extra` are other files."""

    prompt_field = "input_prefix"

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[ExtraFile], Field(max_length=1000)] = Field([])
    prompt: str = ""
    n_predict: MaxTokens = None
    temperature: Temperature | None = None
    top_k: Whole | None = Field(None, ge=0)
    top_p: Probability | None = None
    min_p: Probability | None = None
    repeat_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Whole | None = None  # -1: a random one
    stop: Annotated[str | Stop, one_of("a text or a list of up to 16 texts")] | None = None
    stream: bool = False
    cache_prompt: bool = True
    n_indent: Whole = Field(0, ge=0, le=1000)  # blanks that each line but the first begins with
    t_max_predict_ms: Whole = 0  # once there is a line break; `t_max_prompt_ms` does nothing there too

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        return refuse(body, _UNSUPPORTED)

    @property
    def files(self) -> list[File]:
        return [File(file.filename, file.text) for file in self.input_extra]

    def sampling_params(self) -> SamplingParams:
        """The parameters given, and defaults for the rest."""
        given: dict[str, Any] = {
            "max_tokens": self.n_predict,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": None if self.seed == -1 else self.seed,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "cache_prompt": self.cache_prompt,
            "grammar": self.held_to,
        }
        return SamplingParams.of(given)
