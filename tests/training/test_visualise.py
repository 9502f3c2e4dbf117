"""What TensorBoard and Weights & Biases are given to show, read back from the files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ConfigError
from tests.training.test_loop import small_spec, squares
from training.detectnet_v2.loop import fit
from training.detectnet_v2.spec import TrainSpec
from training.detectnet_v2.spec_training import CoverageShown, Visualizer, WandbConfig
from transforms.formats.tfrecord import records

pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")


def shown_spec(**asked: Any) -> TrainSpec:
    spec = small_spec(epochs=2)
    shown = Visualizer(enabled=True, num_images=2, scalar_logging_frequency=1, **asked)
    return replace(spec, training_config=replace(spec.training_config, visualizer=shown))


def events(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Tag to (step, value) of all that TensorBoard would show; of pictures (width, height)."""
    from tensorboardX.proto import event_pb2

    found: dict[str, list[tuple[int, Any]]] = {}
    for file in sorted((folder / "events").iterdir()):
        for record in records(file.read_bytes(), str(file)):
            event = event_pb2.Event.FromString(bytes(record))
            for value in event.summary.value:
                image = value.HasField("image")
                what = (value.image.width, value.image.height) if image else value.simple_value
                found.setdefault(value.tag, []).append((event.step, what))
    return found


def test_scalars_come_as_often_as_asked_and_pictures_of_each_class_after_each_epoch(tmp_path: Path) -> None:
    train, val = squares(tmp_path / "images", 8), squares(tmp_path / "images", 2, seed=1)
    spec = shown_spec(target_class_config={"red": CoverageShown(coverage_threshold=0.2)})
    result = fit(spec, train, val, tmp_path / "run")
    seen = events(tmp_path / "run")
    assert [step for step, _ in seen["step/cost"]] == [0, 1, 2, 3]
    assert [step for step, _ in seen["cost"]] == [1, 2]
    assert seen["cost"][-1][1] == pytest.approx(result.metrics["cost"])
    for name in ("red", "green"):
        # TensorBoard's writer lays the two pictures side by side.
        assert [(step, size) for step, size in seen[f"coverage/{name}"]] == [(1, (128, 64)), (2, (128, 64))]


@pytest.mark.slow
def test_weights_and_biases_gets_metrics_pictures_and_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    spec = shown_spec(wandb_config=WandbConfig(project="squares", name="first", tags=("small",)))
    result = fit(
        spec, squares(tmp_path / "images", 4), squares(tmp_path / "images", 2, seed=1), tmp_path / "run"
    )
    (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    pictures = list((run / "files" / "media").rglob("*.png"))
    assert len(pictures) == 2 * 2 * 2  # epochs, classes, images
    (said,) = run.glob("*.wandb")
    # A log of records whose values are JSON.
    logged = said.read_bytes()
    for words in ("squares", "max_learning_rate", "data_wait_share", json.dumps(result.metrics["cost"])):
        assert words.encode() in logged


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    spec = shown_spec(wandb_config=WandbConfig())
    with pytest.raises(ConfigError, match="pip install wandb"):
        fit(spec, squares(tmp_path / "images", 4), [], tmp_path / "run")
