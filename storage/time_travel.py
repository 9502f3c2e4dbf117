"""Moments and versions in queries: ``annotations AT (VERSION => 3)``, ``AT (TIMESTAMP => '2026-01-31')``.

DuckDB parses this clause for catalogues that have versions. Here it is taken out of the text: what stands
before it becomes the same name in a schema that holds that version.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from storage.errors import QueryError
from storage.schemas import TABLES
from storage.views import VIEWS, tables_of

Version = int | datetime | None
"""A version by number or by moment; None is the newest."""

# Quoted texts, quoted names and comments come first, so that nothing inside of them is taken for a clause.
_CLAUSE = re.compile(
    r"""'(?:[^']|'')*' | \$(\w*)\$.*?\$\1\$ | --[^\n]* | /\*.*?\*/
      | (?P<name>"?\b(?P<bare>\w+)\b"?) \s+ AT \s*
        \( \s* (?P<kind>VERSION|TIMESTAMP) \s*=>\s* (?P<value>-?\d+|'[^']*') \s* \)
      | "(?:[^"]|"")*" """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def at_clauses(query: str) -> tuple[str, dict[str, tuple[str, Version]]]:
    """Take the clauses out of a query.

    Returns the query over schemas, and schema to (table or view, version). Raises QueryError where a name is
    unknown, or a view rests on several tables and is asked for at the version of one.
    """
    pins: dict[str, tuple[str, Version]] = {}

    def pinned(match: re.Match[str]) -> str:
        if match["name"] is None:
            return match[0]
        name = match["bare"].lower()
        if name not in TABLES and name not in VIEWS:
            raise QueryError(f"no table {match['bare']!r} to take at a version", query=query)
        version = _version(name, match["kind"].upper(), match["value"], query)
        schema = f"{name} at {version}"
        pins[schema] = (name, version)
        return f'"{schema}".{name}'

    return _CLAUSE.sub(pinned, query), pins


def moment_of(at: datetime | str | None) -> datetime | None:
    """A moment from ISO 8601, in UTC where no zone is given. Raises QueryError."""
    if at is None:
        return None
    try:
        moment = at if isinstance(at, datetime) else datetime.fromisoformat(at)
    except ValueError as error:
        raise QueryError(f"{at!r} is no moment in ISO 8601, such as 2026-01-31T12:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _version(name: str, kind: str, value: str, query: str) -> Version:
    if kind == "TIMESTAMP":
        return moment_of(value.strip("'"))
    if not value.isdigit():
        raise QueryError(f"AT (VERSION => {value}): expected a whole number", query=query)
    if len(tables_of(name)) > 1:
        raise QueryError(
            f"{name} rests on {', '.join(tables_of(name))}: take it AT (TIMESTAMP => ...), not at a version",
            query=query,
        )
    return int(value)
