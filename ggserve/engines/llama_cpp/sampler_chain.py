"""Samplers in the spelling of one llama-server build, which would silently drop a name that it does not know."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ggserve.errors import InvalidRequest
from ggserve.generation import SAMPLERS, SamplerName

_OTHER_NAMES: Mapping[SamplerName, str] = {"typ_p": "typical_p"}
NAMES = (*SAMPLERS, *_OTHER_NAMES.values())  # all spellings
_NO_PENALTIES = {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


def spellings(known: Collection[str]) -> dict[str, str]:
    """Return the spelling of each sampler that a build has, given the names that it knows."""
    either = {name: (name, _OTHER_NAMES.get(name, name)) for name in SAMPLERS}
    return {name: next(each for each in both if each in known) for name, both in either.items() if {*both} & {*known}}


@dataclass(frozen=True)
class SamplerChain:
    """The samplers of a build. The defaults are those of llama.cpp."""

    spelling: Mapping[str, str] = field(default_factory=lambda: spellings(NAMES))
    penalizes_first: bool = False  # penalties are no sampler of the chain, and apply before it
    top_k_keeps: bool = False  # `min_keep` holds for top_k too

    @property
    def lacks(self) -> list[str]:
        """The samplers that the build does not have."""
        return [name for name in SAMPLERS if not self._has(name)]

    def adapt(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a request in this build's terms. Raises InvalidRequest if the build cannot sample so."""
        chain: list[str] = body.get("samplers", [])
        if self == SamplerChain() or not chain:
            return body
        for name in chain:
            if not self._has(name):
                raise InvalidRequest(f"This llama-server has no sampler {name}.", "samplers")
        changes: dict[str, Any] = {"samplers": [self.spelling[name] for name in chain if name in self.spelling]}
        if self.penalizes_first:
            if "penalties" not in chain:
                changes |= _NO_PENALTIES
            elif chain[0] != "penalties":
                raise InvalidRequest("This llama-server applies penalties before all other samplers.", "samplers")
            elif isinstance(body["prompt"], list):  # some builds count no other tokens than these and the answer's
                changes |= {"penalty_prompt": body["prompt"], "penalize_nl": True}
        if (
            self.top_k_keeps
            and body.get("temperature")
            and "top_k" in chain
            and body.get("min_keep", 0) > body["top_k"]
        ):
            raise InvalidRequest("This llama-server does not support a min_keep above top_k.", "min_keep")
        return {**body, **changes}

    def _has(self, name: str) -> bool:
        return name in self.spelling or (self.penalizes_first and name == "penalties")
