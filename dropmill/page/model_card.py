"""The card of a model, as it was written beside the model's files."""

from __future__ import annotations

from dropmill.page.answers_work import Card
from dropmill.page.open_lake import OpenLake
from storage.errors import StoreError

_MOST_BYTES = 1_000_000


def card_of(lake: OpenLake, model: str) -> Card | None:
    """The card of the run that made a model; None where there is no such model, or it has none."""
    rows = lake.lake.sql(
        """SELECT c.run, c.made_at FROM models c JOIN models m ON m.run = c.run
           WHERE m.model = $1 AND c.kind = 'card' LIMIT 1""",
        parameters=[model],
    ).to_pylist()
    if not rows:
        return None
    artifacts = lake.lake.artifacts
    key = f"runs/{rows[0]['run']}/model_card.md"
    try:
        info = artifacts.head(key)
        if info is None:
            return None
        with artifacts.open(key) as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    except (StoreError, OSError):
        return None
    return Card(run=rows[0]["run"], written_at=rows[0]["made_at"], text=text)
