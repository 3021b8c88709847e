"""Jinja2 for templates that nobody has vetted: a chat template comes with a downloaded file.

Jinja2's own sandbox keeps a template from reaching Python. This one also keeps it from taking all memory or
time: what it builds and how often it loops is charged against a budget, and what would exceed it in one go is
refused beforehand. A deadline stops what is slow without building anything. Lists may hold the same list many times, so
that little memory looks like a huge text when it is written out or compared: no value whose written size passes a
bound is ever made.
"""

import json
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from datetime import datetime
from functools import wraps
from time import monotonic
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ggserve.errors import TemplateError, TemplateTooCostly

_BUDGET = 64_000_000  # characters built by one rendering
_LONGEST = 500_000  # items of a list or dict
_LARGEST = 16_000_000  # characters that a list or dict may have when all in it is written out
_STEP_COST = 64  # of a loop's step or a call, in characters: a million of them is about a second
_MAX_SECONDS = 5.0
_MAX_WIDTH = 1_000  # of anything padded or indented, in characters
_MAX_INDENT = 16
_MAX_INT_BITS = 10_000
_LONG_NUMBER = re.compile(r"\d{4}|\*")
_CONTAINERS = (list, tuple, dict, KeysView, ValuesView, ItemsView)
_SPENDTHRIFT_FILTERS = ("batch", "center", "pprint", "slice", "urlize", "wordwrap", "xmlattr")


