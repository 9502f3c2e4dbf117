"""The process that compiles: ``python -m training.export.tensorrt_build REQUEST RESULT``, two JSON files.

It is a process of its own because the builder is native code that can crash or hang, and because its CUDA
libraries must not meet those of torch. It imports nothing but the standard library and the bindings. The
builder's log goes to standard error; :mod:`training.export.engine` starts it and reads both.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RTX_LIBRARIES = ("libcudart.so.12", "libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1")
_RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"

# Numbers of the CUDA driver's API: cuDeviceGetAttribute's compute capability, major and minor.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


_DTYPES = {"FLOAT": "float32", "HALF": "float16"}


class BuildError(Exception):
    """Why there is no engine, in a sentence that ends with what to do."""


def build(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compile ``request["onnx"]`` to ``request["engine"]`` and say with what, for what, and what was
    verified.
    """
    device = cuda_device()
    name, trt = _backend(str(request["backend"]), device)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    # TensorRT 10 takes types from the graph only when asked, 11 and RTX always do.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(request["onnx"])):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise BuildError(f"{name} cannot read the graph: {reasons}")

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(request["workspace_bytes"]))
    max_batch = _batch_profile(builder, network, config, int(request["max_batch"]))
    targets = _target(trt, config, name, request["compute_capabilities"], device)

    start = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{name} built no engine")
    data = bytes(memoryview(plan))
    seconds = time.monotonic() - start
    Path(str(request["engine"])).write_bytes(data)
    return {
        "backend": name,
        "version": str(trt.__version__),
        "architectures": targets,
        "max_batch": max_batch,
        "seconds": seconds,
        "tensors": _tensors(network),
        "not_verified": _verify(trt, logger, data, network, targets, device),
    }


def cuda_device() -> str | None:
    """Compute capability of the first CUDA device, such as "8.9"; None where the driver shows none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    calls = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
    )
    return None if any(call() for call in calls) else f"{major.value}.{minor.value}"


def bindings(backend: str) -> Any:
    """The module of ``tensorrt`` or ``tensorrt_rtx``, its libraries loaded; :class:`BuildError` where it is
    absent.
    """
    if backend == "tensorrt":
        if importlib.util.find_spec("tensorrt") is None:
            raise BuildError("TensorRT is not installed: pip install dropmill[tensorrt]")
        return importlib.import_module("tensorrt")
    spec = importlib.util.find_spec(_RTX_PACKAGE)
    if spec is None or importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        raise BuildError(
            "TensorRT for RTX, which builds without a GPU, is not installed: pip install dropmill[export]"
        )
    _load_rtx(spec.submodule_search_locations or ())
    return importlib.import_module("tensorrt_rtx_bindings")


def _backend(wanted: str, device: str | None) -> tuple[str, Any]:
    """The builder that can work here, by name and module."""
    reasons = []
    for name in ("tensorrt", "tensorrt_rtx") if wanted == "auto" else (wanted,):
        try:
            module = bindings(name)
        except BuildError as error:
            reasons.append(str(error))
            continue
        if name != "tensorrt" or device is not None:
            return name, module
        reasons.append("TensorRT is installed but builds on a CUDA device only, and the driver shows none")
    raise BuildError("; ".join(reasons))


def _load_rtx(folders: Iterable[str]) -> None:
    """Load the libraries that the bindings expect to find in the process already.

    The package that brings them is not imported: it registers itself with ONNX Runtime and rewrites links.
    """
    runtime = importlib.util.find_spec("nvidia.cuda_runtime") if importlib.util.find_spec("nvidia") else None
    extra = [f"{folder}/lib" for folder in (runtime.submodule_search_locations or ())] if runtime else []
    for library in RTX_LIBRARIES:
        files = [file for folder in (*folders, *extra) for file in sorted(Path(folder).glob(f"{library}*"))]
        try:
            ctypes.CDLL(str(files[0]) if files else library, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            wheel = (
                "nvidia-cuda-runtime-cu12" if "cudart" in library else "onnxruntime-ep-nv-tensorrt-rtx-cu12"
            )
            raise BuildError(f"cannot load {library}: {error}; pip install {wheel}") from error


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                sys.stderr.write(f"{severity.name}: {message}\n")
                sys.stderr.flush()

    return Logger()


def _batch_profile(builder: Any, network: Any, config: Any, max_batch: int) -> int:
    """Give a graph with a free batch axis its range, and return the largest batch the engine takes."""
    image = network.get_input(0)
    batch, *size = tuple(image.shape)
    if network.num_inputs != 1 or len(size) != 3 or min(size) < 1:
        raise BuildError(
            f"the graph has {network.num_inputs} inputs, the first is {image.name} {(batch, *size)}; "
            "expected one image input (batch, channels, height, width) with only the batch free"
        )
    if batch > 0:
        return int(batch)
    profile = builder.create_optimization_profile()
    profile.set_shape(image.name, (1, *size), (max_batch, *size), (max_batch, *size))
    config.add_optimization_profile(profile)
    return max_batch


def _target(
    trt: Any, config: Any, backend: str, capabilities: Iterable[str], device: str | None
) -> list[str]:
    """Which GPU architectures the engine is for: TensorRT builds for the one that is there, RTX for those
    asked.
    """
    if backend == "tensorrt":
        return [str(device)]
    targets = list(capabilities)
    known = {f"{name[2:-1]}.{name[-1]}": value for name, value in trt.ComputeCapability.__members__.items()
             if name.startswith("SM")}  # fmt: skip
    if strange := [target for target in targets if target not in known]:
        raise BuildError(
            f"TensorRT for RTX does not build for compute capability {', '.join(strange)}; "
            f"it knows {', '.join(known)}"
        )
    config.num_compute_capabilities = len(targets)
    for i, target in enumerate(targets):
        config.set_compute_capability(known[target], i)
    return targets


def _tensors(network: Any) -> dict[str, dict[str, Any]]:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return {
        side: {
            tensor.name: {
                "shape": list(tensor.shape),
                "dtype": _DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower()),
            }
            for tensor in tensors
        }
        for side, tensors in (("inputs", inputs), ("outputs", outputs))
    }


def _verify(
    trt: Any, logger: Any, data: bytes, network: Any, targets: list[str], device: str | None
) -> str | None:
    """Read the engine back where this machine can; else say why not."""
    if device is None:
        return "not deserialised: the driver shows no CUDA device"
    if device not in targets:
        return f"not deserialised: the device has compute capability {device}"
    engine = trt.Runtime(logger).deserialize_cuda_engine(data)
    if engine is None:
        raise BuildError("the engine was built but cannot be read back")
    found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    wanted = {network.get_input(0).name, *(network.get_output(i).name for i in range(network.num_outputs))}
    if found != wanted:
        raise BuildError(f"the engine has the tensors {sorted(found)}; expected {sorted(wanted)}")
    return None


def _main(request_path: str, result_path: str) -> int:
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    try:
        result = build(request)
    except BuildError as error:
        result = {"error": str(error)}
    Path(result_path).write_text(json.dumps(result), encoding="utf-8")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
