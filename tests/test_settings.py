"""Settings as people write them: home folders, capital letters, other encodings, variables of other programs."""

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from ggserve.api.keys import read_keys
from ggserve.settings import Settings, SettingsError, load_settings

PATHS = [name for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no `.env` lies."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", [*PATHS, "model_name", "chat_template"])
def test_a_home_is_expanded_in_every_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv(name.upper(), "~/there")
    found = getattr(load_settings(), name)
    assert str(found[0] if isinstance(found, tuple) else found) == "/home/somebody/there"
    assert {"model_path", "log_dir", "models_dir", "api_key_file", "cache_dir", "ssl_keyfile"} <= set(PATHS)


def test_adapters_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_PATH", "a.gguf, /b.gguf")
    monkeypatch.setenv("LORA_SCALE", "0.5,2")
    settings = load_settings()
    assert (settings.lora_path, settings.lora_scale) == ((Path("a.gguf"), Path("/b.gguf")), (0.5, 2.0))
    monkeypatch.setenv("LORA_SCALE", "0.5,2,1")
    with pytest.raises(SettingsError, match="one for each of the 2"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("LOG_LEVEL", "INFO", "info"),
        ("LOG_FORMAT", "JSON", "json"),
        ("ENGINE", "Llama.cpp", "llama.cpp"),
        ("ROPE_SCALING", "YaRN", "yarn"),
    ],
)
def test_capitals_do_not_matter(name: str, value: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), name.lower()) == meant


@pytest.mark.parametrize("value", ["0", "-2", "0.5", "nan", "inf", "-inf", "1e300", "twice"])
@pytest.mark.parametrize("name", ["ROPE_SCALE", "ROPE_FREQ_BASE", "YARN_ORIG_CTX"])
def test_a_rotation_that_is_no_rotation_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}='{value}': "):
        load_settings()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_env(encoding: str) -> None:
    Path(".env").write_text("CONTEXT_LENGTH=77\n", encoding=encoding)
    assert load_settings().context_length == 77


def test_an_env_file_in_another_encoding_is_named() -> None:
    Path(".env").write_text("CONTEXT_LENGTH=77\n", encoding="utf-16")
    with pytest.raises(SettingsError, match=r"\.env is not UTF-8"):
        load_settings()


def test_a_value_of_another_program_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "tcp://10.0.0.1:8000")
    with pytest.raises(SettingsError, match=r"PORT='tcp://10\.0\.0\.1:8000'"):
        load_settings()


def test_log_files_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_DIR", "none")
    assert load_settings().log_dir is None


def test_keys_of_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one \ntwo\n", encoding="utf-8-sig")
    keys = read_keys(None, file)
    assert all(keys.accept(Headers({"x-api-key": key})) for key in ("one", "two", "one "))
    file.write_text("one\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"API_KEY_FILE=.*keys is not UTF-8"):
        read_keys(None, file)
    with pytest.raises(ValueError, match="API_KEY_FILE=nowhere cannot be read"):
        read_keys(None, Path("nowhere"))


@pytest.mark.parametrize("origin", ["chrome-extension://*", "moz-extension://*", "https://a.example"])
def test_origins_of_extensions(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", origin)
    assert load_settings().cors_origins == (origin,)


@pytest.mark.parametrize("origin", ["https://*", "http://*", "https://*.example"])
def test_a_site_is_named_as_a_whole(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", origin)
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        load_settings()
