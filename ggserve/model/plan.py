"""Planning a load: the options, the checked file with its companions, the engine, the context and the memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

from ggserve.chat.named_templates import Template, chosen_template, family_template
from ggserve.engines.choice import (
    EngineName,
    EngineWishes,
    WantedEngine,
    choose_engine,
    gpu_memory,
    llama_cpp_uses_gpu,
)
from ggserve.engines.contract import CacheType, EngineOptions, Speculation, Tuning
from ggserve.engines.ctransformers.engine import CTransformersEngine
from ggserve.engines.llama_cpp.arguments import SHARED_CACHE
from ggserve.engines.llama_cpp.build import chosen_build
from ggserve.engines.llama_cpp.engine import LlamaCppEngine
from ggserve.errors import ModelFileError
from ggserve.hub.companions import checked_adapter, checked_projector, projector_beside
from ggserve.hub.converted import as_gguf
from ggserve.machine import memory_for_models, usable_cores, usable_memory
from ggserve.modelfile.accepts.llama_cpp import llama_cpp_objection
from ggserve.modelfile.file import (
    ModelFile,
    is_embedding_model,
    read_model_file,
)
from ggserve.modelfile.gguf import GGUFFile, read_gguf
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.memory import MemoryPlan, plan_memory
from ggserve.modelfile.rope import Rope, RopeScaling, check_has_rope, rope_of

Report = Callable[[float], object]

_NO_PROJECTOR = Path("none")  # value of MMPROJ_PATH
_PADDING = 128  # maximum difference in vocabulary size, as in llama.cpp


class LoadArguments(TypedDict, total=False):
    """The fields of LoadOptions, as keyword arguments."""

    engine: WantedEngine
    parallel: int | None
    cache_dir: Path
    model_type: str | None
    chat_template: str | None
    context_length: int | None
    threads: int | None
    gpu_layers: int | Literal["auto"]
    llama_server: str
    llama_args: str
    queue_size: int
    embedding_queue_size: int
    speculate: Speculation
    draft_model: Path | None
    prompt_cache: int
    prompt_cache_dir: Path | None
    prompt_cache_disk: int
    kv_cache_type: CacheType
    flash_attention: Literal["auto", "on", "off"]
    mmproj_path: Path | None
    lora_path: Path | tuple[Path, ...] | None
    lora_scale: float | tuple[float, ...]
    rope_scaling: RopeScaling | None
    rope_scale: float | None
    rope_freq_base: float | None
    yarn_orig_ctx: int | None


@dataclass(frozen=True, kw_only=True)
class LoadOptions(EngineWishes):
    """The user's options for loading. None leaves the choice to the file and the machine."""

    cache_dir: Path = Path("models")  # folder for model files converted for an engine
    model_type: str | None = None  # the family of a legacy file; None: detected
    chat_template: str | None = None  # a name (chat/named_templates) or a file; None: the model file's own
    context_length: int | None = None  # tokens; None: the model's own, as far as memory allows
    threads: int | None = None  # None: the usable cores

    def for_engine(self, plan: MemoryPlan, rope: Rope | None = None) -> EngineOptions:
        """Return the options of the engine under a plan."""
        tuning = {name: getattr(self, name) for name in Tuning.__dataclass_fields__}
        return EngineOptions(
            **tuning,
            context_length=plan.context_length,
            threads=self.threads or usable_cores(),
            parallel=plan.slots,
            shared_tokens=plan.shared_tokens,
            rope=rope,
        )


@dataclass(frozen=True)
class Plan:
    """A checked file, and how to load it."""

    file: ModelFile
    options: LoadOptions  # including the model's companion files
    engine_name: EngineName
    engine_reason: str
    chosen: Template | None  # overrides the file's chat template
    memory: MemoryPlan
    rope: Rope | None = None  # None: as the file says

    @property
    def nbytes(self) -> int:
        """The planned memory in bytes: weights and KV caches, without the prompt cache."""
        adapters = (path for path, _ in self.options.adapters)
        companions = (self.options.mmproj_path, *adapters, self.options.draft_model)
        weights = self.file.size + sum(path.stat().st_size for path in companions if path)
        return weights + self.memory.nbytes


