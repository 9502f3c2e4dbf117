"""KITTI files as their makers write them, many in one pass: the fast way of :mod:`.kitti`.

A line that fits says its numbers in the words that a writer would choose for them, so there is nothing to
keep beside them. All files are one text, whose lines Arrow matches and whose words numpy finds; a file of
which one line does not fit goes the slow way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.delivery import without_extension
from transforms.formats.gathered import Block

_DECIMALS = r"-?(?:0|[1-9][0-9]{0,14})\.[0-9]{2}"
_ANY = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?"
_LINE = (
    rf"\A[A-Za-z_][A-Za-z0-9_-]* (?:{_DECIMALS}|-1) -?[0-9] {_ANY}{f' {_DECIMALS}' * 4}{f' {_ANY}' * 7}\n\z"
)
# Minus zero, and a truncation that another word stands for: numbers that would be written otherwise.
_OTHER_WORDS = r" -0(?:\.0*)?[ \n]|\A[^ ]* -1\.00 "
_WORDS = 15
_ALPHA, _BOX, _SHAPE, _PLACE, _TURN = 3, 4, 8, 11, 14

Places = npt.NDArray[np.int64]


def plain_kitti(files: Sequence[tuple[str, bytes]]) -> tuple[list[bool], Block]:
    """Which of the files (path, content) are of the plain form, and the rows of those."""
    texts = [data if data[-1:] == b"\n" else data + b"\n" for _, data in files]
    text = b"".join(texts)
    signs = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(signs == ord("\n")) + 1
    last = np.searchsorted(ends, np.cumsum([len(one) for one in texts], dtype=np.int64), side="left")
    counts = np.diff(last, prepend=-1)
    fits = _fitting(text, ends)
    whole = np.logical_and.reduceat(fits, last - counts + 1) if len(files) else np.zeros(0, bool)
    chosen = np.repeat(whole, counts)
    refs = [without_extension(path) for (path, _), fit in zip(files, whole.tolist(), strict=True) if fit]
    return whole.tolist(), _block(text, signs, ends, chosen, refs, counts[whole])


def _fitting(text: bytes, ends: Places) -> npt.NDArray[np.bool_]:
    """Which lines are of the plain form."""
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    lines = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    )
    fits = pc.match_substring_regex(lines, pattern=_LINE)
    if b" -" in text:
        fits = pc.and_not(fits, pc.match_substring_regex(lines, pattern=_OTHER_WORDS))
    found: npt.NDArray[np.bool_] = fits.to_numpy(zero_copy_only=False)
    return found


def _block(
    text: bytes,
    signs: npt.NDArray[np.uint8],
    ends: Places,
    chosen: npt.NDArray[np.bool_],
    refs: list[str],
    counts: Places,
) -> Block:
    """The rows of the chosen lines, which are known to be plain."""
    cuts = _cuts(signs, ends, chosen)
    total = len(cuts) // (2 * _WORDS)
    pieces = pa.StringArray.from_buffers(max(len(cuts) - 1, 0), pa.py_buffer(cuts), pa.py_buffer(text))

    def words(place: int) -> pa.Array:
        return pieces.take(pa.array(np.arange(2 * place, len(cuts), 2 * _WORDS)))

    def numbers(place: int) -> pa.Array:
        return words(place).cast(pa.float64())

    def three(place: int) -> tuple[object, ...]:
        return (words(place), ",", words(place + 1), ",", words(place + 2))

    category = words(0)
    boxes = np.stack([numbers(_BOX + side).to_numpy() for side in range(4)], axis=1).ravel()
    attributes = pc.binary_join_element_wise(
        *('{"alpha":', words(_ALPHA), ',"dimensions":[', *three(_SHAPE), '],"location":[', *three(_PLACE)),
        *('],"rotation_y":', words(_TURN), "}", ""),
    )
    files = len(refs)
    firsts = np.cumsum(counts) - counts
    return Block(
        form=pa.repeat("kitti", files),
        ref=pa.array(refs, pa.string()),
        width=pa.nulls(files, pa.int32()),
        height=pa.nulls(files, pa.int32()),
        of_image=pa.nulls(files, pa.string()),
        counts=counts,
        line=pa.array(np.arange(1, total + 1) - np.repeat(firsts, counts)),
        category=category,
        boxes=pa.array(boxes),
        ignore=pc.equal(category, "DontCare"),
        attributes=attributes,
        truncation=numbers(1),
        occlusion=words(2).cast(pa.int32()),
    )


def _cuts(signs: npt.NDArray[np.uint8], ends: Places, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Where each word of the chosen lines begins and ends, one after the other."""
    # Lines that fit have a blank or their end after each of their words, and no other.
    marks = np.flatnonzero((signs == ord(" ")) | (signs == ord("\n")))
    if not chosen.all():
        lengths = np.diff(ends, prepend=0)
        marks = marks[np.repeat(chosen, lengths)[marks]]
    closes = marks.reshape(-1, _WORDS)
    begins = np.empty_like(closes)
    begins[:, 1:] = closes[:, :-1] + 1
    begins[:, 0] = (ends - np.diff(ends, prepend=0))[chosen]
    return np.stack([begins, closes], axis=2).astype(np.int32).ravel()
