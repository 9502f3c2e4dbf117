"""The fields of KubeRay's RayCluster and RayJob, version ray.io/v1, as its API reference lists them."""

from __future__ import annotations

from typing import Any

_POD_TEMPLATE = {"metadata": dict, "spec": dict}
_AUTOSCALER = {
    "args": list, "command": list, "env": list, "envFrom": list, "idleTimeoutSeconds": int, "image": str,
    "imagePullPolicy": str, "resources": dict, "securityContext": dict, "volumeMounts": list,
    "upscalingMode": ("Default", "Aggressive", "Conservative"), "version": ("v1", "v2"),
}  # fmt: skip
_HEAD = {
    "enableIngress": bool, "headService": dict, "labels": dict, "rayStartParams": dict, "resources": dict,
    "serviceType": str, "template": _POD_TEMPLATE,
}  # fmt: skip
_WORKERS = {
    "groupName": str, "idleTimeoutSeconds": int, "labels": dict, "maxReplicas": int, "minReplicas": int,
    "numOfHosts": int, "rayStartParams": dict, "replicas": int, "resources": dict, "scaleStrategy": dict,
    "suspend": bool, "template": _POD_TEMPLATE,
}  # fmt: skip
_CLUSTER = {
    "authOptions": {"mode": ("disabled", "token"), "secretName": str, "enableK8sTokenAuth": bool},
    "autoscalerOptions": _AUTOSCALER, "enableInTreeAutoscaling": bool, "gcsFaultToleranceOptions": dict,
    "headGroupSpec": _HEAD, "headServiceAnnotations": dict, "managedBy": str, "rayVersion": str,
    "suspend": bool, "upgradeStrategy": dict, "workerGroupSpecs": [_WORKERS],
}  # fmt: skip
_JOB = {
    "activeDeadlineSeconds": int, "backoffLimit": int, "clusterSelector": dict, "deletionStrategy": dict,
    "entrypoint": str, "entrypointNumCpus": (int, float), "entrypointNumGpus": (int, float),
    "entrypointResources": str, "jobId": str, "managedBy": str, "metadata": dict, "rayClusterSpec": _CLUSTER,
    "runtimeEnvYAML": str, "shutdownAfterJobFinishes": bool,
    "submissionMode": ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"), "submitterConfig": dict,
    "submitterPodTemplate": _POD_TEMPLATE, "suspend": bool, "ttlSecondsAfterFinished": int,
}  # fmt: skip
_KINDS = {"RayCluster": _CLUSTER, "RayJob": _JOB}
_REQUIRED = {
    id(_CLUSTER): ("headGroupSpec",),
    id(_HEAD): ("template",),
    id(_WORKERS): ("groupName", "maxReplicas", "minReplicas", "template"),
    id(_JOB): ("entrypoint",),
}


def wrong_fields(kind: str, spec: dict[str, Any]) -> list[str]:
    """What KubeRay would refuse or overlook in the spec of a RayCluster or RayJob."""
    wrong = list(_wrong(_KINDS[kind], spec, "spec"))
    if kind == "RayJob" and ("rayClusterSpec" in spec) == ("clusterSelector" in spec):
        wrong.append("spec: either rayClusterSpec or clusterSelector")
    if kind == "RayJob" and "clusterSelector" in spec and spec.get("shutdownAfterJobFinishes"):
        wrong.append("spec: the cluster of a clusterSelector is not the job's to end")
    return wrong


def _wrong(known: Any, value: Any, where: str) -> list[str]:
    if isinstance(known, dict):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no mapping"]
        wrong = [f"{where}.{name}: missing" for name in _REQUIRED.get(id(known), ()) if name not in value]
        for name, inner in value.items():
            if name not in known:
                wrong.append(f"{where}.{name}: unknown")
            else:
                wrong += _wrong(known[name], inner, f"{where}.{name}")
        return wrong
    if isinstance(known, list):
        return [text for i, one in enumerate(value) for text in _wrong(known[0], one, f"{where}[{i}]")]
    if isinstance(known, tuple) and isinstance(known[0], str):
        return [] if value in known else [f"{where}: {value!r} is none of {', '.join(known)}"]
    right = isinstance(value, known) and (known is bool or not isinstance(value, bool))
    names = {int: "integer", str: "text", bool: "boolean", dict: "mapping", list: "list"}
    return [] if right else [f"{where}: {value!r} is no {names.get(known, 'number')}"]
