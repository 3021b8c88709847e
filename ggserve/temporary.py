"""Temporary folders, named after their process: those of a process that was killed can be found and removed."""

import os


def prefix(pid: int | None = None) -> str:
    """The beginning of the names of a process's folders; of this one by default."""
    return f"ggserve-{os.getpid() if pid is None else pid}-"


def remove_folders(pid: int) -> None:
    """Remove what a process that has ended left behind."""
    import glob  # rarely needed, and by a process that imports next to nothing
    import shutil
    import tempfile

    for folder in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), prefix(pid) + "*")):
        shutil.rmtree(folder, ignore_errors=True)
