"""Plans carried out by DALI: on a GPU with its own decoder, or on the CPU.

DALI decodes, warps, colours and filters in batches. What is made of several images (mosaic, mixup, pasted
instances), and files that its decoders read in another way than they are meant, are carried out one by one
with OpenCV beside it. Files are encoded by OpenCV in threads, while DALI works on the next batch.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np

from storage.errors import DropmillError
from transforms.augment.opencv import SHARPEN_SIGMA, SHARPEN_WINDOW, noise
from transforms.augment.pixels import Pixels, encode, plain_size
from transforms.augment.plan import Plan
from transforms.augment.sample import LabelledImage
from transforms.augment.single import Output, Read, Settings, as_it_is, carry_out_one

log = logging.getLogger(__name__)


def has_dali() -> bool:
    """Whether DALI is installed."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def first_gpu() -> int | None:
    """0 where there is a GPU that DALI can use, else None."""
    backend: Any = import_module("nvidia.dali.backend")
    try:
        return 0 if backend.GetCUDADeviceCount() > 0 else None
    except RuntimeError:
        return None


def carry_out_with_dali(
    plans: Iterable[Plan], images: Mapping[str, LabelledImage], read: Read, settings: Settings
) -> Iterator[Output]:
    """The files of plans, in their order; two batches are in memory at a time."""
    work = iter(plans)
    with ThreadPoolExecutor(settings.workers) as pool:
        waiting: deque[list[Future[Output]]] = deque()
        while batch := list(islice(work, settings.batch_size)):
            waiting.append(_submit(pool, batch, images, read, settings))
            if len(waiting) > 1:
                yield from (done.result() for done in waiting.popleft())
        for rest in waiting:
            yield from (done.result() for done in rest)


def render_batch(plans: list[Plan], data: list[bytes], *, threads: int, device: int | None) -> list[Pixels]:
    """The pixels of plans of one image each, from the bytes of their files.

    Raises RuntimeError where DALI cannot decode one of them: it does not say which.
    """
    steps = _Steps(
        colour=any(plan.colour.changes for plan in plans),
        blur=any(plan.kernel.blurs for plan in plans),
        sharpen=any(plan.kernel.sharpen for plan in plans),
        noise=any(plan.kernel.noise for plan in plans),
        erase=max(len(plan.erased) for plan in plans),
    )
    pipe = _pipeline(steps, _capacity(len(plans)), threads, device)
    for name, values in _inputs(plans, data, steps).items():
        pipe.feed_input(name, values)
    try:
        (out,) = pipe.run()
    except RuntimeError:
        # A pipeline that failed cannot be used again.
        _pipeline.cache_clear()
        raise
    if device is not None:
        out = out.as_cpu()
    return [np.array(out[i]) for i in range(len(plans))]


def is_for_dali(plan: Plan) -> bool:
    """Whether a plan is one image alone, which DALI's operators can carry out."""
    first = plan.layers[0]
    whole = first.window == (0, 0, plan.width, plan.height)
    return len(plan.layers) == 1 and whole and first.weight == 1 and first.instance is None


def _submit(
    pool: ThreadPoolExecutor,
    batch: list[Plan],
    images: Mapping[str, LabelledImage],
    read: Read,
    settings: Settings,
) -> list[Future[Output]]:
    data = dict(zip(range(len(batch)), pool.map(lambda plan: _read(plan, images, read), batch), strict=True))
    ours = {i: found for i, found in data.items() if found is not None}
    pixels: dict[int, Pixels] = {}
    if ours:
        try:
            done = render_batch(
                [batch[i] for i in ours],
                list(ours.values()),
                threads=settings.workers,
                device=settings.device,
            )
            pixels = dict(zip(ours, done, strict=True))
        except RuntimeError as error:
            log.warning("DALI refused a batch, which is carried out one by one: %s", error)
    return [
        pool.submit(_encoded, plan, pixels[i], settings)
        if i in pixels
        else pool.submit(carry_out_one, plan, images, read, settings)
        for i, plan in enumerate(batch)
    ]


def _read(plan: Plan, images: Mapping[str, LabelledImage], read: Read) -> bytes | None:
    """The bytes of a plan's file where DALI can carry it out; errors are left to those who name them."""
    if not is_for_dali(plan):
        return None
    image = images[plan.sample]
    try:
        data = read(image.uri)
        fits = plain_size(data, image.name) == (image.width, image.height)
        return data if fits and not as_it_is(plan, image, data) else None
    except (DropmillError, OSError):
        return None


