"""A llama-server for tests: its command line around xllamacpp's server core, which has the same HTTP API.

`python -m tests.llama_server --model FILE --host PATH.sock ...`. TEST_LLAMA_SERVER names a native build to use instead.
"""

import os
import shutil
import signal
import struct
import sys
from pathlib import Path

HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-t,    --threads N                      number of CPU threads to use
-tb,   --threads-batch N                number of threads to use for prompts
-c,    --ctx-size N                     size of the prompt context
-b,    --batch-size N                   logical maximum batch size
-ub,   --ubatch-size N                  physical maximum batch size
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')
-ctk,  --cache-type-k TYPE              KV cache data type for K
-ctv,  --cache-type-v TYPE              KV cache data type for V
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
--rope-scaling {none,linear,yarn}       RoPE frequency scaling method
--rope-freq-base N                      RoPE base frequency
--rope-freq-scale N                     RoPE frequency scaling factor, expands context by a factor of 1/N
--yarn-orig-ctx N                       original context size of the model
--override-kv KEY=TYPE:VALUE            override model metadata by key
--list-devices                          print list of available devices and exit
--lora-scaled FNAME:SCALE,...           path to LoRA adapter with user defined scaling (format:
                                        FNAME:SCALE,...)
-m,    --model FNAME                    model path to load
-md,   --model-draft FNAME              draft model
--threads-draft N                       threads of the draft model
--spec-type TYPES                       how to speculate
--spec-ngram-mod-n-match N              ngram-mod lookup length
--spec-ngram-mod-n-min N                fewest tokens
--spec-ngram-mod-n-max N                most tokens
-kvu,  --kv-unified                     use single unified KV buffer shared across all sequences
--kv-unified-per-slot N                 context of each slot in it
-cram, --cache-ram N                    set the maximum cache size in MiB
--slot-save-path PATH                   path to save slot kv cache
--swa-full                              use full-size SWA cache
--pooling {none,mean,cls,last,rank}     pooling type for embeddings
-np,   --parallel N                     number of server slots
-mm,   --mmproj FILE                    path to a multimodal projector file
--host HOST                             ip address to listen, or bind to an UNIX socket if the address ends
                                        with .sock
