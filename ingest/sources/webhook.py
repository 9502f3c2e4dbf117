"""Notifications by HTTP POST: proven, noted on a disk, and only then accepted."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

from ingest.sources.envelopes import read_notification
from ingest.sources.hints import Hint
from ingest.sources.spool import Spool
from storage.errors import ConfigError, DropmillError

log = logging.getLogger(__name__)

SIGNATURE_HEADER = "x-dropmill-signature"


class NotProvenError(DropmillError):
    """A request that does not show the secret."""


class Webhook:
    """The source that is told: :meth:`accept` by the HTTP side, the rest by the service.

    A request proves itself by ``Authorization: Bearer SECRET`` (MinIO's ``auth_token``), or by
    ``X-Dropmill-Signature: sha256=HEX``, the HMAC-SHA256 of its body with the secret.
    """

    name = "webhook"

    def __init__(self, folder: Path, *, secret: str, bucket: str, prefix: str = "") -> None:
        if not secret:
            raise ConfigError("webhook: the secret is empty")
        self._secret = secret.encode()
        self._bucket = bucket
        self._prefix = prefix
        self._spool = Spool(folder)

    def accept(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Note a notification down and return how many objects of this bucket it names.

        ``headers`` have names in small letters. Raises NotProvenError, UnreadableError where it is no
        notification, and StoreError where it cannot be noted: its sender has to try again.
        """
        self._prove(body, headers)
        kept = {name: value for name, value in headers.items() if name.startswith("ce-")}
        notices = read_notification(body, headers=kept, source="webhook")
        keys = sorted({n.key for n in notices if n.bucket == self._bucket and n.key.startswith(self._prefix)})
        if keys:
            self._spool.put("\0".join(keys).encode())
        return len(keys)

    def start(self) -> None:
        """Nothing to do: the HTTP side runs on its own."""

    def stop(self) -> None:
        """Nothing to do."""

    def take(self, limit: int) -> list[Hint]:
        """Hints of the oldest notes."""
        hints = []
        for name, note in self._spool.take(max(limit // 4, 1)):
            keys = note.decode(errors="replace").split("\0")
            hints += [Hint(key=key.removeprefix(self._prefix), receipt=name) for key in keys]
        return hints

    def acknowledge(self, receipts: Iterable[Hashable]) -> None:
        """Remove notes."""
        self._spool.remove(str(receipt) for receipt in receipts)

    def give_back(self, receipts: Iterable[Hashable], reason: str) -> None:  # noqa: ARG002
        """Let notes come again."""
        self._spool.give_back(str(receipt) for receipt in receipts)

    def pending(self) -> int:
        """Notes that wait."""
        return len(self._spool)

    def _prove(self, body: bytes, headers: Mapping[str, str]) -> None:
        signature = headers.get(SIGNATURE_HEADER)
        if signature is not None:
            expected = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            if hmac.compare_digest(signature.removeprefix("sha256=").lower().encode(), expected.encode()):
                return
            raise NotProvenError("webhook: the signature is not that of this body")
        shown = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(shown.encode(), self._secret):
            raise NotProvenError("webhook: the secret is missing or wrong")
