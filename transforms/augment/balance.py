"""More of the rare classes: which images are repeated, and which instances are pasted where.

All of it is worked out on labels, before any pixel is touched: what an output shows follows from its plan.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from transforms.augment.boxes import Floats
from transforms.augment.draws import Draws
from transforms.augment.labels import Keep, labels_of
from transforms.augment.paste import Donors, box_of_paste, donors_of, paste
from transforms.augment.plan import Plan
from transforms.augment.planning import draw_plan
from transforms.augment.sample import LabelledImage, Placed
from transforms.augment.spec import AugmentSpec

# Aimed below the ratio asked for, so that rounding does not end above it.
_MARGIN = 0.97


def plan_outputs(
    spec: AugmentSpec, images: Sequence[LabelledImage], *, repeat_factors: Mapping[str, float] | None = None
) -> list[Plan]:
    """The plans of all outputs, in order: images as they come, their copies one after the other.

    ``repeat_factors`` (category to factor, 1 and more) say how often an image is repeated where the spec's
    balance is ``oversample``; a part of a time is drawn for each image. ``full`` pastes rare instances, then
    repeats the images that show the fewest of the largest class, until the largest class has less than
    ``ratio`` objects for each of the smallest, or ``max_growth`` is reached.
    """
    needed = spec.balance.mode == "full" or any(value > 0 for value in spec.paste_aug.instances)
    donors = donors_of(images, without_mask=spec.paste_aug.without_mask) if needed else None
    factors = repeat_factors if spec.balance.mode == "oversample" else None
    plans = [
        draw_plan(spec, image, copy, others=images, donors=donors)
        for image in images
        for copy in range(_copies(spec, image, factors or {}))
    ]
    if spec.balance.mode == "full" and donors is not None and images:
        return _Filling(spec, images, donors, plans).plans()
    return plans


def count_objects(placed: Sequence[Placed]) -> dict[str, int]:
    """Objects of each category that count, most frequent first."""
    found: Counter[str] = Counter()
    for one in placed:
        found.update(
            name for name, ignore in zip(one.categories, one.ignore.tolist(), strict=True) if not ignore
        )
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def imbalance(counts: Mapping[str, int]) -> float:
    """Objects of the largest class for each of the smallest; NaN without objects."""
    values = [value for value in counts.values() if value]
    return max(values) / min(values) if values else math.nan


def _copies(spec: AugmentSpec, image: LabelledImage, factors: Mapping[str, float]) -> int:
    objects = image.objects
    shown = [
        name for name, ignore in zip(objects.categories, objects.ignore.tolist(), strict=True) if not ignore
    ]
    factor = min(max([factors.get(name, 1.0) for name in shown], default=1.0), spec.balance.max_growth)
    wanted = spec.data.copies * factor
    part = Draws(spec.random_seed, image.sample).unit("repeat")
    return max(int(wanted) + (part < wanted - int(wanted)), 1)


class _Filling:
    """Outputs while instances are pasted into them: what each shows, and how many there are of each class."""

    def __init__(
        self, spec: AugmentSpec, images: Sequence[LabelledImage], donors: Donors, plans: list[Plan]
    ) -> None:
        self._spec = spec
        self._donors = donors
        self._plans = plans
        self._images = {image.sample: image for image in images}
        self._keep = Keep(
            min_visibility=spec.labels.min_visibility, min_size=spec.labels.min_size, masks=False
        )
        self._placed = [labels_of(plan, self._images, self._keep) for plan in plans]
        self._counts: Counter[str] = Counter(count_objects(self._placed))
        self._most = int(spec.balance.max_growth * len(images))
        self._copies = Counter(plan.sample for plan in plans)

    def plans(self) -> list[Plan]:
        """The outputs when nothing is missing any more, or nothing more can be done."""
        order = sorted(
            range(len(self._plans)),
            key=lambda i: Draws(self._spec.random_seed, self._plans[i].sample, self._plans[i].copy).bits(
                "order"
            ),
        )
        for i in order:
            self._fill(i)
        # Images that bring the fewest of the largest class along are the best ground for more.
        largest = max(self._counts, key=lambda name: (self._counts[name], name), default="")
        grounds = sorted(
            self._images.values(),
            key=lambda image: (image.objects.categories.count(largest), image.sample),
        )
        few = grounds[: max(8, len(grounds) // 8)]
        turn = 0
        while self._missing() and len(self._plans) < self._most:
            image = few[turn % len(few)]
            turn += 1
            copy = self._copies[image.sample]
            self._copies[image.sample] += 1
            plan = draw_plan(
                self._spec, image, copy, others=tuple(self._images.values()), donors=self._donors
            )
            self._plans.append(plan)
            self._placed.append(labels_of(plan, self._images, self._keep))
            self._counts.update(count_objects([self._placed[-1]]))
            self._fill(len(self._plans) - 1)
        places = {sample: i for i, sample in enumerate(self._images)}
        return sorted(self._plans, key=lambda plan: (places[plan.sample], plan.copy))

    def _missing(self) -> list[str]:
        """Classes that are too rare and can be pasted, rarest first."""
        if not self._counts:
            return []
        goal = max(self._counts.values()) / (self._spec.balance.ratio * _MARGIN)
        allowed = self._spec.paste_aug.categories or list(self._donors.by_category)
        rare = [name for name in allowed if self._counts[name] < goal and name in self._donors.by_category]
        return sorted(rare, key=lambda name: (self._counts[name], name))

    def _fill(self, i: int) -> None:
        """Paste into one output what is rarest, as long as there is room."""
        before, plan = self._placed[i], self._plans[i]
        taken: Floats = before.boxes
        full: set[str] = set()
        pasted: Counter[str] = Counter()
        for _ in range(self._spec.balance.pastes_per_image):
            wanted = [name for name in self._missing() if name not in full]
            if not wanted:
                break
            more = paste(self._spec, plan, self._donors, wanted[0], taken)
            if more is None:
                full.add(wanted[0])
                continue
            plan = more
            taken = np.concatenate([taken, box_of_paste(plan.layers[-1], self._donors)])
            pasted[wanted[0]] += 1
            self._counts[wanted[0]] += 1
        if not pasted:
            return
        # What was pasted may hide what was there: the labels themselves say what is seen.
        self._plans[i] = plan
        self._placed[i] = labels_of(plan, self._images, self._keep)
        self._counts.subtract(pasted)
        self._counts.subtract(count_objects([before]))
        self._counts.update(count_objects([self._placed[i]]))
