from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import UnknownFormatError, UnreadableError
from transforms.formats.detect import read_label
from transforms.formats.voc import read_voc

PLAIN = b"""<annotation>
  <folder>JPEGImages</folder>
  <filename>other-name.jpg</filename>
  <size><width>640</width><height>480</height><depth>3</depth></size>
  <object>
    <name>person</name>
    <pose>Left</pose>
    <difficult>1</difficult>
    <truncated>0</truncated>
    <bndbox><ymin>2.25</ymin><xmin>1.5</xmin><xmax>30</xmax><ymax>40</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>5.5</xmin><ymin>6</ymin><xmax>7</xmax><ymax>8</ymax></bndbox></part>
    <part><name>foot</name></part>
    <colour shade="dark">red</colour>
  </object>
</annotation>
"""


def test_bccd_gives_the_counted_boxes_classes_and_flags(shared_data: Path) -> None:
    expected = json.loads((shared_data / "expected-counts.json").read_text())["bccd-voc"]
    files = sorted((shared_data / "bccd-voc" / "Annotations").glob("*.xml"))
    deliveries = [read_voc(file.read_bytes(), f"Annotations/{file.name}") for file in files]
    labels = pa.concat_tables([delivery.labels for delivery in deliveries])
    mentions = pa.concat_tables([delivery.mentions for delivery in deliveries])
    assert mentions.num_rows == expected["xml"]
    assert labels.num_rows == sum(mentions["instances"].to_pylist()) == expected["boxes"]
    assert Counter(labels["category"].to_pylist()) == expected["classes"]
    assert sum(labels["ignore"].to_pylist()) == expected["difficult_flag"]
    flags = Counter(json.loads(text)["truncated"] for text in labels["attributes"].to_pylist())
    assert flags["1"] == expected["truncated_flag"]
    sizes = zip(mentions["width"].to_pylist(), mentions["height"].to_pylist(), strict=True)
    assert Counter(f"{width}x{height}" for width, height in sizes) == expected["sizes"]
    flat = [
        [row["stem"], row["category"], row["bbox"]]
        for row in labels.to_pylist()
        if row["bbox"][0] == row["bbox"][2] or row["bbox"][1] == row["bbox"][3]
    ]
    assert flat == expected["zero_area_boxes"]


def test_bccd_lists_give_the_counted_splits(shared_data: Path) -> None:
    expected = json.loads((shared_data / "expected-counts.json").read_text())["bccd-voc"]
    for split, count in expected["splits"].items():
        path = f"ImageSets/Main/{split}.txt"
        delivery = read_label((shared_data / "bccd-voc" / path).read_bytes(), path)
        assert delivery.kind == "split"
        assert set(delivery.mentions["split"].to_pylist()) == {split}
        assert set(delivery.mentions["kind"].to_pylist()) == {"split"}
        assert delivery.mentions.num_rows == count


def test_an_object_keeps_everything_that_has_no_column() -> None:
    delivery = read_voc(PLAIN, "Annotations/img.1.xml")
    (row,) = delivery.labels.to_pylist()
    assert row["bbox"] == [1.5, 2.25, 30.0, 40.0]
    assert (row["bbox_mode"], row["category"], row["ignore"], row["line"]) == ("xyxy", "person", True, 5)
    assert json.loads(row["attributes"]) == {
        "pose": "Left",
        "difficult": "1",
        "truncated": "0",
        "part": [
            {"name": "head", "bndbox": {"xmin": "5.5", "ymin": "6", "xmax": "7", "ymax": "8"}},
            {"name": "foot"},
        ],
        "colour": {"@shade": "dark", "#text": "red"},
    }


def test_the_image_is_named_by_the_file_itself_and_the_filename_is_kept() -> None:
    (mention,) = read_voc(PLAIN, "Annotations/img.1.xml").mentions.to_pylist()
    assert (mention["ref"], mention["stem"], mention["instances"]) == ("Annotations/img.1", "img.1", 1)
    assert (mention["width"], mention["height"]) == (640, 480)
    assert json.loads(mention["attributes"]) == {
        "folder": "JPEGImages",
        "filename": "other-name.jpg",
        "size": {"depth": "3"},
    }


