"""Masks in a lake: by the command, as the service starts it."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dropmill.masks_config import MasksConfig
from storage.errors import DropmillError
from storage.lake import Lake
from tests.ingest.mill import Mill

pytest.importorskip("cv2")
ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def picture(shift: int = 0) -> bytes:
    pixels = np.random.default_rng(shift).integers(0, 50, (90, 120, 3), np.uint8)
    pixels[20:70, 20 + shift : 60 + shift] = (210, 80, 60)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def coco(boxes: dict[str, list[tuple[list[float], bool]]]) -> bytes:
    images = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(boxes)]
    annotations = [
        {"id": 10 * n + k, "image_id": n, "category_id": 1, "bbox": box, "iscrowd": int(crowd)}
        for n, some in enumerate(boxes.values())
        for k, (box, crowd) in enumerate(some)
    ]
    categories = [{"id": 1, "name": "block"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()


_BLOCK = ([15.0, 15.0, 50.0, 60.0], False)


def test_only_what_changed_is_labelled_and_what_cannot_be_is_a_finding(local_ray: None, mill: Mill) -> None:
    from dropmill.masks_stage import mask_lake

    mill.settings = replace(mill.settings, apply_correction=False)
    for name, shift in (("a", 0), ("b", 5), ("gone", 0)):
        mill.write(f"set/{name}.png", picture(shift))
    crowd, outside, empty = ([0, 0, 90, 90], True), ([300, 300, 5, 5], False), ([10, 10, 0, 9], False)
    broken = [crowd, outside, empty]
    mill.write("set/labels.json", coco({"a": [_BLOCK, *broken], "b": [_BLOCK, _BLOCK], "gone": [_BLOCK]}))
    mill.ingest()
    (mill.folder / "set" / "gone.png").unlink()
    lake = Lake.open(mill.lake_folder)
    first = mask_lake(lake, "set", MasksConfig(), run="one")
    assert (first.images, first.masks, first.without_mask, first.model) == (3, 3, 4, "grabcut")
    findings = lake.sql(
        "SELECT rule, severity, sample, instance FROM findings WHERE stem = '/masks' ORDER BY ALL"
    ).to_pylist()
    assert [(row["rule"], row["sample"]) for row in findings] == [
        ("mask_of_box_outside", "a"), ("mask_of_crowd", "a"), ("mask_of_empty_box", "a"),
        ("mask_without_image", "gone"),
    ]  # fmt: skip
    rows = lake.sql("SELECT * FROM masks ORDER BY sample, instance").to_pylist()
    assert [(row["sample"], row["run"]) for row in rows] == [("a", "one"), ("b", "one"), ("b", "one")]
    mask = json.loads(rows[0]["rle"])
    assert mask["size"] == [90, 120]
    assert 0.8 < rows[0]["area"] / 2000 < 1.2

    # Nothing has changed: what can have no mask is looked at again, and no mask is made.
    again = mask_lake(lake, "set", MasksConfig(), run="two")
    assert again.masks == 0
    assert len(lake.sql("SELECT * FROM findings WHERE stem = '/masks'").to_pylist()) == 4

    # A new picture for b, and a box of a goes: both of b are made anew, and one mask is left over by none.
    mill.write("set/b.png", picture(9))
    mill.write("set/labels.json", coco({"a": broken, "b": [_BLOCK, _BLOCK], "gone": []}))
    mill.ingest()
    mask_lake(lake, "set", MasksConfig(), run="three")
    rows = lake.sql("SELECT sample, instance, run FROM masks ORDER BY ALL").to_pylist()
    assert [(row["sample"], row["run"]) for row in rows] == [("b", "three"), ("b", "three")]
    rules = lake.sql("SELECT rule FROM findings WHERE stem = '/masks' ORDER BY 1").to_pylist()
    assert [row["rule"] for row in rules] == ["mask_of_box_outside", "mask_of_crowd", "mask_of_empty_box"]


def test_what_was_committed_before_a_crash_is_not_done_again(
    local_ray: None, mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dropmill import masks_stage

    names = [f"p{number:02d}" for number in range(20)]
    for name in names:
        mill.write(f"set/{name}.png", picture())
    mill.write("set/labels.json", coco({name: [_BLOCK] for name in names}))
    mill.ingest()
    lake = Lake.open(mill.lake_folder)
    monkeypatch.setattr(masks_stage, "_IMAGES_A_COMMIT", 8)

    class CrashError(DropmillError):
        pass

    def crash(done: int, of: int) -> None:
        raise CrashError(f"after {done} of {of}")

    with pytest.raises(CrashError, match="after 8 of 20"):
        masks_stage.mask_lake(lake, "set", MasksConfig(), run="one", progress=crash)
    done = masks_stage.mask_lake(lake, "set", MasksConfig(), run="two")
    assert (done.images, done.masks) == (12, 12)
    by_run = lake.sql("SELECT run, count(*) AS n FROM masks GROUP BY run ORDER BY run").to_pylist()
    assert [(row["run"], row["n"]) for row in by_run] == [("one", 8), ("two", 12)]


class DeadlyConfig(MasksConfig):
    """A labeler whose process ends at a green picture, as a faulty decoder's would."""

    def labeler(self, *, use_gpu: bool = False, threads: int = 1) -> Any:
        honest = super().labeler(use_gpu=use_gpu, threads=threads)

        class Deadly:
            name, version = "deadly", "1"

            def label(self, images: Any) -> Any:
                if any(image.pixels[0, 0, 1] > 200 for image in images):
                    os._exit(1)
                return honest.label(images)

        return Deadly()


def test_an_image_that_kills_its_worker_is_a_finding_and_takes_no_other_along(
    local_ray: None, mill: Mill, capfd: pytest.CaptureFixture[str]
) -> None:
    from dropmill.masks_stage import mask_lake

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    names = [f"p{number:02d}" for number in range(20)]
    for name in names:
        mill.write(f"set/{name}.png", picture())
    green = io.BytesIO()
    Image.new("RGB", (120, 90), (0, 255, 0)).save(green, "PNG")
    mill.write("set/p03.png", green.getvalue())
    mill.write("set/labels.json", coco({name: [_BLOCK] for name in names}))
    mill.ingest()
    lake = Lake.open(mill.lake_folder)
    done = mask_lake(lake, "set", DeadlyConfig())
    assert (done.images, done.masks, done.without_mask) == (20, 19, 1)
    [finding] = lake.sql("SELECT * FROM findings WHERE stem = '/masks'").to_pylist()
    assert (finding["rule"], finding["sample"]) == ("mask_killed_its_worker", "p03")
    assert "p03.png" in finding["observed"]
    said = capfd.readouterr().err
    assert "Deprecat" not in said
    assert "max_restarts" not in said


def test_a_model_that_cannot_be_loaded_is_a_clear_error(mill: Mill, tmp_path: Path) -> None:
    from dropmill.masks_stage import mask_lake

    mill.write("set/a.png", picture())
    mill.ingest()
    with pytest.raises(DropmillError, match="no such file"):
        mask_lake(Lake.open(mill.lake_folder), "set", MasksConfig(checkpoint=tmp_path / "none.pth"))
