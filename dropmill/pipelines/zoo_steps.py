"""Steps of pipelines for the detectors of the zoo: train, measure, export."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dropmill import __version__
from dropmill.pipelines.gpus import gpus_of_cluster
from dropmill.pipelines.step_data import Data, ids_of, read_data
from dropmill.pipelines.step_run import StepRun
from dropmill.pipelines.steps_config import ExportConfig, TrainConfig
from training.evaluation import Evaluation
from training.samples import Sample, load_image
from training.zoo.checkpoint import Checkpoint, load_detector, read_checkpoint
from training.zoo.evaluate import evaluate_detector
from training.zoo.export import export_detector
from training.zoo.loop import BEST, LAST, EpochReport, fit
from training.zoo.spec import ZooSpec
from training.zoo.work_dir import WorkDir

log = logging.getLogger(__name__)

_METRICS = {"loss": "loss", "bbox_mAP": "mAP", "bbox_mAP_50": "mAP50", "segm_mAP_50": "mask_mAP50"}


def train(run: StepRun, config: TrainConfig) -> None:
    """Train on the pinned snapshot, or on the shards that were made of it."""
    spec = config.zoo()
    data = read_data(run, config.seed)
    # A store keeps what has been learnt for whichever node goes on with it.
    files = run.lake.artifacts
    place = str(run.folder / "results") if files.is_directory else files.uri(f"runs/{run.name}/results")
    with run.stage("train"):
        metrics = _fit(spec, data, place, run, workers=config.workers)
    folder = WorkDir(place)
    name = BEST if folder.read(BEST) is not None else LAST
    path = run.folder / name
    path.write_bytes(folder.read(name) or b"")
    checkpoint = read_checkpoint(str(path))
    run.metrics |= {
        ours: float(metrics[theirs]) for theirs, ours in _METRICS.items() if metrics.get(theirs) is not None
    }
    best = checkpoint.metrics.get("bbox_mAP_50")
    if best is not None:
        run.metrics["mAP50"] = float(best)
    run.saw({"train": ids_of(data.train), "val": ids_of(data.val)})
    run.keep("checkpoint", path, _about(checkpoint))


def seed_of(path: Path) -> int:
    """The seed of a checkpoint's training, which its split was drawn with."""
    return read_checkpoint(str(path)).spec.train.seed


def measure(path: Path, samples: Sequence[Sample]) -> Evaluation:
    """Average precision of a checkpoint at IoU 0.5."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, checkpoint = load_detector(str(path), device, imports=None)
    return evaluate_detector(network, samples, checkpoint.classes, device=device).voc


def export(run: StepRun, path: Path, config: ExportConfig) -> tuple[Path, dict[str, Any]]:
    """Write and keep the ONNX file and its labels; the file, and what ``models`` says of it.

    The graph has one size of images: that of most of the data set's. Raises ExportError where what it finds
    differs from what PyTorch does.
    """
    network, checkpoint = load_detector(str(path), imports=None)
    data = read_data(run, checkpoint.spec.train.seed)
    held = [*data.test, *data.val]
    ((size, _),) = Counter((one.width, one.height) for one in held or data.train).most_common(1)
    # One with objects shows most of what the two could differ by.
    shown = max(
        (one for one in held or data.train if (one.width, one.height) == size),
        key=lambda one: (len(one.categories), one.id),
    )
    target = run.folder / "model.onnx"
    metadata = {"dropmill": __version__, "run": run.name, "dataset": run.dataset}
    with run.stage("export"):
        report = export_detector(network, checkpoint, target, load_image(shown), metadata=metadata)
    for name, difference in report.max_difference.items():
        run.metrics[f"difference/{name}"] = difference
    run.metrics["compared_detections"] = report.checked
    labels = run.folder / "labels.txt"
    labels.write_text("".join(f"{name}\n" for name in checkpoint.classes), encoding="utf-8")
    about = _about(checkpoint)
    run.keep("onnx", target, about, {"precision": config.precision, "image": list(size)})
    run.keep("labels", labels, about)
    return target, about


def _fit(spec: ZooSpec, data: Data, place: str, run: StepRun, *, workers: int) -> dict[str, Any]:
    """Train in workers of Ray Train or, where one without a GPU is asked for, in this process."""
    gpus = gpus_of_cluster()
    if workers == 1 and not gpus:
        import torch

        if not torch.cuda.is_available():
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        return dict(fit(spec, data.train, place, val=data.val, on_epoch=_tell).metrics)
    from training.zoo.ray_fit import fit_with_ray

    result = fit_with_ray(
        spec,
        data.train,
        place,
        name=run.name,
        val=data.val,
        num_workers=workers,
        use_gpu=gpus > 0,
        ray_dir=run.folder / "ray",
    )
    return dict(result.metrics)


def _tell(done: EpochReport) -> None:
    log.info(" ".join(f"{name}={value:.4g}" for name, value in done.metrics.items()))


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    model = checkpoint.spec.model
    return {"architecture": f"{model.detector}/{model.backbone}", "categories": list(checkpoint.classes)}
