"""The images of a COCO file as most writers write them, to columns without an object per image.

Fits ASCII text without escapes in which all images have the same keys in one order, no blank but one after a
colon or a comma, and texts and numbers alone as values. What does not fit goes the slow way, in
:mod:`.coco_images`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.formats.coco_plain import NotPlainError, Places, need, need_word, values_of, words_of

_NEEDED = frozenset({b"id", b"file_name"})
_NUMBERS = frozenset({b"id", b"width", b"height"})
_OWN = _NEEDED | _NUMBERS
_MOST_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainImages:
    """What a list of images says, one value each; ``attributes`` as in the table of mentions."""

    id: Places
    file_name: pa.Array
    width: pa.Array | None
    height: pa.Array | None
    attributes: pa.Array


def plain_images(text: bytes) -> PlainImages | None:
    """The columns of a JSON list of images; None where it is not of the plain form.

    ``text`` is known to be well-formed JSON: that is not looked at again.
    """
    if (
        len(text) > _MOST_BYTES
        or not text.isascii()
        or any(sign in text for sign in (b"\\", b"\n", b"\t", b"\r"))
    ):
        return None
    try:
        return _columns(text)
    except (NotPlainError, pa.ArrowInvalid, IndexError, ValueError):
        return None


def _columns(text: bytes) -> PlainImages:
    signs = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(signs == ord('"'))
    # Keys and texts between quotes are as many in every image as in the first.
    pairs = int(np.searchsorted(quotes, text.index(b"}"))) // 2
    opens, closes = quotes[0::2].reshape(-1, pairs), quotes[1::2].reshape(-1, pairs)
    # No object but the images, and no list but theirs: so every value is a text or a number.
    if np.count_nonzero(signs == ord("{")) != len(opens) or np.count_nonzero(signs == ord("[")) != 1:
        raise NotPlainError
    is_key = signs.take(closes[0] + 1) == ord(":")
    keys = np.flatnonzero(is_key)
    names = [text[opens[0, key] + 1 : closes[0, key]] for key in keys.tolist()]
    place = {name: index for index, name in enumerate(names)}
    if len(place) < len(names) or not place.keys() >= _NEEDED:
        raise NotPlainError
    for name, key in zip(names, keys.tolist(), strict=True):
        need_word(name, signs, opens[:, key], closes[:, key])
    begins, ends = values_of(signs, opens[:, keys], closes[:, keys])
    texts = np.flatnonzero(~is_key)
    # Each text is all of the value of the key before it.
    need(is_key[texts - 1])
    owners = np.searchsorted(keys, texts - 1)
    need((begins[:, owners] == opens[:, texts]) & (ends[:, owners] == closes[:, texts] + 1))
    quoted = {names[owner] for owner in owners.tolist()}
    if b"file_name" not in quoted or quoted & _NUMBERS:
        raise NotPlainError
    begins[:, place[b"file_name"]] += 1
    ends[:, place[b"file_name"]] -= 1
    words = words_of(text, begins, ends)
    ids, file_name = words(place[b"id"]), words(place[b"file_name"])
    numbers = ids.cast(pa.int64())
    if not numbers.cast(pa.string()).equals(ids):
        raise NotPlainError
    further = [
        part
        for name, index in place.items()
        if name not in _OWN
        for part in (f',"{name.decode()}":', words(index))
    ]
    return PlainImages(
        id=numbers.to_numpy(),
        file_name=file_name,
        width=_sizes(words(place[b"width"])) if b"width" in place else None,
        height=_sizes(words(place[b"height"])) if b"height" in place else None,
        attributes=pc.binary_join_element_wise(
            '{"id":', ids, ',"file_name":"', file_name, '"', *further, "}", ""
        ),
    )


def _sizes(words: pa.Array) -> pa.Array:
    sizes = words.cast(pa.int32())
    if not pc.all(pc.greater_equal(sizes, 0)).as_py():
        raise NotPlainError
    return sizes
