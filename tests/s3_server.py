"""A real S3 and SQS over HTTP on this machine, and a proxy before it that fails as networks and stores do."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from storage.s3_options import aws_client

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """A process that answers as S3 and SQS; its address."""
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        port = next(int(line) for line in process.stdout if line.strip().isdigit())
        yield f"http://127.0.0.1:{port}"
        process.stdin.close()
        process.terminate()


def options(url: str) -> dict[str, Any]:
    """The options of a store at the server; what fails is tried once more only, so that tests end."""
    return {
        "key": "any", "secret": "any", "endpoint_url": url, "client_kwargs": {"region_name": "us-east-1"},
        "config_kwargs": {"retries": {"max_attempts": 2}},
    }  # fmt: skip


def client(service: str, url: str) -> Any:
    """A client of the server."""
    return aws_client(service, options(url))


Fault = Callable[[str, str], str | None]
"""Method and path of a request to what is done with it: nothing, or 503, reset, truncated, expired, skew."""


class Proxy:
    """Passes requests on, but for those that ``fault`` has other plans for."""

    def __init__(self, upstream: str) -> None:
        self.fault: Fault = lambda _method, _path: None
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        proxy = self
        host, port = upstream.removeprefix("http://").split(":")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _pass(self) -> None:
                body = self._body()
                with proxy._lock:
                    proxy.requests.append((self.command, self.path))
                plan = proxy.fault(self.command, self.path)
                if plan in _REFUSALS:
                    status, code = _REFUSALS[plan]
                    self._answer(status, [], _error(code), head=self.command == "HEAD")
                    return
                if plan == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    self.close_connection = True
                    self.connection.close()
                    return
                if plan == "slow":
                    time.sleep(0.5)
                upstream = HTTPConnection(host, int(port), timeout=60)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
                upstream.request(self.command, self.path, body=body, headers=headers)
                answer = upstream.getresponse()
                data = answer.read()
                upstream.close()
                kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                if plan == "truncated" and self.command == "GET":
                    self._answer(answer.status, kept, data[: len(data) // 2], claim=len(data))
                    self.close_connection = True
                    self.connection.close()
                    return
                self._answer(answer.status, kept, data, head=self.command == "HEAD", length=length)

            def _body(self) -> bytes | None:
                if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
                    parts = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                size = int(self.headers.get("Content-Length") or 0)
                return self.rfile.read(size) if size else None

            def _answer(
                self,
                status: int,
                headers: list[tuple[str, str]],
                data: bytes,
                *,
                head: bool = False,
                claim: int | None = None,
                length: str | None = None,
            ) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", length or str(claim or len(data)))
                self.end_headers()
                if not head:
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that were killed hang up in the midst of answers."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def at_random(self, seed: int, share: float, kinds: tuple[str, ...]) -> None:
        """Let a share of all requests fail, the same ones for the same seed and order."""
        draw = random.Random(seed)

        def fault(_method: str, _path: str) -> str | None:
            with self._lock:
                return draw.choice(kinds) if draw.random() < share else None

        self.fault = fault

    def well(self) -> None:
        """Let everything through."""
        self.fault = lambda _method, _path: None

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()


_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "expect"}
_REFUSALS = {
    "503": (503, "SlowDown"),
    "500": (500, "InternalError"),
    "expired": (400, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "skew": (403, "RequestTimeTooSkewed"),
}


def _error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
