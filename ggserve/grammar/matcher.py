"""Constrain an answer to a grammar, token by token, with llguidance: which tokens are allowed next, and which are
forced.

Grammars compile in separate threads. A large grammar is first compiled in a child process with limited time and memory;
large and small grammars do not wait for each other. `lark` and `gbnf` write the rules.
"""

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggserve.errors import GenerationError, InvalidRequest
from ggserve.generation import Grammar
from ggserve.grammar.citations import citation_lark, opening_mark
from ggserve.grammar.lark import HEAD, UNFORCED_HEAD, USER_START, lark
from ggserve.grammar.requested import rules as requested_rules
from ggserve.grammar.rules import Rule, Rules, Schema, schemas, with_schemas
from ggserve.grammar.trial import Trials

MAX_BYTES = 128 << 10  # of a grammar in Lark, with descriptions removed from schemas
_LARGE = 16 << 10  # bytes; a larger grammar is compiled in a child process first, which takes 0.1 s
_LIMITS: dict[str, Any] = {
    "max_grammar_size": 8_000,  # symbols: about 0.1 s; the time grows quadratically
    "max_lexer_states": 20_000,  # 1 to 2 kB each
    "initial_lexer_fuel": 250_000,  # work on regular expressions before the first token: about 0.1 s
    "verbose_errors": False,
}
_STEP = re.compile(r'"multipleOf"\s*:\s*([\d.]{1,12})')
_MOST_STEPS = 2_000  # limit of the sum of all `multipleOf`: the number of states of their automata
_ENCODED_AT_ONCE = 2048  # characters; other threads run in between
_KEPT = 16  # compiled grammars
_ESCAPE = re.compile(r"\\[xuU]")
_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "choice": "choice"}


@dataclass(frozen=True)
class GrammarVocabulary:
    """The vocabulary that grammars are matched against."""

    pieces: Sequence[bytes]  # by token id: the bytes that the token adds to a text; b"" for tokens without text
    end_ids: frozenset[int]  # tokens that end an answer
    encode: Callable[[str], list[int]]  # encodes a text in the middle of an answer


def byte_vocabulary() -> GrammarVocabulary:
    """Return a vocabulary with one token per byte, for answers that arrive as text."""
    return GrammarVocabulary([bytes([byte]) for byte in range(256)], frozenset(), lambda text: list(text.encode()))


