"""What /metrics tells, by prometheus-client. Names are vLLM's, with our prefix, where they mean the same."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from ggserve.generation import Delta
from ggserve.model.registry import ModelRegistry

_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1)
_REQUEST = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters and histograms of all requests, and gauges that are read when somebody asks."""

    def __init__(self, models: ModelRegistry) -> None:
        self._registry = registry = CollectorRegistry()
        self._models = models
        self.live: dict[object, int] = {}  # tokens in the KV cache, by running prompt

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"ggserve:{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"ggserve:{name}", text, buckets=buckets, registry=registry)

        self._requests = counter("http_requests", "HTTP requests that ended.", ("method", "path", "status"))
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens, cached ones included.")
        self._cached_tokens = counter("prefix_cache_hits", "Prompt tokens that were in the KV cache already.")
        self._generated = counter("generation_tokens", "Tokens of answers.")
        self._first = histogram("time_to_first_token_seconds", "From a request to its first token.", _FIRST_TOKEN)
        self._each_token = histogram("inter_token_latency_seconds", "From a token to the next.", _TOKEN)
        self._whole = histogram("e2e_request_latency_seconds", "Requests that computed, first to last byte.", _REQUEST)
        registry.register(self)
        ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)

    def first(self, seconds: float) -> None:
        """A request's first delta came after `seconds`."""
        self._first.observe(seconds)

    def tokens(self, count: int, seconds: float) -> None:
        """An answer has gone on by so many tokens in so many seconds."""
        for _ in range(count):
            self._each_token.observe(seconds / count)

    def ended(self, delta: Delta, generated: int) -> None:
        """The answers to a prompt have ended: one of their deltas, and the tokens of all."""
        self._prompt_tokens.inc(delta.prompt_tokens)
        self._cached_tokens.inc(delta.cached_tokens)
        self._generated.inc(generated)

    def request(self, method: str, path: str, status: int, seconds: float | None) -> None:
        """A request has ended; `seconds` if it computed. `path` must be a route's, or the labels had no end."""
        self._requests.labels(method, path, str(status)).inc()
        if seconds is not None:
            self._whole.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """The gauges: how busy the loaded models are now."""
        residents = [(each, each.model) for each in self._models.residents if each.model is not None]
        if not residents:
            return
        models = [model for _, model in residents]
        slots = sum(model.parallel for model in models)
        used, room = sum(self.live.values()), sum(model.parallel * model.context_length for model in models)
        for name, text, value in (
            ("num_requests_running", "Answers in slots.", slots - sum(model.occupancy.idle for model in models)),
            ("num_requests_waiting", "Requests in the queue.", sum(model.occupancy.queued for model in models)),
            ("slots", "Answers that may run at the same time.", slots),
            ("kv_cache_usage_perc", "Tokens of running answers over the room for tokens; 1 is full.", used / room),
        ):
            yield GaugeMetricFamily(f"ggserve:{name}", text, value)
        for name, text, values in (
            (
                "model_load_seconds",
                "From the file to the first answer that could be given.",
                [model.load_seconds for model in models],
            ),
            ("model_memory_bytes", "Weights and KV cache of a loaded model.", [each.need for each, _ in residents]),
        ):
            family = GaugeMetricFamily(f"ggserve:{name}", text, labels=("model",))
            for model, number in zip(models, values, strict=True):
                family.add_metric((model.name,), number)
            yield family
        fallback = GaugeMetricFamily(
            "ggserve:gpu_fallback", "1 where a model uses less of the GPU than it should.", labels=("model",)
        )
        for model in models:
            fallback.add_metric((model.name,), model.hardware.fallback is not None)
        yield fallback
        info = GaugeMetricFamily("ggserve:model_info", "The models that are loaded.", labels=("model", "engine"))
        for model in models:
            info.add_metric((model.name, model.engine_name), 1)
        yield info
