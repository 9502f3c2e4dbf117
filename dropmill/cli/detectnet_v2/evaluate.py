"""``evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dropmill.cli.detectnet_v2 import options

if TYPE_CHECKING:
    from training.evaluation.average_precision import Mode


@click.command("evaluate")
@options.experiment_spec()
@options.model_option
@click.option("-f", "--framework", type=click.Choice(["tlt", "tensorrt"]),
              help="Accepted: the ending of the model says what it is.")  # fmt: skip
@click.option("--use_training_set", is_flag=True, help="Measure on the training samples.")
@click.option("--average_precision_mode", "mode",
              type=click.Choice(["SAMPLE", "INTEGRATE", "INTEGRATE_LEGACY"], case_sensitive=False),
              help="In place of the spec's. INTEGRATE_LEGACY is what TAO calls INTEGRATE: 1 - 1/n for a "
              "perfect detector of n objects.")  # fmt: skip
@click.option("-r", "--results_dir", type=options.PATH, help="For evaluation.json and the plots.")
@options.lake
@options.dataset
@click.option("--split", help="With --lake: measure on this split, such as test.")
@options.without_meaning
@options.as_json
def evaluate(
    spec_file: Path,
    model: Path,
    framework: str | None,  # noqa: ARG001
    mode: Mode | None,
    results_dir: Path | None,
    lake_url: str | None,
    dataset: str | None,
    split: str | None,
    *,
    use_training_set: bool,
    as_json: bool,
) -> None:
    """Average precision, COCO's measures, confusion and speed of a checkpoint, an ONNX file or an engine."""
    from storage.errors import TrainingError
    from training.detectnet_v2.dataset import check_classes
    from training.detectnet_v2.evaluate import evaluate_model, write_report
    from training.detectnet_v2.predictor import open_predictor
    from training.detectnet_v2.spec import load_spec

    options.quiet_logging()
    spec = load_spec(spec_file)
    head = spec.model_config.objective_set.bbox
    predictor = open_predictor(model, classes=spec.classes, scale=head.scale, offset=head.offset)
    if split is not None:
        known = options.lake_samples(lake_url, dataset)
        samples = [one for one in known if one.split == split]
    else:
        sources = options.samples_of(spec, spec_file, lake_url, dataset)
        known, samples = sources.train + sources.val, sources.train if use_training_set else sources.val
    if not samples:
        raise TrainingError(
            f"{spec_file}: no sample to evaluate on; set validation_fold or validation_data_source, or use "
            "--use_training_set"
        )
    # A class may be rare enough to be missing from what is measured; one that no sample has is a mistake.
    check_classes(spec, known, [])
    report = evaluate_model(predictor, samples, spec, mode=mode)
    files = write_report(report, results_dir) if results_dir is not None else []
    if as_json:
        click.echo(json.dumps(report.as_dict()))
        return
    for line in report.lines():
        click.echo(line)
    for file in files:
        click.echo(str(file))
