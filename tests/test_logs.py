"""Log files hold text, or a JSON object in each line."""

import json
import logging
from pathlib import Path

import pytest

from logs import configure_logs


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines(tmp_path: Path, form: str) -> None:
    configure_logs(tmp_path, "info", form)  # type: ignore[arg-type]
    logging.getLogger("ggserve.main").info("it %s", "ended", extra={"request": {"id": "req_1", "status": 200}})
    line = (tmp_path / "main.log").read_text().strip()
    if form == "text":
        assert line.endswith("INFO it ended")
    else:
        entry = json.loads(line)
        assert (entry["level"], entry["message"]) == ("INFO", "it ended")
        assert entry["request"] == {"id": "req_1", "status": 200}
