"""Options that several commands share, and the data that they name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dropmill.logs import PlainLines, set_up_logging
from storage.errors import ConfigError

if TYPE_CHECKING:
    from training.detectnet_v2.sources import Sources
    from training.detectnet_v2.spec import TrainSpec
    from training.samples import Sample

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
PATH = click.Path(path_type=Path)

as_json = click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
lake = click.option("--lake", "lake_url", help="Folder or URL of a lake, in place of the spec's data.")
dataset = click.option("--dataset", help="With --lake: the data set, as the tables are now.")


def experiment_spec(*, required: bool = True) -> Callable[[F], F]:
    """``-e``."""
    return click.option(
        "-e", "--experiment_spec", "--experiment_spec_file", "spec_file", type=FILE, required=required,
        help="The spec (protobuf text).",
    )  # fmt: skip


def without_meaning(function: F) -> F:
    """``-k`` and ``--gpu_index`` and ``--log_file``, that every command of TAO has."""
    function = click.option(
        "-k", "--key", expose_value=False, help="Accepted, and not needed: nothing is encrypted."
    )(function)
    function = click.option(
        "--gpu_index", expose_value=False, callback=_choose_gpus, help="Which GPUs are seen."
    )(function)
    return click.option(
        "--log_file",
        expose_value=False,
        type=PATH,
        callback=_log_to,
        is_eager=True,
        help="Log there as well.",
    )(function)


def model_option(function: F) -> F:
    """``-m``."""
    return click.option("-m", "-pm", "--model", "--model_filename", "model", type=FILE, required=True,
                        help="The model.")(function)  # fmt: skip


def samples_of(
    spec: TrainSpec,
    spec_file: Path | None,
    lake_url: str | None,
    dataset: str | None,
    shards: str | None = None,
) -> Sources:
    """Training and validation samples: of shards, of a lake, or of the spec's ``dataset_config``."""
    from training.detectnet_v2.sources import Sources, read_sources
    from training.samples import split_samples
    from training.shard_samples import read_shard_samples

    if shards is not None:
        return Sources(*split_samples(read_shard_samples(shards), seed=spec.random_seed))
    if lake_url is None and dataset is None:
        return read_sources(spec.dataset_config, str(spec_file))
    train, val = split_samples(lake_samples(lake_url, dataset), seed=spec.random_seed)
    return Sources(train, val)


def lake_samples(lake_url: str | None, dataset: str | None) -> list[Sample]:
    """The labelled images of a data set, as the tables are now."""
    from dropmill.lake_samples import read_samples
    from storage.lake import Lake

    if lake_url is None or dataset is None:
        raise click.UsageError("--lake and --dataset go together")
    found = Lake.open(lake_url)
    return list(read_samples(found, dataset, found.snapshot()).samples)


def quiet_logging(*, verbose: bool = False) -> None:
    """Warnings to the terminal (all with ``verbose``); a log file keeps everything."""
    kept = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    set_up_logging(as_json=False)
    root = logging.getLogger()
    for handler in root.handlers:
        handler.setLevel(logging.INFO if verbose else logging.WARNING)
    root.handlers += kept


def _choose_gpus(_: click.Context, __: click.Parameter, value: str | None) -> None:
    import os

    if value is None:
        return
    numbers = value.replace(",", " ").split()
    if not numbers or not all(number.isdigit() for number in numbers):
        raise click.BadParameter(f"{value!r}; expected numbers such as 0 or 0,1")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(numbers)


def _log_to(_: click.Context, __: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    try:
        handler = logging.FileHandler(value, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{value}: cannot be written: {error}") from None
    handler.setFormatter(PlainLines())
    logging.getLogger().addHandler(handler)
