"""Warnings on every drop: found in whatever order things come, gone with their cause."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ingest.derive import Settings
from ingest.gates import judge_dataset
from quality.gate import Thresholds
from quality.limits import Limits
from quality.selection import Selection
from storage.errors import ConfigError, UnknownKeyError
from tests.ingest.mill import KITTI_CAR, Mill

NewMill = Callable[..., Mill]
_ALL = Selection(pixels=True, masks=True, classes={"*": ("Car", "Van")})


def scene(number: int) -> Image.Image:
    """A picture unlike those of other numbers."""
    grey = np.random.default_rng(number).integers(0, 256, (12, 16)).astype(np.uint8)
    return Image.fromarray(grey).resize((100, 50), Image.Resampling.BICUBIC).convert("RGB")


def encoded(image: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, **{"format": "PNG", **options})  # type: ignore[arg-type]
    return data.getvalue()


def with_rules(new_mill: NewMill, rules: Selection = _ALL, **options: object) -> Mill:
    mill = new_mill(**options)
    mill.settings = Settings(rules=rules)
    return mill


def found(mill: Mill) -> dict[str, list[str]]:
    rows = mill.rows("SELECT rule, sample FROM findings ORDER BY rule, sample")
    rules: dict[str, list[str]] = {}
    for row in rows:
        rules.setdefault(str(row["rule"]), []).append(str(row["sample"]))
    return rules


def test_doubtful_boxes_are_warned_of_and_stay_as_they_are(new_mill: NewMill) -> None:
    mill = with_rules(new_mill)
    mill.image("d/a.png")
    boxes = [(1, 1, 3, 9), (10, 10, 90, 13.5), (20, 20, 40, 40), (20, 20, 40, 40.5)]
    text = "".join(KITTI_CAR.format(*box) for box in boxes)
    mill.write("d/a.txt", text + KITTI_CAR.format(50, 20, 70, 40).replace("Car", "Bus"))
    mill.ingest()
    assert found(mill) == {
        "duplicate_box": ["a"],
        "extreme_aspect": ["a"],
        "too_small": ["a", "a"],
        "unlisted_category": ["a"],
    }
    assert mill.rows("SELECT count(*) AS n, bool_or(corrected) AS c FROM annotations") == [
        {"n": 5, "c": False}
    ]


def test_a_declared_size_that_is_swapped_is_found_and_goes_with_the_file(new_mill: NewMill) -> None:
    mill = with_rules(new_mill)
    exif = Image.Exif()
    exif[0x0112] = 6
    mill.write("d/a.jpg", encoded(scene(1), format="JPEG", exif=exif))
    voc = (
        "<annotation><filename>a.jpg</filename><size><width>{}</width><height>{}</height></size>"
        "<object><name>Car</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>40</ymax>"
        "</bndbox></object></annotation>"
    )
    mill.write("d/a.xml", voc.format(100, 50))
    mill.ingest()
    assert found(mill) == {"swapped_size": ["a"]}
    mill.write("d/a.xml", voc.format(50, 101))
    mill.ingest()
    assert found(mill) == {"declared_size": ["a"]}
    mill.write("d/a.xml", voc.format(50, 100))
    mill.ingest()
    assert found(mill) == {}


def test_a_leak_between_splits_is_found_across_batches_whichever_comes_first(new_mill: NewMill) -> None:
    copy = scene(1).resize((60, 30))
    files = {
        "d/train/a.png": encoded(scene(1)),
        "d/val/b.jpg": encoded(copy, format="JPEG", quality=60),
        "d/train/c.png": encoded(scene(2)),
    }
    for order in (list(files), list(files)[::-1]):
        mill = with_rules(new_mill)
        for key in order:
            mill.write(key, files[key])
            mill.ingest()
        assert found(mill)["leaked_image"] == ["val/b"], order
        state = judge_dataset(mill.lake, "d", Thresholds(fail_leaked_images=0, fail_boxes_below=0))
        assert state.gate.verdict.value == "fail"
        assert "1 images show what an image of another split shows, more than 0" in state.gate.reasons


def test_a_leak_goes_when_the_image_of_the_other_batch_goes_or_changes(new_mill: NewMill) -> None:
    mill = with_rules(new_mill)
    mill.write("d/train/a.png", encoded(scene(1)))
    mill.write("d/val/b.png", encoded(scene(1)))
    mill.ingest()
    assert found(mill)["leaked_image"] == ["val/b"]
    mill.write("d/train/a.png", encoded(scene(3)))
    mill.ingest()
    assert "leaked_image" not in found(mill)
    mill.write("d/train/a.png", encoded(scene(1)))
    mill.ingest()
    assert found(mill)["leaked_image"] == ["val/b"]
    (mill.folder / "d/train/a.png").unlink()
    mill.ingest()
    assert found(mill) == {"image_without_label": ["val/b"]}


def test_a_split_that_changes_makes_a_leak_of_a_repetition(new_mill: NewMill) -> None:
    mill = with_rules(new_mill)
    mill.write("d/JPEGImages/a.png", encoded(scene(1)))
    mill.write("d/JPEGImages/b.png", encoded(scene(1)))
    mill.ingest()
    assert found(mill)["near_duplicate_image"] == ["JPEGImages/b"]
    mill.write("d/ImageSets/Main/train.txt", "b\n")
    mill.write("d/ImageSets/Main/test.txt", "a\n")
    mill.ingest()
    assert found(mill)["leaked_image"] == ["JPEGImages/a"]
    assert "near_duplicate_image" not in found(mill)


def test_batches_of_any_size_give_the_same_findings(new_mill: NewMill) -> None:
    said = []
    for size in (3, 2_000):
        mill = with_rules(new_mill, batch_objects=size)
        for i in range(6):
            split = ("train", "val", "test")[i % 3]
            mill.write(f"d/{split}/{i:02}.png", encoded(scene(i // 3)))
            mill.write(f"d/{split}/{i:02}.txt", KITTI_CAR.format(1, 1, 2 + i % 4, 9))
        mill.write("d/val/grey.png", encoded(Image.new("RGB", (40, 30), "grey")))
        mill.ingest()
        said.append(mill.tables()["findings"])
    assert said[0] == said[1]
    assert {"leaked_image", "uniform_image", "too_small"} <= set(found(mill))


def test_an_image_whose_pixels_cannot_be_decoded_is_quarantined_where_pixels_are_looked_at(
    new_mill: NewMill,
) -> None:
    data = bytearray(encoded(scene(1), format="TIFF", compression="tiff_deflate"))
    data[200:260] = bytes(60)
    for rules, expected in ((Selection(), 0), (Selection(pixels=True), 1)):
        mill = with_rules(new_mill, rules)
        mill.write("d/a.tif", bytes(data))
        mill.ingest()
        assert mill.rows("SELECT count(*) AS n FROM quarantine") == [{"n": expected}], rules


def test_rules_that_are_off_are_not_looked_for_and_limits_move_the_rest(new_mill: NewMill) -> None:
    off = frozenset({"image_without_label", "duplicate_box"})
    mill = with_rules(new_mill, Selection(skip=off, limits=Limits(min_side_px=30)))
    mill.image("d/a.png")
    mill.image("d/b.png")
    mill.write("d/a.txt", KITTI_CAR.format(1, 1, 25, 40) * 2)
    mill.ingest()
    assert found(mill) == {"too_small": ["a", "a"]}


def test_only_warnings_that_exist_can_be_off() -> None:
    with pytest.raises(UnknownKeyError, match="did you mean 'too_small'"):
        Selection(skip=frozenset({"to_small"}))
    with pytest.raises(ConfigError, match="zero_area cannot be left out"):
        Selection(skip=frozenset({"zero_area"}))


def test_the_gate_counts_warnings_and_drift_of_the_newest_drop_and_of_splits(new_mill: NewMill) -> None:
    mill = with_rules(new_mill)
    limits = Limits(min_drift_boxes=10)
    for batch, name in enumerate(("Car", "Car", "Van")):
        for i in range(4):
            split = "train" if name == "Car" else "val"
            mill.image(f"d/{split}/{batch}{i}.png")
            boxes = [KITTI_CAR.format(10 * k, 10, 10 * k + 8, 18).replace("Car", name) for k in range(4)]
            mill.write(f"d/{split}/{batch}{i}.txt", "".join(boxes))
        mill.ingest()
        state = judge_dataset(mill.lake, "d", limits=limits)
        assert (state.drop_drift is None) == (batch == 0)
    assert state.drop_drift is not None
    assert state.drop_drift.moved in {"Car", "Van"}
    assert state.drop_drift.current == "drop 3"
    (between,) = state.split_drift
    assert between.js_divergence == pytest.approx(1)
    assert sum("the class mix drifts" in reason for reason in state.gate.reasons) == 2
    strict = judge_dataset(mill.lake, "d", Thresholds(fail_js_divergence=0.5), limits=limits)
    assert strict.gate.verdict.value == "fail"
