"""Parts of detectors by name: a plain decorator puts a function in, a spec takes it out."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from storage.errors import ConfigError, UnknownKeyError

Builder = TypeVar("Builder", bound=Callable[..., Any])


class Registry(Generic[Builder]):
    """Functions by name. ``kind`` is what errors call them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._known: dict[str, Builder] = {}

    def register(self, name: str) -> Callable[[Builder], Builder]:
        """Decorator: ``@BACKBONES.register("tiny")``. A name that another function has is an error."""

        def put(function: Builder) -> Builder:
            known = self._known.get(name)
            if known is not None and _place(known) != _place(function):
                raise ConfigError(
                    f"{self.kind} {name!r} is there already: {_place(known)}; take another name"
                )
            self._known[name] = function
            return function

        return put

    def __getitem__(self, name: str) -> Builder:
        if name not in self._known:
            raise UnknownKeyError(f"model.{self.kind}", name, self._known)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._known))


BACKBONES: Registry[Any] = Registry("backbone")
"""``(spec: ModelSpec) -> module``: images to a list of maps, strides 4, 8, 16, 32; attribute ``channels``."""
NECKS: Registry[Any] = Registry("neck")
"""``(channels: Sequence[int], spec) -> module``: that list to a dict of maps; attribute ``out_channels``."""
HEADS: Registry[Any] = Registry("head")
"""``(HeadInput) -> module``, as the detector that names it needs it."""
DETECTORS: Registry[Any] = Registry("detector")
"""``(spec: ModelSpec, classes: int) -> module`` that takes images and targets as torchvision's do."""
TRANSFORMS: Registry[Any] = Registry("transform")
"""``(image, target, draw: numpy Generator) -> image, target``, of training samples."""


def import_parts(files: Sequence[str | Path]) -> None:
    """Run Python files that register parts; each once in a process. Raises ``ConfigError``."""
    for file in files:
        path = Path(file).resolve()
        name = f"dropmill_parts_{path.stem}_{abs(hash(str(path))):x}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ConfigError(f"imports: {path} is not there; expected a Python file that registers parts")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ConfigError(f"imports: {path}: {type(error).__name__}: {error}") from error


def _place(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}" if code else repr(function)
