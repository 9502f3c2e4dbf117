"""What notifications say, in all the envelopes that they come in."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.sources.envelopes import read_notification
from ingest.sources.hints import Hint, Seen, is_later
from storage.errors import UnreadableError


def record(key: str, name: str = "ObjectCreated:Put", **found: Any) -> dict[str, Any]:
    s3 = {"bucket": {"name": "drops"}, "object": {"key": key, **found}}
    return {"eventSource": "aws:s3", "eventName": name, "s3": s3}


def keys(body: object, **options: Any) -> list[tuple[str, str]]:
    return [(notice.action, notice.key) for notice in read_notification(json.dumps(body), **options)]


DIRECT = {"Records": [record("a+b/%C3%BC%2Bx.png"), record("gone.txt", "ObjectRemoved:DeleteMarkerCreated")]}
SAID = [("put", "a b/ü+x.png"), ("remove", "gone.txt")]


def test_records_come_alone_through_sns_and_as_minio_sends_them() -> None:
    assert keys(DIRECT) == SAID
    assert keys({"Type": "Notification", "TopicArn": "arn", "Message": json.dumps(DIRECT)}) == SAID
    assert keys({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": json.dumps(DIRECT)}}]}) == SAID
    minio = {"EventName": "s3:ObjectCreated:Put", "Key": "drops/a%2Fb.png"}
    assert keys({**minio, "Records": [record("a%2Fb.png", "s3:ObjectCreated:Put")]}) == [("put", "a/b.png")]


def test_keys_of_eventbridge_are_not_decoded() -> None:
    event = {
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": "drops"}, "object": {"key": "a+b%2F.png", "sequencer": "00AB"}},
    }
    (notice,) = read_notification(json.dumps(event))
    assert (notice.key, notice.sequencer, notice.action) == ("a+b%2F.png", "00AB", "put")
    assert keys({**event, "detail-type": "Object Deleted"}) == [("remove", "a+b%2F.png")]
    assert keys({**event, "detail-type": "Object Tags Added"}) == []


def test_cloudevents_come_structured_batched_and_in_headers() -> None:
    event = {
        "specversion": "1.0",
        "type": "google.cloud.storage.object.v1.finalized",
        "source": "//storage.googleapis.com/projects/_/buckets/drops",
        "subject": "objects/a/b c.png",
    }
    assert keys(event) == [("put", "a/b c.png")]
    assert keys([event, {**event, "type": "google.cloud.storage.object.v1.deleted"}]) == [
        ("put", "a/b c.png"),
        ("remove", "a/b c.png"),
    ]
    assert keys({**event, "data": DIRECT}) == SAID
    headers = {f"ce-{name}": value for name, value in event.items()}
    assert keys({"bucket": "drops"}, headers=headers) == [("put", "a/b c.png")]


def test_test_events_and_changes_of_no_content_say_nothing() -> None:
    assert keys({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "drops"}) == []
    assert keys({"Records": [record("a.png", "ObjectTagging:Put"), record("a.png", "ObjectAcl:Put")]}) == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no json",
        "3",
        "{}",
        '{"Records": [{}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {}}}]}',
        '{"Type": "Notification", "Message": "no json"}',
        "[" * 100_000,
        json.dumps([[[[[[DIRECT]]]]]]),
        json.dumps({"specversion": "1.0", "type": "x.deleted", "source": "/b"}),
        json.dumps({"Records": [record("%FF%FE.png")]}),
    ],
)
def test_what_is_no_notification_is_an_error_of_its_kind(body: str) -> None:
    with pytest.raises(UnreadableError):
        read_notification(body)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    ["Records", "detail", "s3", "Message", "Type", "specversion", "data", "object", "key"]
                ),
                x,
            )
        ),
    )
)
def test_any_json_is_notices_or_an_error_of_its_kind(content: Any) -> None:
    with contextlib.suppress(UnreadableError):
        read_notification(json.dumps(content))


def test_sequencers_are_texts_padded_on_their_right() -> None:
    assert is_later("0055AED6DCD90281E6", "0055AED6DCD90281E5")
    assert is_later("0056", "0055AED6DCD90281E5")
    assert not is_later("0055", "005500")
    assert not is_later("0055", "0055")
    assert is_later("00b0", "00A0")


def test_only_copies_and_older_events_of_a_key_need_no_look() -> None:
    seen = Seen(most=2)
    seen.note(Hint(key="a", sequencer="0055"))
    assert seen.is_old(Hint(key="a", sequencer="0055"))
    assert seen.is_old(Hint(key="a", sequencer="0054FF"))
    assert not seen.is_old(Hint(key="a", sequencer="0056"))
    assert not seen.is_old(Hint(key="b", sequencer="0001"))
    assert not seen.is_old(Hint(key="a"))
    seen.note(Hint(key="a", sequencer="0001"))
    assert seen.is_old(Hint(key="a", sequencer="0055"))
    for key in "bc":
        seen.note(Hint(key=key, sequencer="1"))
    assert not seen.is_old(Hint(key="a", sequencer="0055"))


def test_sequencers_of_other_stores_order_nothing() -> None:
    other = {**record("a.png", sequencer="17"), "eventSource": "minio:s3"}
    (notice,) = read_notification(json.dumps({"Records": [other]}))
    assert notice.sequencer is None
