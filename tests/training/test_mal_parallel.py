"""Several processes, really: DDP and FSDP over gloo on the CPU."""

from __future__ import annotations

import json
import os
import socket
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image

from training.mal import whole_state
from training.mal.checkpoint import LATEST, load_checkpoint
from training.mal.coco_file import CocoFile, read_coco
from training.mal.evaluate import evaluate, mask_metrics
from training.mal.labeler import MalLabeler
from training.mal.loop import fit
from training.mal.spec import load_spec
from training.place import Place
from training.samples import Sample
from transforms.masks.labeler import BoxedImage

pytest.importorskip("timm")
pytestmark = pytest.mark.slow

# A large epsilon makes Adam smooth: rounding must not decide the sign of a step.
_SETTINGS = (
    "dataset.crop_size=64", "dataset.min_obj_size=16", "model.mask_head_hidden_channel=16",
    "model.mask_head_out_channel=16", "model.not_adjust_scale=True", "train.use_amp=False",
    "train.batch_size=2", "train.lr=1e-4", "train.loss_mil_step=2", "train.loss_crf_step=2",
    "train.crf_num_iter=10", "train.num_epochs=2", "train.optim_eps=1e-2",
)  # fmt: skip
_PATIENCE = timedelta(minutes=5)
_RUNS = (("ddp", "mobilenetv2_035"), ("fsdp", "mobilenetv2_035"), ("fsdp", "vit-deit-tiny/16"))


class _CutError(Exception):
    pass


def _cut(_: object) -> None:
    raise _CutError


def _train(rank: int, port: int, samples: list[Sample], val: CocoFile, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    # Who waits for the other for longer fails, and the other process is ended with it.
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=_PATIENCE
    )
    whole_state._PIECE_BYTES = 1 << 15
    for strategy, arch in _RUNS:
        spec = load_spec(None, [*_SETTINGS, f"strategy={strategy}", f"model.arch={arch}"])
        results = folder / f"{strategy}-{arch.partition('-')[0]}"
        place = Place(rank=rank, world=2)
        try:
            fit(spec, samples, results, val=val, place=place, device="cpu", on_epoch=_cut)
        except _CutError:
            fit(spec, samples, results, val=val, place=place, device="cpu")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of ``_RUNS``, cut after its first epoch and gone on with, by two processes."""
    folder = tmp_path_factory.mktemp("runs")
    pixels = np.random.default_rng(0).integers(0, 60, (96, 96, 3), np.uint8)
    pixels[20:70, 20:70] = (220, 80, 40)
    Image.fromarray(pixels).save(folder / "a.png")
    samples = [
        Sample(
            id=f"{number}", uri=str(folder / "a.png"), width=96, height=96, split=None,
            boxes=np.array([[18.0 - number, 20, 72, 70]]), categories=("block",), ignore=np.zeros(1, bool),
        )
        for number in range(8)
    ]  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_train, args=(port, samples, _true_masks(folder), folder), nprocs=2)
    return folder


def _true_masks(folder: Path) -> CocoFile:
    """Three pictures for two processes, with two objects each."""
    square = [20, 20, 70, 20, 70, 70, 20, 70]
    content = {
        "images": [{"id": number, "file_name": "a.png"} for number in range(3)],
        "annotations": [
            {"id": number, "image_id": number // 2, "category_id": number % 2, "bbox": [20, 20, 50, 50],
             "segmentation": [square]}
            for number in range(6)
        ],
        "categories": [],
    }  # fmt: skip
    (folder / "val.json").write_text(json.dumps(content))
    return read_coco(folder / "val.json", folder)


def test_weights_that_are_shared_out_become_those_of_whole_copies(runs: Path) -> None:
    whole, shared = (load_checkpoint(runs / f"{name}-mobilenetv2_035" / LATEST) for name in ("ddp", "fsdp"))
    assert whole.training["epoch"] == shared.training["epoch"] == 2
    for part in ("student", "teacher"):
        ours, theirs = getattr(shared, part), getattr(whole, part)
        assert list(ours) == list(theirs)
        for name, tensor in theirs.items():
            # Running averages are each process's own: DDP sends those of the first around, FSDP does not.
            if "running" not in name and "num_batches" not in name:
                torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["ddp-mobilenetv2_035", "fsdp-mobilenetv2_035", "fsdp-vit"])
def test_processes_that_validate_a_part_each_find_what_one_finds(runs: Path, name: str) -> None:
    checkpoint = load_checkpoint(runs / name / LATEST)
    labeler = MalLabeler.of_checkpoint(runs / name / LATEST, amp=False)
    alone = mask_metrics(evaluate(labeler, read_coco(runs / "val.json", runs)))
    assert {key: checkpoint.metrics[key] for key in alone} == pytest.approx(alone, abs=1e-2)


def test_a_checkpoint_of_shared_weights_makes_masks_in_one_process(runs: Path) -> None:
    labeler = MalLabeler.of_checkpoint(runs / "fsdp-vit" / LATEST)
    pixels = np.zeros((96, 96, 3), np.uint8)
    [[window]] = labeler.label([BoxedImage(pixels, np.array([[10.0, 10, 60, 60]]))])
    assert window.mask.shape == (50, 50)
