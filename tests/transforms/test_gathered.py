"""The fast ways say what the slow ones say, or step aside."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UnreadableError
from transforms.delivery import Delivery
from transforms.formats.detect import plain_rows, read_labels
from transforms.formats.gathered import delivery_of_one
from transforms.formats.kitti import read_kitti
from transforms.formats.kitti_plain import plain_kitti
from transforms.formats.voc import read_voc
from transforms.formats.voc_plain import plain_voc

KITTI = (
    "Car 0.00 0 -1.58 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56\n"
    "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10\n"
)
VOC = """<annotation>
  <folder>x</folder><filename>a b.jpg</filename><source><database>Unknown</database></source>
  <size><width>640</width><height>480</height><depth>3</depth></size><segmented>0</segmented>
  <object><name> red cell </name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>-2</ymin><xmax> 30 </xmax><ymax>0</ymax></bndbox></object>
  <object><name>c</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>
    <difficult>0</difficult></object>
</annotation>
"""


CHANGES = [
    "",
    " ",
    "\n",
    "0",
    "-0",
    "1e3",
    ".5",
    "<",
    ">",
    "&amp;",
    "é",
    "\r",
    "\0",
    "</pose>",
    "<x/>",
    "%20",
]


def _same(one: Delivery, two: Delivery) -> None:
    assert one.labels.to_pylist() == two.labels.to_pylist()
    assert one.mentions.to_pylist() == two.mentions.to_pylist()


def test_plain_samples_take_the_fast_way_and_say_the_same() -> None:
    kitti = plain_kitti(KITTI.encode(), "label_2/a.txt")
    assert kitti is not None
    _same(delivery_of_one(kitti), read_kitti(KITTI.encode(), "label_2/a.txt"))
    voc = plain_voc(VOC.encode(), "b/a.xml")
    assert voc is not None
    _same(delivery_of_one(voc), read_voc(VOC.encode(), "b/a.xml"))


@pytest.mark.parametrize(
    "folder", ["kitti/label_2", "kitti-cropped/training/label_2", "bccd-voc/Annotations"]
)
def test_real_files_take_the_fast_way_and_say_the_same(shared_data: Path, folder: str) -> None:
    files = sorted(file for file in (shared_data / folder).iterdir() if file.suffix in {".txt", ".xml"})
    fast = 0
    for file in files[:60]:
        data = file.read_bytes()
        rows = plain_rows(data, file.name)
        if rows is not None:
            fast += 1
            read = read_voc if file.suffix == ".xml" else read_kitti
            _same(delivery_of_one(rows), read(data, file.name))
    assert fast == len(files[:60])


def test_many_files_are_read_into_the_tables_of_one_after_the_other(shared_data: Path) -> None:
    folder = shared_data / "bccd-voc"
    files = [(file.name, file.read_bytes()) for file in sorted((folder / "Annotations").iterdir())[:20]]
    odd = ("odd.xml", VOC.replace("<annotation>", "<annotation verified='yes'>").encode())
    tables = read_labels([*files, odd, ("a.txt", KITTI.encode())])
    expected = sum(read_voc(data, name).labels.num_rows for name, data in [*files, odd]) + 2
    assert tables["labels"].num_rows == expected
    assert tables["mentions"].num_rows == 22
    rows = tables["labels"].to_pylist()
    for name, data in [*files, odd]:
        mine = [{k: v for k, v in row.items() if k != "source"} for row in rows if row["source"] == name]
        assert mine == read_voc(data, name).labels.to_pylist()


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["kitti", "voc"]),
    st.integers(0, len(VOC)),
    st.sampled_from(CHANGES),
    st.integers(0, 9),
)
def test_a_changed_file_says_the_same_either_way(form: str, place: int, put: str, gone: int) -> None:
    text = KITTI if form == "kitti" else VOC
    place %= len(text)
    data = (text[:place] + put + text[place + gone :]).encode()
    plain, read = (plain_kitti, read_kitti) if form == "kitti" else (plain_voc, read_voc)
    rows = plain(data, "a.x")
    if rows is None:
        return
    try:
        slow = read(data, "a.x")
    except UnreadableError as error:
        raise AssertionError(f"taken by the fast way: {data!r}") from error
    _same(delivery_of_one(rows), slow)
