"""The rules as an ExpectationSuite, and suites that users bring."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from great_expectations import ExpectationSuite
from great_expectations.expectations.metadata_types import FailureSeverity

from quality.expectations.boxes import ExpectBoxesToPassRule, columns_of
from quality.rules import ADVISORY_RULES, RULES, Rule
from storage.errors import ConfigError

_MOST_BYTES = 10_000_000
SEVERITIES = {
    "error": FailureSeverity.CRITICAL,
    "warning": FailureSeverity.WARNING,
    "info": FailureSeverity.INFO,
}
"""Severity of a rule to that of an expectation."""


def rules_suite(
    columns: Sequence[str], rules: Sequence[Rule] = (*RULES, *ADVISORY_RULES), *, name: str = "dropmill rules"
) -> ExpectationSuite:
    """All rules as a suite for a frame that has ``columns``: one expectation each, with its documentation.

    ``suite.to_json_dict()`` gives the JSON that any project can load, once it has imported
    :mod:`quality.expectations.boxes`.
    """
    return ExpectationSuite(
        name=name,
        expectations=[
            ExpectBoxesToPassRule(
                rule=rule.name,
                column_list=columns_of(rule, list(columns)),
                severity=SEVERITIES[rule.severity],
                meta={"documentation": rule.documentation},
            )
            for rule in rules
        ],
    )


def load_suite(source: str) -> ExpectationSuite:
    """A suite of the user's own: a JSON file, or ``module:name`` of a suite or of a function that makes one.

    A module is run as it is imported, so ``source`` must be the user's own word (command line or
    configuration), never something that was found in a bucket. Raises ConfigError.
    """
    if source.endswith(".json"):
        return _of_json(Path(source))
    module, colon, name = source.partition(":")
    if not colon:
        raise ConfigError(f"suite {source!r}: expected a .json file or module:name")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"suite {source!r}: {error}") from error
    suite = found() if callable(found) else found
    if not isinstance(suite, ExpectationSuite):
        raise ConfigError(f"suite {source!r}: found {type(suite).__name__}, expected an ExpectationSuite")
    return suite


def _check_condition(path: Path, condition: Any) -> None:
    """Refuse conditions that reach for more than columns: pandas runs them as expressions of Python."""
    if isinstance(condition, str) and ("@" in condition or "__" in condition):
        raise ConfigError(
            f"suite {path}: the row condition {condition!r} has '@' or '__' in it, and could run code; "
            "compare columns with values"
        )
    parts: list[Any] = []
    if isinstance(condition, dict):
        parts = [*condition.keys(), *condition.values()]
    elif isinstance(condition, list):
        parts = condition
    for part in parts:
        _check_condition(path, part)


def _of_json(path: Path) -> ExpectationSuite:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"suite {path}: {path.stat().st_size} bytes; expected at most {_MOST_BYTES}")
        values = json.loads(path.read_text(encoding="utf-8"))
        for entry in values["expectations"]:
            _check_condition(path, entry.get("kwargs", {}).get("row_condition"))
        wanted = [str(entry["type"]) for entry in values["expectations"]]
        known = {"name", "expectations", "meta", "notes", "suite_parameters"}
        suite = ExpectationSuite(**{key: value for key, value in values.items() if key in known})
    except ConfigError:
        raise
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"suite {path}: {error}") from error
    except Exception as error:
        # Great Expectations raises many kinds for what it does not know.
        raise ConfigError(f"suite {path}: {type(error).__name__}: {error}") from error
    if len(suite.expectations) < len(wanted):
        # What it cannot use it leaves out with a line in the log, and a suite that checks less passes.
        left = Counter(wanted) - Counter(entry.expectation_type for entry in suite.expectations)
        raise ConfigError(f"suite {path}: not known, or with arguments that do not fit: {', '.join(left)}")
    return suite
