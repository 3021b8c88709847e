"""The confidence in an answer that is constrained by a grammar: in the choice, or in each JSON value.

The probability of a value is that of its tokens among the tokens that the schema allows in their places. For constants,
booleans and null it comes with the alternatives. They are read from the distributions that the answer was sampled from;
an alternative that these do not decide, or do not contain, is evaluated.
"""

import json
import math
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from ggserve.errors import InvalidRequest
from ggserve.generation import Delta, SamplingParams, ScoredToken
from ggserve.grammar.leaves import Leaf, alternatives, has_leaves, leaves
from ggserve.grammar.matcher import Grammars, Matcher, byte_vocabulary
from ggserve.model.labels import choice_probabilities, choose
from ggserve.model.load import LoadedModel

_TOP = 200  # likeliest tokens in each place; the rest is assumed to be allowed in the same proportion
_MOST_CHOICES = 256
_LITTLE = 1e-3  # of the probability; less is not worth an evaluation
_GOES_ON = b"0123456789.eE+-"  # the key has a number


class Confidence:
    """Adds the confidence to the last delta of each answer."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._grammars = Grammars(byte_vocabulary())

    async def watched(
        self,
        generate: Callable[[SamplingParams], AsyncGenerator[Delta, None]],
        params: SamplingParams,
        prompt: Sequence[int] | None,
    ) -> AsyncGenerator[Delta, None]:
        """Yield the deltas of an answer. `prompt` None: its tokens are unknown. Raises InvalidRequest too."""
        _check(params)
        watch: _ChoiceWatch | _FieldWatch | None = None
        wanted = params
        if params.confidence == "choice_probabilities":
            watch = _ChoiceWatch(self._loaded, params, prompt)
        elif params.confidence == "field_confidence":
            watch = _FieldWatch(self._loaded, self._grammars, params, prompt)
            wanted = replace(params, logprobs=max(_TOP, params.logprobs or 0))
        async with aclosing(generate(wanted)) as deltas:
            async for delta in deltas:
                yield await watch.seen(delta) if watch else delta

    def close(self) -> None:
        """End its thread."""
        self._grammars.close()


def _check(params: SamplingParams) -> None:
    """Raise InvalidRequest if the answer cannot have confidence."""
    grammar, field = params.grammar, params.confidence
    if field == "choice_probabilities":
        if grammar is None or grammar.kind != "choice":
            raise InvalidRequest("choice_probabilities needs guided_choice.", field)
        if len(json.loads(grammar.text)) > _MOST_CHOICES:
            message = f"choice_probabilities supports up to {_MOST_CHOICES} choices."
            raise InvalidRequest(message, grammar.source)
    if field == "field_confidence":
        if grammar is None or grammar.kind != "json_schema":
            raise InvalidRequest("field_confidence requires structured output with a JSON schema, and no tools.", field)
        if not has_leaves(json.loads(grammar.text)):
            raise InvalidRequest("field_confidence needs a JSON schema with values: this one has none.", grammar.source)


class _ChoiceWatch:
    def __init__(self, loaded: LoadedModel, params: SamplingParams, prompt: Sequence[int] | None) -> None:
        if prompt is None:
            raise InvalidRequest("choice_probabilities cannot be combined with images.", params.confidence)
        assert params.grammar is not None
        self._loaded = loaded
        self._grammar = params.grammar
        self._prompt = prompt
        self._found: Mapping[str, Any] | None = None

    async def seen(self, delta: Delta) -> Delta:
        if delta.finish_reason is None:
            return delta
        if self._found is None:
            choices = json.loads(self._grammar.text)
            decision = await choose(self._loaded, self._prompt, choices, self._grammar.source or "")
            self._found = choice_probabilities(choices, decision)
        return replace(delta, confidence={"choice_probabilities": self._found})


class _FieldWatch:
    def __init__(
        self, loaded: LoadedModel, grammars: Grammars, params: SamplingParams, prompt: Sequence[int] | None
    ) -> None:
        self._loaded = loaded
        self._grammars = grammars
        self._params = params
        self._prompt = prompt
        self._texts: dict[int, str] = {}  # by answer
        self._tokens: dict[int, list[ScoredToken]] = {}

    async def seen(self, delta: Delta) -> Delta:
        text = self._texts[delta.index] = self._texts.get(delta.index, "") + delta.text
        tokens = self._tokens.setdefault(delta.index, [])
        tokens += delta.tokens
        shown = delta.tokens if self._params.logprobs is not None else ()
        delta = replace(delta, tokens=tuple(replace(one, top=one.top[: self._params.logprobs]) for one in shown))
        if delta.finish_reason is None:
            return delta
        assert self._params.grammar is not None
        matcher, _ = await self._grammars.matcher(self._params.grammar)
        reader = _Reader(self._loaded, self._prompt, tokens, text, matcher)
        schema = json.loads(self._params.grammar.text)
        fields = {leaf.pointer: await reader.field(leaf, alternatives(schema, leaf.path)) for leaf in leaves(text)}
        return replace(delta, confidence={"field_confidence": fields})


@dataclass
class _Place:
    """The place of a token in the answer: the tokens that the schema allows there, and their probabilities."""

    token: ScoredToken
    allowed: list[tuple[bytes, int, float]]  # bytes, id and probability of the allowed tokens

    @property
    def probability(self) -> float:
        """Return the probability of the token."""
        return next(p for _, token, p in self.allowed if token == self.token.id)


class _Reader:
    """Reads the fields of one answer, in order."""

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: Sequence[int] | None,
        tokens: Sequence[ScoredToken],
        text: str,
        matcher: Matcher,
    ) -> None:
        self._loaded = loaded
        self._prompt = prompt
        self._text = text
        self._matcher = matcher  # at byte `_at`
        self._at = 0
        shown = [b"" if token.control else token.bytes for token in tokens]
        answer = text.encode()
        before = max(b"".join(shown).rfind(answer), 0)  # a thought may come first
        self._tokens = tokens
        self._starts = [-before]  # end of each token, in bytes of the answer
        for piece in shown:
            self._starts.append(self._starts[-1] + len(piece))
        self._answer = answer

    async def field(self, leaf: Leaf, values: list[Any] | None) -> Mapping[str, Any]:
        """Return the confidence in a leaf, and in its alternatives if there are finitely many."""
        start, end = (len(self._text[:at].encode()) for at in (leaf.start, leaf.end))
        first = next((i for i, at in enumerate(self._starts[1:]) if at > start), None)
        if first is None:
            return {"probability": None}
        if values is not None and any(type(one) is type(leaf.value) and one == leaf.value for one in values):
            found = await self._alternatives(first, start, values)
            told = [{"value": value, "probability": p} for value, p in zip(values, found, strict=True)]
            mine = next(
                p for v, p in zip(values, found, strict=True) if type(v) is type(leaf.value) and v == leaf.value
            )
            return {"probability": mine, "alternatives": told}
        probability, index = 1.0, first
        while index < len(self._tokens) and self._starts[index] < end:
            probability *= self._place(index).probability
            index += 1
        if isinstance(leaf.value, int | float) and self._starts[index] == end and index < len(self._tokens):
            probability *= sum(
                p for piece, _, p in self._place(index).allowed if piece[:1] not in _GOES_ON or not piece
            )
        return {"probability": probability}

    def _place(self, index: int) -> _Place:
        """Return the place of a token, which is not before those requested earlier."""
        token = self._tokens[index]
        self._matcher_at(self._starts[index])
        candidates = {one.id: one for one in (*token.top, token)}
        told = sum(math.exp(one.logprob or 0.0) for one in token.top)
        allowed = [
            (b"" if one.control else one.bytes, one.id, math.exp(one.logprob or 0.0))
            for one in candidates.values()
            if one.id == token.id or (self._matcher.complete if one.control else self._matcher.fits(one.bytes))
        ]
        total = sum(p for _, _, p in allowed)
        if token.id in {one.id for one in token.top}:
            total += total * max(1.0 - told, 0.0) / max(told, 1e-9)
        return _Place(token, [(piece, one, p / total) for piece, one, p in allowed])

    def _matcher_at(self, byte: int) -> None:
        if byte < self._at:
            raise ValueError("the fields of an answer are read in their order")
        self._matcher.take(list(self._answer[self._at : byte]))
        self._at = max(byte, self._at)

    async def _alternatives(self, first: int, start: int, values: Sequence[Any]) -> list[float]:
        """Return the probability of each value in the place of the leaf that begins at byte `start`, in token
        `first`."""
        begin = max(self._starts[first], 0)
        lead = self._answer[begin:start]
        texts = [lead + json.dumps(value, ensure_ascii=False).encode() for value in values]
        masses = [0.0] * len(values)
        weight, said, index = 1.0, b"", first
        undecided: list[tuple[int, bytes, int, float, list[int]]] = []
        while index < len(self._tokens):
            going_on = 0.0
            for piece, token, p in self._place(index).allowed:
                fitting = [n for n, text in enumerate(texts) if _fits(text, said + piece)]
                if len(fitting) == 1:
                    masses[fitting[0]] += weight * p
                elif token == self._tokens[index].id:
                    going_on = p
                elif fitting:
                    undecided.append((index, said + piece, token, weight * p, fitting))
            piece = self._tokens[index].bytes
            if not going_on or sum(_fits(text, said + piece) for text in texts) < 2:
                break
            weight, said, index = weight * going_on, said + piece, index + 1
        for place, said, token, mass, fitting in undecided:
            shares = await self._shares(place, [token], [texts[n][len(said) :] for n in fitting], mass)
            for n, share in zip(fitting, shares, strict=True):
                masses[n] += mass * share
        if self._prompt is not None and not all(masses) and any(masses):
            masses = await self._completed(first, texts, masses)
        total = sum(masses)
        return [mass / total for mass in masses] if total else [1 / len(masses)] * len(masses)

    async def _shares(self, place: int, tokens: Sequence[int], rests: Sequence[bytes], mass: float) -> list[float]:
        """Divide the probability of tokens between the possible continuations of the text."""
        if mass < _LITTLE or self._prompt is None:
            return [1 / len(rests)] * len(rests)
        return await self._probabilities(place, tokens, rests)

    async def _completed(self, first: int, texts: Sequence[bytes], masses: list[float]) -> list[float]:
        """Return the masses, including those of values that are not among the likeliest tokens."""
        found = await self._probabilities(first, (), texts)
        known = max(range(len(masses)), key=lambda n: masses[n] * found[n])
        return [
            mass or masses[known] * min(one / max(found[known], 1e-300), 1.0)
            for mass, one in zip(masses, found, strict=True)
        ]

    async def _probabilities(self, place: int, tokens: Sequence[int], rests: Iterable[bytes]) -> list[float]:
        """Return the probabilities of texts, given that one of them follows the tokens before a place and some more:
        their tokens are chosen one by one, among those that lead to one of the texts."""
        assert self._prompt is not None
        prompt = [*self._prompt, *(token.id for token in self._tokens[:place]), *tokens]
        encode = self._loaded.codec.encode_middle
        paths = [tuple(encode(rest.decode("utf-8", "replace"))) for rest in rests]
        scores = await self._loaded.engine.score(prompt, paths)
        likely: dict[tuple[int, ...], float] = {}  # by path: the probability of its last token
        together: defaultdict[tuple[int, ...], float] = defaultdict(float)  # by path: the tokens that may follow
        for path, logprobs in zip(paths, scores.logprobs, strict=True):
            for length, logprob in enumerate(logprobs, 1):
                if path[:length] not in likely:
                    likely[path[:length]] = math.exp(logprob)
                    together[path[: length - 1]] += math.exp(logprob)
        return [
            math.prod(likely[path[:length]] / together[path[: length - 1]] for length in range(1, len(path) + 1))
            for path in paths
        ]


def _fits(text: bytes, said: bytes) -> bool:
    """Return whether the text so far may be the beginning of a candidate, or continue it."""
    return text.startswith(said) or said.startswith(text)
