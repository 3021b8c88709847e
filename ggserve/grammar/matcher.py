"""Holds an answer to a grammar, token by token, with llguidance: what may come next, and what must.

Compiling is the work of one thread of its own, so that a grammar that takes long costs others little. What is compiled,
and how a grammar that comes as something else is written, is in `lark`.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggserve.errors import GenerationError, InvalidRequest
from ggserve.generation import Grammar
from ggserve.grammar.citations import opening_mark
from ggserve.grammar.lark import HEAD, UNFORCED_HEAD, lark

MAX_BYTES = 128 << 10  # of a grammar in Lark, where a schema has no descriptions any more
_MAX_TEXT = 1 << 20  # characters of a grammar as it comes
_MAX_SYMBOLS = 8_000  # of a compiled grammar: about 0.1 s, for the time grows with their square
_MAX_LEXER_STATES = 20_000  # 1 to 2 kB each
_LEXER_FUEL = 250_000  # of the work on regular expressions before the first token: about 0.1 s
_ENCODED_AT_ONCE = 2048  # characters; others get a turn in between
_KEPT = 16  # compiled grammars
_ESCAPE = re.compile(r"\\[xuU]")
_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "choice": "choice"}


@dataclass(frozen=True)
class GrammarVocabulary:
    """The tokens that grammars are followed with."""

    pieces: Sequence[bytes]  # by token id, the bytes that the token adds to a text; b"" for those without a text
    end_ids: frozenset[int]  # tokens that end an answer
    encode: Callable[[str], list[int]]  # ids of a text in the middle of an answer
    control: Mapping[int, str] = field(default_factory=dict)  # control tokens that a grammar may name, and their names


def byte_vocabulary(control: Sequence[str] = ()) -> GrammarVocabulary:
    """For an answer that comes as text: a token for each byte, and one for each of these control tokens."""
    names = dict(enumerate(control, 256))
    pieces = [*(bytes([byte]) for byte in range(256)), *(b"" for _ in control)]
    by_name = {name: token for token, name in names.items()}
    splitter = re.compile(f"({'|'.join(map(re.escape, names.values())) or '(?!)'})")

    def encode(text: str) -> list[int]:
        parts = ([by_name[part]] if part in by_name else part.encode() for part in splitter.split(text))
        return [token for part in parts for token in part]

    return GrammarVocabulary(pieces, frozenset(), encode, names)


class Matcher:
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: Any, vocabulary: GrammarVocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._vocab_size = len(vocabulary.pieces)
        self._bits = np.zeros(self._vocab_size // 32 + 1, np.int32)

    def copy(self) -> "Matcher":
        """Another answer that has come as far."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary)

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def complete(self) -> bool:
        """Whether nothing need follow."""
        return bool(self._matcher.is_accepting())

    def allowed(self) -> NDArray[np.bool_]:
        """bool[n_vocab]: the tokens that may come next. Raises GenerationError where none may."""
        self._compute()
        return np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._vocab_size].view(np.bool_)

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as that is known: as the model's tokenizer makes them of the text.
        Raises GenerationError."""
        self._compute()  # without the interpreter's lock, which the rest holds
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    def take(self, tokens: Sequence[int]) -> bool:
        """Goes on by these tokens; False where the grammar does not."""
        return bool(self._matcher.consume_tokens(tokens))

    def fits(self, text: bytes) -> bool:
        """Whether a text of bytes may come next, for a vocabulary of bytes. Takes nothing."""
        return bool(self._matcher.validate_tokens(list(text)) == len(text))

    def take_text(self, text: str) -> bool:
        """Goes on by a text; False where the grammar does not."""
        return self.take(self._vocabulary.encode(text))

    def _compute(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            reason = _reason(self._matcher.get_error())
            if reason.startswith("NoExtension"):
                reason = "no token of the model's vocabulary goes on as it wants"
            raise GenerationError(f"The grammar cannot be followed: {reason}.")


class Grammars:
    """Compiles grammars for one vocabulary, and keeps some."""

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        self._vocabulary = vocabulary
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._compiled: OrderedDict[Grammar, tuple[str, Any | str]] = OrderedDict()
        self._lacking = frozenset(range(256)) - {piece[0] for piece in vocabulary.pieces if len(piece) == 1}  # bytes
        self._tokenizer: Any = None

    async def matcher(self, grammar: Grammar) -> tuple[Matcher, str]:
        """Where an answer begins, and the grammar in Lark. Raises InvalidRequest where no answer can be held to it."""
        if grammar.kind == "citations":
            return await asyncio.get_running_loop().run_in_executor(self._compiler, self._quoting, grammar)
        lark_text, compiled = await asyncio.get_running_loop().run_in_executor(self._compiler, self._compile, grammar)
        if isinstance(compiled, str):
            name = _NAMES.get(grammar.kind, "grammar")
            raise InvalidRequest(f"No answer can be held to the {name}: {compiled}", grammar.source)
        return Matcher(compiled.deep_copy(), self._vocabulary), lark_text

    def _quoting(self, grammar: Grammar) -> tuple[Matcher, str]:
        """As `matcher`, for an answer with citations. It is compiled anew for each request: the states of its lexer are
        shared by the copies of a matcher, and only grow. The limits are those of llama.cpp."""
        from llguidance import LLMatcher, LLParserLimits

        text = lark(grammar)
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._vocabulary)
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
        """Ends the thread."""
        self._compiler.shutdown(cancel_futures=True)

    def _compile(self, grammar: Grammar) -> tuple[str, Any | str]:
        """The grammar in Lark, and a matcher at its beginning or what is wrong with it."""
        if grammar not in self._compiled:
            try:
                text, compiled = self._compile_anew(grammar)
            except (TypeError, ValueError, RecursionError, GenerationError) as error:
                text, compiled = "", _reason(str(error))
            self._compiled[grammar] = text, compiled
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return self._compiled[grammar]

    def _compile_anew(self, grammar: Grammar) -> tuple[str, Any]:
        from llguidance import LLMatcher, LLParserLimits

        if len(grammar.text) > _MAX_TEXT:
            raise ValueError(f"it has {len(grammar.text)} characters, and {_MAX_TEXT} may be")
        text = lark(grammar)
        if self._lacking and (_ESCAPE.search(text) or not self._lacking.isdisjoint(text.encode())):
            text = text.replace(HEAD, UNFORCED_HEAD, 1)  # what must come next may have no tokens
        if (size := len(text.encode())) > MAX_BYTES:
            raise ValueError(f"it has {size} bytes, and {MAX_BYTES} may be")
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._vocabulary)
        limits = LLParserLimits(
            max_grammar_size=_MAX_SYMBOLS,
            max_lexer_states=_MAX_LEXER_STATES,
            initial_lexer_fuel=_LEXER_FUEL,
            verbose_errors=False,
        )
        matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=limits)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        beginning = Matcher(matcher.deep_copy(), self._vocabulary)  # some errors show at the first token
        if not beginning.take(beginning.forced()):
            raise ValueError("what must come first has no end")
        return text, matcher


def _tokenizer(vocabulary: GrammarVocabulary) -> Any:
    """llguidance's view of the vocabulary. Takes about 0.2 s for 50,000 tokens, with the interpreter's lock."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(
        TokenizerWrapper(_Tokens(vocabulary)), eos_token=sorted(vocabulary.end_ids) or [len(vocabulary.pieces)]
    )


class _Tokens:
    """A vocabulary as TokenizerWrapper wants it. No text matches a token that begins with 0xFF."""

    bos_token_id = None

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        hidden = {token: f"<end {token}>" for token in vocabulary.end_ids} | dict(vocabulary.control)
        self.tokens = [*vocabulary.pieces, b"\xff<no end>"]  # an end, where the vocabulary has none
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
        # Some vocabularies have no tokens for some texts.
        return tokens if b"".join(self.tokens[token] for token in tokens) == text else []


def _reason(problem: str) -> str:
    """An error of llguidance in one line, without the place and the grammar that it repeats."""
    text = re.split(r"\n\s*\d+ \| |\n<non-verbose", re.sub(r"^at \d+\(\d+\): ", "", problem))[0]
    return " ".join(text.split())[:300]
