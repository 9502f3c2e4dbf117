"""What people do to a lake by hand, as the committer of a lane: nobody else may be it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray

from dropmill.config import Config
from ingest.batch import Committer
from ingest.events import Event
from ingest.lease import lease_of
from ingest.parse import Parsed
from ingest.tasks import RayParser, start_ray
from storage.errors import LakeError
from storage.lake import Lake


class LaneHeldError(LakeError):
    """A service has the lane."""


@contextmanager
def committer_of(config: Config, *, reads: bool = True) -> Iterator[Committer]:
    """The committer of a configuration's lane, with what was left unfinished finished; with Ray, where it
    ``reads`` objects.

    Raises LaneHeldError where a service has the lane.
    """
    lake = Lake.open(config.lake, config.lake_access.options())
    lease = lease_of(lake.store, config.lane)
    if not lease.take():
        raise LaneHeldError(
            f"{lake.url}: lane {config.lane} is held by {lease.holder() or 'a service'}; ask it over HTTP "
            "(http.port in its configuration), or stop it first"
        )
    try:
        rule = config.rule()
        if reads or _has_unfinished(lake, config.lane):
            start_ray(config.ray.address, num_cpus=config.ray.num_cpus)
            parser = RayParser(config.bucket_store(), rule, config.limits())
            committer = Committer(lake, parser, rule=rule, settings=config.settings(), lane=config.lane)
            for batch in committer.unfinished():
                committer.run(batch)
        else:
            committer = Committer(
                lake, _reads_nothing, rule=rule, settings=config.settings(), lane=config.lane
            )
        yield committer
    finally:
        ray.shutdown()
        lease.release()


def _has_unfinished(lake: Lake, lane: str) -> bool:
    table = lake.table("batches")
    planned = table.transaction_version(f"{lane}/plan") or 0
    return planned != (table.transaction_version(lane) or 0)


def _reads_nothing(events: Sequence[Event]) -> Parsed:
    assert not events
    return Parsed()
