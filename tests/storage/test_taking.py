"""Rows by their places: whatever they are made of, and however they lie in memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from storage.taking import taking

_COLUMNS = {
    "text": (pa.string(), st.none() | st.text(max_size=30)),
    "always": (pa.string(), st.just("always the same text, which is longer than a view")),
    "often": (pa.string(), st.sampled_from(["car", "a class with a long name", ""])),
    "never": (pa.string(), st.none()),
    "number": (pa.int64(), st.none() | st.integers(-5, 5)),
    "bbox": (pa.list_(pa.float64()), st.none() | st.lists(st.floats(0, 9), min_size=4, max_size=4)),
    "flag": (pa.bool_(), st.booleans()),
}
_ROW = st.fixed_dictionaries({name: values for name, (_, values) in _COLUMNS.items()})
_SCHEMA = pa.schema({name: kind for name, (kind, _) in _COLUMNS.items()})


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.lists(st.lists(_ROW, max_size=6), min_size=1, max_size=4), st.data())
def test_rows_are_those_at_the_places_whatever_chunks_they_lie_in(
    chunks: list[list[dict[str, object]]], data: st.DataObject
) -> None:
    tables = [pa.Table.from_pylist([*rows, *rows[:1]], schema=_SCHEMA) for rows in chunks]
    # A slice has its texts, its bits and its views from somewhere within.
    rows = pa.concat_tables([table.slice(0, max(table.num_rows - 1, 0)).slice(1) for table in tables])
    order = data.draw(st.permutations(range(rows.num_rows)))
    cut = data.draw(st.integers(0, rows.num_rows))
    parts = [pa.array(order[:cut], pa.int64()), pa.array(order[cut:], pa.int64())]

    take = taking(rows, parts)

    whole = rows.combine_chunks()
    for part in parts:
        taken = take(part)
        taken.validate(full=True)
        assert taken.equals(whole.take(part))


@pytest.mark.parametrize("stretch", [np.arange(0), np.arange(1), np.arange(100, 900)])
def test_rows_in_their_order_are_no_copy(stretch: np.ndarray) -> None:
    rows = pa.concat_tables([pa.table({"text": [f"{n}" for n in range(500)]})] * 2)
    before = pa.total_allocated_bytes()
    taken = taking(rows, [pa.array(stretch)])(pa.array(stretch))
    assert pa.total_allocated_bytes() - before < 1_000
    assert taken["text"].to_pylist() == [f"{n % 500}" for n in stretch]
