"""The page as an app of its own, and as a part of the service's."""

from __future__ import annotations

import mimetypes
import os
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from dropmill import __version__
from dropmill.commands import Commands
from dropmill.page.console import BusyError, Console
from dropmill.page.open_lake import OpenLake
from dropmill.page.routes_data import data_routes
from dropmill.page.routes_work import work_routes
from dropmill.page.security import PageGuard
from dropmill.page.summary import Summary
from dropmill.page.thumbnails import NoPictureError, Thumbnails
from dropmill.page.work import Work
from quality.gate import Thresholds
from quality.limits import Limits
from storage.errors import ConfigError, DropmillError, QueryError

ASSETS = Path(__file__).parent / "assets"
_ABOUT = "What the page of a Dropmill lake shows. Reading needs no token; what changes something does."


@dataclass(kw_only=True)
class Page:
    """Everything behind the page of one lake."""

    lake: OpenLake
    summary: Summary
    thumbnails: Thumbnails
    work: Work
    console: Console
    health: Callable[[], Mapping[str, Any]] | None = None
    commands: Commands | None = None
    token: str | None = field(default=None, repr=False)

    def warm(self) -> None:
        """Begin to count and to look, so that the first who comes need not wait as long."""

        def begin() -> None:
            # Where there is no lake yet, whoever asks will be told.
            with suppress(DropmillError):
                self.summary.now()
                self.work.quarantine(None, 1, None)
                self.work.batches(None, 1)
                for table in ("images", "annotations", "findings"):
                    self.lake.places(table)

        threading.Thread(target=begin, name="warm", daemon=True).start()


def make_page(
    lake_url: str,
    options: Mapping[str, Any] | None = None,
    *,
    bucket: str | None = None,
    bucket_options: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    cache_bytes: int = 500_000_000,
    thresholds: Thresholds | None = None,
    limits: Limits | None = None,
    health: Callable[[], Mapping[str, Any]] | None = None,
    commands: Commands | None = None,
    token: str | None = None,
) -> Page:
    """The page of the lake at ``lake_url``, which need not be there yet.

    Pictures and counts are kept in the folder ``cache``. ``commands`` is where a service hears what people
    with the ``token`` ask for.
    """
    lake = OpenLake(lake_url, options)
    folder = cache or default_cache()
    return Page(
        lake=lake,
        summary=Summary(lake, folder, thresholds, limits),
        thumbnails=Thumbnails(folder, most_bytes=cache_bytes, bucket=bucket, options=bucket_options),
        work=Work(lake),
        console=Console(lake),
        health=health,
        commands=commands,
        token=token,
    )


def default_cache() -> Path:
    """The folder for what can be made again at any time."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "dropmill"


def page_app(page: Page, *, loopback: bool = True, hosts: Collection[str] = ()) -> FastAPI:
    """The page without a service. On ``loopback`` it answers to this machine's names and to ``hosts``."""
    app = FastAPI(
        title="Dropmill",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    add_page(app, page)
    app.add_middleware(PageGuard, loopback=loopback, hosts=hosts)
    return app


def add_page(app: FastAPI, page: Page) -> None:
    """Put the page, its interface and its assets into an app."""
    router = APIRouter(prefix="/api/v1")
    router.include_router(data_routes(page))
    router.include_router(work_routes(page))
    app.include_router(router)
    mimetypes.add_type("text/javascript", ".js")
    app.mount("/assets", StaticFiles(directory=ASSETS), name="assets")
    index = (ASSETS / "index.html").read_bytes()

    @app.get("/", include_in_schema=False)
    @app.get("/index.html", include_in_schema=False)
    def home() -> Response:
        return Response(index, media_type="text/html; charset=utf-8", headers={"Cache-Control": "no-cache"})

    @app.exception_handler(DropmillError)
    def refuse(_request: Request, error: DropmillError) -> JSONResponse:
        return refused(error)

    @app.exception_handler(HTTPException)
    def not_so(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def refused(error: DropmillError) -> JSONResponse:
    """An error as an answer."""
    if isinstance(error, NoPictureError):
        return JSONResponse({"error": error.message}, 404)
    if isinstance(error, BusyError):
        return JSONResponse({"error": error.message}, 503, {"Retry-After": "5"})
    if isinstance(error, QueryError | ConfigError):
        return JSONResponse({"error": error.message}, 400)
    return JSONResponse({"error": error.message}, 503, {"Retry-After": "5"})
