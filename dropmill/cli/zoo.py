"""``dropmill model <detector>``: the zoo of standard detectors, all with the same four commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dropmill.cli.detectnet_v2 import options
from dropmill.cli.epochs import epochs_told
from dropmill.cli.zoo_data import Source, data_options, of_split, read_samples
from storage.errors import ConfigError

if TYPE_CHECKING:
    from training.samples import Sample
    from training.zoo.spec import ZooSpec

Fit = Callable[["ZooSpec", "list[Sample]", "list[Sample]", str], tuple[dict[str, Any], str]]

DETECTORS = {
    "faster_rcnn": "Faster R-CNN: two stages, a feature pyramid.",
    "mask_rcnn": "Mask R-CNN: Faster R-CNN that also finds masks.",
    "retinanet": "RetinaNet: one stage, focal loss.",
    "fcos": "FCOS: one stage, without anchors.",
    "ssdlite": "SSDlite: small and fast, for a square input.",
    "rtdetr": "RT-DETR: a transformer that needs no suppression.",
    "dfine": "D-FINE: RT-DETR whose boxes are distributions that every layer refines.",
    "detector": "The one that model.detector of the spec names, such as one of your own.",
}
_OF_THE_SPEC = "detector"


def zoo_commands() -> list[click.Group]:
    """A group for each detector."""
    return [_group(name, about) for name, about in DETECTORS.items()]


def _group(name: str, about: str) -> click.Group:
    group = click.Group(name, help=about)
    for command in (train, evaluate, inference, prune, export):
        group.add_command(command)
    return group


_imports = click.option(
    "--imports", multiple=True, type=options.FILE,
    help="A Python file whose parts the model was trained with; may come again.",
)  # fmt: skip


@click.command("train")
@click.option("-e", "--experiment_spec", "--experiment_spec_file", "spec_file", type=options.FILE,
              help="A spec (YAML); without one, defaults and key=value.")  # fmt: skip
@click.option("-r", "--results_dir", required=True, help="Folder or URL for checkpoints and metrics.")
@data_options
@click.option("--val-data", type=options.PATH, help="Validate on this folder (else on the split val).")
@click.option("--val-images", type=options.PATH, help="With --val-data: the folder of its images.")
@click.option("--gpus", "workers", default=1, show_default=True, type=click.IntRange(1),
              help="Processes, one a GPU.")  # fmt: skip
@click.option("--max-gpus", type=click.IntRange(1), help="Elastic: up to so many, as nodes come and go.")
@click.option("--max-failures", default=3, show_default=True, type=click.IntRange(0))
@click.option("--ray", "on_ray", is_flag=True, help="Train under Ray with one process too.")
@click.option("--ray-address", help="A Ray cluster (else one is started here).")
@options.as_json
@click.argument("overrides", nargs=-1)
@click.pass_context
def train(
    context: click.Context,
    spec_file: Path | None,
    results_dir: str,
    source: Source,
    val_data: Path | None,
    val_images: Path | None,
    workers: int,
    max_gpus: int | None,
    max_failures: int,
    ray_address: str | None,
    overrides: tuple[str, ...],
    *,
    on_ray: bool,
    as_json: bool,
) -> None:
    """Train on a data set of a lake, on shards, on a folder, or on a file in the middle format.

    On a lake the training is a row of the table runs, with its checkpoint in the table models.

    Keys of the spec may be given as key=value, such as train.epochs=24 model.backbone=resnet18. The same
    command goes on from the last checkpoint of the results folder.
    """
    from training.zoo.spec import load_spec, without_effect

    options.quiet_logging()
    spec = load_spec(spec_file, overrides, detector=_asked(context))
    if names := without_effect(spec):
        click.echo(f"without an effect here: {', '.join(names)}", err=True)
    if workers > 1 or max_gpus or on_ray or ray_address:
        count = (workers, max_gpus) if max_gpus else workers
        do: Fit = partial(_with_ray, workers=count, max_failures=max_failures, address=ray_address)
    else:
        do = _here
    others = [one for one in (source.shards, source.data, source.middle) if one is not None]
    with ExitStack() as stack:
        run = None
        if source.lake_url is not None and source.dataset is not None and not others:
            from dropmill.zoo_run import zoo_run

            run = stack.enter_context(zoo_run(source.lake_url, source.dataset, spec))
            samples = of_split(run.samples, source.split)
        else:
            samples = read_samples(source, spec.data.classes)
        samples, held = _sides(spec, samples, val_data, val_images)
        metrics, best = do(spec, samples, held, results_dir)
        if run is not None:
            run.keep(results_dir, metrics, train=samples, val=held)
            click.echo(f"run {run.step.name} of {source.lake_url}", err=True)
    if as_json:
        click.echo(json.dumps({"checkpoint": best, "metrics": metrics}))
        return
    click.echo(f"{_line(metrics)}: {best}")


def _sides(
    spec: ZooSpec, samples: list[Sample], val_data: Path | None, val_images: Path | None
) -> tuple[list[Sample], list[Sample]]:
    from training.samples import split_samples

    if val_data is not None:
        return samples, read_samples(Source(data=val_data, images=val_images), spec.data.classes)
    return split_samples(samples, val_share=spec.data.val_share, seed=spec.train.seed)


def _here(
    spec: ZooSpec, samples: list[Sample], held: list[Sample], results_dir: str
) -> tuple[dict[str, Any], str]:
    from training.zoo.loop import fit

    def tell(done: Any) -> None:
        click.echo(_line(done.metrics), err=True)

    result = fit(spec, samples, results_dir, val=held, on_epoch=tell)
    return dict(result.metrics), result.best or result.last


@click.command("evaluate")
@options.model_option
@_imports
@data_options
@click.option("--metric", "metrics", multiple=True,
              type=click.Choice(["bbox", "segm", "proposal", "proposal_fast"]),
              help="May come again; bbox, and segm for masks.")  # fmt: skip
@click.option("--backend", default="auto", show_default=True,
              type=click.Choice(["auto", "pycocotools", "faster_coco_eval"]))  # fmt: skip
@click.option("--voc", default="2010", show_default=True, type=click.Choice(["2007", "2010"]),
              help="VOC's average precision: at eleven recalls, or the area under the curve.")  # fmt: skip
@click.option(
    "-r", "--results_dir", type=options.PATH, help="For evaluation.json, and truth and detections as COCO."
)
@click.option("--show-dir", type=options.PATH, help="Draw every image there.")
@click.option("--show-score", default=0.3, show_default=True, help="Draw detections from this score on.")
@click.option("--write-lake", is_flag=True, help="With --lake: detections into the table predictions.")
@click.option("--batch-size", default=4, show_default=True, type=click.IntRange(1))
@options.as_json
@click.pass_context
def evaluate(
    context: click.Context,
    model: Path,
    imports: tuple[Path, ...],
    source: Source,
    metrics: tuple[str, ...],
    backend: Any,
    voc: str,
    results_dir: Path | None,
    show_dir: Path | None,
    show_score: float,
    batch_size: int,
    *,
    write_lake: bool,
    as_json: bool,
) -> None:
    """COCO's measures, VOC's average precision, by class and size; results as COCO JSON."""
    import torch

    from training.zoo.checkpoint import load_detector
    from training.zoo.detectors import gives_masks
    from training.zoo.evaluate import evaluate_detector, save_evaluation
    from training.zoo.results import save_drawn

    options.quiet_logging()
    if write_lake and source.lake_url is None:
        raise click.UsageError("--write-lake needs --lake")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, checkpoint = load_detector(str(model), device, imports=imports)
    _same_detector(context, checkpoint.spec, model)
    samples = read_samples(source, checkpoint.spec.data.classes)
    wanted = metrics or (("bbox", "segm") if gives_masks(checkpoint.spec.model) else ("bbox",))
    report = evaluate_detector(
        network, samples, checkpoint.classes, metrics=wanted, batch_size=batch_size, device=device,
        backend=backend, voc="SAMPLE" if voc == "2007" else "INTEGRATE",
    )  # fmt: skip
    files: list[str] = []
    if results_dir is not None:
        files += map(str, save_evaluation(results_dir, report))
    if show_dir is not None:
        count = save_drawn(show_dir, report.found, checkpoint.classes, score=show_score)
        files.append(f"{show_dir} ({count} pictures)")
    if write_lake:
        from dropmill.predictions import write_predictions

        assert source.lake_url is not None
        assert source.dataset is not None
        rows = write_predictions(
            source.lake_url, source.dataset, str(model), report.found, checkpoint.classes
        )
        files.append(f"{rows} rows in the table predictions of {source.lake_url}")
    if as_json:
        click.echo(json.dumps(report.as_dict()))
        return
    for line in [*report.lines(), *files]:
        click.echo(line)


@click.command("inference")
@options.model_option
@_imports
@click.option("-i", "--inference_input", "inputs", multiple=True, required=True,
              help="A picture, a folder, a glob, or a URL; may come again.")  # fmt: skip
@click.option("-o", "--inference_output", "out", type=options.PATH, required=True, help="Results folder.")
@click.option("--score", default=0.3, show_default=True, help="Draw detections from this score on.")
@click.option("--no-pictures", is_flag=True, help="Only results.json.")
@options.as_json
@click.pass_context
def inference(
    context: click.Context,
    model: Path,
    imports: tuple[Path, ...],
    inputs: tuple[str, ...],
    out: Path,
    score: float,
    *,
    no_pictures: bool,
    as_json: bool,
) -> None:
    """Find objects in pictures: COCO results and drawn pictures."""
    import torch

    from storage.errors import UnreadableError
    from training.detectnet_v2.inference import list_images
    from training.samples import read_image
    from training.zoo.checkpoint import load_detector
    from training.zoo.predict import find
    from training.zoo.results import coco_results, draw

    options.quiet_logging()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, checkpoint = load_detector(str(model), device, imports=imports)
    _same_detector(context, checkpoint.spec, model)
    pictures: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for uri, name in list_images(inputs):
        try:
            pixels = read_image(uri)
        except UnreadableError as error:
            unreadable.append(str(error))
            click.echo(f"left out: {error}", err=True)
            continue
        found = find(network, [pixels], device)[0]
        number = len(pictures) + 1
        pictures.append(
            {"id": number, "file_name": name, "width": pixels.shape[1], "height": pixels.shape[0]}
        )
        rows += coco_results([(number, found)])
        if not no_pictures:
            shown = out / "images" / f"{Path(name).with_suffix('').as_posix().replace('/', '_')}.png"
            draw(pixels, found.above(score), checkpoint.classes).save(shown)
    categories = [{"id": n, "name": name} for n, name in enumerate(checkpoint.classes, start=1)]
    listed = {"images": pictures, "categories": categories, "annotations": []}
    (out / "images.json").write_text(json.dumps(listed), encoding="utf-8")
    (out / "results.json").write_text(json.dumps(rows), encoding="utf-8")
    above = sum(row["score"] >= score for row in rows)
    if as_json:
        click.echo(
            json.dumps(
                {"folder": str(out), "images": len(pictures), "detections": above, "unreadable": unreadable}
            )
        )
        return
    click.echo(f"{len(pictures)} images, {above} detections from score {score:g} on, in {out}")


@click.command("prune")
@options.model_option
@click.pass_context
def prune(context: click.Context, model: Path) -> None:
    """Not for these detectors: says what to take instead."""
    raise ConfigError(
        f"{model}: a {_detector(context)} is not pruned: its network is built anew from its spec, which has "
        "no place for the widths of single layers. Train one with a smaller model.backbone or "
        "model.neck_channels; `dropmill model detectnet_v2 prune` takes filters out of a DetectNet_v2"
    )


@click.command("export")
@options.model_option
@_imports
@click.option("-o", "--output_file", "out", type=options.PATH, help="The ONNX file (beside the model).")
@click.option("--sample", type=options.FILE, required=True,
              help="A picture of the size that images will have; the file is checked on it.")  # fmt: skip
@click.option("--engine_file", type=options.PATH, help="Compile an engine as well.")
@options.as_json
@click.pass_context
def export(
    context: click.Context,
    model: Path,
    imports: tuple[Path, ...],
    out: Path | None,
    sample: Path,
    engine_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """A checkpoint as ONNX, resizing and suppression inside, compared with PyTorch on a picture."""
    from dropmill import __version__
    from training.samples import read_image
    from training.zoo.checkpoint import load_detector
    from training.zoo.export import export_detector

    options.quiet_logging()
    network, checkpoint = load_detector(str(model), imports=imports)
    _same_detector(context, checkpoint.spec, model)
    target = out or model.with_suffix(".onnx")
    report = export_detector(
        network, checkpoint, target, read_image(str(sample)), metadata={"dropmill": __version__}
    )
    engine = None
    if engine_file is not None:
        from storage.errors import ExportError
        from training.export.engine import build_engine

        try:
            engine = build_engine(target, engine_file, max_batch=1)
        except ExportError as error:
            raise ExportError(
                f"{error}\n{target} is whole, and runs in ONNX Runtime: it is the builder of engines that "
                "does not take it; leave --engine_file out"
            ) from error
    if as_json:
        said = {"onnx": str(report.path), "max_difference": dict(report.max_difference)}
        click.echo(json.dumps(said | {"detections": report.checked, "engine": engine and str(engine.path)}))
        return
    differences = ", ".join(f"{name} {value:.2g}" for name, value in report.max_difference.items())
    click.echo(f"{report.path}: differs by {differences} on {report.checked} detections")
    if not report.checked:
        click.echo("nothing to compare was found in the sample; take a picture with objects", err=True)
    if engine is not None:
        click.echo(f"{engine.path}: {engine.backend} {engine.version}")


def _detector(context: click.Context) -> str:
    return str(context.parent.info_name if context.parent is not None else "")


def _asked(context: click.Context) -> str:
    """The detector that the command is of; nothing where the spec names it."""
    name = _detector(context)
    return "" if name == _OF_THE_SPEC else name


def _same_detector(context: click.Context, spec: ZooSpec, model: Path) -> None:
    asked = _asked(context)
    if asked and spec.model.detector != asked:
        raise ConfigError(
            f"{model}: a {spec.model.detector}; take `model {spec.model.detector} {context.info_name}`"
        )


def _with_ray(
    spec: ZooSpec,
    samples: list[Sample],
    held: list[Sample],
    results_dir: str,
    *,
    workers: int | tuple[int, int],
    max_failures: int,
    address: str | None,
) -> tuple[dict[str, Any], str]:
    import ray

    from ingest.tasks import start_ray
    from training.zoo.loop import BEST, LAST, METRICS
    from training.zoo.ray_fit import fit_with_ray
    from training.zoo.work_dir import WorkDir

    folder = WorkDir(results_dir)
    start_ray(address or os.environ.get("RAY_ADDRESS"))
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        with epochs_told(partial(folder.read, METRICS), lambda one: click.echo(_line(one), err=True)):
            result = fit_with_ray(
                spec,
                samples,
                results_dir,
                name=spec.model.detector,
                val=held,
                num_workers=workers,
                use_gpu=resources.get("GPU", 0) > 0,
                max_failures=max_failures,
            )
    finally:
        ray.shutdown()
    return result.metrics, folder.path(BEST if folder.names(BEST) else LAST)


def _line(metrics: Any) -> str:
    shown = [f"epoch {metrics.get('epoch', 0):.0f}"]
    shown += [f"loss {metrics['loss']:.4g}"] if "loss" in metrics else []
    for key, name in (("bbox_mAP", "mAP"), ("bbox_mAP_50", "mAP50"), ("segm_mAP_50", "mask mAP50")):
        if key in metrics:
            shown.append(f"{name} {metrics[key]:.3f}")
    return ", ".join(shown)
