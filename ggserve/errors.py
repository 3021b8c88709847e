"""The exceptions that all layers share. `str()` of each is one line for the user.

EngineError                an engine cannot do what was asked
  GenerationError          a generation failed inside the engine
  ContextOverflow          a prompt does not fit the context
  InvalidToken             a token id is outside the vocabulary
  InvalidRequest           the request asks for something that cannot be done
  QueueFull                too many requests are waiting
  EngineClosed             the server is shutting down
  EngineUnavailable        the engine's process crashed too often to be restarted
ModelFileError             a model file cannot be used
TemplateError              a chat template does not compile, exceeds its limits, or refuses the messages
UnknownModel               no model has the requested name
"""

from collections.abc import Mapping


class EngineError(Exception):
    """An engine cannot do what was asked."""


class GenerationError(EngineError):
    """A generation failed inside the engine."""


class ContextOverflow(EngineError):
    """A prompt does not fit the context."""

    def __init__(self, prompt_tokens: int, context_length: int, *, at_least: bool = False, parts: str = "") -> None:
        """`parts` says what takes the room."""
        counted = f"{'at least ' if at_least else ''}{prompt_tokens}"
        super().__init__(
            f"This model's maximum context length is {context_length} tokens, and the prompt has {counted}"
            f"{f' ({parts})' if parts else ''}: shorten it, or set CONTEXT_LENGTH for a longer context "
            "(at least one token must be left for the answer)."
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length
        self.at_least = at_least

    def divided(self, parts: Mapping[str, int]) -> "ContextOverflow":
        """The same, with the tokens of each part that has any."""
        told = ", ".join(f"{name}: {tokens} tokens" for name, tokens in parts.items() if tokens)
        return ContextOverflow(self.prompt_tokens, self.context_length, at_least=self.at_least, parts=told)


class InvalidToken(EngineError):
    """A token id is outside the vocabulary."""

    def __init__(self, token: int, vocab_size: int, field: str | None = None) -> None:
        super().__init__(f"Token id {token} is outside the vocabulary (0 to {vocab_size - 1}).")
        self.field = field  # of the request; None: the prompt


class InvalidRequest(EngineError):
    """The request asks for something that cannot be done; `field` names the field at fault, if it is known."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class QueueFull(EngineError):
    """Too many requests are waiting."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"The server is busy: {waiting} requests are already waiting. Try again in a moment.")


class EngineClosed(EngineError):
    """The engine is shutting down."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


class EngineUnavailable(EngineError):
    """The engine's process crashed too often to be restarted."""


class ModelFileError(Exception):
    """A model file cannot be used. `str()` is one line: the file's name, what is wrong and where."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """Return `message` with its unprintable characters escaped. File names and text from files can contain line breaks,
    control characters and invalid UTF-8."""
    if message.isprintable():
        return message
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in message)


class TemplateError(Exception):
    """A chat template does not compile, exceeds its limits, or refuses the messages. `str()` is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:500])


class UnknownModel(Exception):
    """No model has the requested name. `str()` lists the names that exist."""