def _encoded(plan: Plan, pixels: Pixels, settings: Settings) -> Output:
    try:
        return Output(plan, encode(pixels, plan.name, jpeg_quality=settings.jpeg_quality))
    except DropmillError as error:
        return Output(plan, None, str(error))


@dataclass(frozen=True)
class _Steps:
    """Which operators a pipeline has."""

    colour: bool
    blur: bool
    sharpen: bool
    noise: bool
    erase: int


def _capacity(count: int) -> int:
    """The batch size of the pipeline to use: few pipelines serve all sizes."""
    return 1 << (count - 1).bit_length()


def _inputs(plans: list[Plan], data: list[bytes], steps: _Steps) -> dict[str, list[Any]]:
    floats = np.float32
    found: dict[str, list[Any]] = {
        "data": [np.frombuffer(one, np.uint8) for one in data],
        "matrix": [plan.layers[0].affine().astype(floats) for plan in plans],
        "size": [np.array([plan.height, plan.width], floats) for plan in plans],
    }
    if steps.colour:
        colours = [plan.colour.matrix().astype(floats) for plan in plans]
        found["colour"] = [np.ascontiguousarray(one[:, :3]) for one in colours]
        found["shift"] = [np.ascontiguousarray(one[:, 3]) for one in colours]
    if steps.blur:
        # A window of one pixel leaves an image as it is.
        found["sigma"] = [np.array(p.kernel.sigma if p.kernel.blurs else 1.0, floats) for p in plans]
        found["window"] = [np.array(p.kernel.window if p.kernel.blurs else 1, np.int32) for p in plans]
    if steps.sharpen:
        found["sharpen"] = [np.array(plan.kernel.sharpen, floats) for plan in plans]
    if steps.noise:
        found["noise"] = [_noise(plan) for plan in plans]
    if steps.erase:
        corners = [_rectangles(plan, steps.erase) for plan in plans]
        found["anchor"] = [np.ascontiguousarray(one[:, [1, 0]]).ravel() for one in corners]
        found["extent"] = [np.ascontiguousarray(one[:, [3, 2]] - one[:, [1, 0]]).ravel() for one in corners]
        found["value"] = [np.array([plan.erased_value], floats) for plan in plans]
    return found


def _noise(plan: Plan) -> np.ndarray[Any, np.dtype[np.int16]]:
    if not plan.kernel.noise:
        return np.zeros((plan.height, plan.width, 3), np.int16)
    return noise(plan.kernel, plan.height, plan.width)


def _rectangles(plan: Plan, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = np.zeros((count, 4), np.float32)
    if plan.erased:
        rows[: len(plan.erased)] = plan.erased
    return rows


@lru_cache(maxsize=8)
def _pipeline(steps: _Steps, capacity: int, threads: int, device: int | None) -> Any:
    # Its type stubs know less than its modules do.
    dali: Any = import_module("nvidia.dali")
    fn, types = dali.fn, dali.types

    where = "cpu" if device is None else "gpu"

    def fed(name: str, **how: Any) -> Any:
        return fn.external_source(name=name, **how)

    def build() -> Any:
        image = fn.decoders.image(
            fed("data", dtype=types.UINT8, ndim=1),
            device="cpu" if device is None else "mixed",
            output_type=types.RGB,
            # As the other decoder does it.
            jpeg_fancy_upsampling=True,
        )
        image = fn.warp_affine(
            image,
            matrix=fed("matrix"),
            size=fed("size"),
            inverse_map=False,
            fill_value=0,
            interp_type=types.INTERP_LINEAR,
        )
        if steps.colour:
            image = fn.coord_transform(image, M=fed("colour"), T=fed("shift"), dtype=types.UINT8)
        if steps.blur:
            image = fn.gaussian_blur(image, sigma=fed("sigma"), window_size=fed("window"))
        if steps.sharpen:
            amount = fed("sharpen")
            soft = fn.gaussian_blur(image, sigma=SHARPEN_SIGMA, window_size=SHARPEN_WINDOW)
            image = fn.cast(image * (1.0 + amount) - soft * amount, dtype=types.UINT8)
        if steps.noise:
            grain = fed("noise", dtype=types.INT16, ndim=3, layout="HWC")
            image = fn.cast(image + (grain if device is None else grain.gpu()), dtype=types.UINT8)
        if steps.erase:
            image = fn.erase(
                image,
                device=where,
                anchor=fed("anchor"),
                shape=fed("extent"),
                axis_names="HW",
                fill_value=fed("value"),
            )
        return image

    # One batch at a time: inputs are fed by hand.
    define = dali.pipeline_def(
        batch_size=capacity, num_threads=threads, device_id=device, prefetch_queue_depth=1, exec_dynamic=True
    )
    return define(build)()
