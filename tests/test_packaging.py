"""The distribution: its names are ours alone, and its parts import without what they do not need."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parents[1]
_OURS = ("dropmill", "ingest", "transforms", "quality", "training", "storage")


def settings() -> dict[str, object]:
    content: dict[str, object] = tomllib.loads((_PROJECT / "pyproject.toml").read_text())
    return content


def test_each_of_our_names_belongs_to_our_distribution_only() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in _OURS:
        assert set(owners.get(name, ["dropmill"])) == {"dropmill"}, name


def test_the_wheel_holds_our_packages_and_neither_tests_nor_infra() -> None:
    wheel = settings()["tool"]["hatch"]["build"]["targets"]["wheel"]  # type: ignore[index]
    assert tuple(wheel["packages"]) == _OURS


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (_PROJECT / "requirements.lock").read_text()
    pins = [line for line in text.splitlines() if "==" in line and not line.startswith(" ")]
    assert len(pins) > 50
    assert text.count("--hash=sha256:") >= len(pins)
    assert "//" not in text
    assert "--index" not in text


_BLOCKER = """
import importlib.abc, importlib, pkgutil, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("not in this environment: " + name)
sys.meta_path.insert(0, Blocker())
for package in {packages!r}:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        if not found.name.startswith({extra!r}):
            importlib.import_module(found.name)
"""


# Classes of Great Expectations, and a dataset of torch: both packages come with extras.
_WITH_EXTRAS = ("quality.expectations.", "transforms.shards.reader")


def imports_without(packages: tuple[str, ...], blocked: tuple[str, ...]) -> None:
    code = _BLOCKER.format(packages=packages, blocked=set(blocked), extra=_WITH_EXTRAS)
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=_PROJECT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.slow
def test_training_imports_in_a_plain_pytorch_environment() -> None:
    imports_without(("training",), ("ray", "polars", "deltalake", "duckdb", "pydantic", "pyarrow", "msgspec"))


def test_the_core_imports_without_torch() -> None:
    imports_without(
        ("storage", "quality", "transforms", "ingest"),
        ("torch", "torchvision", "onnx", "onnxruntime", "tensorrt", "cv2", "nvidia", "pandas", "s3fs"),
    )
