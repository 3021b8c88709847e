"""The contract of llama.cpp's server core, wherever it runs. `in_process` and `child` implement it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ggserve.engines.contract import EngineOptions
from ggserve.machine import Hardware

NO_TEMPLATE = "{{ messages[0].content }}"  # chats are rendered here; a file's own template could loop without end
Pooling = Literal["model", "mean", "last", "rank"]
Chunk = dict[str, Any]  # of an answer, as `/v1/completions` streams it
Call = Callable[[dict[str, Any], Callable[[Chunk], bool], Callable[[], bool]], None]  # Transport.complete

BATCH = 256  # prompt tokens per batch; between batches, a request can be cancelled and others continue
LEAST_SIMILARITY = 1e-9  # of an input and a slot: one token is enough for llama.cpp to prefer that slot
KNOWN_TOKENS = 8  # speculative decoding starts after this many consecutive tokens that occurred before
FEWEST_GUESSES, MOST_GUESSES = 0, 8


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """The file that a server core loads, and its options."""

    path: Path
    options: EngineOptions
    pooling: Pooling = "last"  # how token vectors are pooled into an embedding; "model": as the file says
    states: Path | None = None  # folder for `/slots/ID?action=save`; None: not available
    raised_key: str | None = None  # metadata key of the file's context length, if the context is longer
    whole_inputs: bool = False  # bidirectional attention needs the whole input in one batch


@dataclass(frozen=True)
class Abilities:
    """The abilities of a server core. The defaults are those of llama.cpp's own core."""

    embeds: bool = True  # a generating model can also make embeddings
    logprobs: bool = True  # tokens are reported with their ids and log-probabilities
    logprobs_before_bias: bool = True  # these are the model's, before `logit_bias`
    sampled_probabilities: bool = True  # the probabilities after all samplers are reported, if requested
    lora: bool = True  # a request can choose the scales of the adapters


class Transport(Protocol):
    """A loaded server core. Every method except `close` blocks and can be called from any thread."""

    @property
    def grammar_language(self) -> Literal["lark", "gbnf"]: ...

    @property
    def hardware(self) -> Hardware: ...

    @property
    def abilities(self) -> Abilities: ...

    @property
    def media_marker(self) -> str:
        """The marker that stands for an image in a prompt's text, with a projector. Raises EngineError."""
        ...

    def complete(
        self, body: dict[str, Any], receive: Callable[[Chunk], bool], cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """Run a completion. `receive` gets its chunks, an error among them, and returns whether to stop.

        Raises EngineError.
        """
        ...

    def settle(self, slot: int) -> None:
        """Wait until a slot has noticed that its completion was broken off."""
        ...

    def compute(self, path: str, body: dict[str, Any], cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Return the response of `/v1/embeddings` or `/v1/rerank`, which can be an error; empty if cancelled. Raises
        EngineError."""
        ...

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the response to any other request. Raises InvalidRequest if it is an error, and EngineError."""
        ...

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """Call `callback`, from any thread, with the reason when the server core is gone for good."""
        ...

    def when_restarted(self, callback: Callable[[], object]) -> None:
        """Call `callback`, from any thread, when another server core has taken the place of one that died: its slots
        are empty."""
        ...

    def close(self) -> None:
        """Free the model. Calls that run end."""
        ...
