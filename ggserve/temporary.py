"""Temporary folders, named after their process, so that those of a killed process can be found and removed."""

import os


def prefix(pid: int | None = None) -> str:
    """Return the prefix of a process's folder names; of this process by default."""
    return f"ggserve-{os.getpid() if pid is None else pid}-"


def remove_folders(pid: int) -> None:
    """Remove the folders of processes that have ended."""
    import glob  # rarely needed, and by a process that imports next to nothing
    import shutil
    import tempfile

    for folder in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), prefix(pid) + "*")):
        shutil.rmtree(folder, ignore_errors=True)
