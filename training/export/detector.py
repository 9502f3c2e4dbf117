"""``export``: a checkpoint as ONNX (fp32, fp16, int8), with everything that its users need beside it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.errors import ConfigError
from training.detectnet_v2.checkpoint import load_model
from training.detectnet_v2.infer import clustering_of
from training.detectnet_v2.model import DetectNetV2
from training.detectnet_v2.qat import folded_twin, is_quantised
from training.detectnet_v2.spec import TrainSpec
from training.evaluation.onnx_runner import Images
from training.export.calibration import write_calibration_cache
from training.export.deploy import Deployment, write_nvinfer_config, write_triton_repository
from training.export.engine import build_engine
from training.export.files import write_atomically
from training.export.onnx_graph import export_onnx, write_labels
from training.export.precision import Precision, read_onnx, to_fp16
from training.export.qat_graph import export_qat_onnx
from training.export.quantise import quantise_onnx

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is wanted beside the ONNX file; None is not."""

    precision: Precision = "fp32"
    force_ptq: bool = False
    """Calibrate a network of quantisation-aware training as if it were none."""
    calibration_cache: Path | None = None
    engine: Path | None = None
    max_batch: int = 16
    workspace_bytes: int = 1 << 30
    compute_capabilities: tuple[str, ...] = ("8.6", "8.9")
    nvinfer: bool = False
    triton: Path | None = None
    batch_size: int = 8
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The files that were written, by what they are, and how the ranges of int8 came about."""

    files: dict[str, Path]
    precision: Precision
    quantised_by: str | None
    difference: dict[str, float]
    """Of each output from the float network: the largest for fp32 and fp16, the mean for int8."""
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "files": {name: str(path) for name, path in self.files.items()},
            "precision": self.precision,
            "quantised_by": self.quantised_by,
            "difference": self.difference,
            "notes": list(self.notes),
        }


def export_detector(
    checkpoint: Path,
    out: Path,
    options: ExportOptions,
    *,
    calibration: Callable[[DetectNetV2], Iterable[Images]] | None = None,
) -> ExportReport:
    """Export to ``out`` (ONNX) and write ``labels.txt`` beside it, and what ``options`` ask for.

    ``calibration`` gives pictures ``[C, H, W]`` in [0, 1] of the network's size; it is asked only for int8 of
    a network that was not trained for it. Raises ``ConfigError`` where it is needed and absent.
    """
    model, spec = load_model(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    shape = (model.channels, model.height, model.width)
    metadata = {
        "bbox_scale": str(model.scale),
        "bbox_offset": str(model.offset),
        "stride": str(model.stride),
        **options.metadata,
    }
    notes: list[str] = []
    files: dict[str, Path] = {"onnx": out}
    with tempfile.TemporaryDirectory(prefix="dropmill-export-") as name:
        plain = Path(name) / "plain.onnx"
        trained = is_quantised(model) and not options.force_ptq
        quantised_by = None
        if options.precision == "int8" and trained:
            difference = export_qat_onnx(
                model, out, input_shape=shape, classes=model.classes, metadata=metadata
            )
            quantised_by = "quantisation-aware training"
        else:
            report = export_onnx(
                folded_twin(model)[0], plain, input_shape=shape, classes=model.classes, metadata=metadata
            )
            difference = report.max_difference
        if options.precision == "int8" and not trained:
            if calibration is None:
                raise ConfigError(
                    f"{checkpoint}: int8 needs pictures for calibration: give --cal_image_dir, "
                    "--cal_data_file or an experiment spec with data, or train with enable_qat"
                )
            quantised = quantise_onnx(plain, out, calibration(model), batch_size=options.batch_size)
            difference, quantised_by = quantised.mean_difference, f"{quantised.calibration_images} pictures"
        elif options.precision == "fp16":
            difference = to_fp16(plain, out)
        elif options.precision == "fp32":
            write_atomically(out, lambda temporary: shutil.copyfile(plain, temporary), lambda _: None)
    files["labels"] = out.with_name("labels.txt")
    write_labels(files["labels"], model.classes)
    if options.calibration_cache is not None:
        if options.precision == "int8":
            write_calibration_cache(options.calibration_cache, read_onnx(out))
            files["calibration cache"] = options.calibration_cache
        else:
            notes.append(f"no calibration cache: it is for int8, and this is {options.precision}")
    deployed = None
    if options.engine is not None:
        built = build_engine(
            out,
            options.engine,
            precision=options.precision,
            max_batch=options.max_batch,
            workspace_bytes=options.workspace_bytes,
            compute_capabilities=options.compute_capabilities,
        )
        files["engine"] = options.engine
        if built.backend == "tensorrt":
            deployed = options.engine
        elif options.nvinfer or options.triton is not None:
            notes.append(
                "DeepStream and Triton get the ONNX file: the engine is for TensorRT for RTX, which they "
                "do not have"
            )
    _deploy(out, spec, model, options, files, deployed)
    logger.info("exported precision=%s files=%s", options.precision, ",".join(files))
    return ExportReport(
        files=files,
        precision=options.precision,
        quantised_by=quantised_by,
        difference=difference,
        notes=tuple(notes),
    )


def _deploy(
    out: Path,
    spec: TrainSpec,
    model: DetectNetV2,
    options: ExportOptions,
    files: dict[str, Path],
    engine: Path | None,
) -> None:
    """Write what ``options`` ask for; ``engine`` is one that the runtimes of DeepStream and Triton read."""
    deployment = Deployment(
        classes=model.classes,
        input_shape=(model.channels, model.height, model.width),
        clustering=clustering_of(spec),
        precision=options.precision,
        max_batch=options.max_batch,
        scale=model.scale,
        offset=model.offset,
    )
    if options.nvinfer:
        files["nvinfer"] = out.with_name("nvinfer_config.txt")
        write_nvinfer_config(
            files["nvinfer"],
            deployment,
            onnx=out,
            labels=files["labels"],
            engine=engine,
        )
    if options.triton is not None:
        files["triton"] = write_triton_repository(
            options.triton,
            deployment,
            name=out.stem,
            model=engine or out,
            platform="tensorrt_plan" if engine else "onnxruntime_onnx",
        )
