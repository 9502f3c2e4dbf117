"""Events from S3 and SQS over HTTP become tables: doubled, shuffled, swapped, from a store that fails."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ingest.batch import Committer, Counts
from ingest.derive import Settings
from ingest.events import DatasetRule
from ingest.micro_batch import micro_batch
from ingest.parse import Limits, Parsed, parse_objects
from ingest.reconcile import reconcile
from ingest.sources.gathered import Gathered
from ingest.sources.sqs import SqsSource
from storage.errors import CommitConflictError, StoreError
from storage.lake import Lake
from storage.object_store import ObjectStore
from tests.ingest.mill import KITTI_CAR, Mill, picture
from tests.s3_server import Proxy, client, options, s3_server

pytest.importorskip("moto.server", reason="moto is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def proxy(server: str) -> Iterator[Proxy]:
    made = Proxy(server)
    yield made
    made.close()


@dataclass
class Drops:
    """A bucket on S3 that notifies a queue, and a lake that hears of it."""

    number: int
    server: str
    folder: Path
    proxy: Proxy | None = None
    sources: list[SqsSource] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.s3, self.sqs = client("s3", self.server), client("sqs", self.server)
        self.bucket = f"drops{self.number}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.queue = self.sqs.create_queue(QueueName=f"q{self.number}")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]
        self.s3.put_bucket_notification_configuration(
            Bucket=self.bucket,
            NotificationConfiguration={
                "QueueConfigurations": [
                    {"QueueArn": arn["QueueArn"], "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
                ]
            },
        )
        url = self.proxy.url if self.proxy else self.server
        self.store = ObjectStore.at(f"s3://{self.bucket}", options(url))
        self.rule = DatasetRule(bucket=self.bucket)
        source = SqsSource(self.queue, options(self.server), bucket=self.bucket, visibility_s=10, poll_s=0)
        source.start()
        self.sources.append(source)
        self.gathered = Gathered([source])
        self.committer = self.new_committer()

    def new_committer(self) -> Committer:
        return Committer(Lake.create(self.folder / "lake"), self.parse, rule=self.rule)

    def parse(self, events: Any) -> Parsed:
        return parse_objects(self.store, events, self.rule, Limits())

    def put(self, key: str, data: bytes | str) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data)

    def remove(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.bucket, Key=key)

    def pair(self, name: str, right: int = 50) -> None:
        self.put(f"d/image_2/{name}.png", picture(100, 50))
        self.put(f"d/label_2/{name}.txt", KITTI_CAR.format(1, 1, right, 9))

    def messages(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def turn(self) -> Counts | None:
        done = micro_batch(self.gathered, self.committer, self.store, self.rule)
        return done.counts if done else None

    def turn_or_trouble(self) -> bool:
        """Whether the turn failed, of something that passes by itself."""
        try:
            self.turn()
        except StoreError:
            return True
        return False

    def until(self, so: Callable[[], object]) -> None:
        began = time.monotonic()
        while not so():
            assert time.monotonic() - began < 300
            self.turn()
            time.sleep(0.02)

    def drain(self) -> None:
        """Work until every message has been committed and deleted."""
        self.until(lambda: self.messages() == 0 and not len(self.gathered))

    def rows(self, query: str) -> list[dict[str, Any]]:
        return Lake.open(self.folder / "lake").sql(query).to_pylist()

    def tables(self) -> dict[str, list[str]]:
        return Mill(self.folder, self.folder / "lake", Settings()).tables()

    def from_nothing(self) -> dict[str, list[str]]:
        """The tables that the bucket's content alone gives."""
        lake = self.folder / "from-nothing"
        store = ObjectStore.at(f"s3://{self.bucket}", options(self.server))

        def parse(events: Any) -> Parsed:
            return parse_objects(store, events, self.rule, Limits())

        reconcile(store, Committer(Lake.create(lake), parse, rule=self.rule), self.rule)
        return Mill(self.folder, lake, Settings()).tables()


_made = 0


@pytest.fixture
def new_drops(server: str, tmp_path: Path) -> Iterator[Callable[..., Drops]]:
    made: list[Drops] = []

    def make(**given: Any) -> Drops:
        global _made  # noqa: PLW0603
        _made += 1
        folder = tmp_path / str(_made)
        folder.mkdir()
        made.append(Drops(_made, server, folder, **given))
        return made[-1]

    yield make
    for drops in made:
        for source in drops.sources:
            source.stop()


@pytest.fixture
def drops(new_drops: Callable[..., Drops]) -> Drops:
    return new_drops()


