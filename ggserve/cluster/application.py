"""The same app on Ray Serve: gateways without a model accept the requests, replicas with a model answer them.

`ggserve cluster` starts it on this machine; `serve run ggserve.cluster.application:app` or `serve deploy cluster.yaml`
starts it on a Ray cluster. Ray does balancing, health checks, restarts, scaling and updates; the modules beside this
one add what Ray cannot know about prompts.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig
except ModuleNotFoundError as error:
    sys.exit(f"ggserve: a cluster needs Ray ({error}): use `make cluster`, or pip install 'ggserve[cluster]'")

from ggserve.api.admission import generating_paths
from ggserve.api.dialect import Envelopes
from ggserve.cluster.affinity import NEWS_SECONDS
from ggserve.cluster.gateway import Gateway
from ggserve.cluster.replica import Replica
from ggserve.cluster.router import PromptRouter
from ggserve.machine import usable_cores
from ggserve.settings import Settings, SettingsError, load_settings

_SPARE = 16  # requests that need no slot (/health, /tokenize, ...) and that a busy replica still accepts
_LONGEST_ANSWER = 3600.0  # seconds that answers may continue after their replica was told to end
_CONTROLLER = {
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # a replica that hangs does not end by itself
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # seconds; Ray's default of 0.1 takes 5% of a core
}
CONTROLLER_OPTIONS = {"runtime_env": {"env_vars": _CONTROLLER}}


def app(args: Mapping[str, Any]) -> serve.Application:
    """Build the application for `serve run ggserve.cluster.application:app NAME=value ...` and the `args` of a config
    file. The arguments are settings, and take precedence over the environment. Raises SettingsError."""
    if unknown := sorted(name for name in args if name.lower() not in Settings.model_fields):
        raise SettingsError(f"unknown setting: {', '.join(unknown)}")
    return application(load_settings(given={name.lower(): str(value) for name, value in args.items()}))


def application(settings: Settings, router: type[PromptRouter] = PromptRouter) -> serve.Application:
    """Build gateways and replicas with these settings. `router` finds the replica of each request."""
    from ggserve.app import DIALECTS
    from ggserve.modelfile.memory import DEFAULT_SLOTS

    least, most = settings.replica_range
    threads = settings.threads or _default_threads(most)
    slots = settings.parallel or DEFAULT_SLOTS
    most_bytes = settings.max_body_mb << 20
    environment = {
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2 * most_bytes),
        "RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S": "1",  # other gateways send requests too
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
    }
    scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": max(1.0, slots / 2)}
    routing = RequestRouterConfig(
        request_router_class=router,
        request_router_kwargs={"slots": slots},
        request_routing_stats_period_s=NEWS_SECONDS,
        initial_backoff_s=0.01,
        max_backoff_s=0.1,
    )
    replica = serve.deployment(
        Replica,
        name="Replica",
        ray_actor_options={
            "num_cpus": threads,
            "num_gpus": int(settings.gpu_layers not in (0, "auto")),
            "runtime_env": {"env_vars": environment},
        },
        max_ongoing_requests=slots + _SPARE,
        max_queued_requests=max(1, settings.queue_size),
        health_check_period_s=2,
        health_check_timeout_s=5,
        graceful_shutdown_timeout_s=_LONGEST_ANSWER,
        request_router_config=routing,
        **({"num_replicas": least} if least == most else {"num_replicas": "auto", "autoscaling_config": scaling}),
    ).bind(settings.model_copy(update={"threads": threads}), slots)
    gateway = serve.deployment(
        Gateway,
        name="Gateway",
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": environment}},
        max_ongoing_requests=100_000,
        graceful_shutdown_timeout_s=_LONGEST_ANSWER,
    )
    return gateway.bind(replica, generating_paths(each.router for each in DIALECTS), Envelopes(DIALECTS), most_bytes)


def _cores() -> list[int]:
    """Return the cores of each machine of the cluster, or without a cluster, of this machine."""
    if not ray.is_initialized():
        return [usable_cores()]
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def _default_threads(replicas: int) -> int:
    """Return the threads per replica, if each machine gets its share of the replicas."""
    cores = _cores()
    return max(1, min(cores) // -(-replicas // len(cores)))


def _check_room(settings: Settings) -> None:
    """Raise SettingsError if there are too few cores for the minimum of replicas. Ray would wait for another
    machine."""
    least, most = settings.replica_range
    threads = settings.threads or _default_threads(most)
    room = sum(cores // threads for cores in _cores())
    if room < least:
        raise SettingsError(
            f"REPLICAS={settings.replicas}: there are only enough cores for {room} replicas with {threads} threads; "
            "set fewer REPLICAS or THREADS"
        )


def main() -> None:
    """Start the application on this machine, or on the cluster that RAY_ADDRESS names, until a signal comes."""
    stopped = threading.Event()
    try:
        settings = load_settings()
        ray.init(log_to_driver=False)
        _check_room(settings)
        serve.start(
            http_options={"host": settings.host, "port": settings.port},
            controller_options=CONTROLLER_OPTIONS,
        )
        serve.run(application(settings))
    except (SettingsError, ConnectionError) as error:
        sys.exit(f"ggserve: {error}")
    except RuntimeError as error:
        replicas = serve.status().applications["default"].deployments["Replica"]
        told = re.search("RuntimeError: (ggserve: .*)", replicas.message)
        sys.exit(told[1] if told else f"ggserve: {error}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    print(f"ready: http://{settings.host}:{settings.port}", file=sys.stderr, flush=True)
    stopped.wait()
    stopped.clear()
    serve.delete("default", _blocking=False)  # shutdown() alone would cut answers off
    while "default" in serve.status().applications and not stopped.wait(0.2):
        pass  # a second signal does not wait for the answers
    serve.shutdown()
    ray.shutdown()
