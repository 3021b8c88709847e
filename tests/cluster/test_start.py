"""An error at the start of a cluster is one line; settings become options for Ray."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

pytest.importorskip("ray")

from ray.serve.schema import ServeDeploySchema

from ggserve.cluster import application as under_test
from ggserve.settings import SettingsError, load_settings
from tests.cluster.conftest import ROOT, Cluster
from tests.processes import clean_environment


def start(environment: dict[str, str], *command: str) -> list[str]:
    """Return the lines of a failed start."""
    result = subprocess.run(
        [sys.executable, *(command or ["-m", "ggserve", "cluster"])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    return result.stderr.splitlines()


@pytest.mark.parametrize("replicas", ["none", "0", "3-1", "-2", "1-", "1.5"])
def test_a_wrong_number_of_replicas_is_one_line(replicas: str) -> None:
    with pytest.raises(SettingsError, match="REPLICAS") as caught:
        load_settings(given={"replicas": replicas})
    assert "\n" not in str(caught.value)


def test_a_start_with_a_wrong_setting_says_one_line() -> None:
    (line,) = start({**clean_environment(), "REPLICAS": "many"})
    assert line.startswith("ggserve: REPLICAS='many'")


def test_a_start_without_ray_says_one_line() -> None:
    (line,) = start(
        clean_environment(), "-c", "import sys; sys.modules['ray'] = None; from ggserve.cluster import application"
    )
    assert line.startswith("ggserve: a cluster needs Ray")
    assert "make cluster" in line


def test_more_replicas_than_there_are_cores_is_one_line(cluster: Cluster) -> None:
    line = start({**cluster.environment, "REPLICAS": "9"})[-1]
    assert line == (
        "ggserve: REPLICAS=9: there are only enough cores for 2 replicas with 1 threads; set fewer REPLICAS or THREADS"
    )


def test_an_unknown_setting_in_a_config_file_is_named() -> None:
    with pytest.raises(SettingsError, match="REPLICA_COUNT"):
        under_test.app({"REPLICA_COUNT": 2})


def deployment(application: Any, name: str) -> Any:
    """Return the deployment with that name in an application."""
    found = {application._bound_deployment.name: application._bound_deployment}
    for argument in application._bound_deployment.init_args:
        if hasattr(argument, "_bound_deployment"):
            found[argument._bound_deployment.name] = argument._bound_deployment
    return found[name]


def test_settings_become_cores_limits_and_scaling() -> None:
    given = {"REPLICAS": "1-4", "THREADS": 3, "PARALLEL": 6, "QUEUE_SIZE": 7, "GPU_LAYERS": 2}
    replica = deployment(under_test.app(given), "Replica")
    assert (replica.ray_actor_options["num_cpus"], replica.ray_actor_options["num_gpus"]) == (3, 1)
    assert replica.max_ongoing_requests >= 6
    assert replica.max_queued_requests == 7
    scaling = replica._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.get_target_ongoing_requests()) == (1, 4, 3)
    fixed = deployment(under_test.app({"REPLICAS": 3, "THREADS": 1}), "Replica")
    assert fixed.num_replicas == 3
    assert fixed._deployment_config.autoscaling_config is None


def configs() -> Sequence[Any]:
    manifest = yaml.safe_load((ROOT / "deploy/kuberay.yaml").read_text())
    return [
        yaml.safe_load((ROOT / "deploy/cluster.yaml").read_text()),
        yaml.safe_load(manifest["spec"]["serveConfigV2"]),
    ]


@pytest.mark.parametrize("config", configs(), ids=["cluster.yaml", "kuberay.yaml"])
def test_config_files_are_ray_s_and_ours(config: Any) -> None:
    (application,) = ServeDeploySchema.model_validate(config).applications
    under_test.app(application.args)
    assert {named.name for named in application.deployments} <= {"Gateway", "Replica"}
    controller = config["controller_options"]["runtime_env"]["env_vars"]
    assert controller == under_test._CONTROLLER


def test_the_manifest_s_pods_have_room_for_its_replicas() -> None:
    manifest = yaml.safe_load((ROOT / "deploy/kuberay.yaml").read_text())
    ray, arguments = manifest["spec"]["rayClusterConfig"], configs()[1]["applications"][0]["args"]
    (group,) = ray["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    requested = container["resources"]["requests"]
    assert requested == container["resources"]["limits"]
    assert int(requested["cpu"]) // arguments["THREADS"] * group["replicas"] >= arguments["REPLICAS"]
    assert any(arguments["MODEL_PATH"].startswith(mount["mountPath"]) for mount in container["volumeMounts"])
    assert ray["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert f"ray[serve]>={ray['rayVersion'].removesuffix('.0')}," in (ROOT / "pyproject.toml").read_text()
