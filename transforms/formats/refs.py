"""Names of images, as label and split files write them, to refs: the path without extension."""

from __future__ import annotations

import re

IMAGE_ENDING = r"(?i)\.(?:jpe?g|jpe|jfif|png|bmp|tiff?|webp|gif|p[pgnb]m|jp2|avif|mpo|heic|dng)$"
_IMAGE_ENDING = re.compile(IMAGE_ENDING)


def ref_of(name: str) -> str:
    """A tidy path below the data set without its last suffix: ``a/b.c.jpg`` gives ``a/b.c``."""
    path = tidy(name)
    head, _, suffix = path.rpartition(".")
    if not head or head.endswith("/") or not suffix or "/" in suffix:
        return path
    return head


def tidy(name: str) -> str:
    """A path below the data set: forward slashes, without ``./``, ``../`` and ``/`` at its start."""
    path = name.replace("\\", "/")
    if path.startswith((".", "/")) or "/." in path or "//" in path:
        path = "/".join(part for part in path.split("/") if part not in {"", ".", ".."})
    return path or name


def is_image_name(name: str) -> bool:
    """Whether a name ends as an image's does."""
    dot = name.rfind(".")
    return dot > 0 and _IMAGE_ENDING.fullmatch(name, dot) is not None
