"""The steps before training: masks for boxes, and balanced, augmented shards of the training images."""

from __future__ import annotations

import os

from dropmill.augmented import augment_lake
from dropmill.lake_samples import read_samples
from dropmill.masks_config import MasksConfig
from dropmill.masks_stage import mask_lake
from dropmill.pipelines.step_data import ids_of
from dropmill.pipelines.step_run import StepRun
from dropmill.pipelines.steps_config import AugmentConfig
from storage.lake import Snapshot
from training.samples import split_samples
from transforms.augment.spec import AugmentSpec, load_augment_spec

_SEED = 42  # of the split where the data set has none: the same as in training


def masks(run: StepRun) -> None:
    """Give every box of the pinned snapshot a mask."""
    import ray

    from ingest.tasks import start_ray

    config = MasksConfig.model_validate(run.parameters)
    start_ray(os.environ.get("RAY_ADDRESS"))
    gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    with run.stage("masks"):
        done = mask_lake(run.lake, run.dataset, config, run=run.name, use_gpu=gpus > 0, versions=run.snapshot)
    run.metrics |= {"images": done.images, "masks": done.masks, "without_mask": done.without_mask}
    run.outputs["masks"] = str(run.lake.table("masks").version())


def augment(run: StepRun) -> None:
    """Write shards of the training images, and of nothing that is measured on later."""
    config = AugmentConfig.model_validate(run.parameters)
    versions = snapshot_of(run)
    train, _ = split_samples(read_samples(run.lake, run.dataset, versions).samples, seed=_SEED)
    with run.stage("augment"):
        done = augment_lake(
            run.lake,
            run.dataset,
            _spec(config),
            snapshot=versions,
            only=frozenset(sample.id for sample in train),
            run=run.name,
        )
    run.outputs["shards"] = done.uri
    run.saw({"shards": ids_of(train)})
    run.metrics |= {"samples": done.samples, "shards": done.shards, "failed": len(done.failed)}
    for when, counts in (("before", done.before), ("after", done.after)):
        run.metrics |= {f"boxes_{when}/{name}": count for name, count in counts.items()}
        if counts:
            run.metrics[f"imbalance_{when}"] = max(counts.values()) / max(1, min(counts.values()))


def snapshot_of(run: StepRun) -> Snapshot:
    """The pinned versions, with that of ``masks`` after the step of the execution that made some."""
    made = run.input("masks")
    versions = run.snapshot
    if made is not None:
        versions["masks"] = int(made.outputs_said["masks"])
    return versions


def _spec(config: AugmentConfig) -> AugmentSpec:
    if config.spec is not None:
        return load_augment_spec(config.spec)
    if config.options is not None:
        return config.options
    return AugmentSpec.model_validate(
        {
            "balance": {"mode": "full"},
            "spatial_aug": {"flip": {"flip_horizontal": 0.5}},
            "shards": {"format": "webdataset"},
        }
    )
