"""How far apart two mixes of classes are: between drops, and between splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from quality.balance import Balance
from quality.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Two mixes and how far they are apart."""

    reference: str
    current: str
    js_divergence: float
    psi: float
    moved: str
    """The class whose share changed most."""
    share_before: float
    share_after: float

    def beyond(self, limits: Limits) -> bool:
        """Whether either measure is above its limit."""
        return self.js_divergence > limits.max_js_divergence or self.psi > limits.max_psi

    def __str__(self) -> str:
        return (
            f"{self.reference} to {self.current}: JS divergence {self.js_divergence:.3f}, "
            f"PSI {self.psi:.3f}, most of all {self.moved} from {self.share_before:.1%} to "
            f"{self.share_after:.1%}"
        )


def compare(
    reference: str, before: Mapping[str, int], current: str, after: Mapping[str, int]
) -> Drift | None:
    """Compare two mixes, counts of boxes per class; None where one of them is empty."""
    if not sum(before.values()) or not sum(after.values()):
        return None
    p, q = shares_of(before, after)
    names = sorted(before.keys() | after.keys())
    most = max(range(len(names)), key=lambda i: abs(q[i] - p[i]))
    # A class that one side lacks would make the index infinite: it counts as half a box there.
    smooth_p, smooth_q = shares_of(before, after, least=0.5)
    return Drift(
        reference=reference,
        current=current,
        js_divergence=js_divergence(p, q),
        psi=psi(smooth_p, smooth_q),
        moved=names[most],
        share_before=p[most],
        share_after=q[most],
    )


def js_divergence(p: Sequence[float], q: Sequence[float]) -> float:
    """Jensen-Shannon divergence of two distributions, base 2: 0 (the same) to 1 (nothing in common).

    Lin: Divergence Measures Based on the Shannon Entropy, IEEE Trans. Inf. Theory 37, 1991.
    """

    def from_middle(a: Sequence[float], b: Sequence[float]) -> float:
        return sum(x * math.log2(2 * x / (x + y)) for x, y in zip(a, b, strict=True) if x > 0)

    return max(0.0, (from_middle(p, q) + from_middle(q, p)) / 2)


def psi(p: Sequence[float], q: Sequence[float]) -> float:
    """Population stability index, the sum of (q - p) * ln(q / p); all shares must be above 0."""
    return sum((after - before) * math.log(after / before) for before, after in zip(p, q, strict=True))


def shares_of(
    before: Mapping[str, int], after: Mapping[str, int], *, least: float = 0.0
) -> tuple[list[float], list[float]]:
    """Both mixes as shares over all their classes, by name; counts are ``least`` or more."""
    names = sorted(before.keys() | after.keys())
    mixes = []
    for counts in (before, after):
        values = [max(float(counts.get(name, 0)), least) for name in names]
        mixes.append([value / sum(values) for value in values])
    return mixes[0], mixes[1]


def drift_between_splits(balances: Mapping[str, Balance], limits: Limits) -> list[Drift]:
    """Each pair of splits that has enough boxes on both sides, most different first."""
    enough = [name for name, balance in balances.items() if balance.boxes >= limits.min_drift_boxes]
    found = [
        compare(one, balances[one].counts, two, balances[two].counts) for one, two in combinations(enough, 2)
    ]
    return sorted((drift for drift in found if drift), key=lambda drift: -drift.js_divergence)


def drift_over_drops(balances: Mapping[str, Balance], limits: Limits) -> list[Drift]:
    """Each drop against all drops before it, in their order, where both sides have enough boxes."""
    before: dict[str, int] = {}
    found = []
    for name, balance in balances.items():
        if min(sum(before.values()), balance.boxes) >= limits.min_drift_boxes:
            drift = compare("the drops before", before, f"drop {name}", balance.counts)
            if drift:
                found.append(drift)
        for category, boxes in balance.counts.items():
            before[category] = before.get(category, 0) + boxes
    return found
