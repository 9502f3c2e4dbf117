"""The script for Slurm: which commands it runs on which node, understood by the programs that it calls."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.infra.command_lines import check_dropmill, check_ray

_SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "slurm" / "train.sbatch"
# In place of the programs of an allocation of two nodes; srun runs the command here, without its own options.
_PROGRAMS = {
    "scontrol": "printf 'node1\\nnode2\\n'",
    "hostname": "echo 10.0.0.1 fe80::1",
    "srun": """
for word in "$@"; do [[ $word == --nodelist=* ]] && export NODE="${word#--nodelist=}"; done
while [[ $1 == --* ]]; do shift; done
exec "$@"
""",
    "ray": """
echo "${NODE:-}" ray "$@" >> "$SAID"
if [[ $1 == list ]]; then
  [[ $(grep -c 'ray start' "$SAID") -ge 2 ]] && echo '[{}, {}]' || echo '[{}]'
fi
""",
    "dropmill": '{ printf "%q " dropmill "$@"; echo; } >> "$SAID"',
}


@pytest.mark.parametrize(("gpus", "workers"), [("8", "16"), (None, "2")])
def test_a_cluster_over_all_nodes_trains_with_a_process_for_each_gpu(
    tmp_path: Path, gpus: str | None, workers: str
) -> None:
    for name, text in _PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    said = tmp_path / "said"
    said.touch()
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(said), "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "16",
    }  # fmt: skip
    if gpus is not None:
        environment["SLURM_GPUS_ON_NODE"] = gpus
    words = ["faster_rcnn", "train", "--lake", "s3://lake", "--dataset", "a b", "-r", "s3://lake/x"]
    subprocess.run(["bash", str(_SCRIPT), *words, "train.epochs=3"], env=environment, check=True, timeout=60)
    lines = said.read_text().splitlines()
    (head,) = (line for line in lines if "--head" in line)
    (other,) = (line for line in lines if "ray start --address" in line)
    port = 20000 + 123456 % 20000
    assert head.startswith(f"node1 ray start --head --node-ip-address=10.0.0.1 --port={port}")
    assert other.startswith(f"node2 ray start --address=10.0.0.1:{port}")
    assert f"--num-gpus={gpus or 0}" in head
    assert "--num-cpus=16" in other
    last = shlex.split(lines[-1])
    assert last[1:7] == ["model", "faster_rcnn", "train", "--lake", "s3://lake", "--dataset"]
    assert last[7] == "a b"
    assert last[-5:] == ["train.epochs=3", "--gpus", workers, "--ray-address", f"10.0.0.1:{port}"]
    for line in (head, other, next(line for line in lines if "ray list" in line)):
        check_ray(shlex.split(line.partition("ray ")[2]))
    check_dropmill(last[1:])


def test_without_a_command_it_says_how_it_is_used() -> None:
    done = subprocess.run(["bash", str(_SCRIPT)], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr
