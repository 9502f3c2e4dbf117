"""``dropmill model mal``: train, evaluate and apply the masks' network, with TAO's specs."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dropmill.cli import spec_options
from dropmill.cli.epochs import epochs_told
from dropmill.extras import require
from dropmill.logs import set_up_logging
from storage.errors import ConfigError

if TYPE_CHECKING:
    from training.mal.coco_file import Passed
    from training.mal.loop import EpochReport
    from training.mal.spec import MalSpec


@click.group("mal")
def mal() -> None:
    """MAL: masks learnt from boxes alone (Mask Auto-Labeler)."""


@mal.command("train")
@spec_options.spec_file
@spec_options.as_json
@spec_options.overrides
def train(spec_file: Path | None, *, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Learn masks from the boxes of a COCO file; goes on where an earlier call ended."""
    spec = _load(spec_file, overrides)
    from training.mal.coco_file import read_coco

    data = spec.dataset
    found = read_coco(_set(data.train_ann_path, "dataset.train_ann_path"), data.train_img_dir)
    tell_passed(found.passed)
    val = None
    if data.val_ann_path and data.load_mask:
        val = read_coco(data.val_ann_path, data.val_img_dir)
    folder = Path(spec.results_dir)
    samples = [image.sample for image in found.images]
    workers = _choose_gpus(spec)
    if workers > 1:
        metrics = _train_with_ray(spec, samples, folder, val, workers)
    else:
        from training.mal.loop import fit

        # Readers are for a GPU not to wait: on a CPU they would take from the training what they give.
        readers = data.num_workers_per_gpu if device() == "cuda" else 0
        done = fit(spec, samples, folder, val=val, on_epoch=_tell_epoch, workers=readers)
        metrics = dict(done.metrics)
    _end(metrics | {"checkpoint": str(folder / "mal_model_latest.pth")}, as_json=as_json)


@mal.command("evaluate")
@spec_options.spec_file
@spec_options.as_json
@spec_options.overrides
def evaluate_command(spec_file: Path | None, *, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Compare the masks of a checkpoint with the true ones of a COCO file."""
    spec = _load(spec_file, overrides)
    from training.mal.coco_file import read_coco
    from training.mal.evaluate import evaluate, mask_metrics
    from training.mal.labeler import MalLabeler

    wanted = spec.evaluate
    if not spec.dataset.load_mask:
        raise ConfigError("dataset.load_mask is False; expected True: without true masks nothing is measured")
    labeler = MalLabeler.of_checkpoint(
        _set(wanted.checkpoint or spec.checkpoint, "evaluate.checkpoint"),
        batch_size=wanted.batch_size,
        teacher=wanted.use_teacher_test,
        mixed=wanted.use_mixed_model_test,
        flip=wanted.use_flip_test,
        device=device(),
        given=spec.train,
    )
    tell_passed_over(labeler.spec, spec)
    found = read_coco(_set(spec.dataset.val_ann_path, "dataset.val_ann_path"), spec.dataset.val_img_dir)
    tell_passed(found.passed)
    with click.progressbar(length=len(found.images), label="images", file=sys.stderr) as bar:
        overlaps = evaluate(labeler, found, progress=bar.update)
    if not overlaps:
        raise ConfigError(f"{found.path}: no annotation can have a mask; nothing was measured")
    metrics: dict[str, Any] = {**mask_metrics(overlaps), "objects": len(overlaps)}
    folder = Path(wanted.results_dir or spec.results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mal_metrics.json").write_text(json.dumps(metrics) + "\n", encoding="utf-8")
    _end(metrics, as_json=as_json)


@mal.command("inference")
@spec_options.spec_file
@spec_options.as_json
@spec_options.overrides
def inference(spec_file: Path | None, *, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Write a COCO file again, with a mask for each of its boxes."""
    spec = _load(spec_file, overrides)
    from training.mal.labeler import MalLabeler

    wanted = spec.inference
    labeler = MalLabeler.of_checkpoint(
        _set(wanted.checkpoint or spec.checkpoint, "inference.checkpoint"),
        batch_size=wanted.batch_size,
        device=device(),
        given=spec.train,
    )
    tell_passed_over(labeler.spec, spec)
    out = Path(wanted.results_dir or spec.results_dir) / wanted.label_dump_path
    annotate_file(
        labeler, _set(wanted.ann_path, "inference.ann_path"), wanted.img_dir, out,
        load_mask=wanted.load_mask, as_json=as_json,
    )  # fmt: skip


def annotate_file(
    labeler: Any, ann_path: str, image_dir: str, out: Path, *, load_mask: bool, as_json: bool
) -> None:
    """Label a COCO file, with progress on a terminal, and say what came out."""
    from training.mal.infer import annotate

    with click.progressbar(length=1, label="images", file=sys.stderr) as bar:

        def progress(done: int, of: int) -> None:
            bar.length = of
            bar.update(done - bar.pos)

        found = annotate(labeler, ann_path, image_dir, out, load_mask=load_mask, progress=progress)
    tell_passed(found.passed)
    _end(
        {
            **found.metrics,
            "masks": found.masks,
            "without_mask": len(found.passed),
            "model": labeler.name,
            "model_version": labeler.version,
            "file": str(found.path),
        },
        as_json=as_json,
    )


def tell_passed(passed: tuple[Passed, ...]) -> None:
    """Say which annotations have no mask, and why; the first ten by name."""
    for one in passed[:10]:
        click.echo(f"annotation {one.id} of {one.image}: no mask: {one.why}", err=True)
    if len(passed) > 10:
        click.echo(f"and {len(passed) - 10} more annotations without a mask", err=True)


def tell_passed_over(trained: MalSpec, given: MalSpec) -> None:
    """Say which keys of a spec the checkpoint's own take the place of."""
    from training.mal.spec import passed_over

    if names := passed_over(trained, given):
        click.echo(f"the checkpoint's own are taken in place of: {', '.join(names)}", err=True)


def device() -> str:
    """The GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(spec_file: Path | None, overrides: tuple[str, ...]) -> MalSpec:
    require("train")
    set_up_logging(as_json=not sys.stderr.isatty(), level=logging.INFO)
    from training.mal.spec import load_spec, meaningless

    spec = load_spec(spec_file, overrides)
    if names := meaningless(spec):
        click.echo(f"without a meaning here, and passed over: {', '.join(names)}", err=True)
    return spec


def _set(value: str, key: str) -> str:
    if not value:
        raise ConfigError(f"{key} is not set; give it in the spec, or as {key}=…")
    return value


def _choose_gpus(spec: MalSpec) -> int:
    """How many processes a spec asks for. They see the GPUs that it names, of those that are seen now."""
    ids = next((each for each in (spec.train.gpu_ids, spec.gpu_ids) if each != (0,)), (0,))
    if ids != (0,) and "RAY_ADDRESS" not in os.environ:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = given.split(",") if given else None
        if min(ids) < 0 or (seen and max(ids) >= len(seen)):
            shown = f"; CUDA_VISIBLE_DEVICES shows {given}" if seen else "; expected numbers from 0"
            raise ConfigError(f"gpu_ids: found {list(ids)}{shown}", key="gpu_ids")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seen[one] if seen else str(one) for one in ids)
    return max(spec.num_gpus, spec.train.num_gpus, len(ids))


def _train_with_ray(
    spec: MalSpec, samples: list[Any], folder: Path, val: Any, workers: int
) -> dict[str, Any]:
    import ray
    import torch

    from ingest.tasks import start_ray
    from training.mal.ray_fit import fit_with_ray

    here = torch.cuda.device_count()
    if 0 < here < workers and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(f"num_gpus: found {workers}; this machine shows {here} (see gpu_ids)")
    start_ray(os.environ.get("RAY_ADDRESS"), num_cpus=max(workers + 1, os.cpu_count() or 1))
    try:
        lines = folder / "metrics.jsonl"
        with epochs_told(lambda: lines.read_bytes() if lines.is_file() else None, _tell_line):
            result = fit_with_ray(
                spec, samples, folder, name="mal", val=val, num_workers=workers,
                use_gpu=here > 0,
            )  # fmt: skip
        return result.metrics
    finally:
        ray.shutdown()


def _tell_epoch(done: EpochReport) -> None:
    _tell_line(dict(done.metrics) | {"epoch": done.epoch})


def _tell_line(metrics: dict[str, Any]) -> None:
    said = " ".join(f"{name}={value:.4g}" for name, value in metrics.items() if name != "epoch")
    click.echo(f"epoch {metrics['epoch']:.0f}: {said}", err=True)


def _end(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
