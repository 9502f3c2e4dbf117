"""Jobs on the Ray cluster, started by their command line and known by the name of their run."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ray.job_submission import JobStatus, JobSubmissionClient

from ingest.progress import JobState
from storage.errors import JobError

log = logging.getLogger(__name__)

_LOG_LINES = 20
_NOT_READY = "No available agent"
_BAD_INPUT = 2  # the exit status of a command that was given what it cannot use

_STATES = {
    JobStatus.PENDING: JobState.ACTIVE,
    JobStatus.RUNNING: JobState.ACTIVE,
    JobStatus.SUCCEEDED: JobState.SUCCEEDED,
    JobStatus.STOPPED: JobState.STOPPED,
    JobStatus.FAILED: JobState.FAILED,
}


class TakesJobs(Protocol):
    """What runs jobs: a Ray cluster, or a test's idea of one."""

    @property
    def address(self) -> str:
        """Where people and commands reach it."""

    def submit(
        self, job: str, command: Sequence[str], *, resources: Mapping[str, float] | None = None
    ) -> bool:
        """Start ``command`` under the name ``job``; False where a job of that name is there already."""

    def state(self, job: str) -> JobState:
        """Where a job stands."""

    def why_failed(self, job: str) -> str:
        """Why a job ended as it did."""


class Jobs:
    """The jobs of one Ray cluster. ``address`` is that of its dashboard, such as ``http://127.0.0.1:8265``.

    ``runtime_env`` is what every job gets along, see Ray's documentation of runtime environments.
    """

    def __init__(self, address: str, *, runtime_env: Mapping[str, Any] | None = None) -> None:
        self._address = address
        self._runtime_env = dict(runtime_env or {})
        try:
            self._client = JobSubmissionClient(address)
        except (ConnectionError, RuntimeError) as error:
            raise JobError(f"no Ray cluster takes jobs at {address}: {error}") from error

    @property
    def address(self) -> str:
        """That of the cluster's dashboard."""
        return self._address

    def submit(
        self, job: str, command: Sequence[str], *, resources: Mapping[str, float] | None = None
    ) -> bool:
        """Start ``command`` under the name ``job``; False where a job of that name is there already.

        The cluster takes each name once, so a job is started once however often it is submitted.
        ``resources`` are those of the command's own process: cpus, gpus, memory_bytes.
        """
        if self.state(job) is not JobState.UNKNOWN:
            return False
        asked = resources or {}
        try:
            self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=job,
                runtime_env=self._runtime_env,
                entrypoint_num_cpus=asked.get("cpus"),
                entrypoint_num_gpus=asked.get("gpus"),
                entrypoint_memory=int(asked["memory_bytes"]) if "memory_bytes" in asked else None,
            )
        except RuntimeError as error:
            # Two that submit at once: the second is refused with a plain status 500.
            if self.state(job) is not JobState.UNKNOWN:
                return False
            if _NOT_READY in str(error):
                # A cluster that has just been started; the job is unknown there, and is submitted again.
                log.info("the cluster is not ready", extra={"run": job})
                return False
            raise JobError(f"job {job} was not accepted: {error}", run=job) from error
        log.info("job submitted", extra={"run": job})
        return True

    def state(self, job: str) -> JobState:
        """Where a job stands."""
        try:
            info = self._client.get_job_info(job)
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                return JobState.UNKNOWN
            raise JobError(f"job {job}: the cluster does not answer: {error}", run=job) from error
        state = _STATES[info.status]
        refused = state is JobState.FAILED and info.driver_exit_code == _BAD_INPUT
        return JobState.REFUSED if refused else state

    def why_failed(self, job: str) -> str:
        """What the cluster says about the end of a job, and the last lines that it wrote."""
        try:
            said = self._client.get_job_info(job).message or ""
        except RuntimeError as error:
            return str(error)
        try:
            tail = self._client.get_job_logs(job).strip().splitlines()[-_LOG_LINES:]
        except RuntimeError:
            # The log was on the node that the job was on; where that is gone, this is what can be said.
            return said.strip() or "its node is gone, and its log with it"
        # Our own commands end with one line that says it; anything else is given as it came.
        ours = [line for line in tail if line.startswith("dropmill: ")]
        return ours[-1].removeprefix("dropmill: ") if ours else "\n".join([said, *tail]).strip()

    def log(self, job: str) -> str:
        """All that a job wrote."""
        try:
            return str(self._client.get_job_logs(job))
        except RuntimeError as error:
            if self.state(job) is JobState.UNKNOWN:
                raise JobError(f"job {job}: this cluster does not know it: {error}", run=job) from error
            raise JobError(
                f"job {job}: its log cannot be read; where its node is gone, the log is gone with it "
                f"({self.why_failed(job)})",
                run=job,
            ) from error

    def stop(self, job: str) -> bool:
        """Ask a job to end."""
        try:
            return bool(self._client.stop_job(job))
        except RuntimeError as error:
            raise JobError(f"job {job}: {error}", run=job) from error
