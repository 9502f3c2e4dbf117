"""Objects of a directory and of any other fsspec store."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ConfigError, LakeError, StoreError, SupersededError
from storage.object_store import ObjectStore, checked_key, is_object_key


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        return ObjectStore.at(tmp_path / "bucket")
    return ObjectStore.at(f"memory://bucket-{uuid.uuid4().hex}")


def test_what_is_written_is_listed_read_and_described(store: ObjectStore) -> None:
    store.write("a/b c/ü.txt", b"hello")
    (info,) = store.list()
    assert (info.key, info.size_bytes) == ("a/b c/ü.txt", 5)
    assert store.head(info.key) == info
    with store.open(info.key) as file:
        assert file.read() == b"hello"
    assert store.head("a/none.txt") is None


def test_a_new_content_is_a_new_version(store: ObjectStore) -> None:
    store.write("a.txt", b"one")
    before = store.head("a.txt")
    store.write("a.txt", b"longer")
    after = store.head("a.txt")
    assert before
    assert after
    assert before.version != after.version


def test_an_object_is_opened_at_its_version_or_not_at_all(store: ObjectStore) -> None:
    store.write("a.txt", b"one")
    before = store.head("a.txt")
    assert before
    with store.open("a.txt", before) as file:
        assert file.read() == b"one"
        assert store.unchanged(file, before)
    store.write("a.txt", b"longer")
    with pytest.raises(SupersededError, match="another version"), store.open("a.txt", before):
        pass


def test_a_file_that_is_written_to_while_it_is_read_has_changed(tmp_path: Path) -> None:
    store = ObjectStore.at(tmp_path)
    store.write("a.txt", b"one")
    planned = store.head("a.txt")
    assert planned
    with store.open("a.txt", planned) as file:
        (tmp_path / "a.txt").write_bytes(b"another")
        assert not store.unchanged(file, planned)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    store = ObjectStore.at(tmp_path)
    store.write("a.txt", b"one")
    planned = store.head("a.txt")
    (tmp_path / "a.txt").unlink()
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(SupersededError), store.open("a.txt", planned):
        pass


def test_an_absent_object_is_not_found(store: ObjectStore) -> None:
    with pytest.raises(FileNotFoundError), store.open("nothing.txt") as file:
        file.read()


def test_listing_below_a_prefix_and_of_nothing(store: ObjectStore) -> None:
    assert list(store.list()) == []
    store.write("x/1.txt", b"1")
    store.write("y/2.txt", b"2")
    assert [info.key for info in store.list("x")] == ["x/1.txt"]


@pytest.mark.parametrize(
    "name",
    [".hidden", ".git/config", "a/.cache/b", "x.tmp", "x.part", "x.crdownload", "x~", "__MACOSX/._a.jpg"],
)
def test_hidden_and_half_written_names_are_no_objects(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert list(ObjectStore.at(tmp_path).list()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "link.txt").symlink_to(secret)
    (bucket / "loop").symlink_to(bucket)
    assert list(ObjectStore.at(bucket).list()) == []


@pytest.mark.parametrize("key", ["/etc/passwd", "../x", "a/../../x", "a\\b", "a\x00b"])
def test_keys_never_lead_out_of_the_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(StoreError):
        checked_key(key)
    with pytest.raises(StoreError):
        ObjectStore.at(tmp_path).write(key, b"x")


@given(st.text(min_size=1, max_size=40))
def test_any_name_is_either_an_object_or_refused(name: str) -> None:
    if is_object_key(name):
        assert checked_key(name) == name


def test_a_folder_with_signs_in_its_name_is_opened_by_path_and_by_url(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20#ü"
    folder.mkdir()
    ObjectStore.at(folder).write("x.txt", b"1")
    assert [info.key for info in ObjectStore.at(folder).list()] == ["x.txt"]
    assert [info.key for info in ObjectStore.at(folder.as_uri()).list()] == ["x.txt"]


def test_a_store_that_accepts_a_key_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ObjectStore.at(tmp_path).probe_exclusive_create()
    assert list(tmp_path.iterdir()) == []
    local = type(fsspec.filesystem("file"))
    monkeypatch.setattr(local, "pipe_file", lambda *_args, **_kwargs: None)
    with pytest.raises(LakeError, match="same key twice"):
        ObjectStore.at(tmp_path).probe_exclusive_create()


def test_an_unknown_scheme_names_the_extra() -> None:
    with pytest.raises(ConfigError, match=r"dropmill\[s3\]"):
        list(ObjectStore.at("nosuch://bucket").list())


def test_a_small_object_is_given_whole_at_its_version_or_not_at_all(tmp_path: Path) -> None:
    store = ObjectStore.at(tmp_path)
    store.write("a.txt", b"one")
    planned = store.head("a.txt")
    assert planned is not None
    assert store.whole(planned) == b"one"
    for other in (b"four", b"", b"two"):
        store.write("a.txt", other)
        os.utime(tmp_path / "a.txt", ns=(1, 1))
        with pytest.raises(SupersededError, match=r"a\.txt: another version"):
            store.whole(planned)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(FileNotFoundError):
        store.whole(planned)
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(StoreError, match=r"a\.txt"):
        store.whole(planned)
