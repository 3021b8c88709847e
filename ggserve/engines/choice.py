"""The choice of the engine that runs a file, and its reason. `modelfile.accepts` has what an engine accepts."""

import re
from dataclasses import dataclass
from typing import Literal

from ggserve.engines.contract import Tuning
from ggserve.engines.ctransformers.context import cuda_loads
from ggserve.engines.llama_cpp.build import chosen_build
from ggserve.engines.llama_cpp.in_process import gpus
from ggserve.engines.speed import llama_cpp_gain
from ggserve.errors import ModelFileError
from ggserve.modelfile.accepts.ctransformers import ctransformers_objection
from ggserve.modelfile.accepts.llama_cpp import llama_cpp_objection
from ggserve.modelfile.file import ModelFile
from ggserve.modelfile.gguf import GGUFFile
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.legacy.to_gguf import conversion_objection
from ggserve.modelfile.rope import RopeSettings

EngineName = Literal["ctransformers", "llama.cpp"]
WantedEngine = Literal["auto", "ctransformers", "llama.cpp"]

_MEBIBYTES = re.compile(r"\((\d+) MiB")  # of a GPU, in its line
_MANY = 8  # slots from which llama.cpp runs the default model: it decodes all of them in one batch


@dataclass(frozen=True, kw_only=True)
class EngineWishes(Tuning, RopeSettings):
    """The settings that the choice of an engine depends on."""

    engine: WantedEngine = "auto"
    parallel: int | None = None  # number of slots; None: as many as memory allows

    @property
    def llama_cpp_setting(self) -> str | None:
        """The first setting that only llama.cpp has, as NAME=value."""
        if self.mmproj_path:
            return f"MMPROJ_PATH={self.mmproj_path.name}"
        if adapters := self.adapters:
            return f"LORA_PATH={','.join(path.name for path, _ in adapters)}"
        if self.draft_model:
            return f"DRAFT_MODEL={self.draft_model}"
        if self.kv_cache_type != "f16":
            return f"KV_CACHE_TYPE={self.kv_cache_type}"
        if self.flash_attention == "on":
            return "FLASH_ATTENTION=on"
        return next(self.rope_settings, None)

    @property
    def names_llama_server(self) -> bool:
        """True if the user wants to run llama.cpp on a build of their own."""
        return self.llama_server not in ("auto", "off")


def engine_for_default_model(wishes: EngineWishes) -> EngineName:
    """Return the engine for the default model, which exists in a form for each engine."""
    if wishes.engine != "auto":
        return wishes.engine
    many = (wishes.parallel or 0) >= _MANY
    wanted = wishes.llama_cpp_setting or wishes.names_llama_server
    return "llama.cpp" if many or wanted or (wishes.gpu_layers and llama_cpp_uses_gpu(wishes)) else "ctransformers"


def llama_cpp_uses_gpu(tuning: Tuning) -> bool:
    """Return whether llama.cpp, as this machine has it, can use a GPU here. Raises EngineError."""
    build = chosen_build(tuning.llama_server)
    return bool(build.devices if build else gpus())


def gpu_memory(tuning: Tuning) -> int | None:
    """Bytes of all GPUs that llama.cpp can use here; None where they are not known. Raises EngineError."""
    build = chosen_build(tuning.llama_server)
    sizes = [_MEBIBYTES.search(device) for device in (build.devices if build else gpus())]
    return sum(int(size[1]) << 20 for size in sizes if size) or None


def choose_engine(file: ModelFile, wishes: EngineWishes = EngineWishes()) -> tuple[EngineName, str]:
    """Return the engine's name and the reason in one line.

    Chooses the faster of the engines that run the file exactly; in a tie, ctransformers. Raises ModelFileError if the
    requested engine, or every engine, cannot run the file.
    """
    name, wanted, setting = file.path.name, wishes.engine, wishes.llama_cpp_setting
    if setting and wanted == "ctransformers":
        raise ModelFileError(f"{name}: {setting} needs llama.cpp; ctransformers does not support it")
    if isinstance(file, GGMLFile):
        return _choose_for_legacy(file, wanted, setting)
    assert isinstance(file, GGUFFile)
    old, new = ctransformers_objection(file), llama_cpp_objection(file)
    if wanted == "ctransformers":
        if old is not None:
            other = "; ENGINE=llama.cpp runs it" if new is None else ""
            raise ModelFileError(f"{name}: ctransformers cannot run this file: {old}{other}")
        gain = llama_cpp_gain(file, wishes.parallel)
        missed = f"; llama.cpp would be {gain}" if new is None and gain.counts else ""
        return "ctransformers", f"ENGINE=ctransformers is set{missed}"
    if wanted == "llama.cpp":
        if new is not None:
            other = "; ENGINE=ctransformers runs it" if old is None else ""
            raise ModelFileError(f"{name}: llama.cpp cannot run this file: {new}{other}")
        return "llama.cpp", "ENGINE=llama.cpp is set"
    if old is not None and new is not None:
        raise ModelFileError(f"{name}: no engine can run this file. llama.cpp: {new}. ctransformers: {old}")
    if old is not None:
        return "llama.cpp", f"ctransformers cannot run the file as it is: {old}"
    if new is not None:
        if setting:
            raise ModelFileError(f"{name}: {setting} needs llama.cpp, which cannot run this file: {new}")
        return "ctransformers", f"llama.cpp cannot run the file as it is: {new}"
    if setting:
        return "llama.cpp", f"{setting} needs it"
    return _faster(file, wishes)


def _choose_for_legacy(file: GGMLFile, wanted: WantedEngine, setting: str | None) -> tuple[EngineName, str]:
    legacy = f"a legacy GGML file of the family {file.family}"
    if wanted != "llama.cpp" and setting is None:
        return "ctransformers", legacy
    if objection := conversion_objection(file):
        needed = f"{setting} needs llama.cpp, which" if setting else "llama.cpp"
        raise ModelFileError(f"{file.path.name}: {needed} cannot run this model: {objection}; ctransformers runs it")
    why = "ENGINE=llama.cpp is set" if wanted == "llama.cpp" else f"{setting} needs it"
    return "llama.cpp", f"{why}; {legacy}, as GGUF"


def _faster(file: GGUFFile, wishes: EngineWishes) -> tuple[EngineName, str]:
    """Return the choice between two engines that both run the file."""
    if wishes.names_llama_server:
        return "llama.cpp", f"LLAMA_SERVER={wishes.llama_server} runs it"
    if wishes.gpu_layers and llama_cpp_uses_gpu(wishes):
        return "llama.cpp", "it can use the GPU here"
    if wishes.gpu_layers not in (0, "auto") and cuda_loads():
        return "ctransformers", "it can use the GPU here"
    gain = llama_cpp_gain(file, wishes.parallel)
    if gain.counts:
        return "llama.cpp", str(gain)
    return "ctransformers", f"llama.cpp is {gain}"