def plan_load(path: Path, options: LoadOptions, report: Report | None = None, *, memory: int | None = None) -> Plan:
    """Check the file, choose the engine and plan the memory. `report` receives the fraction of a conversion done.
    `memory`: bytes that limit a default context (None: all that models may take).

    Raises ModelFileError, TemplateError or EngineError, with one line that says what to do.
    """
    file = read_model_file(path, options.model_type)
    options = _with_projector(file, options)
    engine_name, reason = choose_engine(file, options)
    own = family_template(file) if isinstance(file, GGMLFile) else None
    check_has_rope(file, options)
    chosen = chosen_template(file, options.chat_template) if options.chat_template else own
    if isinstance(file, GGMLFile) and engine_name == LlamaCppEngine.name:
        file = read_gguf(as_gguf(file, options.cache_dir, own and own[0], report))
    if options.gpu_layers == "auto" and (engine_name == CTransformersEngine.name or not llama_cpp_uses_gpu(options)):
        options = replace(options, gpu_layers=0)
    draft = _draft(file, options.draft_model) if options.draft_model else None
    if engine_name == LlamaCppEngine.name:
        options = _with_companions(file, options)
    rope = rope_of(file, options, options.context_length)
    planned = plan_memory(
        file,
        context_length=options.context_length,
        slots=options.parallel,
        memory=usable_memory(),
        spare=_spare(file, options, memory or memory_for_models()),
        uses_gpu=options.gpu_layers != 0,
        shares_gpu=engine_name != CTransformersEngine.name,
        shares_cache=engine_name == LlamaCppEngine.name and _shares_cache(file, options),
        goes_beyond=engine_name != LlamaCppEngine.name or "--override-kv" in options.llama_args,
        cache_type=options.kv_cache_type,
        draft=draft,
        rope=rope,
    )
    return Plan(file, options, engine_name, reason, chosen, planned, rope)


def _spare(file: ModelFile, options: LoadOptions, memory: int) -> int:
    """Bytes that KV caches may take if nothing is set: half of what the weights leave."""
    if options.gpu_layers != 0:
        memory = min(memory, gpu_memory(options) or memory)
    return max(0, memory - file.size) // 2


def _shares_cache(file: ModelFile, options: LoadOptions) -> bool:
    """Return whether llama.cpp's slots can share one cache: not if they are saved or hold images, nor in old builds."""
    build = chosen_build(options.llama_server)
    old = build is not None and not build.has(SHARED_CACHE)
    return not (old or options.prompt_cache_dir or options.mmproj_path or is_embedding_model(file))


def _draft(file: ModelFile, path: Path) -> ModelFile:
    """Return the checked file of a draft model for speculative decoding. Raises ModelFileError if llama.cpp cannot use
    it."""
    draft = read_gguf(path)
    if objection := llama_cpp_objection(draft):
        raise ModelFileError(f"DRAFT_MODEL={path.name}: llama.cpp cannot run this file: {objection}")
    own, others = (each.get("tokenizer.ggml.tokens") for each in (file, draft))
    if abs(len(own) - len(others)) > _PADDING or any(a != b for a, b in zip(own, others, strict=False)):
        raise ModelFileError(f"DRAFT_MODEL={path.name}: its vocabulary differs from that of {file.path.name}")
    return draft


def _with_projector(file: ModelFile, options: LoadOptions) -> LoadOptions:
    """Return the options with the projector next to the model, if it is usable and none is set. The name "none" means
    no projector."""
    if options.mmproj_path == _NO_PROJECTOR:
        return replace(options, mmproj_path=None)
    if options.mmproj_path or options.engine == CTransformersEngine.name or not isinstance(file, GGUFFile):
        return options
    beside = projector_beside(file)
    return options if beside is None or llama_cpp_objection(file) else replace(options, mmproj_path=beside)


def _with_companions(file: ModelFile, options: LoadOptions) -> LoadOptions:
    """Return the options with the checked companion files of the model."""
    return replace(
        options,
        mmproj_path=checked_projector(options.mmproj_path) if options.mmproj_path else None,
        lora_path=tuple(checked_adapter(path, file) for path, _ in options.adapters),
        prompt_cache=0 if options.adapters else options.prompt_cache,  # it does not tell apart adapters of requests
    )
