"""The errors of this folder."""


class TemplateError(Exception):
    """A chat template that does not compile, or messages that it refuses. `str()` is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:500])


class TemplateTooCostly(TemplateError):
    """A chat template that builds or loops without end."""
