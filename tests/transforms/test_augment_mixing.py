"""Mosaics, mixtures, pasted instances and balance: images that are made of several."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dropmill.augmentation import repeat_factors_of
from dropmill.cli import cli

# As people have it, 5.0; written anew from the keys of its schema.
from tests.transforms.augment_folders import (
    CAR,
    boxes_of,
    kitti_folder,
    run,
)
from transforms.augment.generate import prepare
from transforms.augment.labels import Keep, labels_of
from transforms.augment.masks import decoded as decoded_segmentation
from transforms.augment.opencv import render
from transforms.augment.pixels import decode, encode
from transforms.augment.plan import Layer, Plan, as_json, from_json
from transforms.augment.sample import LabelledImage, objects_of
from transforms.augment.spec import load_augment_spec
from transforms.formats.masks import rle_text


def test_a_mosaic_shows_four_images_each_in_its_window_with_its_objects(tmp_path: Path):
    names = {f"{i}.png": (100, 80) for i in range(6)}
    words = kitti_folder(
        tmp_path,
        names,
        dict.fromkeys(names, CAR.replace("10.00 10.00 30.00 40.00", "10.00 10.00 90.00 70.00")),
    )
    work = prepare(load_augment_spec(None, [*words, "mosaic_aug.probability=1", "labels.min_visibility=0"]))
    for plan, placed in zip(work.plans, work.placed, strict=True):
        assert len(plan.layers) == 4
        assert sum((r - x) * (b - y) for x, y, r, b in (layer.window for layer in plan.layers)) == 100 * 80
        for (sample, _), box in zip(placed.sources, placed.boxes, strict=True):
            windows = [layer.window for layer in plan.layers if layer.sample == sample]
            assert any(
                w[0] <= box[0] and w[1] <= box[1] and box[2] <= w[2] and box[3] <= w[3] for w in windows
            )


def test_mixup_keeps_the_objects_of_both_and_blends_their_pixels(tmp_path: Path):
    white, black = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64, 3), np.uint8)
    words = kitti_folder(tmp_path, {"b.png": encode(black, "x.png"), "w.png": encode(white, "x.png")})
    report = run(*words, "mixup_aug.probability=1", "mixup_aug.weight=[0.4]", "random_seed=3")
    seen = set()
    for line in (report.folder / "parameters.ndjson").read_bytes().splitlines():
        plan = from_json(line)
        assert len(boxes_of(report.folder)[f"{plan.sample}.txt"]) == 2
        value = int(decode((report.folder / "images" / plan.name).read_bytes(), "x")[5, 5, 0])
        pair = tuple(layer.sample for layer in plan.layers)
        assert value == {("b", "b"): 0, ("w", "w"): 255, ("b", "w"): 102, ("w", "b"): 153}[pair]
        seen.add(pair)
    assert seen


def test_cutout_hides_objects_that_it_covers(tmp_path: Path):
    words = kitti_folder(tmp_path, {"a.png": (64, 64)})
    report = run(*words, "cutout_aug.count=[1]", "cutout_aug.size=[1.0]", "cutout_aug.value=7")
    assert (decode((report.folder / "images/a.png").read_bytes(), "a") == 7).all()
    assert (report.folder / "labels/a.txt").read_text() == ""


def test_pasted_instances_hide_no_more_than_allowed_and_bring_their_pixels(tmp_path: Path):
    green, red = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100, 3), np.uint8)
    green[..., 1] = 200
    red[..., 0] = 200
    donor = "Rare 0.00 0 0 40.00 40.00 60.00 60.00 0 0 0 0 0 0 0\n"
    words = kitti_folder(
        tmp_path, {"g.png": encode(green, "x.png"), "r.png": encode(red, "x.png")}, {"r.png": donor}
    )
    report = run(
        *words, "paste_aug.instances=[3]", "paste_aug.categories=[Rare]", "paste_aug.max_overlap=0.1",
        "paste_aug.scale=[1.0]", "paste_aug.blend=0",
    )  # fmt: skip
    rows = [row for row in boxes_of(report.folder)["g.txt"] if row[0] == "Rare"]
    assert rows
    pixels = decode((report.folder / "images/g.png").read_bytes(), "g")
    for row in rows:
        box = np.array(row[4:8], float)
        x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
        assert pixels[y, x].tolist() == [200, 0, 0]
        corner = pixels[int(box[1]) + 1, int(box[0]) + 1]
        assert corner.tolist() == [0, 200, 0], "only the ellipse is cut out"


@pytest.mark.parametrize("outlined", ["polygon", "run lengths"])
def test_masks_and_boxes_end_where_a_pasted_instance_begins(outlined: str):
    """What masks say is looked for in the pixels: each thing has a colour of its own."""
    below, above = (20.0, 20.0, 60.0, 60.0), (10.0, 10.0, 30.0, 50.0)
    pixels = {name: np.zeros((80, 90, 3), np.uint8) for name in ("base", "donor")}
    pixels["base"][20:60, 20:60, 1] = 200
    pixels["donor"][10:50, 10:30, 0] = 200
    outline = json.dumps([[20, 20, 60, 20, 60, 60, 20, 60]])
    if outlined == "run lengths":
        outline = rle_text(pixels["base"][..., 1] > 0, 0, 0, 90, 80)
    rows = {"base": [below, (0.0, 70.0, 9.0, 79.0)], "donor": [above]}
    images = {
        name: LabelledImage(
            sample=name, name=f"{name}.png", uri="", version="", width=90, height=80,
            objects=objects_of(
                boxes, ["Thing"] * len(boxes), [False] * len(boxes), range(len(boxes)),
                [outline if box == below else None for box in boxes],
            ),
        )
        for name, boxes in rows.items()
    }  # fmt: skip
    whole = {"width": 90, "height": 80, "window": (0, 0, 90, 80)}
    plan = Plan(
        name="out.png", width=90, height=80,
        layers=(
            Layer(sample="base", matrix=(1, 0, 0, 0, 1, 0), **whole),
            Layer(
                sample="donor", matrix=(1, 0, 35, 0, 1, 8), instance=0, **whole,
                outline=json.dumps([[10, 10, 30, 10, 30, 50, 10, 50]]),
            ),
        ),
    )  # fmt: skip
    placed = labels_of(plan, images, Keep())
    shown = render(plan, pixels)
    mask = decoded_segmentation(placed.segmentations[0] or "")
    assert np.array_equal(mask, shown[..., 1] > 100)
    assert placed.boxes[0].tolist() == [20, 20, 60, 60], "it is seen above and beside what hides it"
    assert placed.covered[0] == pytest.approx(15 * 40 / 1600, abs=0.03)
    assert placed.areas[0] == mask.sum()
    assert len(placed) == 3

    beside = msgspec.structs.replace(plan.layers[1], matrix=(1, 0, 35, 0, 1.2, 4))
    cut = labels_of(msgspec.structs.replace(plan, layers=(plan.layers[0], beside)), images, Keep())
    assert cut.boxes[0].tolist() == [20, 20, 45, 60], "its right side is hidden from top to bottom"
    over = msgspec.structs.replace(plan.layers[1], matrix=(3, 0, -20, 0, 2, -10))
    gone = labels_of(msgspec.structs.replace(plan, layers=(plan.layers[0], over)), images, Keep())
    assert [source for source, _ in gone.sources] == ["base", "donor"], (
        "the other object, and what was pasted"
    )


def test_balance_oversamples_images_of_rare_classes(tmp_path: Path):
    names = {f"{i:02}.png": (64, 64) for i in range(20)}
    labels = dict.fromkeys(names, CAR)
    labels["03.png"] = CAR.replace("Car", "Rare")
    words = kitti_folder(tmp_path, names, labels)
    spec = load_augment_spec(None, [*words, "balance.mode=oversample"])
    work = prepare(spec, repeat_factors_of)
    copies = [plan.sample for plan in work.plans].count("03")
    assert copies == 3, "its factor is over 4, growth is limited to 3"
    assert len(work.plans) == 22


def test_balance_full_reaches_the_ratio_that_is_asked_for(tmp_path: Path):
    names = {f"{i:02}.png": (200, 160) for i in range(16)}
    labels = dict.fromkeys(names, CAR + CAR.replace("10.00 10.00 30.00 40.00", "60.00 20.00 90.00 60.00"))
    labels["03.png"] += "Rare 0.00 0 0 120.00 90.00 140.00 110.00 0 0 0 0 0 0 0\n"
    words = kitti_folder(tmp_path, names, labels)
    work = prepare(load_augment_spec(None, [*words, "balance.mode=full", "balance.ratio=2"]))
    assert work.before == {"Car": 32, "Rare": 1}
    assert max(work.after.values()) / min(work.after.values()) <= 2
    assert len(work.plans) <= 48
    again = prepare(load_augment_spec(None, [*words, "balance.mode=full", "balance.ratio=2"]))
    assert [as_json(plan) for plan in again.plans] == [as_json(plan) for plan in work.plans]


def test_the_preview_is_one_picture_of_before_and_after(tmp_path: Path):
    words = kitti_folder(tmp_path, {f"{i}.png": (96, 64) for i in range(4)})
    sheet = tmp_path / "sheet.png"
    command = [
        "dataset",
        "augmentation",
        "preview",
        *words,
        "spatial_aug.rotation.angle=[9]",
        "--sheet",
        str(sheet),
    ]
    result = CliRunner().invoke(cli, [*command, "--cell", "96"])
    assert result.exit_code == 0, result.output
    assert "4 images are in" in result.output
    assert Image.open(sheet).size[0] >= 2 * 96 * 2
