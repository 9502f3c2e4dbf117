"""Jobs on the Ray cluster, started by their command line and known by the name of their run."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum

from ray.job_submission import JobStatus, JobSubmissionClient

from storage.errors import JobError

log = logging.getLogger(__name__)

_LOG_LINES = 20


class JobState(StrEnum):
    """Where a job stands, as the cluster knows it."""

    UNKNOWN = "unknown"
    """This cluster has never heard of it."""
    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


_STATES = {
    JobStatus.PENDING: JobState.ACTIVE,
    JobStatus.RUNNING: JobState.ACTIVE,
    JobStatus.SUCCEEDED: JobState.SUCCEEDED,
    JobStatus.STOPPED: JobState.FAILED,
    JobStatus.FAILED: JobState.FAILED,
}


class Jobs:
    """The jobs of one Ray cluster. ``address`` is that of its dashboard, such as ``http://127.0.0.1:8265``."""

    def __init__(self, address: str) -> None:
        try:
            self._client = JobSubmissionClient(address)
        except (ConnectionError, RuntimeError) as error:
            raise JobError(f"no Ray cluster takes jobs at {address}: {error}") from error

    def submit(
        self, run: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> bool:
        """Start ``command`` under the name ``run``; False where a job of that name is there already.

        The cluster takes each name once, so a run is started once however often it is submitted.
        """
        if self.state(run) is not JobState.UNKNOWN:
            return False
        try:
            self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=run,
                runtime_env={"env_vars": dict(environment or {})},
            )
        except RuntimeError as error:
            # Two that submit at once: the second is refused with a plain status 500.
            if self.state(run) is not JobState.UNKNOWN:
                return False
            raise JobError(f"job {run} was not accepted: {error}", run=run) from error
        log.info("job submitted", extra={"run": run})
        return True

    def state(self, run: str) -> JobState:
        """Where a job stands."""
        try:
            return _STATES[self._client.get_job_status(run)]
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                return JobState.UNKNOWN
            raise JobError(f"job {run}: the cluster does not answer: {error}", run=run) from error

    def why_failed(self, run: str) -> str:
        """What the cluster says about the end of a job, and the last lines that it wrote."""
        try:
            said = self._client.get_job_info(run).message or ""
            tail = self._client.get_job_logs(run).strip().splitlines()[-_LOG_LINES:]
        except RuntimeError as error:
            return str(error)
        # Our own commands end with one line that says it; anything else is given as it came.
        ours = [line for line in tail if line.startswith("dropmill: ")]
        return ours[-1].removeprefix("dropmill: ") if ours else "\n".join([said, *tail]).strip()

    def log(self, run: str) -> str:
        """All that a job wrote."""
        try:
            return str(self._client.get_job_logs(run))
        except RuntimeError as error:
            raise JobError(f"job {run}: {error}", run=run) from error

    def stop(self, run: str) -> bool:
        """Ask a job to end."""
        try:
            return bool(self._client.stop_job(run))
        except RuntimeError as error:
            raise JobError(f"job {run}: {error}", run=run) from error
