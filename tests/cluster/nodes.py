"""A Ray cluster of several nodes on one machine: each its own processes, ports and temporary folder."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

_START_S = 180.0
_TRIES = 4
_STORE_BYTES = 150_000_000  # of a node's object store; what is worked on here is small


@dataclass
class Node:
    """The processes of one node, of which ``ray start`` is the first."""

    name: str
    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    def processes(self) -> list[psutil.Process]:
        """All that run now."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def works_on(self, words: str) -> bool:
        """Whether one of its processes has ``words`` in its command line."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if words in " ".join(process.cmdline()):
                    return True
        return False

    def kill(self) -> None:
        """End it as a machine ends whose power is cut."""
        running = self.processes()
        for process in running:
            # Stopped first: none is to see the others die.
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(running, timeout=30)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """A head without CPUs and workers that come and go. ``environment`` is that of all nodes."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        # Short: Ray's sockets lie below it, and a socket's path has about 100 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="dm-"))
        quick = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "0"}
        self._environment = {**os.environ, **quick, **environment}
        self._started = 0
        self.gcs, client, dashboard = free_ports(3)
        self.address = ray.util.get_node_ip_address()
        self.client = f"ray://127.0.0.1:{client}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.head = self._start(
            "head", "--head", "--port", str(self.gcs), "--ray-client-server-port", str(client),
            "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--num-cpus", "0",
            "--temp-dir", str(self.folder / "ray"),
        )  # fmt: skip
        self.workers: list[Node] = []

    def add_worker(self, cpus: int) -> Node:
        """A node that takes work; it is there when this returns, and takes some a little later."""
        self._started += 1
        name = f"worker-{self._started}"
        node = self._start(name, "--address", f"{self.address}:{self.gcs}", "--num-cpus", str(cpus))
        self.workers.append(node)
        return node

    def kill(self, node: Node) -> None:
        """Cut a worker's power; its files are gone."""
        self.workers.remove(node)
        node.kill()

    def close(self) -> None:
        """End it all."""
        for node in [*self.workers, self.head]:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, name: str, *options: str) -> Node:
        for left in reversed(range(_TRIES)):
            try:
                return self._try_to_start(name, *options)
            except AssertionError:
                # Ray gives a node half a minute, which a busy machine may need for less than that.
                if not left:
                    raise
        raise AssertionError

    def _try_to_start(self, name: str, *options: str) -> Node:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        log = self.folder / f"{name}.log"
        agent_http, agent_grpc, metrics, runtime_env = free_ports(4)
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block",
            "--object-store-memory", str(_STORE_BYTES), "--include-log-monitor", "False",
            # Its default is the same number for every node, and an agent without its port takes no jobs.
            "--dashboard-agent-listen-port", str(agent_http), "--dashboard-agent-grpc-port", str(agent_grpc),
            "--metrics-export-port", str(metrics), "--runtime-env-agent-port", str(runtime_env),
            "--min-worker-port", "0", "--max-worker-port", "0", *options,
        ]  # fmt: skip
        # What a node keeps for itself no other node finds.
        environment = {**self._environment, "TMPDIR": str(folder)}
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=folder)
        node = Node(name, process, folder, log)
        began = time.monotonic()
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() - began > _START_S:
                node.kill()
                raise AssertionError(f"{name} has not started: {log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        return node


@contextmanager
def cluster(environment: Mapping[str, str], workers: int, cpus: int) -> Iterator[Cluster]:
    """A head and workers, ended with the block."""
    made = Cluster(environment)
    try:
        for _ in range(workers):
            made.add_worker(cpus)
        yield made
    finally:
        made.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, below those that systems give to outgoing connections."""
    found: list[int] = []
    for port in random.sample(range(24_000, 32_000), 500):
        with socket.socket() as one, suppress(OSError):
            one.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"{count} ports are needed, {len(found)} are free")
