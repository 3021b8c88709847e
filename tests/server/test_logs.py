"""A log file that cannot grow costs one line on the console, and no answer."""

import logging
from pathlib import Path

import pytest

from ggserve.server.logs import LOGGERS, configure_logs


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in LOGGERS.values():
        (tmp_path / name).symlink_to("/dev/full")
    configure_logs(tmp_path, "info")
    log = logging.getLogger("ggserve.main")
    for number in range(3):
        log.info("line %d", number)
    told = capsys.readouterr().err
    assert told.count("ggserve: cannot write") == 1
    assert "No space left" in told
    assert "Traceback" not in told
    assert "line 2" in told
