"""llama-server's request bodies, validated."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from ggserve.api.fields import ModelRequest, Strict, TokenId, TokenIds, Whole, field_error, one_of, whole_items
from ggserve.api.openai.schemas.chat import ChatRequest
from ggserve.api.openai.schemas.completions import CompletionRequest
from ggserve.api.openai.schemas.messages import Message
from ggserve.api.openai.schemas.sampling import Number, Positive, SamplingRequest, called
from ggserve.generation import LLAMA_CPP_SAMPLERS, File, SamplingParams

_LONGEST = 1_000_000  # characters in a text to tokenize
_MOST_PROBS = 1 << 20  # alternatives to a token, up to the whole vocabulary

Stops = Annotated[str | Annotated[list[str], Field(max_length=256)], one_of("a string or a list of up to 256 strings")]


class WideRequest(SamplingRequest):
    """llama-server's endpoints accept more than OpenAI's: higher temperatures and penalties, more stop strings and
    alternatives."""

    temperature: Positive | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    stop: Stops | None = None
    n_probs: Whole | None = Field(None, ge=0, le=_MOST_PROBS)


class WideChatRequest(WideRequest, ChatRequest):
    """`POST /chat/completions`."""

    top_logprobs: Whole | None = Field(None, ge=0, le=_MOST_PROBS)


class WideCompletionRequest(WideRequest, CompletionRequest):
    """`POST /completions`, with OpenAI's fields."""

    logprobs: Whole | None = Field(None, ge=0, le=_MOST_PROBS)


_Parts = Annotated[list[str | TokenId], Field(fail_fast=True), BeforeValidator(whole_items)]


class NativeRequest(WideRequest):
    """`POST /completion`. The default order of samplers is llama.cpp's."""

    endpoint = "/completion"
    prompt_field = "prompt"

    prompt: Annotated[
        str | _Parts | Annotated[list[str | _Parts], Field(fail_fast=True)],
        one_of("a string, a list of token ids and strings, or a list of such prompts"),
    ]
    n_cmpl: Whole = Field(1, ge=1, le=16)
    stream: bool = False
    post_sampling_probs: bool = False
    return_tokens: bool = False
    return_progress: bool = False
    response_fields: Annotated[list[str], Field(max_length=100)] = Field([])
    id_slot: Whole | None = None  # ignored: the server chooses the slot
    t_max_predict_ms: Whole | None = None  # after a line break
    n_indent: Whole = Field(0, ge=0, le=1000)  # minimum indentation of each line except the first

    @model_validator(mode="after")
    def _sampled_probabilities(self) -> "NativeRequest":
        if self.post_sampling_probs and self.n_probs and self.grammars():
            message = "post_sampling_probs cannot be combined with structured output"
            raise field_error("post_sampling_probs", message)
        return self

    @model_validator(mode="after")
    def _limits_one_answer(self) -> "NativeRequest":
        if self.n_cmpl > 1 and (self.n_indent or self.seconds):
            raise field_error("n_cmpl", "n_cmpl cannot be combined with n_indent or t_max_predict_ms")
        return self

    @property
    def prompts(self) -> list[str | Sequence[str | int]]:
        """The prompts, each a text, or a list of token ids and texts."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if any(isinstance(part, int) for part in self.prompt) or not self.prompt:
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]

    @property
    def is_list(self) -> bool:
        """True if the answers are returned as a list."""
        return self.n_cmpl > 1 or len(self.prompts) > 1

    @property
    def seconds(self) -> float:
        """The time limit of an answer after a line break in seconds; 0: no limit."""
        return max(self.t_max_predict_ms or 0, 0) / 1000

    def sampling_params(self) -> SamplingParams:
        params = super().sampling_params()
        if self.samplers is None:
            params = replace(params, samplers=LLAMA_CPP_SAMPLERS)
        if params.max_tokens == 0 and self.n_probs:  # llama-server gives a token, and clients read its probabilities
            params = replace(params, max_tokens=1)
        scored = params.logprobs if params.logprobs is not None or not (self.return_tokens or self.stream) else 0
        return replace(params, n=self.n_cmpl, logprobs=scored, sampled_probabilities=self.post_sampling_probs)


class SlotRequest(ModelRequest):
    """`POST /slots/ID?action=save|restore|erase`."""

    filename: str = ""


class TokenizeRequest(ModelRequest):
    """`POST /tokenize`. `add_special`: add the model's special tokens around the text. `parse_special`: text of a
    special token becomes that token.

    vLLM's names are `prompt` and `add_special_tokens`, which defaults to true; it also accepts `messages`.
    """

    prompt_field = "content"

    content: Annotated[str, Field(max_length=_LONGEST)] | None = None
    prompt: Annotated[str, Field(max_length=_LONGEST)] | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special: bool | None = called("add_special", "add_special_tokens")
    parse_special: bool = True
    with_pieces: bool = False
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_text(self) -> "TokenizeRequest":
        if sum(each is not None for each in (self.content, self.prompt, self.messages)) != 1:
            raise field_error("content", "content is missing: send content, or vLLM's prompt or messages")
        return self


class DetokenizeRequest(ModelRequest):
    prompt_field = "tokens"

    tokens: TokenIds


class ExtraFile(Strict):
    text: str
    filename: str = "tmp"


class InfillRequest(WideRequest):
    """`POST /infill`. `prompt` is text that is already in the gap, after `input_prefix`; `input_extra` are other
    files."""

    endpoint = "/infill"
    prompt_field = "input_prefix"

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[ExtraFile], Field(max_length=1000)] = Field([])
    prompt: str = ""
    stream: bool = False
    n_indent: Whole = Field(0, ge=0, le=1000)  # minimum indentation of each line except the first
    t_max_predict_ms: Whole = 0  # after a line break; `t_max_prompt_ms` has no effect in llama-server either

    @property
    def files(self) -> list[File]:
        return [File(file.filename, file.text) for file in self.input_extra]


_Input = str | TokenIds


class EmbeddingRequest(ModelRequest):
    """`POST /embedding` and `/embeddings`."""

    prompt_field = "content"

    content: Annotated[
        _Input | Annotated[list[_Input], Field(min_length=1, max_length=2048)],
        Field(validation_alias=AliasChoices("content", "input")),
        one_of("a string, a list of token ids, or a list of up to 2048 of either"),
    ]
    embd_normalize: Literal[2] = 2  # embeddings have length 1

    @property
    def inputs(self) -> list[str | list[int]]:
        """The inputs, each a text or token ids."""
        if isinstance(self.content, str) or not self.content or isinstance(self.content[0], int):
            return [self.content]  # type: ignore[list-item]
        return self.content
