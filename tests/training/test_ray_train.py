from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from storage.errors import ConfigError
from training.detectnet_v2.checkpoint import load_checkpoint, load_model
from training.detectnet_v2.loop import fit
from training.detectnet_v2.ray_fit import fit_with_ray
from training.detectnet_v2.spec import TrainSpec, default_spec
from training.ray_train import RayTrainResult
from training.samples import Sample

ray = pytest.importorskip("ray")
pytest.importorskip("ray.train")

pytestmark = pytest.mark.slow


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    random = np.random.default_rng(0)
    made = []
    for number in range(6):
        pixels = random.integers(0, 60, (64, 64, 3), np.uint8)
        pixels[16:48, 8:40] = 220
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        made.append(
            Sample(
                id=str(number), uri=str(tmp_path / f"{number}.png"), width=64, height=64, split=None,
                boxes=np.array([[8.0, 16, 40, 48]]), categories=("block",), ignore=np.zeros(1, bool),
            )
        )  # fmt: skip
    return made


def spec_for(epochs: int) -> TrainSpec:
    return default_spec(["block"], 64, 64, epochs=epochs, batch_size=2, num_layers=10)


def test_no_other_cluster_is_asked_whether_an_actor_lives(another_cluster: None, local_ray: None) -> None:
    # It would say that there is none, and Ray Train takes that for the end of its controller.
    asked = ray.remote(num_cpus=0)(_Asker).remote()
    assert ray.get(asked.answer.remote()) == "nobody answers"


class _Asker:
    def answer(self) -> str:
        from ray.util.state import get_actor
        from ray.util.state.exception import RayStateApiException

        try:
            return str(get_actor(ray.get_runtime_context().get_actor_id(), timeout=10))
        except RayStateApiException:
            return "nobody answers"


def test_two_workers_train_and_a_second_call_finds_the_work_done(
    another_cluster: None, local_ray: None, samples: list[Sample], tmp_path: Path
) -> None:
    def train(failures: int) -> RayTrainResult:
        return fit_with_ray(
            spec_for(2), samples[:4], samples[4:], tmp_path / "runs", name="two", num_workers=2,
            max_failures=failures, model_name="blocks", loaders=1,
        )  # fmt: skip

    result = train(0)
    assert result.metrics["epoch"] == 2
    assert 0 <= result.metrics["val_map50"] <= 1
    model, spec = load_model(result.checkpoint_dir / "blocks.pt")
    assert model.classes == ("block",)
    assert spec == spec_for(2)
    assert (result.checkpoint_dir / "best.pt").is_file()
    trained = (tmp_path / "runs" / "two" / "results" / "metrics.jsonl").read_text()
    again = train(2)
    assert again.metrics["val_map50"] == result.metrics["val_map50"]
    assert (tmp_path / "runs" / "two" / "results" / "metrics.jsonl").read_text() == trained


def test_an_error_in_a_worker_comes_back_as_ours(
    local_ray: None, samples: list[Sample], tmp_path: Path
) -> None:
    spec = spec_for(1)
    broken = replace(spec, model_config=replace(spec.model_config, arch="vggg"))
    with pytest.raises(ConfigError, match='arch is "vggg"'):
        fit_with_ray(broken, samples, [], tmp_path / "runs", name="broken", max_failures=0)


def test_a_worker_that_is_killed_within_an_epoch_changes_nothing_of_the_result(
    local_ray: None, samples: list[Sample], tmp_path: Path
) -> None:
    spec = spec_for(6)
    spec = replace(spec, training_config=replace(spec.training_config, checkpoint_interval=1))
    many = [replace(sample, id=f"{turn}-{sample.id}") for turn in range(4) for sample in samples]
    metrics = tmp_path / "runs" / "killed" / "results" / "metrics.jsonl"
    over, killed = threading.Event(), []

    def kill_after_two_epochs() -> None:
        while not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
            if over.wait(0.02):
                return
        killed.append(_kill_workers())

    killer = threading.Thread(target=kill_after_two_epochs)
    killer.start()
    try:
        result = fit_with_ray(
            spec, many, [], tmp_path / "runs", name="killed", threads_per_worker=torch.get_num_threads()
        )
    finally:
        over.set()
        killer.join()
    assert killed == [1]
    epochs = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert sorted(set(epochs)) == [1, 2, 3, 4, 5, 6]
    whole = fit(spec, many, [], tmp_path / "whole", device="cpu")
    expected = load_checkpoint(whole.model_path).weights
    found = load_checkpoint(result.checkpoint_dir / "model.pt").weights
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def _kill_workers() -> int:
    """SIGKILL to the training workers of this test's own Ray; returns their number."""
    node = ray._private.worker._global_node
    raylets = [info.process.pid for info in node.all_processes["raylet"]]
    workers = [
        child
        for pid in raylets
        for child in psutil.Process(pid).children(recursive=True)
        if "TrainWorker" in " ".join(child.cmdline())
    ]
    for worker in workers:
        worker.kill()
    return len(workers)
