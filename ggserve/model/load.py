"""Loading: from a model file and the user's options to an engine, a codec and their shared parts. Generates nothing."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from ggserve.chat.codec import Codec, EngineCodec
from ggserve.chat.infill import Infill
from ggserve.chat.named_templates import Template
from ggserve.chat.renderers import ChatRenderers, renderers_of
from ggserve.engines.contract import Engine, EngineOptions, Reranker, SlotFiles
from ggserve.engines.ctransformers.context import Context
from ggserve.engines.ctransformers.engine import CTransformersEngine
from ggserve.engines.ctransformers.legacy_context import LegacyContext, LegacySetup
from ggserve.engines.llama_cpp.build import chosen_build
from ggserve.engines.llama_cpp.child import Child
from ggserve.engines.llama_cpp.engine import LlamaCppEngine
from ggserve.engines.llama_cpp.in_process import InProcess
from ggserve.engines.llama_cpp.saved_states import SavedStates, fingerprint
from ggserve.engines.llama_cpp.stack import WordLimit
from ggserve.engines.llama_cpp.transport import Pooling, ServerPlan
from ggserve.errors import ContextOverflow, EngineError, ModelFileError
from ggserve.grammar.matcher import Grammars, GrammarVocabulary
from ggserve.model.plan import LoadOptions, Report, plan_load
from ggserve.modelfile.facts import ModelFacts, model_facts
from ggserve.modelfile.file import (
    ModelFile,
    has_pooling,
    is_embedding_model,
    is_reranker,
)
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.memory import MemoryPlan
from ggserve.modelfile.norms import check_norms
from ggserve.modelfile.read_ahead import read_ahead
from ggserve.tokenizer.tokenizer import Tokenizer
from ggserve.tokenizer.vocabulary import control_tokens

log = logging.getLogger("ggserve.model")

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_LONG_TEXT = 8192  # characters; tokenizing more would block the event loop


@dataclass(frozen=True)
class LoadedModel:
    """An engine that has loaded a file, and the codec between texts and its tokens."""

    engine: Engine
    engine_reason: str  # in one line
    options: EngineOptions
    codec: Codec | EngineCodec
    facts: ModelFacts
    vocab_size: int
    infill: Infill  # fill-in-the-middle prompts
    renderers: ChatRenderers
    token_grammars: Grammars | None = None  # over the model's tokens, if the engine's are over bytes
    reranker: Reranker | None = None  # for models that rank documents
    nbytes: int = 0  # planned memory
    slot_files: SlotFiles | None = None  # if slots can be saved

    def check_length(self, length: int) -> None:
        """Check that a text of `length` characters can fit, whatever its tokens are. Raises ContextOverflow."""
        fewest = length // self.codec.longest_token
        if fewest > self.engine.context_length:
            raise ContextOverflow(fewest, self.engine.context_length, at_least=True)

    async def off_loop(
        self, length: int, function: Callable[[Argument], Result], argument: Argument, *, others: int = 0
    ) -> Result:
        """Call `function`, which tokenizes `length` characters, plus `others` that need not fit; in a thread if that
        takes long. Raises ContextOverflow if the length alone shows that they cannot fit."""
        self.check_length(length)
        if self.codec.blocks or length + others > _LONG_TEXT:
            return await asyncio.to_thread(function, argument)
        return function(argument)


def load(path: Path, options: LoadOptions, report: Report | None = None, *, memory: int | None = None) -> LoadedModel:
    """Plan and load. `report` receives the fraction of the file read; `memory` as in `plan_load`.

    Raises ModelFileError, TemplateError or EngineError, with one line that says what to do.
    """
    started = time.perf_counter()
    report = report or (lambda progress: None)
    plan = plan_load(path, options, _half(report, 0), memory=memory)
    if plan.file.path != path:  # the conversion was the first half
        report = _half(report, 1)
    read_ahead(plan.file, report)
    check_norms(plan.file)
    loader = _load_ctransformers if plan.engine_name == CTransformersEngine.name else _load_llama_cpp
    engine_options = plan.options.for_engine(plan.memory, plan.rope)
    try:
        loaded = loader(plan.file, plan.engine_reason, plan.chosen, plan.memory, engine_options)
    except EngineError as error:
        if options.mmproj_path or not engine_options.mmproj_path:
            raise
        log.warning("the projector %s is not used: %s", engine_options.mmproj_path, error)
        without = replace(engine_options, mmproj_path=None)
        loaded = loader(plan.file, plan.engine_reason, plan.chosen, plan.memory, without)
    if plan.rope:
        log.info("%s", plan.rope)
    if notes := loaded.renderers.notes:
        log.info("%s", notes)
    hardware = loaded.engine.hardware
    log.info(
        "loaded %s in %.2f s: engine %s (%s) of %s, context %d tokens, %s, %d threads, %s",
        path,
        time.perf_counter() - started,
        loaded.engine.name,
        plan.engine_reason,
        hardware.build,
        plan.memory.context_length,
        _slots(plan.memory),
        loaded.options.threads,
        ", ".join((hardware.layers or "no GPU", *hardware.devices)),
    )
    return replace(loaded, nbytes=plan.nbytes)


def _slots(plan: MemoryPlan) -> str:
    if plan.shared_tokens is None:
        return f"{plan.slots} slots of up to {plan.slot_bytes / 1e6:.0f} MB each"
    return f"{plan.slots} slots that share a cache of {plan.shared_tokens} tokens ({plan.nbytes / 1e6:.0f} MB)"


def _half(report: Report, number: int) -> Report:
    """Return `report` for the first (0) or the second (1) half of the work."""
    return lambda progress: report((number + progress) / 2)


def _load_ctransformers(
    file: ModelFile, reason: str, chosen: Template | None, plan: MemoryPlan, options: EngineOptions
) -> LoadedModel:
    if options.prompt_cache_dir:
        log.warning("PROMPT_CACHE_DIR has no effect: ctransformers cannot save its KV cache")
    contexts: list[Context] = [_context(file, plan, options) for _ in range(options.parallel)]
    with ThreadPoolExecutor(1) as loader:  # the engine loads the file in C++ while the tokenizer is built
        opening = loader.submit(contexts[0].open)
        tokenizer = Tokenizer.from_metadata(file)
        codec = Codec(tokenizer)
        renderers = renderers_of(file, chosen, codec)
        tokenizer.show(renderers.shown_controls)
        opening.result()
    engine = CTransformersEngine(
        contexts,
        embeds=not isinstance(file, GGMLFile),
        pieces=tokenizer.pieces,
        spelling=lambda token: codec.pieces([token])[0],
        encode=codec.encode_middle,
        end_ids=codec.end_ids,
        grammars=Grammars(GrammarVocabulary(tokenizer.pieces, codec.end_ids, codec.encode_middle)),
        options=options,
    )
    return LoadedModel(
        engine, reason, options, codec, model_facts(file), tokenizer.vocab_size, Infill(file, codec), renderers
    )


def _context(file: ModelFile, plan: MemoryPlan, options: EngineOptions) -> Context:
    if not isinstance(file, GGMLFile) or plan.evals is None:
        return Context(file.path, "gguf", options)
    grouped = file.header.n_head_kv * 8 == file.header.n_head
    setup = LegacySetup(plan.evals.chunk, plan.evals.warm_up, plan.evals.rewinds, grouped)
    return LegacyContext(file.path, file.family, options, setup)


def _load_llama_cpp(
    file: ModelFile, reason: str, chosen: Template | None, plan: MemoryPlan, options: EngineOptions
) -> LoadedModel:
    facts = model_facts(file)
    generates = not is_embedding_model(file)
    vocab_size = len(file.get("tokenizer.ggml.tokens"))
    codec: Codec | EngineCodec
    tokenizer = None
    try:
        tokenizer = Tokenizer.from_metadata(file)
        codec = Codec(tokenizer)
    except ModelFileError as error:
        log.info("llama.cpp's own tokenizer: %s", error)
        codec = EngineCodec(file)
    renderers = renderers_of(file, chosen, codec)
    build = chosen_build(options.llama_server)
    label = f"llama-server {build.version} {build.path}" if build else f"xllamacpp {version('xllamacpp')}"
    states = _saved_states(file, options, label) if generates else None
    length_key = f"{file.architecture}.context_length"
    server = ServerPlan(
        path=file.path,
        options=options,
        pooling=_pooling(file),
        states=states.folder if states else None,
        raised_key=length_key if options.rope and options.context_length > file.get(length_key) else None,
        whole_inputs=not generates,
    )
    engine = LlamaCppEngine(
        Child(build, server) if build else InProcess(server),
        options=options,
        vocab_size=vocab_size,
        end_ids=_named_ends(file, vocab_size),
        controls=control_tokens(file),
        pooling=server.pooling,
        generates=generates,
        shown_controls=renderers.shown_controls,
        loses_spaces=bool(file.get("tokenizer.ggml.add_space_prefix", file.get("tokenizer.ggml.model") == "llama")),
        word_limit=WordLimit.of(file),
        states=states,
        bytes_per_token=plan.slot_bytes / plan.context_length,
        sliding_window=facts.sliding_window,
    )
    if isinstance(codec, EngineCodec):
        codec.engine = engine
    return LoadedModel(
        engine,
        reason,
        options,
        codec,
        facts,
        vocab_size,
        Infill(file, codec),
        renderers,
        token_grammars=Grammars(GrammarVocabulary(tokenizer.pieces, tokenizer.end_ids, codec.encode_middle))
        if tokenizer
        else None,
        reranker=engine if is_reranker(file) else None,
        slot_files=engine if states else None,
    )


def _saved_states(file: ModelFile, options: EngineOptions, build: str) -> SavedStates | None:
    """Return the saved prompts of a model with these options, or None if they are off or llama.cpp cannot save them."""
    if options.prompt_cache_dir is None:
        return None
    if options.mmproj_path or options.draft_model:
        log.warning(
            "PROMPT_CACHE_DIR has no effect: llama.cpp cannot save prompts with a vision model or a DRAFT_MODEL"
        )
        return None
    facts = (
        build,
        options.kv_cache_type,
        options.flash_attention,
        [scale for _, scale in options.adapters],
        options.speculate,
        *filter(None, (options.rope,)),
    )
    paths = [*file.paths, *(path for path, _ in options.adapters)]
    return SavedStates(options.prompt_cache_dir, fingerprint(paths, facts), options.prompt_cache_disk << 20)


def _pooling(file: ModelFile) -> Pooling:
    """Return how token vectors are pooled: as the file says, else the default of its kind of model."""
    if is_reranker(file):
        return "rank"
    if not is_embedding_model(file):
        return "last"
    return "model" if has_pooling(file) else "mean"


def _named_ends(file: ModelFile, vocab_size: int) -> list[int]:
    """Return the tokens that the file itself declares as ends of an answer."""
    named = (file.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom"))
    return sorted({int(token) for token in named if token is not None and 0 <= int(token) < vocab_size})
