"""Death at any commit: the batch is run again, and the tables are those of a life without death."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

import storage.lake
from ingest.batch import LANE
from tests.ingest.mill import KITTI_CAR, Mill, picture

NewMill = Callable[..., Mill]


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def first_drop(mill: Mill) -> None:
    for name in "abc":
        mill.write(f"d/image_2/{name}.png", picture(100, 50))
        mill.write(f"d/label_2/{name}.txt", KITTI_CAR.format(1, 1, 120, 5))
    mill.write("d/label_2/late.txt", KITTI_CAR.format(1, 1, 5, 5))


def second_drop(mill: Mill) -> None:
    mill.write("d/image_2/late.png", picture(100, 50))
    mill.write("d/image_2/broken.png", b"\x89PNG\r\n\x1a\n")
    mill.write("d/label_2/a.txt", KITTI_CAR.format(2, 2, 5, 5) * 2)
    (mill.folder / "d/label_2/b.txt").unlink()


def die_at(monkeypatch: pytest.MonkeyPatch, commit_number: int, *, after: bool) -> None:
    """Let the process die at its n-th commit: before it is made, or after, with nobody told."""
    made = 0

    def dying(write: Callable[..., None]) -> Callable[..., None]:
        def commit(*args: object, **options: object) -> None:
            nonlocal made
            made += 1
            if made == commit_number and not after:
                raise Killed
            write(*args, **options)
            if made == commit_number:
                raise Killed

        return commit

    for name in ("write_deltalake", "commit_files"):
        monkeypatch.setattr(storage.lake, name, dying(getattr(storage.lake, name)))


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_death_at_every_commit_of_a_batch_loses_nothing_and_doubles_nothing(
    new_mill: NewMill, after: bool
) -> None:
    undisturbed = new_mill()
    first_drop(undisturbed)
    undisturbed.ingest()
    second_drop(undisturbed)
    undisturbed.ingest()
    expected = undisturbed.tables()
    for commit in range(1, 20):
        mill = new_mill()
        first_drop(mill)
        mill.ingest()
        second_drop(mill)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, commit, after=after)
            try:
                mill.ingest()
            except Killed:
                pass
            else:
                assert commit > 6, "the batch has fewer commits than it must have"
                return
        mill.ingest()
        assert mill.tables() == expected, f"after death at commit {commit}"
        rows = mill.rows("SELECT number, state FROM batches ORDER BY number")
        assert [row["state"] for row in rows] == ["done"] * len(rows)
        numbers = mill.rows(f"SELECT number FROM batches WHERE lane = '{LANE}'")
        assert len({row["number"] for row in numbers}) == len(numbers)
        assert mill.ingest() == type(mill.ingest())()
    pytest.fail("a batch had more than twenty commits")


@pytest.mark.slow
def test_an_image_that_a_new_label_file_no_longer_speaks_of_loses_its_boxes_after_any_death(
    new_mill: NewMill,
) -> None:
    def coco(*names: str) -> str:
        images = [{"id": i, "file_name": f"{n}.png", "width": 100, "height": 50} for i, n in enumerate(names)]
        boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9]} for i in range(len(names))]
        categories = [{"id": 1, "name": "car"}]
        return json.dumps({"images": images, "annotations": boxes, "categories": categories})

    for commit in range(2, 20):
        mill = new_mill()
        for name in "abc":
            mill.image(f"d/{name}.png")
        mill.write("d/labels.json", coco("a", "b", "c"))
        mill.ingest()
        mill.write("d/labels.json", coco("a", "b"))
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, commit, after=True)
            try:
                mill.ingest()
            except Killed:
                pass
            else:
                assert commit > 6, "the batch has fewer commits than it must have"
                return
        mill.ingest()
        rows = mill.rows("SELECT sample AS stem, boxes FROM image_labels ORDER BY stem")
        assert [(row["stem"], row["boxes"]) for row in rows] == [("a", 1), ("b", 1), ("c", 0)], commit


def test_what_changes_between_death_and_the_next_start_is_taken_as_it_is_then(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_drop(mill)
    with monkeypatch.context() as patch:
        die_at(patch, 2, after=False)
        with pytest.raises(Killed):
            mill.ingest()
    mill.write("d/label_2/a.txt", KITTI_CAR.format(3, 3, 9, 9))
    (mill.folder / "d/image_2/c.png").unlink()
    mill.ingest()
    assert mill.rows("SELECT xmin FROM annotations WHERE stem = 'a'") == [{"xmin": 3}]
    assert mill.rows("SELECT * FROM images WHERE stem = 'c'") == []
    assert mill.ingest() == type(mill.ingest())()


def test_a_file_that_is_written_to_while_it_is_read_is_left_for_the_next_look(mill: Mill) -> None:
    mill.image("d/a.png")
    mill.write("d/a.txt", KITTI_CAR.format(1, 1, 5, 5))
    committer = mill.committer()
    events = committer.ledger.news(mill.store.list(), mill.rule)
    batch = committer.plan(events)
    mill.write("d/a.txt", KITTI_CAR.format(2, 2, 6, 6) * 2)
    committer.run(batch)
    assert mill.rows("SELECT * FROM annotations") == []
    mill.ingest()
    assert mill.rows("SELECT xmin FROM annotations") == [{"xmin": 2}, {"xmin": 2}]
