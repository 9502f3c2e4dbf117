"""Rules about images and label files: sizes that are declared wrong, or before EXIF turned the image."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from dropmill.delivered import read_folder
from quality.review import review


def voc(
    folder: Path, name: str, size: tuple[int, int] | None, declared: tuple[int, int], orientation: int = 1
) -> None:
    """An image of ``size`` as stored, and a label file that declares a size."""
    if size:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.effect_noise(size, 60).save(folder / f"{name}.jpg", exif=exif)
    (folder / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.jpg</filename><size><width>{declared[0]}</width><height>{declared[1]}</height>"
        "<depth>1</depth></size><object><name>car</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax>"
        "<ymax>20</ymax></bndbox></object></annotation>"
    )


@pytest.mark.parametrize(
    ("stored", "declared", "orientation", "rule", "observed"),
    [
        ((80, 60), (80, 60), 1, None, ""),
        ((80, 60), (60, 80), 6, None, ""),
        ((80, 60), (80, 60), 6, "swapped_size", "80x60 declared, 60x80 shown (EXIF orientation 6)"),
        ((80, 60), (60, 80), 1, "swapped_size", "60x80 declared, 80x60 shown"),
        ((80, 60), (80, 61), 1, "declared_size", "80x61 declared, 80x60 shown"),
        ((80, 60), (160, 120), 3, "declared_size", "160x120 declared, 80x60 shown (EXIF orientation 3)"),
        ((80, 60), (0, 0), 1, None, ""),
    ],
)
def test_a_declared_size_is_compared_with_the_image_as_it_is_shown(
    tmp_path: Path,
    stored: tuple[int, int],
    declared: tuple[int, int],
    orientation: int,
    rule: str | None,
    observed: str,
) -> None:
    voc(tmp_path, "a", stored, declared, orientation)
    voc(tmp_path, "b", (90, 70), (90, 70))
    found = review(read_folder(tmp_path, tmp_path, form="voc").material).findings
    sizes = found.filter(pl.col("rule").is_in(["declared_size", "swapped_size"]))
    assert sizes.select("rule", "stem", "observed").rows() == ([(rule, "a", observed)] if rule else [])


def test_labels_whose_image_is_missing_are_checked_against_what_they_declare(tmp_path: Path) -> None:
    voc(tmp_path, "a", (80, 60), (80, 60))
    voc(tmp_path, "gone", None, (15, 15))
    found = review(read_folder(tmp_path, tmp_path, form="voc").material)
    assert found.material.boxes.height == 2
    assert found.material.images["stem"].to_list() == ["a"]
    rules = set(found.findings.select("rule", "stem").rows())
    assert rules == {("beyond_image", "gone"), ("unknown_image", "gone")}


def test_class_numbers_without_a_name_are_counted_and_said(tmp_path: Path) -> None:
    Image.effect_noise((80, 60), 60).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("3 0.5 0.5 0.5 0.5\n7 0.3 0.3 0.2 0.2\n3 0.8 0.8 0.1 0.1\n")
    found = review(read_folder(tmp_path, tmp_path, form="yolo").material)
    assert sorted(found.material.boxes["category"]) == ["class 3", "class 3", "class 7"]
    said = sorted(found.findings.filter(rule="unknown_category")["observed"])
    assert said == ["1 boxes of class number 7", "2 boxes of class number 3"]


def test_the_class_list_beside_the_folder_of_labels_names_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    Image.effect_noise((80, 60), 60).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [car, van]\n")
    found = review(read_folder(tmp_path / "labels", tmp_path / "images", form="yolo").material)
    assert found.material.boxes["category"].to_list() == ["van"]
    assert found.findings.is_empty()


def test_an_unreadable_image_is_a_finding_and_its_labels_wait(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(
        (shared_data / "image-oddities" / _broken(shared_data)).read_bytes()
    )
    (tmp_path / "broken.txt").write_text("car 0 0 0 1 1 9 9 0 0 0 0 0 0 0\n")
    voc(tmp_path, "a", (80, 60), (80, 60))
    found = review(read_folder(tmp_path, tmp_path).material)
    assert {("unreadable_file", "broken"), ("unknown_image", "broken")} <= set(
        found.findings.select("rule", "stem").rows()
    )
    assert found.material.unreadable == 1


def _broken(shared_data: Path) -> str:
    (path,) = (shared_data / "image-oddities").rglob("broken.png")
    return path.relative_to(shared_data / "image-oddities").as_posix()


def test_pictures_of_masks_are_no_images_of_the_set(tmp_path: Path) -> None:
    for folder in ("images", "SegmentationObject", "panoptic_val", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (100, 50), "grey").save(tmp_path / folder / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("Car 0 0 0 10 10 40 40 0 0 0 0 0 0 0\n")
    material = read_folder(tmp_path, tmp_path).material
    assert material.images["sample"].to_list() == ["images/a"]
    assert material.boxes["sample"].to_list() == ["images/a"]
