"""Memory of pictures stays with the process while many of them come and go."""

from __future__ import annotations

from functools import cache

import numpy as np

_BYTES = 31 << 20


@cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed pictures, up to some 60 MiB a thread, for the next ones.

    Else each picture is memory that the kernel gives, cleared page by page, and takes back: with 640x480
    pixels that is a third of the time of decoding, warping and encoding. glibc raises both its limits, from
    where it maps memory anew and from where it returns it, when it frees a block that is larger than all
    before, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD); elsewhere this does nothing.
    """
    block = np.empty(_BYTES, np.uint8)
    block[0] = 0
