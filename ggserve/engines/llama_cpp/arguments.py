"""The command line of a llama-server: ggserve's arguments, in the build's spelling, and those of LLAMA_ARGS."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ggserve.engines.llama_cpp.build import Build
from ggserve.engines.llama_cpp.transport import (
    BATCH,
    FEWEST_GUESSES,
    KNOWN_TOKENS,
    LEAST_SIMILARITY,
    MOST_GUESSES,
    NO_TEMPLATE,
    ServerPlan,
)
from ggserve.errors import EngineError
from ggserve.links import link

SHARED_CACHE = "--kv-unified"  # one KV cache for all slots
_ALL = 999  # layers, for a build that cannot fit by itself

# The flags that ggserve sets itself, with the corresponding setting, or "".
_OWN = {
    "--model": "MODEL_PATH",
    "--ctx-size": "CONTEXT_LENGTH",
    "--parallel": "PARALLEL",
    "--threads": "THREADS",
    "--threads-batch": "THREADS",
    "--n-gpu-layers": "GPU_LAYERS",
    "--gpu-layers": "GPU_LAYERS",
    "--fit": "GPU_LAYERS",
    "--chat-template": "CHAT_TEMPLATE",
    "--chat-template-file": "CHAT_TEMPLATE",
    "--mmproj": "MMPROJ_PATH",
    "--lora": "LORA_PATH",
    "--lora-scaled": "LORA_PATH",
    "--cache-ram": "PROMPT_CACHE",
    "--slot-save-path": "PROMPT_CACHE_DIR",
    "--cache-type-k": "KV_CACHE_TYPE",
    "--cache-type-v": "KV_CACHE_TYPE",
    "--flash-attn": "FLASH_ATTENTION",
    "--rope-scaling": "ROPE_SCALING",
    "--rope-scale": "ROPE_SCALE",
    "--rope-freq-scale": "ROPE_SCALE",
    "--rope-freq-base": "ROPE_FREQ_BASE",
    "--yarn-orig-ctx": "YARN_ORIG_CTX",
    "--spec-type": "SPECULATE",
    "--model-draft": "DRAFT_MODEL",
    "--host": "HOST",
    "--port": "PORT",
    "--api-key": "API_KEY",
    "--api-key-file": "API_KEY_FILE",
    "--ssl-key-file": "SSL_KEYFILE",
    "--ssl-cert-file": "SSL_CERTFILE",
    "--models-dir": "MODELS_DIR",
    "--hf-repo": "MODEL_NAME",
    "--hf-file": "MODEL_FILE",
    **dict.fromkeys(
        (
            "--model-url",
            "--alias",
            "--api-prefix",
            "--batch-size",
            "--ubatch-size",
            "--pooling",
            "--embeddings",
            "--embedding",
            "--reranking",
            "--context-shift",
            SHARED_CACHE,
            "--kv-unified-per-slot",
            "--cache-idle-slots",
            "--grammar",
            "--grammar-file",
            "--json-schema",
            "--json-schema-file",
            "--log-file",
            "--log-disable",
            "--log-verbosity",
            "--slot-prompt-similarity",
            "--special",
            "--help",
            "--version",
            "--list-devices",
            "--models-preset",
            "--models-max",
            "--sleep-idle-seconds",
            "--timeout",
            "--threads-http",
            "--ui",
            "--webui",
        ),
        "",
    ),
}


def extra_arguments(llama_args: str, build: Build) -> list[str]:
    """Return the arguments in LLAMA_ARGS. Raises EngineError if the build lacks a flag, or ggserve sets it itself."""
    try:
        extra = shlex.split(llama_args)
    except ValueError as error:
        raise EngineError(f"LLAMA_ARGS={llama_args}: {str(error).lower()}") from error
    for argument in extra:
        flag = argument.partition("=")[0]
        if not flag.startswith("-") or flag[1:].replace(".", "").isdecimal():
            continue
        spellings = build.aliases.get(flag)
        if spellings is None:
            raise EngineError(f"LLAMA_ARGS: {build.path} has no {flag}; `{build.path.name} --help` lists its options")
        own = next((each for each in _OWN if each in spellings), None)
        if own is not None:
            instead = f"set {_OWN[own]} instead" if _OWN[own] else "leave it out"
            raise EngineError(f"LLAMA_ARGS: {flag} is set by ggserve itself; {instead}")
    return extra


class CommandLine:
    """The arguments for one plan on one build. Raises EngineError if the build lacks what the plan needs."""

    def __init__(self, build: Build, plan: ServerPlan, folder: Path) -> None:
        """Create the command line. `folder` is private to the child; files whose names the build would split get a link
        there."""
        self._build = build
        self._plan = plan
        self._folder = folder
        self._extra = extra_arguments(plan.options.llama_args, build)
        self.lacks: list[str] = []  # optional features that the build lacks
        self._fixed = [*self._basics(), *self._rope(), *self._caches(), *self._companions(), *self._speculation()]

    def leave_out_embeddings(self) -> None:
        """Leave out embeddings, for builds that cannot combine them with completions."""
        self._fixed = [argument for argument in self._fixed if argument not in ("--embeddings", "--embedding")]

    def leave_out_flash_attention(self) -> None:
        """Turn flash attention off, for builds that apply no adapters with it."""
        if "--flash-attn" in self._fixed:
            self._fixed[self._fixed.index("--flash-attn") + 1] = "off"
            self.lacks.append("flash attention together with adapters")

    def of(self, layers: int | None, address: Sequence[str]) -> list[str]:
        """Return the arguments. `layers`: layers on the GPU; None lets the build fit them, 0 does not use the GPU."""
        return [str(self._build.path), *address, *self._fixed, *self._gpu(layers), *self._extra]

    def _basics(self) -> list[str]:
        plan, options, build = self._plan, self._plan.options, self._build
        batch = options.context_length if plan.whole_inputs else max(BATCH, options.parallel)
        threads = str(options.threads)
        arguments = ["--model", str(plan.path), "--ctx-size", str(options.cache_tokens)]
        arguments += ["--parallel", str(options.parallel), "--threads", threads, "--threads-batch", threads]
        if plan.whole_inputs or not (options.gpu_layers and build.devices):  # a GPU needs larger batches
            arguments += ["--batch-size", str(batch), "--ubatch-size", str(batch)]
        if plan.pooling == "rank":
            arguments += self._needed("--reranking", "reranking models")
        else:
            arguments += self._optional("--embeddings") or self._optional("--embedding")
            if plan.pooling != "model":
                arguments += self._optional("--pooling", plan.pooling)
        if build.has("--chat-template-file"):
            file = self._folder / "template.jinja"
            file.write_text(NO_TEMPLATE)
            arguments += ["--chat-template-file", str(file), *self._optional("--jinja")]
        arguments += self._optional("--threads-http", str(options.parallel + 4))  # a streamed answer occupies a thread
        arguments += self._optional("--slot-prompt-similarity", str(LEAST_SIMILARITY))
        if options.shared_tokens is not None:
            arguments += [SHARED_CACHE, *self._optional("--kv-unified-per-slot", str(options.context_length))]
        else:
            arguments += self._optional("--no-kv-unified")
        for flag in ("--no-context-shift", "--no-cache-idle-slots", "--offline"):
            arguments += self._optional(flag)
        arguments += self._optional("--no-ui") or self._optional("--no-webui") or self._optional("--webui", "none")
        if "trace logs" in build.flag_help("--log-disable"):  # a file in the working directory, not the output
            arguments += ["--log-disable"]
        if "trace" in build.flag_help("--log-verbosity"):
            arguments += ["--log-verbosity", "4"]  # reports the layers on the GPU
        return arguments

    def _rope(self) -> list[str]:
        plan, rope = self._plan, self._plan.options.rope
        if rope is None:
            return []
        arguments: list[str] = []
        if rope.freq_base is not None:
            arguments += self._needed("--rope-freq-base", "ROPE_FREQ_BASE", str(rope.freq_base))
        if rope.scaling is not None:
            arguments += self._needed("--rope-scaling", "ROPE_SCALING", rope.scaling)
        if rope.scaling in ("linear", "yarn"):
            arguments += self._needed("--rope-freq-scale", "ROPE_SCALE", repr(rope.freq_scale))
            arguments += self._needed("--yarn-orig-ctx", "YARN_ORIG_CTX", str(rope.trained))
        if plan.raised_key is not None:  # a slot's context is never longer than the file says
            override = f"{plan.raised_key}=int:{plan.options.context_length}"
            arguments += self._needed("--override-kv", "a context longer than the file's", override)
        return arguments

    def _caches(self) -> list[str]:
        options = self._plan.options
        if self._plan.states:
            arguments = self._needed("--slot-save-path", "PROMPT_CACHE_DIR", str(self._plan.states))
            arguments += [*self._optional("--cache-ram", "0"), *self._optional("--swa-full")]
        else:
            arguments = self._optional("--cache-ram", str(options.prompt_cache), lacks="PROMPT_CACHE")
            arguments += self._optional("--slot-save-path", str(self._folder))  # without it, no slot can be emptied
        if options.kv_cache_type != "f16":
            for flag in ("--cache-type-k", "--cache-type-v"):
                arguments += self._needed(flag, f"KV_CACHE_TYPE={options.kv_cache_type}", options.kv_cache_type)
        if "auto" in self._build.flag_help("--flash-attn"):
            return [*arguments, "--flash-attn", options.flash_attention]
        return arguments + (self._needed("-fa", "FLASH_ATTENTION=on") if options.flash_attention == "on" else [])

    def _companions(self) -> list[str]:
        options = self._plan.options
        arguments: list[str] = []
        if options.mmproj_path is not None:
            arguments += self._needed("--mmproj", "vision models", str(options.mmproj_path))
            arguments += self._optional("--video-ffmpeg-dir", str(self._folder))  # a folder without the program
            arguments += self._optional("--no-mmproj-offload") if options.gpu_layers == 0 else []
        joined = []
        for number, (path, scale) in enumerate(options.adapters):
            name = self._folder / f"lora{number}.gguf"
            link(path, name)
            if "FNAME:SCALE" in self._build.flag_help("--lora-scaled"):
                joined.append(f"{name}:{scale}")
            else:
                arguments += self._needed("--lora-scaled", "LORA_PATH", str(name), str(scale))
        return arguments + (self._needed("--lora-scaled", "LORA_PATH", ",".join(joined)) if joined else [])

    def _speculation(self) -> list[str]:
        options = self._plan.options
        # In some builds each type of speculation is a flag of its own, with its numbers.
        staged = "n_max" in self._build.flag_help("--spec-type")
        types, arguments = [], []
        if options.speculate == "ngram-mod" and staged:
            types.append(f"ngram-mod:n_max={MOST_GUESSES},n_min={FEWEST_GUESSES},ngram_size_n={KNOWN_TOKENS}")
        elif options.speculate == "ngram-mod":
            types.append("ngram-mod")
            for name, value in (("match", KNOWN_TOKENS), ("min", FEWEST_GUESSES), ("max", MOST_GUESSES)):
                arguments += self._needed(f"--spec-ngram-mod-n-{name}", "SPECULATE=ngram-mod", str(value))
        if options.draft_model is not None:
            types.append("draft" if staged else "draft-simple")
            arguments += self._needed("--model-draft", "DRAFT_MODEL", str(options.draft_model))
            arguments += self._optional("--threads-draft", str(options.threads))
            if options.gpu_layers != "auto":
                arguments += self._layers("-draft", options.gpu_layers)
        if types and self._build.has("--spec-type"):
            for kind in types if staged else [",".join(types)]:
                arguments += ["--spec-type", kind]
        return arguments

    def _gpu(self, layers: int | None) -> list[str]:
        build = self._build
        fits = build.has("--fit") and bool(self._layers("", 0))
        switch = not re.search(r"\bo(n|ff)\b", build.flag_help("--fit"))  # --fit takes no value
        if layers is None:
            return (["--fit"] if switch else ["--fit", "on"]) if fits else self._layers("", _ALL)
        arguments = self._layers("", layers)
        if layers and not arguments:
            raise EngineError(f"GPU_LAYERS={layers}: LLAMA_SERVER={build.path} cannot use a GPU: use another build")
        if fits and not switch:
            arguments += ["--fit", "off"]
        names_device = any(build.aliases.get(each, frozenset()) & {"--device"} for each in self._extra)
        if layers == 0 and not names_device:  # otherwise its driver is used anyway
            arguments += self._optional("--device", "none")
        return arguments

    def _layers(self, model: str, layers: int) -> list[str]:
        """Return the flag for layers on the GPU, of the model or of its "-draft"; none if the build uses no GPU."""
        flags = (f"--n-gpu-layers{model}", f"--gpu-layers{model}")
        return next(([flag, str(layers)] for flag in flags if self._build.has(flag)), [])

    def _optional(self, flag: str, *values: str, lacks: str | None = None) -> list[str]:
        if self._build.has(flag):
            return [flag, *values]
        if lacks is not None:
            self.lacks.append(lacks)
        return []

    def _needed(self, flag: str, what: str, *values: str) -> list[str]:
        if not self._build.has(flag):
            raise EngineError(f"LLAMA_SERVER={self._build.path} has no {flag}, which {what} needs: use another build")
        return [flag, *values]
