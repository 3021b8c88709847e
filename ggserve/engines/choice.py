"""Which engine runs a file, and why."""

from collections.abc import Collection
from typing import Literal

from ggserve.engines.speed import llama_cpp_gain
from ggserve.errors import ModelFileError
from ggserve.modelfile.accepts.ctransformers import ctransformers_objection
from ggserve.modelfile.accepts.llama_cpp import llama_cpp_objection
from ggserve.modelfile.file import ModelFile
from ggserve.modelfile.gguf import GGUFFile
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.legacy.to_gguf import conversion_objection

EngineName = Literal["ctransformers", "llama.cpp"]
WantedEngine = Literal["auto", "ctransformers", "llama.cpp"]


def choose_engine(
    file: ModelFile,
    wanted: WantedEngine = "auto",
    *,
    slots: int | None = None,
    gpu_users: Collection[EngineName] = (),
    only_llama_cpp: str | None = None,
) -> tuple[EngineName, str]:
    """The engine's name and one line that says why: of those that run the file exactly as it is the faster one for
    `slots` answers at the same time (None: several), ctransformers where they are equal.

    `gpu_users`: where a GPU is wanted, the engines that can use the one that is here. `only_llama_cpp`: a setting that
    ctransformers has no counterpart of. Raises ModelFileError where the engine that is wanted, or any, cannot run the
    file.
    """
    name = file.path.name
    if only_llama_cpp and wanted == "ctransformers":
        raise ModelFileError(f"{name}: {only_llama_cpp} is for llama.cpp; ctransformers has no such")
    if isinstance(file, GGMLFile):
        return _choose_for_legacy(file, wanted, only_llama_cpp)
    assert isinstance(file, GGUFFile)
    old, new = ctransformers_objection(file), llama_cpp_objection(file)
    if wanted == "ctransformers":
        if old is not None:
            other = "; ENGINE=llama.cpp runs it" if new is None else ""
            raise ModelFileError(f"{name}: ctransformers cannot run this file: {old}{other}")
        gain = llama_cpp_gain(file, slots)
        missed = f"; llama.cpp would be {gain}" if new is None and gain.counts else ""
        return "ctransformers", f"ENGINE=ctransformers asks for it{missed}"
    if wanted == "llama.cpp":
        if new is not None:
            other = "; ENGINE=ctransformers runs it" if old is None else ""
            raise ModelFileError(f"{name}: llama.cpp cannot run this file: {new}{other}")
        return "llama.cpp", "ENGINE=llama.cpp asks for it"
    if old is not None and new is not None:
        raise ModelFileError(f"{name}: no engine can run this file. llama.cpp: {new}. ctransformers: {old}")
    if old is not None:
        return "llama.cpp", f"ctransformers cannot run the file as it is: {old}"
    if new is not None:
        if only_llama_cpp:
            raise ModelFileError(f"{name}: {only_llama_cpp} is for llama.cpp, which cannot run this file: {new}")
        return "ctransformers", f"llama.cpp cannot run the file as it is: {new}"
    if only_llama_cpp:
        return "llama.cpp", f"{only_llama_cpp} needs it"
    return _faster(file, slots, gpu_users)


def _choose_for_legacy(file: GGMLFile, wanted: WantedEngine, only_llama_cpp: str | None) -> tuple[EngineName, str]:
    legacy = f"a legacy GGML file of the family {file.family}"
    if wanted != "llama.cpp" and only_llama_cpp is None:
        return "ctransformers", legacy
    if objection := conversion_objection(file):
        raise ModelFileError(f"{file.path.name}: llama.cpp cannot run this model: {objection}; ctransformers runs it")
    why = "ENGINE=llama.cpp asks for it" if wanted == "llama.cpp" else f"{only_llama_cpp} needs it"
    return "llama.cpp", f"{why}; {legacy}, as GGUF"


def _faster(file: GGUFFile, slots: int | None, gpu_users: Collection[EngineName]) -> tuple[EngineName, str]:
    """The choice where both engines run the file."""
    if "llama.cpp" in gpu_users:
        return "llama.cpp", "it can use the GPU here, for several answers at a time"
    if "ctransformers" in gpu_users:
        return "ctransformers", "it can use the GPU here"
    gain = llama_cpp_gain(file, slots)
    if gain.counts:
        return "llama.cpp", str(gain)
    return "ctransformers", f"llama.cpp is {gain}"
