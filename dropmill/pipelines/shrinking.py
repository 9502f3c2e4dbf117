"""The steps that make a trained network smaller and ready for use: prune, quantise, export."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropmill import __version__
from dropmill.pipelines.learning import about, train_for_int8
from dropmill.pipelines.step_data import ids_of, read_data
from dropmill.pipelines.step_run import StepRun
from dropmill.pipelines.steps_config import ExportConfig, PruneConfig, QuantiseConfig
from storage.errors import ExportError
from training.detectnet_v2.calibration_data import spec_inputs
from training.detectnet_v2.checkpoint import load_checkpoint, load_model, save_checkpoint
from training.detectnet_v2.prune import prune as prune_network
from training.detectnet_v2.spec import TrainSpec
from training.export.calibration import stacked
from training.export.detector import ExportOptions, ExportReport, export_detector
from training.export.engine import build_engine
from training.export.precision import Precision, graph_precision, read_onnx

if TYPE_CHECKING:
    from training.detectnet_v2.model import DetectNetV2
    from training.evaluation.onnx_runner import Images

log = logging.getLogger(__name__)

_BATCH = 8


def prune(run: StepRun) -> None:
    """Take filters out of the checkpoint; what is left has to be trained again."""
    config = PruneConfig.model_validate(run.parameters)
    source = run.needed("model").file("checkpoint")
    network, spec = load_model(source)
    report = prune_network(
        network,
        threshold=config.threshold,
        normalizer=config.normalizer,
        equalization=config.equalization,
        granularity=config.granularity,
        min_filters=config.min_filters,
        excluded=config.excluded,
    )
    run.metrics |= {
        "ratio": report.ratio,
        "parameters_before": report.parameters_before,
        "parameters_after": report.parameters_after,
    }
    path = run.folder / "pruned.pt"
    save_checkpoint(path, network, spec, metrics={"pruned_from": source.name, "ratio": report.ratio})
    run.keep("checkpoint", path, about(spec), {"ratio": report.ratio})


def quantise(run: StepRun) -> None:
    """Make it int8: a checkpoint that was trained for it, or an ONNX file with measured ranges."""
    config = QuantiseConfig.model_validate(run.parameters)
    if config.method == "qat":
        train_for_int8(run, config)
        return
    checkpoint = run.needed("model").file("checkpoint")
    spec = load_checkpoint(checkpoint).spec
    report = _export(run, checkpoint, spec, "int8", config.images)
    _keep_files(run, spec, report)


def export(run: StepRun) -> str | None:
    """ONNX and an engine. A machine without a builder still has its model: then the reason is returned."""
    config = ExportConfig.model_validate(run.parameters)
    before = run.needed("model")
    checkpoint = before.file("checkpoint")
    if before.detector != "detectnet_v2":
        from dropmill.pipelines import zoo_steps

        onnx, said = zoo_steps.export(run, checkpoint, config)
        # Its graph takes one image at a time.
        return _compile(run, onnx, said, config, max_batch=1) if config.engine else None
    spec = load_checkpoint(checkpoint).spec
    graph = before.outputs_said.get("onnx")
    if graph is None:
        report = _export(run, checkpoint, spec, config.precision, config.images)
        _keep_files(run, spec, report)
        onnx = report.files["onnx"]
    else:
        # Quantised without training: the graph is there already, and only an engine is wanted.
        onnx = before.file("onnx")
        run.keep("labels", before.file("labels"), about(spec))
        run.keep("onnx", onnx, about(spec), {"precision": graph_precision(read_onnx(onnx))})
    return _compile(run, onnx, about(spec), config, max_batch=config.max_batch) if config.engine else None


def _compile(
    run: StepRun, onnx: Path, said: Mapping[str, Any], config: ExportConfig, *, max_batch: int
) -> str | None:
    precision = graph_precision(read_onnx(onnx))
    try:
        with run.stage("compile_the_engine"):
            report = build_engine(
                onnx,
                run.folder / "model.engine",
                precision=precision,
                max_batch=max_batch,
                compute_capabilities=config.compute_capabilities,
            )
    except ExportError as error:
        log.warning("no engine", extra={"run": run.name, "why": str(error)})
        return f"no engine: {error}"
    details = {
        "backend": report.backend,
        "version": report.version,
        "precision": report.precision,
        "architectures": list(report.architectures),
        "not_verified": report.not_verified,
    }
    run.keep("engine", report.path, said, details)
    return None


def _export(
    run: StepRun, checkpoint: Path, spec: TrainSpec, precision: Precision, images: int
) -> ExportReport:
    metadata = {
        "architecture": about(spec)["architecture"],
        "dropmill": __version__,
        "run": run.name,
        "dataset": run.dataset,
        "snapshot": run.row["snapshot"],
        "random_seed": str(spec.random_seed),
    }
    with run.stage("export"):
        report = export_detector(
            checkpoint,
            run.folder / "model.onnx",
            ExportOptions(precision=precision, metadata=metadata),
            calibration=_calibration(run, spec, images),
        )
    for name, difference in report.difference.items():
        run.metrics[f"difference/{name}"] = difference
    return report


def _calibration(run: StepRun, spec: TrainSpec, images: int) -> Callable[[DetectNetV2], Iterable[Images]]:
    """Training images of the snapshot as the network sees them; they are read only where they are needed."""

    def inputs(_: DetectNetV2) -> Iterable[Images]:
        data = read_data(run, spec.random_seed)
        run.saw({"calibration": ids_of(data.train)})
        for batch in stacked(spec_inputs(data.train, spec, most=images), _BATCH):
            yield from batch

    return inputs


def _keep_files(run: StepRun, spec: TrainSpec, report: ExportReport) -> None:
    details: dict[str, Any] = {"precision": report.precision}
    if report.quantised_by is not None:
        details["quantised_by"] = report.quantised_by
    run.keep("onnx", report.files["onnx"], about(spec), details)
    run.keep("labels", report.files["labels"], about(spec))
