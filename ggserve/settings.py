"""All settings: name, type, default and one line of help. Values come from the environment, `.env` and the command
line."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class SettingsError(Exception):
    """A setting is invalid. `str()` is one line for the user."""


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip().lower().rstrip("/") for part in value.split(",") if part.strip())
    return value


def _expand_home(value: object) -> object:
    """Return a path with `~` expanded. No shell expands it in `.env`, in a systemd unit or after `--name=`."""
    return os.path.expanduser(value) if isinstance(value, str) else value


def _paths(value: object) -> object:
    if isinstance(value, str):
        return tuple(_expand_home(part.strip()) for part in value.split(",") if part.strip())
    return value


def _numbers(value: object) -> object:
    if isinstance(value, int | float):
        return (value,)
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


UserPath = Annotated[Path, BeforeValidator(_expand_home)]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)]
Numbers = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_numbers)]
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


class Settings(BaseSettings):
    """Serve a GGUF or GGML model over the OpenAI, Anthropic, Ollama and llama-server APIs."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        protected_namespaces=(),
        cli_prog_name="ggserve serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    model_path: UserPath | None = Field(None, description="model file to serve")
    model_name: str | None = Field(
        None, description="model folder or Hugging Face repository: org/name[@revision][:quantization]"
    )
    model_file: str | None = Field(None, description="file name or quantization, if MODEL_NAME has several model files")
    model_type: str | None = Field(None, description="model family of a legacy GGML file that does not state it")
    models_dir: UserPath | None = Field(None, description="folder of models; each request names its model")
    models_memory: int | None = Field(
        None, ge=1, description="memory limit for all loaded models in MiB (default: the memory less a reserve)"
    )
    models_max: int | None = Field(
        None, ge=1, description="maximum number of loaded models (default: as many as fit into MODELS_MEMORY)"
    )
    cache_dir: UserPath = Field(Path("models"), description="folder for model files that were converted for an engine")
    keep_alive: float | None = Field(
        None, ge=0, description="seconds without a request before a model is unloaded (default: never)"
    )
    chat_template: str | None = Field(
        None,
        description="chat template: a name in the model file, a built-in name (docs/model-files.md) or a Jinja2 file "
        "(default: the model's own)",
    )
    engine: Literal["auto", "ctransformers", "llama.cpp"] = Field("auto", description="inference engine")
    mmproj_path: UserPath | None = Field(
        None, description="projector of a vision model (default: the one next to the model; `none`: no projector)"
    )
    lora_path: Paths = Field((), description="LoRA adapters in GGUF, separated by commas; llama.cpp only")
    lora_scale: Numbers = Field(
        (1.0,), description="scales of the LoRA adapters, separated by commas, or one for all of them"
    )
    context_length: int | None = Field(
        None,
        ge=8,
        description="context length in tokens of one request, prompt and answer together "
        "(default: the model's, as far as memory allows)",
    )
    rope_scaling: Literal["none", "linear", "yarn"] | None = Field(
        None,
        description="scaling of positions for a context longer than the model was trained on: `none`, `linear` or "
        "`yarn` (default: the model's); llama.cpp only",
    )
    rope_scale: float | None = Field(
        None, ge=1, le=1000, description="factor of ROPE_SCALING (default: as CONTEXT_LENGTH needs)"
    )
    rope_freq_base: float | None = Field(
        None, ge=100, le=1e12, description="base frequency of RoPE (default: the model's); llama.cpp only"
    )
    yarn_orig_ctx: int | None = Field(
        None,
        ge=8,
        description="tokens that the model was trained on, without scaling (default: as the file says)",
    )
    gpu_layers: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="number of layers to run on the GPU; auto: as many as fit, if llama.cpp can use a GPU"
    )
    llama_server: str = Field(
        "auto",
        description="llama-server executable for llama.cpp, or off; auto: the one on PATH if only that can use the GPU",
    )
    llama_args: str = Field("", description="additional command-line arguments for LLAMA_SERVER")
    threads: int | None = Field(
        None, ge=1, description="number of compute threads (default: the number of fast physical cores)"
    )
    parallel: int | None = Field(
        None,
        ge=1,
        le=256,
        description="number of requests that run in parallel (default: 4; on a GPU or for a GGML file: 1)",
    )
    temperature: float | None = Field(None, ge=0, le=2, description="default temperature of requests (default: 0.8)")
    top_k: int | None = Field(None, ge=0, description="default `top_k` of requests; 0: off (default: 40)")
    top_p: float | None = Field(None, ge=0, le=1, description="default `top_p` of requests; 1: off (default: 0.95)")
    min_p: float | None = Field(None, ge=0, le=1, description="default `min_p` of requests; 0: off (default: 0)")
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=10, description="default repetition penalty of requests; 1: off (default: 1)"
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="default presence penalty of requests; 0: off (default: 0)"
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="default frequency penalty of requests; 0: off (default: 0)"
    )
    queue_size: int = Field(
        64, ge=0, description="number of requests that can wait for a slot; any further request gets a 429"
    )
    embedding_queue_size: int = Field(
        512, ge=1, description="number of embedding requests that can run or wait; any further request gets a 429"
    )
    speculate: Literal["off", "ngram-mod"] = Field(
        "off", description="speculative decoding from repeated text; llama.cpp only"
    )
    draft_model: UserPath | None = Field(
        None, description="draft model for speculative decoding, with the same vocabulary; llama.cpp only"
    )
    prompt_cache: int = Field(1024, ge=0, description="memory in MiB for prompts that left llama.cpp's slots")
    prompt_cache_dir: UserPath | None = Field(
        None,
        description="folder where llama.cpp saves long prompts across restarts, instead of PROMPT_CACHE",
    )
    prompt_cache_disk: int = Field(4096, ge=1, description="size limit of PROMPT_CACHE_DIR in MiB")
    kv_cache_type: Literal["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] = Field(
        "f16", description="data type of the KV cache; llama.cpp only"
    )
    flash_attention: Literal["auto", "on", "off"] = Field("auto", description="flash attention; llama.cpp only")
    replicas: str = Field(
        "2", description="number of replicas in a cluster, or a range such as 1-4 to scale with the load"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on (0: any free port)")
    api_key: str | None = Field(None, description="comma-separated API keys; clients must send one of them")
    api_key_file: UserPath | None = Field(None, description="file with API keys, one per line")
    admin_api_key: str | None = Field(
        None, description="comma-separated API keys for loading, unloading, pulling, copying and deleting models"
    )
    allowed_hosts: CommaSeparated = Field(
        (),
        description="comma-separated host names that requests may use besides the server's own; *.NAME, or * for any",
    )
    cors_origins: CommaSeparated = Field(
        (), description="comma-separated origins of web pages that may use the server; * for any"
    )
    ssl_certfile: UserPath | None = Field(None, description="certificate chain for HTTPS")
    ssl_keyfile: UserPath | None = Field(
        None, description="private key of the certificate, if it is not in SSL_CERTFILE"
    )
    max_connections: int = Field(
        1000,
        ge=1,
        description="maximum number of connections; one more closes the connection that has been idle longest",
    )
    max_header_kb: int = Field(64, ge=1, description="size limit of request headers in KiB; larger ones get a 431")
    header_timeout: float = Field(20, ge=0, description="seconds to receive the headers of a request (0: no limit)")
    send_timeout: float = Field(
        30, ge=0, description="seconds that a client may pause reading the response (0: no limit)"
    )
    max_body_mb: int = Field(32, ge=1, description="size limit of a request body in MiB; a larger one gets a 413")
    max_bodies_mb: int = Field(
        256, ge=1, description="memory limit for the bodies of all requests in MiB; a request beyond it gets a 503"
    )
    max_tokens: int | None = Field(None, ge=1, description="maximum tokens per answer, whatever the request asks for")
    max_prompts: int = Field(256, ge=1, description="maximum number of prompts per request; more get a 400")
    body_timeout: float = Field(120, ge=0, description="seconds to receive a request body (0: no limit)")
    first_token_timeout: float = Field(600, ge=0, description="seconds until the first token (0: no limit)")
    request_timeout: float = Field(3600, ge=0, description="seconds until the answer is complete (0: no limit)")
    log_dir: UserPath | None = Field(Path("applogs"), description="folder for main.log and model.log, or none")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="log level")
    log_format: Literal["text", "json"] = Field("text", description="format of the log files")
    log_prompts: bool = Field(False, description="log prompts and answers")

    @field_validator(
        *("engine", "rope_scaling", "gpu_layers", "speculate", "kv_cache_type", "flash_attention"),
        *("log_level", "log_format"),
        mode="before",
    )
    @classmethod
    def _in_lower_case(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("model_name", "chat_template", "llama_server", mode="before")
    @classmethod
    def _expand_home_of_names(cls, value: object) -> object:
        return _expand_home(value)

    @field_validator("log_dir", mode="before")
    @classmethod
    def _maybe_none(cls, value: object) -> object:
        return None if value == "none" else value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"\*|(\*\.)?[^*/:\[\]]+|[0-9a-f:]+", host):
                raise ValueError(f"{host!r} is not a host name: leave out scheme and port")
        return hosts

    @field_validator("cors_origins")
    @classmethod
    def _sites(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/*]+|(?!https?:)[a-z][a-z0-9+.-]*://\*", origin):
                raise ValueError(
                    f"{origin!r} is not an origin such as https://chat.example, http://localhost:3000 or "
                    "chrome-extension://*"
                )
        return origins

    @field_validator("lora_scale")
    @classmethod
    def _one_for_each_adapter(cls, scales: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        adapters = len(info.data.get("lora_path", ()))
        if len(scales) not in (1, adapters):
            raise ValueError(f"should be one scale, or one for each of the {adapters} adapters")
        return scales

    @field_validator("replicas")
    @classmethod
    def _are_replicas(cls, value: str) -> str:
        numbers = [int(number) if number.isdecimal() else 0 for number in value.split("-")]
        if len(numbers) > 2 or not 0 < numbers[0] <= numbers[-1] <= 10_000:
            raise ValueError("should be a number or a range such as 1-4")
        return value

    @property
    def replica_range(self) -> tuple[int, int]:
        """The minimum and maximum number of replicas."""
        least, _, most = self.replicas.partition("-")
        return int(least), int(most or least)


def load_settings(*, command_line: Sequence[str] | None = None, given: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings that are not `given`, from `command_line` too. Raises SettingsError naming each invalid
    setting."""
    try:
        _check_env_file(Path(".env"))
        return Settings(_cli_parse_args=list(command_line) if command_line is not None else False, **(given or {}))
    except ValidationError as error:
        raise SettingsError(
            "; ".join(
                f"{str(e['loc'][0]).upper()}={e['input']!r}: {e['msg'][0].lower()}{e['msg'][1:]}"
                for e in error.errors()
            )
        ) from None


def _check_env_file(path: Path) -> None:
    """Check that pydantic-settings can read the file. Raises SettingsError."""
    try:
        path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
