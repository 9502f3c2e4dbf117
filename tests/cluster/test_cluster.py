"""Nodes that die, at a small size; ``make cluster`` goes the whole way to an engine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("moto.server", reason="moto is not installed")


@pytest.mark.slow
def test_workers_that_die_in_the_midst_of_parsing_and_of_a_step_leave_nothing_lost_or_doubled() -> None:
    # In a process of its own: one that has spoken to a cluster without a token has none for one that asks.
    # With this seed the step is hit within its first half second.
    words = ["--seed", "32", "--images", "8", "--steps", "augment", "--kills", "parse", "augment"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.cluster", *words],
        capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-5000:]
    done = json.loads(ended.stdout.splitlines()[-1])
    assert done["attempts"]["augment"] >= 2
    assert done["kills"].keys() == {"parse", "augment"}
    assert done["rows"]["images"] == 8
