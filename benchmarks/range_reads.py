"""The first bytes of many objects on an S3 endpoint: s3fs beside obstore, as a batch reads image headers.

The endpoint is a process of its own that answers every request at once, so that what is measured is the
client: requests a second, and the CPU time that it takes from the decoders.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from benchmarks.child import beside, in_child, tell
from benchmarks.record import record

_SIZE = 400_000
_HEAD = 16_384
_READS = 3_000
_THREADS = 8
_MODULE = "benchmarks.range_reads"


def main() -> None:
    """Measure and print."""
    with endpoint() as url:
        rows = [
            {"reader": name, **in_child(_MODULE, name, url)} for name in ("s3fs", "s3fs in turn", "obstore")
        ]
    for row in rows:
        row["reads_per_s"] = round(_READS / row["seconds"])
    record(
        "range_reads",
        beside(rows, "s3fs"),
        packages=["s3fs", "obstore"],
        notes={"reads": _READS, "bytes": _HEAD, "threads": _THREADS},
    )


@contextmanager
def endpoint() -> Iterator[str]:
    """A process that answers ranged reads; its address."""
    command = [sys.executable, "-m", _MODULE, "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()
        process.terminate()


def _read_all(read: Callable[[str], bytes], *, threads: int = _THREADS) -> dict[str, Any]:
    with ThreadPoolExecutor(threads) as pool:
        got = sum(len(data) for data in pool.map(read, (f"drops/{i:06}.png" for i in range(_READS))))
    assert got == _READS * _HEAD, got
    return {}


def _s3fs(url: str, *, threads: int) -> dict[str, Any]:
    import s3fs

    # The usual client checks every answer against its checksum; there is none here to check.
    filesystem = s3fs.S3FileSystem(key="any", secret="any", endpoint_url=url, use_listings_cache=False)

    def read(path: str) -> bytes:
        with filesystem.open(path, "rb", cache_type="none", size=_SIZE) as file:
            data: bytes = file.read(_HEAD)
            return data

    return _read_all(read, threads=threads)


def _obstore(url: str) -> dict[str, Any]:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        "drops",
        access_key_id="any",
        secret_access_key="any",
        region="us-east-1",
        endpoint=url,
        client_options={"allow_http": True},
    )

    def read(path: str) -> bytes:
        return bytes(obstore.get_range(store, path.removeprefix("drops/"), start=0, end=_HEAD))

    return _read_all(read)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = os.urandom(_SIZE)
    try:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            start, end = 0, _SIZE - 1
            for line in request.decode("latin-1").split("\r\n")[1:]:
                name, _, value = line.partition(":")
                if name.lower() == "range":
                    start, end = (int(part) for part in value.strip().removeprefix("bytes=").split("-"))
            part = body[start : end + 1]
            head = (
                "HTTP/1.1 206 Partial Content\r\n"
                f"Content-Length: {len(part)}\r\nContent-Range: bytes {start}-{end}/{_SIZE}\r\n"
                'ETag: "e"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n\r\n'
            )
            writer.write(head.encode() + (b"" if request.startswith(b"HEAD") else part))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(_serve())
    elif len(sys.argv) == 3:
        name, address = sys.argv[1:]
        if name == "obstore":
            tell(lambda: _obstore(address))
        else:
            tell(lambda: _s3fs(address, threads=1 if name == "s3fs in turn" else _THREADS))
    else:
        main()
