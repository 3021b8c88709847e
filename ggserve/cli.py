"""The `ggserve` command. Each subcommand imports only what it needs, so that `ggserve --help` is instant."""

import os
import sys
from pathlib import Path

from ggserve import __version__

_HELP = """\
usage: ggserve [serve] [FILE | ORG/NAME[:QUANTIZATION]] [--SETTING VALUE ...]
       ggserve COMMAND ...

Serve a GGUF or GGML model over the OpenAI, Anthropic, Ollama and llama-server APIs.

commands:
  serve      start the server (the default); `ggserve serve --help` lists all settings
  cluster    start replicas of the server on Ray Serve
  inspect    describe a model file
  pull       download ORG/NAME[:QUANTIZATION] from Hugging Face, into MODELS_DIR if it is set
  list       list the models in MODELS_DIR, or in the Hugging Face cache
  health     check the health of the running server
  convert    convert a model file for the other engine
  devices    list the GPUs that each engine can use
  version    print the version

Settings can also come from environment variables and `.env`: --context-length 8192 is CONTEXT_LENGTH=8192.
"""


def main(arguments: list[str] | None = None, *, model_path: str = "") -> int:
    """Run the command line and return the exit code. `model_path` is served if the command line and the settings name
    no model."""
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
            return _cluster(rest)
        case _:
            return _serve(rest if command == "serve" else arguments, model_path)
    return 0


def _open_standard_streams() -> None:
    """Open closed standard streams (`>&-`) on the null device. Otherwise, another file would get the descriptor of one
    and receive its output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is `number`
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))


def _cluster(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print("usage: ggserve cluster\n\nStart replicas of the server on Ray Serve: docs/cluster.md has the settings.")
        return 0
    if arguments:
        print("ggserve: cluster takes no arguments: set environment variables instead", file=sys.stderr)
        return 2
    from ggserve.cluster.application import main

    main()
    return 0


def _serve(arguments: list[str], model_path: str) -> int:
    from ggserve.serve import serve

    if arguments and not arguments[0].startswith("-"):
        model, *arguments = arguments
        if os.path.exists(model) or Path(model).suffix in (".gguf", ".bin"):
            arguments = ["--model-path", model, *arguments]
        elif "/" in model:
            arguments = ["--model-name", model, *arguments]
        else:
            print(f"ggserve: {model} is not a command or a file: see `ggserve --help`", file=sys.stderr)
            return 2
    elif "--version" in arguments:
        print(f"ggserve {__version__}")
        return 0
    serve(arguments, model_path)
    return 0