def test_an_annotation_without_objects_is_a_negative_sample() -> None:
    delivery = read_voc(b"<annotation><filename>a.jpg</filename></annotation>", "a.xml")
    assert delivery.labels.num_rows == 0
    assert delivery.mentions["instances"].to_pylist() == [0]


def test_a_size_that_is_no_number_is_kept_as_it_is() -> None:
    data = PLAIN.replace(b"<width>640</width>", b"<width>wide</width>")
    (mention,) = read_voc(data, "a.xml").mentions.to_pylist()
    assert mention["width"] is None
    assert json.loads(mention["attributes"])["size"]["width"] == "wide"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk", "shift_jis"])
def test_declared_encodings_are_read(encoding: str) -> None:
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?>\r\n' + PLAIN.decode().replace("person", "車")
    (row,) = read_voc(text.encode(encoding), "a.xml").labels.to_pylist()
    assert (row["category"], row["line"]) == ("車", 6)


@pytest.mark.parametrize(
    ("data", "line", "found"),
    [
        (b"<annotation>\n<object><name>a</name></object></annotation>", 2, "without <bndbox>: it has <name>"),
        (b"<annotation>\n<object><bndbox/></object></annotation>", 2, "without <xmin>"),
        (PLAIN.replace(b"<name>person</name>", b"<name> </name>"), 5, "<object> without <name>"),
        (PLAIN.replace(b"<ymax>40</ymax>", b""), 10, "<bndbox> without <ymax>"),
        (PLAIN.replace(b">40<", b">forty<"), 10, "'forty' as ymax"),
        (PLAIN.replace(b">40<", b">inf<"), 10, "'inf' as ymax"),
        (PLAIN[:300], None, "expected well-formed XML"),
        (b"<annotation>\n\0</annotation>", 2, "expected well-formed XML"),
        (b"<annotation>\n\xff\xfe</annotation>", 2, "expected well-formed XML"),
        (b"<a>" * 100 + b"</a>" * 100, 1, "nested more than 64 deep"),
        (b'<?xml version="1.0" encoding="no-such-code"?><annotation/>', None, ""),
    ],
)
def test_a_mistake_is_named_with_its_line(data: bytes, line: int | None, found: str) -> None:
    with pytest.raises(UnreadableError) as error:
        read_voc(data, "Annotations/a.xml")
    assert found in error.value.message
    assert line is None or error.value.line == line


@pytest.mark.parametrize(
    "declaration",
    [
        '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">',
        '<!ENTITY a SYSTEM "file:///etc/passwd">',
        '<!ENTITY % a SYSTEM "http://127.0.0.1/x.dtd"> %a;',
    ],
)
def test_entities_are_refused_before_they_grow_or_reach_out(declaration: str) -> None:
    data = f"<!DOCTYPE annotation [{declaration}]><annotation><filename>&a;</filename></annotation>"
    with pytest.raises(UnreadableError):
        read_voc(data.encode(), "a.xml")


def test_another_root_element_is_no_voc() -> None:
    with pytest.raises(UnknownFormatError, match="root element <html>"):
        read_label(b"<html><body/></html>", "a.xml")


def test_lists_keep_the_folder_above_them_so_that_years_stay_apart() -> None:
    data = b"# a comment\n\n2007_000001\n2007_000002.jpg\n"
    delivery = read_label(data, "VOC2012/ImageSets/Main/val.txt")
    assert delivery.mentions["ref"].to_pylist() == ["VOC2012/2007_000001", "VOC2012/2007_000002"]
    assert delivery.mentions["stem"].to_pylist() == ["2007_000001", "2007_000002"]


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("ImageSets/Main/cat_train.txt", b"2007_000001 -1\n2007_000002  1\n"),
        ("ImageSets/Main/train.txt", b"2007_000001 -1\n2007_000002  1\n"),
        ("ImageSets/Segmentation/train.txt", b"2007_000001\n"),
        ("ImageSets/Main/dog_train.txt", b""),
    ],
)
def test_lists_per_class_and_of_other_tasks_set_no_split(path: str, data: bytes) -> None:
    delivery = read_label(data, path)
    assert (delivery.kind, delivery.mentions.num_rows) == ("other", 0)
