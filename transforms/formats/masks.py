"""Binary masks as COCO's run lengths."""

from __future__ import annotations

import msgspec
import numpy as np

Mask = np.ndarray[tuple[int, int], np.dtype[np.bool_]]


def rle_text(window: Mask, left: int, top: int, width: int, height: int) -> str:
    """A window of a mask as ``{"size": [height, width], "counts": […]}`` of the whole image.

    ``window`` has the shape [rows, columns], its corner is at ``left, top``, and all around it is
    background. Counts go down the columns, beginning with background, as in COCO's uncompressed form.
    """
    columns, rows = np.nonzero(window.T)
    places = (columns + left) * height + rows + top
    if not places.size:
        return _text([width * height], width, height)
    # A run begins where a place does not follow the one before.
    starts = np.concatenate([[0], np.flatnonzero(np.diff(places) != 1) + 1])
    ends = np.concatenate([starts[1:], [places.size]])
    first, last = places[starts], places[ends - 1] + 1
    gaps = first - np.concatenate([[0], last[:-1]])
    counts = np.column_stack([gaps, last - first]).ravel().tolist()
    rest = width * height - int(last[-1])
    return _text([*counts, rest] if rest else counts, width, height)


def _text(counts: list[int], width: int, height: int) -> str:
    return msgspec.json.encode({"size": [height, width], "counts": counts}).decode()
