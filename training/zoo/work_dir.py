"""The folder of a training: on a disk, or in any store that fsspec knows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from storage.errors import StoreError, TrainingError


class WorkDir:
    """Whole files by name; a reader never sees half of one."""

    def __init__(self, url: str | Path) -> None:
        import fsspec

        self.url = str(url).rstrip("/") or "/"
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError, OSError) as error:
            raise TrainingError(f"{url}: {error}; expected a folder or a URL that fsspec knows") from None
        self._here = "file" in (self._files.protocol if isinstance(self._files.protocol, tuple) else ())
        self._board: tempfile.TemporaryDirectory[str] | None = None

    def path(self, name: str) -> str:
        """The place of a file, for messages and other readers."""
        return f"{self.url}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Put a file, in place of one of that name."""
        place = f"{self._root}/{name}"
        try:
            if self._here:
                target = Path(place)
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
                partial.write_bytes(data)
                partial.replace(target)
            else:
                # Object stores show an object when it is whole.
                self._files.pipe_file(place, data)
        except OSError as error:
            raise StoreError(f"{self.path(name)}: cannot be written: {error}") from error

    def read(self, name: str) -> bytes | None:
        """A file, None where there is none."""
        try:
            data: bytes = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return data

    def remove(self, name: str) -> None:
        """Take a file away if it is there."""
        if self._files.exists(f"{self._root}/{name}"):
            self._files.rm_file(f"{self._root}/{name}")

    def names(self, pattern: str) -> list[str]:
        """Names of files that fit a pattern of this folder, sorted."""
        return sorted(str(found).rsplit("/", 1)[-1] for found in self._files.glob(f"{self._root}/{pattern}"))

    def board(self) -> Any:
        """A TensorBoard writer, in the folder or in a copy of it that ``sync_board`` brings there."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "train.tensorboard needs tensorboardX: pip install dropmill[train]"
            ) from error
        if self._here:
            return SummaryWriter(f"{self._root}/tensorboard")
        self._board = tempfile.TemporaryDirectory()
        return SummaryWriter(self._board.name)

    def sync_board(self) -> None:
        """Copy what TensorBoard wrote to a store."""
        if self._board is not None:
            for file in Path(self._board.name).iterdir():
                self.write(f"tensorboard/{file.name}", file.read_bytes())
