"""Chaos at a small size; ``make chaos`` runs the full one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.model import Chaos

pytest.importorskip("moto.server", reason="moto is not installed")


@pytest.mark.slow
def test_after_kills_and_faults_the_tables_are_what_the_bucket_holds(tmp_path: Path) -> None:
    chaos = Chaos(seed=11, folder=tmp_path, events=150, kills=2, samples=40)
    done = chaos.run()
    assert done["rows"]["annotations"]
