"""Names as people give them: every image finds its label, and every class keeps its name."""

from __future__ import annotations

import json

import pytest

from tests.ingest.mill import KITTI_CAR, Mill, picture

NAMES = (
    "a.b.jpeg",
    "a.jpeg",
    "ünï ço.JPG",
    "with space.PNG",
    "x/y/z/deep.png",
    "left/same.png",
    "right/same.png",
)


def test_kitti_labels_find_their_images_by_any_name(mill: Mill) -> None:
    for name in NAMES:
        stem = name.rpartition(".")[0]
        ending = name.rpartition(".")[2].lower().replace("jpg", "jpeg")
        mill.write(f"road/images/{name}", picture(100, 50, ending))
        # The class is the name of the file, so that a label of another image would be seen.
        category = stem.replace(" ", "%20")
        mill.write(f"road/labels/{stem}.txt", KITTI_CAR.replace("Car", category).format(10, 10, 20, 30))
    counts = mill.ingest()
    assert (counts.images, counts.annotations, counts.findings, counts.quarantined) == (len(NAMES),) * 2 + (
        0,
        0,
    )
    rows = mill.rows("SELECT sample, category FROM annotations")
    assert {row["category"]: row["sample"] for row in rows} == {
        name.rpartition(".")[0]: f"images/{name.rpartition('.')[0]}" for name in NAMES
    }


def test_yolo_classes_keep_blanks_case_and_signs(mill: Mill) -> None:
    classes = ["Traffic Light", "traffic light", "Düse", "a/b: c"]
    # YAML in its other style, which is JSON as well.
    mill.write("road/data.yaml", json.dumps({"nc": len(classes), "names": classes}, ensure_ascii=False))
    mill.image("road/images/train/ü x.1.JPEG")
    lines = "".join(f"{number} 0.5 0.5 0.2 0.4\n" for number in range(len(classes)))
    mill.write("road/labels/train/ü x.1.txt", lines)
    mill.ingest()
    rows = mill.rows("SELECT category FROM annotations ORDER BY instance")
    assert [row["category"] for row in rows] == classes


@pytest.mark.parametrize(
    ("key", "text", "form", "line"),
    [
        ("labels/a.txt", KITTI_CAR.format(1, 2, 3, 4).rsplit(" ", 1)[0] + "\n", "KITTI", 1),
        ("labels/a.txt", KITTI_CAR.format(1, 2, 30, 40) + "Car 0.00 0\n", "KITTI", 2),
        ("labels/a.txt", "0 0.5 0.5 0.1\n", "YOLO", 1),
        ("plates.txt", "img1.jpg\tABC-123\n", "a list of image paths", 1),
    ],
)
def test_a_text_of_no_known_form_is_quarantined_whole_with_the_nearest_form_and_the_line(
    mill: Mill, key: str, text: str, form: str, line: int
) -> None:
    mill.image("road/images/a.png")
    mill.write(f"road/{key}", text)
    assert mill.ingest().quarantined == 1
    (row,) = mill.rows("SELECT key, error FROM quarantine")
    assert row["key"] == f"road/{key}"
    assert f"line {line}:" in str(row["error"])
    assert f"{form}" in str(row["error"]).partition("expected ")[2]
    assert mill.rows("SELECT * FROM labels") == []
