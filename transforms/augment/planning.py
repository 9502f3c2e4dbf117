"""Draw the plan of one output from the spec: a pure function of seed, sample and copy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from transforms.augment.draws import Draws
from transforms.augment.geometry import Matrix, Spatial, after, forward_matrix, letterbox
from transforms.augment.paste import Donors, paste
from transforms.augment.plan import Colour, Kernel, Layer, Plan
from transforms.augment.sample import LabelledImage
from transforms.augment.spec import AugmentSpec

_MAX_SIDE = 32_768


def draw_plan(
    spec: AugmentSpec,
    image: LabelledImage,
    copy: int = 0,
    *,
    others: Sequence[LabelledImage] = (),
    donors: Donors | None = None,
) -> Plan:
    """The plan of one output of ``image``; ``others`` are what mosaic and mixup take images from, in order.

    Instances of ``donors`` are pasted where the spec asks for them by itself.
    """
    draws = Draws(spec.random_seed, image.sample, copy)
    spatial = _spatial(spec, draws, image)
    width, height = _size(spec, spatial, image)
    matrix = _matrix(spec, spatial, image, width, height)
    layers = [_layer(image, matrix, (0, 0, width, height))]
    if others and draws.yes("mosaic", spec.mosaic_aug.probability):
        layers = _mosaic(spec, draws, image, others, width, height, copy)
    if others and draws.yes("mixup", spec.mixup_aug.probability):
        other = _another(image, others, draws, "mixup/image")
        weight = min(max(draws.number("mixup/weight", spec.mixup_aug.weight, 0.5), 0.0), 1.0)
        layers.append(_laid_in(spec, other, copy, (0, 0, width, height), weight))
    plan = Plan(
        name=name_of_copy(image.name, copy),
        copy=copy,
        width=width,
        height=height,
        layers=tuple(layers),
        colour=_colour(spec, draws),
        kernel=_kernel(spec, draws),
        erased=_erased(spec, draws, width, height),
        erased_value=spec.cutout_aug.value,
    )
    wanted = draws.whole("paste", spec.paste_aug.instances, 0)
    if donors is not None and wanted > 0:
        categories = spec.paste_aug.categories or sorted(donors.by_category)
        for i in range(min(wanted, 200)):
            category = categories[draws.among(f"paste/{i}/category", len(categories))]
            plan = paste(spec, plan, donors, category) or plan
    return plan


def name_of_copy(name: str, copy: int) -> str:
    """``a/b.jpg`` keeps its name as the first copy, the second is ``a/b_aug1.jpg``."""
    if not copy:
        return name
    stem, point, suffix = name.rpartition(".")
    return f"{stem}_aug{copy}{point}{suffix}" if point and "/" not in suffix else f"{name}_aug{copy}"


def _spatial(spec: AugmentSpec, draws: Draws, image: LabelledImage) -> Spatial:
    group = spec.spatial_aug
    angle = draws.number("angle", group.rotation.angle, 0.0)
    part = min(max(draws.number("crop", group.crop.size, 1.0), 0.01), 1.0)
    crop = None
    if part < 1:
        # Whole pixels, so that a crop alone moves none of them by a part of one.
        wide, high = max(1, round(part * image.width)), max(1, round(part * image.height))
        left = draws.among("crop/x", image.width - wide + 1)
        top = draws.among("crop/y", image.height - high + 1)
        crop = (float(left), float(top), float(wide), float(high))
    return Spatial(
        angle=angle if group.rotation.units == "radians" else math.radians(angle),
        flip_x=draws.yes("flip_x", group.flip.flip_horizontal),
        flip_y=draws.yes("flip_y", group.flip.flip_vertical),
        scale=_scale(draws.number("scale", group.scale.factor, 1.0)),
        shear_x=draws.number("shear_x", group.shear.shear_ratio_x, 0.0),
        shear_y=draws.number("shear_y", group.shear.shear_ratio_y, 0.0),
        move_x=draws.number("move_x", group.translation.translate_x, 0.0),
        move_y=draws.number("move_y", group.translation.translate_y, 0.0),
        crop=crop,
    )


def _scale(factor: float) -> float:
    return factor if factor > 0 else 1.0


def _size(spec: AugmentSpec, spatial: Spatial, image: LabelledImage) -> tuple[int, int]:
    fixed = spec.data.output_image_width, spec.data.output_image_height
    if fixed[0] is not None and fixed[1] is not None:
        return fixed[0], fixed[1]
    if spatial.crop is not None:
        return int(spatial.crop[2]), int(spatial.crop[3])
    return image.width, image.height


def _matrix(spec: AugmentSpec, spatial: Spatial, image: LabelledImage, width: int, height: int) -> Matrix:
    wide, high = (spatial.crop[2], spatial.crop[3]) if spatial.crop else (image.width, image.height)
    if spec.data.output_fit == "letterbox":
        own = forward_matrix(spatial, image.width, image.height, int(wide), int(high))
        return letterbox(own, int(wide), int(high), width, height)
    return forward_matrix(spatial, image.width, image.height, width, height)


def _layer(
    image: LabelledImage, matrix: Matrix, window: tuple[int, int, int, int], weight: float = 1.0
) -> Layer:
    a, b, c, d, e, f = (float(value) for value in matrix.ravel())
    return Layer(
        sample=image.sample,
        width=image.width,
        height=image.height,
        matrix=(a, b, c, d, e, f),
        window=window,
        weight=weight,
    )


def _laid_in(
    spec: AugmentSpec, image: LabelledImage, copy: int, window: tuple[int, int, int, int], weight: float = 1.0
) -> Layer:
    """An image under its own drawn movement, its aspect kept, over all of a window."""
    left, top, right, bottom = window
    spatial = _spatial(spec, Draws(spec.random_seed, image.sample, copy), image)
    wide, high = (spatial.crop[2], spatial.crop[3]) if spatial.crop else (image.width, image.height)
    own = forward_matrix(spatial, image.width, image.height, int(wide), int(high))
    fitted = letterbox(own, int(wide), int(high), right - left, bottom - top, cover=True)
    return _layer(image, after(fitted, np.array([[1.0, 0, left], [0, 1.0, top]])), window, weight)


def _mosaic(
    spec: AugmentSpec,
    draws: Draws,
    image: LabelledImage,
    others: Sequence[LabelledImage],
    width: int,
    height: int,
    copy: int,
) -> list[Layer]:
    """Four images around a centre that lies in the middle half of the output; the first is ``image``."""
    x = min(max(round(width * (0.25 + 0.5 * draws.unit("mosaic/x"))), 1), width - 1)
    y = min(max(round(height * (0.25 + 0.5 * draws.unit("mosaic/y"))), 1), height - 1)
    if width < 2 or height < 2:
        return [_laid_in(spec, image, copy, (0, 0, width, height))]
    windows = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    chosen = [image, *(_another(image, others, draws, f"mosaic/{i}") for i in range(3))]
    return [_laid_in(spec, one, copy, window) for one, window in zip(chosen, windows, strict=True)]


def _another(image: LabelledImage, others: Sequence[LabelledImage], draws: Draws, name: str) -> LabelledImage:
    """One of the others; the image itself only where there is no other."""
    place = draws.among(name, len(others))
    if others[place].sample == image.sample:
        place = (place + 1) % len(others)
    return others[place]


def _colour(spec: AugmentSpec, draws: Draws) -> Colour:
    group = spec.color_aug
    return Colour(
        hue=draws.number("hue", group.hue.hue_rotation_angle, 0.0),
        saturation=draws.number("saturation", group.saturation.saturation_shift, 1.0),
        contrast=draws.number("contrast", group.contrast.contrast, 0.0),
        center=draws.number("center", group.contrast.center, 127.0),
        offset=draws.number("offset", group.brightness.offset, 0.0),
    )


def _kernel(spec: AugmentSpec, draws: Draws) -> Kernel:
    sigma = max(draws.number("sigma", spec.blur_aug.std, 0.1), 0.0)
    window = min(max(draws.whole("window", spec.blur_aug.size, 3), 0), 255)
    if sigma > 0 and window == 0:
        window = 2 * math.ceil(3 * sigma) + 1
    window += 1 - window % 2 if window else 0
    if sigma == 0 and window > 1:
        # The sigma that fits a window, as DALI and OpenCV have it.
        sigma = ((window - 1) / 2 - 1) * 0.3 + 0.8
    noise = max(draws.number("noise", spec.noise_aug.std, 0.0), 0.0)
    return Kernel(
        sigma=sigma,
        window=window,
        sharpen=max(draws.number("sharpen", spec.sharpen_aug.amount, 0.0), 0.0),
        noise=noise,
        noise_seed=draws.bits("noise/seed") >> 1 if noise else 0,
    )


def _erased(
    spec: AugmentSpec, draws: Draws, width: int, height: int
) -> tuple[tuple[int, int, int, int], ...]:
    count = min(max(draws.whole("erased", spec.cutout_aug.count, 0), 0), 100)
    found = []
    for i in range(count):
        wide = _part(draws.number(f"erased/{i}/width", spec.cutout_aug.size, 0.2), width)
        high = _part(draws.number(f"erased/{i}/height", spec.cutout_aug.size, 0.2), height)
        left = draws.among(f"erased/{i}/x", width - wide + 1)
        top = draws.among(f"erased/{i}/y", height - high + 1)
        found.append((left, top, left + wide, top + high))
    return tuple(found)


def _part(share: float, side: int) -> int:
    return min(max(1, round(share * side)), side)
