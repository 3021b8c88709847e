"""`POST /v1/decisions` and `POST /v1/systemone`: the request bodies."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BeforeValidator, Field, StrictBool, StrictStr, TypeAdapter, field_validator, model_validator

from ggserve.api.fields import ModelRequest, Strict
from ggserve.api.images import check_image, image_part, text_part
from ggserve.api.openai.responses.conversation import chat_messages
from ggserve.api.openai.responses.items import CallItem, CallOutputItem, MessageItem
from ggserve.api.openai.schemas.messages import Message
from ggserve.model.decisions import Option, Question

MOST_QUESTIONS = 64
_MOST_OPTIONS = 256
_MOST_LEVELS = 256
_LONGEST_LABEL = 1000  # characters
_YES, _NO = "yes", "no"


def as_text(value: Any) -> str:
    """Return a string unchanged, anything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _described(value: Any) -> str | None:
    return None if value in (None, "") else as_text(value)


def _question(kind: Any, instructions: str, options: Sequence[Option], source: str) -> Question:
    """Return the question. Raises ValueError if the options cannot be told apart."""
    most = _MOST_LEVELS if kind == "score" else _MOST_OPTIONS
    if not 1 <= len(options) <= most:
        raise ValueError(f"must have 1 to {most} options")
    seen = set()
    for option in options:
        if not option.label.strip():
            raise ValueError("an option is empty")
        if len(option.label) > _LONGEST_LABEL:
            raise ValueError(f"an option has more than {_LONGEST_LABEL} characters")
        if option.label.strip() in seen:
            raise ValueError(f"the option {option.label!r} occurs twice")
        seen.add(option.label.strip())
    return Question(kind, instructions, tuple(options), source)


def _predicate(instructions: str, yes: Any, no: Any, source: str) -> Question:
    options = [Option(_YES, _described(yes), (_YES.title(),)), Option(_NO, _described(no), (_NO.title(),))]
    return _question("predicate", instructions, options, source)


def _score(instructions: str, levels: Sequence[str], source: str) -> Question:
    options = [Option(str(index), level) for index, level in enumerate(levels)]
    return _question("score", instructions, options, source)


class SystemOneQuestion(Strict):
    """A question. `criteria`: for a choice, the options and their descriptions; for a noul, the meaning of true and
    false; for a score, its levels, lowest first."""

    type: Literal["choice", "noul", "predicate", "score"]
    instructions: Any = ""
    criteria: Any = None

    @model_validator(mode="after")
    def _has_options(self) -> "SystemOneQuestion":
        self.question("criteria")
        return self

    @property
    def levels(self) -> list[str]:
        """The texts of a score's levels."""
        return [as_text(level) for level in self.criteria]

    @property
    def choices(self) -> list[str]:
        """The names of a choice's options."""
        return [as_text(name) for name in self.criteria]

    def question(self, source: str) -> Question:
        """Return the question. Raises ValueError."""
        criteria, instructions = self.criteria, _described(self.instructions) or ""
        if self.type == "choice":
            if not isinstance(criteria, dict | list) or not criteria:
                raise ValueError("criteria must map each option of a choice to its description or null")
            described = criteria if isinstance(criteria, dict) else dict.fromkeys(range(len(criteria)))
            options = [
                Option(name, _described(description))
                for name, description in zip(self.choices, described.values(), strict=True)
            ]
            return _question("choice", instructions, options, source)
        if self.type == "score":
            if not isinstance(criteria, list) or len(criteria) < 2:
                raise ValueError("criteria must list at least two levels of a score, lowest first")
            if not all(level not in (None, "") for level in criteria):
                raise ValueError("a level is empty")
            return _score(instructions, self.levels, source)
        if criteria is not None and not (isinstance(criteria, dict) and criteria.keys() <= {"true", "false"}):
            raise ValueError("criteria can only contain the meanings of true and false")
        meaning = criteria or {}
        return _predicate(instructions, meaning.get("true"), meaning.get("false"), source)


_MESSAGES = TypeAdapter(list[Message])


class SystemOneRequest(ModelRequest):
    """`POST /v1/systemone`. `state` is a text, JSON, or the messages of a chat; `instructions` precede it."""

    prompt_field: ClassVar[str | None] = "state"

    state: Any
    questions: Annotated[dict[str, SystemOneQuestion], Field(min_length=1, max_length=MOST_QUESTIONS)]
    instructions: str | None = None
    images: list[str] | None = None

    @field_validator("state")
    @classmethod
    def _is_given(cls, state: Any) -> Any:
        if state in (None, "", [], {}):
            raise ValueError("is empty: send a text, JSON or messages")
        if (messages := _as_messages(state)) is not None:
            _MESSAGES.validate_python(messages)
        return state

    @field_validator("images")
    @classmethod
    def _are_images(cls, images: list[str] | None) -> list[str] | None:
        for image in images or ():
            check_image(image)
        return images

    def all_questions(self) -> list[Question]:
        """Return the questions in order."""
        return [question.question(f"questions.{name}.criteria") for name, question in self.questions.items()]

    def messages(self) -> list[dict[str, Any]]:
        """Return the state as a chat."""
        given = _as_messages(self.state)
        if given is None:
            chat: list[dict[str, Any]] = [{"role": "user", "content": as_text(self.state)}]
        else:
            chat = [message.template_message() for message in _MESSAGES.validate_python(given)]
        if self.images:
            first = next((message for message in chat if message["role"] == "user"), chat[0])
            text = first["content"]
            parts = [text_part(text)] if isinstance(text, str) else text
            first["content"] = [*map(image_part, self.images), *parts]
        return [*([{"role": "system", "content": self.instructions}] if self.instructions else []), *chat]


