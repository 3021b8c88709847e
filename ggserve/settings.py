"""Every setting, from the environment, `.env` and the command line; one line of help each."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class SettingsError(Exception):
    """A setting makes no sense; str() is one line for the user."""


def _parts(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip().lower().rstrip("/") for part in value.split(",") if part.strip())
    return value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts)]


class Settings(BaseSettings):
    """ggserve: one GGML or GGUF model file, served over the OpenAI API."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        protected_namespaces=(),
        cli_prog_name="ggserve serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    model_path: Path | None = Field(None, description="the model file")
    model_name: str | None = Field(
        None, description="a folder, or a hub repository: org/name[@revision][:quantization]"
    )
    model_file: str | None = Field(
        None, description="the file in MODEL_NAME, where it has several, or its quantization"
    )
    model_type: str | None = Field(None, description="the model family, where the file does not tell")
    models_dir: Path | None = Field(None, description="a folder of models: each request names the one it wants")
    models_memory: int | None = Field(
        None, ge=1, description="MiB that all loaded models may take (default: the memory less a reserve)"
    )
    models_max: int | None = Field(
        None, ge=1, description="models loaded at the same time (default: as many as fit into MODELS_MEMORY)"
    )
    cache_dir: Path = Field(Path("models"), description="where files that an engine needs in another form are kept")
    keep_alive: float | None = Field(
        None, ge=0, description="seconds without a request after which the model is unloaded (default: never)"
    )
    chat_template: str | None = Field(
        None,
        description="how chats become prompts: a name (see README) or a Jinja2 file (default: the model's)",
    )
    engine: Literal["auto", "ctransformers", "llama.cpp"] = Field("auto", description="what runs the file")
    mmproj_path: Path | None = Field(
        None, description="the projector of a model that sees (default: the one beside the model)"
    )
    lora_path: Path | None = Field(None, description="a LoRA adapter (GGUF) to apply; llama.cpp only")
    lora_scale: float = Field(1.0, description="how much of it")
    context_length: int | None = Field(
        None, ge=8, description="tokens of prompt and answer together (default: the model's own, at most 4096)"
    )
    gpu_layers: int = Field(0, ge=0, description="layers to run on the GPU")
    threads: int | None = Field(None, ge=1, description="threads to compute with (default: the fast physical cores)")
    parallel: int | None = Field(
        None, ge=1, le=256, description="answers at the same time (default: 4; GPU or GGML: 1)"
    )
    queue_size: int = Field(64, ge=0, description="requests that may wait; more get a 429")
    speculate: Literal["off", "ngram-mod"] = Field("off", description="how llama.cpp guesses tokens ahead")
    draft_model: Path | None = Field(None, description="a small model of the same vocabulary that guesses ahead")
    prompt_cache: int = Field(1024, ge=0, description="MiB of memory for what llama.cpp's slots held before")
    kv_cache_type: Literal["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] = Field(
        "f16", description="type of llama.cpp's KV cache"
    )
    flash_attention: Literal["auto", "on", "off"] = Field("auto", description="llama.cpp's flash attention")
    replicas: str = Field("2", description="of a cluster: a number, or 1-4 to follow the load")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on (0: any free one)")
    api_key: str | None = Field(None, description="keys of which clients must send one, separated by commas")
    api_key_file: Path | None = Field(None, description="a file of such keys, one a line")
    allowed_hosts: CommaSeparated = Field(
        (), description="names of the server in requests besides its own, separated by commas; *.NAME, or * for any"
    )
    cors_origins: CommaSeparated = Field(
        (), description="sites whose pages may use the server: https://a.example,http://localhost:3000, or * for any"
    )
    ssl_certfile: Path | None = Field(None, description="the certificate chain, for HTTPS")
    ssl_keyfile: Path | None = Field(None, description="the certificate's key, where it is not in SSL_CERTFILE")
    max_connections: int = Field(1000, ge=1, description="connections at the same time; one more closes an idle one")
    max_header_kb: int = Field(64, ge=1, description="KiB of a request's header; more is a 431")
    header_timeout: float = Field(20, ge=0, description="seconds until a request's header must be there (0: any)")
    send_timeout: float = Field(30, ge=0, description="seconds until a client must read on (0: any)")
    max_body_mb: int = Field(32, ge=1, description="MiB of a request's body; more is a 413")
    max_tokens: int | None = Field(None, ge=1, description="tokens of an answer, whatever a request asks for")
    max_prompts: int = Field(256, ge=1, description="prompts in a request; more is a 400")
    body_timeout: float = Field(120, ge=0, description="seconds until a request's body must be there (0: any)")
    first_token_timeout: float = Field(600, ge=0, description="seconds until an answer must begin (0: any)")
    request_timeout: float = Field(3600, ge=0, description="seconds until an answer must be complete (0: any)")
    log_dir: Path = Field(Path("applogs"), description="folder of main.log and model.log")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much to log")
    log_format: Literal["text", "json"] = Field("text", description="lines of the log files: text, or JSON objects")
    log_prompts: bool = Field(False, description="log prompts and answers too")

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"\*|(\*\.)?[^*/:\[\]]+|[0-9a-f:]+", host):
                raise ValueError(f"{host!r} is no name: give it without scheme and port")
        return hosts

    @field_validator("cors_origins")
    @classmethod
    def _sites(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/*]+", origin):
                raise ValueError(f"{origin!r} is no origin, such as https://chat.example or http://localhost:3000")
        return origins

    @field_validator("replicas")
    @classmethod
    def _are_replicas(cls, value: str) -> str:
        numbers = [int(number) if number.isdecimal() else 0 for number in value.split("-")]
        if len(numbers) > 2 or not 0 < numbers[0] <= numbers[-1] <= 10_000:
            raise ValueError("should be a number, or the least and the most, such as 1-4")
        return value

    @property
    def replica_range(self) -> tuple[int, int]:
        """The least and the most replicas."""
        least, _, most = self.replicas.partition("-")
        return int(least), int(most or least)


def load_settings(*, command_line: Sequence[str] | None = None, given: Mapping[str, Any] | None = None) -> Settings:
    """Reads the settings that are not `given`, from `command_line` too. Raises SettingsError that names each setting
    that is wrong."""
    try:
        return Settings(_cli_parse_args=list(command_line) if command_line is not None else False, **(given or {}))
    except ValidationError as error:
        raise SettingsError(
            "; ".join(
                f"{str(e['loc'][0]).upper()}={e['input']!r}: {e['msg'][0].lower()}{e['msg'][1:]}"
                for e in error.errors()
            )
        ) from None
