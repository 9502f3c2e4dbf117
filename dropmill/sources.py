"""The sources of a service, opened as its configuration says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from dropmill.config import Config
from dropmill.source_config import secret_of
from ingest.sources.gathered import Gathered
from ingest.sources.hints import Source
from ingest.sources.sqs import SqsSource
from ingest.sources.webhook import Webhook
from ingest.watch import DirectoryWatch
from storage.errors import ConfigError
from storage.object_store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a service hears from, and the token that it wants to see."""

    watch: DirectoryWatch | None = None
    queue: SqsSource | None = None
    webhook: Webhook | None = None
    token: str | None = None

    def gathered(self) -> Gathered:
        """All of them as one."""
        return Gathered(self._all())

    def start(self) -> None:
        """Begin to hear."""
        for source in self._all():
            source.start()

    def stop(self) -> None:
        """End."""
        for source in self._all():
            source.stop()

    def lost(self) -> list[str]:
        """Folders of which only a listing can tell what happened in them."""
        return self.watch.lost() if self.watch else []

    def is_moving(self, key: str) -> bool:
        """Whether a file may be half written."""
        return self.watch is not None and self.watch.is_moving(key)

    def trouble(self) -> str:
        """What is wrong with a source while the service goes on; listing stands in for it."""
        return f"queue: {self.queue.failing}" if self.queue and self.queue.failing else ""

    def _all(self) -> list[Source]:
        return [source for source in (self.watch, self.queue, self.webhook) if source is not None]


def open_sources(config: Config, store: ObjectStore) -> Sources:
    """The sources of a configuration, not started yet.

    Raises ConfigError where a secret is missing, or where a source cannot be of this bucket.
    """
    sources = config.sources
    token = os.environ.get(config.http.token_env, "").strip() or None
    bucket, prefix = _bucket_and_prefix(store)
    watch = None
    if store.is_directory:
        watch = DirectoryWatch(store, settle_s=config.ingest.settle_s, poll_s=sources.poll_s)
    elif sources.poll_s is not None:
        raise ConfigError(f"sources.poll_s: {store.url} is no folder; use ingest.reconcile_s")
    queue = None
    if sources.sqs is not None:
        access = {**config.bucket_access.options(), **sources.sqs.access.options()}
        queue = SqsSource(
            sources.sqs.queue_url,
            access,
            bucket=bucket,
            prefix=prefix,
            visibility_s=sources.sqs.visibility_s,
            most_receives=sources.sqs.most_receives,
            dead_letters=sources.sqs.dead_letter_url,
            poll_s=sources.sqs.poll_s,
        )
    webhook = None
    if sources.webhook is not None:
        if store.is_directory and sources.webhook.spool.resolve().is_relative_to(store.root):
            raise ConfigError("sources.webhook.spool: lies inside the bucket; name a folder outside of it")
        secret = secret_of(sources.webhook.secret_env, "sources.webhook")
        webhook = Webhook(sources.webhook.spool, secret=secret, bucket=bucket, prefix=prefix)
    return Sources(watch=watch, queue=queue, webhook=webhook, token=token)


def _bucket_and_prefix(store: ObjectStore) -> tuple[str, str]:
    """The bucket as notifications name it, and what its keys begin with; a folder goes by its own name."""
    if store.is_directory:
        return store.name, ""
    parts = urlsplit(store.url)
    prefix = parts.path.strip("/")
    return parts.netloc, prefix + "/" if prefix else ""
