"""Pages, graphs and the HTML report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from dropmill.delivered import open_uri, read_folder
from quality.drawing import colours_of, draw_boxes, draw_sample
from quality.html_report import html_of
from quality.page_kinds import Bars, Table
from quality.pages import chapters
from quality.review import Material, Review, review
from quality.summary import summarise


@pytest.fixture(scope="module")
def cropped(shared_data: Path) -> Review:
    folder = shared_data / "kitti-cropped" / "training"
    return review(read_folder(folder / "label_2", folder / "image_2").material)


def material(**columns: object) -> Material:
    """Two boxes of hostile classes in one image."""
    evil = '<script src="http://evil.example/x.js">$HOME $x$</script>'
    boxes = pl.DataFrame(
        {
            "dataset": ["d", "d"],
            "sample": ["s", "s"],
            "stem": ["s", "s"],
            "source": ["a.txt", "a.txt"],
            "instance": [0, 1],
            "line": [1, 2],
            "category": [evil, "x" * 300],
            "xmin": [0.0, 5.0],
            "ymin": [0.0, 5.0],
            "xmax": [4.5, -8.0],
            "ymax": [9.0, 8.0],
            "truncation": [0.5, None],
            "occlusion": [2, None],
            "ignore": [False, False],
            "width": [10, 10],
            "height": [10, 10],
        }
    ).with_columns(**columns)  # type: ignore[arg-type]
    images = pl.DataFrame(
        {
            "dataset": ["d"],
            "sample": ["s"],
            "width": [10],
            "height": [10],
            "split": [None],
            "labelled": [True],
        },
        schema_overrides={"split": pl.String},
    ).with_columns(
        stem=pl.col("sample"), key=pl.col("sample"), format=pl.lit("png"), exif_orientation=pl.lit(1)
    )
    mentions = pl.DataFrame(
        schema={
            "dataset": pl.String,
            "sample": pl.String,
            "stem": pl.String,
            "source": pl.String,
            "width": pl.Int32,
            "height": pl.Int32,
        }
    )
    return Material(dataset="d", format="kitti", images=images, boxes=boxes, mentions=mentions)


def test_all_graphs_of_a_kitti_folder_are_there_as_pdf_and_png(cropped: Review, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from quality.graphs import save_graphs

    save_graphs(chapters(cropped), tmp_path, width=6, height=6)
    names = {path.stem for path in tmp_path.glob("*.pdf")}
    assert {"Object_count", "Area", "Image", "Occlusion", "Truncation", "Invalid_data"} <= names
    for path in tmp_path.glob("*.pdf"):
        data = path.read_bytes()
        pages = len(re.findall(rb"/Type /Page\b", data))
        pictures = list(tmp_path.glob(f"{path.stem}_[0-9]*.png"))
        assert data.startswith(b"%PDF")
        assert pages == len(pictures) > 0
    assert len(list(tmp_path.glob("Object_count_*.png"))) == 4


def test_pages_show_the_counts(cropped: Review) -> None:
    by_name = {chapter.name: chapter.pages for chapter in chapters(cropped)}
    counts = by_name["Object_count"][0]
    assert isinstance(counts, Bars)
    boxes = cropped.material.boxes.height
    assert sum(counts.series["boxes"]) == boxes - 10
    invalid = by_name["Invalid_data"][0]
    assert isinstance(invalid, Bars)
    assert dict(zip(invalid.labels, invalid.series["boxes"], strict=True)) == {
        "valid": boxes - 10,
        "inverted": 0,
        "out of bounds": 10,
        "zero area": 0,
        "no box": 0,
    }


def test_only_the_first_hundred_classes_are_drawn_unless_all_are_asked_for() -> None:
    boxes = material().boxes.head(1)
    many = pl.concat(
        [boxes.with_columns(category=pl.lit(f"c{i:03}"), instance=pl.lit(i)) for i in range(120)]
    )
    found = review(Material(**{**material().__dict__, "boxes": many}))
    some, every = (chapters(found, show_all=show)[0].pages for show in (False, True))
    assert isinstance(some[0], Bars)
    assert isinstance(every[0], Bars)
    assert (len(some[0].labels), len(every[0].labels)) == (100, 120)
    assert isinstance(some[3], Table)
    assert len(some[3].rows) == 120


def test_the_report_asks_for_nothing_and_escapes_what_labels_say(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    found = review(material())
    html = html_of(found, summarise(found), chapters(found))
    assert "<script" not in html
    assert "default-src 'none'" in html
    page = _Addresses()
    page.feed(html)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert [address for address in page.found if not address.startswith(("#", "data:"))] == []
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert "@import" not in html


class _Addresses(HTMLParser):
    """All tags of a page, and all addresses that it fetches or leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        known = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}
        self.found += [value or "" for name, value in attrs if name in known]
        assert not any(name.startswith("on") for name, _ in attrs)


def test_a_set_without_any_box_has_a_report_and_a_summary() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    empty = material()
    found = review(Material(**{**empty.__dict__, "boxes": empty.boxes.clear()}))
    summary = summarise(found)
    assert summary.lines()[:3] == [
        "Number of total annotations : 0",
        "Number of invalid annotations : 0",
        "Number of invalid annotations are 0.0 of total annotations,",
    ]
    assert "0 boxes, fewer than 1" in html_of(found, summary, chapters(found))


def test_a_sample_of_images_is_drawn_the_same_each_time(cropped: Review, tmp_path: Path) -> None:
    images, boxes = cropped.material.images, cropped.material.boxes
    one = draw_sample(images, boxes, tmp_path / "a", size=3, read=open_uri)
    two = draw_sample(images, boxes, tmp_path / "b", size=3, read=open_uri)
    assert [path.name for path in one.files] == [path.name for path in two.files]
    assert len(one.files) == 3
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one.files, two.files, strict=True))


def test_boxes_and_masks_are_drawn_where_they_are(tmp_path: Path) -> None:
    from PIL import Image, ImageColor

    Image.new("RGB", (200, 100), "white").save(tmp_path / "a.png")
    boxes = pl.DataFrame(
        {
            "category": ["car", "van"],
            "xmin": [100.0, 20.0],
            "ymin": [40.0, 30.0],
            "xmax": [150.0, 60.0],
            "ymax": [80.0, 70.0],
            "segmentation": ["[[110,50,140,50,140,75,110,75]]", None],
        }
    )
    with (tmp_path / "a.png").open("rb") as file:
        drawn = draw_boxes(file, "a.png", boxes)
    colours = colours_of(boxes["category"])
    assert colours["car"] != colours["van"]
    assert drawn.getpixel((125, 80)) == ImageColor.getrgb(colours["car"])
    assert drawn.getpixel((40, 70)) == ImageColor.getrgb(colours["van"])
    assert drawn.getpixel((125, 60)) != (255, 255, 255), "the mask covers it"
    assert drawn.getpixel((40, 50)) == (255, 255, 255), "a box without a mask is empty"
    assert drawn.getpixel((190, 90)) == (255, 255, 255)
