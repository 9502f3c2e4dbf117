"""Defects of files and images, planted among sound ones and dropped in a bucket: all found, no others."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from dropmill.delivered import look_at_images, read_lake
from ingest.derive import Settings
from quality.review import review
from quality.rules import FILE_RULES
from quality.selection import Selection
from tests.ingest.mill import Mill

_SIZE = (96, 64)
_DEFECTS = (
    "image_without_label", "unknown_image", "declared_size", "swapped_size", "uniform_image",
    "unreadable_file", "near_duplicate_image", "leaked_image", "several_splits", "ambiguous_image",
    "competing_labels",
    "unlisted_category",
)  # fmt: skip


class Planter:
    """A data set under way: files, and the findings that they should give."""

    def __init__(self, mill: Mill) -> None:
        self.mill = mill
        self.truth: set[tuple[str, str]] = set()
        self.splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}

    def image(self, name: str, seed: int, size: tuple[int, int] = _SIZE, **options: object) -> None:
        grey = np.random.default_rng(seed).integers(0, 256, (12, 16)).astype(np.uint8)
        picture = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)
        self.save(name, picture.convert("RGB"), **options)

    def save(self, name: str, picture: Image.Image, **options: object) -> None:
        data = io.BytesIO()
        picture.save(data, **{"format": "JPEG", "quality": 85, **options})  # type: ignore[arg-type]
        self.mill.write(f"d/{name}.jpg", data.getvalue())

    def label(self, name: str, size: tuple[int, int] = _SIZE, category: str = "Car", to: str = "") -> None:
        self.mill.write(
            f"d/{to or name}.xml",
            f"<annotation><filename>{name.rsplit('/', 1)[-1]}.jpg</filename><size><width>{size[0]}</width>"
            f"<height>{size[1]}</height></size><object><name>{category}</name><bndbox><xmin>10</xmin>"
            "<ymin>10</ymin><xmax>40</xmax><ymax>50</ymax></bndbox></object></annotation>",
        )

    def plant(self, number: int, defect: str | None) -> None:
        name, seed = f"p/{number:03}", 1_000 + number
        if defect in {"image_without_label", "near_duplicate_image"}:
            self.truth.add(("image_without_label", name))
            self.image(name, seed)
        if defect == "near_duplicate_image":
            self.image(f"{name}x", seed, quality=40)
            self.label(f"{name}x")
            self.truth.add((defect, f"{name}x"))
        elif defect == "leaked_image":
            for copy, split in (("a", "test"), ("b", "train")):
                self.image(name + copy, seed, quality=50 if copy == "a" else 90)
                self.label(name + copy)
                self.splits[split].append(name + copy)
            self.truth.add((defect, f"{name}a"))
        elif defect == "unknown_image":
            self.label(name)
            self.truth.add((defect, name))
        elif defect == "declared_size":
            self.image(name, seed)
            self.label(name, (_SIZE[0], _SIZE[1] + 1))
            self.truth.add((defect, name))
        elif defect == "swapped_size":
            exif = Image.Exif()
            exif[0x0112] = 6
            self.image(name, seed, exif=exif)
            self.label(name, _SIZE)
            self.truth.add((defect, name))
        elif defect == "uniform_image":
            self.save(name, Image.new("RGB", _SIZE, (90, 91 + number % 9, 90)))
            self.label(name)
            self.truth.add((defect, name))
        elif defect == "unreadable_file":
            self.mill.write(f"d/{name}.jpg", b"\xff\xd8\xff\xe0 not much")
            self.truth.add((defect, name))
        elif defect == "several_splits":
            self.image(name, seed)
            self.label(name)
            self.splits["train"].append(name)
            self.splits["val"].append(name)
            self.truth.add((defect, name))
        elif defect == "ambiguous_image":
            for folder in ("one", "two"):
                self.image(f"{folder}/{number:03}", seed + (500 if folder == "two" else 0))
                self.truth.add(("image_without_label", f"{folder}/{number:03}"))
            self.label(f"{number:03}")
            self.truth.add((defect, f"{number:03}"))
        elif defect == "competing_labels":
            self.image(name, seed)
            self.label(name)
            self.mill.write(f"d/{name}.txt", "Car 0 0 0 10 10 40 50 0 0 0 0 0 0 0\n")
            self.truth.add((defect, name))
        elif defect == "unlisted_category":
            self.image(name, seed)
            self.label(name, category="Carr")
            self.truth.add((defect, name))
        elif defect is None:
            self.image(name, seed)
            self.label(name)

    def finish(self) -> None:
        for split, names in self.splits.items():
            if names:
                self.mill.write(f"d/ImageSets/Main/{split}.txt", "".join(f"{name}\n" for name in names))


@pytest.fixture(scope="module")
def new_mill(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Mill]:
    def make() -> Mill:
        folder: Path = tmp_path_factory.mktemp("mill")
        (folder / "drops").mkdir()
        rules = Selection(pixels=True, classes={"*": ("Car",)})
        return Mill(folder / "drops", folder / "lake", Settings(rules=rules), batch_objects=30)

    return make


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(plan=st.lists(st.sampled_from([None, *_DEFECTS]), min_size=5, max_size=25))
def test_what_is_planted_in_a_bucket_is_found_and_nothing_else(
    new_mill: Callable[[], Mill], plan: list[str | None]
) -> None:
    check(new_mill(), plan)


def test_all_defects_beside_each_other_are_told_apart_by_a_drop_and_by_a_review_of_the_lake(
    new_mill: Callable[[], Mill],
) -> None:
    mill = new_mill()
    truth = check(mill, [None, *_DEFECTS, None])
    material = read_lake(mill.lake, "d").material
    found = review(material, looks=look_at_images(material.images)).findings
    said = {(rule, sample) for rule, sample in found.select("rule", "sample").iter_rows()}
    # Without a configured list of classes the review has none.
    assert said == {pair for pair in truth if pair[0] != "unlisted_category"}


def test_every_rule_about_files_is_planted_here_or_tested_by_its_name_elsewhere() -> None:
    elsewhere = {"unknown_category", "class_drift", "expectations_not_run"}
    assert {*_DEFECTS} - {"unlisted_category"} == FILE_RULES.keys() - elsewhere


def check(mill: Mill, plan: list[str | None]) -> set[tuple[str, str]]:
    planter = Planter(mill)
    for number, defect in enumerate(plan):
        planter.plant(number, defect)
    planter.finish()
    mill.ingest()
    found = {(str(row["rule"]), str(row["sample"])) for row in mill.rows("SELECT rule, sample FROM findings")}
    assert found == planter.truth
    return planter.truth
