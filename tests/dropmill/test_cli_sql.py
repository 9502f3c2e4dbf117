"""The bounds of ``dropmill sql`` hold where DuckDB by itself would not look up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage.lake import Lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bounds") / "lake"
    Lake.create(folder)
    return folder


def _sql(lake: Path, query: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dropmill", "sql", query, "--lake", str(lake), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_text_that_is_larger_than_the_memory_ends_in_an_error(lake: Path) -> None:
    query = "SELECT length(repeat('x', 4000000000)) FROM range(10)"
    done = _sql(lake, query, "--memory", "300MB", "--timeout", "20")
    assert done.returncode == 2
    assert "needs more memory than it may have" in done.stderr
    assert "SET " not in done.stderr


@pytest.mark.slow
def test_a_single_call_that_does_not_end_is_given_up(lake: Path) -> None:
    query = "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))"
    done = _sql(lake, query, "--timeout", "1")
    assert done.returncode == 1
    assert "a call of one function went on after 1 s" in done.stderr


def test_a_value_that_cannot_be_printed_says_what_to_do(lake: Path) -> None:
    done = _sql(lake, "SELECT '290000-01-01'::date AS day")
    assert done.returncode == 2
    assert "column::VARCHAR" in done.stderr
