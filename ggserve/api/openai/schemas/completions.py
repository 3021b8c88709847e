"""`POST /v1/completions`: the request body."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from ggserve.api.fields import TokenIds, Whole, field_error, one_of
from ggserve.api.openai.schemas.generation import MAX_CHOICES, GenerationRequest
from ggserve.api.openai.schemas.sampling import MAX_LOGPROBS
from ggserve.generation import SamplingParams


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt_field = "prompt"

    endpoint = "/v1/completions"

    prompt: Annotated[
        str | Annotated[list[str], Field(fail_fast=True)] | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)],
        one_of("a string, a list of token ids, or a list of either"),
    ]
    best_of: Whole | None = Field(None, ge=1, le=MAX_CHOICES)
    echo: bool | None = None
    suffix: str | None = None  # the text after the gap that the answer fills
    logprobs: Whole | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @field_validator("logprobs", mode="before")
    @classmethod
    def _none_wanted(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, prompt: Any) -> Any:
        if prompt == []:
            raise ValueError("must contain at least one prompt")
        return prompt

    @model_validator(mode="after")
    def _best_of_enough(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise field_error("best_of", f"best_of must be at least n, which is {self.n}")
        if self.stream and self.best is not None:
            raise field_error("best_of", "best_of cannot be streamed, because the best answer is known only at the end")
        return self

    @model_validator(mode="after")
    def _no_echo_of_a_gap(self) -> "CompletionRequest":
        if self.suffix and self.echo:
            raise field_error("suffix", "suffix and echo cannot be combined")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one for each stream of answers."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    @property
    def best(self) -> int | None:
        """The number of answers to keep; None: all."""
        n = self.n or 1
        return n if self.best_of is not None and self.best_of > n else None

    @property
    def scored(self) -> int | None:
        """The number of alternatives to return for each token; None: no log-probabilities."""
        return self.logprobs if self.logprobs is not None else self.n_probs or None

    def sampling_params(self) -> SamplingParams:
        params = super().sampling_params()
        scored = self.scored if self.scored is not None else params.logprobs
        if self.best is not None:  # ranked by log-probability
            params, scored = replace(params, n=self.best_of or 1), scored or 0
        echoed = self.scored if self.echo else None
        given = [count for count in (echoed, self.prompt_logprobs) if count is not None]
        return replace(params, logprobs=scored, prompt_logprobs=max(given, default=None))
