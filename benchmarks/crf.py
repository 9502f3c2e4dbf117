"""The mean field of the CRF loss beside a Python loop over pixels, and beside the bare convolutions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.record import record
from training.mal.mean_field import affinities, mean_field

_SIDE, _BATCH, _ROUNDS = 128, 4, 100
_LOOP_SIDE, _LOOP_ROUNDS = 32, 4


def main() -> None:
    """One batch of MAL's own size, and a share of the loop's work that ends within a minute."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(_BATCH, 3, _SIDE, _SIDE, generator=draw)
    # Noise keeps the field from settling, so that all rounds are done.
    probability = torch.rand(_BATCH, 1, _SIDE, _SIDE, generator=draw)
    box = torch.zeros(_BATCH, 1, _SIDE, _SIDE)
    box[..., 16:112, 24:104] = 1
    pixels = _BATCH * _SIDE**2
    ours = _seconds(lambda: mean_field(image, probability, box, iterations=_ROUNDS))
    unfolded = _seconds(lambda: _by_unfold(image, probability, box), turns=1)
    bare = _seconds(lambda: _convolutions(probability))
    small = slice(None), slice(None), slice(0, _LOOP_SIDE), slice(0, _LOOP_SIDE)
    loop = _seconds(lambda: _by_loop(image[small][:1], probability[small][:1], box[small][:1]), turns=1)
    share = pixels * _ROUNDS / (_LOOP_SIDE**2 * _LOOP_ROUNDS)
    rows = [
        _row("ours (shifted views)", ours, ours, f"{_BATCH} objects, {_SIDE} x {_SIDE}, {_ROUNDS} rounds"),
        _row("unfold each round", unfolded, ours, "the same"),
        _row("bare convolutions", bare, ours, "the same number of 3 x 3 convolutions of two channels"),
        _row(
            "Python loop",
            loop * share,
            ours,
            f"reckoned from {_LOOP_SIDE} x {_LOOP_SIDE}, {_LOOP_ROUNDS} rounds",
        ),
    ]
    record("crf", rows, packages=["torch"], notes={"threads": 1})


def _row(name: str, seconds: float, ours: float, work: str) -> dict[str, object]:
    return {
        "mean field": name,
        "seconds": float(f"{seconds:.3g}"),
        "times ours": float(f"{seconds / ours:.3g}"),
        "work": work,
    }


def _seconds(work: Callable[[], object], *, turns: int = 3) -> float:
    """The fastest of some turns."""
    found = []
    for _ in range(turns):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def _convolutions(probability: Tensor) -> Tensor:
    kernel = torch.full((2, 1, 3, 3), 1 / 9)
    both = torch.cat([probability, 1 - probability], 1)
    for _ in range(_ROUNDS):
        both = functional.conv2d(both, kernel, padding=1, groups=2)
    return both


def _by_unfold(image: Tensor, probability: Tensor, box: Tensor) -> Tensor:
    batch, _, height, width = probability.shape
    weights = affinities(image).reshape(batch, 1, 9, height, width)
    x = (probability * box).clamp(0.1, 0.9)
    for _ in range(_ROUNDS):
        logs = torch.cat([x, 1 - x], 1).log()
        near = functional.unfold(logs, 3, padding=1).reshape(batch, 2, 9, height, width)
        evidence = (near * weights).sum(2).exp()
        foreground = evidence[:, :1] * box
        x = (foreground / (1e-6 + evidence[:, 1:] + foreground)).clamp(0.1, 0.9)
    return (x > 0.5).float()


def _by_loop(image: Tensor, probability: Tensor, box: Tensor) -> list[list[float]]:
    """The definition, a pixel at a time, on plain lists."""
    side = image.shape[-1]
    colours, inside = image[0].permute(1, 2, 0).tolist(), box[0, 0].tolist()
    x = (probability[0, 0] * box[0, 0]).clamp(0.1, 0.9).tolist()
    weights: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for i in range(side):
        for j in range(side):
            weights[i, j] = [
                (
                    a,
                    b,
                    math.exp(
                        -sum((u - v) ** 2 for u, v in zip(colours[a][b], colours[i][j], strict=True)) / 0.02
                    ),
                )
                for a in range(max(0, i - 1), min(side, i + 2))
                for b in range(max(0, j - 1), min(side, j + 2))
            ]
    for _ in range(_LOOP_ROUNDS):
        new = [[0.0] * side for _ in range(side)]
        for (i, j), near in weights.items():
            foreground = math.exp(sum(w * math.log(x[a][b]) for a, b, w in near)) * inside[i][j]
            background = math.exp(sum(w * math.log(1 - x[a][b]) for a, b, w in near))
            new[i][j] = min(max(foreground / (1e-6 + background + foreground), 0.1), 0.9)
        x = new
    return x


if __name__ == "__main__":
    main()
