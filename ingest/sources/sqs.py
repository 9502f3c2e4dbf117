"""S3 notifications from an SQS queue: long polling, acknowledged after the commit, never before."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ingest.sources.envelopes import read_notification
from ingest.sources.hints import Hint, Seen
from storage.errors import UnreadableError
from storage.s3_options import aws_client

log = logging.getLogger(__name__)

_POLL_S = 20
_AT_ONCE = 10  # SQS gives and takes no more in one request
_MOST_WAITING = 20_000
_LONGEST_PAUSE_S = 30.0


_Receipt = tuple[str, str]
"""The message's id, and the key."""


@dataclass
class _Message:
    """A message that was received, and what still has to be committed before it may go."""

    id: str
    receipt: str
    body: str
    invisible_until: float
    receives: int = 1
    hints: list[Hint] = field(default_factory=list)
    left: set[str] = field(default_factory=set)


class SqsSource:
    """Hints from one queue.

    A message is invisible to others while it is worked on: its visibility is extended for as long as it is in
    hand. A message that comes more than ``most_receives`` times without ending in a commit, or that is no
    notification, goes to the queue ``dead_letters``. Without one it is left to the queue's own redrive
    policy; where there is none either, it is logged and deleted, and listing finds what it spoke of.
    """

    name = "sqs"

    def __init__(
        self,
        queue_url: str,
        options: Mapping[str, Any],
        *,
        bucket: str,
        prefix: str = "",
        visibility_s: int = 120,
        most_receives: int = 5,
        dead_letters: str | None = None,
        poll_s: int = _POLL_S,
    ) -> None:
        self._queue = queue_url
        self._client = aws_client("sqs", options)
        self._bucket = bucket
        self._prefix = prefix
        self._visibility_s = visibility_s
        self._most_receives = most_receives
        self._dead_letters = dead_letters
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._messages: dict[str, _Message] = {}
        self._waiting: list[Hint] = []
        self._seen = Seen()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failing: str | None = None
        """Why the queue does not answer at the moment."""

    def start(self) -> None:
        """Begin to poll."""
        for work in (self._poll, self._keep_invisible):
            thread = threading.Thread(target=work, name=f"sqs{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End; what is in hand becomes visible to others when its time is up."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=1)

    def take(self, limit: int) -> list[Hint]:
        """Hints that were received."""
        with self._lock:
            taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return taken

    def acknowledge(self, receipts: Iterable[Hashable]) -> None:
        """Delete messages of which every hint has been committed."""
        done: list[_Message] = []
        with self._lock:
            for identity, key in cast("Iterable[_Receipt]", receipts):
                message = self._messages.get(identity)
                if message is None:
                    continue
                message.left.discard(key)
                if not message.left:
                    done.append(self._messages.pop(identity))
        for message in done:
            for hint in message.hints:
                self._seen.note(hint)
        self._delete(done)

    def give_back(self, receipts: Iterable[Hashable], reason: str) -> None:
        """Let messages come again soon, to us or to others."""
        returned: list[_Message] = []
        with self._lock:
            for identity, _ in cast("Iterable[_Receipt]", receipts):
                message = self._messages.pop(identity, None)
                if message is not None:
                    returned.append(message)
            gone = {message.id for message in returned}
            self._waiting = [hint for hint in self._waiting if cast("_Receipt", hint.receipt)[0] not in gone]
        for message in returned:
            log.info("message given back", extra={"message_id": message.id, "why": reason})
            self._show_again(message)

    def pending(self) -> int:
        """Hints that were received and not taken."""
        with self._lock:
            return len(self._waiting)

    def in_hand(self) -> int:
        """Messages that were received and are not yet deleted."""
        with self._lock:
            return len(self._messages)

    def _poll(self) -> None:
        failures = 0
        while not self._stop.is_set():
            with self._lock:
                full = len(self._waiting) >= _MOST_WAITING
            if full:
                # Bounded memory: the queue keeps the rest, which is what queues are for.
                self._stop.wait(0.2)
                continue
            try:
                answer = self._client.receive_message(
                    QueueUrl=self._queue,
                    MaxNumberOfMessages=_AT_ONCE,
                    WaitTimeSeconds=self._poll_s,
                    VisibilityTimeout=self._visibility_s,
                    AttributeNames=["ApproximateReceiveCount"],
                )
                failures, self.failing = 0, None
            except Exception as error:  # noqa: BLE001 - a queue that fails in any way is asked again
                failures += 1
                self.failing = f"{type(error).__name__}: {error}"
                pause = min(0.5 * 2.0**failures, _LONGEST_PAUSE_S)
                log.warning("queue does not answer", extra={"why": self.failing, "pause_s": pause})
                self._stop.wait(pause)
                continue
            for raw in answer.get("Messages", ()):
                self._receive(raw)

    def _receive(self, raw: Mapping[str, Any]) -> None:
        message = _Message(
            id=raw["MessageId"],
            receipt=raw["ReceiptHandle"],
            body=raw["Body"],
            invisible_until=time.monotonic() + self._visibility_s,
            receives=int(raw.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
        )
        if message.receives > self._most_receives:
            self._bury([message], f"received {message.receives} times without a commit")
            return
        try:
            notices = read_notification(message.body, source=f"message {message.id}")
        except UnreadableError as error:
            log.warning("no notification", extra={"message_id": message.id, "why": error.message})
            self._bury([message], error.message)
            return
        for notice in notices:
            if notice.bucket != self._bucket or not notice.key.startswith(self._prefix):
                continue
            key = notice.key.removeprefix(self._prefix)
            hint = Hint(key=key, receipt=(message.id, key), sequencer=notice.sequencer)
            if not self._seen.is_old(hint) and key not in message.left:
                message.left.add(key)
                message.hints.append(hint)
        if not message.hints:
            self._delete([message])
            return
        with self._lock:
            known = self._messages.get(message.id)
            if known is not None:
                # It came again while it is worked on: only the newest receipt can delete it.
                known.receipt, known.invisible_until = message.receipt, message.invisible_until
                return
            self._messages[message.id] = message
            self._waiting += message.hints

    def _keep_invisible(self) -> None:
        while not self._stop.wait(min(self._visibility_s / 4, 5.0)):
            soon = time.monotonic() + self._visibility_s / 2
            with self._lock:
                due = [message for message in self._messages.values() if message.invisible_until < soon]
            for part in _tens(due):
                entries = [
                    {"Id": str(i), "ReceiptHandle": m.receipt, "VisibilityTimeout": self._visibility_s}
                    for i, m in enumerate(part)
                ]
                try:
                    self._client.change_message_visibility_batch(QueueUrl=self._queue, Entries=entries)
                except Exception as error:  # noqa: BLE001 - at worst it comes twice
                    log.warning("visibility cannot be extended", extra={"why": str(error)})
                    continue
                for message in part:
                    message.invisible_until = time.monotonic() + self._visibility_s

    def _delete(self, messages: list[_Message]) -> None:
        for part in _tens(messages):
            entries = [{"Id": str(i), "ReceiptHandle": m.receipt} for i, m in enumerate(part)]
            try:
                self._client.delete_message_batch(QueueUrl=self._queue, Entries=entries)
            except Exception as error:  # noqa: BLE001 - it comes again, and is found to be done
                log.warning("messages cannot be deleted", extra={"why": str(error), "count": len(part)})

    def _show_again(self, message: _Message) -> None:
        """Let a message come again sooner than its time, and later each time."""
        pause = min(2 ** min(message.receives - 1, 16), self._visibility_s)
        try:
            self._client.change_message_visibility(
                QueueUrl=self._queue, ReceiptHandle=message.receipt, VisibilityTimeout=pause
            )
        except Exception as error:  # noqa: BLE001 - then it comes when its time is up
            log.warning("visibility cannot be changed", extra={"why": str(error)})

    def _bury(self, messages: list[_Message], reason: str) -> None:
        for message in messages:
            try:
                if self._dead_letters is not None:
                    self._client.send_message(
                        QueueUrl=self._dead_letters,
                        MessageBody=message.body,
                        MessageAttributes={"Reason": {"DataType": "String", "StringValue": reason[:1000]}},
                    )
                elif self._redriven():
                    # The queue counts receives as well, and moves it with its body as it was.
                    continue
            except Exception as error:  # noqa: BLE001 - it stays where it is, and is tried again
                log.warning("dead letter cannot be sent", extra={"why": str(error)})
                continue
            log.error("dead letter", extra={"message_id": message.id, "why": reason})
            self._delete([message])

    def _redriven(self) -> bool:
        answer = self._client.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["RedrivePolicy"])
        return "RedrivePolicy" in answer.get("Attributes", {})


def _tens(messages: list[_Message]) -> Iterable[list[_Message]]:
    return (messages[i : i + _AT_ONCE] for i in range(0, len(messages), _AT_ONCE))
