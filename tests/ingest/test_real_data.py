"""Real data sets, counted: what lands is what is known of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.mill import Mill

MillOn = Callable[..., Mill]


@pytest.fixture
def mill_on(shared_data: Path, new_mill: Callable[..., Mill]) -> MillOn:
    """Ingests parts of a real data set into a lake of its own."""

    def ingest(name: str, *parts: str) -> Mill:
        if not (shared_data / name).is_dir():
            pytest.skip(f"{shared_data / name} is absent")
        mill = replace(new_mill(), folder=shared_data / name)
        if parts:
            mill = new_mill()
            for part in parts:
                source = shared_data / name / part
                target = mill.folder / name / part
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        mill.ingest()
        return mill

    return ingest


@pytest.fixture(scope="session")
def expected(shared_data: Path) -> dict[str, Any]:
    path = shared_data / "expected-counts.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    counts: dict[str, Any] = json.loads(path.read_text())
    return counts


def one(mill: Mill, query: str) -> dict[str, Any]:
    (row,) = mill.rows(query)
    return row


def pairs(mill: Mill, query: str) -> dict[Any, Any]:
    return {tuple(row.values())[0]: tuple(row.values())[1] for row in mill.rows(query)}  # noqa: RUF015


_RULES = {
    "past_edge": "beyond_image",
    "inverted": "inverted_box",
    "zero_area": "zero_area",
    "negative_coordinate": "negative_coordinate",
}


def check_rules(mill: Mill, known: dict[str, Any]) -> None:
    found = pairs(mill, "SELECT rule, count(*) FROM findings GROUP BY rule")
    for name, rule in _RULES.items():
        if name in known:
            assert found.get(rule, 0) == known[name], rule


def test_bccd(mill_on: MillOn, expected: dict[str, Any]) -> None:
    known = expected["bccd-voc"]
    mill = mill_on("bccd-voc")
    assert one(mill, "SELECT count(*) AS n FROM images")["n"] == known["images"] == 364
    assert one(mill, "SELECT count(*) AS n FROM labels")["n"] == known["boxes"] == 4888
    assert pairs(mill, "SELECT category, count(*) FROM labels GROUP BY 1") == known["classes"]
    check_rules(mill, known)
    zero = mill.rows(
        "SELECT sample, observed, correction FROM findings WHERE severity = 'error' ORDER BY sample"
    )
    assert zero == [
        {
            "sample": "JPEGImages/BloodImage_00338",
            "observed": "504,337,504,337 in 640x480",
            "correction": "dropped",
        },
        {
            "sample": "JPEGImages/BloodImage_00343",
            "observed": "181,329,181,329 in 640x480",
            "correction": "dropped",
        },
    ]
    shares = pairs(mill, "SELECT category, round(100 * share, 1) FROM class_balance")
    assert shares == {"RBC": 85.0, "WBC": 7.6, "Platelets": 7.4}
    splits = pairs(mill, "SELECT split, count(*) FROM images GROUP BY split")
    assert splits == {name: known["splits"][name] for name in ("train", "val", "test")}
    for split, classes in known["split_boxes"].items():
        counted = pairs(
            mill,
            f"""SELECT l.category, count(*) FROM labels l JOIN images i USING (dataset, stem)
            WHERE i.split = '{split}' GROUP BY 1""",
        )
        if split in splits:
            assert counted == classes


def test_kitti(mill_on: MillOn, expected: dict[str, Any]) -> None:
    known = expected["kitti"]
    mill = mill_on("kitti")
    assert one(mill, "SELECT count(*) AS n FROM images")["n"] == 13
    assert one(mill, "SELECT count(*) AS n, count(*) FILTER (WHERE ignore) AS ignored FROM annotations") == {
        "n": 84,
        "ignored": 26,
    }
    assert pairs(mill, "SELECT category, count(*) FROM annotations GROUP BY 1") == known["classes"]
    sizes = pairs(mill, "SELECT concat(width, 'x', height), count(*) FROM images GROUP BY 1")
    assert sizes == known["sizes"]
    occluded = pairs(mill, "SELECT occlusion::VARCHAR, count(*) FROM annotations WHERE NOT ignore GROUP BY 1")
    assert occluded == known["occluded"]
    truncated = one(mill, "SELECT count(*) AS n FROM annotations WHERE truncation > 0 AND NOT ignore")
    assert truncated["n"] == known["truncated_above_0"]
    check_rules(mill, known)


def test_kitti_cropped(mill_on: MillOn, expected: dict[str, Any]) -> None:
    known = expected["kitti-cropped"]
    mill = mill_on("kitti-cropped")
    assert one(mill, "SELECT count(*) AS n FROM labels")["n"] == known["lines"]
    check_rules(mill, known)
    frames = [row["stem"] for row in mill.rows("SELECT stem FROM findings ORDER BY stem")]
    assert frames == known["past_edge_frames"]
    assert one(
        mill, "SELECT count(*) AS n FROM annotations WHERE xmax > 1224 OR ymax > 370 OR xmin < 0 OR ymin < 0"
    ) == {"n": 0}
    assert one(mill, "SELECT count(*) AS n FROM annotations WHERE corrected")["n"] == known["past_edge"]


def test_coco128_as_yolo(mill_on: MillOn) -> None:
    mill = mill_on("coco128-yolo", "images", "labels", "config.yaml")
    assert one(mill, "SELECT count(*) AS n FROM images")["n"] == 128
    assert one(mill, "SELECT count(*) AS n FROM labels")["n"] == 941
    assert one(mill, "SELECT count(*) AS n, count(DISTINCT sample) AS images FROM annotations") == {
        "n": 929,
        "images": 126,
    }
    assert one(mill, "SELECT count(DISTINCT category) AS n FROM annotations")["n"] == 71
    waiting = mill.rows("SELECT ref, instances FROM waiting ORDER BY ref")
    assert [str(row["ref"]).rsplit("/", 1)[-1] for row in waiting] == ["000000000656", "000000000659"]
    assert sum(int(str(row["instances"])) for row in waiting) == 12
    found = pairs(mill, "SELECT rule, count(*) FROM findings GROUP BY rule")
    assert found == {"unknown_image": 2, "image_without_label": 2, "too_small": 4}


def test_coco128_with_both_label_trees_takes_one_and_says_so(mill_on: MillOn) -> None:
    mill = mill_on("coco128-yolo")
    assert one(mill, "SELECT count(*) AS n FROM annotations")["n"] == 929
    assert one(mill, "SELECT count(*) AS n FROM annotations WHERE source LIKE 'labels-segment/%'")["n"] == 0
    assert one(mill, "SELECT count(*) AS n FROM findings WHERE rule = 'competing_labels'")["n"] == 98


def test_nuts(mill_on: MillOn, expected: dict[str, Any]) -> None:
    mill = mill_on("nuts-coco-masks")
    assert one(mill, "SELECT count(*) AS n FROM images")["n"] == 18
    assert one(mill, "SELECT count(*) AS n, count(segmentation) AS masks FROM annotations") == {
        "n": 165,
        "masks": 165,
    }
    check_rules(mill, expected["nuts-coco-masks"])


def test_darknet_pairs(mill_on: MillOn) -> None:
    mill = mill_on("yolo-darknet-pairs")
    assert pairs(mill, "SELECT category, count(*) FROM annotations GROUP BY 1") == {"air": 28, "bird": 7}
    assert one(mill, "SELECT count(*) AS n FROM images WHERE split = 'train'")["n"] == 10


def test_visdrone_labels_wait_for_images_that_never_came(mill_on: MillOn) -> None:
    mill = mill_on("visdrone-coco-json")
    assert one(mill, "SELECT count(*) AS n FROM labels")["n"] == 3326
    assert one(mill, "SELECT count(*) AS n, sum(instances) AS boxes FROM waiting") == {"n": 50, "boxes": 3326}
    assert mill.rows("SELECT * FROM annotations") == []
