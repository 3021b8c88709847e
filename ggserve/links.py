"""Second names of files that take no disk space."""

import os


def link(file: "os.PathLike[str]", name: "os.PathLike[str]") -> None:
    """Give a file a second name: a hard link, or a symbolic one where there can be none. Raises OSError."""
    path = os.path.realpath(file)
    try:
        os.link(path, name)
    except OSError:  # another file system, or one without hard links
        os.symlink(path, name)
