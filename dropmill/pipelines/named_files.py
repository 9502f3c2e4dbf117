"""The files that steps of a pipeline name, looked at when the configuration is read and not hours later."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dropmill.pipelines.steps_config import PATHS, AugmentConfig, TrainConfig
from storage.errors import DropmillError
from transforms.augment.spec import load_augment_spec

if TYPE_CHECKING:
    from dropmill.pipelines.config import StepConfig


class WrongFile(NamedTuple):
    """Where it is named, below the pipeline, and what is wrong with it."""

    at: tuple[str | int, ...]
    why: str


def wrong_file(steps: Iterable[StepConfig], folder: Path) -> WrongFile | None:
    """The first file that is not there, or the first spec that cannot be used; paths are below ``folder``."""
    for place, step in enumerate(steps):
        part = getattr(step, step.name)
        for name in PATHS:
            said = getattr(part, name, None)
            if said is None:
                continue
            at = ("steps", place, step.name, name)
            path = folder / said.expanduser()
            if not path.is_file():
                return WrongFile(at, f"{path}: there is no such file; paths are relative to this file")
            if name == "spec":
                try:
                    _read_spec(part, path)
                except DropmillError as error:
                    return WrongFile(at, str(error))
    return None


def _read_spec(part: TrainConfig | AugmentConfig, path: Path) -> None:
    if isinstance(part, AugmentConfig):
        load_augment_spec(path)
    elif part.detector == "detectnet_v2":
        from training.detectnet_v2.spec import load_spec

        load_spec(path)
    else:
        part.model_copy(update={"spec": path}).zoo()
