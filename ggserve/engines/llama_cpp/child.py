"""llama.cpp's server core in a child process: the user's own llama-server, over its HTTP API.

It gets token ids at `/completion` and grammars in GBNF, which every build knows, and never a chat: what a request means
does not depend on its version.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

import orjson

from ggserve.engines.llama_cpp.build import Build
from ggserve.engines.llama_cpp.completion_reader import CompletionReader
from ggserve.engines.llama_cpp.exact_prefix import ExactPrefixes
from ggserve.engines.llama_cpp.listener import whole_answer
from ggserve.engines.llama_cpp.process import LlamaServer
from ggserve.engines.llama_cpp.saved_states import tokens_in
from ggserve.engines.llama_cpp.token_reports import normalized
from ggserve.engines.llama_cpp.transport import Abilities, Chunk, ServerPlan
from ggserve.engines.llama_cpp.trial import PATHS, Findings, Trial
from ggserve.engines.request import BEAT
from ggserve.errors import EngineError, GenerationError, InvalidRequest
from ggserve.machine import Hardware

log = logging.getLogger("ggserve.model")

_NO_ADAPTERS = "flash_attn is not compatible with LoRA"  # a build that says so goes on without them
_RESTORE = re.compile(r"/slots/(\d+)\?action=restore")


class Child:
    """A llama-server that has loaded a model. See Transport."""

    grammar_language: Literal["gbnf"] = "gbnf"

    def __init__(self, build: Build, plan: ServerPlan) -> None:
        """Start it. Raises EngineError."""
        self._build = build
        self._plan = plan
        self._server = LlamaServer(build, plan)
        self._shares_cache = plan.options.shared_tokens is not None
        self._can = Findings()
        self._prefixes: ExactPrefixes | None = None  # if the build needs them
        if not plan.whole_inputs and plan.pooling != "rank":
            try:
                self._can = self._try_out()
            except EngineError:
                self._server.close()
                raise
        if not self._can.exact_cache:
            self._prefixes = ExactPrefixes(lambda text: self.post("/tokenize", {"content": text})["tokens"])
        if lacks := [*self._server.command_line.lacks, *self._can.lacks]:
            log.warning("LLAMA_SERVER=%s lacks %s", build.path, ", ".join(lacks))

    @property
    def abilities(self) -> Abilities:
        """See Transport."""
        return self._can.abilities

    @property
    def media_marker(self) -> str:
        """See Transport."""
        return self._server.listener.media_marker

    @property
    def hardware(self) -> Hardware:
        """See Transport."""
        server = self._server
        return Hardware(
            f"llama-server {self._build.version} ({self._build.path})",
            self._build.devices if server.offloaded else (),
            server.offloaded,
            server.fallback,
        )

    def complete(
        self, body: dict[str, Any], receive: Callable[[Chunk], bool], cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """See Transport."""
        if "n_probs" in body and not self.abilities.logprobs:
            raise InvalidRequest(f"This llama-server ({self._build.version}) does not report logprobs.", "logprobs")
        body = self._can.chain.adapt(body)
        path = self._can.path if isinstance(body["prompt"], list) else PATHS[0]
        if self._prefixes is not None:
            body, receive = self._with_exact_prefix(self._prefixes, path, body, receive, cancelled)
        if not self._can.whole and isinstance(body["prompt"], list) and len(body["prompt"]) > 1:
            body, receive = self._with_last_token_alone(path, body, receive, cancelled)
        self._run(path, body, receive, cancelled)

    def _with_exact_prefix(
        self,
        prefixes: ExactPrefixes,
        path: str,
        body: dict[str, Any],
        receive: Callable[[Chunk], bool],
        cancelled: Callable[[], bool],
    ) -> tuple[dict[str, Any], Callable[[Chunk], bool]]:
        """Cut a request's slot if need be. Return the request, and `receive` for it."""
        body, cut = prefixes.prepare(body)
        prefixes.begin(body)
        if cut is not None:
            self._run(path, cut, lambda chunk: False, cancelled)
        text: list[str] = []

        def noted(chunk: Chunk) -> bool:
            for choice in chunk.get("choices", ()):
                if not text:
                    prefixes.evaluated(body)
                text.append(choice["text"])
                if reason := choice["finish_reason"]:
                    prefixes.end(body, "".join(text), chunk["usage"]["completion_tokens"] - (reason == "stop"))
            return receive(chunk)

        return body, noted

    def _with_last_token_alone(
        self, path: str, body: dict[str, Any], receive: Callable[[Chunk], bool], cancelled: Callable[[], bool]
    ) -> tuple[dict[str, Any], Callable[[Chunk], bool]]:
        """Evaluate the prompt of a request without its last token. Return the rest of the request, and `receive` for
        it, which gets the true number of cached tokens."""
        first = {"prompt": body["prompt"][:-1], "n_predict": 1, "id_slot": body.get("id_slot", -1)}
        chunks = self._collected(path, {**first, "cache_prompt": body.get("cache_prompt", True)}, cancelled)
        cached = max((chunk["prompt_progress"]["cache"] for chunk in chunks if "prompt_progress" in chunk), default=0)
        cached += cached == len(body["prompt"]) - 2  # all of it, except the token that is always evaluated again

        def corrected(chunk: Chunk) -> bool:
            if progress := chunk.get("prompt_progress"):
                chunk = {"prompt_progress": {**progress, "cache": min(progress["cache"], cached)}}
            return receive(chunk)

        return {**body, "cache_prompt": True}, corrected

    def _run(
        self, path: str, body: dict[str, Any], receive: Callable[[Chunk], bool], cancelled: Callable[[], bool]
    ) -> None:
        try:
            request = orjson.dumps({"logit_bias": [], **body})  # some builds keep the one of the request before
        except TypeError as error:
            raise InvalidRequest(f"The request cannot be passed on to llama.cpp: {error}") from error
        reader = CompletionReader(body)
        try:
            with closing(self._server.stream(path, request, cancelled)) as parts:
                ended = self._read(parts, reader, receive)
        except (OSError, EOFError) as error:
            raise GenerationError("llama-server crashed while it answered; see model.log.") from error
        if self._shares_cache and (cancelled() or (ended and not reader.complete)):
            # Until then, the slot fills the shared cache further, and llama-server fails all requests if that is full.
            self._server.listener.wait_until_idle(body.get("id_slot"))
        for chunk in () if ended else reader.rest():
            receive(self._exact(chunk))

    def _exact(self, chunk: Chunk) -> Chunk:
        """Correct the probabilities of a chunk, if the build needs it."""
        for choice in chunk.get("choices", ()) if self._can.twice else ():
            if logprobs := choice["logprobs"]:
                logprobs["content"] = [normalized(each) if "logprob" in each else each for each in logprobs["content"]]
        return chunk

    def _read(self, parts: Iterable[bytes], reader: CompletionReader, receive: Callable[[Chunk], bool]) -> bool:
        """Pass on the chunks of an answer. Return whether it is complete, or was broken off by `receive`."""
        for part in parts:
            if any(receive(self._exact(chunk)) for chunk in reader.feed(part)) or reader.complete:
                return True
            if reader.begun:
                time.sleep(BEAT)  # data that arrives in the meantime is read at once
        return False

    def settle(self, slot: int) -> None:
        """See Transport."""
        self._server.listener.wait_until_idle(slot)

    def compute(self, path: str, body: dict[str, Any], cancelled: Callable[[], bool]) -> dict[str, Any]:
        """See Transport."""
        try:
            return whole_answer(self._server.stream(path, orjson.dumps(body), cancelled))
        except (OSError, EOFError) as error:
            raise GenerationError("llama-server died while it answered; model.log may tell why.") from error
        finally:
            if self._prefixes is not None:
                self._prefixes.forget()  # it took slots of its choice

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """See Transport."""
        self._server.wait()
        answer = self._server.listener.post(path, body)
        if self._prefixes is not None and self._plan.states and (restored := _RESTORE.fullmatch(path)):
            self._prefixes.restore(int(restored[1]), tokens_in(self._plan.states / body["filename"]).tolist())
        return answer

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """See Transport."""
        self._server.when_failed(callback)

    def when_restarted(self, callback: Callable[[], object]) -> None:
        """See Transport."""

        def restarted() -> None:
            if self._prefixes is not None:
                self._prefixes.forget()
            callback()

        self._server.when_restarted(restarted)

    def close(self) -> None:
        """See Transport."""
        self._server.close()

    def _try_out(self) -> Findings:
        """Find out by short answers what the build can do. Raises EngineError."""
        trial = Trial(self._collected, self.post)
        error = trial.error()
        embeds = error is None or "embedding" not in error
        if not embeds:
            self._server.command_line.leave_out_embeddings()
            self._server.restart()
            error = trial.error()
        if error is not None:
            raise EngineError(f"LLAMA_SERVER={self._build.path} does not answer a short prompt: {error}")
        if self._server.has_said(_NO_ADAPTERS):
            self._server.command_line.leave_out_flash_attention()
            self._server.restart()
            if self._server.has_said(_NO_ADAPTERS):
                raise EngineError(f"LLAMA_SERVER={self._build.path} does not apply LORA_PATH: use another build")
        findings = trial.findings(adapters=bool(self._plan.options.adapters))
        return replace(findings, abilities=replace(findings.abilities, embeds=embeds))

    def _collected(self, path: str, body: dict[str, Any], cancelled: Callable[[], bool] = lambda: False) -> list[Chunk]:
        chunks: list[Chunk] = []

        def receive(chunk: Chunk) -> bool:
            chunks.append(chunk)
            return False

        self._run(path, body, receive, cancelled)
        return chunks
