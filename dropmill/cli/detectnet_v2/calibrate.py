"""``calibration_tensorfile``."""

from __future__ import annotations

from pathlib import Path

import click

from dropmill.cli.detectnet_v2 import options


@click.command("calibration_tensorfile")
@options.experiment_spec()
@click.option("-o", "--output_filename", "out", type=options.PATH, required=True, help="The file (HDF5).")
@click.option("-m", "--max_batches", default=-1, show_default=True, help="Batches at most; -1 all.")
@click.option("--use_validation_set", is_flag=True, help="The validation samples.")
@options.lake
@options.dataset
@options.without_meaning
def calibration_tensorfile(
    spec_file: Path,
    out: Path,
    max_batches: int,
    lake_url: str | None,
    dataset: str | None,
    *,
    use_validation_set: bool,
) -> None:
    """Write pictures of the spec's data, as the network sees them, for the calibration of int8."""
    from training.detectnet_v2.calibration_data import spec_inputs
    from training.detectnet_v2.spec import load_spec
    from training.export.calibration import stacked, write_tensorfile

    options.quiet_logging()
    spec = load_spec(spec_file)
    sources = options.samples_of(spec, spec_file, lake_url, dataset)
    samples = sources.val if use_validation_set else sources.train
    size = spec.training_config.batch_size_per_gpu
    most = max_batches * size if max_batches > 0 else None
    count = write_tensorfile(out, stacked(spec_inputs(samples, spec, most=most), size))
    click.echo(f"{out}: {count} batches of {size}")
