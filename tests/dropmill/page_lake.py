"""A lake for the tests of the page: rendered scenes, outlines, hostile names, a quarantine, a run."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from ingest.derive import Settings
from storage import schemas
from storage.lake import Lake
from tests.ingest.mill import Mill
from transforms.formats.masks import run_counts
from transforms.scenes.config import SceneConfig
from transforms.scenes.dataset import write_scenes

HOSTILE_CLASS = "a<script>alert(1)</script>"
HOSTILE_KEY = "odd/<img src=x onerror=alert(1)>'\".png"


def make_lake(folder: Path, *, images: int = 24) -> Mill:
    """Two drops: ``aircraft`` with planted defects, then ``odd`` with names that are no names."""
    mill = Mill(folder / "drops", folder / "lake", Settings())
    write_scenes(
        SceneConfig(images=images, width=160, height=120, seed=7), mill.folder / "aircraft", format="coco"
    )
    # The list of what is wrong is no part of the drop.
    (mill.folder / "aircraft-planted-defects.json").unlink()
    mill.ingest()
    mill.write(HOSTILE_KEY, b"\x89PNG\r\n\x1a\n")
    mill.image("odd/a'b\".png")
    mill.write("odd/a'b\".txt", f"{HOSTILE_CLASS} 0 0 0 1 1 50 40 0 0 0 0 0 0 0\n")
    mill.ingest()
    _add_run(mill.lake)
    _add_mask(mill.lake)
    return mill


def _add_run(lake: Lake) -> None:
    epochs = [{"epoch": n, "cost": 1 / n, "val_map50": None if n % 2 else 0.1 * n} for n in range(1, 7)]
    text = "".join(json.dumps(epoch) + "\n" for epoch in epochs)
    lake.artifacts.write("runs/detector-1/results/metrics.jsonl", text.encode())
    now = datetime(2026, 1, 31, tzinfo=UTC)
    snapshot = json.dumps({"images": 1, "annotations": 1})
    run = {
        "run": "detector-1", "pipeline": "detector", "step": "train", "dataset": "aircraft",
        "state": "succeeded", "snapshot": snapshot, "parameters": "{}",
        "metrics": '{"mAP50": 0.6}', "outputs": "{}", "labelled_images": 20,
        "submitted_at": now, "ended_at": now,
    }  # fmt: skip
    model = {
        "model": "detector-1/best.pt", "run": "detector-1", "dataset": "aircraft", "kind": "checkpoint",
        "architecture": "detectnet_v2/resnet18", "categories": ["airliner"], "uri": "file:///best.pt",
        "size_bytes": 10, "sha256": "0" * 64, "metrics": '{"mAP50": 0.6}', "snapshot": snapshot,
        "made_at": now,
    }  # fmt: skip
    lake.put("runs", pa.Table.from_pylist([run], schema=schemas.RUNS), keys=["run"])
    (image,) = lake.sql(
        "SELECT sample, key, version FROM images WHERE dataset = 'aircraft' LIMIT 1"
    ).to_pylist()
    seen = {**image, "run": "detector-1", "dataset": "aircraft", "role": "train", "kind": "image"}
    lake.put("seen", pa.Table.from_pylist([seen], schema=schemas.SEEN), keys=["run"])
    lake.artifacts.write("runs/detector-1/model_card.md", f"# Finds {HOSTILE_CLASS}\n".encode())
    card = {**model, "model": "detector-1/model_card.md", "kind": "card", "made_at": now - timedelta(1)}
    lake.put("models", pa.Table.from_pylist([model, card], schema=schemas.MODELS), keys=["model"])


def _add_mask(lake: Lake) -> None:
    import numpy as np

    counts = run_counts(np.ones((20, 30), bool), 5, 10, 100, 50)
    (box,) = lake.sql("SELECT * FROM annotations WHERE dataset = 'odd'").to_pylist()
    row = {
        name: box[name]
        for name in ("dataset", "sample", "source", "instance", "xmin", "ymin", "xmax", "ymax")
    }
    row |= {"rle": json.dumps({"size": [50, 100], "counts": counts}), "model": "m", "model_version": "1"}
    row |= {"area": 600, "run": "r", "made_at": datetime(2026, 1, 31, tzinfo=UTC)}
    lake.put("masks", pa.Table.from_pylist([row], schema=schemas.MASKS), keys=["dataset", "sample"])
