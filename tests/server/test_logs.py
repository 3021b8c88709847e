"""Log files: a line that cannot be written costs one line on the console, and text from outside forges no line."""

import json
import logging
from datetime import datetime
from pathlib import Path

import pytest

from ggserve.server.logs import LOGGERS, configure_logs


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in LOGGERS.values():
        (tmp_path / name).symlink_to("/dev/full")
    assert configure_logs(tmp_path, "info") == tmp_path
    log = logging.getLogger("ggserve.main")
    for number in range(3):
        log.info("line %d", number)
    told = capsys.readouterr().err
    assert told.count("ggserve: cannot write") == 1
    assert "No space left" in told
    assert "Traceback" not in told
    assert "line 2" in told


def test_a_folder_that_cannot_be_written_is_told_and_the_console_has_the_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert configure_logs(tmp_path / "file" / "logs", "info") is None
    logging.getLogger("ggserve.main").info("on the console")
    told = capsys.readouterr().err
    assert f"LOG_DIR={tmp_path}/file/logs" in told
    assert "on the console" in told


def test_without_a_folder_there_are_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert configure_logs(None, "info") is None
    logging.getLogger("ggserve.main").info("on the console")
    assert "on the console" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


HOSTILE = "a\n2026-01-01 00:00:00,000 INFO forged\x1b[2J\udcff\u2028"


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_text_from_outside_forges_a_line(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(tmp_path, "info", form)  # type: ignore[arg-type]
    log = logging.getLogger("ggserve.main")
    log.warning("file %s", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
    for text in (capsys.readouterr().err, (tmp_path / "main.log").read_bytes().decode()):
        assert not [line for line in text.splitlines() if line.startswith("2026-01-01")]
        assert "\x1b" not in text
        assert "Logging error" not in text


def test_times_in_json_have_a_zone(tmp_path: Path) -> None:
    configure_logs(tmp_path, "info", "json")
    logging.getLogger("ggserve.main").info("line")
    time = json.loads((tmp_path / "main.log").read_text())["time"]
    assert datetime.fromisoformat(time).tzinfo is not None
