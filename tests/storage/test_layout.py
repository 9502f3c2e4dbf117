from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.layout import in_files
from storage.schemas import LABELS

_text = st.one_of(st.none(), st.sampled_from(["", "a", "b", "ä", "a10", "a9"]))


@settings(deadline=None)
@given(st.lists(st.tuples(_text, _text, _text, st.one_of(st.none(), st.integers(0, 3))), max_size=30))
def test_rows_are_in_the_order_of_their_keys_with_nulls_last(keys: list[tuple[object, ...]]) -> None:
    columns = ("dataset", "stem", "source", "instance")
    rows = pa.Table.from_pylist(
        [dict(zip(columns, key, strict=True)) | {"line": line} for line, key in enumerate(keys)],
        schema=LABELS,
    )
    placed = [place for part in in_files("labels", rows) for place in part.to_pylist()]

    def rank(place: int) -> list[tuple[bool, object]]:
        return [
            (value is None, value or 0 if isinstance(value, int) else value or "") for value in keys[place]
        ]

    assert placed == sorted(range(len(keys)), key=rank)


def test_more_stems_than_sixteen_bits_number_are_in_order() -> None:
    numbers = [number * 48_611 % 70_001 for number in range(70_001)] * 2
    stems = pa.array([f"{number:06d}" for number in numbers])
    sets = pa.repeat("d", len(numbers))
    rows = pa.table(
        {"dataset": sets, "stem": stems, "source": sets, "instance": pa.array(range(len(numbers)))}
    )
    placed = [place for part in in_files("labels", rows) for place in part.to_pylist()]
    assert placed == sorted(range(len(numbers)), key=numbers.__getitem__)
