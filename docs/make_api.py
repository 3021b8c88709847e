"""Writes docs/api.md from the code: `python docs/make_api.py`. A test fails when the page is stale."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ggserve.api.anthropic.schemas import MessagesRequest
from ggserve.api.field_table import IGNORED, REFUSED, USED
from ggserve.api.fields import ModelRequest
from ggserve.api.llama_server.schemas import InfillRequest, NativeRequest
from ggserve.api.ollama.schemas import ChatRequest as OllamaChat
from ggserve.api.ollama.schemas import GenerateRequest, Options
from ggserve.api.openai.responses.schemas import ResponsesRequest
from ggserve.api.openai.schemas.chat import ChatRequest
from ggserve.api.openai.schemas.completions import CompletionRequest
from ggserve.app import create_app
from ggserve.settings import Settings

PAGE = Path(__file__).with_name("api.md")
SCHEMAS: tuple[type[ModelRequest], ...] = (
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
    MessagesRequest,
    OllamaChat,
    GenerateRequest,
    NativeRequest,
    InfillRequest,
)
_HEAD = """\
# API compatibility

```sh
curl http://localhost:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}]}'
```

ggserve implements the APIs of OpenAI, Anthropic, Ollama and llama-server, and the fields that vLLM, SGLang and LM
Studio add to them. `/docs` on the running server describes every endpoint with its request body.
[Clients and agents](clients.md) shows how to connect clients.

A field that would change the answer and is not supported returns a 400 that names the field, unless its value asks for
nothing. Fields that are in no list below are ignored.

`/chat/completions` and `/completions` accept what `/v1/chat/completions` and `/v1/completions` do, with the wider
limits of `/completion` and `/infill`: any temperature, 256 stop strings, and as many alternatives per token as the
vocabulary has.

## Endpoints

| endpoint | description |
| --- | --- |
"""
_SAMPLERS = """
## Samplers

`logit_bias` and tokens that must not occur are applied first, then the samplers in their order. `/completion` has
llama.cpp's order: `penalties`, `dry`, `top_n_sigma`, `top_k`, `typ_p`, `top_p`, `min_p`, `xtc`, `temperature`. All
other endpoints put `temperature` after `top_k`, as vLLM does. `samplers` sets another order. Mirostat replaces all
samplers but the temperature. Each sampler means the same on both engines.

Penalties: `repetition_penalty` counts the prompt and the answer. `presence_penalty` and `frequency_penalty` count
the answer (OpenAI's definition); on llama.cpp, the prompt too. With `repeat_last_n` all three count the last
tokens of prompt and answer on both engines (llama.cpp's definition).
"""


def fields_of(schema: type[ModelRequest]) -> set[str]:
    """Return the names of a schema's fields, with Ollama's options as `options.NAME`."""
    names = set(schema.model_fields)
    if "options" in names:
        names = names - {"options"} | {f"options.{name}" for name in Options.model_fields}
    return names


def page() -> str:
    """Return the page's Markdown."""
    tables = [_table("Supported", _used()), _table("Refused", _refused()), _table("Ignored", _ignored())]
    return "".join((_HEAD, *_endpoints(), _SAMPLERS, *tables))


def _endpoints() -> Iterator[str]:
    for path, methods in create_app(Settings()).openapi()["paths"].items():
        for method, operation in methods.items():
            description = operation["description"].split("\n\n")[0].replace("\n", " ")
            yield f"| `{method.upper()} {path}` | {description} |\n"


def _used() -> Iterator[tuple[str, Sequence[str], str]]:
    for name in sorted(USED):
        yield name, [schema.endpoint for schema in SCHEMAS if name in fields_of(schema)], USED[name]


def _refused() -> Iterator[tuple[str, Sequence[str], str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for endpoint, fields in REFUSED.items():
        for name, harmless in fields.items():
            found.setdefault((name, _unless(harmless)), []).append(endpoint)
    for (name, unless), endpoints in sorted(found.items()):
        yield name, endpoints, f"400{unless}"


def _ignored() -> Iterator[tuple[str, Sequence[str], str]]:
    for name, why in sorted(IGNORED.items()):
        yield name, [schema.endpoint for schema in SCHEMAS if name in fields_of(schema)], why


def _unless(harmless: Sequence[Any]) -> str:
    return f", unless {' or '.join(f'`{json.dumps(value)}`' for value in harmless)}" if harmless else ""


def _table(title: str, rows: Iterator[tuple[str, Sequence[str], str]]) -> str:
    lines = [f"\n## {title}\n\n| field | endpoints | what happens |\n| --- | --- | --- |\n"]
    for name, endpoints, text in rows:
        lines.append(f"| `{name}` | {', '.join(endpoints) or 'all of Ollama'} | {text} |\n")
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
