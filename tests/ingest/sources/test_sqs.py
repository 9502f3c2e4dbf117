"""A queue over HTTP: what is acknowledged, what comes again, and what is a dead letter."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ingest.sources.sqs import SqsSource
from tests.ingest.sources.test_envelopes import record
from tests.s3_server import client, options, s3_server

pytest.importorskip("moto.server", reason="moto is not installed")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with s3_server() as address:
        yield address


class Queue:
    """A queue of the server, its dead letters, and a source on it."""

    made = 0

    def __init__(self, url: str) -> None:
        Queue.made += 1
        self.url = url
        self.client = client("sqs", url)
        self.address = self._queue("q")
        self.dead = self._queue("dead")
        self.sources: list[SqsSource] = []

    def _queue(self, name: str) -> str:
        made = self.client.create_queue(QueueName=f"{name}{Queue.made}")
        address: str = made["QueueUrl"]
        return address

    def source(self, **given: Any) -> SqsSource:
        given = {"visibility_s": 2, "poll_s": 0, "dead_letters": self.dead, **given}
        source = SqsSource(self.address, options(self.url), bucket="drops", **given)
        source.start()
        self.sources.append(source)
        return source

    def send(self, content: object) -> None:
        self.client.send_message(QueueUrl=self.address, MessageBody=json.dumps(content))

    def count(self, address: str | None = None) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=address or self.address, AttributeNames=names)
        return sum(int(found["Attributes"][name]) for name in names)


@pytest.fixture
def queue(url: str) -> Iterator[Queue]:
    made = Queue(url)
    yield made
    for source in made.sources:
        source.stop()


def wait_for(so: Callable[[], object]) -> Any:
    began = time.monotonic()
    while not (found := so()):
        assert time.monotonic() - began < 120
        time.sleep(0.02)
    return found


def test_a_message_goes_when_the_last_of_its_keys_is_committed(queue: Queue) -> None:
    queue.send({"Event": "s3:TestEvent"})
    queue.send({"Records": [record("a.png"), record("b.png"), record("x", bucketless=1)]})
    source = queue.source()
    wait_for(lambda: source.pending() >= 3)
    hints = source.take(10)
    assert sorted(hint.key for hint in hints) == ["a.png", "b.png", "x"]
    source.acknowledge(hint.receipt for hint in hints[:2])
    wait_for(lambda: queue.count() == 1)
    source.acknowledge([hints[2].receipt])
    wait_for(lambda: queue.count() == 0)


def test_a_message_in_hand_stays_invisible_for_longer_than_its_time(queue: Queue) -> None:
    queue.send({"Records": [record("a.png")]})
    source = queue.source(visibility_s=1)
    wait_for(source.pending)
    hints = source.take(10)
    began = time.monotonic()
    while time.monotonic() - began < 2.5:
        answer = queue.client.receive_message(QueueUrl=queue.address, VisibilityTimeout=0)
        assert not answer.get("Messages")
    source.acknowledge(hint.receipt for hint in hints)
    wait_for(lambda: queue.count() == 0)


def test_copies_and_older_events_are_deleted_without_a_look(queue: Queue) -> None:
    source = queue.source()
    queue.send({"Records": [record("a.png", sequencer="0055")]})
    wait_for(source.pending)
    source.acknowledge([hint.receipt for hint in source.take(10)])
    for sequencer in ("0055", "0054FFFF"):
        queue.send({"Records": [record("a.png", "ObjectRemoved:Delete", sequencer=sequencer)]})
    wait_for(lambda: queue.count() == 0)
    assert source.take(10) == []
    queue.send({"Records": [record("a.png", sequencer="0056")]})
    assert wait_for(source.pending)


def test_messages_that_are_given_back_come_again_and_then_are_dead_letters(queue: Queue) -> None:
    body = {"Records": [record("poison.png")]}
    queue.send(body)
    source = queue.source(most_receives=2)
    for _ in range(2):
        wait_for(source.pending)
        source.give_back([hint.receipt for hint in source.take(10)], "not now")
    wait_for(lambda: queue.count(queue.dead) == 1)
    (letter,) = queue.client.receive_message(QueueUrl=queue.dead, MessageAttributeNames=["All"])["Messages"]
    assert json.loads(letter["Body"]) == body
    assert "3 times" in letter["MessageAttributes"]["Reason"]["StringValue"]
    wait_for(lambda: queue.count() == 0)


def test_what_is_no_notification_is_a_dead_letter_at_once(queue: Queue) -> None:
    queue.send("what?")
    queue.source()
    wait_for(lambda: queue.count(queue.dead) == 1)
    wait_for(lambda: queue.count() == 0)


def test_a_queue_that_does_not_answer_is_asked_again(queue: Queue) -> None:
    source = queue.source()
    address, source._queue = source._queue, source._queue + "-absent"
    wait_for(lambda: source.failing)
    source._queue = address
    queue.send({"Records": [record("a.png")]})
    wait_for(source.pending)
    assert source.failing is None
