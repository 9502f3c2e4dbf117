"""One set of options for S3 and its likes, as each of the clients wants them.

Options have the names of s3fs: ``endpoint_url``, ``profile``, ``key``, ``secret``, ``token``, ``anon``, and
``region_name`` and ``verify`` within ``client_kwargs``, ``retries: {max_attempts}`` within ``config_kwargs``.
What is not given comes from the usual chain: environment, profile, container or instance role. Credentials
are asked for where they are used, and are in no table, log or message.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from storage.errors import ConfigError

_ATTEMPTS = 5
_FRESH_S = 300.0
_FOUND: dict[str | None, tuple[float, Any]] = {}
_LOCK = threading.Lock()


def s3_options(
    *, endpoint_url: str | None = None, region: str | None = None, profile: str | None = None
) -> dict[str, Any]:
    """The options of a store at an endpoint; nothing of what is not given."""
    named = {
        "endpoint_url": endpoint_url,
        "profile": profile,
        "client_kwargs": {"region_name": region} if region else None,
    }
    return {name: value for name, value in named.items() if value is not None}


def delta_options(options: Mapping[str, Any]) -> dict[str, str]:
    """The options as delta-rs calls them."""
    client = dict(options.get("client_kwargs") or {})
    endpoint = _endpoint(options)
    found = None if options.get("anon") else _credentials(options)
    named = {
        "aws_access_key_id": found and found.access_key,
        "aws_secret_access_key": found and found.secret_key,
        "aws_session_token": found and found.token,
        "aws_endpoint_url": endpoint,
        "aws_region": _region(options),
        "aws_allow_http": "true" if str(endpoint or "").startswith("http://") else None,
        "aws_skip_signature": "true" if options.get("anon") else None,
        "max_retries": str(_attempts(options)),
        "retry_timeout": "60s",
        "connect_timeout": "5s",
        "allow_invalid_certificates": "true" if client.get("verify") is False else None,
    }
    return {name: str(value) for name, value in named.items() if value is not None}


def obstore_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as :class:`obstore.store.S3Store` calls them.

    A request is tried again for about half a minute; who asks decides what then.
    """
    endpoint = _endpoint(options)
    verify = dict(options.get("client_kwargs") or {}).get("verify")
    named: dict[str, Any] = {
        "endpoint": endpoint,
        "region": _region(options),
        "client_options": {
            "allow_http": str(endpoint or "").startswith("http://"),
            "allow_invalid_certificates": verify is False,
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=60),
        },
        "retry_config": {
            "max_retries": _attempts(options) - 1,
            "retry_timeout": timedelta(seconds=30),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
    }
    if options.get("anon"):
        named["skip_signature"] = True
    elif _credentials(options) is not None:
        named["credential_provider"] = _Provider(options)
    return {name: value for name, value in named.items() if value is not None}


def aws_client(service: str, options: Mapping[str, Any]) -> Any:
    """A client of botocore for ``s3`` or ``sqs``; may be used by several threads."""
    try:
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.session import Session
    except ImportError as error:
        raise ConfigError(f"{service}: botocore is missing; install dropmill[s3]") from error
    client = dict(options.get("client_kwargs") or {})
    config = Config(
        retries={"mode": "standard", "max_attempts": _attempts(options)},
        connect_timeout=5,
        read_timeout=60,
        signature_version=UNSIGNED if options.get("anon") else None,
    )
    return Session(profile=options.get("profile")).create_client(
        service,
        endpoint_url=options.get("endpoint_url") or client.get("endpoint_url"),
        region_name=_region(options),
        verify=client.get("verify"),
        aws_access_key_id=options.get("key"),
        aws_secret_access_key=options.get("secret"),
        aws_session_token=options.get("token"),
        config=config,
    )


def _attempts(options: Mapping[str, Any]) -> int:
    config = dict(options.get("config_kwargs") or {})
    return int(dict(config.get("retries") or {}).get("max_attempts", _ATTEMPTS))


def _endpoint(options: Mapping[str, Any]) -> str | None:
    given = options.get("endpoint_url") or dict(options.get("client_kwargs") or {}).get("endpoint_url")
    return given or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region(options: Mapping[str, Any]) -> str:
    given = dict(options.get("client_kwargs") or {}).get("region_name")
    named = given or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return str(named or _profile_region(options.get("profile")) or "us-east-1")


def _profile_region(profile: str | None) -> str | None:
    try:
        from botocore.session import Session
    except ImportError:
        return None
    region: str | None = Session(profile=profile).get_config_variable("region")
    return region


class _Provider:
    """Gives obstore credentials when it asks, every few minutes, so that rotated ones are found."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)

    def __call__(self) -> dict[str, Any]:
        found = _credentials(self._options)
        if found is None:
            raise ConfigError("no AWS credentials are found any more (environment, profile, role)")
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=_FRESH_S),
        }


def _credentials(options: Mapping[str, Any]) -> Any:
    """Credentials as given, else those that botocore's chain finds; None where there are none."""
    try:
        from botocore.credentials import ReadOnlyCredentials
        from botocore.session import Session
    except ImportError:
        return None
    if options.get("key"):
        return ReadOnlyCredentials(options["key"], options.get("secret"), options.get("token"))
    profile = options.get("profile")
    with _LOCK:
        asked, found = _FOUND.get(profile, (float("-inf"), None))
        if time.monotonic() - asked > _FRESH_S:
            # A new session each time: it reads files and environment again, which may have been changed.
            found = Session(profile=profile).get_credentials()
            _FOUND[profile] = (time.monotonic(), found)
    return None if found is None else found.get_frozen_credentials()
