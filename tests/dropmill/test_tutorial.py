"""``docs/tutorial.md``: its blocks run in their order, and print what stands below them.

``python -m tests.dropmill.test_tutorial`` writes the answers anew; what differs from one time to the next
has to be made ``…`` by hand then.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.dropmill.test_questions import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
_BLOCK = re.compile(
    r"```sh\n(?P<sh>.*?)\n```(\n\n```text\n(?P<text>.*?)```)?|```sql\n(?P<sql>.*?)\n```(?P<rows>\n\n(\|[^\n]*\n)+)?",
    re.DOTALL,
)
_LONGEST_S = 540.0


@pytest.mark.slow
def test_a_newcomers_hour_is_as_the_page_says(tmp_path: Path) -> None:
    for module in ("onnx", "onnxruntime", "torch"):
        pytest.importorskip(module, reason="the pipeline of the page needs the extras train and export")
    page = PAGE.read_text()
    printed = run(page, tmp_path)
    for block, found in zip(_BLOCK.finditer(page), printed, strict=True):
        expected = (block["text"] or "") if block["sh"] else (block["rows"] or "").strip()
        assert re.fullmatch(_pattern(expected.strip()), found), f"{block[0]}\nprinted:\n{found}"


def run(page: str, folder: Path) -> list[str]:
    """What each block prints, all in one shell in ``folder``; of a query its answer as a table."""
    mark = "--- end of a block ---"
    script = [f"export PATH={Path(sys.executable).parent}:$PATH"]
    for block in _BLOCK.finditer(page):
        script += [
            block["sh"] or f"dropmill sql '{_quoted(block['sql'])}' --lake lake --json",
            f"echo '{mark}'",
        ]
    shell = subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    try:
        out, errors = shell.communicate(timeout=_LONGEST_S)
    finally:
        # What a block left in the background ends with the shell.
        for process in _left(shell.pid):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        shell.wait()
    parts = out.split(mark + "\n")[:-1]
    blocks = list(_BLOCK.finditer(page))
    assert len(parts) == len(blocks), f"{errors[-3000:]}\n{_tail(folder / 'service.log')}"
    return [part.strip() if block["sh"] else _answer(part) for block, part in zip(blocks, parts, strict=True)]


def answered(page: str, printed: list[str]) -> str:
    """The page with what its blocks have printed."""
    answers = iter(printed)

    def block(match: re.Match[str]) -> str:
        found = next(answers)
        if match["sh"] is None:
            return f"```sql\n{match['sql']}\n```\n\n{found}\n"
        return f"```sh\n{match['sh']}\n```" + (
            f"\n\n```text\n{found}\n```" if match["text"] is not None else ""
        )

    return _BLOCK.sub(block, page)


def _pattern(expected: str) -> str:
    return re.escape(expected).replace("…", ".*")


def _answer(said: str) -> str:
    return table(json.loads(said))


def _quoted(query: str) -> str:
    return query.replace("'", "'\\''")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:] if log.exists() else ""


def _left(shell: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(shell)
        return [*first.children(recursive=True), first]
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = PAGE.read_text()
        PAGE.write_text(answered(text, run(text, Path(folder))))
