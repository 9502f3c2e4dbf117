"""A command whose packages are not installed says which extra brings them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_WITHOUT = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {blocked!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = {words!r}
from dropmill.cli import main
main()
"""


def run_without(blocked: str, *words: str) -> subprocess.CompletedProcess[str]:
    code = _WITHOUT.format(blocked=blocked, words=["dropmill", *words])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("blocked", "words", "extra"),
    [
        ("torch", ("demo", "--out", "{folder}/out"), "train"),
        ("torch", ("model", "detectnet_v2", "train", "--lake", "{folder}", "--dataset", "road"), "train"),
        ("botocore", ("ingest", "s3://drops", "--lake", "{folder}"), "s3"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, blocked: str, words: tuple[str, ...], extra: str
) -> None:
    ended = run_without(blocked, *(word.format(folder=tmp_path) for word in words))
    assert ended.returncode == 2, ended.stderr
    assert blocked in ended.stderr
    assert f"dropmill[{extra}" in ended.stderr
    assert "Traceback" not in ended.stderr
