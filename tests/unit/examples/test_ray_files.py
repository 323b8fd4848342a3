"""The files in examples/ray: each is valid by the schema of what reads it, and the versions in them are those in use."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cloud_node.settings import CloudSettings
from splitvlm.settings import load

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "ray"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed.")


def read(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text("utf-8"))


def raycluster() -> Any:
    return json.loads((Path(__file__).parent / "raycluster_schema.json").read_text("utf-8"))


def test_the_node_s_configuration_asks_for_two_workers_on_ray() -> None:
    pool = load(EXAMPLES / "local.yaml", CloudSettings).pool
    assert (pool.kind, pool.address, pool.workers.min) == ("ray", None, 2)


PREPARE = """
import json, sys
from pathlib import Path
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text("utf-8")
prepared = prepare_config(json.load(sys.stdin))
validate_config(prepared)
print(json.dumps([json.loads(schema), prepared]))
"""


@needs_ray
def test_the_cluster_file_is_one_of_ray_s_launcher() -> None:
    """Ray's own code looks at it, in a process of its own: where Ray was imported without a token, it takes none later."""
    cluster = read("cluster.yaml")
    command = [sys.executable, "-c", PREPARE]
    run = subprocess.run(command, input=json.dumps(cluster), capture_output=True, text=True, timeout=120, check=True)
    schema, prepared = json.loads(run.stdout.splitlines()[-1])
    jsonschema.validate(cluster, schema)
    assert prepared["max_workers"] == len(cluster["provider"]["worker_ips"])
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)


def test_the_manifest_is_a_ray_cluster_whose_pods_all_ask_for_the_token() -> None:
    manifest = read("kuberay.yaml")
    jsonschema.validate(manifest, raycluster())
    spec = manifest["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert f"ray=={spec['rayVersion']}" in (ROOT / "constraints.txt").read_text("utf-8")


@pytest.mark.parametrize("path", [("spec", "headGroupSpec", "template"), ("spec", "workerGroupSpecs", 0, "groupName")])
def test_a_manifest_that_lacks_what_kuberay_needs_is_found(path: tuple[Any, ...]) -> None:
    manifest = read("kuberay.yaml")
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, raycluster())
