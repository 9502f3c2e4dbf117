"""Numbers for classes, where a form knows them by number."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from transforms.writers.collection import Collection

# What all writers call the class of a box that has none.
_NAMELESS = "unknown"


@dataclass(frozen=True)
class Numbers:
    """Classes and their numbers. ``names`` is in the order of the class list."""

    names: dict[int, str]
    of_name: dict[str, int]

    def number_of(self, number: int | None, name: str | None, delivered: bool) -> int:
        """The number of a box's class; one that came with the box counts where it was ``delivered`` so."""
        if delivered and number is not None:
            return number
        return self.of_name[name or ""]


def numbered(collection: Collection, *, first: int = 0, keep: bool = True) -> Numbers:
    """Number the classes from ``first``, in the order of the class list, then by name.

    With ``keep`` a class list that has its numbers from ``first`` on without a gap keeps them. A class that
    the list does not have follows after it, sorted by name, so that the numbers are the same on every
    machine; boxes with neither name nor number are of the class ``unknown``, the last.
    """
    listed = collection.categories.filter(pl.col("category").is_not_null()).unique(
        "category", keep="first", maintain_order=True
    )
    numbers = listed["category_id"].to_list()
    names = listed["category"].to_list()
    if not (keep and all(number is not None and number >= first for number in numbers)):
        numbers = list(range(first, first + len(names)))
    if len(set(numbers)) < len(numbers):
        numbers = list(range(first, first + len(names)))
    found = dict(zip(numbers, names, strict=True))
    used = set(collection.boxes["category"].fill_null("").unique())
    for name in sorted(used - set(names)):
        number = max(found, default=first - 1) + 1
        # A box whose class is known by number alone has no name to number.
        if name:
            found[number] = name
            names.append(name)
    nothing = collection.boxes.filter(pl.col("category").is_null() & pl.col("category_id").is_null())
    if nothing.height and _NAMELESS not in names:
        found[max(found, default=first - 1) + 1] = _NAMELESS
    of_name = {name: number for number, name in found.items()}
    of_name.setdefault("", of_name.get(_NAMELESS, max(found, default=first - 1) + 1))
    return Numbers(found, of_name)
