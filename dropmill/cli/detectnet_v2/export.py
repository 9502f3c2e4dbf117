"""``export``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dropmill.cli.detectnet_v2 import options
from storage.errors import ConfigError

if TYPE_CHECKING:
    from training.detectnet_v2.model import DetectNetV2
    from training.evaluation.onnx_runner import Images


@click.command("export")
@options.model_option
@click.option(
    "-o", "--output_file", "out", type=options.PATH, help="The ONNX file (default: beside the model)."
)
@options.experiment_spec(required=False)
@click.option("--data_type", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True)
@click.option("--cal_data_file", type=options.PATH, help="A tensorfile to calibrate with, or to write.")
@click.option("--cal_image_dir", help="A folder or URL of pictures to calibrate with.")
@click.option("--cal_cache_file", type=options.PATH, help="Write the ranges for TensorRT up to 10.")
@click.option("--batches", default=10, show_default=True, type=click.IntRange(1), help="Of calibration.")
@click.option("--batch_size", default=8, show_default=True, type=click.IntRange(1), help="Of calibration.")
@click.option(
    "--max_batch_size", default=16, show_default=True, type=click.IntRange(1), help="Of the engine."
)
@click.option(
    "--max_workspace_size", default=1 << 30, show_default=True, type=click.IntRange(1), help="Bytes."
)
@click.option("--engine_file", type=options.PATH, help="Compile an engine as well.")
@click.option(
    "--compute_capability",
    "capabilities",
    multiple=True,
    default=("8.6", "8.9"),
    show_default=True,
    help="Of the GPUs that an engine of TensorRT for RTX is for; may come again.",
)
@click.option("-s", "--strict_type_constraints", is_flag=True, expose_value=False,
              help="Accepted: the graph says every type.")  # fmt: skip
@click.option("--force_ptq", is_flag=True, help="Calibrate a network of quantisation-aware training anew.")
@click.option("--gen_ds_config", is_flag=True, help="Write nvinfer_config.txt for DeepStream.")
@click.option("--triton", type=options.PATH, help="Write a Triton model repository there.")
@click.option("--verbose", is_flag=True, help="Say more.")
@options.without_meaning
@options.as_json
def export(
    model: Path,
    out: Path | None,
    spec_file: Path | None,
    data_type: str,
    cal_data_file: Path | None,
    cal_image_dir: str | None,
    cal_cache_file: Path | None,
    batches: int,
    batch_size: int,
    max_batch_size: int,
    max_workspace_size: int,
    engine_file: Path | None,
    capabilities: tuple[str, ...],
    triton: Path | None,
    *,
    force_ptq: bool,
    gen_ds_config: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """A checkpoint as ONNX in fp32, fp16 or int8, with labels.txt, and what deploys it."""
    from dropmill import __version__
    from training.export.detector import ExportOptions, export_detector

    options.quiet_logging(verbose=verbose)
    wanted = ExportOptions(
        precision=data_type,  # type: ignore[arg-type]
        force_ptq=force_ptq,
        calibration_cache=cal_cache_file,
        engine=engine_file,
        max_batch=max_batch_size,
        workspace_bytes=max_workspace_size,
        compute_capabilities=capabilities,
        nvinfer=gen_ds_config,
        triton=triton,
        batch_size=batch_size,
        metadata={"dropmill": __version__, "model": model.name},
    )
    source = _calibration(spec_file, cal_data_file, cal_image_dir, batches, batch_size)
    report = export_detector(model, out or model.with_suffix(".onnx"), wanted, calibration=source)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
        return
    for name, path in report.files.items():
        size = f", {path.stat().st_size / 1e6:.1f} MB" if path.is_file() else ""
        click.echo(f"{name}: {path}{size}")
    if report.quantised_by:
        click.echo(f"ranges from {report.quantised_by}")
    for note in report.notes:
        click.echo(note)


def _calibration(
    spec_file: Path | None, tensorfile: Path | None, folder: str | None, batches: int, batch_size: int
) -> Callable[[DetectNetV2], Iterable[Images]] | None:
    """Where pictures come from: the spec's data, then a tensorfile, then a folder."""
    from training.detectnet_v2.calibration_data import folder_inputs, spec_inputs
    from training.detectnet_v2.inference import list_images
    from training.detectnet_v2.spec import load_spec
    from training.export.calibration import read_tensorfile, stacked, write_tensorfile

    count = batches * batch_size
    spec = load_spec(spec_file) if spec_file is not None else None
    if spec is not None and spec.dataset_config.data_sources:

        def of_spec(_: DetectNetV2) -> Iterator[Images]:
            samples = options.samples_of(spec, spec_file, None, None).train
            return _single(stacked(spec_inputs(samples, spec, most=count), batch_size))

        return of_spec
    if tensorfile is not None and tensorfile.is_file():
        return lambda _: read_tensorfile(tensorfile, batches=batches)
    if folder is not None:

        def of_folder(model: DetectNetV2) -> Iterator[Images]:
            inputs = folder_inputs(list_images([folder]), model, least=count, most=count)
            if tensorfile is None:
                return _single(stacked(inputs, batch_size))
            write_tensorfile(tensorfile, stacked(inputs, batch_size))
            return read_tensorfile(tensorfile)

        return of_folder
    if tensorfile is not None:
        raise ConfigError(f"{tensorfile}: no such file, and no --cal_image_dir to make it from")
    return None


def _single(batches: Iterable[Images]) -> Iterator[Images]:
    for batch in batches:
        yield from batch
