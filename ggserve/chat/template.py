"""Chat templates: a list of messages becomes the text of a prompt.

The template comes from the model file, in Jinja2; a file without one gets a plain default. Which characters
of the text become special tokens is decided in `chat`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from threading import Lock
from types import MappingProxyType
from typing import Any

from jinja2 import UndefinedError

from ggserve.chat.sandbox import MAX_SECONDS, ChatSandbox
from ggserve.errors import TemplateError

# Turns as lines with a label, for models that were not trained on chats or whose file does not say how.
_DEFAULT = """\
{%- for message in messages -%}
{{ message['role'] | capitalize }}: {{ message['content'] or '' }}
{% endfor -%}
{%- if add_generation_prompt %}Assistant:{% endif -%}
"""
_DEFAULT_STOP = ("\nUser:", "\nSystem:", "\nTool:")
_MAX_SOURCE = 200_000
_MAX_OUTPUT = 16_000_000


class ChatTemplate:
    """A compiled chat template. `stop` has the texts that end an answer; it is empty for a file's own template, which
    ends answers with a token."""

    def __init__(self, source: str | None, bos_token: str = "", eos_token: str = "", stop: Sequence[str] = ()) -> None:
        """Compile the template. `source` None means the default; `stop` belongs to other sources. Raises TemplateError
        if it does not compile."""
        self.stop: list[str] = list(_DEFAULT_STOP) if source is None else list(stop)
        self._special = {"bos_token": bos_token, "eos_token": eos_token}
        self._sandbox = ChatSandbox()
        self._lock = Lock()
        self.source = source = _DEFAULT if source is None else source
        if len(source) > _MAX_SOURCE:
            raise TemplateError(f"the chat template has {len(source)} characters; the limit is {_MAX_SOURCE}")
        try:
            self._template = self._sandbox.compile_guarded(source)
        except Exception as error:  # whatever a hostile source makes the compiler raise
            raise _as_template_error(error) from None

    def with_source(self, source: str) -> "ChatTemplate":
        """Another template of the same model. Raises TemplateError."""
        return ChatTemplate(source, self._special["bos_token"], self._special["eos_token"])

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] = MappingProxyType({}),
        seconds: float = MAX_SECONDS,
    ) -> str:
        """Return the prompt's text. `variables` (such as `enable_thinking`) are passed to the template, in addition to
        SET_VARIABLES.

        Raises TemplateError if the template refuses the messages, fails, or builds too much text.
        """
        now = datetime.now()
        known: dict[str, Any] = {
            "documents": None,
            "functions": json.dumps([tool["function"] for tool in tools], ensure_ascii=False) if tools else "",
            "datetime": f"{now:%b %d %Y}",
            "date_string": f"{now:%d %b %Y}",
            **variables,
            **self._special,
        }
        known |= {"messages": copied(messages), "add_generation_prompt": add_generation_prompt}
        with self._lock:
            self._sandbox.refill(seconds)
            try:
                try:
                    return self._rendered({**known, "tools": tools})
                except (TypeError, UndefinedError):
                    if tools is not None:
                        raise
                    return self._rendered(known)  # some ask whether there are tools by looking into them
            except Exception as error:  # a template can raise anything
                raise _as_template_error(error) from None
            finally:
                self._sandbox.refill()  # which forgets the messages

    def _rendered(self, variables: dict[str, Any]) -> str:
        parts = []
        room = _MAX_OUTPUT
        for part in self._template.generate(variables):
            self._sandbox.spend(0)  # looks at the clock
            room -= len(part)
            if room < 0:
                raise TemplateError("the chat template builds too much text")
            parts.append(part)
        return "".join(parts)


def copied(value: Any) -> Any:
    """Return a copy of JSON values, because templates can change lists."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(item) for item in value]
    return value


def _as_template_error(error: Exception) -> TemplateError:
    if isinstance(error, TemplateError):
        return error
    return TemplateError(f"the chat template fails: {type(error).__name__}: {error}")
