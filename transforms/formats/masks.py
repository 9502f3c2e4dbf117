"""Binary masks as COCO's run lengths."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

Mask = np.ndarray[tuple[int, int], np.dtype[np.bool_]]


def rle_text(window: Mask, left: int, top: int, width: int, height: int) -> str:
    """A window of a mask as ``{"size": [height, width], "counts": […]}`` of the whole image.

    ``window`` has the shape [rows, columns], its corner is at ``left, top``, and all around it is
    background. Counts go down the columns, beginning with background, as in COCO's uncompressed form.
    """
    return msgspec.json.encode(
        {"size": [height, width], "counts": run_counts(window, left, top, width, height)}
    ).decode()


def run_counts(window: Mask, left: int, top: int, width: int, height: int) -> list[int]:
    """The runs of a window of a mask, as in :func:`rle_text`, as numbers."""
    columns, rows = np.nonzero(window.T)
    places = (columns + left) * height + rows + top
    if not places.size:
        return [width * height]
    # A run begins where a place does not follow the one before.
    starts = np.concatenate([[0], np.flatnonzero(np.diff(places) != 1) + 1])
    ends = np.concatenate([starts[1:], [places.size]])
    first, last = places[starts], places[ends - 1] + 1
    gaps = first - np.concatenate([[0], last[:-1]])
    counts: list[int] = np.column_stack([gaps, last - first]).ravel().tolist()
    rest = width * height - int(last[-1])
    return [*counts, rest] if rest else counts


def encoded_counts(counts: Sequence[int]) -> str:
    """Run lengths as COCO's encoded text: the reverse of :func:`run_lengths`."""
    signed = np.array(counts, np.int64)
    signed[3:] -= np.asarray(counts, np.int64)[1:-2]
    letters = bytearray()
    for number in signed.tolist():
        value, more = number, True
        while more:
            group = value & 31
            value >>= 5
            # Done when what remains is only the sign, and the group's highest bit says it.
            more = value != (-1 if group & 16 else 0)
            letters.append((group | 32 if more else group) + 48)
    return letters.decode("ascii")


def mask_box(segmentation: str) -> list[float] | None:
    """The extent of a COCO segmentation as corners; None where it has no pixel.

    Polygons reach from their smallest to their largest coordinate. Of run lengths (lists, or COCO's encoded
    text) the last row and column are inside: right and bottom are one more than their number.
    Raises ValueError for run lengths that do not fill their size.
    """
    shape = msgspec.json.decode(segmentation)
    if isinstance(shape, list):
        flat = [[float(value) for value in part] for part in shape if len(part) >= 2]
        if not flat:
            return None
        xs = [value for part in flat for value in part[0::2]]
        ys = [value for part in flat for value in part[1::2]]
        return [min(xs), min(ys), max(xs), max(ys)]
    height, width = (int(side) for side in shape["size"])
    counts = shape["counts"]
    runs = np.asarray(run_lengths(counts) if isinstance(counts, str) else counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"runs of {int(runs.sum())} pixels for {width}x{height}")
    ends = np.cumsum(runs)
    first, last = (ends - runs)[1::2], ends[1::2] - 1
    filled = last >= first
    first, last = first[filled], last[filled]
    if not first.size:
        return None
    left, right = int(first[0] // height), int(last[-1] // height)
    # A run that goes on in the next column touches the last row of one and the first of the other.
    several = first // height != last // height
    top = 0 if several.any() else int((first % height).min())
    bottom = height - 1 if several.any() else int((last % height).max())
    return [float(left), float(top), float(right + 1), float(bottom + 1)]


def run_lengths(text: str) -> list[int]:
    """COCO's encoded counts as numbers.

    Each count is cut into groups of five bits, the lowest first, a sixth bit saying that more follow, and
    written as the character 48 further on; from the third count on it is the difference to the last but one.
    Raises ValueError for text that ends within a count.
    """
    counts: list[int] = []
    place = 0
    while place < len(text):
        value = shift = 0
        more = True
        while more:
            if place >= len(text) or shift > 60:
                raise ValueError("encoded counts that end within a number")
            group = ord(text[place]) - 48
            if not 0 <= group < 64:
                raise ValueError(f"{text[place]!r} among encoded counts")
            value |= (group & 31) << shift
            more = bool(group & 32)
            shift += 5
            place += 1
            if not more and group & 16:
                value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
