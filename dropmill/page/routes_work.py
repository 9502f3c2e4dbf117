"""Routes to what is done: batches, quarantine, runs, models; and to ask the service for something."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from dropmill.commands import Command
from dropmill.page.answers import REFUSALS, Refusal
from dropmill.page.answers_work import (
    Accepted,
    Batches,
    Card,
    Curves,
    Lineage,
    Models,
    Quarantine,
    Runs,
    WhichKeys,
)
from dropmill.page.model_card import card_of

if TYPE_CHECKING:
    from dropmill.page.behind import Page

_bearer = HTTPBearer(auto_error=False, description="The service's token")
_Name = Annotated[str | None, Query(min_length=1, max_length=1_000)]
_Shown = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
_CHANGES: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "The token is missing or wrong"},
    403: {"model": Refusal, "description": "Nothing can be changed here"},
}


def work_routes(page: Page) -> APIRouter:
    """The routes."""
    router = APIRouter(responses=REFUSALS)

    @router.get("/batches", tags=["work"])
    def batches(
        before: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Batches:
        """Batches, newest first; ``before`` is the ``next`` of the page before."""
        return page.work.batches(before, limit)

    @router.get("/quarantine", tags=["work"])
    def quarantine(
        after: Annotated[str | None, Query(max_length=2_000)] = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
        dataset: Annotated[str | None, Query(max_length=1_100)] = None,
        wait_s: Annotated[float, Query(ge=0, le=60)] = 0.15,
    ) -> Quarantine:
        """Objects that cannot be read, with the reason.

        ``wait_s``: wait for so long until the newest commits are looked at.
        """
        return page.work.quarantine(after, limit, dataset, wait_s=wait_s)

    @router.get("/runs", tags=["work"])
    def runs(run: _Name = None) -> Runs:
        """The newest runs, newest first. ``run``: that one, however old."""
        return page.work.runs(run)

    @router.get(
        "/curves", tags=["work"], responses={404: {"model": Refusal, "description": "There is no such run"}}
    )
    def curves(run: Annotated[str, Query(min_length=1, max_length=1_000)]) -> Curves:
        """What the training of a run measured, epoch by epoch."""
        found = page.work.curves(run)
        if found is None:
            raise HTTPException(404, "there is no such run")
        return found

    @router.get("/models", tags=["work"])
    def models(model: _Name = None, run: _Name = None) -> Models:
        """The newest models, newest first, with the versions of the tables that they were made from.

        ``model``: that one, ``run``: those that it made, however old.
        """
        return page.work.models(model, run)

    @router.get(
        "/lineage",
        tags=["work"],
        responses={404: {"model": Refusal, "description": "There is no such model"}},
    )
    def lineage(model: Annotated[str, Query(min_length=1, max_length=1_000)]) -> Lineage:
        """The runs that a model rests on, and how many objects of the bucket it was made from."""
        found = page.work.lineage(model)
        if found is None:
            raise HTTPException(404, "there is no such model")
        return found

    @router.get(
        "/card", tags=["work"], responses={404: {"model": Refusal, "description": "There is no such card"}}
    )
    def card(model: Annotated[str, Query(min_length=1, max_length=1_000)]) -> Card:
        """The card of a model as Markdown: data, classes, measures, limits."""
        found = card_of(page.lake, model)
        if found is None:
            raise HTTPException(404, "there is no such model, or it has no card")
        return found

    def ask(
        action: Literal["retry", "drop"], which: WhichKeys, shown: HTTPAuthorizationCredentials | None
    ) -> Accepted:
        if page.commands is None or page.token is None:
            raise HTTPException(403, "nothing can be changed here: no service runs, or it has no token")
        if shown is None or not hmac.compare_digest(shown.credentials.encode(), page.token.encode()):
            raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        # Everything is asked for in as many words, never by a slip that leaves the keys out.
        if bool(which.keys) == which.all:
            raise HTTPException(400, 'expected {"keys": [...]} or {"all": true}')
        if not page.commands.ask(Command(action=action, keys=tuple(which.keys))):
            raise HTTPException(503, "too many commands wait", {"Retry-After": "5"})
        return Accepted(accepted=action, keys=len(which.keys) or None)

    @router.post("/quarantine/retry", tags=["work"], status_code=202, responses=_CHANGES)
    def retry(which: WhichKeys, shown: _Shown) -> Accepted:
        """Read objects once more."""
        return ask("retry", which, shown)

    @router.post("/quarantine/drop", tags=["work"], status_code=202, responses=_CHANGES)
    def drop(which: WhichKeys, shown: _Shown) -> Accepted:
        """Take objects out of quarantine without reading them; nothing is deleted from the bucket."""
        return ask("drop", which, shown)

    return router
