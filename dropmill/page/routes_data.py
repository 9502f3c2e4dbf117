"""Routes to what a lake holds: data sets, samples, pictures, SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Response

from dropmill.page.answers import REFUSALS, Datasets, Found, Now, Refusal, Sample, Samples, Tables
from dropmill.page.answers import Query as Asked
from dropmill.page.gallery import NO_SPLIT, Filters, image_row, key_of, page_of, sample_of
from dropmill.page.thumbnails import SIZES

if TYPE_CHECKING:
    from dropmill.page.behind import Page

_NOT_THERE: dict[int | str, dict[str, Any]] = {404: {"model": Refusal, "description": "There is none"}}
_Text = Annotated[str, Query(min_length=1, max_length=1_100)]
_Wanted = Annotated[str | None, Query(max_length=1_100)]
_GALLERY_GRID = 160
_SAMPLE_GRID = 1_024


def data_routes(page: Page) -> APIRouter:
    """The routes."""
    router = APIRouter(responses=REFUSALS)

    @router.get("/now", tags=["service"])
    def now() -> Now:
        """What may have changed: asked again and again by the page."""
        return Now(
            lake=page.lake.url,
            versions=page.lake.versions(),
            service=dict(page.health()) if page.health else None,
            may_change=page.commands is not None and page.token is not None,
        )

    @router.get("/datasets", tags=["data sets"])
    def datasets(wait_s: Annotated[float, Query(ge=0, le=60)] = 0.0) -> Datasets:
        """Every data set with its counts, gate, classes and drift, as counted last.

        ``wait_s``: wait for so long until the newest commits are counted.
        """
        return page.summary.now(wait_s)

    @router.get("/samples", tags=["samples"])
    def samples(
        dataset: _Wanted = None,
        category: _Wanted = None,
        rule: _Wanted = None,
        split: _Wanted = None,
        no_split: bool = False,
        sql: Annotated[str | None, Query(max_length=20_000)] = None,
        after: Annotated[str | None, Query(max_length=4_000)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 48,
        shapes: bool = True,
    ) -> Samples:
        """A page of samples with their boxes, shapes and findings.

        All filters have to hold. ``no_split``: images that are in none. ``sql``: a query that gives
        the columns dataset and sample, or dataset and stem. ``after``: the ``next`` of the page before.
        """
        filters = Filters(
            dataset=dataset,
            category=category,
            rule=rule,
            split=NO_SPLIT if no_split else split,
            chosen=page.console.chosen(sql) if sql else None,
        )
        return page_of(
            page.lake,
            filters,
            after=key_of(after) if after else None,
            limit=limit,
            grid=_GALLERY_GRID if shapes else None,
        )

    @router.get("/sample", tags=["samples"], responses=_NOT_THERE)
    def sample(dataset: _Text, sample: _Text) -> Sample:
        """One sample with finer shapes."""
        found = sample_of(page.lake, dataset, sample, grid=_SAMPLE_GRID)
        if found is None:
            raise HTTPException(404, "there is no such sample")
        return found

    @router.get(
        "/picture",
        tags=["samples"],
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}, "description": "A JPEG"}, **_NOT_THERE},
    )
    def picture(
        dataset: _Text,
        sample: _Text,
        size: Annotated[int, Query(ge=1, le=max(SIZES))] = SIZES[0],
        version: _Wanted = None,
    ) -> Response:
        """An image as a JPEG, turned as EXIF says; the longest side is the next of 256, 512 and 1600 pixels.

        With ``version`` a browser may keep it for ever.
        """
        row = image_row(page.lake, dataset, sample)
        if row is None:
            raise HTTPException(404, "there is no such sample")
        found = row.row(0, named=True)
        made = page.thumbnails.picture(
            found["uri"],
            found["version"],
            found["size_bytes"] or 0,
            next(side for side in SIZES if side >= size),
        )
        kept = "private, max-age=31536000, immutable" if version == found["version"] else "no-cache"
        return Response(made, media_type="image/jpeg", headers={"Cache-Control": kept})

    @router.get("/tables", tags=["SQL"])
    def tables() -> Tables:
        """Tables and views with their columns."""
        return page.console.tables()

    @router.post("/sql", tags=["SQL"])
    def sql(asked: Asked) -> Found:
        """One SELECT over the tables and views, read only, within 30 seconds and 1 GB."""
        return page.console.ask(asked.query, asked.max_rows)

    @router.post(
        "/sql.csv",
        tags=["SQL"],
        response_class=Response,
        responses={200: {"content": {"text/csv": {}}, "description": "CSV with a header"}},
    )
    def csv(asked: Asked) -> Response:
        """The whole answer as CSV, up to a million rows; ``max_rows`` is not looked at."""
        return Response(
            page.console.csv(asked.query),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="answer.csv"'},
        )

    return router
