from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from storage.errors import UnreadableError
from transforms.images import ImageHeader, inspect_image, is_image


def _inspect(data: bytes, name: str = "a.jpg", **more: Any) -> ImageHeader:
    return inspect_image(io.BytesIO(data), name, len(data), **more)


def _encoded(form: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise = [Image.effect_noise(size, 80) for _ in range(4)]
    picture = noise[0] if mode in {"1", "L", "F", "I;16"} else Image.merge("RGBA", noise)
    picture.convert("RGB" if mode == "P" else picture.mode).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _oddities(shared_data: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((shared_data / "expected-counts.json").read_text())[
        "image-oddities"
    ]
    return expected


def test_of_the_oddities_exactly_the_broken_ones_are_unreadable(shared_data: Path) -> None:
    expected = _oddities(shared_data)
    files = sorted((shared_data / "image-oddities" / "images").iterdir())
    assert len(files) == expected["files"]
    unreadable = []
    for file in files:
        data = file.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert is_image(data[:64]) is not None
            try:
                _inspect(data, file.name)
            except UnreadableError as error:
                unreadable.append(error.path)
    assert sorted(unreadable) == sorted(expected["unreadable"])


def test_the_size_of_every_good_oddity_is_that_of_the_picture_as_shown(shared_data: Path) -> None:
    expected = _oddities(shared_data)
    turned, deep = [], []
    for file in sorted((shared_data / "image-oddities" / "images").iterdir()):
        if file.name in expected["unreadable"]:
            continue
        header = _inspect(file.read_bytes(), file.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                assert (header.width, header.height) == ImageOps.exif_transpose(image).size
        if header.exif_orientation != 1:
            turned.append(file.name)
        if header.bit_depth == 16:
            deep.append(file.name)
    assert sorted(turned) == sorted(expected["exif_turned"])
    assert sorted(deep) == sorted(expected["sixteen_bit"])


def test_all_eight_orientations_of_a_scene_have_one_size(shared_data: Path) -> None:
    for orientation in range(1, 9):
        file = shared_data / "image-oddities" / "images" / f"Landscape_{orientation}.jpg"
        header = _inspect(file.read_bytes())
        assert (header.width, header.height, header.exif_orientation) == (1800, 1200, orientation)


@pytest.mark.parametrize(
    ("pattern", "sizes"),
    [
        ("kitti/image_2/*.png", {(1242, 375): 10, (1238, 374): 2, (1224, 370): 1}),
        ("bccd-voc/JPEGImages/*.jpg", {(640, 480): 364}),
    ],
)
def test_real_sets_have_their_counted_sizes(
    shared_data: Path, pattern: str, sizes: dict[tuple[int, int], int]
) -> None:
    found: dict[tuple[int, int], int] = {}
    for file in shared_data.glob(pattern):
        with file.open("rb") as opened:
            header = inspect_image(opened, file.name, file.stat().st_size)
        found[header.width, header.height] = found.get((header.width, header.height), 0) + 1
        assert (header.channels, header.bit_depth) == (3, 8)
    assert found == sizes


@pytest.mark.parametrize(
    ("form", "mode", "options", "channels", "depth"),
    [
        ("JPEG", "RGB", {}, 3, 8),
        ("JPEG", "RGB", {"progressive": True}, 3, 8),
        ("JPEG", "L", {}, 1, 8),
        ("JPEG", "CMYK", {}, 4, 8),
        ("PNG", "RGBA", {}, 4, 8),
        ("PNG", "LA", {}, 2, 8),
        ("PNG", "P", {}, 3, 8),
        ("PNG", "1", {}, 1, 1),
        ("PNG", "I;16", {}, 1, 16),
        ("BMP", "RGB", {}, 3, 8),
        ("BMP", "P", {}, 3, 8),
        ("GIF", "P", {}, 3, 8),
        ("WEBP", "RGB", {}, 3, 8),
        ("WEBP", "RGBA", {"lossless": True}, 4, 8),
        ("TIFF", "RGB", {}, 3, 8),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, 3, 8),
        ("TIFF", "F", {}, 1, 32),
        ("PPM", "RGB", {}, 3, 8),
        ("PPM", "1", {}, 1, 1),
    ],
)
def test_every_form_is_recognised_with_its_size_channels_and_depth(
    form: str, mode: str, options: dict[str, Any], channels: int, depth: int
) -> None:
    data = _encoded(form, (41, 30), mode, **options)
    assert is_image(data[:64]) == form.lower()
    header = _inspect(data)
    assert header == ImageHeader(
        format=form.lower(), width=41, height=30, channels=channels, bit_depth=depth, exif_orientation=1
    )


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_orientation_turns_the_size_in_every_form(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    header = _inspect(_encoded(form, (40, 30), exif=exif))
    assert (header.width, header.height, header.exif_orientation) == (30, 40, 6)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _chunks(png: bytes) -> list[bytes]:
    chunks, position = [], 8
    while position < len(png):
        end = position + 12 + int.from_bytes(png[position : position + 4], "big")
        chunks.append(png[position:end])
        position = end
    return chunks


def test_exif_behind_the_pixels_of_a_png_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    *front, end = _chunks(_encoded("PNG", (40, 30)))
    data = (
        b"\x89PNG\r\n\x1a\n"
        + b"".join(front)
        + _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        + end
    )
    header = _inspect(data)
    assert (header.width, header.height, header.exif_orientation) == (30, 40, 8)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off_is_unreadable(form: str, part: float) -> None:
    data = _encoded(form, (200, 150))
    with pytest.raises(UnreadableError):
        _inspect(data[: int(len(data) * part)])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_padding_behind_the_image_does_no_harm(form: str) -> None:
    data = _encoded(form)
    for padding in (b"\0" * 100_000, b"a trailer of a camera" * 5000):
        assert _inspect(data + padding).width == 40


def test_the_end_of_a_thumbnail_is_not_taken_for_the_end_of_the_image() -> None:
    exif = Image.Exif()
    exif[0x927C] = _encoded("JPEG", (60, 40))
    data = _encoded("JPEG", (100, 80), exif=exif)
    assert b"\xff\xd9" in data[:4000]
    assert _inspect(data).width == 100
    with pytest.raises(UnreadableError):
        _inspect(data[:-2000])


@pytest.mark.parametrize("place", range(30, 2000, 181))
def test_any_flipped_byte_of_a_png_is_noticed(place: int) -> None:
    data = bytearray(_encoded("PNG", (60, 60)))
    data[place] ^= 0x10
    with pytest.raises(UnreadableError):
        _inspect(bytes(data))


def test_an_image_of_too_many_pixels_is_refused_from_its_header() -> None:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(b"\0" * 100)) + _chunk(b"IEND", b"")
    with pytest.raises(UnreadableError, match="at most 200000000 pixels"):
        _inspect(data)
    assert _inspect(data, max_pixels=400_000_000).width == 20_000


def test_the_limit_is_the_one_asked_for() -> None:
    data = _encoded("PNG", (41, 30))
    assert _inspect(data, max_pixels=41 * 30).width == 41
    with pytest.raises(UnreadableError, match="at most 1229 pixels"):
        _inspect(data, max_pixels=41 * 30 - 1)


def test_settings_of_the_process_are_left_as_they_were() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    _inspect(_encoded("PNG"))
    with pytest.raises(UnreadableError):
        _inspect(_encoded("JPEG")[:500])
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file"),
        (b"<html>not found</html>", "the first bytes b'<html>no'"),
        (b"\xff\xd8\xff", "a damaged header"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 60, "a HEIC image"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, found: str) -> None:
    with pytest.raises(UnreadableError) as error:
        _inspect(data, "below/a.jpg")
    assert found in error.value.message
    assert error.value.path == "below/a.jpg"


@pytest.mark.parametrize(
    "text",
    [
        b"BMW 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56",
        b"P5 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56",
        b"II 0.00 0 -1.57",
        b"RIFF0.00 0 -1.57 599.41",
        b'{"images": []}',
        b"0 0.5 0.5 0.1 0.1",
        b"",
        b"\0" * 64,
    ],
)
def test_labels_are_not_taken_for_images(text: bytes) -> None:
    assert is_image(text) is None


class _Failing(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 100 or (size or -1) < 0 or self.tell() + (size or 0) > 10_000:
            raise ConnectionError("reset by peer")
        return super().read(size)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_failing_store_is_not_reported_as_a_broken_image(form: str) -> None:
    data = _encoded(form, (200, 150))
    with pytest.raises(ConnectionError, match="reset by peer"):
        inspect_image(_Failing(data), "a.jpg", len(data))


_forms = st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
_SMALL = {form: _encoded(form, (16, 12)) for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}


@settings(max_examples=300, deadline=None)
@given(
    _forms, st.lists(st.tuples(st.integers(0, 1200), st.binary(max_size=4)), max_size=4), st.integers(0, 2000)
)
def test_damage_anywhere_gives_a_header_or_a_clear_error(
    form: str, damage: list[tuple[int, bytes]], length: int
) -> None:
    data = bytearray(_SMALL[form])
    for place, bits in damage:
        data[place % len(data) : place % len(data) + len(bits)] = bits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            header = _inspect(bytes(data[: max(length, 1)]))
        except UnreadableError:
            return
    assert header.width > 0
    assert header.height > 0
    assert 1 <= header.exif_orientation <= 8


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", [0, 2, 3, 4, 6])
def test_headers_of_pngs_say_what_a_decoder_says(kind: int, bits: int) -> None:
    head = struct.pack(">IIBBBBB", 40, 30, bits, kind, 0, 0, 0)
    rows = zlib.compress(b"\0" * (40 * 8 + 1) * 30)
    palette = [_chunk(b"PLTE", bytes(6))] if kind == 3 else []
    chunks = [_chunk(b"IHDR", head), *palette, _chunk(b"IDAT", rows), _chunk(b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    try:
        with Image.open(io.BytesIO(data)) as image:
            channels = 3 if image.mode == "P" else len(image.getbands())
    except OSError:
        with pytest.raises(UnreadableError):
            _inspect(data)
        return
    header = _inspect(data)
    assert (header.width, header.height, header.channels) == (40, 30, channels)
    assert header.bit_depth == (8 if kind == 3 else bits)


def _large_png(chunk_bytes: int) -> bytes:
    """A PNG of more than 64 KiB whose pixels are in many chunks."""
    noise = random.Random(0).randbytes(300 * 300 * 3)
    front, *pixels, end = _chunks(_encoded_pixels(noise, (300, 300)))
    body = b"".join(chunk[8:-4] for chunk in pixels)
    parts = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
    return b"\x89PNG\r\n\x1a\n" + front + b"".join(_chunk(b"IDAT", part) for part in parts) + end


def _encoded_pixels(pixels: bytes, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("chunk_bytes", [1_000, 8_192, 100_000])
def test_a_large_png_is_whole_only_with_all_its_bytes(chunk_bytes: int) -> None:
    data = _large_png(chunk_bytes)
    assert (_inspect(data).width, _inspect(data + b"\0" * 5000).width) == (300, 300)
    end = data[-12:]
    for damaged in (data[:-1], data[:-12], data[:-20_000], data[: len(data) // 2], data[:100]):
        with pytest.raises(UnreadableError):
            _inspect(damaged)
    # Bytes that are missing in between, before an end that is there.
    with pytest.raises(UnreadableError):
        _inspect(data[:-3_000] + end)


@pytest.mark.parametrize("chunk_bytes", [1_000, 8_192, 100_000])
def test_exif_behind_the_pixels_of_a_large_png_counts(chunk_bytes: int) -> None:
    data = _large_png(chunk_bytes)
    exif = Image.Exif()
    exif[0x0112] = 6
    late = _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    assert _inspect(data[:-12] + late + data[-12:]).exif_orientation == 6
    comment = _chunk(b"tEXt", b"Comment\0" + b"IDAT" * 20_000)
    assert _inspect(data[:-12] + late + comment + data[-12:]).exif_orientation == 6


def test_reading_a_large_png_touches_little_of_it() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            self.taken += len(found)
            return found

    data = _large_png(8_192)
    file = Counting(data)
    assert inspect_image(file, "a.png", len(data)).width == 300
    assert file.taken < 100_000 < len(data)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"words"}, {"dpi": (300, 300)}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_headers_of_jpegs_say_what_a_decoder_says(mode: str, options: dict[str, Any]) -> None:
    header = _inspect(_encoded("JPEG", (41, 30), mode, **options))
    assert (header.width, header.height, header.channels, header.bit_depth) == (
        41,
        30,
        {"L": 1, "RGB": 3, "CMYK": 4}[mode],
        8,
    )
