"""The protocol of the RarePlanes experiment, on BCCD (blood cells, 364 pictures, its own fixed split).

1. All real data. 2. Rendered data alone, then 10 % of the real data. 3. Pruned. 4. Retrained. 5. With
quantisation-aware training. 6. INT8 in ONNX Runtime. mAP50 on the test split, VOC's area under the curve.
The defaults fit two CPU cores; ``--full`` is for a GPU.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from defusedxml import ElementTree

from benchmarks.cells import render_cells
from benchmarks.real_data import real_data
from benchmarks.record import record
from training.detectnet_v2.checkpoint import load_model, save_checkpoint
from training.detectnet_v2.evaluate import evaluate_model
from training.detectnet_v2.loop import fit
from training.detectnet_v2.predictor import open_predictor
from training.detectnet_v2.prune import PruneReport, prune
from training.detectnet_v2.spec import RegularizerType, SpatialAugmentation, TrainSpec, default_spec
from training.export.qat_graph import export_qat_onnx
from training.samples import Sample

CLASSES = ("RBC", "WBC", "Platelets")


def main() -> None:
    """Run all stages and print the table."""
    options = _options()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(options.threads)
    folder = Path(options.keep or tempfile.mkdtemp(prefix="dropmill-protocol-"))
    try:
        rows = _run(options, folder)
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    record(
        "rareplanes_protocol",
        rows,
        packages=["torch", "torch-pruning", "onnxruntime"],
        notes={
            "device": device,
            "options": {key: value for key, value in vars(options).items() if key != "keep"},
        },
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="640x480 and long trainings, for a GPU")
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--epochs", type=int, help="of the training on all real data; the others follow")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3, help="the largest learning rate")
    parser.add_argument("--rendered", type=int, help="rendered pictures")
    parser.add_argument("--left", type=float, default=0.3, help="share of parameters after pruning, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", help="keep models in this folder, and go on from what is there")
    found = parser.parse_args()
    small = {"width": 320, "height": 240, "epochs": 14, "rendered": 100}
    large = {"width": 640, "height": 480, "epochs": 120, "rendered": 2000}
    for name, value in (large if found.full else small).items():
        if getattr(found, name) is None:
            setattr(found, name, value)
    return found


def _run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    real = real_samples()
    train, val, test = (real[name] for name in ("train", "val", "test"))
    few = train[:: max(len(train) // max(len(real["trainval"]) // 10, 1), 1)][: len(real["trainval"]) // 10]
    rendered = render_cells(folder / "rendered", options.rendered)
    epochs = options.epochs
    rows: list[dict[str, Any]] = []

    def stage(name: str, spec: TrainSpec, samples: Sequence[Sample], **facts: Any) -> Path:
        began = time.perf_counter()
        result = fit(spec, samples, val, folder / name.replace(" ", "-"))
        weights = result.best_path or result.model_path
        rows.append(
            _row(name, weights, test, spec, seconds=time.perf_counter() - began, images=len(samples), **facts)
        )
        return weights

    spec = _spec(options, epochs)
    full = stage("all real data", spec, train)
    synthetic = stage("rendered only", _spec(options, max(epochs * 2 // 3, 1)), rendered)
    few_spec = _from(_spec(options, epochs * 2, rate=options.rate / 2), synthetic)
    stage("rendered, then 10 % real", few_spec, few)
    pruned = folder / "pruned.pt"
    report = _prune_to(full, pruned, options.left)
    rows.append(_row("pruned (from all real data)", pruned, test, spec, left=report.ratio))
    again = _plain(_from(_spec(options, epochs), pruned, load_graph=True))
    retrained = stage("retrained", again, train, left=report.ratio)
    short = _plain(
        _from(_spec(options, max(epochs // 3, 1), rate=options.rate / 4), retrained, load_graph=True)
    )
    qat_spec = replace(short, training_config=replace(short.training_config, enable_qat=True))
    qat = stage("quantisation-aware", qat_spec, train, left=report.ratio)
    network, _ = load_model(qat)
    onnx = folder / "int8.onnx"
    export_qat_onnx(network, onnx, input_shape=(3, network.height, network.width), classes=network.classes)
    rows.append(_row("INT8 in ONNX Runtime", onnx, test, spec, left=report.ratio))
    return rows


def _prune_to(source: Path, out: Path, left: float) -> PruneReport:
    """Prune at about the lowest threshold that leaves no larger share of the parameters."""
    low, high, best = 0.0, 1.0, None
    for _ in range(10):
        threshold = (low + high) / 2
        model, spec = load_model(source)
        report = prune(model, threshold=threshold, equalization="union")
        if report.ratio > left:
            low = threshold
        else:
            high, best = threshold, (model, spec, report)
    assert best is not None
    save_checkpoint(out, best[0], best[1])
    return best[2]


def real_samples() -> dict[str, list[Sample]]:
    """BCCD by its split files; boxes without area are left out."""
    root = real_data("bccd-voc")
    found = {}
    for name in ("train", "val", "test", "trainval"):
        names = (root / "ImageSets" / "Main" / f"{name}.txt").read_text().split()
        found[name] = [_sample(root, one) for one in names]
    return found


def _sample(root: Path, name: str) -> Sample:
    tree = ElementTree.parse(root / "Annotations" / f"{name}.xml")
    boxes, categories = [], []
    for item in tree.iter("object"):
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax"))
        if x1 < x2 and y1 < y2:
            boxes.append((x1, y1, x2, y2))
            categories.append(str(item.findtext("name")))
    return Sample(
        id=name,
        uri=str(root / "JPEGImages" / f"{name}.jpg"),
        width=int(str(tree.findtext("size/width"))),
        height=int(str(tree.findtext("size/height"))),
        split=None,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        categories=tuple(categories),
        ignore=np.zeros(len(boxes), bool),
    )


def _spec(options: argparse.Namespace, epochs: int, *, rate: float | None = None) -> TrainSpec:
    spec = default_spec(
        CLASSES,
        options.width,
        options.height,
        epochs=epochs,
        batch_size=options.batch,
        max_learning_rate=rate or options.rate,
        min_learning_rate=1e-5,
        validation_period=max(epochs // 4, 1),
        num_layers=options.layers,
        amp=True,
        class_weights={"Platelets": 3.0},
        foreground_weight=0.2,
    )
    spatial = SpatialAugmentation(hflip_probability=0.5, vflip_probability=0.5)
    return replace(spec, augmentation_config=replace(spec.augmentation_config, spatial_augmentation=spatial))


def _from(spec: TrainSpec, weights: Path, *, load_graph: bool = False) -> TrainSpec:
    config = replace(spec.model_config, pretrained_model_file=str(weights), load_graph=load_graph)
    return replace(spec, model_config=config)


def _plain(spec: TrainSpec) -> TrainSpec:
    """Without regularisation, as TAO retrains."""
    none = replace(spec.training_config.regularizer, type=RegularizerType.NO_REG)
    return replace(spec, training_config=replace(spec.training_config, regularizer=none))


def _row(
    name: str,
    weights: Path,
    test: Sequence[Sample],
    spec: TrainSpec,
    *,
    seconds: float | None = None,
    images: int | None = None,
    left: float = 1.0,
) -> dict[str, Any]:
    report = evaluate_model(open_predictor(weights), test, spec)
    score = {key: value.average_precision or 0.0 for key, value in report.at_half.categories.items()}
    row = {
        "stage": name,
        "images": images,
        "mAP50": round(100 * (report.at_half.map50 or 0.0), 2),
        **{key: round(100 * value, 1) for key, value in score.items()},
        "parameters left": f"{left:.1%}",
        "ms a batch": round(1000 * report.median_batch_s, 1),
        "training s": None if seconds is None else round(seconds),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
