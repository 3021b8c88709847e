"""The common fields of completion and chat requests."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, model_validator

from ggserve.api.fields import Effort, Strict, Whole, field_error, thinking_budget
from ggserve.api.openai.schemas.sampling import MAX_LOGPROBS, SamplingRequest, called
from ggserve.generation import SamplingParams

MAX_CHOICES = 16  # answers per prompt


class StreamOptions(Strict):
    include_usage: bool | None = None


class GenerationRequest(SamplingRequest):
    """The common fields of completions and chats. `logprobs` differs between them."""

    n: Whole | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt_logprobs: Whole | None = Field(None, ge=0, le=MAX_LOGPROBS)
    return_token_ids: bool | None = None
    return_progress: bool | None = None  # of the prompt, in a stream
    return_tokens_as_token_ids: bool | None = None
    # Sent by clients out of habit, and ignored here.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    service_tier: str | None = None
    reasoning_effort: Effort | None = None
    # llama.cpp's names for the limit of reasoning tokens, in requests and in its settings; -1: no limit
    thinking_budget_tokens: Annotated[Whole, Field(ge=-1)] | None = called("thinking_budget_tokens", "reasoning_budget")

    @model_validator(mode="after")
    def _prompt_is_scored_whole(self) -> "GenerationRequest":
        if self.stream and self.prompt_logprobs is not None:
            raise field_error("prompt_logprobs", "prompt_logprobs cannot be streamed: leave stream out")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling_params(self) -> SamplingParams:
        params = super().sampling_params()
        budget = thinking_budget(self.thinking_budget_tokens, self.reasoning_effort)
        if budget is not None:
            params = replace(params, thinking_budget=budget)
        return replace(params, logprobs=0) if self.return_token_ids and params.logprobs is None else params
