"""Every error of an engine; `str()` of each is one line for the user."""


class EngineError(Exception):
    """An engine cannot do what was asked."""


class GenerationError(EngineError):
    """A generation failed inside the engine."""


class ContextOverflow(EngineError):
    """A prompt does not fit the context."""

    def __init__(self, prompt_tokens: int, context_length: int, *, at_least: bool = False) -> None:
        counted = f"{'at least ' if at_least else ''}{prompt_tokens}"
        super().__init__(
            f"This model's maximum context length is {context_length} tokens, and the prompt has {counted}: "
            "shorten it (at least one token must be left for the answer)."
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class InvalidToken(EngineError):
    """A token id outside of the vocabulary."""

    def __init__(self, token: int, vocab_size: int, field: str | None = None) -> None:
        super().__init__(f"Token id {token} is outside of the vocabulary (0 to {vocab_size - 1}).")
        self.field = field  # of the request, where it is not the prompt


class InvalidRequest(EngineError):
    """The engine refuses what a request asks for, in the `field` that it tells of if it knows."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class QueueFull(EngineError):
    """As many requests wait as may wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"The server is busy: {waiting} requests are waiting already. Try again in a moment.")


class EngineClosed(EngineError):
    """The engine is shutting down."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")
