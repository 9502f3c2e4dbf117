"""One training run of the lake: samples of its snapshot, training on Ray, evaluation, ONNX, engine, rows."""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from dropmill import __version__
from dropmill.config import TrainConfig
from dropmill.follow import Follow
from dropmill.lake_samples import LakeSamples, read_samples
from storage import schemas
from storage.errors import ConfigError, ExportError
from storage.lake import Lake
from storage.object_store import file_sha256
from training.detectnet_v2.checkpoint import load_model
from training.detectnet_v2.dataset import check_classes
from training.detectnet_v2.exported import evaluate_exported
from training.detectnet_v2.model import DetectNetV2
from training.detectnet_v2.ray_fit import fit_with_ray
from training.detectnet_v2.spec import STRIDE, TrainSpec, default_spec, load_spec, spec_text
from training.evaluation.onnx_runner import OnnxRunner
from training.export.engine import build_engine
from training.export.onnx_graph import export_onnx, write_labels
from training.samples import Sample, split_samples

log = logging.getLogger(__name__)

_LONGEST_SIDE = 960  # pixels of the network's input that is chosen for sets of larger images


class TrainingRun:
    """The work behind one row of ``runs``. Its files lie in ``artifacts/runs/<run>`` of the lake."""

    def __init__(self, lake: Lake, run: str) -> None:
        rows = lake.sql("SELECT * FROM runs WHERE run = $1", parameters=[run]).to_pylist()
        if not rows:
            raise ConfigError(f"{lake.url}: no run {run!r} in the table runs")
        self._lake = lake
        self._row: dict[str, Any] = rows[0]
        self._config = TrainConfig.model_validate(json.loads(self._row["parameters"]))
        self._metrics: dict[str, float] = {}
        self._outputs: dict[str, str] = {}

    def work(self, *, threads: int, use_gpu: bool) -> dict[str, float]:
        """Do it, from where an earlier attempt was cut short; the row says so when it is done.

        Returns the metrics. Where it fails, the row is left to whoever started the run: only they know
        whether this was an error, or the end of the machine.
        """
        if self._row["state"] == "succeeded":
            log.info("run is done already", extra={"run": self._row["run"]})
            return dict(json.loads(self._row["metrics"]))
        note = self._work(threads, use_gpu=use_gpu)
        self._end("succeeded", note)
        return self._metrics

    def fail(self, why: str) -> None:
        """Say in the row that the run has failed."""
        self._end("failed", why)

    def _work(self, threads: int, *, use_gpu: bool) -> str | None:
        read = read_samples(self._lake, self._row["dataset"], json.loads(self._row["snapshot"]))
        if read.moved:
            log.warning("images have moved since the snapshot", extra={"images": len(read.moved)})
        spec = self._spec(read)
        train, val = split_samples(read.samples, seed=spec.random_seed)
        if self._config.spec is not None:
            check_classes(spec, train, val)
        self._metrics |= {"train_images": len(train), "val_images": len(val), "moved_images": len(read.moved)}
        folder = self._folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.txt").write_text(spec_text(spec), encoding="utf-8")
        with self._stage("train"), Follow(folder / "results" / "metrics.jsonl"):
            trained = fit_with_ray(
                spec,
                train,
                val,
                folder.parent,
                name=folder.name,
                num_workers=self._config.workers,
                use_gpu=use_gpu,
                threads_per_worker=threads,
            )
        self._metrics |= {
            name: float(value)
            for name, value in trained.metrics.items()
            if isinstance(value, int | float) and not name.startswith("cost_") and name != "seconds"
        }
        best = trained.checkpoint_dir / "best.pt"
        checkpoint = best if best.is_file() else trained.checkpoint_dir / "model.pt"
        model, spec = load_model(checkpoint)
        self._metrics["mAP50"] = self._metrics.pop("best_map50", self._metrics.get("val_map50", 0.0))
        with self._stage("export"):
            onnx = self._export(model, spec, folder)
        self._keep("checkpoint", checkpoint, spec)
        self._keep("onnx", onnx, spec)
        self._keep("labels", folder / "labels.txt", spec)
        test = [sample for sample in read.samples if sample.split == "test"]
        with self._stage("evaluate_the_exported_model"):
            self._evaluate(onnx, model, spec, val, test)
        with self._stage("compile_the_engine"):
            return self._compile(onnx, spec, folder, use_gpu=use_gpu)

    def _spec(self, read: LakeSamples) -> TrainSpec:
        """The spec of the run: its own file, or one made from the data; then what the rule says on top."""
        wanted = self._config
        if wanted.spec is not None:
            spec = load_spec(wanted.spec)
        else:
            width, height = input_size(read.samples)
            classes = read.categories()
            if not classes:
                raise ConfigError(f"data set {self._row['dataset']!r} has no box to learn from")
            spec = default_spec(
                classes,
                wanted.input_width or width,
                wanted.input_height or height,
                epochs=wanted.epochs or 80,
                batch_size=wanted.batch_size or 16,
                seed=wanted.seed,
                **wanted.schedule(),
            )
        if wanted.pretrained is not None:
            spec = replace(
                spec, model_config=replace(spec.model_config, pretrained_model_file=str(wanted.pretrained))
            )
        return spec

    def _export(self, model: DetectNetV2, spec: TrainSpec, folder: Path) -> Path:
        path = folder / "model.onnx"
        report = export_onnx(
            model,
            path,
            input_shape=(model.channels, model.height, model.width),
            classes=model.classes,
            metadata={
                "architecture": self._config.model,
                "dropmill": __version__,
                "run": self._row["run"],
                "dataset": self._row["dataset"],
                "snapshot": self._row["snapshot"],
                "bbox_scale": str(model.scale),
                "bbox_offset": str(model.offset),
                "stride": str(model.stride),
                "random_seed": str(spec.random_seed),
            },
        )
        write_labels(folder / "labels.txt", model.classes)
        self._metrics["export_difference"] = max(report.max_difference.values())
        return path

    def _evaluate(
        self, onnx: Path, model: DetectNetV2, spec: TrainSpec, val: list[Sample], test: list[Sample]
    ) -> None:
        runner = OnnxRunner(onnx)
        for name, samples in (("exported_mAP50", val), ("test_mAP50", test)):
            if samples:
                found = evaluate_exported(runner, model, samples, spec)
                self._metrics[name] = found.map50 or 0.0

    def _compile(self, onnx: Path, spec: TrainSpec, folder: Path, *, use_gpu: bool) -> str | None:
        """Build the engine. A machine without a builder still has its model: then the reason is returned."""
        try:
            report = build_engine(onnx, folder / "model.engine", precision="fp16" if use_gpu else "fp32")
        except ExportError as error:
            log.warning("no engine", extra={"run": self._row["run"], "why": str(error)})
            return f"no engine: {error}"
        details = {
            "backend": report.backend,
            "version": report.version,
            "precision": report.precision,
            "architectures": list(report.architectures),
            "not_verified": report.not_verified,
        }
        self._keep("engine", report.path, spec, details)
        return None

    def _folder(self) -> Path:
        if self._lake.store.is_directory:
            return self._lake.artifacts.root / "runs" / str(self._row["run"])
        return Path(tempfile.gettempdir()) / "dropmill-runs" / str(self._row["run"])

    def _keep(self, kind: str, path: Path, spec: TrainSpec, details: dict[str, Any] | None = None) -> None:
        """Put a file into the lake, and a row that says where it comes from into ``models``."""
        uri = self._lake.artifacts.upload(f"runs/{self._row['run']}/{path.name}", path)
        self._outputs[kind] = uri
        measured = {name: value for name, value in self._metrics.items() if name.endswith("mAP50")}
        row = {
            "model": f"{self._row['run']}/{path.name}",
            "run": self._row["run"],
            "dataset": self._row["dataset"],
            "architecture": f"{self._config.model}/resnet{spec.model_config.num_layers}",
            "categories": list(spec.classes),
            "kind": kind,
            "uri": uri,
            "size_bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            "metrics": json.dumps(measured | (details or {})),
            "snapshot": self._row["snapshot"],
            "made_at": datetime.now(UTC),
        }
        self._lake.put("models", pa.Table.from_pylist([row], schema=schemas.MODELS), keys=["model"])

    def _end(self, state: str, note: str | None) -> None:
        row = {
            **self._row,
            "state": state,
            "metrics": json.dumps({name: round(value, 6) for name, value in self._metrics.items()}),
            "outputs": json.dumps(self._outputs),
            "error": note,
            "ended_at": datetime.now(UTC),
        }
        self._lake.put("runs", pa.Table.from_pylist([row], schema=schemas.RUNS), keys=["run"])

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._metrics[f"{name}_s"] = time.monotonic() - began


def input_size(samples: tuple[Sample, ...]) -> tuple[int, int]:
    """Width and height of the network's input: the median image, at most 960 pixels long, multiples of 16."""
    width = statistics.median(sample.width for sample in samples)
    height = statistics.median(sample.height for sample in samples)
    shrink = min(1.0, _LONGEST_SIDE / max(width, height))
    return tuple(max(STRIDE, round(side * shrink / STRIDE) * STRIDE) for side in (width, height))  # type: ignore[return-value]
