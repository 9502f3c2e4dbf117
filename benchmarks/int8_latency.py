"""INT8 beside FP32 of the same ResNet-18 detector in ONNX Runtime on the CPU, turn by turn."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.record import record
from training.detectnet_v2.model import build_model
from training.detectnet_v2.spec import default_spec
from training.evaluation.onnx_runner import OnnxRunner
from training.export.onnx_graph import export_onnx
from training.export.quantise import quantise_onnx


def main() -> None:
    """Export both, run them by turns, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--height", type=int, default=272)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = build_model(default_spec(["a", "b", "c"], options.width, options.height))
    shape = (3, options.height, options.width)
    with tempfile.TemporaryDirectory(prefix="dropmill-int8-") as name:
        full, eight = Path(name) / "fp32.onnx", Path(name) / "int8.onnx"
        export_onnx(model, full, input_shape=shape, classes=model.classes)
        images = np.random.default_rng(0).random((4, *shape), dtype=np.float32)
        quantise_onnx(full, eight, list(images))
        runners = {
            "FP32": OnnxRunner(full, threads=options.threads),
            "INT8 (QDQ)": OnnxRunner(eight, threads=options.threads),
        }
        sizes = {"FP32": full.stat().st_size, "INT8 (QDQ)": eight.stat().st_size}
        seconds: dict[str, list[float]] = {label: [] for label in runners}
        for turn in range(options.turns + 1):
            for label, runner in runners.items():
                began = time.perf_counter()
                runner.run(images[:1])
                if turn:
                    seconds[label].append(time.perf_counter() - began)
    base = median(seconds["FP32"])
    rows = [
        {
            "graph": label,
            "ms an image": round(1000 * median(times), 1),
            "fastest ms": round(1000 * min(times), 1),
            "MB": round(sizes[label] / 1e6, 1),
            "faster than FP32": round(base / median(times), 2),
        }
        for label, times in seconds.items()
    ]
    record(
        "int8_latency",
        rows,
        packages=["onnxruntime"],
        notes={"input": [options.width, options.height], "threads": options.threads},
    )


if __name__ == "__main__":
    main()
