"""Perceptual hashes: the same picture is known again, others are not; and nearly uniform images."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quality.limits import Limits
from quality.pictures import LOOK_COLUMNS, Look, look_at, looks_frame, near_hashes
from quality.sets import alike, repeated_images, uniform_images
from storage.errors import UnreadableError

_LIMITS = Limits()


def looked(image: Image.Image, **options: object) -> Look:
    data = io.BytesIO()
    image.save(data, **{"format": "PNG", **options})  # type: ignore[arg-type]
    data.seek(0)
    return look_at(data, "picture")


def pairs(looks: dict[str, Look]) -> set[tuple[str, str]]:
    """Every two that show the same, each alone beside the other."""
    frame = images_of(looks, {})
    near = alike(frame, frame, _LIMITS).filter("follows").select("sample", "sample_right")
    found = set()
    for one, two in near.iter_rows():
        if repeated_images(frame.filter(pl.col("sample").is_in([one, two])), _LIMITS).height:
            found.add((two, one))
    return found


def images_of(looks: dict[str, Look], splits: dict[str, str | None]) -> pl.DataFrame:
    rows = [
        {"dataset": "d", "sample": name, "stem": name, "key": f"{name}.png", "split": splits.get(name)}
        for name in looks
    ]
    frame = pl.DataFrame(rows, schema_overrides={"split": pl.String})
    return frame.join(looks_frame(looks), on="sample", maintain_order="left")


def test_pictures_that_were_saved_again_scaled_or_turned_by_exif_are_known_again(shared_data: Path) -> None:
    paths = sorted((shared_data / "kitti" / "image_2").glob("*.png"))
    looks: dict[str, Look] = {}
    truth = set()
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
            turned = image.transpose(Image.Transpose.ROTATE_90)
            exif = Image.Exif()
            exif[0x0112] = 6
            copies = {
                "jpeg": looked(image, format="JPEG", quality=40),
                "small": looked(image.resize((image.width // 3, image.height // 3))),
                "turned": looked(turned, format="JPEG", quality=90, exif=exif),
                "brighter": looked(image.point(lambda value: min(255, int(value * 1.1) + 5))),
            }
            looks[path.stem] = looked(image)
        for name, look in copies.items():
            looks[f"{path.stem}-{name}"] = look
        names = sorted([path.stem, *(f"{path.stem}-{name}" for name in copies)])
        truth |= {(one, two) for i, one in enumerate(names) for two in names[i + 1 :]}
    assert pairs(looks) == truth


@pytest.mark.parametrize(
    "folder",
    ["coco128-yolo/images", "nuts-coco-masks", "kitti-cropped/training/image_2", "yolo-darknet-pairs"],
)
def test_different_pictures_are_never_the_same(shared_data: Path, folder: str) -> None:
    files = [p for p in sorted((shared_data / folder).rglob("*")) if p.suffix in {".jpg", ".png"}]
    assert len(files) >= 10
    looks = {}
    for path in files:
        with path.open("rb") as file:
            looks[path.stem] = look_at(file, path.name)
    assert pairs(looks) == set()
    assert uniform_images(images_of(looks, {}), _LIMITS).is_empty()


def test_a_leak_is_named_at_the_image_that_is_not_for_training() -> None:
    draw = random.Random(1)
    picture = Image.frombytes("L", (16, 16), bytes(draw.randrange(256) for _ in range(256))).resize((64, 64))
    looks = dict.fromkeys(("a", "b", "c", "d"), looked(picture))
    findings = repeated_images(images_of(looks, {"a": "val", "b": "train", "c": "train"}), _LIMITS)
    leaks = findings.filter(rule="leaked_image")
    assert leaks.select("sample", "source", "severity").rows() == [("a", "a.png", "warning")]
    assert leaks["observed"][0].startswith("val image shows what b shows")
    rest = findings.filter(rule="near_duplicate_image")
    assert rest.select("sample", "severity").rows() == [("c", "info"), ("d", "info")]
    assert [text.split(" (")[0] for text in rest["observed"]] == ["shows what b shows"] * 2


def test_nearly_uniform_images_are_found_and_are_no_duplicates_of_each_other() -> None:
    noise = np.random.default_rng(0).normal(128, 1.0, (80, 60)).clip(0, 255).astype(np.uint8)
    looks = {
        "black": looked(Image.new("RGB", (50, 40))),
        "white": looked(Image.new("L", (50, 40), 255)),
        "noise": looked(Image.fromarray(noise)),
        "half": looked(
            Image.fromarray(np.where(np.arange(64)[:, None] < 32, 0, 200).repeat(64, 1).astype(np.uint8))
        ),
    }
    images = images_of(looks, {"black": "train", "white": "val"})
    flat = uniform_images(images, _LIMITS)
    assert flat["sample"].to_list() == ["black", "white", "noise"]
    assert repeated_images(images, _LIMITS).is_empty()


def test_every_readable_oddity_is_looked_at_and_every_other_refused(shared_data: Path) -> None:
    import json

    counts = json.loads((shared_data / "expected-counts.json").read_text())["image-oddities"]
    broken = set(counts["unreadable"])
    endings = {".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm", ".pbm"}
    refused, seen, said = set(), {}, []
    for path in sorted((shared_data / "image-oddities").rglob("*")):
        if path.suffix.lower() not in endings:
            continue
        try:
            with path.open("rb") as file:
                seen[path.name] = look_at(file, path.name)
        except UnreadableError as error:
            refused.add(path.name)
            said.append(str(error))
    assert refused <= broken
    assert all(any(name in text for name in refused) for text in said)
    assert seen
    turned = {f"Landscape_{number}.jpg" for number in range(1, 9)}
    known = {name: look for name, look in seen.items() if name in turned}
    assert len(pairs(known)) == 28, "all eight orientations show the same"


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=30), st.integers(0, 10), st.randoms())
def test_near_hashes_are_those_that_comparing_each_with_each_finds(
    values: list[int], distance: int, draw: random.Random
) -> None:
    for value in list(values):
        flips = draw.sample(range(63), draw.randint(0, 12))
        values.append(value ^ sum(1 << bit for bit in flips))
    one, two = pl.Series(values[: len(values) // 2]), pl.Series(values)
    found = near_hashes(one, two, distance)
    expected = {
        (i, j)
        for i, a in enumerate(one.to_list())
        for j, b in enumerate(values)
        if (a ^ b).bit_count() <= distance
    }
    assert set(zip(*(rows.tolist() for rows in found), strict=True)) == expected
    assert len(found[0]) == len(expected)


def test_a_look_stands_in_the_columns_of_a_table(shared_data: Path) -> None:
    with (shared_data / "kitti" / "image_2" / "000001.png").open("rb") as file:
        look = look_at(file, "000001.png")
    frame = looks_frame({"a": look})
    assert frame.schema == {"sample": pl.String, **LOOK_COLUMNS}
    assert np.frombuffer(bytes.fromhex(frame["pattern"][0]), np.int8).tolist() == look.pattern.tolist()
    assert frame["phash"][0] == look.hash
