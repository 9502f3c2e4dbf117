"""Lists of images of COCO files: the fast way gives what the slow way gives, or steps aside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from transforms.formats.coco_images import Images, read_images
from transforms.formats.coco_plain_images import plain_images

_WORDS = st.sampled_from(
    ["a.jpg", "b/c.png", "./d.jpg", "e.f.jpg", "g", "{", "}", "[1]", 'a":1', "é", "\t", ""]
)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "file_name": _WORDS,
    "id": st.integers(0, 9) | _WORDS,
    "width": st.integers(0, 2**31 - 1) | st.just(7.0) | st.none(),
    "height": st.integers(0, 9),
    "url": _WORDS,
    "license": st.integers(-9, 9) | st.floats(0, 1) | st.none() | st.booleans() | st.lists(st.integers()),
    "id2": st.just({"id": 3}) | _WORDS,
}


def _image(number: int, **changes: Any) -> dict[str, Any]:
    usual = {
        "license": 1,
        "file_name": f"f/{number}.jpg",
        "url": "http://h/?a=1,b:2",
        "height": 480,
        "width": 640,
        "id": number,
    }
    return usual | changes


def _slowly(data: bytes) -> Images:
    """A line break sends a list the slow way, and says nothing."""
    assert plain_images(data[:-1] + b"\n]") is None
    return read_images(Raw(data[:-1] + b"\n]"), "a.json")


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_plain_images_take_the_fast_way(separators: tuple[str, str]) -> None:
    data = json.dumps([_image(number) for number in range(9)], separators=separators).encode()
    assert plain_images(data) is not None
    images = read_images(Raw(data), "a.json")
    assert images == _slowly(data)
    assert images.ref[3] == "f/3"
    assert images.index[8] == 8
    assert images.attributes[0].as_py() == (
        '{"id":0,"file_name":"f/0.jpg","license":1,"url":"http://h/?a=1,b:2"}'
    )


@pytest.mark.parametrize(
    "odd",
    [
        {"id": "a word"},
        {"id": 3},
        {"file_name": "f/3.png"},
        {"file_name": "./f//33.jpg"},
        {"file_name": "a \\ b.jpg"},
        {"url": 'a "quoted" word'},
        {"url": "ü"},
        {"url": None},
        {"width": None},
        {"width": 640.0},
        {"width": "640"},
        {"license": [1, 2]},
        {"license": {"id": 5}},
        {"more": 1},
    ],
    ids=str,
)
def test_an_odd_image_among_plain_ones_is_read_as_the_slow_way_reads_it(odd: dict[str, Any]) -> None:
    data = json.dumps([*map(_image, range(9)), _image(9, **odd)]).encode()
    assert _outcome(data) == _outcome(data[:-1] + b"\n]")


@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(st.sampled_from(list(_VALUES)), min_size=2, max_size=6, unique=True).flatmap(
        lambda keys: st.lists(st.fixed_dictionaries({key: _VALUES[key] for key in keys}), max_size=4)
    ),
    st.booleans(),
)
@example([{"id": 1, "file_name": "a.jpg", "url": "}"}, {"id": 2, "file_name": "b.jpg", "url": "{"}], False)
@example([{"url": "file_name", "id": 1, "file_name": "id"}], True)
def test_any_images_are_read_as_the_slow_way_reads_them(rows: list[dict[str, Any]], ascii_only: bool) -> None:
    data = json.dumps(rows, ensure_ascii=ascii_only).encode()
    assert _outcome(data) == _outcome(data[:-1] + b"\n]")


def _outcome(data: bytes) -> Images | str:
    try:
        return read_images(Raw(data), "a.json")
    except Exception as error:  # noqa: BLE001 - also what goes wrong has to be the same
        return f"{type(error).__name__}: {error}"
