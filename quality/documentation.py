"""The page on the rules, ``docs/rules.md``, from their declarations.

``python -m quality.documentation > docs/rules.md`` writes it; a test tells when it is stale.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

from quality.gate import Thresholds
from quality.limits import Limits
from quality.rules import ADVISORY_RULES, FILE_RULES, MASK_RULES, PIXEL_RULES, RULES
from quality.selection import ALWAYS

_HEAD = """# Rules

What breaks a rule is a row of the table `findings`: the rule, its severity, the sample, the label file with
line and instance, what was observed and what was done. `labels` keeps every box as it was delivered;
`annotations` has it after the corrections, with the corners as they were beside it. This page is made from
the declarations.

```yaml
quality:                         # in dropmill.yaml
  apply_correction: true
  rules:
    skip: [near_duplicate_image] # warnings that are not looked for
    pixels: true                 # decode images: repeated and uniform ones, leaks between splits
    masks: true                  # look into segmentations
    classes: {cells: [RBC, WBC, Platelets]}
    limits: {min_side_px: 6}
  expectations:
    - {suite: mine.json, table: annotations}
  gate: {fail_invalid_share: 0.02, fail_leaked_images: 0}
```

Images that came before `pixels` was set are compared once they come again. Without `pixels` images are read
at their ends alone: a file that is cut off is found, bytes that changed inside the pixels of one over 64 KB
are not.
"""
_CORRECTED = """## Boxes that are not valid

Always looked for, in this order for every label form: corners are swapped first, then clipped, then what has
no area left is dropped, so that no correction leaves an invalid box. `apply_correction: false` only reports.
"""
_DOUBTFUL = """## Boxes that are doubtful

Nothing is changed. Ignored regions (KITTI DontCare, VOC difficult, COCO crowds) are no objects and pass.
"""
_FILES = """## Files, images and sets
"""
_LIMITS = """## Limits

`quality.rules.limits` in `dropmill.yaml`, `limits` in a spec of `dataset analytics`.
"""
_GATE = """## The gate

Each data set passes, warns or fails, with its reasons (`dropmill status`). A failed gate stops pipelines and
nothing else. `quality.gate` in `dropmill.yaml`, `gate` in a spec of `dataset analytics`.
"""
_EXPECTATIONS = {
    "expect_boxes_to_pass_rule": "boxes do not break the rule named by `rule`, one of those above",
    "expect_boxes_within_image": "no corner is outside of the image by more than `tolerance_px`",
    "expect_box_sides_at_least": "width and height are above 0, and `min_side_px` or more",
    "expect_box_aspect_at_most": "the longer side is at most `max_aspect` times the shorter",
    "expect_no_duplicate_boxes": "no two boxes of one image and class have an IoU above `max_iou`",
    "expect_class_share_between": "the share of `category` lies between `min_value` and `max_value`",
}
_SUITES = """## Great Expectations

`dropmill dataset expectations export` prints the rules as a suite, and `dropmill dataset expectations run`
runs suites of your own over any table: what fails is rows of `findings`, with Data Docs. `import
quality.expectations.boxes` makes these known to any project:
"""


def rules_page() -> str:
    """The page as Markdown."""
    parts = [
        _HEAD,
        _CORRECTED,
        _table(
            ("rule", "sees", "correction"),
            [
                (f"`{rule.name}`", rule.documentation, rule.word if rule.correction else "dropped")
                for rule in RULES
            ],
        ),
        _DOUBTFUL,
        _table(
            ("rule", "severity", "sees", "when"),
            [
                (f"`{rule.name}`", rule.severity, rule.documentation, _when(rule.name))
                for rule in ADVISORY_RULES
            ],
        ),
        _FILES,
        _table(
            ("rule", "severity", "sees", "when"),
            [(f"`{name}`", severity, said, _when(name)) for name, (severity, said) in FILE_RULES.items()],
        ),
        _LIMITS,
        _settings(Limits),
        _GATE,
        _settings(Thresholds),
        _SUITES,
        _table(("expectation", "says"), [(f"`{name}`", said) for name, said in _EXPECTATIONS.items()]),
    ]
    return "\n".join(parts)


def _when(rule: str) -> str:
    if rule in ALWAYS:
        return "always"
    if rule in MASK_RULES:
        return "`quality.rules.masks: true`, and in `analytics`"
    if rule in PIXEL_RULES:
        return "`quality.rules.pixels: true`, and in `analytics`"
    if rule == "unlisted_category":
        return "the data set has a list (`quality.rules.classes`)"
    if rule == "expectations_not_run":
        return "suites are configured (`quality.expectations`)"
    return "unless skipped"


def _settings(settings: type) -> str:
    words = _field_words(settings)
    rows = [
        (f"`{field.name}`", "none" if field.default is None else f"{field.default:g}", words[field.name])
        for field in fields(settings)
    ]
    return _table(("name", "default", "meaning"), rows)


def _field_words(settings: type) -> dict[str, str]:
    """The sentences below the fields of a dataclass."""
    tree = ast.parse(inspect.getsource(settings))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found = {}
    for field, words in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(words, ast.Expr)
            and isinstance(words.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(words.value.value).split())
    return found


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(rules_page())