class ChatSandbox(ImmutableSandboxedEnvironment):
    """Renders as `transformers` does: blocks trimmed, loop controls, `raise_exception`, `strftime_now`,
    `tojson` without HTML escapes. Not for use from two threads at once: the budget is its own."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            optimized=False,  # folding constants would run them outside any budget
            cache_size=0,
        )
        self.refill()
        for name in _SPENDTHRIFT_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters["tojson"] = _to_json
        self.filters = {name: self._charged(name, filter_) for name, filter_ in self.filters.items()}
        self.filters["_concat"] = self.concat
        self.filters["_steps"] = self._steps
        self.filters["_charge"] = self._charge
        self.filters["_bounded"] = self._bounded
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def refill(self) -> None:
        """Starts a rendering with the whole budget and time."""
        self._left = _BUDGET
        self._deadline = monotonic() + _MAX_SECONDS
        self._sizes: dict[int, tuple[int, Any]] = {}  # of lists and dicts by id, with themselves: ids stay theirs

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise TemplateTooCostly("the chat template builds too much text or loops too long")
        if monotonic() > self._deadline:
            raise TemplateTooCostly("the chat template takes too long")

    def concat(self, parts: Iterable[Any]) -> str:
        """Joins the output of a block, a macro or `~`."""
        texts = [str(part) for part in parts]
        self.spend(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for sized, times in ((left, right), (right, left)):
                if hasattr(sized, "__len__") and isinstance(times, int):
                    self.spend(len(sized) * max(times, 0))
            if isinstance(left, int) and isinstance(right, int):
                _check_bits(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            self._check_format(left, right)
        return self._charge(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.spend(_STEP_COST)
        for value in (*args, *kwargs.values()):
            __self._bounded(value)
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # the sandbox wraps str.format
        if isinstance(owner, str):
            __self._check_method(owner, __obj.__name__, args, kwargs)
        return __self._charge(super().call(__context, __obj, *args, **kwargs))

    def _charged(self, name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(filter_)  # keeps the mark that tells Jinja2 what to pass first
        def charged(*args: Any, **kwargs: Any) -> Any:
            self.spend(_STEP_COST)
            # To some filters Jinja2 passes the context or the environment first; those are no plain values.
            values = [arg for arg in args if isinstance(arg, (str, int, list, tuple, dict))]
            if name == "join" and values:
                self._check_join(kwargs.get("d", values[1] if len(values) > 1 else ""), values[0])
            elif values and isinstance(values[0], str):
                self._check_method(values[0], name, tuple(values[1:]), kwargs)
            return self._charge(filter_(*args, **kwargs))

        return charged

    def _check_method(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuses what would make a large text of a small one, before it is made."""
        if name in ("center", "ljust", "rjust", "zfill", "expandtabs", "indent"):
            widths = [len(value) if isinstance(value, str) else value for value in (*args, *kwargs.values())]
            if any(isinstance(width, int) and width > _MAX_WIDTH for width in widths):
                raise TemplateTooCostly("the chat template asks for too wide a text")
            lines = text.count("\n") + text.count("\t") + 1
            self.spend(lines * max((width for width in widths if isinstance(width, int)), default=8))
        elif name == "replace":
            old = args[0] if args else kwargs.get("old", "")
            new = args[1] if len(args) > 1 else kwargs.get("new", "")
            self.spend(len(text) + text.count(str(old)) * len(str(new)))
        elif name == "join" and args:
            self._check_join(text, args[0])
        elif name in ("format", "format_map"):
            self._check_format(text, (args, kwargs))
        elif name == "translate":
            raise TemplateError("the chat template calls str.translate, which is not available")

    def _check_join(self, separator: Any, parts: Any) -> None:
        if not hasattr(parts, "__len__"):
            raise TemplateError("the chat template joins something other than a list")
        self.spend(len(str(separator)) * len(parts))

    def _check_format(self, text: str, values: Any) -> None:
        self.spend(len(text) * _MAX_WIDTH // 8)
        if _LONG_NUMBER.search(text) or "{" in re.sub(r"\{[^{}]*\}", "", text):
            raise TemplateError("the chat template formats with a width that is not allowed")

    def _charge(self, value: Any) -> Any:
        if isinstance(value, (str, bytes)):
            self.spend(len(value))
        elif isinstance(value, _CONTAINERS):
            self.spend(8 * len(value))
            self._bounded(value)
        return value

    def _bounded(self, value: Any) -> Any:
        """The value, unless it is a list or dict too large to be written out."""
        if isinstance(value, _CONTAINERS) and (len(value) > _LONGEST or self._written(value) > _LARGEST):
            raise TemplateTooCostly("the chat template builds too large a list")
        return value

    def _written(self, value: Any) -> int:
        """Characters that a value has when all in it is written out, at least; lists that occur twice count twice.

        Nothing in the sandbox changes a list or dict, so each is measured once.
        """
        if isinstance(value, str):
            return len(value) + 1
        if not isinstance(value, _CONTAINERS):
            return 1
        if (known := self._sizes.get(id(value))) is None:
            items = (*value.keys(), *value.values()) if isinstance(value, dict) else value
            known = self._sizes[id(value)] = 1 + sum(map(self._written, items)), value
        return known[0]

    def _steps(self, items: Any) -> Any:
        """What a `for` goes over, with each step charged."""
        return _Steps(self, items) if hasattr(items, "__len__") else self.steps_of(items)

    def steps_of(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(_STEP_COST)
            yield item

    def compile_guarded(self, source: str) -> Any:
        """The template of a source; joins and loops in it are charged like calls."""
        tree = _Charges().visit(self.parse(source))
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))


class _Namespace(Namespace):
    """Jinja2's, which would write out all that it holds."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Steps:
    """A list in a loop; it keeps its length, which `loop.length` and `loop.last` want."""

    def __init__(self, sandbox: ChatSandbox, items: Any) -> None:
        self._sandbox = sandbox
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return self._sandbox.steps_of(self._items)

    def __len__(self) -> int:
        return len(self._items)


class _Charges(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_steps", [], [], None, None, lineno=node.lineno)
        return node

    def visit_List(self, node: nodes.List | nodes.Dict | nodes.Tuple) -> nodes.Filter:
        self.generic_visit(node)
        return nodes.Filter(node, "_bounded", [], [], None, None, lineno=node.lineno)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        return self.visit_List(node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        return nodes.Filter(node, "_charge", [], [], None, None, lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_concat", [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_bits(bits: int) -> None:
    if bits > _MAX_INT_BITS:
        raise TemplateTooCostly("the chat template computes too large a number")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not (isinstance(indent, int) and indent <= _MAX_INDENT):
        raise TemplateError("the chat template indents JSON too far")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    if re.search(r"%[^A-Za-z%]*\d", layout):  # glibc pads to any width
        raise TemplateError("the chat template asks for a date with a width")
    return datetime.now().strftime(layout)
