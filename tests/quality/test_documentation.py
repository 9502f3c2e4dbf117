"""The page on the rules says what the declarations say."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from dropmill.config import GateConfig, LimitsConfig, QualityConfig
from quality.documentation import rules_page
from quality.gate import Thresholds
from quality.limits import Limits
from quality.rules import ADVISORY_RULES, FILE_RULES, RULES

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "rules.md"


def test_the_page_is_as_the_declarations_make_it() -> None:
    assert _PAGE.read_text() == rules_page(), "python -m quality.documentation > docs/rules.md"


def test_every_rule_limit_and_threshold_is_on_the_page_once_with_its_words() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", rules_page(), re.MULTILINE)
    names = [name for name, _ in rows]
    wanted = [rule.name for rule in (*RULES, *ADVISORY_RULES)] + list(FILE_RULES)
    wanted += [field.name for kind in (Limits, Thresholds) for field in fields(kind)]
    for name in wanted:
        assert names.count(name) == 1, name
    assert all(len(words) > 20 for _, words in rows)


def test_the_configuration_on_the_page_can_be_used() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", rules_page(), re.DOTALL)
    config = QualityConfig.model_validate(yaml.safe_load(text)["quality"])
    assert config.rules.selection().limits.min_side_px == 6
    assert config.expectations[0].suite.name == "mine.json"


def test_every_limit_and_threshold_can_be_configured_with_its_default() -> None:
    assert LimitsConfig().model_dump() == vars(Limits())
    assert GateConfig().model_dump() == vars(Thresholds())


def test_every_expectation_on_the_page_is_known_to_great_expectations() -> None:
    pytest.importorskip("great_expectations", reason="great-expectations is not installed")
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    import quality.expectations.boxes  # noqa: F401

    named = set(re.findall(r"`(expect_\w+)`", rules_page()))
    ours = {
        name for name in list_registered_expectation_implementations() if "box" in name or "class" in name
    }
    assert named == ours
