"""Pictures of evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.evaluation.average_precision import evaluate
from training.evaluation.confusion import confusion
from training.evaluation.detections import Detections, Truth

pytest.importorskip("matplotlib")

from training.evaluation.plots import plot_confusion, plot_precision_recall

BOX = np.array([[0.0, 0.0, 20.0, 20.0]])


@pytest.mark.parametrize("truth", [["found", "missed"], []])
def test_classes_of_which_nothing_was_found_can_be_drawn(tmp_path: Path, truth: list[str]) -> None:
    labelled = {"image": Truth(np.repeat(BOX, len(truth), axis=0), truth, np.zeros(len(truth), bool))}
    found = {"image": Detections(BOX, np.array([0.9]), ["found"])} if truth else {}
    evaluation = evaluate(found, labelled, categories=["found", "missed"])
    plot_precision_recall(evaluation, tmp_path / "curves.png")
    plot_confusion(confusion(found, labelled, evaluation), tmp_path / "confusion.png")
    assert (
        (tmp_path / "curves.png").read_bytes()[:4]
        == (tmp_path / "confusion.png").read_bytes()[:4]
        == b"\x89PNG"
    )
