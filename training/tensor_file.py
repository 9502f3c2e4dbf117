"""Torch files: written whole or not at all, and read without pickle's powers."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from storage.errors import TrainingError

_MAX_BYTES = 16 << 30


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write atomically: ``path`` is either the old file or the whole new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def load_tensors(path: str | Path) -> dict[str, Any]:
    """A torch file, by path or by a URL that fsspec knows, as plain containers and tensors.

    ``TrainingError`` where it holds more than that, or cannot be read.
    """
    import fsspec

    try:
        with fsspec.open(str(path), "rb") as file:
            size = getattr(file, "size", None)
            if isinstance(size, int) and size > _MAX_BYTES:
                raise TrainingError(f"{path}: {size} bytes; expected at most {_MAX_BYTES}")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file; expected a torch file of weights") from None
    except (
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        LookupError,
        ValueError,
        AttributeError,
        TypeError,
        ImportError,
        AssertionError,
        OverflowError,
        MemoryError,
    ) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise TrainingError(
            f"{path}: cannot be read as a torch file of weights: {type(error).__name__}: {reason}"
        ) from None
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: a torch file with a {type(content).__name__}; expected a state dict")
    return content
