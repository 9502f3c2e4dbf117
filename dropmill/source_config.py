"""The parts of ``dropmill.yaml`` that say where events come from, and who may ask the service what.

No secret stands in it: credentials come from the usual chain of AWS, tokens from environment variables that
are named here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import ConfigError
from storage.s3_options import s3_options


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AccessConfig(_Strict):
    """How an object store is reached; what is not given comes from environment, profile or role."""

    endpoint_url: str | None = None
    """Of MinIO and its likes; none is AWS itself."""
    region: str | None = None
    """Of the store; none takes that of the environment or the profile."""
    profile: str | None = None
    """A profile of ``~/.aws``; none takes the usual chain."""

    def options(self) -> dict[str, Any]:
        """The options, as :mod:`storage.s3_options` has them."""
        return s3_options(endpoint_url=self.endpoint_url, region=self.region, profile=self.profile)

    def environment(self) -> dict[str, str]:
        """The same as environment variables, for processes that are told no more than a URL."""
        named = {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_PROFILE": self.profile,
        }
        return {name: value for name, value in named.items() if value is not None}


class SqsConfig(_Strict):
    """A queue that the bucket notifies, directly, through SNS or through EventBridge."""

    queue_url: str
    """The address of the queue."""
    dead_letter_url: str | None = None
    """Where messages go that cannot be worked on; none leaves them to the queue's redrive policy."""
    most_receives: int = Field(default=5, ge=1, le=1_000)
    """A message that came so often without a commit is a dead letter."""
    visibility_s: int = Field(default=120, ge=10, le=43_200)
    """For so long a message is invisible to others; extended while it is worked on."""
    poll_s: int = Field(default=20, ge=0, le=20)
    """How long a request waits for messages."""
    access: AccessConfig = AccessConfig()
    """How the queue is reached; what is not given is as for the bucket."""


class WebhookConfig(_Strict):
    """Notifications by HTTP POST to ``/events``."""

    secret_env: str = "DROPMILL_WEBHOOK_SECRET"  # noqa: S105
    """The environment variable that holds the shared secret."""
    spool: Path = Path("dropmill-spool")
    """The folder where notifications are noted before they are accepted; on a disk of this machine."""


class SourcesConfig(_Strict):
    """Where hints come from beside listing, which always is."""

    sqs: SqsConfig | None = None
    webhook: WebhookConfig | None = None
    poll_s: float | None = Field(default=None, gt=0)
    """A folder is looked through at this interval, where nobody tells of changes (network mounts)."""


class HttpConfig(_Strict):
    """The service's HTTP side: health, metrics, webhook, page."""

    host: str = "127.0.0.1"
    """The address that is listened at; another than loopback wants a token."""
    port: int | None = Field(default=None, ge=0, le=65_535)
    """None: no HTTP. 0: any free port, which the log names."""
    token_env: str = "DROPMILL_TOKEN"  # noqa: S105
    """The environment variable with the token for what changes state; without one, that is refused."""
    max_body_bytes: int = Field(default=1_000_000, ge=1_000, le=100_000_000)
    """Larger requests are refused unread."""
    page: bool = True
    """Whether the page is served; whoever reaches the address may read the lake with it, and ask with SQL."""
    hosts: tuple[str, ...] = ()
    """Further names (a proxy's) that the page answers to on loopback."""
    cache: Path | None = None
    """Folder for the page's pictures and counts; none is ``~/.cache/dropmill``."""
    cache_mb: int = Field(default=500, ge=1)
    """Most that the page's pictures take on the disk."""


def secret_of(variable: str, use: str) -> str:
    """The secret that an environment variable holds. Raises ConfigError where it is unset or empty."""
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise ConfigError(f"{use}: the environment variable {variable} is not set; put the secret in it")
    return secret
