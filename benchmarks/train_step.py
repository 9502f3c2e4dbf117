"""A training step beside a plain loop on torchvision's ResNet-18, and the share of time spent on data.

Twice like beside like: with the max-pool (torchvision's ResNet-18 as it is, last stage at stride 1, so stride
16 together; ours with ``use_pooling``) and without, which is our default (torchvision's blocks, the first
stage at stride 2 with a projection). A whole step of the peer: the same batch to 0..1, the network with two
1x1 heads of the same outputs, unweighted cross entropy and L1, backward, fused Adam, and reading the cost. It
runs in both layouts of memory; the faster one counts. Ours does more: biases in all convolutions, a
projection in the first stage with the max-pool too, weights of cells and classes, L1 regularisation over all
kernels, and a check for costs that are not finite. Other work on the machine can only slow a turn down, so
the fastest turns are compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock

from benchmarks.cells import render_cells
from benchmarks.record import record
from training.detectnet_v2.cost import TargetBatch
from training.detectnet_v2.dataset import DetectionDataset, collate
from training.detectnet_v2.infer import scale_inputs
from training.detectnet_v2.loop import fit
from training.detectnet_v2.spec import TrainSpec, default_spec
from training.detectnet_v2.step import Stepper

CLASSES = ("RBC", "WBC", "Platelets")


def main() -> None:
    """Measure both in turns, and a whole training for its waiting; print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument(
        "--seconds", type=float, default=40, help="Of measuring, at most (two turns at least)."
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--amp", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="dropmill-step-") as name:
        samples = render_cells(Path(name) / "cells", 2 * options.batch)
        spec = default_spec(
            CLASSES, options.width, options.height, epochs=2, batch_size=options.batch, amp=options.amp
        )
        data = DetectionDataset(samples, spec, train=True)
        pixels, target = collate([data[index] for index in range(options.batch)])
        steps = {
            (kind, label): make(pooled, layout)
            for kind, pooled in (("strides", False), ("max-pool", True))
            for label, make, layout in (
                ("dropmill", partial(_ours, spec), torch.channels_last),
                ("torchvision", partial(_peer, spec), torch.contiguous_format),
                ("torchvision, channels last", partial(_peer, spec), torch.channels_last),
            )
        }
        seconds: dict[tuple[str, str], list[float]] = {label: [] for label in steps}
        began = time.perf_counter()
        for turn in range(options.steps + 1):
            if turn > 2 and time.perf_counter() - began > options.seconds:
                break
            for label, step in steps.items():
                took = _timed(step, pixels, target)
                if turn:  # the first one allocates
                    seconds[label].append(took)
        result = fit(spec, samples, [], Path(name) / "run")
    base = {
        kind: min(
            min(times) for (one, label), times in seconds.items() if one == kind and label != "dropmill"
        )
        for kind, _ in seconds
    }
    rows = [
        {
            "what": label,
            "stem": kind,
            "ms a step": round(1000 * median(times), 1),
            "images/s": round(options.batch / median(times), 1),
            "fastest ms": round(1000 * min(times), 1),
            "times torchvision's": round(min(times) / base[kind], 2),
        }
        for (kind, label), times in seconds.items()
    ]
    shares = [metrics["data_wait_share"] for metrics in result.history]
    record(
        "train_step",
        rows,
        packages=["torch", "torchvision"],
        notes={
            "batch": options.batch,
            "input": [options.width, options.height],
            "amp": options.amp,
            "threads": options.threads,
            "turns": len(next(iter(seconds.values()))),
            "data_wait_share_first_epoch": round(shares[0], 3),
            "data_wait_share_cached": round(shares[-1], 3),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        },
    )


def _ours(spec: TrainSpec, pooled: bool, _: torch.memory_format) -> Callable[[Tensor, TargetBatch], float]:
    network = replace(spec.model_config, use_pooling=pooled)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stepper = Stepper(replace(spec, model_config=network), device)
    stepper.train()
    return lambda pixels, target: stepper.step(pixels, target, 1e-4)[1]


def _peer(
    spec: TrainSpec, pooled: bool, layout: torch.memory_format
) -> Callable[[Tensor, TargetBatch], float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net: Any = resnet18(weights=None)
    net.layer4[0].conv1.stride = net.layer4[0].downsample[0].stride = (1, 1)
    if not pooled:
        shortcut = nn.Sequential(nn.Conv2d(64, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
        net.maxpool, net.layer1[0] = nn.Identity(), BasicBlock(64, 64, 2, shortcut)
    count = len(spec.classes)
    body = nn.Sequential(
        net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4
    )
    model = nn.ModuleDict(
        {"body": body, "cov": nn.Conv2d(512, count, 1), "bbox": nn.Conv2d(512, 4 * count, 1)}
    )
    model.to(device, memory_format=layout).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step(pixels: Tensor, target: TargetBatch) -> float:
        wanted = target.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=spec.amp):
            features = model["body"](scale_inputs(pixels.to(device)).contiguous(memory_format=layout))
            cov, bbox = model["cov"](features), model["bbox"](features)
        cost = F.binary_cross_entropy_with_logits(cov.float(), wanted.cov) + F.l1_loss(
            bbox.float(), wanted.bbox
        )
        optimizer.zero_grad(set_to_none=True)
        cost.backward()
        optimizer.step()
        return float(cost.detach())

    return step


def _timed(step: Callable[[Tensor, TargetBatch], float], pixels: Tensor, target: TargetBatch) -> float:
    began = time.perf_counter()
    step(pixels, target)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
