"""The manifests: schemas of Kubernetes, the fields that KubeRay's resources have, and what goes with what."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from fastapi.testclient import TestClient

from dropmill.commands import Commands
from dropmill.config import load_config
from dropmill.http_api import make_app
from dropmill.metrics import Health, Metrics
from tests.infra.command_lines import check_dropmill, check_ray
from tests.infra.ray_fields import wrong_fields

_FOLDER = Path(__file__).resolve().parents[2] / "infra" / "kuberay"
_KUBERNETES = ("1.30", "1.34")


@pytest.fixture(scope="module")
def manifests():
    """(kind, name) to manifest."""
    found = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        if path.name in ("kustomization.yaml", "dropmill.yaml"):
            continue
        for document in yaml.safe_load_all(path.read_text()):
            metadata = document["metadata"]
            found[document["kind"], metadata.get("name") or metadata["generateName"]] = document
    return found


def _pods(manifests):
    """Where to pod template, of all that make pods."""
    for (kind, name), manifest in manifests.items():
        if kind == "Deployment":
            yield f"{kind} {name}", manifest["spec"]["template"]
        if kind in ("RayCluster", "RayJob"):
            cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
            yield f"{kind} {name} head", cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                yield f"{kind} {name} {group['groupName']}", group["template"]


@pytest.mark.parametrize("version", _KUBERNETES)
def test_manifests_follow_the_schemas_of_kubernetes(manifests, version):
    logging.getLogger("kubernetes_validate").setLevel(logging.ERROR)
    checked = 0
    for (kind, _), manifest in manifests.items():
        if kind not in ("RayCluster", "RayJob"):
            kubernetes_validate.validate(manifest, version, strict=True)
            checked += 1
    assert checked >= 6
    # What KubeRay makes pods of is a pod template like any other.
    for where, template in _pods(manifests):
        template.setdefault("metadata", {})
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x", **template["metadata"]},
            "spec": template["spec"],
        }
        try:
            kubernetes_validate.validate(pod, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{where}: {error}")


def test_ray_resources_have_only_fields_that_kuberay_knows(manifests):
    for kind in ("RayCluster", "RayJob"):
        found = [manifest for (k, _), manifest in manifests.items() if k == kind]
        assert found
        for manifest in found:
            assert manifest["apiVersion"] == "ray.io/v1"
            assert wrong_fields(kind, manifest["spec"]) == []


def test_a_field_that_kuberay_does_not_know_is_seen(manifests):
    spec = manifests["RayCluster", "dropmill"]["spec"]
    assert wrong_fields("RayCluster", {**spec, "autoscaling": True}) == ["spec.autoscaling: unknown"]
    group = {**spec["workerGroupSpecs"][0], "maxReplicas": "16"}
    wrong = wrong_fields("RayCluster", {**spec, "workerGroupSpecs": [group]})
    assert wrong == ["spec.workerGroupSpecs[0].maxReplicas: '16' is no integer"]


def test_ray_is_started_with_options_that_it_has(manifests):
    cluster = manifests["RayCluster", "dropmill"]["spec"]
    job = manifests["RayJob", "train-"]["spec"]["rayClusterSpec"]
    for spec in (cluster, job):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            check_ray(["start", *(f"--{name}={value}" for name, value in group["rayStartParams"].items())])


def test_ray_has_the_version_that_the_lock_puts_into_the_images(manifests):
    locked = re.search(
        r"^ray==(\S+)", (_FOLDER.parents[1] / "requirements.lock").read_text(), re.MULTILINE
    ).group(1)
    specs = [
        manifests["RayCluster", "dropmill"]["spec"],
        manifests["RayJob", "train-"]["spec"]["rayClusterSpec"],
    ]
    assert {spec["rayVersion"] for spec in specs} == {locked}


def test_images_are_those_of_this_version_and_heads_have_torch(manifests):
    version = importlib.metadata.version("dropmill")
    for where, template in _pods(manifests):
        (container,) = template["spec"]["containers"]
        assert container["image"] in (f"dropmill:{version}-cpu", f"dropmill:{version}-gpu"), where
        wants_gpu = "nvidia.com/gpu" in container["resources"].get("limits", {})
        if wants_gpu or where.endswith("head"):
            assert container["image"].endswith("-gpu"), where


def test_command_lines_are_understood(manifests):
    container = manifests["Deployment", "dropmill"]["spec"]["template"]["spec"]["containers"][0]
    check_dropmill(container["args"])
    program, *words = shlex.split(manifests["RayJob", "train-"]["spec"]["entrypoint"])
    assert program == "dropmill"
    check_dropmill(words)


def test_the_configuration_loads_and_fits_the_manifests(manifests):
    config = load_config(_FOLDER / "dropmill.yaml")
    # KubeRay names the head's service after the cluster.
    assert config.ray.address == "ray://dropmill-head-svc:10001"
    container = manifests["Deployment", "dropmill"]["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": config.http.port}]
    assert config.http.token_env in {variable["name"] for variable in container["env"]}
    train = next(step.train for step in config.pipelines[0].steps if step.train is not None)
    gpus = next(
        g for g in manifests["RayCluster", "dropmill"]["spec"]["workerGroupSpecs"] if g["groupName"] == "gpu"
    )
    assert train.workers <= gpus["maxReplicas"]
    parse = manifests["RayCluster", "dropmill"]["spec"]["workerGroupSpecs"][0]
    cpus = int(parse["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    # Fewer tasks than the smallest cluster takes at once would never make it grow.
    assert config.ray.tasks_in_flight * config.ray.task_cpus > cpus * parse["minReplicas"]


def test_probes_ask_for_addresses_that_the_service_answers(manifests):
    container = manifests["Deployment", "dropmill"]["spec"]["template"]["spec"]["containers"][0]
    health = Health()
    client = TestClient(make_app(health, Metrics(), Commands()))
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    # A service that does not serve yet, or waits for its store, is alive and not ready.
    assert client.get(paths["startupProbe"]).status_code == 200
    assert client.get(paths["livenessProbe"]).status_code == 200
    assert client.get(paths["readinessProbe"]).status_code == 503
    health.become("serving")
    assert client.get(paths["readinessProbe"]).status_code == 200
    annotations = manifests["Deployment", "dropmill"]["spec"]["template"]["metadata"]["annotations"]
    assert client.get(annotations["prometheus.io/path"]).status_code == 200


def test_one_service_goes_before_the_next_comes(manifests):
    spec = manifests["Deployment", "dropmill"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


def test_all_pods_run_without_rights(manifests):
    for where, template in _pods(manifests):
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"], where
        assert pod["runAsUser"] == 10001, where
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in template["spec"]["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert "memory" in container["resources"]["limits"], where


def test_what_pods_refer_to_exists(manifests):
    kustomization = yaml.safe_load((_FOLDER / "kustomization.yaml").read_text())
    kept = {line.split("=")[0] for line in (_FOLDER / "secrets.env.example").read_text().splitlines()}
    generated = {entry["name"] for entry in kustomization["secretGenerator"]}
    config_maps = {entry["name"] for entry in kustomization["configMapGenerator"]}
    for where, template in _pods(manifests):
        spec = template["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in manifests, where
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in manifests, where
            if config_map := volume.get("configMap"):
                assert config_map["name"] in config_maps, where
        for container in spec["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes), where
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["name"] in generated, where
                    assert reference["key"] in kept, where
    for name in ("RayCluster", "dropmill"), ("RayJob", "train-"):
        spec = manifests[name]["spec"]
        assert spec.get("rayClusterSpec", spec)["authOptions"]["secretName"] in generated
    service = manifests["Service", "dropmill"]["spec"]
    labels = manifests["Deployment", "dropmill"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


def test_no_secret_is_in_the_manifests():
    assert not any("kind: Secret" in path.read_text() for path in _FOLDER.glob("*.yaml"))
    values = [line.partition("=")[2] for line in (_FOLDER / "secrets.env.example").read_text().splitlines()]
    assert values
    assert not any(values)


def test_kustomize_puts_the_manifests_together(tmp_path):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    folder = shutil.copytree(_FOLDER, tmp_path / "kuberay")
    shutil.copy(folder / "secrets.env.example", folder / "secrets.env")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    assert {document["kind"] for document in made} >= {"RayCluster", "Deployment", "Secret", "ConfigMap"}
    assert {d["metadata"].get("namespace") for d in made if d["kind"] != "Namespace"} == {"dropmill"}
