"""Passes over a bucket: what lands, in whatever order it comes, and what a second pass does."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingest.batch import Committer, Counts
from ingest.events import DatasetRule, Event
from ingest.parse import Limits, parse_objects
from ingest.reconcile import cut, reconcile
from storage.errors import StoreError
from tests.ingest.mill import KITTI_CAR, Mill, picture

NewMill = Callable[..., Mill]

VOC = """<annotation><filename>{name}.png</filename><size><width>100</width><height>50</height></size>
<object><name>{category}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
</annotation>"""


def coco(*names: str) -> str:
    return json.dumps(
        {
            "images": [
                {"id": i, "file_name": name, "width": 100, "height": 50} for i, name in enumerate(names)
            ],
            "annotations": [
                {
                    "id": 7 + i,
                    "image_id": i,
                    "category_id": 3,
                    "bbox": [1, 2, 10, 20],
                    "iscrowd": 0,
                    "area": 200,
                }
                for i, _ in enumerate(names)
            ],
            "categories": [{"id": 3, "name": "business jet"}],
        }
    )


def test_images_and_their_labels_become_rows(mill: Mill) -> None:
    mill.image("road/image_2/1.png")
    mill.write("road/label_2/1.txt", KITTI_CAR.format(10, 10, 20.5, 30))
    counts = mill.ingest()
    assert (counts.images, counts.labels, counts.annotations, counts.findings) == (1, 1, 1, 0)
    (row,) = mill.rows("SELECT dataset, sample, category, xmin, xmax, corrected FROM annotations")
    assert row == {
        "dataset": "road",
        "sample": "image_2/1",
        "category": "Car",
        "xmin": 10,
        "xmax": 20.5,
        "corrected": False,
    }


def test_a_second_pass_commits_nothing(mill: Mill) -> None:
    mill.image("road/a.png")
    mill.write("road/a.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.write("road/bad.jpg", b"\xff\xd8\xff\xe0 not a picture")
    mill.ingest()
    before = mill.lake.snapshot()
    counts = mill.ingest()
    assert counts == type(counts)()
    assert mill.lake.snapshot() == before


_FILES: dict[str, bytes] = {
    "d/images/a.png": picture(100, 50),
    "d/images/b.png": picture(100, 50),
    "d/images/c.png": picture(100, 50),
    "d/labels/a.txt": b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.3 0.3\n",
    "d/labels/b.txt": b"",
    "d/labels/gone.txt": b"1 0.5 0.5 0.2 0.2\n",
    "d/classes.txt": b"car\nvan\n",
    "d/train.txt": b"images/a.png\n",
    "d/val.txt": b"images/b.png\nimages/nowhere.png\n",
    "d/annotations/all.json": coco("c.png", "later.png").encode(),
    "e/x.png": picture(100, 50),
    "e/x.xml": VOC.format(name="x", category="cat").encode(),
    "e/broken.xml": b"<annotation><object>",
}


@given(order=st.permutations(sorted(_FILES)), cuts=st.sets(st.integers(1, len(_FILES) - 1), max_size=5))
@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.slow
def test_the_order_of_arrival_changes_no_row(new_mill: NewMill, order: list[str], cuts: set[int]) -> None:
    together = new_mill()
    for key, data in _FILES.items():
        together.write(key, data)
    together.ingest()
    piecemeal = new_mill()
    for start, end in itertools.pairwise([0, *sorted(cuts), len(order)]):
        for key in order[start:end]:
            piecemeal.write(key, _FILES[key])
        piecemeal.ingest()
    assert piecemeal.tables() == together.tables()


def test_labels_before_images_give_the_same_tables_as_images_before_labels(new_mill: NewMill) -> None:
    images = [key for key in _FILES if key.endswith(".png")]
    labels = [key for key in _FILES if not key.endswith(".png")]
    said = []
    for order in ([images, labels], [labels, images]):
        mill = new_mill()
        for keys in order:
            for key in keys:
                mill.write(key, _FILES[key])
            mill.ingest()
        said.append(mill.tables())
    assert said[0] == said[1]
    assert said[0]["annotations"]


def test_small_batches_give_the_same_tables_as_one_large(new_mill: NewMill) -> None:
    said = []
    for batch_objects in (1, 2, 2_000):
        mill = new_mill(batch_objects=batch_objects)
        for key, data in _FILES.items():
            mill.write(key, data)
        mill.ingest()
        said.append(mill.tables())
    assert said[0] == said[1] == said[2]


def test_batches_are_bounded_by_number_and_by_the_bytes_of_what_is_read_whole() -> None:
    def event(key: str, size_bytes: int) -> Event:
        return Event(action="put", key=key, version="1", size_bytes=size_bytes, dataset="d")

    pictures = [event(f"{n}.jpg", 400_000_000) for n in range(5)]
    assert [len(batch) for batch in cut(pictures, 2)] == [2, 2, 1]
    assert [len(batch) for batch in cut(pictures, 9)] == [5]
    texts = [event(f"{n}.json", size) for n, size in enumerate([300_000_000, 300_000_000, 9_000_000_000, 1])]
    assert [[e.key for e in batch] for batch in cut([*texts, *pictures], 100)] == [
        ["0.json"],
        ["1.json"],
        ["2.json"],
        ["3.json", *(picture.key for picture in pictures)],
    ]
    assert cut([], 3) == []


def test_a_label_waits_for_its_image_and_says_so(mill: Mill) -> None:
    mill.write("road/label_2/7.txt", KITTI_CAR.format(1, 1, 5, 5))
    counts = mill.ingest()
    assert (counts.labels, counts.annotations, counts.findings) == (1, 0, 1)
    (finding,) = mill.rows("SELECT rule, source, observed FROM findings")
    assert finding["rule"] == "unknown_image"
    assert mill.rows("SELECT ref, instances FROM waiting") == [{"ref": "label_2/7", "instances": 1}]
    mill.image("road/image_2/7.png")
    counts = mill.ingest()
    assert (counts.images, counts.annotations, counts.findings) == (1, 1, -1)
    assert mill.rows("SELECT * FROM findings") == []


def test_a_changed_label_replaces_its_rows(mill: Mill) -> None:
    mill.image("road/a.png")
    mill.write("road/a.txt", KITTI_CAR.format(1, 1, 5, 5) * 3)
    mill.ingest()
    mill.write("road/a.txt", KITTI_CAR.format(2, 2, 6, 6))
    mill.ingest()
    assert mill.rows("SELECT xmin FROM annotations") == [{"xmin": 2}]
    assert mill.rows("SELECT count(*) AS n FROM labels") == [{"n": 1}]


def test_a_removed_label_takes_its_rows_and_a_removed_image_makes_its_label_wait(mill: Mill) -> None:
    for name in "ab":
        mill.image(f"road/{name}.png")
        mill.write(f"road/{name}.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.ingest()
    (mill.folder / "road/a.txt").unlink()
    (mill.folder / "road/b.png").unlink()
    counts = mill.ingest()
    assert counts.removed == 2
    assert mill.rows("SELECT * FROM annotations") == []
    assert mill.rows("SELECT sample, labelled FROM images") == [{"sample": "a", "labelled": False}]
    rules = mill.rows("SELECT rule FROM findings ORDER BY rule")
    assert [row["rule"] for row in rules] == ["image_without_label", "unknown_image"]
    assert mill.rows("SELECT count(*) AS n FROM labels") == [{"n": 1}]


def test_an_empty_label_is_a_negative_sample(mill: Mill) -> None:
    mill.image("road/a.png")
    mill.write("road/a.txt", "")
    mill.ingest()
    assert mill.rows("SELECT labelled FROM images") == [{"labelled": True}]
    assert mill.rows("SELECT * FROM findings") == []


def test_a_class_list_that_comes_late_names_what_came_before(mill: Mill) -> None:
    mill.image("d/a.png")
    mill.write("d/a.txt", "1 0.5 0.5 0.2 0.2\n")
    mill.ingest()
    assert mill.rows("SELECT rule FROM findings") == [{"rule": "unknown_category"}]
    assert mill.rows("SELECT * FROM annotations") == []
    mill.write("d/classes.txt", "car\nbusiness jet\n")
    mill.ingest()
    assert mill.rows("SELECT category FROM annotations") == [{"category": "business jet"}]
    assert mill.rows("SELECT * FROM findings") == []
    mill.write("d/classes.txt", "car\nglider\n")
    mill.ingest()
    assert mill.rows("SELECT category FROM annotations") == [{"category": "glider"}]


def test_corrections_are_made_or_left_as_asked(new_mill: NewMill) -> None:
    said = []
    for correct in (True, False):
        mill = new_mill(correct=correct)
        mill.image("road/a.png")
        mill.write("road/a.txt", KITTI_CAR.format(-5, 10, 120, 20) + KITTI_CAR.format(5, 5, 5, 9))
        mill.ingest()
        boxes = mill.rows("SELECT xmin, xmax, corrected FROM annotations ORDER BY instance")
        rules = [row["rule"] for row in mill.rows("SELECT rule FROM findings ORDER BY rule")]
        said.append((boxes, rules))
    rules = ["beyond_image", "negative_coordinate", "zero_area"]
    assert said[0] == ([{"xmin": 0, "xmax": 100, "corrected": True}], rules)
    assert said[1] == (
        [{"xmin": -5, "xmax": 120, "corrected": False}, {"xmin": 5, "xmax": 5, "corrected": False}],
        rules,
    )


def test_two_label_trees_for_one_image_are_not_mixed(new_mill: NewMill) -> None:
    for order, expected in (((), "annotations/a.xml"), (("labels",), "labels/a.txt")):
        mill = new_mill(label_order=order)
        mill.image("d/images/a.png")
        mill.write("d/annotations/a.xml", VOC.format(name="a", category="cat"))
        mill.write("d/labels/a.txt", KITTI_CAR.format(1, 1, 5, 5))
        mill.ingest()
        assert mill.rows("SELECT source FROM annotations") == [{"source": f"d/{expected}"}]
        (finding,) = mill.rows("SELECT rule, observed FROM findings")
        assert finding["rule"] == "competing_labels"
        assert expected in str(finding["observed"])


def test_mask_pictures_are_no_images(mill: Mill) -> None:
    mill.image("d/JPEGImages/a.png")
    mill.write("d/Annotations/a.xml", VOC.format(name="a", category="cat"))
    mill.image("d/SegmentationObject/a.png")
    mill.image("d/SegmentationClass/a.png")
    mill.ingest()
    assert mill.rows("SELECT sample FROM images") == [{"sample": "JPEGImages/a"}]
    assert mill.rows("SELECT count(*) AS n FROM annotations") == [{"n": 1}]
    assert mill.rows("SELECT DISTINCT kind, format FROM objects WHERE key LIKE '%Segm%'") == [
        {"kind": "other", "format": "mask"}
    ]


def test_the_same_name_in_two_folders_is_two_samples(mill: Mill) -> None:
    for cam in ("cam1", "cam2"):
        mill.image(f"d/{cam}/images/0.png")
    mill.write("d/cam1/labels/0.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.write("d/cam2/labels/0.txt", KITTI_CAR.format(2, 2, 6, 6) * 2)
    mill.ingest()
    assert mill.rows("SELECT sample, count(*) AS n FROM annotations GROUP BY sample ORDER BY 1") == [
        {"sample": "cam1/images/0", "n": 1},
        {"sample": "cam2/images/0", "n": 2},
    ]


@pytest.mark.parametrize(
    ("key", "dataset"),
    [
        ("aircraft/a.png", "aircraft"),
        ("aircraft/images/a.png", "aircraft"),
        ("images/a.png", "drops"),
        ("a.png", "drops"),
        ("train/a.png", "drops"),
        ("image_2/a.png", "drops"),
        ("trains/a.png", "trains"),
    ],
)
def test_the_first_folder_is_the_data_set_unless_it_only_says_what_is_in_it(
    mill: Mill, key: str, dataset: str
) -> None:
    mill.image(key)
    mill.ingest()
    assert mill.rows("SELECT dataset FROM images") == [{"dataset": dataset}]


@pytest.mark.parametrize("name", ["a b.c", "ünï", "x'y", "p%20q", "[z]", "日本"])
def test_names_of_any_kind_match(mill: Mill, name: str) -> None:
    mill.image(f"set é/images/{name}.PNG")
    mill.write(f"set é/labels/{name}.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.ingest()
    assert mill.rows("SELECT dataset, sample FROM annotations") == [
        {"dataset": "set é", "sample": f"images/{name}"}
    ]
    (mill.folder / f"set é/labels/{name}.txt").unlink()
    mill.ingest()
    assert mill.rows("SELECT * FROM annotations") == []


@pytest.mark.slow
def test_images_that_a_large_file_named_long_ago_cost_what_they_are_not_what_the_file_is(mill: Mill) -> None:
    names = [f"{number:05}.png" for number in range(2_000)]
    mill.write("d/labels.json", coco(*names))
    data = picture(100, 50)
    for name in names[::2]:
        mill.write(f"d/{name}", data)
    mill.ingest()
    assert mill.rows("SELECT count(*) AS n FROM annotations") == [{"n": 1_000}]
    late = [names[number] for number in (1, 501, 1_999)]
    for name in late:
        mill.write(f"d/{name}", data)
    counts = mill.ingest()
    assert (counts.images, counts.labels, counts.annotations) == (3, 0, 3)
    newest = "WHERE batch = (SELECT max(number) FROM batches)"
    for table in ("images", "annotations"):
        assert mill.rows(f"SELECT count(*) AS n FROM {table} {newest}") == [{"n": 3}]
    assert mill.rows(f"SELECT count(*) AS n FROM labels {newest}") == [{"n": 0}]
    assert mill.rows("SELECT count(*) AS n FROM waiting") == [{"n": 997}]


def test_a_bucket_that_is_gone_is_no_empty_bucket(mill: Mill) -> None:
    mill.image("d/a.png")
    mill.ingest()
    mill.folder.rename(mill.folder.with_name("away"))
    with pytest.raises(StoreError, match="not there"):
        mill.ingest()
    assert mill.rows("SELECT count(*) AS n FROM images") == [{"n": 1}]


def test_a_pass_below_a_prefix_sees_nothing_else(mill: Mill) -> None:
    for key in ("a/x.png", "b/y.png", "b/z.png"):
        mill.image(key)
    mill.ingest()
    (mill.folder / "a/x.png").unlink()
    (mill.folder / "b/y.png").unlink()
    mill.image("a/new.png")
    mill.image("b/new.png")
    done = reconcile(mill.store, mill.committer(), mill.rule, prefix="b/")
    assert (done.counts.images, done.counts.removed) == (1, 1)
    keys = mill.rows("SELECT key FROM images ORDER BY key")
    assert [row["key"] for row in keys] == ["a/x.png", "b/new.png", "b/z.png"]


def test_a_second_bucket_that_is_one_data_set_takes_nothing_of_the_first_away(new_mill: NewMill) -> None:
    first, second = new_mill(), new_mill()
    first.image("d/a.png")
    first.ingest()
    for key in ("b.png", "c.png"):
        second.image(key)
    rule = DatasetRule(bucket="cells", name="cells")

    def bring() -> Counts:
        committer = Committer(
            first.lake, lambda events: parse_objects(second.store, events, rule, Limits()), rule=rule
        )
        return reconcile(second.store, committer, rule).counts

    assert (bring().removed, bring().removed) == (0, 0)
    (second.folder / "b.png").unlink()
    assert bring().removed == 1
    keys = first.rows("SELECT dataset, key FROM images ORDER BY key")
    assert keys == [{"dataset": "cells", "key": "c.png"}, {"dataset": "d", "key": "d/a.png"}]
