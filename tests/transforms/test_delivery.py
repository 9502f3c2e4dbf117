from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.delivery import stem_of, stem_of_file, without_extension

_PARTS = st.sampled_from(["a", "b.c", ".", "..", ".d", "e.", "f g.tar.gz", "", "...", "ü.jpg"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/b.c.jpg", "a/b.c"), ("v1.0/image", "v1.0/image"), ("a/.hidden", "a/.hidden"), ("dot.", "dot.")],
)
def test_the_last_suffix_goes_and_the_folders_stay(path: str, expected: str) -> None:
    assert without_extension(path) == expected


@given(st.lists(_PARTS, max_size=4).map("/".join))
def test_names_are_taken_apart_as_paths_are(path: str) -> None:
    pure = PurePosixPath(path)
    assert without_extension(path) == str(pure.with_suffix("") if pure.suffix else pure)


@given(st.lists(_PARTS, max_size=4).map("/".join))
def test_the_stem_of_a_file_is_the_end_of_its_path_without_the_suffix(path: str) -> None:
    assert stem_of_file(path) == stem_of(without_extension(path))
