"""Decisions: typed questions about a state, answered with probabilities and without text.

The chat with a question in its last message is evaluated up to the beginning of the answer; `labels` does the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ggserve.model.chats import Chat, Chats
from ggserve.model.labels import Decision, Option, decision, spellings
from ggserve.model.load import LoadedModel

__all__ = ["Decider", "Decision", "Option", "Question"]

_NO_THINKING = {"enable_thinking": False}

# The last line of a question.
_ASKS = {
    "choice": "Answer with one of these options only, word for word.",
    "predicate": "Answer with yes or no only.",
    "score": "Answer with the number of one level only.",
}


@dataclass(frozen=True)
class Question:
    """A question with the labels of its answers. `source` is the request field that has the options."""

    kind: Literal["choice", "predicate", "score"]
    instructions: str
    options: tuple[Option, ...]
    source: str

    @property
    def text(self) -> str:
        """The question as the model reads it."""
        lines = [f"Question: {self.instructions}"] if self.instructions else []
        for option in self.options:
            if option.description:
                lines.append(f"- {option.label}: {option.description}")
            elif self.kind != "predicate":
                lines.append(f"- {option.label}")
        return "\n".join([*lines, _ASKS[self.kind]])


class Decider:
    """Answers the questions about one state, one after the other: each finds the state in the prompt cache."""

    def __init__(self, loaded: LoadedModel, chats: Chats) -> None:
        self._loaded = loaded
        self._chats = chats

    async def decide(self, messages: list[dict[str, Any]], questions: Sequence[Question]) -> list[Decision]:
        """Return the decisions on a chat that contains the state. Raises InvalidRequest, and what `Engine.score`
        raises."""
        spelled = [spellings(self._loaded, question.options, question.source) for question in questions]
        return [
            await self._decide(with_question(messages, question.text), labels)
            for question, labels in zip(questions, spelled, strict=True)
        ]

    async def _decide(self, messages: list[dict[str, Any]], labels: Sequence[Sequence[tuple[int, ...]]]) -> Decision:
        paths = [path for spellings in labels for path in spellings]
        chat = Chat(messages, template_arguments=_NO_THINKING)
        return decision(labels, await self._chats.score(chat, paths))


def with_question(messages: list[dict[str, Any]], question: str) -> list[dict[str, Any]]:
    """Return the chat with a question at its end: in the user's last message, or in a new one."""
    if not messages or messages[-1]["role"] != "user":
        return [*messages, {"role": "user", "content": question}]
    content = messages[-1]["content"]
    if isinstance(content, str):
        content = f"{content}\n\n{question}" if content else question
    else:
        content = [*content, {"type": "text", "text": question}]
    return [*messages[:-1], {**messages[-1], "content": content}]
