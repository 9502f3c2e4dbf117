from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.errors import TrainingError, UnreadableError
from training.samples import Sample, decode_image, load_image, split_samples


def make(name: str, split: str | None = None, uri: str = "") -> Sample:
    return Sample(name, uri, 8, 8, split, np.zeros((0, 4)), (), np.zeros(0, bool))


def test_the_split_column_decides() -> None:
    samples = [make("a", "train"), make("b", "val"), make("c", "test"), make("d", "trainval"), make("e")]
    train, val = split_samples(samples)
    assert [s.id for s in train] == ["a", "d", "e"]
    assert [s.id for s in val] == ["b"]


def test_without_a_validation_split_a_share_is_held_out_by_hash() -> None:
    samples = [make(f"s{i}") for i in range(500)]
    train, val = split_samples(samples, val_share=0.2)
    assert 70 < len(val) < 130
    assert not {s.id for s in train} & {s.id for s in val}
    more = [make(f"t{i}") for i in range(500)]
    again = {s.id for s in split_samples(more + samples, val_share=0.2)[1]}
    assert {s.id for s in val} <= again


def test_two_samples_are_one_on_each_side() -> None:
    for seed in range(20):
        train, val = split_samples([make("a"), make("b")], seed=seed)
        assert len(train) == len(val) == 1


def test_only_test_samples_are_nothing_to_train_on() -> None:
    with pytest.raises(TrainingError, match=r"no training sample among 1 \(splits: test\)"):
        split_samples([make("a", "test")])


def test_images_come_as_they_are_shown(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    shown = load_image(make("x", uri=str(tmp_path / "turned.png")))
    assert shown.shape == (3, 2, 3)
    assert shown[0, 1].tolist() == [255, 255, 255]


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "deep.png")
    shown = load_image(make("x", uri=(tmp_path / "deep.png").as_uri()))
    assert shown[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


def test_odd_images_decode_to_rgb_or_are_refused_by_name(shared_data: Path) -> None:
    outcomes = set()
    for path in sorted((shared_data / "image-oddities").rglob("*.*")):
        if path.suffix.lower() in {".md", ".txt", ""}:
            continue
        try:
            pixels = decode_image(path.read_bytes(), path.name)
        except UnreadableError:
            outcomes.add("refused")
        else:
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            assert pixels.dtype == np.uint8
            outcomes.add("read")
    assert outcomes == {"refused", "read"}


def test_an_absent_image_is_an_error_with_its_place() -> None:
    with pytest.raises(UnreadableError, match=r"nowhere\.png"):
        load_image(make("x", uri="/nowhere.png"))


def test_a_sample_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(TrainingError, match="for 1 categories"):
        replace(make("a"), categories=("x",))
    with pytest.raises(TrainingError, match="not finite"):
        Sample("a", "", 8, 8, None, np.full((1, 4), np.nan), ("x",), np.zeros(1, bool))
