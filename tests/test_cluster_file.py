"""The cluster files pass Ray's own checks. No cloud is called."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from sweep.execution.cluster import Cluster, worker_types

ROOT = Path(__file__).parents[1]
CLOUDS = {"aws": ROOT / "cluster.yaml", "gcp": ROOT / "examples" / "cluster" / "gcp.yaml"}
LOCAL = ROOT / "examples" / "cluster" / "local.yaml"


@pytest.fixture(params=CLOUDS)
def cloud(request) -> dict:
    return yaml.safe_load(CLOUDS[request.param].read_text())


@pytest.fixture(params=[*CLOUDS, "local"])
def text(request) -> str:
    return (CLOUDS | {"local": LOCAL})[request.param].read_text()


def schema() -> dict:
    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def prepared(cluster: dict) -> dict:
    config = prepare_config(copy.deepcopy(cluster))
    validate_config(config)
    return config


def test_the_cloud_files_pass_rays_schema_and_preparation(cloud):
    jsonschema.validate(cloud, schema())
    prepared(cloud)


def test_a_misspelt_key_would_be_found(cloud):
    cloud["idle_timeout_minuets"] = cloud.pop("idle_timeout_minutes")
    with pytest.raises(jsonschema.ValidationError, match="minuets"):
        jsonschema.validate(cloud, schema())


def test_the_local_file_becomes_a_cluster_of_all_its_machines():
    config = prepared(yaml.safe_load(LOCAL.read_text()))
    (kind,) = config["available_node_types"].values()
    machines = len(config["provider"]["worker_ips"])
    assert (kind["min_workers"], kind["max_workers"]) == (machines, machines)


def test_the_local_heads_autoscaler_is_the_first():
    head = yaml.safe_load(LOCAL.read_text())["head_start_ray_commands"][-1]
    assert "RAY_enable_autoscaler_v2=0" in head.partition("ray start")[0]


def test_the_head_has_no_gpu_and_all_workers_are_spot(cloud):
    types = cloud["available_node_types"]
    assert "GPU" not in types.pop(cloud["head_node_type"])["resources"]
    assert len({node["resources"]["GPU"] for node in types.values()}) == 2
    for node in types.values():
        config = node["node_config"]
        assert (
            config.get("InstanceMarketOptions") == {"MarketType": "spot"}
            or config["scheduling"][0]["preemptible"] is True
        )


def test_every_type_of_node_may_reach_the_storage_by_itself(cloud):
    for node in cloud["available_node_types"].values():
        assert "IamInstanceProfile" in node["node_config"] or "serviceAccounts" in node["node_config"]


def test_gpus_that_are_not_up_are_known_from_the_file(cloud):
    config = prepared(cloud)
    assert all(kind["min_workers"] == 0 for kind in config["available_node_types"].values())
    cluster = Cluster(nodes=({"CPU": 4.0},), growable=worker_types(config))
    assert cluster.has_gpus
    assert sorted(kind["GPU"] for kind in cluster.growable) == [1, 8]


def test_types_that_can_never_be_added_are_not_counted(cloud):
    for kind in cloud["available_node_types"].values():
        kind["max_workers"] = 0
    assert worker_types(cloud) == ()


def test_the_local_providers_types_say_nothing():
    assert worker_types(prepared(yaml.safe_load(LOCAL.read_text()))) == ()


def test_versions_are_pinned_and_ray_asks_for_a_token_and_shows_no_dashboard(text):
    cluster = yaml.safe_load(text)
    assert any("-c ~/w2s-sweep/constraints.txt" in command for command in cluster["setup_commands"])
    starts = [cluster[f"{role}_start_ray_commands"][-1] for role in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token ray start" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_no_secrets_are_in_the_files(text):
    assert not re.search(r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20}|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{40}", text)
    cluster = yaml.safe_load(text)
    for path in cluster["file_mounts"].values():
        assert path in (".", "~/.ray/auth_token")
