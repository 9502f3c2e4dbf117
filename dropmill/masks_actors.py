"""Images through actors that hold the model, on Ray Data; those that kill their actor are tried alone.

The images of a batch whose actor died go one by one to an actor of their own. What kills that one too is a
finding: no image is tried for ever, and none takes others along.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dropmill.masks_config import MasksConfig
from dropmill.masks_work import DONE, LabelImages, killed
from storage.errors import TrainingError

log = logging.getLogger(__name__)

_IMAGES_A_BATCH = 8
_BATCHES_LOST = 16
"""At most: where more batches fail, it is not their images."""


def stream(images: pa.Table, config: MasksConfig, *, use_gpu: bool) -> Iterator[pa.Table]:
    """Rows of ``masks_work.IMAGES`` to tables of ``DONE``, in any order.

    Raises what the labeler raises, and ``TrainingError`` where actors die whatever they are given.
    """
    if not images.num_rows:
        return
    import ray
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cores = int(resources.get("CPU", 1))
    threads = 1 if cores < 4 else 2
    workers = config.workers or (int(resources["GPU"]) if use_gpu else max(1, cores // 2))
    workers = max(1, min(workers, -(-images.num_rows // _IMAGES_A_BATCH)))
    blocks = [images.slice(at, _IMAGES_A_BATCH) for at in range(0, images.num_rows, _IMAGES_A_BATCH)]
    with warnings.catch_warnings():
        # Up to Ray 2.63 this is the one way to say it; pyproject.toml keeps to those.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        labelled = ray.data.from_arrow(blocks).map_batches(
            LabelImages,
            fn_constructor_args=(config,),
            fn_constructor_kwargs={"use_gpu": use_gpu, "threads": threads},
            batch_format="pyarrow",
            batch_size=_IMAGES_A_BATCH,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=threads,
            num_gpus=1 if use_gpu else 0,
            # Else a batch that kills its actor is tried for ever. The pool puts a new one in its place.
            max_restarts=0,
        )
    labelled.context.max_errored_blocks = _BATCHES_LOST
    done: set[Any] = set()
    for batch in labelled.iter_batches(batch_size=None, batch_format="pyarrow"):
        part = pa.table(batch)
        if not part.num_columns:
            continue
        done.update(part["sample"].to_pylist())
        yield part.cast(DONE)
    left = images.filter(pc.invert(pc.is_in(images["sample"], pa.array(sorted(done), pa.string()))))
    if left.num_rows:
        log.warning("batches failed; their images are tried alone", extra={"images": left.num_rows})
        yield from _alone(left, config, use_gpu=use_gpu, threads=threads)


def _alone(images: pa.Table, config: MasksConfig, *, use_gpu: bool, threads: int) -> Iterator[pa.Table]:
    """One image at a time, by an actor that is replaced when it dies."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

    kind = ray.remote(num_cpus=threads, num_gpus=1 if use_gpu else 0, max_restarts=0)(LabelImages)
    actor: Any = None
    for place in range(images.num_rows):
        one = images.slice(place, 1)
        try:
            if actor is None:
                actor = kind.remote(config, use_gpu=use_gpu, threads=threads)
                ray.get(actor.__ray_ready__.remote())
        except RayActorError as error:
            raise TrainingError(f"masks: an actor died while it loaded the model: {error}") from error
        try:
            yield ray.get(actor.__call__.remote(one))
        except (RayActorError, OutOfMemoryError) as error:
            log.warning("an image killed its actor", extra={"uri": one["uri"][0].as_py()})
            actor = None
            yield killed(one, str(error).strip().split("\n")[0][:200])
        except RayTaskError as error:
            raise error.cause or error from error
