"""The loop: the numbers of torchvision's own, runs that are cut short, several processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from storage.errors import TrainingError
from tests.training.zoo_samples import blocks
from training.place import Place
from training.zoo.checkpoint import read_checkpoint
from training.zoo.data import BatchOrder, DetectionDataset, collate
from training.zoo.detectors import build_detector
from training.zoo.loop import fit
from training.zoo.spec import DataSpec, ModelSpec, TrainSpec, ZooSpec

_SMALL = ModelSpec(
    detector="ssdlite", backbone="mobilenet_v3_small", neck_channels=32, short_side=(64,), long_side=96,
    input_size=64,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def spec_for(model: ModelSpec = _SMALL, **train: Any) -> ZooSpec:
    settings = {"epochs": 2, "batch_size": 2, "lr": 0.01, "base_batch": 2, "warmup_steps": 3, **train}
    return ZooSpec(
        model=model,
        data=DataSpec(transforms=("flip",), classes=("red", "blue")),
        train=TrainSpec(tensorboard=False, group_by_shape=False, **settings),
    )


def test_the_losses_are_those_of_torchvisions_own_loop(tmp_path: Path) -> None:
    """The reference trains torchvision's FasterRCNN as its reference scripts do: warm-up in the first epoch,
    sum of losses, SGD; only batches and initial weights are ours.
    """
    samples = blocks(tmp_path, 6)
    model = replace(_SMALL, detector="faster_rcnn")
    spec = spec_for(model, epochs=2, warmup_steps=2, warmup_factor=1e-3, schedule="constant", seed=4)
    ours: list[float] = []
    fit(spec, samples, tmp_path / "run", on_step=lambda _, losses: ours.append(losses["loss"]))

    torch.manual_seed(4)
    parts = build_detector(model, 2)
    anchors = AnchorGenerator(tuple((s,) for s in (32, 64, 128, 256, 512)), ((0.5, 1.0, 2.0),) * 5)
    torch.manual_seed(4)
    body: Any = parts.backbone
    network = FasterRCNN(body, 3, min_size=64, max_size=96, rpn_anchor_generator=anchors)
    network.load_state_dict(parts.state_dict())
    network.train()
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad], lr=0.01, momentum=0.9, weight_decay=1e-4
    )
    data = DetectionDataset(samples, ("red", "blue"), spec.data, model, seed=4)
    order = BatchOrder(6, 2, seed=4)
    theirs: list[float] = []
    for epoch in range(2):
        warm = None
        if epoch == 0:
            warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-3, total_iters=2)
        order.epoch = epoch
        data.set_epoch(epoch)
        torch.manual_seed(4 + 1_000_003 * epoch)
        for numbers in order:
            images, targets = collate([data[i] for i in numbers])
            losses = network(images, targets)
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if warm is not None:
                warm.step()
            theirs.append(float(loss.detach()))
    assert len(ours) == 6
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_training_that_was_cut_short_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    samples = blocks(tmp_path, 5)
    spec = spec_for(epochs=3, ema=0.9, accumulate=2, clip_norm=5.0, schedule="cosine")
    whole = fit(spec, samples, tmp_path / "whole", val=samples[:1])

    class CutError(Exception):
        pass

    def cut(number: int, _: object) -> None:
        if number == 5:
            raise CutError

    with pytest.raises(CutError):
        fit(spec, samples, tmp_path / "cut", val=samples[:1], on_step=cut)
    resumed = fit(spec, samples, tmp_path / "cut", val=samples[:1])
    assert [one["epoch"] for one in resumed.history] == [1, 2, 3]
    assert [one["loss"] for one in resumed.history] == [one["loss"] for one in whole.history]
    one, other = (read_checkpoint(result.last).weights for result in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_weights_alone_are_loaded_and_a_run_of_another_spec_is_not_continued(tmp_path: Path) -> None:
    samples = blocks(tmp_path, 4)
    spec = spec_for(epochs=1)
    first = fit(spec, samples, tmp_path / "first", val=samples[:1])
    assert first.best is not None
    tuned = fit(
        replace(spec, train=replace(spec.train, load_from=first.best, lr=1e-9, warmup_steps=0)),
        samples,
        tmp_path / "tuned",
    )
    assert tuned.epochs == 1
    one, other = (read_checkpoint(url).weights for url in (first.last, tuned.last))
    assert all(torch.allclose(one[k], other[k], atol=1e-3) for k in one if "running" not in k and one[k].ndim)
    with pytest.raises(TrainingError, match="another spec"):
        fit(replace(spec, train=replace(spec.train, lr=0.5)), samples, tmp_path / "first")
    with pytest.raises(TrainingError, match=r"train\.load_from"):
        fit(replace(spec, train=replace(spec.train, resume_from=first.best)), samples, tmp_path / "other")


def test_a_loss_that_is_not_finite_ends_the_training_with_advice(tmp_path: Path) -> None:
    spec = spec_for(lr=1e12, warmup_steps=0, epochs=4)
    with pytest.raises(TrainingError, match=r"lower train\.lr"):
        fit(spec, blocks(tmp_path, 4), tmp_path / "run")


def test_the_results_may_lie_in_any_store(tmp_path: Path) -> None:
    import fsspec

    spec = spec_for(epochs=1, keep_checkpoints=1)
    spec = replace(spec, train=replace(spec.train, tensorboard=True))
    result = fit(spec, blocks(tmp_path, 2), "memory://zoo-run")
    store = fsspec.filesystem("memory")
    names = {name.rsplit("/", 1)[-1] for name in store.find("/zoo-run")}
    assert {"last.pt", "metrics.jsonl", "epoch_0001.pt"} <= names
    assert any(name.startswith("events.") for name in names)
    assert read_checkpoint(result.last).classes == ("red", "blue")


def _one_of_two(rank: int, folder: Path, spec: ZooSpec) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    fit(spec, blocks(folder, 8), folder / "two", place=Place(rank=rank, world=2))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_are_one_with_the_doubled_batch(tmp_path: Path) -> None:
    samples = blocks(tmp_path, 8)
    # RetinaNet's loss is a mean over images; the others sample, or divide by the objects of a batch.
    model = replace(_SMALL, detector="retinanet")
    one = fit(spec_for(model, batch_size=4), samples, tmp_path / "one")
    torch.multiprocessing.spawn(_one_of_two, (tmp_path, spec_for(model, batch_size=2)), nprocs=2)
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    theirs = [json.loads(line)["loss"] for line in lines]
    assert theirs == pytest.approx([epoch["loss"] for epoch in one.history], rel=1e-4)
    pair = [read_checkpoint(str(tmp_path / name / "last.pt")).weights for name in ("one", "two")]
    assert all(torch.allclose(pair[0][k], pair[1][k], rtol=1e-3, atol=1e-5) for k in pair[0])


@pytest.mark.slow
def test_a_worker_that_is_killed_thrice_does_every_epoch_once(local_ray: None, tmp_path: Path) -> None:
    from training.zoo.ray_fit import fit_with_ray

    samples = blocks(tmp_path, 4)
    whole = fit(spec_for(epochs=3), samples, tmp_path / "whole")
    (tmp_path / "deadly.py").write_text(
        "import os, pathlib\n"
        "from training.zoo.registry import TRANSFORMS\n"
        f"GRAVES = pathlib.Path({str(tmp_path)!r})\n"
        "@TRANSFORMS.register('deadly')\n"
        "def deadly(image, target, draw):\n"
        "    dead = len(list(GRAVES.glob('*.dead')))\n"
        "    if dead < 3 and int.from_bytes(os.urandom(1)) < 64:\n"
        "        (GRAVES / f'{dead}.dead').touch()\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return image, target\n"
    )
    spec = spec_for(epochs=3)
    spec = replace(
        spec,
        model=replace(spec.model, imports=(str(tmp_path / "deadly.py"),)),
        data=replace(spec.data, transforms=("flip", "deadly")),
    )
    fit_with_ray(spec, samples, tmp_path / "killed", name="killed", max_failures=5)
    lines = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["loss"] for line in lines] == pytest.approx(
        [epoch["loss"] for epoch in whole.history], rel=1e-5
    )
