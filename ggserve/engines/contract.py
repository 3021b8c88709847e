"""The contract of every engine: options at startup, parameters in, deltas out. Engines differ in how they work, not in
what they do."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ggserve.generation import (
    Delta,
    Embedding,
    Feature,
    MediaPrompt,
    Occupancy,
    Queue,
    Ranking,
    SamplingParams,
    Scores,
)
from ggserve.machine import Hardware
from ggserve.modelfile.rope import Rope

Speculation = Literal["off", "ngram-mod"]
SLACK = 64  # tokens by which a request may exceed what it counts: guesses, and those until it is stopped
CacheType = Literal["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """User settings that an engine uses unchanged."""

    gpu_layers: int | Literal["auto"] = "auto"  # "auto": as many as fit into GPU memory, if there is a GPU
    llama_server: str = "auto"  # a native llama-server that runs llama.cpp: a path, "auto" or "off"
    llama_args: str = ""  # additional arguments for it
    queue_size: int = 64  # requests that can wait for a slot
    embedding_queue_size: int = 512  # embedding requests that can run or wait
    speculate: Speculation = "off"  # llama.cpp's speculative decoding
    draft_model: Path | None = None  # a small model with the same vocabulary, for speculative decoding
    prompt_cache: int = 1024  # MiB of memory for prompts that left llama.cpp's slots
    prompt_cache_dir: Path | None = None  # folder for saved slots of llama.cpp, instead of memory; None: not saved
    prompt_cache_disk: int = 4096  # size limit of all saved slots in MiB
    kv_cache_type: CacheType = "f16"  # llama.cpp only
    flash_attention: Literal["auto", "on", "off"] = "auto"  # llama.cpp's
    mmproj_path: Path | None = None  # a projector in GGUF, which turns images into embeddings; llama.cpp only
    lora_path: Path | tuple[Path, ...] | None = ()  # LoRA adapters in GGUF; llama.cpp only
    lora_scale: float | tuple[float, ...] = (1.0,)  # of all, or of each

    @property
    def adapters(self) -> tuple[tuple[Path, float], ...]:
        """The LoRA adapters and their scales. Raises ValueError if the numbers of paths and scales differ."""
        paths = (self.lora_path,) if isinstance(self.lora_path, Path) else self.lora_path or ()
        scales = self.lora_scale if isinstance(self.lora_scale, tuple) else (self.lora_scale,)
        return tuple(zip(paths, scales * len(paths) if len(scales) == 1 else scales, strict=True))


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Tuning):
    """The options under which an engine runs a file."""

    context_length: int  # tokens of one request, prompt and answer together
    threads: int = 1
    parallel: int = 1  # slots: answers at the same time
    shared_tokens: int | None = None  # of the one KV cache that all slots share; None: each has its own
    rope: Rope | None = None  # llama.cpp only; None: as the file says

    @property
    def cache_tokens(self) -> int:
        """The tokens of all KV caches together."""
        if self.shared_tokens is None:
            return self.context_length * self.parallel
        return self.shared_tokens + SLACK * self.parallel


class Engine(Protocol):
    """An engine: token ids in, deltas out."""

    name: str

    @property
    def hardware(self) -> Hardware: ...

    context_length: int  # tokens, prompt and answer together
    features: frozenset[Feature]
    media_marker: str  # stands for an image in a MediaPrompt's text; "" without vision

    @property
    def pool(self) -> Occupancy:
        """The slots and their queue."""
        ...

    @property
    def batches(self) -> Queue:
        """The queue of embedding requests."""
        ...

    def generate(self, prompt: Sequence[int] | MediaPrompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Continue `prompt`, which can contain images if there is a `media_marker`. Closing the generator frees its
        slot at the next step.

        Raises ContextOverflow, InvalidToken, QueueFull or EngineClosed before the first delta, and GenerationError at
        any time.
        """
        ...

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """Call `callback`, from any thread, with the reason when the engine fails for good."""
        ...

    async def embed(self, inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        """Return the embedding of each input. Requires Feature "embeddings". Raises the same errors as `generate`."""
        ...

    async def score(self, prompt: Sequence[int] | MediaPrompt, continuations: Sequence[Sequence[int]]) -> Scores:
        """Return the log-probabilities of each continuation's tokens after the prompt. The prompt, and each prefix that
        continuations share, is evaluated once. Requires Feature "scores". Raises the same errors as `generate`."""
        ...

    def close(self) -> None:
        """End every generation and free the model. A second call does nothing."""
        ...


class SlotFiles(Protocol):
    """An optional capability of engines: saving slots to files."""

    async def act_on_slot(
        self, number: int, action: Literal["save", "restore", "erase"], filename: str
    ) -> dict[str, Any]:
        """Save, restore or erase a slot, and return llama-server's response. Raises InvalidRequest."""
        ...


class Reranker(Protocol):
    """An optional capability of engines: ranking documents by relevance. Requires Feature "rerank"."""

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        """Return the relevance of each document to the query. Raises the same errors as `Engine.generate`."""
        ...
