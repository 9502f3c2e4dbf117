"""What several test folders share."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# Before torch is imported, here and in the processes that tests start: their networks are small, and threads
# that wait for each other by spinning take minutes where other processes have work for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples each time, however long one takes: what is red is red for a reason that is in the change.
# New examples: pytest --hypothesis-profile=default
with suppress(ImportError):  # tests/gpu runs without it
    from hypothesis import settings

    settings.register_profile("steady", derandomize=True, deadline=None)
    settings.load_profile("steady")

# The limit of a test's time is pytest-timeout's; where it is absent the tests run without one.
if importlib.util.find_spec("pytest_timeout") is None:

    def pytest_addoption(parser: pytest.Parser) -> None:
        """Know the key of pyproject.toml, which strict configuration refuses otherwise."""
        parser.addini("timeout", "seconds; needs pytest-timeout")


_PROJECT = Path(__file__).resolve().parents[1]
_ANOTHER_CLUSTER = """
import ray
from ray.util.state import list_nodes

ray.init(address="local", num_cpus=1, include_dashboard=True, logging_level="ERROR")
assert list_nodes(ray.get_runtime_context().gcs_address)
print("up")
input()
"""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; where it is absent, the tests that need it are skipped."""
    folder = Path(os.environ.get("DROPMILL_TEST_DATA") or _PROJECT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set DROPMILL_TEST_DATA)")
    return folder


@pytest.fixture(scope="module")
def another_cluster() -> Iterator[None]:
    """A stranger's Ray cluster on this machine; its agent and its dashboard have Ray's usual ports."""
    command = [sys.executable, "-u", "-c", _ANOTHER_CLUSTER]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout
        assert other.stdout.readline().strip() == b"up"
        yield
    finally:
        other.communicate(b"end\n")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A cluster of three CPUs in this process tree, as a command without an address starts one."""
    ray = pytest.importorskip("ray")
    from ingest.tasks import start_ray

    start_ray(num_cpus=3)
    yield
    ray.shutdown()
