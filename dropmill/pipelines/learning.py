"""The steps that train: from the data, again after pruning, and knowing that it will be int8."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dropmill.follow import Follow
from dropmill.lake_samples import LakeSamples
from dropmill.pipelines.gpus import gpus_of_cluster
from dropmill.pipelines.kept_folder import kept
from dropmill.pipelines.step_data import Data, ids_of, read_data
from dropmill.pipelines.step_run import StepRun
from dropmill.pipelines.steps_config import QuantiseConfig, RetrainConfig, TrainConfig
from storage.errors import ConfigError
from training.detectnet_v2.checkpoint import load_checkpoint
from training.detectnet_v2.dataset import check_classes
from training.detectnet_v2.spec import (
    STRIDE,
    Regularizer,
    RegularizerType,
    TrainSpec,
    default_spec,
    load_spec,
    spec_text,
)
from training.samples import Sample

_LONGEST_SIDE = 960  # pixels of the network's input that is chosen for sets of larger images


def train(run: StepRun) -> None:
    """Train on the pinned snapshot, or on the shards that were made of it."""
    config = TrainConfig.model_validate(run.parameters)
    if config.detector != "detectnet_v2":
        from dropmill.pipelines import zoo_steps

        zoo_steps.train(run, config)
        return
    data = read_data(run, config.seed)
    spec = _spec(config, data.read, run.dataset)
    if config.spec is not None:
        check_classes(spec, data.train, data.val)
    _learn(run, spec, data, workers=config.workers)


def retrain(run: StepRun) -> None:
    """Train a checkpoint again, with its own spec and without regularisation, which would pull at what is
    left of it.
    """
    config = RetrainConfig.model_validate(run.parameters)
    spec = _again(run, config)
    training = replace(spec.training_config, regularizer=Regularizer(type=RegularizerType.NO_REG, weight=0.0))
    _learn(run, replace(spec, training_config=training), read_data(run, config.seed), workers=config.workers)


def train_for_int8(run: StepRun, config: QuantiseConfig) -> None:
    """Train a checkpoint again with the rounding of int8 in it."""
    spec = _again(run, config)
    training = replace(spec.training_config, enable_qat=True)
    _learn(run, replace(spec, training_config=training), read_data(run, config.seed), workers=config.workers)


def input_size(samples: Sequence[Sample]) -> tuple[int, int]:
    """Width and height of the network's input: the median image, at most 960 pixels long, multiples of 16."""
    width = statistics.median(sample.width for sample in samples)
    height = statistics.median(sample.height for sample in samples)
    shrink = min(1.0, _LONGEST_SIDE / max(width, height))
    sides = [max(STRIDE, round(side * shrink / STRIDE) * STRIDE) for side in (width, height)]
    return sides[0], sides[1]


def about(spec: TrainSpec) -> dict[str, Any]:
    """What the table ``models`` says of a network."""
    return {
        "architecture": f"detectnet_v2/resnet{spec.model_config.num_layers}",
        "categories": list(spec.classes),
    }


def _spec(config: TrainConfig, read: LakeSamples, dataset: str) -> TrainSpec:
    """The spec of the run: its own file, or one made from the data; then what the rule says on top."""
    if config.spec is not None:
        spec = load_spec(config.spec)
    else:
        classes = read.categories()
        if not classes:
            raise ConfigError(f"data set {dataset!r} has no box to learn from")
        width, height = input_size(read.samples)
        spec = default_spec(
            classes,
            config.input_width or width,
            config.input_height or height,
            epochs=config.epochs or 80,
            batch_size=config.batch_size or 16,
            seed=config.seed,
            **config.schedule(),
        )
    if config.pretrained is not None:
        network = replace(spec.model_config, pretrained_model_file=str(config.pretrained))
        spec = replace(spec, model_config=network)
    return spec


def _again(run: StepRun, config: RetrainConfig | QuantiseConfig) -> TrainSpec:
    """The spec of the checkpoint that is trained again; what the step says stands above it."""
    path = run.needed("model").file("checkpoint")
    spec = load_checkpoint(path).spec
    training = spec.training_config
    if config.epochs is not None:
        training = replace(training, num_epochs=config.epochs)
    if config.batch_size is not None:
        training = replace(training, batch_size_per_gpu=config.batch_size)
    if config.max_learning_rate is not None:
        if training.learning_rate.early_stopping_annealing_schedule is not None:
            raise ConfigError(f"{path}: its spec stops early by a schedule; leave max_learning_rate out")
        schedule = training.learning_rate.soft_start_annealing_schedule
        lowest = min(schedule.min_learning_rate, config.max_learning_rate)
        annealed = replace(schedule, max_learning_rate=config.max_learning_rate, min_learning_rate=lowest)
        rate = replace(training.learning_rate, soft_start_annealing_schedule=annealed)
        training = replace(training, learning_rate=rate)
    evaluation = spec.evaluation_config
    if config.validation_period is not None:
        evaluation = replace(evaluation, validation_period_during_training=config.validation_period)
    return replace(
        spec,
        random_seed=config.seed,
        training_config=training,
        evaluation_config=evaluation,
        model_config=replace(spec.model_config, pretrained_model_file=str(path), load_graph=True),
    )


def _learn(run: StepRun, spec: TrainSpec, data: Data, *, workers: int) -> None:
    folder = run.folder
    (folder / "spec.txt").write_text(spec_text(spec), encoding="utf-8")
    results = folder / "results"
    with (
        run.stage("train"),
        kept(run.lake.artifacts, f"runs/{run.name}/results", results),
        Follow(results / "metrics.jsonl"),
    ):
        metrics, checkpoint = _fit(spec, data, folder, workers=workers)
    run.metrics |= {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not name.startswith("cost_") and name != "seconds"
    }
    run.metrics["mAP50"] = run.metrics.pop("best_map50", run.metrics.get("val_map50", 0.0))
    run.saw({"train": ids_of(data.train), "val": ids_of(data.val)})
    run.keep("checkpoint", checkpoint, about(spec))


def _fit(spec: TrainSpec, data: Data, folder: Path, *, workers: int) -> tuple[dict[str, Any], Path]:
    """Train, in workers of Ray Train or, where one without a GPU is asked for, in this process."""
    gpus = gpus_of_cluster()
    if workers == 1 and not gpus:
        import torch

        from training.detectnet_v2.loop import fit

        if not torch.cuda.is_available():
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        done = fit(spec, data.train, data.val, folder / "results")
        metrics = dict(done.metrics) | {"best_map50": done.best_map50, "epochs": done.epochs}
        return metrics, done.best_path or done.model_path
    from ingest.tasks import start_ray
    from training.detectnet_v2.ray_fit import fit_with_ray

    start_ray(os.environ.get("RAY_ADDRESS"))
    trained = fit_with_ray(
        spec,
        data.train,
        data.val,
        folder.parent,
        name=folder.name,
        num_workers=workers,
        use_gpu=gpus > 0,
        threads_per_worker=len(os.sched_getaffinity(0)),
    )
    best = trained.checkpoint_dir / "best.pt"
    return dict(trained.metrics), best if best.is_file() else trained.checkpoint_dir / "model.pt"