def test_uploads_removals_and_returns_become_rows_by_their_events(drops: Drops) -> None:
    drops.pair("a")
    drops.put("d/label_2/b+c/ü %2F.txt", KITTI_CAR.format(1, 1, 200, 9))
    drops.put("d/image_2/b+c/ü %2F.png", picture(100, 50))
    drops.drain()
    assert drops.rows("SELECT count(*) AS n FROM annotations") == [{"n": 2}]
    assert drops.rows("SELECT DISTINCT source FROM findings WHERE severity <> 'info'") == [
        {"source": "d/label_2/b+c/ü %2F.txt"}
    ]
    before = Lake.open(drops.folder / "lake").snapshot()

    drops.put("d/label_2/a.txt", KITTI_CAR.format(2, 2, 30, 9) * 3)
    drops.remove("d/label_2/b+c/ü %2F.txt")
    drops.drain()
    assert drops.rows("SELECT xmin, count(*) AS n FROM annotations GROUP BY xmin") == [{"xmin": 2, "n": 3}]
    assert drops.rows("SELECT rule FROM findings WHERE source = 'd/label_2/b+c/ü %2F.txt'") == []
    old = Lake.open(drops.folder / "lake").sql("SELECT count(*) AS n FROM annotations", versions=before)
    assert old.to_pylist() == [{"n": 2}]

    drops.put("d/label_2/b+c/ü %2F.txt", KITTI_CAR.format(1, 1, 200, 9))
    drops.drain()
    assert drops.rows("SELECT count(*) AS n FROM annotations") == [{"n": 4}]
    assert drops.tables() == drops.from_nothing()


def test_events_thrice_shuffled_and_swapped_give_the_tables_of_one_run_in_order(drops: Drops) -> None:
    for number in range(6):
        drops.pair(str(number))
    for number in range(3):
        drops.put(f"d/label_2/{number}.txt", KITTI_CAR.format(3, 3, 40, 9))
    drops.remove("d/image_2/4.png")
    drops.remove("d/label_2/5.txt")
    drops.put("d/label_2/5.txt", KITTI_CAR.format(4, 4, 40, 9))
    bodies = []
    while answer := drops.sqs.receive_message(QueueUrl=drops.queue, MaxNumberOfMessages=10).get("Messages"):
        for message in answer:
            bodies.append(message["Body"])
            drops.sqs.delete_message(QueueUrl=drops.queue, ReceiptHandle=message["ReceiptHandle"])
        drops.sources[0].take(1_000)
    bodies = [body for body in bodies if "Records" in body] or [json.dumps({"Records": []})]
    keys = [f"d/{kind}_2/{n}.{end}" for n in range(6) for kind, end in (("image", "png"), ("label", "txt"))]
    for key in keys:
        for name in ("ObjectRemoved:Delete", "ObjectCreated:Put"):
            s3 = {"bucket": {"name": drops.bucket}, "object": {"key": key}}
            bodies.append(json.dumps({"Records": [{"eventSource": "aws:s3", "eventName": name, "s3": s3}]}))
    bodies *= 3
    random.Random(3).shuffle(bodies)
    for body in bodies:
        drops.sqs.send_message(QueueUrl=drops.queue, MessageBody=body)
    drops.drain()
    assert drops.tables() == drops.from_nothing()
    assert len(drops.tables()["annotations"]) == 5
    twice = drops.rows(
        "SELECT key FROM objects WHERE state = 'done' GROUP BY key, version HAVING count(*) > 1"
    )
    assert twice == []


def test_nothing_is_acknowledged_before_the_commit(drops: Drops, monkeypatch: pytest.MonkeyPatch) -> None:
    drops.pair("a")
    while drops.sources[0].in_hand() < 2:
        time.sleep(0.02)

    def fails(*_: object, **__: object) -> None:
        raise OSError("the lake's store is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.lake.write_deltalake", fails)
        for _ in range(3):
            with pytest.raises(OSError, match="away"):
                drops.turn()
        assert drops.messages() >= 2
    drops.committer = drops.new_committer()
    drops.drain()
    assert drops.rows("SELECT count(*) AS n FROM annotations") == [{"n": 1}]


