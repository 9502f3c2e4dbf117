"""Weights & Biases, without an account: the run stays on disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dropmill.delivered import open_uri, read_folder
from quality.drawing import draw_sample
from quality.page_kinds import Table
from quality.pages import chapters
from quality.review import review
from quality.wandb_log import log_report
from storage.errors import ConfigError


@pytest.mark.slow
def test_an_offline_run_holds_all_charts_tables_and_pictures(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    material = read_folder(shared_data / "kitti" / "label_2", shared_data / "kitti" / "image_2").material
    found = review(material)
    drawn = draw_sample(material.images, material.boxes, tmp_path / "drawn", size=2, read=open_uri)
    shown = chapters(found)
    log_report(shown, drawn.files, folder=tmp_path, size=(3, 3), project="tao data analytics", tags=["kitti"])
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    media = [path for path in (run / "files" / "media").rglob("*") if path.is_file()]
    pages = [page for chapter in shown for page in chapter.pages]
    charts = sum(not isinstance(page, Table) for page in pages)
    pictures = [path for path in media if path.suffix in {".png", ".jpg"}]
    tables = [path for path in media if path.name.endswith(".table.json")]
    assert len(pictures) == charts + 2
    assert len(tables) == len(pages) - charts + 1


def test_without_the_package_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'dropmill\[wandb\]'"):
        log_report([], [], folder=tmp_path)
