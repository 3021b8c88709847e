"""The grammar of an answer in the model's chat format: a thought, then text and optional calls, required calls, or
structured output."""

import re

from ggserve.chat.arguments_grammar import ArgumentsGrammar, marker
from ggserve.chat.format import ID, INDEX, CallsFormat, ChatFormat, ThoughtFormat, ThoughtState
from ggserve.chat.literals import common_beginning
from ggserve.errors import InvalidRequest
from ggserve.generation import Grammar
from ggserve.grammar.requested import answer_rule
from ggserve.grammar.rules import (
    NOTHING,
    SPACE,
    Lexeme,
    Literal,
    Marker,
    Reference,
    Regex,
    Repeat,
    Rule,
    Rules,
    Text,
    TextBefore,
    choice,
    optional,
    sequence,
)
from ggserve.messages import Tools

_SPACES = optional(Lexeme(Repeat(SPACE, 1, 4)))
_HOLES = re.compile(f"([{ID}{INDEX}])")
_IDS = {
    "any": "[A-Za-z0-9_-]{1,40}",
    "mistral": "[A-Za-z0-9]{9}",
    "kimi": "functions[.][A-Za-z0-9_.-]{1,128}:[0-9]{1,3}",
}
_JSON_PIECES = re.compile(r'"[^"]*"?|[{}\[\]]|[:,] ?|[^"{}\[\]:,]+')


def answer_grammar(
    form: ChatFormat,
    tools: Tools | None,
    own: Grammar | None,
    state: ThoughtState = "free",
    *,
    thinks: bool = True,
) -> Grammar | None:
    """Return the grammar of an answer, or None if it may be any text.

    An answer that need not call and has a JSON schema of its `own` either calls or follows the schema. With another
    grammar it follows that and calls nothing. `state`: the state in which the prompt leaves the model; `thinks`: the
    answer may begin a thought. Raises InvalidRequest.
    """
    if tools and (tools.required or own is None or own.kind == "json_schema"):
        own = None if tools.required else own
        answer = _Answer(form, tools, own)
    elif own and (form.thought or form.text_open.strip()):
        tools, answer = None, _Answer(form, None, own)
    else:
        return own
    thought = form.thought if thinks or state == "open" else None
    source = own.source if own else "tools"
    return Grammar("rules", "", source, Rules(answer.whole(thought, state), tuple(answer.named.items())))


