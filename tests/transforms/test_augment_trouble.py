"""Augmentation of images and specs that are not as they should be, and runs that were cut short."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dropmill.augmentation import augment
from storage.errors import ConfigError, UnknownKeyError

# As people have it, 5.0; written anew from the keys of its schema.
from tests.transforms.augment_folders import (
    kitti_folder,
    run,
)
from transforms.augment import generate as generating
from transforms.augment.generate import prepare
from transforms.augment.spec import load_augment_spec


def _saved(image: Image.Image, form: str, **how) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **how)
    return target.getvalue()


def test_odd_images_are_handled_or_reported_by_name(tmp_path: Path):
    grey = Image.linear_gradient("L").resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = _saved(Image.merge("RGB", [grey] * 3), "PNG")
    images = {
        "cmyk.jpg": _saved(Image.merge("RGB", [grey] * 3).convert("CMYK"), "JPEG"),
        "deep.png": _saved(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "grey.jpg": _saved(grey, "JPEG"),
        "one.png": _saved(Image.new("RGB", (1, 1), "red"), "PNG"),
        "palette.png": _saved(Image.merge("RGB", [grey] * 3).convert("P"), "PNG"),
        "turned.jpg": _saved(Image.merge("RGB", [grey] * 3), "JPEG", exif=exif),
        "cut.png": whole[: len(whole) // 2],
        "no.png": b"no image at all",
    }
    report = run(*kitti_folder(tmp_path, images, {"one.png": ""}), "spatial_aug.flip.flip_vertical=True")
    assert report.outputs == 6
    assert all(name in report.notes[0] for name in ("cut", "no"))
    sizes = {p.name: Image.open(p).size for p in (report.folder / "images").iterdir()}
    assert sizes.pop("one.png") == (1, 1)
    assert sizes.pop("turned.jpg") == (48, 64)
    assert sizes == dict.fromkeys(("cmyk.jpg", "deep.png", "grey.jpg", "palette.png"), (64, 48))
    deep = np.asarray(Image.open(report.folder / "images" / "deep.png").convert("L")).astype(int)
    assert np.abs(deep - np.asarray(grey)[::-1]).max() <= 1
    assert not Image.open(report.folder / "images" / "turned.jpg").getexif().get(0x0112)


def test_an_image_that_breaks_after_the_labels_were_read_is_named_and_stops_nothing(tmp_path: Path):
    words = kitti_folder(tmp_path, {"a.png": (64, 64), "b.png": (64, 64)})
    spec = load_augment_spec(None, [*words, "spatial_aug.rotation.angle=[9]"])
    work = prepare(spec)
    (tmp_path / "images" / "a.png").write_bytes((tmp_path / "images" / "a.png").read_bytes()[:200])
    report = generating.generate(spec, work)
    assert list(report.failed) == ["a.png"]
    assert "a.png" in report.failed["a.png"]
    assert [p.name for p in (report.folder / "labels").iterdir()] == ["b.txt"]


def test_an_unknown_key_names_the_nearest_and_half_a_size_is_refused(tmp_path: Path):
    with pytest.raises(UnknownKeyError, match=r"spatial_aug.rotation.angle"):
        load_augment_spec(None, ["spatial_aug.rotation.angel=[3]"])
    with pytest.raises(ConfigError, match="both or neither"):
        load_augment_spec(None, ["data.output_image_width=300"])
    words = kitti_folder(tmp_path, {"a.png": (64, 64)})
    with pytest.raises(ConfigError, match="where the results go"):
        run(*words, f"results_dir={tmp_path}")


def test_a_run_that_was_cut_short_goes_on_and_other_parameters_start_anew(tmp_path: Path, monkeypatch):
    words = kitti_folder(tmp_path, {f"{i}.png": (64, 64) for i in range(6)})
    turn = "spatial_aug.rotation.angle=[-9,9]"
    spec = load_augment_spec(None, [*words, turn, "workers=1"])

    class Crash(BaseException):
        pass

    real, count = os.replace, 0

    def write(path, data):
        nonlocal count
        count += 1
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data[: len(data) // 2] if count == 4 else data)
        if count == 4:
            raise Crash
        real(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(generating, "_write", write)
        with pytest.raises(Crash):
            augment(spec)
    out = tmp_path / "out"
    assert len(list((out / "images").glob("*.png"))) == 3
    assert not (out / "labels").exists(), "labels come when all images are there"
    report = augment(spec)[0]
    assert (report.kept, report.written) == (3, 3)
    whole = run(*words, turn, f"results_dir={tmp_path / 'whole'}")
    for image in (whole.folder / "images").iterdir():
        assert (out / "images" / image.name).read_bytes() == image.read_bytes()
    again = run(*words, turn, "random_seed=7")
    assert (again.kept, again.written) == (0, 6)
