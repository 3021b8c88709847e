"""The answers to one request of llama.cpp in progress: chunks in, deltas out."""

import codecs
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from ggserve.engines.banned import BannedStrings, Token
from ggserve.engines.llama_cpp.fields import ruled_out
from ggserve.engines.llama_cpp.scoring import NativeScorer
from ggserve.engines.llama_cpp.transport import BATCH, Chunk
from ggserve.engines.llama_cpp.turns import Turn
from ggserve.engines.logprobs import ShownTokens
from ggserve.engines.request import RunningRequest
from ggserve.engines.stop_strings import StopStrings
from ggserve.errors import ContextOverflow, EngineError, GenerationError, InvalidRequest
from ggserve.generation import Delta, FinishReason, SamplingParams, ScoredToken
from ggserve.grammar.matcher import Matcher

log = logging.getLogger("ggserve.model")

_PIECE = 0.2  # seconds that a piece of a long prompt takes, or one batch; each costs a native call


class Answer(RunningRequest):
    """The answers of a request. `receive` takes the chunks of one answer, after `begin`. `matcher` checks it against
    the grammar, because llama.cpp can drop a grammar, even within an answer: it logs the reason and continues
    without."""

    def __init__(
        self,
        params: SamplingParams,
        context_length: int,
        scorer: NativeScorer,
        *,
        slot: int,
        turn: Turn,
        native_prompt: Callable[[Sequence[int]], Any],  # converts a prompt to llama.cpp's form
        prompt: Sequence[int] | None = None,  # if its tokens are known
        resumable: int | None = None,  # tokens from which on the prompt can be evaluated in pieces; None: never
        end_ids: Collection[int] = (),  # tokens that end an answer
        matcher: Matcher | None = None,
        has_room: Callable[[int], bool] = lambda tokens: True,  # whether prompt and answer may have more tokens
    ) -> None:
        super().__init__(params)
        self.prompt = prompt
        self._end_ids = end_ids
        self._has_room = has_room
        self._slot = slot
        self.turn = turn
        self._resumable = resumable if prompt is not None and params.cache_prompt else None
        self._batch_seconds = 0.0  # time of one batch of the prompt
        self.evaluated = 0  # tokens of the prompt that are in the slot, at least
        self.prompt_scores: tuple[ScoredToken, ...] = ()  # sent with the first delta
        self._grammar = matcher
        self._context_length = context_length
        self._scorer = scorer
        self._native_prompt = native_prompt
        self._wants_tokens = params.max_tokens != 0
        self._prompt_ids = tuple(prompt or ())  # sent with the first delta

    def begin(self, index: int) -> None:
        """Start the answer with this number."""
        self._index = index
        self._complete = False
        self._calls = 0  # number of native calls so far
        self._evaluated = 0  # tokens of the prompt
        self._resumed_from = -1  # tokens of the prompt in the cache when the last call began
        self.rests = False  # the call ends with a piece of the prompt, and must be made again
        self._goes_on = True  # True if another native call follows
        self._rewound = False  # tokens were dropped, so this call is over
        self._before = 0  # tokens of earlier calls
        self._unreported = 0  # tokens of the calls before that end within a character
        self._banned = BannedStrings(self.params)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # for tokens that are watched
        self._stop_token: int | None = None
        self._matcher = self._grammar and self._grammar.copy()
        self._scores = None if self.params.logprobs is None else ShownTokens()
        self._ids: list[int] = []  # ids of the tokens so far, if their scores are requested
        # llama.cpp's own stop strings lose the text that they hold back if the answer reaches its maximum length.
        self._stops = StopStrings(self.params.stop, shown=self.params.include_stop)
        self._prompt_tokens = self._cached_tokens = self._completion_tokens = 0
        self._accepted_tokens = self._rejected_tokens = 0
        self._told_tokens = 0  # number of tokens in chunks so far
        self._finish_reason: FinishReason | None = None

    def next_call(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return the changes to the request body for the next native call, or None if none is needed.

        One call makes the whole answer, unless it must not end before `min_tokens`, or must go back.
        """
        if self.cancelled or self._complete or self.end is not None or not self._goes_on:
            return None
        params, forbidden, made = self.params, self._banned.forbidden, len(self._ids)
        seed = {} if params.seed is None else {"seed": (params.seed + self._index + self._calls * 7919) % 0xFFFFFFFF}
        cut = bool(self._calls) and not self._rewound and made == self._before
        self._calls += 1
        self._goes_on = self._rewound = False
        if self.prompt is None or not params.watches_tokens:
            return seed
        early = made < params.min_tokens
        room = (params.max_tokens or 0) - made
        tokens = 1 if forbidden else params.min_tokens - made if early else room
        # llama.cpp does not report tokens that end within a character: the same call would end there again.
        self._unreported = max(tokens, self._unreported + 1) if cut else 0
        tokens = min(max(tokens, self._unreported), room)
        self._goes_on = tokens < room  # unless it ends earlier
        self._before = made
        never = forbidden.union((*params.stop_token_ids, *self._end_ids) if early else ())
        return {
            **seed,
            "prompt": self._native_prompt([*self.prompt, *self._ids]),
            "n_predict": tokens,
            "ignore_eos": early or params.ignore_eos,
            "logit_bias": body.get("logit_bias", []) + ruled_out(never),
        }

    def receive(self, chunk: Chunk) -> bool:
        """Take a chunk. Return True if the call should end."""
        if self.cancelled:
            return True
        try:
            self._take(chunk)
        except Exception as error:  # the native caller would swallow the exception
            log.exception("cannot parse a chunk from llama.cpp")
            self.end = GenerationError(f"{type(error).__name__}: {error}")
        return self._complete or self.end is not None or self._rewound or self.rests

    def _take(self, chunk: Chunk) -> None:
        if progress := chunk.get("prompt_progress"):
            self._start(progress)
            return
        if error := chunk.get("error"):
            self.end = native_error(error, self._context_length)
            return
        if timings := chunk.get("timings"):
            self._completion_tokens = self._before + timings["predicted_n"]
            self._accepted_tokens = timings.get("draft_n_accepted", 0)
            self._rejected_tokens = timings.get("draft_n", 0) - self._accepted_tokens
        if choices := chunk["choices"]:
            choice = choices[0]
            self.evaluated = max(self.evaluated, self._prompt_tokens)
            self.progress.advance(self._prompt_tokens)
            self._finish_reason = choice["finish_reason"]
            text = choice["text"]
            if self._finish_reason is None:
                self._told_tokens = self._completion_tokens
            elif self._completion_tokens > self._told_tokens and not (self.params.watches_tokens or self._matcher):
                text += "\ufffd"  # llama.cpp does not report tokens that end within a character
            if self._wants_tokens:
                text = self._read(text, choice.get("logprobs"))
            self._say(text)
        if not self._complete and self.end is None and (usage := chunk.get("usage")):
            if self._goes_on and self._finish_reason == "length":
                return
            self._completion_tokens = self._before + usage["completion_tokens"]
            self._finish(self._rest() + self._stops.finish(), self._finish_reason or "stop")

    def _start(self, progress: dict[str, int]) -> None:
        if self._before:
            return
        evaluated, self._evaluated = self._evaluated, progress.get("processed", progress["total"])
        if not evaluated:
            self._prompt_tokens, self._cached_tokens = progress["total"], progress["cache"]
            self.progress.begin(self._slot, self._prompt_tokens, self._cached_tokens)
        self.evaluated = max(self.evaluated, self._evaluated)
        self.progress.advance(self._evaluated)
        self.rests = self._resumable is not None and self._ends_piece(progress["cache"], self._resumable)
        if self._prompt_tokens >= self._context_length:  # llama.cpp rounds the context up
            self.end = ContextOverflow(self._prompt_tokens, self._context_length)

    def _ends_piece(self, cached: int, resumable: int) -> bool:
        """Return whether a call that began with so many tokens in the cache should end with the batch that begins now:
        llama.cpp hears of it only after that."""
        batches, seconds = (self._evaluated - cached) / BATCH, self.turn.seconds
        if batches >= 1:
            self._batch_seconds = seconds / batches
        # Calls that find no more in the cache than those before would never get to the prompt's end.
        if cached <= self._resumed_from or not resumable <= self._evaluated < self._prompt_tokens - 2 * BATCH:
            return False
        if not self.turn.shall_rest and (not self._batch_seconds or seconds + self._batch_seconds < _PIECE):
            return False
        self._resumed_from = cached
        return True

    def _say(self, text: str) -> None:
        if not self._wants_tokens:  # llama.cpp generates at least one token
            if text or self._finish_reason:
                self._completion_tokens = 0
                self._finish("", "length")
            return
        complete = self._follow(text)
        if self.end is not None:
            return
        text, stopped = self._stops.push(text) if self._completion_tokens > self.params.min_tokens else (text, False)
        if stopped:
            self._finish(text, "stop", shows_all=False)
        elif self._stop_token is not None or complete:
            self._finish(text + self._stops.finish(), "stop")
        elif self._finish_reason is None and not self._has_room(self._prompt_tokens + self._completion_tokens):
            self._finish(text + self._stops.finish(), "length")
        elif text:
            self.put(self._delta(text, None))

    def _follow(self, text: str) -> bool:
        """Advance the matcher by a piece of the answer. Return True if nothing can follow it."""
        if self._matcher is None:
            return False
        if not self._matcher.take_text(text) or (self._finish_reason == "stop" and not self._matcher.complete):
            self.end = GenerationError("llama.cpp's answer does not follow the grammar.")
        return self._matcher.ended

    def _read(self, text: str, logprobs: dict[str, Any] | None) -> str:
        """Take the tokens of a piece of text, if they are requested. Return the text that can be shown."""
        if not logprobs:
            return text
        top = self.params.logprobs or 0
        tokens = [self._scorer.token(entry, top) for entry in logprobs["content"]]
        missing = self._completion_tokens - len(self._ids) - len(tokens)
        if missing > 0 and tokens and text and self.prompt is not None:
            prefix = [*self.prompt, *self._ids]
            tokens = self._scorer.split(prefix, text, missing + 1, tokens[-1], top)
        if not self.params.watches_tokens:
            for token in tokens:
                self._keep(token, len(text) if token is tokens[-1] else 0)
            self._ids += [token.id for token in tokens]
            return text
        return "".join(map(self._watch, tokens))

    def _watch(self, token: ScoredToken) -> str:
        """Take a token that might be dropped. Return the text that can be shown."""
        if self._rewound or self._stop_token is not None:
            return ""
        self._ids.append(token.id)
        ready, back = self._banned.push(Token(token.id, b"" if token.control else token.bytes, token))
        if back:
            self._rewound = self._goes_on = True
            del self._ids[-back:]
            self._completion_tokens = len(self._ids)
        elif token.id in self.params.stop_token_ids:
            self._stop_token = token.id
            ready += self._banned.finish()
        return "".join(map(self._shown, ready))

    def _shown(self, token: Token) -> str:
        """Return the text that a token completes."""
        hidden = token.id == self._stop_token and not self.params.include_stop
        text = "" if hidden else self._decoder.decode(token.piece)
        assert token.score is not None
        self._keep(token.score, len(text))
        return text

    def _keep(self, token: ScoredToken, characters: int) -> None:
        if self._scores is not None:
            self._scores.add(token, characters)

    def _rest(self) -> str:
        """Return the text of tokens that were held back, at the end."""
        return "".join(map(self._shown, self._banned.finish())) + self._decoder.decode(b"", final=True)

    def _finish(self, text: str, reason: FinishReason, *, shows_all: bool = True) -> None:
        """End this answer, and with the last one, the request."""
        delta = self._delta(text, reason)
        if self._scores is not None and shows_all:
            delta = replace(delta, tokens=delta.tokens + self._scores.take_all())
        self._complete = True
        if self._index + 1 < self.params.n:
            self.put(delta)
        else:
            self.end = delta

    def _delta(self, text: str, reason: FinishReason | None) -> Delta:
        prompt_scores, self.prompt_scores = self.prompt_scores, ()
        prompt_ids, self._prompt_ids = self._prompt_ids, ()
        return Delta(
            text,
            self._prompt_tokens,
            self._cached_tokens,
            self._completion_tokens,
            reason,
            stop_sequence=self._stops.met,
            stop_token=self._stop_token,
            index=self._index,
            tokens=() if self._scores is None else self._scores.take(len(text)),
            prompt=prompt_scores,
            prompt_ids=prompt_ids,
            cache_miss=self.progress.miss,
            accepted_tokens=self._accepted_tokens,
            rejected_tokens=self._rejected_tokens,
        )


def native_error(error: dict[str, Any], context_length: int) -> EngineError:
    """Return llama.cpp's error object as an EngineError."""
    if error.get("type") == "exceed_context_size_error":
        return ContextOverflow(error["n_prompt_tokens"], context_length)
    return (InvalidRequest if error.get("code") == 400 else GenerationError)(f"llama.cpp: {error['message']}")
