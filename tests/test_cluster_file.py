"""cluster.yaml passes Ray's own checks. No cloud is called."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_the_cluster_file_passes_rays_schema_and_preparation(cluster):
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_the_head_has_no_gpu_and_workers_are_spot_with_pinned_versions(cluster):
    types = cluster["available_node_types"]
    assert "GPU" not in types[cluster["head_node_type"]]["resources"]
    for name, node in types.items():
        if name != cluster["head_node_type"]:
            assert node["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert any("constraints.txt" in command for command in cluster["setup_commands"])
    assert any("--include-dashboard=false" in command for command in cluster["head_start_ray_commands"])
