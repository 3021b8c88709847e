"""`ggserve devices`: the GPUs that each engine can use on this machine."""

import importlib.metadata
import sys
from collections.abc import Iterable, Sequence

from ggserve.engines.ctransformers.context import cuda_devices, cuda_loads
from ggserve.engines.llama_cpp.build import chosen_build, read_build
from ggserve.engines.llama_cpp.in_process import gpus
from ggserve.errors import EngineError
from ggserve.settings import Settings, SettingsError, load_settings


def main(arguments: Sequence[str]) -> int:
    """Print the devices; `arguments` are settings, such as LLAMA_SERVER. Returns the exit code."""
    try:
        print("\n".join(_lines(load_settings(command_line=arguments))))
    except (EngineError, SettingsError) as error:
        print(f"ggserve: {error}", file=sys.stderr)
        return 2
    return 0


def _lines(settings: Settings) -> Iterable[str]:
    yield f"ctransformers {importlib.metadata.version('ctransformers')}"
    count = cuda_devices()
    if not count:
        yield "  no GPU: the NVIDIA driver is not installed, or finds no GPU"
    elif cuda_loads():
        yield f"  {count} NVIDIA GPU(s); set GPU_LAYERS to a number to use one"
    else:
        yield f"  no GPU: the driver has {count}, but the CUDA libraries are missing: pip install 'ctransformers[cuda]'"
    yield f"llama.cpp: xllamacpp {importlib.metadata.version('xllamacpp')}"
    yield from (f"  {device}" for device in gpus() or ("no GPU that this build can use",))
    build = chosen_build(settings.llama_server)
    if build is None and settings.llama_server == "auto":
        try:
            found = read_build("llama-server")
        except EngineError:
            yield "llama.cpp: no llama-server on PATH; set LLAMA_SERVER to one elsewhere"
            return
        yield f"llama.cpp: llama-server {found.version} ({found.path}), not used with LLAMA_SERVER=auto"
        yield from (f"  {device}" for device in found.devices or ("no GPU that this build can use",))
    elif build is not None:
        yield f"llama.cpp: llama-server {build.version} ({build.path}), used (LLAMA_SERVER={settings.llama_server})"
        if not build.has("--list-devices"):
            yield "  this build does not list its devices"
        else:
            yield from (f"  {device}" for device in build.devices or ("no GPU that this build can use",))
