"""Scores the tokens of a trie in llama.cpp, which only reports sampled tokens and the likeliest ones beside them.

Walks depth first. At a branch, a request reads the scores of the likeliest tokens there; the tokens up to the next
branch or leaf are forced in one request. Each place of the trie is evaluated once, and the leaves never.
"""

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from ggserve.engines.llama_cpp.answer import native_error
from ggserve.engines.llama_cpp.scoring import LIKELIEST, NativeScorer
from ggserve.engines.llama_cpp.token_reports import beside, probabilities
from ggserve.engines.llama_cpp.transport import Abilities, Call, Chunk
from ggserve.engines.token_trie import Node, TokenTrie
from ggserve.errors import EngineClosed, GenerationError

_FORCED = 1000.0  # added to a logit: no other is chosen
_RAISED = 100.0  # added to some logits: no others matter, and float32 keeps their differences to 1e-5


class TrieWalk:
    """The walk of one trie after one prompt: token ids, or a text with images.

    A prompt of ids is extended by the path to a branch. A prompt with images stays as it is, and the whole path is
    forced.
    """

    def __init__(
        self,
        scorer: NativeScorer,
        call: Call,
        body: dict[str, Any],
        context_length: int,
        *,
        whole_paths: bool,
        abilities: Abilities,
    ) -> None:
        """`whole_paths`: a request may force several tokens; not with speculative decoding, which reports nothing about
        guessed tokens."""
        self._scorer = scorer
        self._call = call
        self._body = body
        self._ids: list[int] | None = body["prompt"] if isinstance(body.get("prompt"), list) else None
        self._context_length = context_length
        self._whole_paths = whole_paths
        self._abilities = abilities
        self._forces = abilities.logprobs_before_bias  # a request may force one
        self.cancelled = False
        self.prompt_tokens = 0
        self.cached_tokens = 0

    def run(self, trie: TokenTrie) -> None:
        """Set the `logprob` of each node. Raises EngineError, and EngineClosed if cancelled."""
        pending: list[tuple[tuple[int, ...], Node]] = [((), trie.root)]
        while pending:
            path, node = pending.pop()
            if len(node.children) > 1:
                self._branch(path, node)
                places = [((*path, token), child) for token, child in reversed(node.children.items())]
            else:
                places = [self._chain(path, node)]
            pending += [(path, node) for path, node in places if node.children]

    def _chain(self, path: tuple[int, ...], node: Node) -> tuple[tuple[int, ...], Node]:
        """Score the nodes after a path up to the next branch or leaf; return that place, or one before it."""
        tokens = node.only_tokens()[: None if self._whole_paths else 1]
        told = self._told(path, tokens, 1)
        for token, likeliest in zip(tokens, told or [{}], strict=False):
            node = node.children[token]
            node.logprob = likeliest[token] if token in likeliest else self._alone(path, token)
            path = (*path, token)
        return path, node

    def _branch(self, path: tuple[int, ...], node: Node) -> None:
        """Score the nodes after a path; those that are not among the likeliest get a request of their own."""
        told = self._told(path, [next(iter(node.children))], LIKELIEST)
        likeliest = told[0] if told else {}
        unlikely = node.children.keys() - likeliest.keys()
        if self._ids is not None and len(unlikely) > 1 and likeliest:
            likeliest |= self._beside(path, max(likeliest.items(), key=itemgetter(1)), sorted(unlikely))
        for token, child in node.children.items():
            child.logprob = likeliest[token] if token in likeliest else self._alone(path, token)

    def _beside(self, path: Sequence[int], known: tuple[int, float], unlikely: Sequence[int]) -> dict[int, float]:
        """Return the log-probabilities of several tokens, from their probabilities beside a known one when no others
        are possible."""
        token, logprob = known
        fields = beside(dict.fromkeys((token, *unlikely), _RAISED), self._abilities)
        content = self._content(path, {**fields, "n_predict": 1})
        if not content:
            return {}
        told = probabilities(content[0])
        ratios = {one: told[one] / told[token] for one in unlikely if told.get(one) and told.get(token)}
        return {one: logprob + math.log(ratio) for one, ratio in ratios.items()}

    def _alone(self, path: Sequence[int], token: int) -> float:
        if self._ids is not None:
            return self._scorer.score([*self._ids, *path], token, 0, self._body["id_slot"]).logprob or 0.0
        told = self._told(path, [token], 1)
        if not told:
            raise GenerationError("llama.cpp did not return a token's probability.")
        return told[0][token]

    def _told(self, path: Sequence[int], tokens: Sequence[int], top: int) -> list[dict[int, float]]:
        """Return, for each of `tokens`, which are forced after a path, its log-probability and those of the `top`
        likeliest in its place. Empty if some of the tokens end within a character, because llama.cpp reports nothing
        for them. If no token may be forced, return the likeliest in the place of the only one."""
        forced = [*path, *tokens] if self._ids is None else list(tokens)
        fields: dict[str, Any] = {
            "n_probs": top if self._forces else LIKELIEST,
            "n_predict": len(forced),
            "samplers": ["top_k"],
            "top_k": 1,
        }
        if not self._forces:
            pass
        elif len(forced) == 1:
            fields["logit_bias"] = [[forced[0], _FORCED]]
        else:  # with forced text computed ahead, a grammar of token ids constrains nothing
            ids = " ".join(f"<[{token}]>" for token in forced)
            fields["grammar"] = f'%llguidance {{"no_forcing": true}}\nstart: {ids}\n'
        content = self._content(path, fields)
        return [_likeliest(entry) for entry in content[-len(tokens) :]] if len(content) == len(forced) else []

    def _content(self, path: Sequence[int], fields: dict[str, Any]) -> list[dict[str, Any]]:
        """Return llama.cpp's report on the tokens of an answer."""
        if self.cancelled:
            raise EngineClosed
        body = {
            **self._body,
            **fields,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,  # a chunk for each batch of the prompt, so that the walk can be cancelled there
        }
        if self._ids is not None:
            body["prompt"] = [*self._ids, *path]
        chunks: list[Chunk] = []

        def receive(chunk: Chunk) -> bool:
            chunks.append(chunk)
            return self.cancelled

        self._call(body, receive, lambda: self.cancelled)
        if self.cancelled:
            raise EngineClosed
        content: list[dict[str, Any]] = []
        for chunk in chunks:
            if error := chunk.get("error"):
                raise native_error(error, self._context_length)
            if not self.prompt_tokens and (progress := chunk.get("prompt_progress")):
                self.prompt_tokens, self.cached_tokens = progress["total"], progress["cache"]
            for choice in chunk.get("choices") or ():
                content += (choice.get("logprobs") or {}).get("content") or ()
        return content


def _likeliest(entry: dict[str, Any]) -> dict[int, float]:
    return {one["id"]: one["logprob"] for one in (entry, *entry["top_logprobs"])}
