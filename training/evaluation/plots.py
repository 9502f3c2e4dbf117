"""Pictures of an evaluation: precision over recall, and confusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import ConfigError
from training.evaluation.average_precision import Evaluation
from training.evaluation.confusion import NOTHING, Confusion

_DPI = 130


def plot_precision_recall(evaluation: Evaluation, path: Path) -> None:
    """One line per class, a dot where its F1 is best; PNG."""
    figure, axes = _figure(6.4, 5.0)
    for name, score in evaluation.categories.items():
        if score.average_precision is None:
            continue
        recall, precision = score.curve[:, 1], score.curve[:, 2]
        # A class of which nothing was found has a line as well: at the origin, for its place in the legend.
        start = precision[:1] if len(precision) else [0.0]
        label = f"{name}  AP {score.average_precision:.3f}"
        (line,) = axes.plot(np.append(0, recall), np.append(start, precision), lw=1.6, label=label)
        if score.threshold is not None:
            axes.plot([score.recall], [score.precision], "o", color=line.get_color(), ms=5)
    mean = evaluation.mean_average_precision
    axes.set(
        xlim=(0, 1.01),
        ylim=(0, 1.02),
        xlabel="recall",
        ylabel="precision",
        title=f"{evaluation.images} images, mAP {0 if mean is None else mean:.3f} ({evaluation.mode})",
    )
    axes.grid(alpha=0.3)
    if axes.get_lines():
        axes.legend(loc="lower left", fontsize=9)
    figure.savefig(path, dpi=_DPI)


def plot_confusion(confusion: Confusion, path: Path) -> None:
    """Counts, coloured by their share of the row; PNG."""
    names = [*confusion.classes, NOTHING]
    side = max(4.6, 0.7 * len(names) + 2.2)
    figure, axes = _figure(side, side * 0.9)
    shares = confusion.counts / np.maximum(confusion.counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion.counts):
        if (row, column) != (len(names) - 1,) * 2:
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="found", ylabel="there", title=f"pairs from IoU {confusion.iou:g} on")
    figure.savefig(path, dpi=_DPI)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install dropmill[train]") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
