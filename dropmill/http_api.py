"""The service's HTTP side: health, metrics, the webhook, and what people with the token may ask for."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import threading
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from dropmill.commands import Command, Commands
from dropmill.metrics import Health, Metrics
from dropmill.page.app import add_page
from dropmill.page.behind import Page
from dropmill.page.security import PageGuard, is_loopback
from ingest.sources.webhook import NotProvenError, Webhook
from storage.errors import ConfigError, StoreError, UnreadableError

log = logging.getLogger(__name__)

_BODY_S = 10.0
_HEARD_OUT_BYTES = 16_000_000
_MOST_KEYS = 10_000


def make_app(
    health: Health,
    metrics: Metrics,
    commands: Commands,
    *,
    webhook: Webhook | None = None,
    token: str | None = None,
    max_body_bytes: int = 1_000_000,
    page: Page | None = None,
    host: str = "127.0.0.1",
    hosts: Collection[str] = (),
) -> FastAPI:
    """The routes. What changes state wants ``Authorization: Bearer TOKEN``, the webhook its own secret.

    The ``page``, at a loopback ``host``, answers only to that and to ``hosts``.
    """
    app = FastAPI(
        title="dropmill", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json" if page else None
    )

    @app.middleware("http")
    async def limit_size(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > max_body_bytes:
            await _hear_out(request)
            return _refusal(413, f"at most {max_body_bytes} bytes")
        return await call_next(request)

    if page is not None:
        add_page(app, page)
        app.add_middleware(PageGuard, loopback=is_loopback(host), hosts=hosts)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        return JSONResponse(health.as_json())

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        found = health.as_json()
        return JSONResponse(found, 200 if found["state"] == "serving" else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/events", include_in_schema=False)
    async def events(request: Request) -> JSONResponse:
        if webhook is None:
            return _refusal(404, "no webhook is configured (sources.webhook)")
        if health.state in ("standby", "stopping"):
            return _refusal(503, f"this service is {health.state}", retry=True)
        body = await _body(request, max_body_bytes)
        if body is None:
            return _refusal(413, f"at most {max_body_bytes} bytes, within {_BODY_S:.0f} s")
        try:
            noted = await run_in_threadpool(webhook.accept, body, dict(request.headers))
        except NotProvenError as error:
            return _refusal(401, error.message)
        except UnreadableError as error:
            return _refusal(400, error.message)
        except StoreError as error:
            log.warning("event not noted", extra={"why": error.message})
            return _refusal(503, "cannot be noted now", retry=True)
        return JSONResponse({"noted": noted}, 202)

    async def ask(request: Request, action: str) -> JSONResponse:
        if token is None:
            return _refusal(403, "no token is configured, so nothing can be changed over HTTP")
        shown = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(shown.encode(), token.encode()):
            return _refusal(401, "the token is missing or wrong")
        body = await _body(request, max_body_bytes)
        command = _command(action, body)
        if command is None:
            return _refusal(400, 'expected a JSON object such as {"keys": ["a/b.txt"]} or {"prefix": "a/"}')
        if not commands.ask(command):
            return _refusal(503, "too many commands wait", retry=True)
        return JSONResponse({"accepted": action, "keys": len(command.keys) or "all"}, 202)

    @app.post("/reconcile", include_in_schema=False)
    async def reconcile(request: Request) -> JSONResponse:
        return await ask(request, "list")

    @app.post("/quarantine/retry", include_in_schema=False)
    async def retry(request: Request) -> JSONResponse:
        return await ask(request, "retry")

    @app.post("/quarantine/drop", include_in_schema=False)
    async def drop(request: Request) -> JSONResponse:
        return await ask(request, "drop")

    return app


class HttpSide:
    """The app, served by a thread."""

    def __init__(self, app: FastAPI, *, host: str, port: int) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, host=host, port=port, log_config=None, access_log=False, limit_concurrency=128,
                timeout_keep_alive=5, timeout_graceful_shutdown=3, lifespan="off", server_header=False,
            )
        )  # fmt: skip
        self._host, self._port = host, port
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._ended: BaseException | None = None

    def start(self) -> int:
        """Begin to serve; returns the port. Raises ConfigError where the address cannot be had."""
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.02)
            if not self._thread.is_alive():
                why = f": {self._ended}" if self._ended else ""
                raise ConfigError(f"http: cannot listen at {self._host} port {self._port}{why}")
        port: int = self._server.servers[0].sockets[0].getsockname()[1]
        log.info("http", extra={"address": f"http://{self._host}:{port}"})
        return port

    def stop(self) -> None:
        """End."""
        self._server.should_exit = True
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            self._server.run()
        except (OSError, SystemExit) as error:
            self._ended = error


def check_binding(host: str, token: str | None) -> None:
    """Raise ConfigError where everybody could reach the service and nobody would have to show a token."""
    if not is_loopback(host) and token is None:
        raise ConfigError(
            f"http: {host} is open to others; set the token's environment variable, or bind 127.0.0.1"
        )


async def _hear_out(request: Request) -> None:
    """Let go by what is still sent: who sends it would see a broken connection instead of the answer."""
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > _HEARD_OUT_BYTES:
                    return


async def _body(request: Request, most: int) -> bytes | None:
    """The body, or None where it is too large or too slow."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    await _hear_out(request)
                    return None
                parts.append(part)
    except TimeoutError:
        return None
    return b"".join(parts)


def _command(action: str, body: bytes | None) -> Command | None:
    import msgspec

    try:
        content: Any = msgspec.json.decode(body) if body else {}
    except msgspec.DecodeError:
        return None
    if body is None or not isinstance(content, dict):
        return None
    keys, prefix = content.get("keys", []), content.get("prefix", "")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(keys) > _MOST_KEYS:
        return None
    # Everything is asked for in as many words, never by a slip that leaves the keys out.
    if action != "list" and not keys and content.get("all") is not True:
        return None
    if not isinstance(prefix, str):
        return None
    return Command(action=action, keys=tuple(keys), prefix=prefix)  # type: ignore[arg-type]


def _refusal(status: int, why: str, *, retry: bool = False) -> JSONResponse:
    return JSONResponse({"error": why}, status, {"Retry-After": "5"} if retry else None)
