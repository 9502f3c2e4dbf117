"""What the extras of the distribution bring, and a clear word where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from storage.errors import ConfigError

MODULES = {
    "train": ("torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "pycocotools"),
    "export": ("tensorrt_rtx_bindings",),
    "quality": ("great_expectations", "matplotlib", "pandas"),
    "wandb": ("wandb",),
    "zoo": ("transformers", "faster_coco_eval"),
    "augment": ("nvidia", "cv2"),
    "masks": ("cv2",),
    "s3": ("obstore", "botocore", "s3fs"),
}
"""Extra to the modules that it brings, as they are imported."""


def require(*extras: str) -> None:
    """Raise ConfigError where a module of these extras is not installed."""
    missing = [name for extra in extras for name in MODULES[extra] if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not installed; pip install 'dropmill[{','.join(extras)}]'")


def lack(error: ModuleNotFoundError) -> ConfigError | None:
    """What to say of an import that failed; None where it is of no extra, and so a fault of ours."""
    module = (error.name or "").partition(".")[0]
    extras = [extra for extra, modules in MODULES.items() if module in modules]
    return ConfigError(f"{module} not installed; pip install 'dropmill[{extras[0]}]'") if extras else None
