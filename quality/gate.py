"""The gate: whether a data set is fit to train on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quality.balance import Balance


class Verdict(StrEnum):
    """The rule set's word on a data set, from good to bad."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"

    def at_least(self, wanted: Verdict) -> bool:
        """Whether this verdict is as good as ``wanted``, or better."""
        order = list(Verdict)
        return order.index(self) <= order.index(wanted)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where the gate warns and where it fails. Shares are between 0 and 1."""

    warn_invalid_share: float = 0.0
    """Share of delivered boxes with an error, above which the gate warns."""
    fail_invalid_share: float = 0.05
    """Share of delivered boxes with an error, above which the gate fails."""
    fail_quarantined_share: float = 0.10
    """Share of objects that could not be read, above which the gate fails."""
    warn_imbalance: float = 10.0
    """Boxes of the largest class for each of the smallest, above which the gate warns."""
    fail_imbalance: float | None = None
    """The same, above which the gate fails; None never fails."""
    fail_boxes_below: int = 1
    """Fewer boxes than this fail the gate."""


@dataclass(frozen=True)
class GateResult:
    """The verdict and its reasons, worst first."""

    verdict: Verdict
    reasons: tuple[str, ...]


def judge(
    *,
    balance: Balance,
    delivered: int,
    invalid: int,
    objects: int,
    quarantined: int,
    thresholds: Thresholds | None = None,
) -> GateResult:
    """Judge a data set by its counts: boxes delivered, boxes with an error, objects, objects quarantined."""
    limits = thresholds or Thresholds()
    failures: list[str] = []
    warnings: list[str] = []
    if balance.boxes < limits.fail_boxes_below:
        failures.append(f"{balance.boxes} boxes, fewer than {limits.fail_boxes_below}")
    share = invalid / delivered if delivered else 0.0
    if share > limits.fail_invalid_share:
        failures.append(f"{share:.1%} of the boxes are invalid, more than {limits.fail_invalid_share:.1%}")
    elif share > limits.warn_invalid_share:
        warnings.append(f"{invalid} of {delivered} boxes are invalid ({share:.2%})")
    lost = quarantined / objects if objects else 0.0
    if lost > limits.fail_quarantined_share:
        failures.append(
            f"{lost:.1%} of the objects are unreadable, more than {limits.fail_quarantined_share:.1%}"
        )
    elif quarantined:
        warnings.append(f"{quarantined} of {objects} objects are quarantined")
    if balance.classes:
        largest, smallest = balance.classes[0], balance.classes[-1]
        said = f"{balance.imbalance:.1f} {largest.category} for each {smallest.category}"
        if limits.fail_imbalance is not None and balance.imbalance > limits.fail_imbalance:
            failures.append(f"{said}, more than {limits.fail_imbalance:g}")
        elif balance.imbalance > limits.warn_imbalance:
            warnings.append(f"{said}, more than {limits.warn_imbalance:g}")
    verdict = Verdict.FAIL if failures else Verdict.WARN if warnings else Verdict.PASS
    return GateResult(verdict, (*failures, *warnings))
