"""What every engine promises: options at the start, parameters in, deltas out. Engines differ in how, not in what."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ggserve.generation import Delta, Embedding, Feature, MediaPrompt, Occupancy, Ranking, SamplingParams, Scores
from ggserve.machine import Hardware

Speculation = Literal["off", "ngram-mod"]
CacheType = Literal["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What a user may set and an engine takes as it is."""

    gpu_layers: int | Literal["auto"] = "auto"  # "auto": as many as the GPU's memory takes, if there is a GPU
    llama_server: str = "auto"  # a native llama-server to run llama.cpp on: a path, "auto" or "off"
    llama_args: str = ""  # further arguments for it
    queue_size: int = 64  # requests that may wait for a slot
    speculate: Speculation = "off"  # how llama.cpp guesses tokens ahead of the model; what it guesses is checked
    draft_model: Path | None = None  # a small model of the same vocabulary, which guesses too
    prompt_cache: int = 1024  # MiB of main memory for what llama.cpp's slots held before
    prompt_cache_dir: Path | None = None  # where llama.cpp's slots are saved, in place of memory; None: nowhere
    prompt_cache_disk: int = 4096  # MiB that all saved slots may take
    kv_cache_type: CacheType = "f16"  # of llama.cpp's keys and values
    flash_attention: Literal["auto", "on", "off"] = "auto"  # llama.cpp's
    mmproj_path: Path | None = None  # a GGUF file of what turns images into embeddings, for llama.cpp
    lora_path: Path | tuple[Path, ...] = ()  # GGUF files of LoRA adapters, for llama.cpp
    lora_scale: float | tuple[float, ...] = 1.0  # of all, or of each

    @property
    def adapters(self) -> tuple[tuple[Path, float], ...]:
        """The LoRA adapters and their scales. Raises ValueError if the numbers of paths and scales differ."""
        paths = (self.lora_path,) if isinstance(self.lora_path, Path) else self.lora_path
        scales = self.lora_scale if isinstance(self.lora_scale, tuple) else (self.lora_scale,)
        return tuple(zip(paths, scales * len(paths) if len(scales) == 1 else scales, strict=True))


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Tuning):
    """How an engine shall run a file."""

    context_length: int  # tokens of one slot, prompt and answer together
    threads: int = 1
    parallel: int = 1  # slots: answers at the same time


class Engine(Protocol):
    """Token ids to deltas."""

    name: str

    @property
    def hardware(self) -> Hardware: ...

    context_length: int  # tokens, prompt and answer together
    features: frozenset[Feature]
    media_marker: str  # stands for an image in a MediaPrompt's text; "" where it sees none

    @property
    def pool(self) -> Occupancy:
        """Its slots, and the queue before them."""
        ...

    def generate(self, prompt: Sequence[int] | MediaPrompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Continues `prompt`, which may have images where there is a `media_marker`. Closing the generator frees what
        it holds at the next step.

        Raises ContextOverflow, InvalidToken, QueueFull or EngineClosed before the first delta, GenerationError
        at any time.
        """
        ...

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """Call `callback`, from any thread, with the reason when the engine fails for good."""
        ...

    async def embed(self, inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        """The embedding of each input, which needs Feature "embeddings". Raises as `generate`."""
        ...

    async def score(self, prompt: Sequence[int] | MediaPrompt, continuations: Sequence[Sequence[int]]) -> Scores:
        """The log-probabilities of each continuation's tokens after the prompt, which is evaluated once, as is each
        beginning that continuations share. Needs Feature "scores". Raises as `generate`."""
        ...

    def close(self) -> None:
        """Ends every generation and frees the model; a second call does nothing."""
        ...


class SlotFiles(Protocol):
    """What an engine may offer besides: slots that are saved to files."""

    async def act_on_slot(
        self, number: int, action: Literal["save", "restore", "erase"], filename: str
    ) -> dict[str, Any]:
        """Saves, restores or erases a slot, and answers as llama-server does. Raises InvalidRequest."""
        ...


class Reranker(Protocol):
    """What an engine may offer besides: the relevance of documents, which needs Feature "rerank"."""

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        """How well each document answers the query. Raises as `Engine.generate`."""
        ...