def _as_messages(state: Any) -> list[Any] | None:
    """Return the messages of a state that is a chat, else None."""
    if isinstance(state, dict) and state.keys() == {"messages"}:
        state = state["messages"]
    is_chat = isinstance(state, list) and all(
        isinstance(one, dict) and {"role", "content"} <= one.keys() for one in state
    )
    return state if is_chat and state else None


def _with_json_as_text(content: Any) -> Any:
    """Return content with OpenAI's JSON parts as text."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "input_text", "text": as_text(part.get("data"))}
        if isinstance(part, dict) and part.get("type") == "input_json"
        else part
        for part in content
    ]


def _as_item(item: Any) -> Any:
    """Return an item of the input in the format of the Responses API."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type") or "message"
    if kind == "custom_tool_call":
        return {**item, "type": "function_call", "arguments": as_text({"input": item.get("input")})}
    if kind == "custom_tool_call_output":
        return {**item, "type": "function_call_output"}
    return {**item, "type": kind, **({"content": _with_json_as_text(item["content"])} if "content" in item else {})}


InputItem = Annotated[
    Annotated[MessageItem | CallItem | CallOutputItem, Field(discriminator="type")], BeforeValidator(_as_item)
]


def _as_instructions(instructions: Any) -> Any:
    """Return instructions in parts as one text."""
    parts = _with_json_as_text(instructions)
    if not isinstance(parts, list):
        return parts
    if not all(isinstance(part, dict) and part.get("type") == "input_text" for part in parts):
        raise ValueError("must be a string, or parts of type input_text and input_json")
    return "\n".join(str(part.get("text")) for part in parts)


Instructions = Annotated[str, BeforeValidator(_as_instructions)]


class _DecisionQuestion(Strict):
    name: str | None = None
    instructions: Instructions

    def question(self, place: str) -> Question:
        """Return the question, which is at `place` in the body. Raises ValueError."""
        raise NotImplementedError


class PredicateQuestion(_DecisionQuestion):
    type: Literal["predicate"]

    def question(self, place: str) -> Question:
        return _predicate(self.instructions, None, None, f"{place}.instructions")


class DecisionChoice(Strict):
    value: StrictStr | StrictBool
    description: str | None = None


class ChoiceQuestion(_DecisionQuestion):
    type: Literal["choice"]
    choices: list[DecisionChoice]

    @field_validator("choices")
    @classmethod
    def _are_options(cls, choices: list[DecisionChoice]) -> list[DecisionChoice]:
        _question("choice", "", _labelled(choices), "choices")
        return choices

    def question(self, place: str) -> Question:
        return _question("choice", self.instructions, _labelled(self.choices), f"{place}.choices")


def _labelled(choices: Sequence[DecisionChoice]) -> list[Option]:
    """Return the options; a text that looks like a boolean is written as JSON."""
    booleans = {as_text(choice.value) for choice in choices if isinstance(choice.value, bool)}
    return [
        Option(
            orjson.dumps(choice.value).decode() if choice.value in booleans else as_text(choice.value),
            _described(choice.description),
        )
        for choice in choices
    ]


class DecisionLevel(Strict):
    label: Annotated[str, Field(min_length=1)]
    description: str | None = None


class ScoreQuestion(_DecisionQuestion):
    type: Literal["score"]
    levels: Annotated[list[DecisionLevel], Field(min_length=2, max_length=_MOST_LEVELS)]

    def question(self, place: str) -> Question:
        texts = [f"{level.label}: {level.description}" if level.description else level.label for level in self.levels]
        return _score(self.instructions, texts, f"{place}.levels")


AnyQuestion = Annotated[PredicateQuestion | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")]


class DecisionsRequest(ModelRequest):
    """`POST /v1/decisions`."""

    prompt_field: ClassVar[str | None] = "input"

    input: Annotated[str | list[InputItem], Field(min_length=1)]
    questions: Annotated[list[AnyQuestion], Field(min_length=1, max_length=MOST_QUESTIONS)]

    def all_questions(self) -> list[Question]:
        """Return the questions in order."""
        return [question.question(f"questions.{index}") for index, question in enumerate(self.questions)]

    def messages(self) -> list[dict[str, Any]]:
        """Return the input as a chat."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return chat_messages(None, self.input)
