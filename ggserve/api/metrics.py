"""The metrics at /metrics, with prometheus-client. Names are vLLM's, with our prefix, if they mean the same."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ggserve.generation import Delta
from ggserve.model.registry import ModelRegistry
from ggserve.prompt_progress import PromptProgress

_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1)
_REQUEST = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@dataclass
class LiveAnswer:
    """A running answer, or several to the same prompt."""

    task: int  # a unique number
    model: str  # name
    prompt: PromptProgress
    max_tokens: int | None
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """The number of tokens in the KV cache."""
        return self.prompt.processed + self.completion_tokens


class Metrics:
    """Counters and histograms of all requests, and gauges that are computed on request."""

    def __init__(self, models: ModelRegistry) -> None:
        self._registry = registry = CollectorRegistry()
        self._models = models
        self.live: dict[object, LiveAnswer] = {}  # by stream of deltas
        self._tasks = 0
        self._prompt_seconds = self._predicted_seconds = 0.0
        self._evaluated = self._made = self._largest = 0  # tokens

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"ggserve:{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"ggserve:{name}", text, buckets=buckets, registry=registry)

        self._requests = counter("http_requests", "HTTP requests that ended.", ("method", "path", "status"))
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens, including cached ones.")
        self._cached_tokens = counter("prefix_cache_hits", "Prompt tokens that were already in the KV cache.")
        self._generated = counter("generation_tokens", "Tokens of answers.")
        self._first = histogram("time_to_first_token_seconds", "Time from a request to its first token.", _FIRST_TOKEN)
        self._each_token = histogram("inter_token_latency_seconds", "Time from one token to the next.", _TOKEN)
        self._whole = histogram(
            "e2e_request_latency_seconds", "Time of requests that ran the model, first to last byte.", _REQUEST
        )
        registry.register(self)
        ProcessCollector(registry=registry)

    def begin(self, stream: object, model: str, prompt: PromptProgress, max_tokens: int | None) -> LiveAnswer:
        """Record a prompt on its way. Whatever happens later, remove its stream from `live` at the end."""
        self._tasks += 1
        self.live[stream] = LiveAnswer(self._tasks, model, prompt, max_tokens)
        return self.live[stream]

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def first(self, seconds: float) -> None:
        """Record a request's time to the first delta."""
        self._first.observe(seconds)

    def tokens(self, count: int, seconds: float) -> None:
        """Record that an answer grew by `count` tokens in `seconds`."""
        for _ in range(count):
            self._each_token.observe(seconds / count)

    def ended(self, delta: Delta, generated: int, prompt_seconds: float, predicted_seconds: float) -> None:
        """Record the end of the answers to a prompt: one of their deltas, the tokens of all, and the times."""
        self._prompt_seconds += prompt_seconds
        self._predicted_seconds += predicted_seconds
        self._evaluated += delta.prompt_tokens - delta.cached_tokens
        self._made += generated
        self._largest = max(self._largest, delta.prompt_tokens + generated)
        self._prompt_tokens.inc(delta.prompt_tokens)
        self._cached_tokens.inc(delta.cached_tokens)
        self._generated.inc(generated)

    def request(self, method: str, path: str, status: int, seconds: float | None) -> None:
        """Record the end of a request, with `seconds` if it ran the model. `path` must be a route's path, to limit the
        number of labels."""
        self._requests.labels(method, path, str(status)).inc()
        if seconds is not None:
            self._whole.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges: the current load of the models."""
        residents = [(each, each.model) for each in self._models.residents if each.model is not None]
        if not residents:
            return
        models = [model for _, model in residents]
        slots = sum(model.parallel for model in models)
        used = sum(answer.tokens for answer in self.live.values())
        room = sum(model.parallel * model.context_length for model in models)
        for name, text, value in (
            ("num_requests_running", "Answers in slots.", slots - sum(model.occupancy.idle for model in models)),
            ("num_requests_waiting", "Requests in the queue.", sum(model.occupancy.queued for model in models)),
            ("slots", "Number of slots for parallel requests.", slots),
            ("kv_cache_usage_perc", "Tokens of running answers divided by the capacity; 1 is full.", used / room),
        ):
            yield GaugeMetricFamily(f"ggserve:{name}", text, value)
        for name, text, values in (
            (
                "model_load_seconds",
                "Time from opening the file until the model was ready.",
                [model.load_seconds for model in models],
            ),
            ("model_memory_bytes", "Weights and KV cache of a loaded model.", [each.need for each, _ in residents]),
        ):
            family = GaugeMetricFamily(f"ggserve:{name}", text, labels=("model",))
            for model, number in zip(models, values, strict=True):
                family.add_metric((model.name,), number)
            yield family
        fallback = GaugeMetricFamily(
            "ggserve:gpu_fallback", "1 if a model uses fewer GPU layers than requested.", labels=("model",)
        )
        for model in models:
            fallback.add_metric((model.name,), model.hardware.fallback is not None)
        yield fallback
        info = GaugeMetricFamily("ggserve:model_info", "The loaded models.", labels=("model", "engine"))
        for model in models:
            info.add_metric((model.name, model.engine_name), 1)
        yield info
        running = slots - sum(model.occupancy.idle for model in models)
        yield from self._as_llama_server(running, sum(model.occupancy.queued for model in models))

    def _as_llama_server(self, running: int, queued: int) -> Iterator[Metric]:
        """Yield the same metrics under llama-server's names, for its dashboards."""
        for name, text, value in (
            ("prompt_tokens", "Prompt tokens evaluated.", self._evaluated),
            ("prompt_seconds", "Seconds from requests to their first tokens, in total.", self._prompt_seconds),
            ("tokens_predicted", "Tokens of answers.", self._made),
            ("tokens_predicted_seconds", "Seconds from first to last tokens, in total.", self._predicted_seconds),
            ("n_tokens_max", "The largest number of tokens of a prompt and its answers.", self._largest),
        ):
            yield CounterMetricFamily(f"llamacpp:{name}", text, value)
        for name, text, rate in (
            (
                "prompt_tokens_seconds",
                "Prompt tokens evaluated per second.",
                _rate(self._evaluated, self._prompt_seconds),
            ),
            (
                "predicted_tokens_seconds",
                "Answer tokens generated per second.",
                _rate(self._made, self._predicted_seconds),
            ),
            ("requests_processing", "Answers in slots.", running),
            ("requests_deferred", "Requests in the queue.", queued),
        ):
            yield GaugeMetricFamily(f"llamacpp:{name}", text, rate)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0
