"""What notifications look like: S3 and its likes, alone or inside SNS, EventBridge and CloudEvents.

Facts from the services' own documents: "Event message structure" (Amazon S3 User Guide) for records, the
EventBridge reference of S3 for ``detail``, the CloudEvents 1.0 specification with its HTTP binding
(structured, batched and binary modes). Keys are URL-encoded in records (``+`` is a blank there), and plain in
EventBridge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote, unquote_plus, urlsplit

from storage.errors import UnreadableError

_MAX_DEPTH = 3
_MAX_RECORDS = 10_000
_TESTS = frozenset({"s3:TestEvent"})


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing that a notification says happened to one object."""

    bucket: str
    key: str
    action: Literal["put", "remove"]
    sequencer: str | None = None
    version_id: str | None = None


def read_notification(
    body: str | bytes, *, headers: Mapping[str, str] | None = None, source: str = "notification"
) -> list[Notice]:
    """All notices of a message; none for a store's test event.

    ``headers`` (names in small letters) tell of CloudEvents in binary mode. Raises UnreadableError where the
    message is no notification.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(source, "no JSON", expected="a notification of S3") from error
    if headers and "ce-type" in headers:
        attributes = {name.removeprefix("ce-"): value for name, value in headers.items()}
        content = {**attributes, "data": content, "specversion": headers.get("ce-specversion", "1.0")}
    notices = list(_notices(content, source, 0))
    if len(notices) > _MAX_RECORDS:
        raise UnreadableError(source, f"{len(notices)} records", expected=f"at most {_MAX_RECORDS}")
    return notices


def _notices(content: Any, source: str, depth: int) -> Iterator[Notice]:
    if depth > _MAX_DEPTH:
        raise UnreadableError(source, "envelopes within envelopes", expected=f"at most {_MAX_DEPTH}")
    if isinstance(content, list):
        for one in content:
            yield from _notices(one, source, depth + 1)
        return
    if not isinstance(content, dict):
        raise UnreadableError(source, type(content).__name__, expected="an object with Records or detail")
    if content.get("Event") in _TESTS:
        return
    if isinstance(records := content.get("Records"), list):
        for record in records:
            # SNS inside a record is how Lambda is told; a queue may be fed by the like of it.
            if isinstance(record, dict) and isinstance(record.get("Sns"), dict):
                yield from _inner(record["Sns"].get("Message"), source, depth)
            else:
                yield from _record(record, source)
    elif isinstance(content.get("Message"), str) and ("TopicArn" in content or "Type" in content):
        yield from _inner(content["Message"], source, depth)
    elif "specversion" in content:
        yield from _cloud_event(content, source, depth)
    elif isinstance(content.get("detail"), dict):
        yield from _event_bridge(content, source)
    else:
        names = ", ".join(sorted(map(str, content))[:8])
        raise UnreadableError(source, f"an object with {names or 'nothing'}", expected="Records or detail")


def _inner(text: Any, source: str, depth: int) -> Iterator[Notice]:
    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnreadableError(source, "an SNS message that is no JSON") from error
    yield from _notices(content, source, depth + 1)


def _record(record: Any, source: str) -> Iterator[Notice]:
    try:
        name = str(record["eventName"]).removeprefix("s3:")
        bucket, found = record["s3"]["bucket"]["name"], record["s3"]["object"]
        key = unquote_plus(found["key"], errors="strict")
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise UnreadableError(
            source, f"a record without {error}", expected="eventName, s3.bucket.name, s3.object.key"
        ) from error
    action = _action(name)
    if action is None:
        return
    # Others have a sequencer as well, made from a local clock: across their nodes it orders nothing.
    ordered = record.get("eventSource") == "aws:s3"
    yield Notice(
        bucket=str(bucket),
        key=key,
        action=action,
        sequencer=_text(found.get("sequencer")) if ordered else None,
        version_id=_text(found.get("versionId")),
    )


def _event_bridge(content: dict[str, Any], source: str) -> Iterator[Notice]:
    kind = content.get("detail-type")
    if kind not in ("Object Created", "Object Deleted", "Object Restore Completed"):
        return
    detail = content["detail"]
    try:
        bucket, found = detail["bucket"]["name"], detail["object"]
        key = str(found["key"])
    except (KeyError, TypeError) as error:
        raise UnreadableError(
            source, f"a detail without {error}", expected="bucket.name, object.key"
        ) from error
    yield Notice(
        bucket=str(bucket),
        key=key,
        action="remove" if kind == "Object Deleted" else "put",
        sequencer=_text(found.get("sequencer")),
        version_id=_text(found.get("version-id")),
    )


def _cloud_event(content: dict[str, Any], source: str, depth: int) -> Iterator[Notice]:
    """An event that carries an S3 record or EventBridge's detail, or names the object by its subject."""
    data = content.get("data")
    kind = str(content.get("type", ""))
    if isinstance(data, dict) and ("Records" in data or "detail" in data):
        yield from _notices(data, source, depth + 1)
        return
    if isinstance(data, dict) and isinstance(data.get("s3"), dict):
        yield from _record({"eventName": kind.rsplit("s3.", maxsplit=1)[-1], **data}, source)
        return
    action = next((a for part in reversed(kind.split(".")) if (a := _action(part))), None)
    subject, bucket = content.get("subject"), _bucket_of(content, data)
    if action is None or not isinstance(subject, str) or not subject or not bucket:
        raise UnreadableError(
            source,
            f"a CloudEvent of type {kind!r} without bucket and key",
            expected="data with Records, or the key as its subject and the bucket as the end of its source",
        )
    yield Notice(bucket=bucket, key=subject.removeprefix("objects/"), action=action)


def _bucket_of(content: dict[str, Any], data: Any) -> str:
    if isinstance(data, dict) and isinstance(data.get("bucket"), str):
        return str(data["bucket"])
    return unquote(urlsplit(str(content.get("source", ""))).path.rstrip("/").rsplit("/", maxsplit=1)[-1])


def _action(name: str) -> Literal["put", "remove"] | None:
    """What an event's name means; None for events that change no content (tags, access, replication)."""
    lowered = name.lower()
    if lowered.startswith(("objectcreated", "objectrestore:completed", "finalized", "created", "updated")):
        return "put"
    if lowered.startswith(("objectremoved", "lifecycleexpiration", "deleted", "removed")):
        return "remove"
    return None


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None
