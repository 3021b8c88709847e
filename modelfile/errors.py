"""The error of this folder."""


class ModelFileError(Exception):
    """A model file that cannot be used. `str()` is one line: the file's name, what is wrong and where."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """`message` with line breaks and control characters (names in a damaged file have them) escaped."""
    return message if message.isprintable() else message.encode("unicode_escape").decode()
