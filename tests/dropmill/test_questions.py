"""``docs/questions.md``: its queries run, and its answers are what they give on the rendered scenes.

``python -m tests.dropmill.test_questions`` writes the answers anew.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import pytest

from ingest.derive import Settings
from storage.lake import Lake
from tests.ingest.mill import Mill
from transforms.scenes.config import SceneConfig
from transforms.scenes.dataset import write_scenes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "questions.md"
_FIRST_DELIVERY = 40
_BLOCK = re.compile(r"```sql\n(?P<sql>.*?)\n```\n(\n(\|[^\n]*\n)+)?", re.DOTALL)


@pytest.mark.slow
def test_the_page_holds_the_answers_that_its_queries_give(tmp_path: Path) -> None:
    page = PAGE.read_text()
    assert len(re.findall(r"^## \d+\. .*\?$", page, re.MULTILINE)) == 20
    assert answered(page, delivered(tmp_path)) == page, "stale: python -m tests.dropmill.test_questions"


def answered(page: str, lake: Lake) -> str:
    """The page with the answer of every query below it."""

    def block(match: re.Match[str]) -> str:
        return f"```sql\n{match['sql']}\n```\n\n{table(lake.sql(match['sql']).to_pylist())}\n"

    return _BLOCK.sub(block, page)


def table(rows: list[dict[str, object]]) -> str:
    """Rows as a table in Markdown."""
    assert rows, "every question has an answer on the scenes"

    def line(cells: list[object]) -> str:
        return (
            "| " + " | ".join("" if cell is None else str(cell).replace("|", "\\|") for cell in cells) + " |"
        )

    head = [line(list(rows[0])), line(["---"] * len(rows[0]))]
    return "\n".join([*head, *(line(list(row.values())) for row in rows)])


def delivered(folder: Path) -> Lake:
    """A lake of sixty scenes in two deliveries."""
    scenes = folder / "scenes" / "aircraft"
    write_scenes(SceneConfig(images=60, width=320, height=240, seed=7), scenes)
    mill = Mill(folder / "drops", folder / "lake", Settings())
    files = sorted(path for path in scenes.rglob("*") if path.is_file())

    def late(path: Path) -> bool:
        return path.stem.isdigit() and int(path.stem) >= _FIRST_DELIVERY

    for delivery in (False, True):
        for path in files:
            if late(path) == delivery:
                target = mill.folder / "aircraft" / path.relative_to(scenes)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        mill.ingest()
    return mill.lake


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(answered(PAGE.read_text(), delivered(Path(folder))))
