"""``make cluster``: drops become an engine on a head and two workers, one of which dies in every stage."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Run; prints one line of JSON, exit status 1 where something is lost, doubled or not done."""
    # Ray reads once how it is to speak to clusters, and ours asks all comers for a token.
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(24)})
    from tests.cluster.model import STEPS, Story

    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the moments of the kills (else drawn)")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--kills", nargs="*", default=["parse", *STEPS], help="in these stages alone")
    parser.add_argument("--steps", nargs="*", default=list(STEPS), help="a shorter pipeline")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(10**6)
    folder = Path(tempfile.mkdtemp(prefix="dropmill-cluster-"))
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    # Asked to end, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tell(f"seed {seed}")
    story = Story(
        folder, seed, images=arguments.images, steps=arguments.steps, kills=arguments.kills, tell=tell
    )
    try:
        print(json.dumps(story.run()))
    except AssertionError as error:
        print(f"{error}\nfiles: {folder}\nagain: make cluster SEED={seed}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
