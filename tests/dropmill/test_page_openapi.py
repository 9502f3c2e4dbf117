"""The interface keeps to its own OpenAPI document, whatever it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import missing_required_header, positive_data_acceptance

from dropmill.commands import Commands
from dropmill.page.app import page_app
from dropmill.page.behind import make_page
from tests.dropmill.page_lake import make_lake

pytestmark = pytest.mark.slow

TOKEN = "t0ken"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> schemathesis.BaseSchema:
    folder: Path = tmp_path_factory.mktemp("openapi")
    mill = make_lake(folder, images=6)
    page = make_page(str(mill.lake_folder), cache=folder / "cache", commands=Commands(10_000), token=TOKEN)
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", page_app(page, hosts=["testserver"]))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_as_documented(api: schemathesis.BaseSchema, mode: GenerationMode) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) == 17

    def check(operation: APIOperation[Any, Any, Any]) -> None:
        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=6,
            deadline=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def one(case: schemathesis.Case) -> None:
            # Texts that the schema allows may be no SQL, no cursor and no sample: 400 and 404 are right.
            case.call_and_validate(
                headers={"Authorization": f"Bearer {TOKEN}"},
                excluded_checks=[positive_data_acceptance, missing_required_header],
            )

        one()

    for operation in operations:
        try:
            check(operation)
        except Unsatisfiable:
            # What has no parameter cannot be asked wrongly.
            assert mode is GenerationMode.NEGATIVE
