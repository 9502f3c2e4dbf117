"""Carry plans out: read, render, encode, and give back the files, several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from storage.errors import ConfigError
from transforms.augment.dali import carry_out_with_dali, first_gpu, has_dali
from transforms.augment.plan import Plan
from transforms.augment.sample import LabelledImage
from transforms.augment.single import Output, Read, Settings, carry_out_one
from transforms.kept_memory import keep_freed_memory


def chosen_executor(wanted: str) -> tuple[str, int | None]:
    """``dali`` or ``opencv``, and DALI's device: a GPU where there is one, else None, the CPU.

    ``auto`` takes DALI with a GPU, else OpenCV. Raises ConfigError where DALI is wanted and not installed.
    """
    if wanted == "opencv":
        return "opencv", None
    if not has_dali():
        if wanted == "dali":
            raise ConfigError("executor: dali is not installed; pip install 'dropmill[augment]'")
        return "opencv", None
    device = first_gpu()
    if wanted == "auto":
        return ("opencv", None) if device is None else ("dali", device)
    return "dali", device


def carry_out(
    plans: Iterable[Plan], images: Mapping[str, LabelledImage], read: Read, settings: Settings
) -> Iterator[Output]:
    """The files of plans, in their order; a few are in memory at a time.

    An image that cannot be read gives an output with an error, and stops none of the others.
    """
    if settings.executor == "dali":
        yield from carry_out_with_dali(plans, images, read, settings)
        return
    import cv2

    keep_freed_memory()
    # The threads are ours: those within OpenCV would fight over the same cores.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    work = iter(plans)
    try:
        with ThreadPoolExecutor(settings.workers) as pool:
            waiting: deque[Future[Output]] = deque()
            for plan in islice(work, 2 * settings.workers):
                waiting.append(pool.submit(carry_out_one, plan, images, read, settings))
            while waiting:
                done = waiting.popleft().result()
                for plan in islice(work, 1):
                    waiting.append(pool.submit(carry_out_one, plan, images, read, settings))
                yield done
    finally:
        cv2.setNumThreads(threads)
