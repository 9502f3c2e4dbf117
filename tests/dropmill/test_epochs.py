"""Progress of trainings whose processes are elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event

from dropmill.cli.epochs import epochs_told


def test_new_lines_are_told_as_they_come_and_none_twice(tmp_path: Path) -> None:
    file, told, second = tmp_path / "metrics.jsonl", [], Event()
    file.write_text(json.dumps({"epoch": 1}) + "\n")

    def tell(line: dict[str, int]) -> None:
        told.append(line["epoch"])
        second.set()

    with epochs_told(file.read_bytes, tell, look_every_s=0.01):
        file.write_text("".join(json.dumps({"epoch": number}) + "\n" for number in (1, 2)))
        assert second.wait(30)
        assert told == [2], "epoch 1 is of an earlier call"
        with file.open("a") as more:
            # The last line is not whole yet.
            more.write(json.dumps({"epoch": 3}) + "\n" + '{"epoch"')
    assert told == [2, 3]


def test_a_file_that_cannot_be_read_ends_nothing(tmp_path: Path) -> None:
    told: list[object] = []
    with epochs_told((tmp_path / "none" / "metrics.jsonl").read_bytes, told.append, look_every_s=0.01):
        pass
    assert told == []
