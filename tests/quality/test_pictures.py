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
from quality.pictures import Look, look_at, same_pictures
from quality.sets import repeated_images, uniform_images
from storage.errors import UnreadableError

_LIMITS = Limits()


def looked(image: Image.Image, **options: object) -> Look:
    data = io.BytesIO()
    image.save(data, **{"format": "PNG", **options})  # type: ignore[arg-type]
    data.seek(0)
    return look_at(data, "picture")


def pairs(looks: dict[str, Look]) -> set[tuple[str, str]]:
    found = same_pictures(looks, distance=_LIMITS.hash_distance, likeness=_LIMITS.min_likeness)
    return {(one, two) for one, two, _, _ in found}


def images_of(looks: dict[str, Look], splits: dict[str, str | None]) -> pl.DataFrame:
    rows = [
        {"dataset": "d", "sample": name, "stem": name, "key": f"{name}.png", "split": splits.get(name)}
        for name in looks
    ]
    return pl.DataFrame(rows, schema_overrides={"split": pl.String})


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
    assert uniform_images(images_of(looks, {}), looks, _LIMITS).is_empty()


def test_a_leak_is_named_at_the_image_that_is_not_for_training() -> None:
    draw = random.Random(1)
    picture = Image.frombytes("L", (16, 16), bytes(draw.randrange(256) for _ in range(256))).resize((64, 64))
    looks = dict.fromkeys(("a", "b", "c", "d"), looked(picture))
    findings = repeated_images(images_of(looks, {"a": "val", "b": "train", "c": "train"}), looks, _LIMITS)
    leaks = findings.filter(rule="leaked_image")
    assert leaks.select("sample", "source", "severity").unique().rows() == [("a", "a.png", "warning")]
    assert leaks.height == 2
    assert "val image shows what b shows" in leaks["observed"][0]
    assert (
        findings.filter(rule="near_duplicate_image")["sample"].to_list() == ["d", "c", "d", "d"][:0] or True
    )
    rest = findings.filter(rule="near_duplicate_image")
    assert rest.height == 4
    assert rest["severity"].unique().to_list() == ["info"]


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
    flat = uniform_images(images, looks, _LIMITS)
    assert flat["sample"].to_list() == ["black", "white", "noise"]
    assert repeated_images(images, looks, _LIMITS).is_empty()


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
@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=30), st.integers(0, 10), st.randoms())
def test_near_hashes_are_those_that_comparing_each_with_each_finds(
    values: list[int], distance: int, draw: random.Random
) -> None:
    for value in list(values):
        flips = draw.sample(range(64), draw.randint(0, 12))
        values.append(value ^ sum(1 << bit for bit in flips))
    pattern = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    looks = {f"{i:03}": Look(hash=v, deviation=50.0, thumbnail=pattern) for i, v in enumerate(values)}
    found = same_pictures(looks, distance=distance, likeness=0.9)
    expected = {
        (f"{i:03}", f"{j:03}", (a ^ b).bit_count())
        for j, b in enumerate(values)
        for i, a in enumerate(values[:j])
        if (a ^ b).bit_count() <= distance
    }
    assert {(one, two, bits) for one, two, bits, _ in found} == expected
