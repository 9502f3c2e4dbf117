"""``inference``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dropmill.cli.detectnet_v2 import options
from storage.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from training.detectnet_v2.inference import Found
    from training.detectnet_v2.spec_jobs import InferenceSpec


@click.command("inference")
@options.experiment_spec()
@click.option(
    "-i",
    "--inference_input",
    "inputs",
    multiple=True,
    help="A picture, a folder, a glob, or a URL such as s3://bucket/prefix; may come again.",
)
@click.option(
    "-o", "--inference_output", "out", type=options.PATH, required=True, help="Folder of the results."
)
@click.option("-m", "--model", "model", type=options.FILE, help="A model in place of the spec's.")
@click.option("--annotations", type=options.FILE, help="A COCO file whose ids the results take.")
@options.lake
@options.dataset
@click.option("--write-lake", is_flag=True, help="With --lake: rows in the table predictions as well.")
@options.without_meaning
@options.as_json
def inference(
    spec_file: Path,
    inputs: tuple[str, ...],
    out: Path,
    model: Path | None,
    annotations: Path | None,
    lake_url: str | None,
    dataset: str | None,
    *,
    write_lake: bool,
    as_json: bool,
) -> None:
    """Find objects in pictures: drawn pictures, KITTI files, COCO results, rows of a lake."""
    from training.detectnet_v2.idle_keys import idle_inference_keys
    from training.detectnet_v2.inference import infer, list_images, write_results
    from training.detectnet_v2.predictor import gpu, open_predictor
    from training.detectnet_v2.spec import log_notices
    from training.detectnet_v2.spec_jobs import load_inference_spec

    if bool(inputs) == (lake_url is not None):
        raise click.UsageError("give either -i or --lake with --dataset")
    if write_lake and lake_url is None:
        raise click.UsageError("--write-lake needs --lake")
    options.quiet_logging()
    spec = load_inference_spec(spec_file)
    log_notices(str(spec_file), idle_inference_keys(spec))
    config = spec.inferencer_config
    predictor = open_predictor(
        model or _model_of(spec, spec_file), classes=config.target_classes, device=gpu(config.gpu_index)
    )
    images = list_images(inputs) if inputs else _of_lake(lake_url, dataset)
    kept: list[Found] = []
    unreadable: list[str] = []
    found = infer(predictor, images, config, spec.bbox_handler_config, unreadable=unreadable)
    report = write_results(
        _noted(found, kept) if write_lake else found,
        out,
        spec.bbox_handler_config,
        predictor.grid.classes,
        unreadable=unreadable,
        image_ids=_ids(annotations) if annotations is not None else None,
    )
    rows = 0
    if write_lake:
        from dropmill.found_in_lake import write_found

        assert lake_url is not None
        assert dataset is not None
        handlers = spec.bbox_handler_config
        shown = {name: handlers.handler(name).output_map or name for name in predictor.grid.classes}
        rows = write_found(lake_url, dataset, str(model or _model_of(spec, spec_file)), kept, shown)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "folder": str(out),
                    "images": report.images,
                    "detections": dict(report.detections),
                    "unreadable": list(report.unreadable),
                    "rows": rows,
                }
            )
        )
        return
    for reason in report.unreadable:
        click.echo(f"left out: {reason}", err=True)
    counts = ", ".join(f"{name} {count}" for name, count in report.detections.most_common())
    click.echo(
        f"{report.images} images, {report.detections.total()} detections ({counts or 'none'}) in {out}"
        + (f", {rows} rows in the table predictions of {lake_url}" if write_lake else "")
    )


def _model_of(spec: InferenceSpec, path: Path) -> Path:
    config = spec.inferencer_config
    if config.tlt_config is not None and config.tlt_config.model:
        return Path(config.tlt_config.model)
    if config.tensorrt_config is not None:
        if config.tensorrt_config.trt_engine and Path(config.tensorrt_config.trt_engine).is_file():
            return Path(config.tensorrt_config.trt_engine)
        if config.tensorrt_config.etlt_model:
            return Path(config.tensorrt_config.etlt_model)
        if config.tensorrt_config.trt_engine:
            return Path(config.tensorrt_config.trt_engine)
    raise ConfigError(
        f"{path}: inferencer_config names no model; expected tlt_config {{ model }} or tensorrt_config "
        "{ trt_engine }, or -m"
    )


def _of_lake(lake_url: str | None, dataset: str | None) -> list[tuple[str, str]]:
    from dropmill.found_in_lake import pictures_of

    if lake_url is None or dataset is None:
        raise click.UsageError("--lake and --dataset go together")
    return pictures_of(lake_url, dataset)


def _noted(found: Iterable[Found], kept: list[Found]) -> Iterator[Found]:
    for one in found:
        kept.append(one)
        yield one


def _ids(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(image["file_name"]): int(image["id"]) for image in content["images"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: {type(error).__name__}: {error}; expected COCO's images with file_name and id"
        ) from None
