"""The gate: whether a data set is fit to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from quality.balance import Balance
from quality.drift import Drift


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
    warn_entropy_below: float = 0.0
    """Normalised entropy of the class mix (0 to 1; 1 is even) below which the gate warns; 0 never warns."""
    fail_entropy_below: float = 0.0
    """The same, below which the gate fails."""
    warn_effective_number: float = 0.0
    """Effective number of samples of the smallest class (Cui et al. 2019) below which the gate warns."""
    warn_js_divergence: float = 0.1
    """Jensen-Shannon divergence (0 to 1) between drops or splits, above which the gate warns."""
    fail_js_divergence: float | None = None
    """The same, above which the gate fails; None never fails."""
    warn_psi: float = 0.25
    """Population stability index between drops or splits, above which the gate warns."""
    fail_psi: float | None = None
    """The same, above which the gate fails; None never fails."""
    warn_leaked_images: int = 0
    """Images that more than one split shows, above which the gate warns."""
    fail_leaked_images: int | None = None
    """The same, above which the gate fails; None never fails."""
    warn_doubtful_share: float = 0.05
    """Share of delivered boxes with a warning, above which the gate warns."""
    fail_expectations: int | None = 0
    """Expectations of severity critical that are not met, above which the gate fails; None only warns."""


@dataclass(frozen=True)
class GateResult:
    """The verdict and its reasons, worst first."""

    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the gate judges a data set by."""

    balance: Balance
    delivered: int
    """Boxes as delivered."""
    invalid: int
    """Boxes with an error."""
    objects: int
    quarantined: int
    """Objects that could not be read."""
    doubtful: int = 0
    """Boxes with a warning."""
    leaked: int = 0
    """Images that show what an image of another split shows."""
    drifts: Sequence[Drift] = ()
    """Class mixes between drops and between splits."""
    unmet_errors: int = 0
    """Expectations of users' suites that are not met, of severity critical."""
    unmet_warnings: int = 0
    """The same, of lower severity."""


def judge(
    *,
    balance: Balance,
    delivered: int,
    invalid: int,
    objects: int,
    quarantined: int,
    doubtful: int = 0,
    leaked: int = 0,
    drifts: Sequence[Drift] = (),
    unmet_errors: int = 0,
    unmet_warnings: int = 0,
    thresholds: Thresholds | None = None,
) -> GateResult:
    """Judge a data set by its :class:`Facts`; failures are named before warnings."""
    facts = Facts(
        balance=balance,
        delivered=delivered,
        invalid=invalid,
        objects=objects,
        quarantined=quarantined,
        doubtful=doubtful,
        leaked=leaked,
        drifts=drifts,
        unmet_errors=unmet_errors,
        unmet_warnings=unmet_warnings,
    )
    reasons = _Reasons()
    limits = thresholds or Thresholds()
    _judge_boxes(facts, limits, reasons)
    _judge_objects(facts, limits, reasons)
    _judge_balance(facts.balance, limits, reasons)
    _judge_drift(facts.drifts, limits, reasons)
    _judge_expectations(facts, limits, reasons)
    verdict = Verdict.FAIL if reasons.failures else Verdict.WARN if reasons.warnings else Verdict.PASS
    return GateResult(verdict, (*reasons.failures, *reasons.warnings))


class _Reasons:
    def __init__(self) -> None:
        self.failures: list[str] = []
        self.warnings: list[str] = []

    def above(self, value: float, warn: float, fail: float | None, said: str, form: str = "g") -> None:
        """Note ``said`` where ``value`` is above a limit."""
        if fail is not None and value > fail:
            self.failures.append(f"{said}, more than {fail:{form}}")
        elif value > warn:
            self.warnings.append(f"{said}, more than {warn:{form}}")


def _judge_boxes(facts: Facts, limits: Thresholds, reasons: _Reasons) -> None:
    if facts.balance.boxes < limits.fail_boxes_below:
        reasons.failures.append(f"{facts.balance.boxes} boxes, fewer than {limits.fail_boxes_below}")
    share = facts.invalid / facts.delivered if facts.delivered else 0.0
    if share > limits.fail_invalid_share:
        reasons.failures.append(
            f"{share:.1%} of the boxes are invalid, more than {limits.fail_invalid_share:.1%}"
        )
    elif share > limits.warn_invalid_share:
        reasons.warnings.append(f"{facts.invalid} of {facts.delivered} boxes are invalid ({share:.2%})")
    doubtful = facts.doubtful / facts.delivered if facts.delivered else 0.0
    said = f"{doubtful:.1%} of the boxes have a warning"
    reasons.above(doubtful, limits.warn_doubtful_share, None, said, ".1%")


def _judge_objects(facts: Facts, limits: Thresholds, reasons: _Reasons) -> None:
    lost = facts.quarantined / facts.objects if facts.objects else 0.0
    if lost > limits.fail_quarantined_share:
        reasons.failures.append(
            f"{lost:.1%} of the objects are unreadable, more than {limits.fail_quarantined_share:.1%}"
        )
    elif facts.quarantined:
        reasons.warnings.append(f"{facts.quarantined} of {facts.objects} objects are quarantined")
    said = f"{facts.leaked} images show what an image of another split shows"
    reasons.above(facts.leaked, limits.warn_leaked_images, limits.fail_leaked_images, said)


def _judge_balance(balance: Balance, limits: Thresholds, reasons: _Reasons) -> None:
    if not balance.classes:
        return
    largest, smallest = balance.classes[0], balance.classes[-1]
    said = f"{balance.imbalance:.1f} {largest.category} for each {smallest.category}"
    reasons.above(balance.imbalance, limits.warn_imbalance, limits.fail_imbalance, said)
    said = f"the class mix has an entropy of {balance.entropy:.2f}"
    if balance.entropy < limits.fail_entropy_below:
        reasons.failures.append(f"{said}, less than {limits.fail_entropy_below:g}")
    elif balance.entropy < limits.warn_entropy_below:
        reasons.warnings.append(f"{said}, less than {limits.warn_entropy_below:g}")
    worth = smallest.effective_number()
    if worth < limits.warn_effective_number:
        reasons.warnings.append(
            f"{smallest.category} is worth {worth:.0f} samples, fewer than {limits.warn_effective_number:g}"
        )


def _judge_drift(drifts: Sequence[Drift], limits: Thresholds, reasons: _Reasons) -> None:
    for drift in drifts:
        failed = (
            limits.fail_js_divergence is not None and drift.js_divergence > limits.fail_js_divergence
        ) or (limits.fail_psi is not None and drift.psi > limits.fail_psi)
        if failed:
            reasons.failures.append(f"the class mix drifts, {drift}")
        elif drift.js_divergence > limits.warn_js_divergence or drift.psi > limits.warn_psi:
            reasons.warnings.append(f"the class mix drifts, {drift}")


def _judge_expectations(facts: Facts, limits: Thresholds, reasons: _Reasons) -> None:
    said = f"{facts.unmet_errors} critical expectations are not met"
    reasons.above(facts.unmet_errors, 0, limits.fail_expectations, said)
    reasons.above(facts.unmet_warnings, 0, None, f"{facts.unmet_warnings} other expectations are not met")
