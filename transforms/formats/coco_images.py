"""The images that a COCO file lists, to columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw, Struct

from storage.errors import UnreadableError
from transforms.formats.coco_columns import join_members
from transforms.formats.coco_plain_images import PlainImages, plain_images
from transforms.formats.json_text import decode, encode, extras
from transforms.formats.refs import ref_of, tidy

EXPECTED = "COCO JSON: an object with images, annotations and categories, or a list of results"
_MAX_INT32 = 2**31 - 1
# Names of which the ref is what stands before the only dot.
_USUAL_NAMES = r"\A(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+\.[A-Za-z0-9]+\z"
_R = TypeVar("_R", bound=Struct)
_raws = msgspec.json.Decoder(list[Raw])


class _Image(Struct, gc=False):
    id: int | str
    file_name: str
    width: int | float | None = None
    height: int | float | None = None


@dataclass(frozen=True)
class Images:
    """``index``: places by ids. The others by places: refs as a list, and what the file says, in columns."""

    index: dict[int | str, int]
    ref: list[str]
    width: pa.Array
    height: pa.Array
    attributes: pa.Array

    @classmethod
    def none(cls) -> Images:
        """Those of a file that lists none."""
        return _columns({}, [], [], [], [])


def read_images(data: Raw, path: str) -> Images:
    """Read the list of images; records of one file under several ids share a place, for it is one image.

    Raises :class:`UnreadableError` for what is no list of images, and for an id of two images.
    """
    plain = plain_images(bytes(data))
    if plain is not None and (images := _of_plain(plain)) is not None:
        return images
    return _one_by_one(data, path)


def _of_plain(plain: PlainImages) -> Images | None:
    """The images of a list that is plain; None where two share an id or a ref."""
    names: list[str] = plain.file_name.to_pylist()
    if pc.all(pc.match_substring_regex(plain.file_name, pattern=_USUAL_NAMES)).as_py():
        refs = [name[: name.rfind(".")] for name in names]
    else:
        refs = list(map(ref_of, names))
    index: dict[int | str, int] = dict(zip(plain.id.tolist(), range(len(refs)), strict=True))
    if len(index) < len(refs) or len(set(refs)) < len(refs):
        return None
    width, height = (
        pa.nulls(len(refs), pa.int32()) if size is None else size for size in (plain.width, plain.height)
    )
    return Images(index, refs, width, height, plain.attributes)


def _one_by_one(data: Raw, path: str) -> Images:
    images, more = records(data, _Image, path, within="$.images")
    places: dict[str, int] = {}
    index: dict[int | str, int] = {}
    refs: list[str] = []
    names: list[str] = []
    sizes: tuple[list[int | None], list[int | None]] = ([], [])
    attributes: list[str] = []
    again: dict[int, list[str]] = {}
    for image, ref, further in zip(images, _refs([i.file_name for i in images]), more, strict=True):
        place = places.setdefault(ref, len(places))
        if index.setdefault(image.id, place) != place:
            found = f"the image id {image.id} for {names[index[image.id]]!r} and {image.file_name!r}"
            raise UnreadableError(path, found, expected="one image per id")
        members = f'"id":{encode(image.id)},"file_name":{encode(image.file_name)}'
        text = join_members(members, further)
        if place == len(names):
            names.append(image.file_name)
            refs.append(ref)
            sizes[0].append(_size(image.width, "width", image, path))
            sizes[1].append(_size(image.height, "height", image, path))
            attributes.append(text)
        elif attributes[place] != text:
            other = (_size(image.width, "width", image, path), _size(image.height, "height", image, path))
            if other != (sizes[0][place], sizes[1][place]):
                text = join_members(text[1:-1], f'"width":{encode(other[0])},"height":{encode(other[1])}')
            again.setdefault(place, []).append(text)
    for place, records_ in again.items():
        attributes[place] = join_members(attributes[place][1:-1], f'"$again":[{",".join(records_)}]')
    return _columns(index, refs, *sizes, attributes)


def _columns(
    index: dict[int | str, int],
    refs: list[str],
    widths: list[int | None],
    heights: list[int | None],
    attributes: list[str],
) -> Images:
    width, height = (pa.array(values, pa.int32()) for values in (widths, heights))
    return Images(index, refs, width, height, pa.array(attributes, pa.string()))


def _refs(names: Sequence[str]) -> list[str]:
    """Refs of file names; of names that differ in the extension alone, the first in order loses its own."""
    refs = list(map(ref_of, names))
    if len(set(refs)) == len(refs):
        return refs
    owners: dict[str, str] = {}
    for name in sorted(names):
        owners.setdefault(ref_of(name), tidy(name))
    return [ref if owners[ref := ref_of(name)] == tidy(name) else tidy(name) for name in names]


def records(data: Raw, kind: type[_R], path: str, *, within: str) -> tuple[list[_R], list[str]]:
    """Objects of a list, and what they have beside the fields of ``kind``, as JSON without braces."""
    try:
        return msgspec.json.decode(data, type=list[kind]), extras(  # type: ignore[valid-type]
            _raws.decode(data), kind.__struct_fields__
        )
    except (msgspec.DecodeError, RecursionError, ValueError):
        raws = decode(data, list[Raw], path, expected=EXPECTED, within=within)
        found = [
            decode(raw, kind, path, expected=EXPECTED, within=f"{within}[{place}]")
            for place, raw in enumerate(raws)
        ]
        return found, extras(raws, kind.__struct_fields__)


def _size(value: float | None, what: str, image: _Image, path: str) -> int | None:
    if value is None:
        return None
    if value != int(value) or not 0 <= value <= _MAX_INT32:
        found = f"{value} as {what} of image {image.id}"
        raise UnreadableError(path, found, expected="a whole number of pixels")
    return int(value)
