"""The `ggserve` command. Each subcommand imports what it needs, so that `ggserve --help` is instant."""

import os
import sys
from pathlib import Path

from ggserve import __version__

_HELP = """\
usage: ggserve [serve] [FILE | ORG/NAME[:QUANTIZATION]] [--SETTING VALUE ...]
       ggserve COMMAND ...

Serves a GGUF or GGML model over the APIs of OpenAI, Anthropic, Ollama and llama-server.

commands:
  serve      start the server (the default); `ggserve serve --help` lists all settings
  cluster    start the same server as replicas on Ray Serve
  inspect    describe a model file
  pull       download a model from the hub: ORG/NAME[:QUANTIZATION], into MODELS_DIR if that is set
  list       list the models in MODELS_DIR, or in the hub's cache
  health     ask the running server how it is, for health checks
  convert    convert a model file so that the other engine can run it
  devices    list the GPUs that each engine can use
  version    print the version

Settings are also read from the environment and from `.env`: --context-length 8192 is CONTEXT_LENGTH=8192.
"""


def main(arguments: list[str] | None = None, *, model_path: str = "") -> int:
    """Run the command line and return the exit code. `model_path` is served if no model is named."""
    _open_standard_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    command, *rest = arguments or ["serve"]
    match command:
        case "-h" | "--help" | "help":
            print(_HELP, end="")
        case "version" | "--version":
            print(f"ggserve {__version__}")
        case "inspect":
            from ggserve.model.inspect import main as inspect

            return inspect(rest)
        case "convert":
            from ggserve.modelfile.convert import main as convert

            return convert(rest)
        case "devices":
            from ggserve.engines.devices import main as devices

            return devices(rest)
        case "pull":
            from ggserve.model.commands import main_pull

            return main_pull(rest)
        case "list":
            from ggserve.model.commands import main_list

            return main_list(rest)
        case "health":
            from ggserve.server.health import main as health

            return health(rest)
        case "cluster":
            from ggserve.cluster.application import main as cluster

            cluster()
        case _:
            return _serve(rest if command == "serve" else arguments, model_path)
    return 0


def _open_standard_streams() -> None:
    """Open standard streams that were closed (`>&-`). Otherwise other files would get their numbers, and their
    output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))


def _serve(arguments: list[str], model_path: str) -> int:
    from ggserve.serve import serve

    if arguments and not arguments[0].startswith("-"):
        model, *arguments = arguments
        if os.path.exists(model) or Path(model).suffix in (".gguf", ".bin"):
            arguments = ["--model-path", model, *arguments]
        elif "/" in model:
            arguments = ["--model-name", model, *arguments]
        else:
            print(f"ggserve: {model} is neither a command nor a file; `ggserve --help` lists commands", file=sys.stderr)
            return 2
    elif "--version" in arguments:
        print(f"ggserve {__version__}")
        return 0
    serve(arguments, model_path)
    return 0
