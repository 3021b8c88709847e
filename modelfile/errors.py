"""The error of this folder."""


class ModelFileError(Exception):
    """A model file that cannot be used. `str()` is one line: the file's name, what is wrong and where."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))
