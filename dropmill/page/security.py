"""What a browser is told not to do, and whom the page answers at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Scripts, styles and pictures come from here, and no text of the lake ever becomes markup.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
PAGE_PATHS = ("/", "/index.html")
PAGE_PREFIXES = ("/api/", "/assets/")


class PageGuard:
    """Around an app: headers on the page's answers, and a look at whom a request was meant for.

    A name that a hostile site lets point to 127.0.0.1 would make that site the page's own origin for a
    browser (DNS rebinding). So on loopback only loopback's names are answered, and those in ``hosts``.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._loopback = loopback
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path in PAGE_PATHS or path.startswith(PAGE_PREFIXES)):
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        host = Headers(scope=scope).get("host", "")
        if self._loopback and not self._answers(host):
            refusal = JSONResponse(
                {"error": f"this page answers to localhost, not to {host[:200]!r}; see `http.hosts`"}, 421
            )
            await refusal(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _answers(self, host: str) -> bool:
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        return is_loopback(name) or name in self._hosts


def is_loopback(host: str) -> bool:
    """Whether only this machine can mean that address."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
