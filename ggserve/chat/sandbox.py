"""Jinja2 for untrusted templates: a chat template comes with a downloaded file.

Only the filters, tests, methods and functions listed here can be used: those of public templates. The text that a
template builds and its loops are charged against a budget, and what would exceed it in one step is rejected beforehand.
A deadline stops templates that are slow without building anything. A list may contain the same list many times, so that
little memory becomes a huge text when it is written out or compared: no value whose written size exceeds a limit is
made.
"""

import json
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from datetime import datetime
from functools import wraps
from time import monotonic
from typing import Any

from jinja2 import ChainableUndefined, Environment, StrictUndefined, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import SandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ggserve.errors import TemplateError

_BUDGET = 64_000_000  # characters built by one rendering
_LONGEST = 500_000  # items of a list or dict
_LARGEST = 16_000_000  # characters of a list or dict, written out
_LONGEST_TEXTS = {  # characters of what a filter or method takes apart
    **dict.fromkeys(("list", "max", "min", "sort", "title", "unique"), _LONGEST),
    **dict.fromkeys(("from_json", "rsplit", "split", "splitlines"), 4_000_000),
}
_STEP_COST = 64  # cost of a loop's step or a call, in characters: a million of them is about a second
MAX_SECONDS = 5.0
_CHARACTERS_PER_STEP = 16  # characters of a text that a method searches
_MAX_WIDTH = 1_000  # of an indentation, in characters
_MAX_INDENT = 16
_MAX_INT_BITS = 10_000
_PLAIN_FORMAT = re.compile(r"(?:[^%]|%[sd%]|%\.\d{1,2}f)*")
_CONTAINERS = (list, tuple, dict, KeysView, ValuesView, ItemsView)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILTERS = _names(
    "abs capitalize count d default dictsort first float indent int items join last length list lower map max min "
    "reject rejectattr replace reverse round safe select selectattr sort string title trim unique upper"
)
_TESTS = _names(
    "!= < <= == > >= boolean defined eq equalto even false float ge greaterthan gt in integer iterable le lessthan lt "
    "mapping ne none number odd sequence string true undefined"
)
_METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (
        str,
        _names(
            "capitalize count endswith find index isalpha isdigit islower isnumeric isspace isupper join lower lstrip "
            "partition removeprefix removesuffix replace rfind rpartition rsplit rstrip split splitlines startswith "
            "strip title upper"
        ),
    ),
    (dict, _names("get items keys values")),
    (list, _names("append count index pop")),
    (tuple, _names("count index")),
    (
        LoopContext,
        _names("changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"),
    ),
)


