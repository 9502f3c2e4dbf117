"""What a job's cluster has to train with."""

from __future__ import annotations

import os


def gpus_of_cluster() -> float:
    """GPUs of the cluster whose job this is; 0 where this is no job."""
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        return 0
    import ray

    from ingest.tasks import start_ray

    start_ray(address)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("GPU", 0)