class _Answer:
    def __init__(self, form: ChatFormat, tools: Tools | None, own: Grammar | None) -> None:
        self.named: dict[str, Rule] = {}
        self._form = form
        self._tools = tools
        self._own = _own_rule(own) if own else None
        self._calls = self._call_rules(form.calls, tools) if tools and form.calls else None
        self._trigger = _trigger(form) if form.calls else ""

    def whole(self, thought: ThoughtFormat | None, state: ThoughtState) -> Rule:
        if thought is None or state == "closed":
            return self._direct(())
        ended = self._after_thought(thought)
        if state == "open":
            return ended
        begun = sequence(marker(thought.open.strip()), ended)
        return choice([begun, self._direct((Marker(thought.open.strip()),))])

    def _direct(self, starts: tuple[Marker, ...]) -> Rule:
        """Return the rule of an answer without a thought, whose text begins with none of these."""
        opening = self._form.text_open.strip()
        if not opening:
            return self._said_or_called(starts)
        said = sequence(marker(opening), self._said_or_called(()))
        return choice([self._calls, said]) if self._calls else said

    def _after_thought(self, thought: ThoughtFormat) -> Rule:
        """Return the rule of the rest of a thought, followed by an answer."""
        close = thought.close.strip()
        to_call = (thought.close_to_call or thought.close).strip()
        said = self._said_or_called(())
        if self._calls is None or close == to_call:
            ended = sequence(_before(close), _SPACES, said)
        elif common := common_beginning(close, to_call):
            after = sequence(marker(close[len(common) :].strip()), _SPACES, said)
            called = sequence(marker(to_call[len(common) :].strip()), _SPACES, self._calls)
            ended = sequence(_before(common), choice([after, called]))
        else:
            ended = choice([sequence(_before(close), _SPACES, said), sequence(_before(to_call), _SPACES, self._calls)])
        if thought.calls_close and self._calls and self._trigger:
            ended = choice([ended, self._text_then_calls(())])
        return ended

    def _said_or_called(self, starts: tuple[Marker, ...]) -> Rule:
        closing = self._form.text_close.strip()
        if self._own is not None:
            said = sequence(self._own, optional(marker(closing)) if closing else NOTHING)
            return choice([self._calls, said]) if self._calls else said
        assert self._calls is not None and self._tools is not None
        if self._tools.required:
            return self._calls
        if not self._trigger:
            return choice([self._calls, Text(starts=(*starts, Marker(self._first)))])
        return choice([self._text_then_calls(starts), Text(Marker(self._trigger), starts)])

    def _text_then_calls(self, starts: tuple[Marker, ...]) -> Rule:
        """Return the rule of calls, with the text before them."""
        return sequence(TextBefore(Marker(self._trigger), starts), Reference("called"))

    @property
    def _first(self) -> str:
        return self._form.calls.first.strip() if self._form.calls else ""

    def _call_rules(self, form: CallsFormat, tools: Tools) -> Rule:
        """Return the rule of calls from their beginning; `called` follows the trigger."""
        first = form.first.strip()
        end = common_beginning(form.next, form.last) if form.next else form.last
        following = form.next[len(end) :] if form.next else None
        # JSON is split into the same pieces as the JSON of a schema, so that llguidance can tell rules with the same
        # beginning apart.
        in_pieces = self._own is not None and first.startswith("{")
        write = _json_pieces if in_pieces else lambda text: self._with_holes(text, form)
        ended = self._with_holes(end, form), _HOLES.split(end)[0].rstrip()
        options = []
        for tool in tools.functions:
            function = tool["function"]
            arguments = ArgumentsGrammar(form.arguments, self.named, function, ended, required=tools.required)
            if in_pieces:
                options.append(sequence(write(f"{first}{function['name']}{form.after_name}"), arguments.rule()))
            else:
                options.append(sequence(Literal(function["name"]), write(form.after_name), arguments.rule()))
        self.named["call"] = choice(options)
        more = NOTHING
        if tools.parallel and following is not None:
            separator = following if not in_pieces else following.removesuffix(first)
            more = Repeat(sequence(self._with_holes(separator, form), Reference("call")))
        last = self._with_holes(form.last[len(end) :].rstrip(), form)
        rest = sequence(Reference("call"), more, last)
        if in_pieces:
            return rest
        trigger = _trigger(self._form)
        self.named["called"] = sequence(write(first[len(trigger) :]), rest)
        return sequence(write(trigger), Reference("called"))

    @staticmethod
    def _with_holes(text: str, form: CallsFormat) -> Rule:
        parts = _HOLES.split(text)
        return sequence(
            *(
                (Regex(_IDS[form.id_form]) if part == ID else Regex("[0-9]{1,3}")) if number % 2 else marker(part)
                for number, part in enumerate(parts)
            )
        )


def _own_rule(own: Grammar) -> Rule:
    try:
        return answer_rule(own)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The grammar cannot be used: {error}", own.source) from error


def _trigger(form: ChatFormat) -> str:
    """Return the text that shows that calls begin: the first tag of what precedes them; "" if plain text could begin so
    too."""
    assert form.calls is not None
    first = form.calls.first.strip()
    closing = {"<": ">", "[": "]"}.get(first[:1])
    if first[:1] in ("", "{") or len(first) < 2:
        return ""
    tag = first[: first.find(closing) + 1] if closing else ""
    thought = form.thought
    others = (form.text_open, thought.open, thought.close) if thought else (form.text_open,)
    whole = _HOLES.split(first)[0]
    return whole if not tag or any(other.strip().startswith(tag) for other in others) else tag


def _before(marker: str) -> Rule:
    return TextBefore(Marker(marker))


def _json_pieces(text: str) -> Rule:
    return sequence(*map(Literal, _JSON_PIECES.findall(text)))
