"""The fast ways say what the slow ones say, or step aside."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UnreadableError
from transforms.delivery import Delivery
from transforms.formats.detect import read_labels
from transforms.formats.gathered import delivery_of, delivery_of_one
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


def _fast(data: bytes, path: str, form: str) -> Delivery | None:
    """What the fast way makes of a file; None where it steps aside."""
    if form == "voc":
        rows = plain_voc(data, path)
        return None if rows is None else delivery_of_one(rows)
    fits, block = plain_kitti([(path, data)])
    return delivery_of(block) if fits[0] else None


def _same(one: Delivery, two: Delivery) -> None:
    assert one.labels.to_pylist() == two.labels.to_pylist()
    assert one.mentions.to_pylist() == two.mentions.to_pylist()


def test_plain_samples_take_the_fast_way_and_say_the_same() -> None:
    kitti = _fast(KITTI.encode(), "label_2/a.txt", "kitti")
    assert kitti is not None
    _same(kitti, read_kitti(KITTI.encode(), "label_2/a.txt"))
    voc = _fast(VOC.encode(), "b/a.xml", "voc")
    assert voc is not None
    _same(voc, read_voc(VOC.encode(), "b/a.xml"))


def test_files_that_are_read_together_say_what_each_says_alone() -> None:
    other = KITTI.replace("Car", "Van").replace("-1.58", "3.1").removesuffix("\n")
    odd = KITTI.replace("Car", "a car", 1)
    files = [
        *(("label_2/a.txt", KITTI), ("label_2/b.c.txt", other), ("label_2/odd.txt", odd)),
        *(("label_2/none.txt", ""), ("label_2/blank.txt", "\n"), ("label_2/gap.txt", KITTI + "\n" + KITTI)),
        ("c.txt", KITTI + KITTI),
    ]
    fits, block = plain_kitti([(path, text.encode()) for path, text in files])
    assert fits == [True, True, False, False, False, False, True]
    together = delivery_of(block)
    alone = [read_kitti(text.encode(), path) for (path, text), fit in zip(files, fits, strict=True) if fit]
    assert together.labels.to_pylist() == [row for one in alone for row in one.labels.to_pylist()]
    assert together.mentions.to_pylist() == [row for one in alone for row in one.mentions.to_pylist()]


@pytest.mark.parametrize("files", [[], [("a.txt", b"")], [("a.txt", b"a list of words\n")]])
def test_where_no_file_is_plain_there_are_no_rows(files: list[tuple[str, bytes]]) -> None:
    fits, block = plain_kitti(files)
    assert not any(fits)
    assert len(block.ref) == len(block.category) == len(block.boxes) == 0


@pytest.mark.parametrize(
    "folder", ["kitti/label_2", "kitti-cropped/training/label_2", "bccd-voc/Annotations"]
)
def test_real_files_take_the_fast_way_and_say_the_same(shared_data: Path, folder: str) -> None:
    files = sorted(file for file in (shared_data / folder).iterdir() if file.suffix in {".txt", ".xml"})
    fast = 0
    for file in files[:60]:
        data = file.read_bytes()
        form = "voc" if file.suffix == ".xml" else "kitti"
        found = _fast(data, file.name, form)
        if found is not None:
            fast += 1
            _same(found, (read_voc if form == "voc" else read_kitti)(data, file.name))
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
    read = read_kitti if form == "kitti" else read_voc
    found = _fast(data, "a.x", form)
    if found is None:
        return
    try:
        slow = read(data, "a.x")
    except UnreadableError as error:
        raise AssertionError(f"taken by the fast way: {data!r}") from error
    _same(found, slow)