class ChatSandbox(SandboxedEnvironment):
    """Renders like `transformers`: trimmed blocks, loop controls, `raise_exception`, `strftime_now`, `tojson` without
    HTML escapes. Not for use from two threads at once: it has one budget."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            undefined=_Missing,
            optimized=False,  # folding constants would run them outside any budget
            cache_size=0,
        )
        self.refill()
        filters = {name: self.filters[name] for name in _FILTERS} | {"tojson": _to_json, "from_json": json.loads}
        self.filters = {name: self._charged(name, filter_) for name, filter_ in filters.items()}
        self.tests = {name: self.tests[name] for name in _TESTS}
        self.filters["_concat"] = self.concat
        self.filters["_steps"] = self._steps
        self.filters["_charge"] = self._charge
        self.filters["_bounded"] = self._bounded
        self.globals = {
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "range": safe_range,
            "strftime_now": _strftime_now,
        }

    def refill(self, seconds: float = MAX_SECONDS) -> None:
        """Start a rendering with the whole budget and this much time."""
        self._left = _BUDGET
        self._deadline = monotonic() + seconds
        # sizes of lists and dicts by id, with the objects themselves, so that ids stay valid
        self._sizes: dict[int, tuple[int, Any]] = {}
        self._inner: set[int] = set()  # ids of those that are inside others, whose sizes include theirs

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise TemplateError("the chat template builds too much text or loops too long")
        if monotonic() > self._deadline:
            raise TemplateError("the chat template takes too long")

    def concat(self, parts: Iterable[Any]) -> str:
        """Join the output of a block, a macro or `~`."""
        texts = [str(part) for part in parts]
        self.spend(sum(map(len, texts)))
        return "".join(texts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (Namespace, Undefined)):
            return not attr.startswith("_")
        return any(isinstance(obj, kind) and attr in methods for kind, methods in _METHODS)

    def wrap_str_format(self, value: Any) -> None:
        """Return nothing: `str.format` is not for templates."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Forbid calling a member of a dict whose name is a method that is not for templates."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return StrictUndefined(f"{attribute} of a {type(obj).__name__} is not available", exc=SecurityError)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, (bytes, bytearray)):
            raise TemplateError("the chat template uses bytes")
        if operator == "*":
            for sized, times in ((left, right), (right, left)):
                if hasattr(sized, "__len__") and isinstance(times, int):
                    self.spend(len(sized) * max(times, 0))
            if isinstance(left, int) and isinstance(right, int):
                _check_bits(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            self.spend(len(left))
            if not _PLAIN_FORMAT.fullmatch(left):
                raise TemplateError("the chat template uses a format that is not allowed")
        return self._charge(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.spend(_STEP_COST)
        for value in (*args, *kwargs.values()):
            __self._bounded(value)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            __self._check_method(owner, __obj.__name__, args, kwargs)
        elif isinstance(owner, list) and __obj.__name__ == "append":
            __self._check_append(owner, args)
        return __self._charge(super().call(__context, __obj, *args, **kwargs))

    def _charged(self, name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(filter_)  # keeps the mark that tells Jinja2 what to pass first
        def charged(*args: Any, **kwargs: Any) -> Any:
            self.spend(_STEP_COST)
            args = tuple(self._bounded(list(self.steps_of(arg))) if isinstance(arg, Iterator) else arg for arg in args)
            # Jinja2 passes one of these to some filters first.
            values = args[isinstance(args[0], (Context, EvalContext, Environment)) :]
            if name == "join":
                self._check_join(kwargs.get("d", values[1] if len(values) > 1 else ""), values[0])
            elif values and isinstance(values[0], str):
                self._check_method(values[0], name, values[1:], kwargs)
            return self._charge(filter_(*args, **kwargs))

        return charged

    def _check_method(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Reject a small text that would become a large one, before it is made."""
        self.spend(len(text) // _CHARACTERS_PER_STEP)
        if name == "indent":
            widths = [len(value) if isinstance(value, str) else value for value in (*args, *kwargs.values())]
            width = max((width for width in widths if isinstance(width, int)), default=4)
            if width > _MAX_WIDTH:
                raise TemplateError("the chat template builds too wide a text")
            self.spend(len(text.splitlines()) * width)
        elif name == "replace":
            old = args[0] if args else kwargs.get("old", kwargs.get("s", ""))
            new = args[1] if len(args) > 1 else kwargs.get("new", "")
            self.spend(len(text) + text.count(str(old)) * len(str(new)))
        elif name == "join" and args:
            self._check_join(text, args[0])
        else:
            self._check_parts(text, name, *args, **kwargs)

    def _check_parts(self, text: str, name: str, sep: Any = None, maxsplit: Any = -1, *_: Any, **__: Any) -> None:
        if name in ("split", "rsplit") and sep:
            parts = text.count(str(sep)) if maxsplit < 0 else min(maxsplit, len(text))
            longest = _LONGEST
        else:
            parts, longest = len(text), _LONGEST_TEXTS.get(name, _BUDGET)
        if parts > longest:
            raise TemplateError("the chat template takes too long a text apart")

    def _check_join(self, separator: Any, parts: Any) -> None:
        if not hasattr(parts, "__len__"):
            raise TemplateError("the chat template joins something other than a list")
        self.spend(len(str(separator)) * len(parts))

    def _check_append(self, items: list[Any], args: tuple[Any, ...]) -> None:
        """Only a value that no other contains may grow; otherwise sizes would become wrong."""
        if id(items) in self._inner or any(arg is items for arg in args):
            raise TemplateError("the chat template changes a nested list")
        self._sizes.pop(id(items), None)
        self._bounded([*items, *args])

    def _charge(self, value: Any) -> Any:
        if isinstance(value, (str, bytes)):
            self.spend(len(value))
        elif isinstance(value, _CONTAINERS):
            self.spend(8 * len(value))
            self._bounded(value)
        elif isinstance(value, int):
            _check_bits(value.bit_length())
        return value

    def _bounded(self, value: Any) -> Any:
        """Return the value, unless it is a list or dict too large to be written out."""
        if isinstance(value, _CONTAINERS) and (len(value) > _LONGEST or self._written(value) > _LARGEST):
            raise TemplateError("the chat template builds too large a list")
        return value

    def _written(self, value: Any) -> int:
        """Return a lower limit of the characters that a value has when written out; lists that occur twice count twice.

        Nothing in the sandbox changes a list or dict that is inside another, so each is measured once.
        """
        if isinstance(value, str):
            return len(value) + 1
        if not isinstance(value, _CONTAINERS):
            return 1
        if (known := self._sizes.get(id(value))) is None:
            items = (*value.keys(), *value.values()) if isinstance(value, dict) else (*value,)
            self._inner.update(id(item) for item in items if isinstance(item, _CONTAINERS))
            known = self._sizes[id(value)] = 1 + sum(map(self._written, items)), value
        return known[0]

    def _steps(self, items: Any) -> Any:
        """Yield the items of a `for`, with each step charged."""
        return _Steps(self, items) if hasattr(items, "__len__") else self.steps_of(items)

    def steps_of(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(_STEP_COST)
            yield item

    def compile_guarded(self, source: str) -> Any:
        """Compile a template; joins and loops in it are charged like calls."""
        tree = _Charges().visit(self.parse(source))
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))


class _Missing(ChainableUndefined):
    """A value that a template uses and nobody set: an empty text, and a member of itself."""

    def __add__(self, other: Any) -> Any:
        return other

    def __radd__(self, other: Any) -> Any:
        return other


class _Namespace(Namespace):
    """Jinja2's own would write out all that it holds."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Steps:
    """A list in a loop; it keeps its length for `loop.length` and `loop.last`."""

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
        raise TemplateError("the chat template computes too large a number")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not (isinstance(indent, int) and indent <= _MAX_INDENT):
        raise TemplateError("the chat template indents JSON too far")
    return json.dumps(
        None if isinstance(value, Undefined) else value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    if re.search(r"%[^A-Za-z%]*\d", layout):  # glibc pads to any width
        raise TemplateError("the chat template uses a date format with a width")
    return datetime.now().strftime(layout)
