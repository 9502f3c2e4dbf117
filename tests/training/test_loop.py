from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image

from storage.errors import ConfigError, TrainingError
from training.detectnet_v2.checkpoint import load_checkpoint, load_model, save_checkpoint
from training.detectnet_v2.loop import EpochReport, FitResult, fit
from training.detectnet_v2.model import build_model
from training.detectnet_v2.prune import prune
from training.detectnet_v2.spec import Adam, Optimizer, Regularizer, TrainSpec, default_spec
from training.place import Place
from training.samples import Sample

SIZE = 64


def squares(folder: Path, count: int, *, seed: int = 0) -> list[Sample]:
    """Pictures of one red or green square each."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        pixels = random.integers(0, 60, (SIZE, SIZE, 3), np.uint8)
        side = int(random.integers(20, 36))
        x, y = random.integers(0, SIZE - side, 2).tolist()
        channel = number % 2
        pixels[y : y + side, x : x + side, channel] = 220
        path = folder / f"{seed}-{number}.png"
        Image.fromarray(pixels).save(path)
        samples.append(
            Sample(
                id=path.stem, uri=str(path), width=SIZE, height=SIZE, split=None,
                boxes=np.array([[x, y, x + side, y + side]], np.float64),
                categories=(("red", "green")[channel],), ignore=np.zeros(1, bool),
            )
        )  # fmt: skip
    return samples


def small_spec(epochs: int = 2, **training: Any) -> TrainSpec:
    spec = default_spec(
        ["red", "green"],
        SIZE,
        SIZE,
        epochs=epochs,
        batch_size=4,
        num_layers=10,
        max_learning_rate=1e-3,
        amp=False,
    )
    return replace(spec, training_config=replace(spec.training_config, checkpoint_interval=1, **training))


def weights(result: FitResult) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(result.model_path).weights)


class InterruptedRunError(Exception):
    pass


def stop_after(epoch: int) -> Any:
    def on_epoch(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise InterruptedRunError

    return on_epoch


def test_an_interrupted_run_gives_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    train, val = squares(tmp_path / "images", 6), squares(tmp_path / "images", 2, seed=1)
    spec = small_spec(epochs=3)
    whole = fit(spec, train, val, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        fit(spec, train, val, tmp_path / "parts", on_epoch=stop_after(2))
    rest = fit(spec, train, val, tmp_path / "parts")
    assert len(rest.history) == 1
    assert rest.epochs == whole.epochs == 3
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(rest)[name]), name
    assert rest.metrics["cost"] == whole.metrics["cost"]
    again = fit(spec, train, val, tmp_path / "parts")
    assert again.history == ()
    assert again.best_map50 == whole.best_map50


def test_what_a_run_leaves_is_whole(tmp_path: Path) -> None:
    train, val = squares(tmp_path / "images", 4), squares(tmp_path / "images", 2, seed=1)
    reports: list[EpochReport] = []
    result = fit(small_spec(epochs=3), train, val, tmp_path / "run", on_epoch=reports.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert all(report.checkpoint is not None for report in reports)
    assert lines[-1] == dict(result.metrics)
    names = {
        str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()
    }
    assert names == {
        "metrics.jsonl",
        "checkpoints/epoch-00002.pt",
        "checkpoints/epoch-00003.pt",
        "weights/model.pt",
        "weights/best.pt",
    }
    assert load_checkpoint(result.model_path).training == {}


def test_validation_comes_when_the_spec_says_and_at_the_end(tmp_path: Path) -> None:
    samples = squares(tmp_path / "images", 2)
    spec = small_spec(epochs=6)
    config = replace(spec.evaluation_config, first_validation_epoch=2, validation_period_during_training=3)
    result = fit(replace(spec, evaluation_config=config), samples, samples, tmp_path / "run")
    validated = [metrics["epoch"] for metrics in result.history if "val_map50" in metrics]
    assert validated == [2, 5, 6]
    assert {"val_map", "val_cost", "val_ap50/red", "val_ap50/green"} <= set(result.metrics)


def test_without_validation_samples_there_is_no_best_model(tmp_path: Path) -> None:
    result = fit(small_spec(epochs=1), squares(tmp_path / "images", 2), [], tmp_path / "run")
    assert result.best_path is None
    assert result.best_map50 is None
    assert result.model_path.is_file()


def test_results_of_another_spec_or_other_samples_are_not_continued(tmp_path: Path) -> None:
    samples = squares(tmp_path / "images", 4)
    fit(small_spec(epochs=1), samples, [], tmp_path / "run")
    with pytest.raises(TrainingError, match="another spec"):
        fit(small_spec(epochs=2), samples, [], tmp_path / "run")
    with pytest.raises(TrainingError, match="other samples"):
        fit(small_spec(epochs=1), samples[:2], [], tmp_path / "run")
    assert fit(small_spec(epochs=1), samples[:2], [], tmp_path / "run", resume=False).epochs == 1


def test_a_cost_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    spec = default_spec(
        ["red", "green"], SIZE, SIZE, epochs=3, batch_size=2, num_layers=10,
        max_learning_rate=1e18, min_learning_rate=1e17,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"the cost became (nan|inf) in epoch \d"):
        fit(spec, squares(tmp_path / "images", 6), [], tmp_path / "run")


@pytest.mark.parametrize("settings", [{"freeze_blocks": (0.0,)}, {"load_graph": True}])
def test_what_needs_pretrained_weights_says_so(tmp_path: Path, settings: dict[str, Any]) -> None:
    spec = small_spec()
    spec = replace(spec, model_config=replace(spec.model_config, **settings))
    with pytest.raises(ConfigError, match="pretrained_model_file"):
        fit(spec, squares(tmp_path / "images", 2), [], tmp_path / "run")


@pytest.mark.parametrize("load_graph", [True, False])
def test_a_pruned_network_is_trained_on_with_its_own_widths(tmp_path: Path, load_graph: bool) -> None:
    samples, spec = squares(tmp_path / "images", 2), small_spec(epochs=1)
    pruned = build_model(spec)
    report = prune(pruned, threshold=1.0, min_filters=24)
    save_checkpoint(tmp_path / "pruned.pt", pruned, spec)
    config = replace(
        spec.model_config, load_graph=load_graph, pretrained_model_file=str(tmp_path / "pruned.pt")
    )
    result = fit(replace(spec, model_config=config), samples, [], tmp_path / "run")
    assert load_checkpoint(result.model_path).widths == report.after
    assert sum(result.parameters) == report.parameters_after
    model, _ = load_model(result.model_path)
    assert model.backbone.conv1.out_channels == 24


def test_a_pruned_network_learns_other_classes_with_new_heads(tmp_path: Path) -> None:
    samples, spec = squares(tmp_path / "images", 2), small_spec(epochs=1)
    pruned = build_model(default_spec(["cell"], SIZE, SIZE, num_layers=10))
    prune(pruned, threshold=1.0, min_filters=24)
    source = default_spec(["cell"], SIZE, SIZE, num_layers=10)
    save_checkpoint(tmp_path / "pruned.pt", pruned, source)
    config = replace(spec.model_config, pretrained_model_file=str(tmp_path / "pruned.pt"))
    model, _ = load_model(fit(replace(spec, model_config=config), samples, [], tmp_path / "run").model_path)
    assert model.output_cov.weight.shape == (2, 24, 1, 1)


def test_a_graph_of_another_family_is_refused_by_the_key_that_differs(tmp_path: Path) -> None:
    spec = small_spec()
    save_checkpoint(tmp_path / "a.pt", build_model(spec), spec)
    other = replace(
        spec.model_config, num_layers=18, load_graph=True, pretrained_model_file=str(tmp_path / "a.pt")
    )
    with pytest.raises(ConfigError, match=r"num_layers is 18, and the graph in .* has 10"):
        fit(replace(spec, model_config=other), squares(tmp_path / "images", 2), [], tmp_path / "run")


@pytest.mark.slow
def test_squares_are_learned(tmp_path: Path) -> None:
    train, val = squares(tmp_path / "images", 48), squares(tmp_path / "images", 16, seed=1)
    result = fit(small_spec(epochs=30), train, val, tmp_path / "run")
    assert result.history[-1]["cost"] < result.history[0]["cost"] / 4
    assert result.metrics["val_map50"] > 0.6


def _train_in_process(rank: int, port: int, spec: TrainSpec, train: list[Sample], folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    fit(spec, train, train[:3], folder, place=Place(rank=rank, world=2), device="cpu")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_with_the_joined_batches(tmp_path: Path) -> None:
    train = squares(tmp_path / "images", 8)
    # A large epsilon makes Adam smooth: rounding must not decide the sign of a step. Each process has its
    # own statistics of batch normalisation, so there is none here.
    spec = small_spec(epochs=2, optimizer=Optimizer(adam=Adam(epsilon=1e-2)), regularizer=Regularizer())
    spec = replace(spec, model_config=replace(spec.model_config, use_batch_norm=False))
    halves = replace(spec, training_config=replace(spec.training_config, batch_size_per_gpu=2))
    one = fit(spec, train, train[:3], tmp_path / "one")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_train_in_process, args=(port, halves, train, tmp_path / "two"), nprocs=2)
    two = load_checkpoint(tmp_path / "two" / "weights" / "model.pt")
    for name, tensor in weights(one).items():
        torch.testing.assert_close(two.weights[name], tensor, rtol=1e-4, atol=1e-6)
    assert two.metrics["val_cost"] == pytest.approx(one.metrics["val_cost"], rel=1e-2)
