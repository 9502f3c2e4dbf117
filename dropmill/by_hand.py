"""What people do to a lake by hand, as the committer of a lane: nobody else may be it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray

from dropmill.config import Config
from ingest.batch import Committer
from ingest.events import Event
from ingest.lease import lease_of, take_from_the_dead
from ingest.parse import Parsed
from ingest.tasks import RayParser, start_ray
from storage.errors import LakeError
from storage.lake import Lake


class LaneHeldError(LakeError):
    """A service has the lane."""


@contextmanager
def lane_of(config: Config, *, create: bool = False) -> Iterator[Lake]:
    """The lake of a configuration, with its lane in our hands; made where there is none and ``create``.

    Raises LaneHeldError where somebody has the lane. On S3 it takes up to half a minute to see whether a
    holder lives.
    """
    reach = Lake.create if create else Lake.open
    lake = reach(config.lake, config.lake_access.options())
    lease = lease_of(lake.store, config.lane)
    if not take_from_the_dead(lease):
        raise LaneHeldError(
            f"{lake.url}: lane {config.lane} is held by {lease.holder() or 'a service'}; ask it over HTTP "
            "(http.port in its configuration), or stop it first",
            url=lake.url,
        )
    try:
        yield lake
    finally:
        lease.release()


@contextmanager
def committer_of(config: Config, *, reads: bool = True) -> Iterator[Committer]:
    """The committer of a configuration's lane, with what was left unfinished finished; with Ray, where it
    ``reads`` objects.

    Raises LaneHeldError where a service has the lane.
    """
    with lane_of(config) as lake:
        rule, settings = config.rule(), config.settings()
        try:
            if reads or _has_unfinished(lake, config.lane):
                start_ray(config.ray.address, num_cpus=config.ray.num_cpus)
                parser = RayParser(config.bucket_store(), rule, config.limits())
                committer = Committer(lake, parser, rule=rule, settings=settings, lane=config.lane)
                for batch in committer.unfinished():
                    committer.run(batch)
            else:
                committer = Committer(lake, _reads_nothing, rule=rule, settings=settings, lane=config.lane)
            yield committer
        finally:
            ray.shutdown()


def _has_unfinished(lake: Lake, lane: str) -> bool:
    table = lake.table("batches")
    planned = table.transaction_version(f"{lane}/plan") or 0
    return planned != (table.transaction_version(lane) or 0)


def _reads_nothing(events: Sequence[Event]) -> Parsed:
    assert not events
    return Parsed()
