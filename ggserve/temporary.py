"""Temporary folders named after their process, so that the folders of a killed process can be found and removed."""

import os


def prefix(pid: int | None = None) -> str:
    """Return the prefix of the folder names of a process, by default this one."""
    return f"ggserve-{os.getpid() if pid is None else pid}-"


def remove_folders(pid: int) -> None:
    """Remove the folders that a dead process left behind."""
    import glob  # rarely needed, and the supervisor imports as little as possible
    import shutil
    import tempfile

    for folder in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), prefix(pid) + "*")):
        shutil.rmtree(folder, ignore_errors=True)
