"""Short requests to a llama-server that has just loaded a model, which show what its build can do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ggserve.engines.llama_cpp.sampler_chain import NAMES, SamplerChain, spellings
from ggserve.engines.llama_cpp.scoring import LIKELIEST, ONE_LETTER
from ggserve.engines.llama_cpp.token_reports import likeliest_of, normalized
from ggserve.engines.llama_cpp.transport import Abilities, Chunk
from ggserve.engines.pool import common_prefix

PATHS = ("/completion", "/v1/completions")
_TEXT = "a b c d e"
_SAME_TEXT = "a\n\nb\n\nc\n\nd\n\ne"  # for a build that skips spaces
_RAISED, _PENALTY = 50.0, 100.0  # a bias that decides, and a penalty that outweighs it
_ROUNDING = 0.01  # of a log-probability
_MANY = 48  # tokens; some kernels are for 32 or more
_DIFFERENCE = 0.5  # of log-probabilities: more than rounding


@dataclass(frozen=True)
class Findings:
    """The findings on a build."""

    path: str = PATHS[0]  # of completions of token ids
    abilities: Abilities = field(default_factory=Abilities)
    chain: SamplerChain = field(default_factory=SamplerChain)
    progress: bool = True  # it reports how much of a prompt is evaluated
    exact_cache: bool = True  # it reuses only the KV cache of equal tokens
    whole: bool = True  # it is exact after a prompt that it evaluates at once
    twice: bool = False  # in probabilities, the tokens that it does not report count twice

    @property
    def lacks(self) -> list[str]:
        """The abilities that it does not have."""
        able = self.abilities
        missing = {
            "embeddings together with completions": able.embeds,
            "prompt progress": self.progress,
            "exact evaluation of whole prompts (their last token is evaluated alone)": self.whole,
            "logprobs": able.logprobs,
            "logprobs together with logit_bias": able.logprobs_before_bias or not able.logprobs,
            "probabilities after sampling": able.sampled_probabilities or not able.logprobs,
            "lora in requests": able.lora,
        }
        return [
            *(name for name, present in missing.items() if not present),
            *(f"sampler {n}" for n in self.chain.lacks),
        ]


class Trial:
    """The requests, all of them in the first slot. They raise EngineError."""

    def __init__(
        self, complete: Callable[[str, dict[str, Any]], list[Chunk]], post: Callable[[str, dict[str, Any]], Any]
    ) -> None:
        """`complete` returns the chunks of a completion from a path, and `post` the response to another request."""
        self._complete = complete
        self._post = post
        self._prompt = self._tokens(_TEXT) or [0]

    def error(self) -> str | None:
        """Return the error that a short prompt gets, or None."""
        return next((str(chunk["error"]) for chunk in self._ask(PATHS[0]) if "error" in chunk), None)

    def findings(self, *, adapters: bool) -> Findings:
        """Find out everything but embeddings. `adapters`: the model has some."""
        found = Findings(chain=self._chain(), progress=any("processed" in each for each in self._progress(PATHS[0])))
        abilities = Abilities(lora=not adapters or self._knows_lora())
        entries = ((path, self._entry(path) or self._entry(path, grammar=ONE_LETTER)) for path in PATHS)
        path, entry = next(((path, entry) for path, entry in entries if entry), (PATHS[0], None))
        found = replace(found, path=path, exact_cache=self._exact(path))
        if entry is None:
            return replace(found, abilities=replace(abilities, logprobs=False))
        likeliest = likeliest_of(entry)[0]["id"]
        token = next(each for each in (*self._prompt, 0, 1) if each != likeliest)
        bias = [[token, _RAISED]]
        biased = self._entry(path, logit_bias=bias)
        twice = self._counts_twice(path)
        sampled = self._entry(path, min_keep=2, temperature=1.0, n_probs=2, post_sampling_probs=True)
        told = [one["prob"] for one in likeliest_of(sampled or {}) if "prob" in one]
        abilities = replace(
            abilities,
            logprobs=twice is not None,
            logprobs_before_bias=biased is not None and likeliest_of(biased)[0]["id"] == likeliest,
            sampled_probabilities=sum(told) > 0.5,
        )
        chain = replace(self._with_penalties(path, found.chain, token, bias), top_k_keeps=len(told) > 1)
        return replace(found, abilities=abilities, chain=chain, twice=bool(twice), whole=self._exact_at_once(path))

    def _counts_twice(self, path: str) -> bool | None:
        """Return whether the tokens that are not reported count twice; None if probabilities depend on their number in
        another way."""
        entries = [
            self._entry(path, prompt=self._prompt[:1], grammar=ONE_LETTER, n_probs=number) for number in (1, LIKELIEST)
        ]
        few, many = (entry or {"logprob": 0.0} for entry in entries)
        if abs(few["logprob"] - many["logprob"]) < _ROUNDING:
            return False
        return True if abs(normalized(few)["logprob"] - normalized(many)["logprob"]) < _ROUNDING else None

    def _exact_at_once(self, path: str) -> bool:
        """Return whether the likeliest token after a prompt is the same, and about as likely, if only the last token of
        the prompt is evaluated."""
        prompt = (self._prompt * _MANY)[:_MANY]
        entries = [self._entry(path, prompt=prompt, cache_prompt=cached) for cached in (False, True)]
        first, second = (likeliest_of(entry)[0] if entry else {"id": -1, "logprob": 0.0} for entry in entries)
        return first["id"] == second["id"] and abs(first["logprob"] - second["logprob"]) < _DIFFERENCE

    def _chain(self) -> SamplerChain:
        """Return the samplers that the build knows: its answer repeats them."""
        answer = self._post(PATHS[0], {**self._body(), "n_probs": 0, "stream": False, "samplers": list(NAMES)})
        known = answer.get("generation_settings", {}).get("samplers")
        return SamplerChain(spellings(known) if isinstance(known, list) else spellings(NAMES))

    def _with_penalties(self, path: str, chain: SamplerChain, token: int, bias: list[Any]) -> SamplerChain:
        """Return the chain with the place of the penalties, if the build has any that work."""
        chain = replace(chain, penalizes_first="penalties" not in chain.spelling)
        wanted = {"samplers": ["penalties", "top_k"], "presence_penalty": _PENALTY, "repeat_last_n": -1}
        body = chain.adapt({**self._body(), **wanted, "prompt": [token, *self._prompt], "logit_bias": bias})
        chosen = self._entry(path, **body)
        if chosen is not None and chosen["id"] == token:
            return SamplerChain({name: known for name, known in chain.spelling.items() if name != "penalties"})
        return chain

    def _knows_lora(self) -> bool:
        """Return whether a request can scale the adapters: then a scale of another type is an error."""
        return any("error" in chunk for chunk in self._ask(PATHS[0], lora=0))

    def _exact(self, path: str) -> bool:
        other = self._tokens(_SAME_TEXT)
        self._ask(path)
        progress = [*self._progress(path, prompt=other)]
        return not progress or progress[-1]["cache"] <= common_prefix(self._prompt, other)

    def _entry(self, path: str, **fields: Any) -> dict[str, Any] | None:
        """Return the report on the only token of an answer, if it names the token."""
        for chunk in self._ask(path, **fields):
            for choice in chunk.get("choices", ()):
                for entry in (choice["logprobs"] or {}).get("content", ()):
                    return entry if "id" in entry and {"logprob", "prob"} & {*entry} else None
        return None

    def _progress(self, path: str, **fields: Any) -> Iterable[dict[str, int]]:
        return (chunk["prompt_progress"] for chunk in self._ask(path, **fields) if "prompt_progress" in chunk)

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._post("/tokenize", {"content": text})["tokens"]
        return ids

    def _ask(self, path: str, **fields: Any) -> list[Chunk]:
        return self._complete(path, {**self._body(), **fields})

    def _body(self) -> dict[str, Any]:
        return {
            "prompt": self._prompt,
            "n_predict": 1,
            "id_slot": 0,
            "stream": True,
            "return_progress": True,
            "timings_per_token": True,
            "n_probs": 1,
            "samplers": ["top_k"],
            "top_k": 1,
            "temperature": 0.0,
        }
