from pathlib import Path

import pytest

from ggserve.links import link


@pytest.mark.parametrize("missing", ["link", "symlink"])
def test_a_file_gets_a_second_name_without_either_kind_of_link(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    (tmp_path / "file").write_text("text")
    monkeypatch.setattr(f"os.{missing}", refused)
    link(tmp_path / "file", tmp_path / "first")
    link(tmp_path / "first", tmp_path / "second")
    (tmp_path / "first").unlink()
    assert (tmp_path / "second").read_text() == "text"
