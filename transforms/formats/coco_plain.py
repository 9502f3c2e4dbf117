"""Annotations of a COCO file as most writers write them, to columns without an object per box.

Fits ASCII text in which all annotations have the same standard keys in one order, no blank but one after a
colon or a comma, and no string. The text is cut where numpy finds its quotes, and Arrow reads the numbers, so
several threads can do it at once. Whatever does not fit sends the whole slice the slow way, to
:mod:`.coco_columns`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.formats.json_text import encode

_NEEDED = frozenset({b"image_id", b"id", b"category_id", b"bbox", b"area", b"iscrowd"})
_KNOWN = _NEEDED | {b"segmentation", b"score"}
# Keys inside a segmentation that is an object: run lengths.
_NESTED = (b"counts", b"size")
_PLAIN_SIZES = (1e-3, 1e15)
_BOX = 4

Signs = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainColumns:
    """What a slice of annotations says, one value each; columns as in the table of labels."""

    image_id: Places
    category_id: pa.Array
    bbox: pa.Array
    iscrowd: pa.Array
    score: pa.Array | None
    segmentation: pa.Array | None
    attributes: pa.Array


class NotPlainError(Exception):
    """The text is not of the plain form."""


def plain_columns(text: bytes, count: int) -> PlainColumns | None:
    """The columns of a JSON list of ``count`` annotations; None where it is not of the plain form.

    ``text`` is known to be well-formed JSON: that is not looked at again.
    """
    if not text.isascii() or any(sign in text for sign in (b"\\", b"\n", b"\t", b"\r")):
        return None
    try:
        return _columns(text, count)
    except (NotPlainError, pa.ArrowInvalid, IndexError, ValueError):
        return None


def _columns(text: bytes, count: int) -> PlainColumns:
    signs = np.frombuffer(text, np.uint8)
    names, opens, closes = _keys(text, signs, count)
    begins, ends = values_of(signs, opens, closes)
    place = {name: index for index, name in enumerate(names)}
    box = place[b"bbox"]
    need((signs[begins[:, box]] == ord("[")) & (signs[ends[:, box] - 1] == ord("]")))
    begins[:, box] += 1
    ends[:, box] -= 1
    objects, shape = 0, place.get(b"segmentation")
    if shape is not None:
        first, last = signs.take(begins[:, shape]), signs.take(ends[:, shape] - 1)
        need((first == ord("[")) & (last == ord("]")) | (first == ord("{")) & (last == ord("}")))
        objects = int(np.count_nonzero(first == ord("{")))
    # No object but the annotations and the run lengths: so every key was found where it belongs.
    if np.count_nonzero(signs == ord("{")) != count + objects:
        raise NotPlainError
    word = words_of(text, begins, ends)

    def words(name: bytes) -> pa.Array:
        return word(place[name])

    crowd = words(b"iscrowd")
    is_crowd = pc.equal(crowd, "1")
    if not pc.all(pc.or_(is_crowd, pc.equal(crowd, "0"))).as_py():
        raise NotPlainError
    return PlainColumns(
        image_id=words(b"image_id").cast(pa.int64()).to_numpy(),
        category_id=words(b"category_id").cast(pa.int64()),
        bbox=_boxes(words(b"bbox")),
        iscrowd=is_crowd,
        score=_finite(words(b"score")) if b"score" in place else None,
        segmentation=None
        if shape is None
        else _without_blanks(words(b"segmentation"), signs, begins[:, shape], ends[:, shape]),
        attributes=_attributes(words(b"id"), words(b"area")),
    )


def words_of(text: bytes, begins: Places, ends: Places) -> Callable[[int], pa.Array]:
    """The texts of a column of places, of which each begins behind the end of the one before it."""
    cuts = np.stack([begins, ends], axis=2).astype(np.int32).ravel()
    pieces = pa.StringArray.from_buffers(len(cuts) - 1, pa.py_buffer(cuts), pa.py_buffer(text))
    return lambda column: pieces.take(pa.array(np.arange(2 * column, len(cuts), 2 * begins.shape[1])))


def _keys(text: bytes, signs: Signs, count: int) -> tuple[list[bytes], Places, Places]:
    """The keys of each annotation in their order, and where the quotes around them are."""
    quotes = np.flatnonzero(signs == ord('"'))
    opens, closes = quotes[0::2].copy(), quotes[1::2].copy()
    names = _first_keys(text, opens, closes)
    sizes, initials = closes - opens - 1, signs.take(opens + 1)
    outer = np.ones(len(opens), np.bool_)
    # No key of an annotation has the length and the first letter of one of these.
    for name in _NESTED:
        found = np.flatnonzero((sizes == len(name)) & (initials == name[0]))
        need_word(name, signs, opens[found], closes[found])
        outer[found] = False
    if np.count_nonzero(outer) != count * len(names):
        raise NotPlainError
    shape = (count, len(names))
    opens, closes = opens[outer].reshape(shape), closes[outer].reshape(shape)
    for column, name in enumerate(names):
        need_word(name, signs, opens[:, column], closes[:, column])
    return names, opens, closes


def need_word(word: bytes, signs: Signs, opens: Places, closes: Places) -> None:
    """That the word, and nothing else, stands between the quotes."""
    begins = opens + 1
    need(closes - begins == len(word))
    for offset, sign in enumerate(word):
        need(signs.take(begins + offset) == sign)


def _first_keys(text: bytes, opens: Places, closes: Places) -> list[bytes]:
    """The keys of the first annotation, in their order."""
    names: list[bytes] = []
    for begin, end in zip(opens[:32].tolist(), closes[:32].tolist(), strict=False):
        name = text[begin + 1 : end]
        if name in names:
            break
        if name in _KNOWN:
            names.append(name)
    if not set(names) >= _NEEDED:
        raise NotPlainError
    return names


def values_of(signs: Signs, opens: Places, closes: Places) -> tuple[Places, Places]:
    """Where the value of each key begins and ends; between two of them there is nothing but signs."""
    need(signs.take(closes + 1) == ord(":"))
    begins = closes + 2
    begins += signs.take(begins) == ord(" ")
    ends = np.empty_like(begins)
    ends[:, :-1] = _before(signs, opens[:, 1:] - 1, ",")
    # After the last value stand the ends of the annotation and of the list, or the next annotation.
    braces = opens[1:, 0] - 1
    need(signs.take(braces) == ord("{"))
    ends[:-1, -1] = _before(signs, _before(signs, braces - 1, ",") - 1, "}")
    ends[-1, -1] = len(signs) - 2
    need(signs[[0, 1, -2, -1]] == list(b"[{}]"))
    if opens[0, 0] != 2:
        raise NotPlainError
    need(signs.take(ends - 1) != ord(" "))
    return begins, ends


def _before(signs: Signs, places: Places, sign: str) -> Places:
    """The places, less one where a blank is; ``sign`` has to be there."""
    places = places - (signs.take(places) == ord(" "))
    need(signs.take(places) == ord(sign))
    return places


def _boxes(words: pa.Array) -> pa.Array:
    parts = pc.split_pattern(words, ",")
    if not pc.all(pc.equal(pc.list_value_length(parts), _BOX)).as_py():
        raise NotPlainError
    numbers = pc.ascii_trim(parts.flatten(), " ")
    offsets = np.arange(0, _BOX * len(words) + 1, _BOX, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _finite(numbers))


def _finite(words: pa.Array) -> pa.Array:
    numbers = words.cast(pa.float64())
    if not pc.all(pc.is_finite(numbers)).as_py():
        raise NotPlainError
    return numbers


def _without_blanks(texts: pa.Array, signs: Signs, begins: Places, ends: Places) -> pa.Array:
    """Shapes without blanks: there is no string in which one could say something."""
    blanks = np.flatnonzero(signs == ord(" "))
    has = np.searchsorted(blanks, begins) < np.searchsorted(blanks, ends)
    if not has.any():
        return texts
    mask = pa.array(has)
    return pc.replace_with_mask(texts, mask, pc.replace_substring(texts.filter(mask), " ", ""))


def _attributes(ids: pa.Array, areas: pa.Array) -> pa.Array:
    """``{"id":7,"area":1.5}`` for each, with numbers as JSON's writers write them."""
    sizes = _finite(areas)
    low, high = _PLAIN_SIZES
    usual = pc.and_(pc.greater_equal(sizes, low), pc.less(sizes, high))
    usual = pc.and_(usual, pc.match_substring(areas, "."))
    usual = pc.and_(usual, pc.equal(sizes.cast(pa.string()), areas))
    if not pc.all(usual).as_py():
        other = pc.invert(usual)
        written = [encode(msgspec.json.decode(word)) for word in areas.filter(other).to_pylist()]
        areas = pc.replace_with_mask(areas, other, pa.array(written, pa.string()))
    ids = ids.cast(pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise('{"id":', ids, ',"area":', areas, "}", "")


def need(holds: npt.NDArray[np.bool_]) -> None:
    """Raise NotPlainError unless all hold."""
    if not holds.all():
        raise NotPlainError
