"""Ray: parsing spread over tasks, with a bound on what is under way at once."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import parameter
from ray.exceptions import RayError, RayTaskError

from ingest.events import DatasetRule, Event
from ingest.parse import Limits, Outcome, Parsed, merge, parse_objects
from storage.errors import ConfigError, JobError
from storage.object_store import ObjectStore

log = logging.getLogger(__name__)

_OBJECTS_A_TASK = 64
_BYTES_A_TASK = 256_000_000
_TRIES_ALONE = 2
_WARM_S = 1.0
_NOBODYS_PORT = 1
_LONGEST_TMPDIR = 30  # characters: the names of sockets below it must not exceed 107


def start_ray(address: str | None = None, *, num_cpus: int | None = None, jobs: bool = False) -> str | None:
    """Connect to the Ray cluster at ``address``, or start one in this process tree.

    With ``jobs`` the local cluster gets the dashboard's server, which takes jobs. Returns its address; None
    where there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would set CUDA_VISIBLE_DEVICES to nothing for tasks that ask for no GPU, and says so at length.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Threads of a training that wait for each other by spinning take the time that all else here needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "ignore_reinit_error": True,
    }
    try:
        if address and address != "local":
            context = ray.init(address=address, **options)
        else:
            with _apart_from_other_clusters() as folder:
                context = ray.init(
                    address="local",
                    num_cpus=num_cpus or os.cpu_count() or 1,
                    include_dashboard=jobs,
                    dashboard_host="127.0.0.1",
                    # Ray Train asks the dashboard's server whether its controller lives, also where there is
                    # none: a stranger's server would say that it knows no such actor, and end the training.
                    dashboard_port=None if jobs else _NOBODYS_PORT,
                    # Without a cluster nothing outside this machine has any business with Ray's ports.
                    _node_ip_address="127.0.0.1",
                    _temp_dir=folder,
                    **options,
                )
                # `ray start` says it there. Without, a job joins whichever cluster it finds on the machine.
                Path(folder, "ray_current_cluster").write_text(ray.get_runtime_context().gcs_address)
    except ValueError as error:
        raise ConfigError(f"ray: {address or 'local'} is no address of a cluster: {error}") from error
    except Exception as error:
        # Ray raises plain ones as well, where a node has not started in time. It is no bad input: a step that
        # meets a cluster in trouble is to be tried again.
        where = f"reach the cluster at {address}" if address else "start a cluster on this machine"
        raise JobError(f"ray: cannot {where}: {error}") from error
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


@contextmanager
def _apart_from_other_clusters() -> Iterator[str]:
    """Let a cluster that is started here take jobs whatever other clusters are on the machine; its folder.

    Jobs are taken by a node's agent, on port 52365: beside another cluster's agent it goes without, and no
    job ever starts. ``ray start`` has an option for the port, ``ray.init`` has none (ray issue 14763), so
    what it starts a node with is given another default. And jobs look for the address of their cluster in a
    folder that all clusters of a machine share; so each has a folder of its own.
    """
    given, before = parameter.RayParams, os.environ.get("RAY_TMPDIR")
    base = before or tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="ray-", dir=base if len(base) <= _LONGEST_TMPDIR else "/tmp")  # noqa: S108
    # Ahead of Ray's own, so that it is called after that.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    parameter.RayParams = functools.partial(given, dashboard_agent_listen_port=0)  # type: ignore[misc, assignment]
    os.environ["RAY_TMPDIR"] = folder  # for the cluster's processes
    try:
        yield str(Path(folder) / "ray")
    finally:
        parameter.RayParams = given  # type: ignore[misc]
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before


class RayParser:
    """Parses put events in Ray tasks; at most ``in_flight`` tasks are under way at once.

    A task whose process dies (a decoder that crashes, memory that runs out) is tried again object by object,
    and the object that kills its task even alone is quarantined.
    """

    def __init__(
        self,
        store: ObjectStore,
        rule: DatasetRule,
        limits: Limits | None = None,
        *,
        in_flight: int | None = None,
        cpus: float = 1.0,
        memory_bytes: int | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._rule = rule
        self._store = store
        # Ray starts no more than fit: what a task asks for bounds what is in memory at once.
        asked: dict[str, Any] = {"num_cpus": cpus, "memory": memory_bytes, "max_retries": 0}
        self._task = ray.remote(**{k: v for k, v in asked.items() if v is not None})(parse_objects)
        self._in_flight = in_flight or 2 * _cluster_cpus()

    def warm(self) -> None:
        """Let every CPU's worker start and load what parsing needs, so that no drop has to wait for that."""
        task = ray.remote(num_cpus=1, max_retries=0)(_stay)
        self._warming = [task.remote(_WARM_S) for _ in range(_cluster_cpus())]

    def __call__(self, events: Sequence[Event]) -> Parsed:
        """Parse all events; the order of the result is the order of the events."""
        chunks = _chunks(events)
        results: dict[int, Parsed] = {}
        running: dict[Any, int] = {}
        waiting = list(enumerate(chunks))[::-1]
        while waiting or running:
            while waiting and len(running) < self._in_flight:
                index, chunk = waiting.pop()
                running[self._submit(chunk)] = index
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                index = running.pop(reference)
                results[index] = self._result(reference, chunks[index])
        return merge([results[index] for index in range(len(chunks))])

    def _submit(self, chunk: Sequence[Event]) -> Any:
        return self._task.remote(self._store, list(chunk), self._rule, self._limits)

    def _result(self, reference: Any, chunk: Sequence[Event]) -> Parsed:
        try:
            parsed: Parsed = ray.get(reference)
            return parsed
        except RayError as error:
            log.warning("objects=%d task=died why=%r each is tried alone", len(chunk), type(error).__name__)
            return merge([self._alone(event) for event in chunk])

    def _alone(self, event: Event) -> Parsed:
        reason = ""
        for _ in range(_TRIES_ALONE):
            try:
                parsed: Parsed = ray.get(self._submit([event]))
                return parsed
            except RayError as error:
                reason = f"{event.key}: {_why(error)}"
        return Parsed(outcomes=(Outcome(event=event, state="quarantined", error=reason),))


def _stay(seconds: float) -> None:
    """Hold a worker, so that the next task of its kind starts another; this module has loaded the rest."""
    time.sleep(seconds)


def _why(error: RayError) -> str:
    if isinstance(error, RayTaskError):
        return f"cannot be parsed: {type(error.cause).__name__}: {error.cause}"
    return f"reading it ended its process ({type(error).__name__})"


def _chunks(events: Sequence[Event]) -> list[list[Event]]:
    """Cut the events into tasks, bounded in number and in bytes."""
    chunks: list[list[Event]] = []
    size = 0
    for event in events:
        if not chunks or len(chunks[-1]) >= _OBJECTS_A_TASK or size + event.size_bytes > _BYTES_A_TASK:
            chunks.append([])
            size = 0
        chunks[-1].append(event)
        size += event.size_bytes
    return chunks


def _cluster_cpus() -> int:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(int(resources.get("CPU", 1)), 1)
