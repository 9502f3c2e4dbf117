"""The page as an app of its own, and as a part of the service's."""

from __future__ import annotations

import mimetypes
from collections.abc import Collection
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from dropmill import __version__
from dropmill.page.behind import Page
from dropmill.page.console import BusyError
from dropmill.page.routes_data import data_routes
from dropmill.page.routes_work import work_routes
from dropmill.page.security import PageGuard
from dropmill.page.thumbnails import NoPictureError
from storage.errors import ConfigError, DropmillError, QueryError

ASSETS = Path(__file__).parent / "assets"
_ABOUT = "What the page of a Dropmill lake shows. Reading needs no token; what changes something does."


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