@pytest.mark.parametrize("kinds", [("503", "500"), ("reset",), ("expired", "skew", "denied")])
def test_a_store_that_fails_is_waited_for_and_nothing_is_quarantined(
    new_drops: Callable[..., Drops], proxy: Proxy, kinds: tuple[str, ...]
) -> None:
    drops = new_drops(proxy=proxy)
    for number in range(3):
        drops.pair(str(number))
    proxy.at_random(seed=5, share=1.0, kinds=kinds)
    try:
        began = time.monotonic()
        failures = 0
        while time.monotonic() - began < 3:
            failures += drops.turn_or_trouble()
        assert failures or len(drops.gathered)
        assert drops.messages() >= 6
        assert drops.rows("SELECT * FROM objects") == []
        proxy.at_random(seed=6, share=0.2, kinds=(*kinds, "truncated"))
        began = time.monotonic()
        while drops.messages() or len(drops.gathered):
            assert time.monotonic() - began < 300
            drops.turn_or_trouble()
    finally:
        proxy.well()
    assert drops.tables() == drops.from_nothing()


def test_an_object_that_never_comes_whole_is_quarantined_and_its_neighbours_are_not(
    new_drops: Callable[..., Drops], proxy: Proxy
) -> None:
    drops = new_drops(proxy=proxy)
    drops.pair("a")
    drops.pair("bad")
    proxy.fault = lambda method, path: "truncated" if method == "GET" and "image_2/bad" in path else None
    try:
        drops.drain()
    finally:
        proxy.well()
    (row,) = drops.rows("SELECT key, error FROM quarantine")
    assert row["key"] == "d/image_2/bad.png"
    assert "after 3 tries" in row["error"]
    assert drops.rows("SELECT sample FROM images") == [{"sample": "image_2/a"}]


def test_two_services_on_one_lake_lose_nothing_and_double_nothing(drops: Drops) -> None:
    # Both are eager, without a lease: what keeps the tables right is the transactions.
    for number in range(10):
        drops.pair(str(number))
    ended: list[BaseException | None] = []

    def serve() -> None:
        try:
            while True:
                committer = drops.new_committer()
                try:
                    done = reconcile(drops.store, committer, drops.rule, batch_objects=3)
                except (StoreError, CommitConflictError):
                    continue
                if done.batches == 0:
                    break
        except BaseException as error:  # noqa: BLE001
            ended.append(error)
        else:
            ended.append(None)

    threads = [threading.Thread(target=serve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert ended == [None, None]
    assert drops.tables() == drops.from_nothing()
    assert drops.rows("SELECT count(*) AS n FROM batches WHERE state <> 'done'") == [{"n": 0}]
    assert drops.rows("SELECT lane, number FROM batches GROUP BY ALL HAVING count(*) > 1") == []


def test_odd_names_hide_no_others_and_are_refused_by_name(
    drops: Drops, caplog: pytest.LogCaptureFixture
) -> None:
    drops.pair("a")
    for key in (
        "d/../up.txt",
        "d/bell\x07.png",
        "d//empty.txt",
        "d/back\\slash.txt",
        "d/" + "x" * 1_000 + ".txt",
    ):
        drops.put(key, "Car")
    done = reconcile(drops.store, drops.committer, drops.rule)
    assert (done.listed, done.refused) == (7, 4)
    assert {record.getMessage() for record in caplog.records} >= {"name refused"}
    drops.drain()
    assert {row["key"][:6] for row in drops.rows("SELECT key FROM objects")} == {"d/imag", "d/labe", "d/xxxx"}


def test_only_the_head_of_an_image_travels(new_drops: Callable[..., Drops], proxy: Proxy) -> None:
    drops = new_drops(proxy=proxy)
    noise = random.Random(1).randbytes(2_000_000)
    drops.put("d/a.png", picture(100, 50)[:-12] + b"".join([len(noise).to_bytes(4, "big"), b"noIs", noise]))
    proxy.requests.clear()
    info = drops.store.head("d/a.png")
    assert info is not None
    with drops.store.open("d/a.png", info) as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert [method for method, _ in proxy.requests] == ["HEAD", "GET"]


def test_a_batch_makes_few_requests_to_the_lake_however_long_its_log_is(
    server: str, proxy: Proxy, mill: Mill
) -> None:
    client("s3", server).create_bucket(Bucket="lake-of-few-requests")
    lake = Lake.create("s3://lake-of-few-requests", options(proxy.url))
    committer = Committer(lake, mill.parse, rule=mill.rule)  # type: ignore[arg-type]
    made = []
    for number in range(5):
        mill.image(f"d/image_2/{number}.png")
        mill.write(f"d/label_2/{number}.txt", KITTI_CAR.format(1, 1, 5, 5))
        events = committer.ledger.news(mill.store.list(), mill.rule)
        proxy.requests.clear()
        committer.run(committer.plan(events))
        made.append(len(proxy.requests))
    # The first opens the tables.
    assert max(made[1:]) <= made[1] <= 75, made
    assert lake.sql("SELECT count(*) AS n FROM annotations").to_pylist() == [{"n": 5}]