class Matcher:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: Any, vocabulary: GrammarVocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._vocab_size = len(vocabulary.pieces)
        self._bits = np.zeros(self._vocab_size // 32 + 1, np.int32)

    def copy(self) -> "Matcher":
        """Return a matcher in the same state, for another answer."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary)

    @property
    def ended(self) -> bool:
        """True if nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def complete(self) -> bool:
        """True if the answer can end here."""
        return bool(self._matcher.is_accepting())

    def allowed(self) -> NDArray[np.bool_]:
        """Return bool[n_vocab]: the tokens that are allowed next. Raises GenerationError if there are none."""
        self._compute()
        return np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._vocab_size].view(np.bool_)

    def forced(self) -> list[int]:
        """Return the forced next tokens, as far as they are known, in the model's own tokenization of the text. Raises
        GenerationError."""
        self._compute()  # releases the GIL; the rest holds it
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    def take(self, tokens: Sequence[int]) -> bool:
        """Advance by these tokens. Return False if the grammar does not allow them."""
        return bool(self._matcher.consume_tokens(tokens))

    def fits(self, text: bytes) -> bool:
        """Return whether a text of bytes is allowed next, without advancing. For a byte vocabulary."""
        return bool(self._matcher.validate_tokens(list(text)) == len(text))

    def take_text(self, text: str) -> bool:
        """Advance by a text. Return False if the grammar does not allow it."""
        return self.take(self._vocabulary.encode(text))

    def _compute(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            reason = _reason(self._matcher.get_error())
            if reason.startswith("NoExtension"):
                reason = "no token of the model's vocabulary is allowed next"
            raise GenerationError(f"The answer cannot continue under the grammar: {reason}.")


class Grammars:
    """Compiles grammars for one vocabulary and caches them. `write` converts rules for the engine."""

    def __init__(self, vocabulary: GrammarVocabulary, write: Callable[[Rules], str] = lambda rules: "") -> None:
        self._vocabulary = vocabulary
        self._write = write
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._careful_compiler = ThreadPoolExecutor(
            2, thread_name_prefix="large grammar"
        )  # each thread waits for a child process
        self._trials = Trials()
        self._compiled: OrderedDict[Grammar, _Compiled] = OrderedDict()
        self._lock = threading.Lock()  # guards the cache
        self._lacking = frozenset(range(256)) - {piece[0] for piece in vocabulary.pieces if len(piece) == 1}  # bytes

    async def matcher(self, grammar: Grammar) -> tuple[Matcher, str]:
        """Return the matcher at the beginning of an answer, and the grammar in the engine's form. Raises InvalidRequest
        if the grammar cannot be used."""
        if grammar.kind == "citations":
            return await asyncio.get_running_loop().run_in_executor(self._careful_compiler, self._quoting, grammar)
        compiled = self._known(grammar)
        if compiled is None:
            compiler = self._careful_compiler if _takes_long(grammar) else self._compiler
            compiled = await asyncio.get_running_loop().run_in_executor(compiler, self._compile, grammar)
        if compiled.matcher is None:
            name = _NAMES.get(grammar.kind, "grammar")
            raise InvalidRequest(f"The {name} cannot be used: {compiled.problem}", grammar.source)
        return Matcher(compiled.matcher.deep_copy(), self._vocabulary), compiled.written

    def _quoting(self, grammar: Grammar) -> tuple[Matcher, str]:
        """Do the same as `matcher` for an answer with citations. Compiled for each request, because copies of a matcher
        share its lexer states, which only grow. The limits are llama.cpp's."""
        from llguidance import LLMatcher, LLParserLimits

        text = citation_lark(grammar)
        matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=LLParserLimits(verbose_errors=False))
        problem = matcher.get_error()
        if not problem:
            beginning = Matcher(matcher.deep_copy(), self._vocabulary)
            try:
                beginning.take_text(opening_mark(grammar))
                beginning.allowed()
            except GenerationError as error:
                problem = str(error)
        if problem:
            message = f"The documents cannot be quoted: {_reason(problem)} Shorten them."
            raise InvalidRequest(message, grammar.source)
        return Matcher(matcher, self._vocabulary), text

    def close(self) -> None:
        """Stop the threads and child processes."""
        self._trials.close()
        for compiler in (self._compiler, self._careful_compiler):
            compiler.shutdown(cancel_futures=True)

    def _known(self, grammar: Grammar) -> "_Compiled | None":
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
            return self._compiled.get(grammar)

    def _compile(self, grammar: Grammar) -> "_Compiled":
        """Return the compiled grammar, or the problem with it."""
        if known := self._known(grammar):  # another request compiled it in the meantime
            return known
        try:
            compiled = self._compile_anew(grammar)
        except (TypeError, ValueError, RecursionError, GenerationError) as error:
            compiled = _Compiled(problem=_reason(str(error)))
        with self._lock:
            self._compiled[grammar] = compiled
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return compiled

    def _compile_anew(self, grammar: Grammar) -> "_Compiled":
        rules = requested_rules(grammar)
        try:
            return self._compile_rules(rules)
        except ValueError:
            if not any(schema.tool for schema in schemas(rules)):
                raise
        return self._compile_loosely(rules)

    def _compile_loosely(self, rules: Rules) -> "_Compiled":
        """Compile a grammar of tool calls. If a function's schema is not supported, its arguments can be any object. If
        all schemas together are too large, only the smallest are used."""
        followed = []
        for schema in (each for each in schemas(rules) if each.tool):
            try:
                self._compile_rules(Rules(schema))
                followed.append(schema)
            except ValueError as error:
                if not schema.loose:
                    raise ValueError(f"the parameters of {schema.tool}: {_reason(str(error))}") from error
        strict = [schema for schema in followed if not schema.lenient]
        others = sorted((schema for schema in followed if schema.lenient), key=lambda schema: len(schema.text))
        while True:
            kept = {*strict, *others}
            changed: dict[Schema, Rule] = {
                each: each.loosened() for each in schemas(rules) if each.tool and each not in kept
            }
            try:
                return self._compile_rules(with_schemas(rules, changed))
            except ValueError:
                if not others:
                    raise
            others = others[: len(others) // 2]

    def _compile_rules(self, rules: Rules) -> "_Compiled":
        from llguidance import (
            LLMatcher,
            LLParserLimits,
        )  # imported here because it is slow and most servers never need it

        text = lark(rules)
        if self._lacking and (_ESCAPE.search(text) or not self._lacking.isdisjoint(text.encode())):
            text = text.replace(HEAD, UNFORCED_HEAD, 1)  # forced text may contain bytes without a token
        if (size := len(text.encode())) > MAX_BYTES:
            raise ValueError(f"it has {size} bytes; the limit is {MAX_BYTES}")
        written = self._write(rules)
        if _is_costly(text):
            self._trials.check(text, _LIMITS)
        matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        beginning = Matcher(matcher.deep_copy(), self._vocabulary)  # some errors appear only at the first token
        if not beginning.take(beginning.forced()):
            raise ValueError("its beginning never ends")
        return _Compiled(matcher, written)

    @cached_property
    def _tokenizer(self) -> Any:
        """llguidance's view of the vocabulary. Building it takes about 0.2 s for 50,000 tokens and holds the GIL."""
        return _tokenizer(self._vocabulary)


@dataclass(frozen=True)
class _Compiled:
    """A compiled grammar at its beginning with the engine's form of it, or the problem with it."""

    matcher: Any = None
    written: str = ""
    problem: str = ""


def _takes_long(grammar: Grammar) -> bool:
    """Return whether compiling a grammar would delay other requests."""
    rules = grammar.rules
    texts = [grammar.text] if rules is None else [schema.text for schema in schemas(rules)]
    return grammar.kind == "lark" or sum(map(len, texts)) > _LARGE or any(map(_is_costly, texts))


def _is_costly(text: str) -> bool:
    """Return whether a grammar or schema can take long to compile."""
    steps = sum(int(digits.replace(".", "").strip("0") or 0) for digits in _STEP.findall(text))
    users_json = USER_START in text and "%json" in text  # whose strings can use escapes
    return len(text) > _LARGE or steps > _MOST_STEPS or users_json


def _tokenizer(vocabulary: GrammarVocabulary) -> Any:
    """Build llguidance's view of the vocabulary. Takes about 0.2 s for 50,000 tokens, while holding Python's lock."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(
        TokenizerWrapper(_Tokens(vocabulary)), eos_token=sorted(vocabulary.end_ids) or [len(vocabulary.pieces)]
    )


class _Tokens:
    """A vocabulary in the form of llguidance's TokenizerWrapper. No text matches a token that begins with 0xFF."""

    bos_token_id = None

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        hidden = {token: f"<end {token}>" for token in vocabulary.end_ids}
        self.tokens = [*vocabulary.pieces, b"\xff<no end>"]  # an end token, for vocabularies without one
        for token, name in hidden.items():
            self.tokens[token] = b"\xff" + name.encode()
        self.special_token_ids = [*hidden, len(vocabulary.pieces)]
        self.eos_token_id = min(vocabulary.end_ids, default=len(vocabulary.pieces))
        self._encode = vocabulary.encode

    def __call__(self, text: bytes) -> list[int]:
        tokens = []
        whole = text.decode("utf-8", "replace")
        for start in range(0, len(whole), _ENCODED_AT_ONCE):
            tokens += self._encode(whole[start : start + _ENCODED_AT_ONCE])
        # Some vocabularies cannot encode every text.
        return tokens if b"".join(self.tokens[token] for token in tokens) == text else []


def _reason(problem: str) -> str:
    """Return an llguidance error as one line, without the position and the grammar that it repeats."""
    text = re.split(r"\n\s*\d+ \| |\n<non-verbose", re.sub(r"^at \d+\(\d+\): ", "", problem))[0]
    return " ".join(text.split())[:300]
