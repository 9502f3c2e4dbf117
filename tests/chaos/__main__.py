"""``make chaos``: the full size, or a part of it; prints one line of JSON for every run."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.model import Chaos


def main() -> int:
    """Run; exit status 1 where the tables were not what the bucket says, with the seed that shows it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first round (else drawn)")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--samples", type=int, default=2_000)
    parser.add_argument("--directory", action="store_true", help="a folder instead of S3 and SQS")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(10**6)
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="dropmill-chaos-"))
    chaos = Chaos(
        seed, folder, arguments.events, arguments.kills, arguments.samples, on_s3=not arguments.directory
    )
    try:
        print(json.dumps(chaos.run()))
    except AssertionError as error:
        print(f"{error}\nfiles: {folder}\nagain: make chaos SEED={seed}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
