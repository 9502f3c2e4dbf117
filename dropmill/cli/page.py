"""``dropmill page``: look at a lake."""

from __future__ import annotations

from pathlib import Path

import click
import uvicorn

from dropmill.page.app import page_app
from dropmill.page.behind import make_page
from dropmill.page.security import is_loopback
from dropmill.source_config import AccessConfig
from storage.lake import Lake
from storage.object_store import ObjectStore


@click.command("page")
@click.option("--lake", "lake_url", required=True, help="Folder or URL of the lake.")
@click.option("--bucket", help="Only images below this folder or URL are opened.")
@click.option("--endpoint-url", help="Of MinIO and its likes, for s3:// addresses.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65_535), help="0: any that is free."
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    help="A further name that the page answers to on loopback (a proxy's).",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for pictures and counts [~/.cache/dropmill].",
)
@click.option(
    "--cache-mb", default=500, show_default=True, type=click.IntRange(1), help="Most that pictures take."
)
def command(
    lake_url: str,
    *,
    bucket: str | None,
    endpoint_url: str | None,
    host: str,
    port: int,
    hosts: tuple[str, ...],
    cache: Path | None,
    cache_mb: int,
) -> None:
    """Serve the page of a lake, read only, until Ctrl-C.

    Whoever reaches the address may read the lake and ask it with SQL, so by default only this machine does.
    """
    options = AccessConfig(endpoint_url=endpoint_url).options()
    Lake.open(lake_url, options)
    page = make_page(
        lake_url,
        options,
        bucket=None if bucket is None else ObjectStore.at(bucket).url,
        bucket_options=options,
        cache=cache,
        cache_bytes=cache_mb * 1_000_000,
    )
    if not is_loopback(host):
        click.echo(f"dropmill: everybody who reaches {host} may read this lake", err=True)
    app = page_app(page, loopback=is_loopback(host), hosts=hosts)
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", server_header=False, lifespan="off"
    )
    listening = config.bind_socket()
    shown = f"[{host}]" if ":" in host else host
    page.warm()
    click.echo(f"http://{shown}:{listening.getsockname()[1]}/")
    uvicorn.Server(config).run(sockets=[listening])
