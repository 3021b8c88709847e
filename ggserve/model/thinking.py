"""Thinking budgets: a thought that grows too long is closed in the model's own words, and the answer follows.

An answer is made in up to three steps, on any engine: text up to the beginning of a thought; the thought, which has a
limit and may be any text; and the rest, constrained by its grammar. Each step continues the text of the last one, which
is in the engine's prompt cache.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ggserve.chat.format import ChatFormat, ThoughtFormat, ThoughtState
from ggserve.chat.literals import common_beginning
from ggserve.generation import Delta, Grammar, SamplingParams

# Continues a prompt with the beginning of the answer.
Continue = Callable[[str, SamplingParams], AsyncGenerator[Delta, None]]


@dataclass(frozen=True)
class Budget:
    """The limit of a thought."""

    tokens: int
    form: ChatFormat
    after: Grammar | None  # the grammar of the answer after the thought

    @property
    def markers(self) -> tuple[str, str]:
        """The literals that open and close a thought."""
        thought = self.form.thought
        assert thought is not None
        return thought.open.strip(), closing_text(self.form, thought).strip()


async def within_budget(
    generate: Continue, params: SamplingParams, budget: Budget, state: ThoughtState
) -> AsyncGenerator[Delta, None]:
    """Yield the answers' deltas. `params` has the grammar of a whole answer; `state`: the state in which the prompt
    leaves the model."""
    for index in range(params.n):
        seed = None if params.seed is None else params.seed + index
        one = replace(params, n=1, seed=seed, prompt_logprobs=params.prompt_logprobs if index == 0 else None)
        answer = _Answer(generate, one, budget, index)
        async with aclosing(answer.deltas(state)) as deltas:
            async for delta in deltas:
                yield delta


@dataclass
class _Answer:
    """One answer in progress."""

    generate: Continue
    params: SamplingParams
    budget: Budget
    index: int
    text: str = ""  # so far
    closed: bool = False  # the thought has ended
    owed: str = ""  # its closing literal, which comes with the next delta
    prompt: tuple[int, int] | None = None  # number of its tokens, and how many of them were cached
    made: int = 0  # tokens in the steps before, and the accepted and rejected guesses among them
    accepted: int = 0
    rejected: int = 0
    last: Delta = field(default_factory=lambda: Delta("", 0, 0, 0))  # of the current step, as the engine reported it

    async def deltas(self, state: ThoughtState) -> AsyncGenerator[Delta, None]:
        """Yield the deltas of the steps."""
        thought = self.budget.form.thought
        if thought is None or state == "closed":
            steps = [self._step(self.params)]
        elif state == "open":
            steps = [self._thought(thought), self._rest()]
        else:
            steps = [self._beginning(thought), self._thought(thought), self._rest()]
        for step in steps:
            async with aclosing(step) as deltas:
                async for delta in deltas:
                    yield delta
                    if delta.finish_reason:
                        return

    async def _beginning(self, thought: ThoughtFormat) -> AsyncGenerator[Delta, None]:
        """Generate up to the beginning of a thought; the whole answer if there is none."""
        open = thought.open.strip()
        held: list[Delta] | None = []
        async with aclosing(self._step(self.params)) as deltas:
            async for delta in deltas:
                if held is None:
                    yield delta
                    continue
                held.append(delta)
                begun = "".join(each.text for each in held).lstrip()
                if begun.startswith(open) and not delta.finish_reason:
                    _, closed, rest = begun.partition(closing_text(self.budget.form, thought).strip())
                    self.closed = bool(closed)  # what came after it is generated again, constrained by its grammar
                    self.text = self.text.removesuffix(rest)
                    yield _joined(held, "".join(each.text for each in held).removesuffix(rest))
                    return
                if delta.finish_reason or not open.startswith(begun):
                    for each in held:
                        yield each
                    held = None

    async def _thought(self, thought: ThoughtFormat) -> AsyncGenerator[Delta, None]:
        """Generate a thought and its closing literal."""
        if self.closed:
            return
        closing = closing_text(self.budget.form, thought)
        left = self._left()
        limit = self.budget.tokens if left is None else min(self.budget.tokens, left)
        closed, forced = False, self.budget.tokens == 0
        if limit:
            free = replace(
                self.params,
                grammar=None,
                max_tokens=limit,
                min_tokens=0,
                include_stop=False,
                stop=(*self.params.stop, closing.strip()),
            )
            async with aclosing(self._step(free)) as deltas:
                async for delta in deltas:
                    if delta.finish_reason:
                        closed = delta.stop_sequence == closing.strip()
                        exhausted = self.last.completion_tokens >= self.budget.tokens
                        forced = delta.finish_reason == "length" and exhausted and limit != left
                        if delta.finish_reason == "stop" and delta.stop_sequence is None:
                            forced = not free.stop_token_ids  # the model's own end, before it has answered
                    if closed or forced:
                        delta = replace(delta, finish_reason=None, stop_sequence=None)
                    yield delta
        if closed or forced:
            self.owed = closing if self.text[-1:].strip() else closing.lstrip()
            self.text += self.owed

    async def _rest(self) -> AsyncGenerator[Delta, None]:
        """Generate the answer after the thought."""
        left = self._left()
        if left == 0:
            yield self._counted(replace(self.last, text=self.owed, tokens=(), prompt=(), finish_reason="length"))
            return
        fewest = max(self.params.min_tokens - self.made, 0)
        rest = replace(self.params, grammar=self.budget.after, max_tokens=left, min_tokens=fewest)
        async with aclosing(self._step(rest)) as deltas:
            async for delta in deltas:
                yield delta

    def _left(self) -> int | None:
        """Return the number of tokens left, and end the step before."""
        self.made += self.last.completion_tokens
        self.accepted += self.last.accepted_tokens
        self.rejected += self.last.rejected_tokens
        self.last = replace(self.last, completion_tokens=0, accepted_tokens=0, rejected_tokens=0)
        most = self.params.max_tokens
        return None if most is None else max(most - self.made, 0)

    async def _step(self, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        first = self.prompt is None
        params = params if first else replace(params, prompt_logprobs=None, continues=True)
        async with aclosing(self.generate(self.text, params)) as deltas:
            async for delta in deltas:
                self.last = delta
                if self.prompt is None:
                    self.prompt = delta.prompt_tokens, delta.cached_tokens
                self.text += delta.text
                delta, self.owed = replace(delta, text=self.owed + delta.text), ""
                yield self._counted(delta)

    def _counted(self, delta: Delta) -> Delta:
        """Return the delta with the counts of the whole answer."""
        prompt_tokens, cached_tokens = self.prompt or (delta.prompt_tokens, delta.cached_tokens)
        return replace(
            delta,
            index=self.index,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=self.made + delta.completion_tokens,
            accepted_tokens=self.accepted + delta.accepted_tokens,
            rejected_tokens=self.rejected + delta.rejected_tokens,
        )


def closing_text(form: ChatFormat, thought: ThoughtFormat) -> str:
    """Return the literal that closes a thought, whether text or calls follow it."""
    closing = thought.close
    if form.text_open.strip():
        closing = closing.rstrip().removesuffix(form.text_open.strip())
    to_call = thought.close_to_call
    if to_call is None or to_call.strip() == closing.strip():
        return closing
    return common if (common := common_beginning(closing, to_call)).strip() else closing


def _joined(deltas: list[Delta], text: str) -> Delta:
    return replace(
        deltas[-1],
        text=text,
        tokens=tuple(token for delta in deltas for token in delta.tokens),
        prompt=deltas[0].prompt,
    )
