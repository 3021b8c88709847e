"""Constrains an answer to a grammar, token by token, with llguidance: which tokens may come next, and which must.

Grammars compile in threads of their own. A large grammar is first compiled in a separate process with limits on time
and memory; small ones do not wait for it. `lark` and `gbnf` write the rules.
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

MAX_BYTES = 128 << 10  # size of a Lark grammar, whose schemas have no descriptions any more
_LARGE = 16 << 10  # bytes of a grammar that is first compiled in a process, which takes 0.1 s
_LIMITS: dict[str, Any] = {
    "max_grammar_size": 8_000,  # symbols: about 0.1 s, because the time grows with their square
    "max_lexer_states": 20_000,  # 1 to 2 kB each
    "initial_lexer_fuel": 250_000,  # of work on regular expressions before the first token: about 0.1 s
    "verbose_errors": False,
}
_STEP = re.compile(r'"multipleOf"\s*:\s*([\d.]{1,12})')
_MOST_STEPS = 2_000  # of all `multipleOf` together: the automata of their multiples have as many states
_ENCODED_AT_ONCE = 2048  # characters; other requests get a turn in between
_KEPT = 16  # compiled grammars
_ESCAPE = re.compile(r"\\[xuU]")
_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "choice": "choice"}


@dataclass(frozen=True)
class GrammarVocabulary:
    """The tokens that a matcher works with."""

    pieces: Sequence[bytes]  # by token id, the bytes that the token adds to a text; b"" for tokens without text
    end_ids: frozenset[int]  # tokens that end an answer
    encode: Callable[[str], list[int]]  # encodes a text in the middle of an answer


def byte_vocabulary() -> GrammarVocabulary:
    """Return a vocabulary for answers that arrive as text, with a token for each byte."""
    return GrammarVocabulary([bytes([byte]) for byte in range(256)], frozenset(), lambda text: list(text.encode()))


class Matcher:
    """The position of one answer in its grammar."""

    def __init__(self, matcher: Any, vocabulary: GrammarVocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._vocab_size = len(vocabulary.pieces)
        self._bits = np.zeros(self._vocab_size // 32 + 1, np.int32)

    def copy(self) -> "Matcher":
        """Copy the position, for another answer."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary)

    @property
    def ended(self) -> bool:
        """Return whether the answer is complete and nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def complete(self) -> bool:
        """Return whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    def allowed(self) -> NDArray[np.bool_]:
        """Return bool[n_vocab]: the tokens that may come next. Raises GenerationError if there are none."""
        self._compute()
        return np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._vocab_size].view(np.bool_)

    def forced(self) -> list[int]:
        """Return the tokens that must come next, as far as known, as the model's tokenizer makes them from the text.
        Raises GenerationError."""
        self._compute()  # releases Python's lock, which the rest holds
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    def take(self, tokens: Sequence[int]) -> bool:
        """Advance by these tokens; return False if the grammar does not allow them."""
        return bool(self._matcher.consume_tokens(tokens))

    def fits(self, text: bytes) -> bool:
        """Return whether a text of bytes may come next, for a vocabulary of bytes. Does not advance."""
        return bool(self._matcher.validate_tokens(list(text)) == len(text))

    def take_text(self, text: str) -> bool:
        """Advance by a text; return False if the grammar does not allow it."""
        return self.take(self._vocabulary.encode(text))

    def _compute(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            reason = _reason(self._matcher.get_error())
            if reason.startswith("NoExtension"):
                reason = "no token of the model's vocabulary goes on as it wants"
            raise GenerationError(f"The grammar cannot be followed: {reason}.")


class Grammars:
    """Compiles grammars for one vocabulary, and keeps some of them. `write` turns the rules into the form that an
    engine needs in addition."""

    def __init__(self, vocabulary: GrammarVocabulary, write: Callable[[Rules], str] = lambda rules: "") -> None:
        self._vocabulary = vocabulary
        self._write = write
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._careful_compiler = ThreadPoolExecutor(2, thread_name_prefix="large grammar")  # each waits for a process
        self._trials = Trials()
        self._compiled: OrderedDict[Grammar, _Compiled] = OrderedDict()
        self._lock = threading.Lock()  # size of what is kept
        self._lacking = frozenset(range(256)) - {piece[0] for piece in vocabulary.pieces if len(piece) == 1}  # bytes

    async def matcher(self, grammar: Grammar) -> tuple[Matcher, str]:
        """Return a matcher at the beginning of an answer, and the grammar in the engine's form. Raises InvalidRequest
        if no answer can follow the grammar."""
        if grammar.kind == "citations":
            return await asyncio.get_running_loop().run_in_executor(self._careful_compiler, self._quoting, grammar)
        compiled = self._known(grammar)
        if compiled is None:
            compiler = self._careful_compiler if _takes_long(grammar) else self._compiler
            compiled = await asyncio.get_running_loop().run_in_executor(compiler, self._compile, grammar)
        if compiled.matcher is None:
            name = _NAMES.get(grammar.kind, "grammar")
            raise InvalidRequest(f"No answer can be held to the {name}: {compiled.problem}", grammar.source)
        return Matcher(compiled.matcher.deep_copy(), self._vocabulary), compiled.written

    def _quoting(self, grammar: Grammar) -> tuple[Matcher, str]:
        """Return a matcher for an answer with citations. It is compiled for each request, because the states of its
        lexer are shared by all copies of a matcher and only grow. The limits are llama.cpp's."""
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
            message = f"No answer can be held to the documents: {_reason(problem)} Shorten them."
            raise InvalidRequest(message, grammar.source)
        return Matcher(matcher, self._vocabulary), text

    def close(self) -> None:
        """End the threads and processes."""
        self._trials.close()
        for compiler in (self._compiler, self._careful_compiler):
            compiler.shutdown(cancel_futures=True)

    def _known(self, grammar: Grammar) -> "_Compiled | None":
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
            return self._compiled.get(grammar)

    def _compile(self, grammar: Grammar) -> "_Compiled":
        """Return the compiled grammar, or the error."""
        if known := self._known(grammar):  # another request waited for it too
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
        """Compile a grammar of tool calls. If a function's schema cannot be enforced, its arguments are any JSON
        object; if all schemas together are too large, so are those of the largest."""
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
        # imported here because it takes time, and most servers never need it
        from llguidance import LLMatcher, LLParserLimits

        text = lark(rules)
        if self._lacking and (_ESCAPE.search(text) or not self._lacking.isdisjoint(text.encode())):
            text = text.replace(HEAD, UNFORCED_HEAD, 1)  # forced text may have no tokens
        if (size := len(text.encode())) > MAX_BYTES:
            raise ValueError(f"it has {size} bytes, and {MAX_BYTES} may be")
        written = self._write(rules)
        if _is_costly(text):
            self._trials.check(text, _LIMITS)
        matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        beginning = Matcher(matcher.deep_copy(), self._vocabulary)  # some errors only show at the first token
        if not beginning.take(beginning.forced()):
            raise ValueError("what must come first has no end")
        return _Compiled(matcher, written)

    @cached_property
    def _tokenizer(self) -> Any:
        return _tokenizer(self._vocabulary)


@dataclass(frozen=True)
class _Compiled:
    """A grammar at its beginning, with its form for the engine, or the error."""

    matcher: Any = None
    written: str = ""
    problem: str = ""


def _takes_long(grammar: Grammar) -> bool:
    """Return whether a grammar must not keep others waiting."""
    rules = grammar.rules
    texts = [grammar.text] if rules is None else [schema.text for schema in schemas(rules)]
    return grammar.kind == "lark" or sum(map(len, texts)) > _LARGE or any(map(_is_costly, texts))


def _is_costly(text: str) -> bool:
    """Return whether a grammar or schema may take long to compile."""
    steps = sum(int(digits.replace(".", "").strip("0") or 0) for digits in _STEP.findall(text))
    users_json = USER_START in text and "%json" in text  # it may spell anything in other ways
    return len(text) > _LARGE or steps > _MOST_STEPS or users_json


def _tokenizer(vocabulary: GrammarVocabulary) -> Any:
    """Build llguidance's view of the vocabulary. Takes about 0.2 s for 50,000 tokens, while holding Python's lock."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(
        TokenizerWrapper(_Tokens(vocabulary)), eos_token=sorted(vocabulary.end_ids) or [len(vocabulary.pieces)]
    )


class _Tokens:
    """A vocabulary in the form that TokenizerWrapper wants. No text matches a token that begins with 0xFF."""

    bos_token_id = None

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        hidden = {token: f"<end {token}>" for token in vocabulary.end_ids}
        self.tokens = [*vocabulary.pieces, b"\xff<no end>"]  # an end token, if the vocabulary has none
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
        # Some vocabularies cannot encode some texts.
        return tokens if b"".join(self.tokens[token] for token in tokens) == text else []


def _reason(problem: str) -> str:
    """Return an error of llguidance as one line, without the place and the grammar that it repeats."""
    text = re.split(r"\n\s*\d+ \| |\n<non-verbose", re.sub(r"^at \d+\(\d+\): ", "", problem))[0]
    return " ".join(text.split())[:300]
