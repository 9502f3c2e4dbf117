"""Compile an ONNX file to an engine, in a child process that may crash without harm.

Two builders: TensorRT, on a machine with a CUDA device, builds for that device. TensorRT for RTX builds
ahead of time, on any machine, for the GPU architectures that one names; its engines run in the TensorRT for
RTX runtime only.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from storage.errors import ExportError
from training.export.files import sha256_of, write_atomically
from training.export.precision import Precision, graph_precision, read_onnx, to_fp16

Backend = Literal["auto", "tensorrt", "tensorrt_rtx"]

_LOG = logging.getLogger(__name__)
_LOG_LINES = 12


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What was compiled, from what, with what and for what. The same is in the file ``<engine>.json``."""

    path: Path
    backend: str
    """tensorrt or tensorrt_rtx: also the runtime that can run the engine."""
    version: str
    precision: Precision
    architectures: tuple[str, ...]
    """CUDA compute capabilities."""
    max_batch: int
    size_bytes: int
    sha256: str
    seconds: float
    """Compiling alone."""
    onnx_sha256: str
    tensors: dict[str, dict[str, Any]]
    """Shape and type of the inputs and outputs; -1 is the batch."""
    fp16_difference: dict[str, float] | None
    """Largest difference of each output between the graph given and its half precision form, where it was
    converted here.
    """
    not_verified: str | None
    """None where the engine was read back; else why this machine could not."""
    warnings: tuple[str, ...]
    """What the builder said."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the lake."""
        return {**asdict(self), "path": str(self.path)}


def build_engine(
    onnx_path: str | Path,
    out_path: str | Path,
    *,
    precision: Precision = "fp32",
    max_batch: int = 16,
    workspace_bytes: int = 1 << 30,
    timeout_s: float = 1800.0,
    compute_capabilities: Sequence[str] = ("8.6", "8.9"),
    backend: Backend = "auto",
) -> EngineReport:
    """Compile ``onnx_path`` to ``out_path`` and write the report beside it.

    The graph says the precision: a float32 graph is converted for ``fp16``, and ``int8`` needs one with
    QuantizeLinear nodes. ``max_batch`` is the largest batch of a graph whose batch is free; a graph with a
    fixed batch keeps it. ``compute_capabilities`` are for TensorRT for RTX; TensorRT builds for the device
    that is there. ``auto`` prefers TensorRT.

    Raises :class:`ExportError`, with the builder's log, where no builder is installed, the graph does not
    fit, the builder fails or crashes, or ``timeout_s`` pass; then an older engine stays.
    """
    source, target = Path(onnx_path), Path(out_path)
    if max_batch < 1 or workspace_bytes < 1 or not timeout_s > 0 or not compute_capabilities:
        raise ExportError(
            f"{source}: max_batch={max_batch}, workspace_bytes={workspace_bytes}, timeout_s={timeout_s}, "
            f"compute_capabilities={list(compute_capabilities)}; expected positive numbers and some target"
        )
    found = graph_precision(read_onnx(source))
    if found != precision and (found, precision) != ("fp32", "fp16"):
        raise ExportError(
            f"{source}: the graph is {found} and {precision} was asked for; "
            + (
                "quantise it with calibration images first (quantise_onnx)"
                if precision == "int8"
                else f"ask for {found}"
            )
        )
    with tempfile.TemporaryDirectory(prefix="dropmill-engine-") as name:
        folder = Path(name)
        graph, difference = source.resolve(), None
        if found != precision:
            graph = folder / "half.onnx"
            difference = to_fp16(source, graph)
        request = {
            "onnx": str(graph),
            "engine": str(folder / "engine"),
            "backend": backend,
            "max_batch": max_batch,
            "workspace_bytes": workspace_bytes,
            "compute_capabilities": list(compute_capabilities),
        }
        result, log = _run(request, folder, timeout_s, source)
        report = EngineReport(
            path=target,
            backend=result["backend"],
            version=result["version"],
            precision=precision,
            architectures=tuple(result["architectures"]),
            max_batch=result["max_batch"],
            size_bytes=(folder / "engine").stat().st_size,
            sha256=sha256_of(folder / "engine"),
            seconds=round(result["seconds"], 3),
            onnx_sha256=sha256_of(source),
            tensors=result["tensors"],
            fp16_difference=difference,
            not_verified=result["not_verified"],
            warnings=tuple(log),
        )
        _publish(folder / "engine", report)
    _LOG.info(
        "built engine path=%s backend=%s size_bytes=%d seconds=%.1f architectures=%s not_verified=%s",
        target, report.backend, report.size_bytes, report.seconds, report.architectures, report.not_verified,
    )  # fmt: skip
    return report


def _run(
    request: dict[str, Any], folder: Path, timeout_s: float, source: Path
) -> tuple[dict[str, Any], list[str]]:
    """Start the builder and wait for it. Returns its result and the lines of its log."""
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    result_path, log_path = folder / "result.json", folder / "log"
    # -P: a folder named training in the current directory must not take the place of ours.
    command = [sys.executable, "-P", "-m", "training.export.tensorrt_build", "request.json", "result.json"]
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ExportError(
                f"{source}: the builder was stopped after {timeout_s:g} s; allow more time" + _tail(log_path)
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    result = json.loads(result_path.read_text(encoding="utf-8")) if result_path.is_file() else {}
    if "error" in result:
        raise ExportError(f"{source}: {result['error']}" + _tail(log_path))
    if code != 0 or not result:
        end = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise ExportError(f"{source}: the builder {end}" + _tail(log_path))
    return result, _lines(log_path)


def _publish(engine: Path, report: EngineReport) -> None:
    def check(written: Path) -> None:
        if sha256_of(written) != report.sha256:
            raise ExportError(f"{report.path}: the engine was not written completely; is the disk full?")

    write_atomically(report.path, lambda temporary: temporary.write_bytes(engine.read_bytes()), check)
    text = json.dumps({**report.as_dict(), "path": report.path.name}, indent=2) + "\n"
    sidecar = report.path.with_name(f"{report.path.name}.json")
    write_atomically(sidecar, lambda temporary: temporary.write_text(text, encoding="utf-8"), lambda _: None)


def _tail(log_path: Path) -> str:
    lines = _lines(log_path)[-_LOG_LINES:]
    return "; its log ends:\n  " + "\n  ".join(lines) if lines else ""


def _lines(log_path: Path) -> list[str]:
    return [
        line for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
