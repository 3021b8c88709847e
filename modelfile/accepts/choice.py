"""Which engine runs a file, and why."""

from typing import Literal

from modelfile.accepts.ctransformers import ctransformers_objection
from modelfile.accepts.llama_cpp import llama_cpp_objection
from modelfile.errors import ModelFileError
from modelfile.file import ModelFile
from modelfile.gguf import GGUFFile
from modelfile.legacy.ggml import GGMLFile

EngineName = Literal["ctransformers", "llama.cpp"]
WantedEngine = Literal["auto", "ctransformers", "llama.cpp"]


def choose_engine(file: ModelFile, wanted: WantedEngine = "auto") -> tuple[EngineName, str]:
    """The engine's name and one line that says why: ctransformers for every file that it runs exactly as it is,
    else llama.cpp. ModelFileError where the engine that is wanted, or any, cannot run the file."""
    name = file.path.name
    if isinstance(file, GGMLFile):
        if wanted == "llama.cpp":
            raise ModelFileError(f"{name}: llama.cpp cannot run this file: it is no GGUF; ENGINE=ctransformers runs it")
        return "ctransformers", f"a legacy GGML file of the family {file.family}"
    assert isinstance(file, GGUFFile)
    old = ctransformers_objection(file)
    if wanted == "auto" and old is None:
        return "ctransformers", "the file is one that ctransformers runs exactly as it is"
    new = llama_cpp_objection(file)
    if wanted == "ctransformers":
        if old is not None:
            other = "; ENGINE=llama.cpp runs it" if new is None else ""
            raise ModelFileError(f"{name}: ctransformers cannot run this file: {old}{other}")
        return "ctransformers", "ENGINE=ctransformers asks for it"
    if wanted == "llama.cpp":
        if new is not None:
            other = "; ENGINE=ctransformers runs it" if old is None else ""
            raise ModelFileError(f"{name}: llama.cpp cannot run this file: {new}{other}")
        return "llama.cpp", "ENGINE=llama.cpp asks for it"
    if new is not None:
        raise ModelFileError(f"{name}: no engine can run this file. llama.cpp: {new}. ctransformers: {old}")
    return "llama.cpp", f"ctransformers cannot run the file as it is: {old}"