--port PORT                             port to listen
--embedding, --embeddings               restrict to only support embedding use case
--rerank, --reranking                   enable reranking endpoint on server
--api-key-file FNAME                    path to file containing API keys
--chat-template-file FNAME              set custom jinja chat template file
-sps,  --slot-prompt-similarity S       how much the prompt of a request must match a slot's
--log-verbosity N                       Set the verbosity threshold
--check-tensors                         check model tensor data for invalid values
"""

# For `launcher`: a GPU that does not exist.
LIST_A_GPU = """\
case "$*" in *--list-devices*) printf 'Available devices:\\n  Fake0: A GPU (8 MiB, 8 MiB free)\\n'; exit;; esac
"""


def launcher(folder: Path, *, before: str = "") -> Path:
    """An executable that is the build that TEST_LLAMA_SERVER names, or this program. `before` is shell code that runs
    first, and may end it; it knows the arguments for this program only."""
    path = folder / "llama-server"
    native = "" if before else os.environ.get("TEST_LLAMA_SERVER")
    program = f"'{native}'" if native else f"'{sys.executable}' '{Path(__file__).resolve()}'"
    path.write_text(f'#!/bin/sh\n{before}\nexec {program} "$@"\n')
    path.chmod(0o755)
    return path


def main(arguments: list[str]) -> None:
    if "--help" in arguments:
        return print(HELP)
    if "--version" in arguments:
        return print("version: 0.1.0-test (xllamacpp)")
    if "--list-devices" in arguments:
        return print("Available devices:\n  (none)")
    serve(options(arguments))
    return None


def options(arguments: list[str]) -> dict[str, str]:
    """Values by flag; "" for those without one. Ends the process at an unknown one."""
    found: dict[str, str] = {}
    left = iter(arguments)
    for flag in left:
        if flag not in HELP:
            sys.exit(f"error: invalid argument: {flag}")
        switches = "--embeddings", "--embedding", "--reranking", "--check-tensors", "--swa-full", "--kv-unified"
        found[flag] = "" if flag in switches else next(left)
    return found


def serve(given: dict[str, str]) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = given["--model"]
    if override := given.get("--override-kv"):
        params.model.path = str(overridden(Path(given["--model"]), override, Path(given["--host"]).parent))
    params.n_ctx, params.n_parallel = int(given["--ctx-size"]), int(given["--parallel"])
    params.n_batch = params.n_ubatch = int(given.get("--batch-size", "256"))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(given["--threads"])
    params.n_gpu_layers = int(given["--n-gpu-layers"])
    params.embedding = "--embeddings" in given or "--reranking" in given
    if pooling := given.get("--pooling", "rank" if "--reranking" in given else ""):
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    if template := given.get("--chat-template-file"):
        params.chat_template = Path(template).read_text()
    if mmproj := given.get("--mmproj"):
        params.mmproj.path, params.mmproj_use_gpu = mmproj, False
    if adapters := given.get("--lora-scaled"):
        pairs = [each.rpartition(":") for each in adapters.split(",")]
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, float(scale)) for path, _, scale in pairs]
    params.kv_unified = "--kv-unified" in given
    params.kv_unified_per_slot = int(given.get("--kv-unified-per-slot", "0"))
    params.cache_idle_slots = False
    params.cache_ram_mib = int(given["--cache-ram"])
    params.slot_save_path = f"{given['--slot-save-path']}/" if "--slot-save-path" in given else ""
    params.swa_full = "--swa-full" in given
    for side in "kv":
        kind = given.get(f"--cache-type-{side}", "f16").upper()
        setattr(params, f"cache_type_{side}", getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kind}"))
    attention = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[given["--flash-attn"]]
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    rotate(xllamacpp, params, given)
    speculate(xllamacpp, params, given)
    params.slot_prompt_similarity = float(given["--slot-prompt-similarity"])
    params.hostnames = [given["--host"]]
    params.api_keys = [Path(given["--api-key-file"]).read_text()]
    params.ui = False
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while server:
        signal.pause()


def overridden(model: Path, override: str, folder: Path) -> Path:
    """A copy of the file with another value for one number of its metadata: KEY=int:VALUE."""
    from ggserve.modelfile.gguf import read_gguf

    key, _, number = override.partition("=int:")
    copy = Path(shutil.copy(model, folder / "overridden.gguf"))
    with copy.open("r+b") as file:
        file.seek(read_gguf(model).fields[key].end - 4)
        file.write(struct.pack("<I", int(number)))
    return copy


def rotate(xllamacpp: object, params: object, given: dict[str, str]) -> None:
    if kind := given.get("--rope-scaling"):
        params.rope_scaling_type = getattr(xllamacpp.llama_rope_scaling_type, f"LLAMA_ROPE_SCALING_TYPE_{kind.upper()}")
    params.rope_freq_base = float(given.get("--rope-freq-base", "0"))
    params.rope_freq_scale = float(given.get("--rope-freq-scale", "0"))
    params.yarn_orig_ctx = int(given.get("--yarn-orig-ctx", "0"))


def speculate(xllamacpp: object, params: object, given: dict[str, str]) -> None:
    types = given.get("--spec-type", "").split(",")
    known = {
        "ngram-mod": xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_MOD,
        "draft-simple": xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE,
    }
    if chosen := [known[each] for each in types if each]:
        params.speculative.types = chosen
    for name in ("match", "min", "max"):
        if value := given.get(f"--spec-ngram-mod-n-{name}"):
            setattr(params.speculative.ngram_mod, f"n_{name}", int(value))
    if draft := given.get("--model-draft"):
        params.speculative.draft.mparams.path = draft
        threads = int(given["--threads-draft"])
        params.speculative.draft.cpuparams.n_threads = threads
        params.speculative.draft.cpuparams_batch.n_threads = threads


if __name__ == "__main__":
    main(sys.argv[1:])
