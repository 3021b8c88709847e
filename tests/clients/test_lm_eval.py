"""lm-eval's `local-completions`: log-likelihoods by echo and prompt logprobs, with the server's own tokenizer."""

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI


def request(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def evaluated(url: str) -> Any:
    return LocalCompletionsAPI(
        model="default", base_url=f"{url}/completions", tokenizer_backend="remote", max_retries=1, max_length=512
    )


def test_the_right_word_is_likelier(url: str):
    words = [" blue", " oxygen"]
    requests = [request("loglikelihood", "The colour of the sky is", word) for word in words]
    (right, _), (wrong, _) = evaluated(url).loglikelihood(requests)
    assert wrong < right < 0


def test_text_until_a_stop(url: str):
    options = {"until": ["."], "max_gen_toks": 20, "temperature": 0}
    (text,) = evaluated(url).generate_until([request("generate_until", "The sea is", options)])
    assert text
    assert "." not in text
