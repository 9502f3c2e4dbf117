"""Input that is broken or hostile: it is quarantined with its reason, and everything else lands."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from tests.ingest.mill import KITTI_CAR, Mill, picture

BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><object><name>&c;</name></object></annotation>"""


def huge_png() -> bytes:
    """A PNG header that promises 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BAD = {
    "d/cut.jpg": (picture(400, 300, "jpg")[:-300], "cut.jpg"),
    "d/noise.jpg": (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4, "noise.jpg"),
    "d/cut.json": (b'{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id"', "cut.json"),
    "d/bomb.xml": (BOMB.encode(), "bomb.xml"),
    "d/empty.jpg": (b"", "empty"),
    "d/empty.json": (b"", "empty"),
    "d/empty.xml": (b"", "empty"),
    "d/fourteen.txt": (b"Car 0 0 0 1 1 5 5 1 1 1 1 1 1\n", "line 1"),
    "d/prose.txt": (b"The quick brown fox\njumps over the dog\n", "line 1"),
    "d/huge.png": (huge_png(), "20000"),
    "d/deep.json": (b"[" * 100_000, "deep.json"),
    "d/nul.txt": (b"Car\0 0 0 0 1 1 5 5 1 1 1 1 1 1 1\n", "nul.txt"),
    "d/half.png": (picture(300, 300)[:200], "half.png"),
}


def test_every_bad_object_is_quarantined_with_its_reason_and_the_rest_lands(mill: Mill) -> None:
    mill.image("d/good.png")
    mill.write("d/good.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.write("d/README.md", "# notes")
    for key, (data, _) in BAD.items():
        mill.write(key, data)
    counts = mill.ingest()
    why = {str(row["key"]): str(row["error"]) for row in mill.rows("SELECT key, error FROM quarantine")}
    assert set(why) == set(BAD)
    for key, (_, word) in BAD.items():
        assert word in why[key], (key, why[key])
    assert (counts.images, counts.annotations, counts.quarantined) == (1, 1, len(BAD))
    found = mill.rows("SELECT source, severity, correction FROM findings WHERE rule = 'unreadable_file'")
    assert {row["source"] for row in found} == set(BAD)
    assert {row["correction"] for row in found} == {"quarantined"}


def test_what_is_repaired_leaves_the_quarantine(mill: Mill) -> None:
    mill.write("d/a.jpg", b"\xff\xd8\xff\xe0 broken")
    mill.ingest()
    assert len(mill.rows("SELECT * FROM quarantine")) == 1
    mill.image("d/a.jpg")
    mill.ingest()
    assert mill.rows("SELECT * FROM quarantine") == []
    assert mill.rows("SELECT rule FROM findings") == [{"rule": "image_without_label"}]
    assert mill.rows("SELECT count(*) AS n FROM images") == [{"n": 1}]


def test_what_breaks_later_leaves_the_tables(mill: Mill) -> None:
    mill.image("d/a.png")
    mill.write("d/a.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.ingest()
    mill.write("d/a.png", b"\x89PNG\r\n\x1a\n no more")
    mill.ingest()
    assert mill.rows("SELECT * FROM images") == []
    assert mill.rows("SELECT * FROM annotations") == []
    rules = sorted(str(row["rule"]) for row in mill.rows("SELECT rule FROM findings"))
    assert rules == ["unknown_image", "unreadable_file"]


def test_every_picture_of_the_oddities_lands_or_is_quarantined(mill: Mill, shared_data: Path) -> None:
    folder = shared_data / "image-oddities" / "images"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    for path in folder.iterdir():
        mill.write(f"odd/{path.name}", path.read_bytes())
    counts = mill.ingest()
    assert (counts.images, counts.quarantined) == (34, 5)
    bad = {str(row["key"]).removeprefix("odd/") for row in mill.rows("SELECT key FROM quarantine")}
    assert bad == {
        "broken.png",
        "broken_data_stream.png",
        "truncated_image.png",
        "truncated_jpeg.jpg",
        "decompression_bomb.gif",
    }
