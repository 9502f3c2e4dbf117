"""Plans carried out by Ray Data actors: many workers, each with threads or a GPU of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transforms.augment.executor import carry_out
from transforms.augment.generate import CarryOut, read_local
from transforms.augment.plan import Plan, as_json, from_json
from transforms.augment.sample import LabelledImage
from transforms.augment.single import Output, Settings

_PER_TASK = 32  # plans that an actor is given at a time


def spread_over(actors: int, read: Callable[[str], bytes] = read_local) -> CarryOut:
    """A way to carry plans out on so many actors; Ray is started where it does not run.

    Outputs come in any order; what is in flight is bounded by Ray Data's back-pressure.
    """

    def run(
        plans: Sequence[Plan], images: Mapping[str, LabelledImage], settings: Settings
    ) -> Iterable[Output]:
        return _spread(plans, images, settings, actors, read)

    return run


class _Worker:
    """An actor: it knows the images, and holds DALI's pipelines from batch to batch."""

    def __init__(self, images: Any, settings: Settings, read: Callable[[str], bytes]) -> None:
        import ray

        self._images: Mapping[str, LabelledImage] = ray.get(images)
        self._settings = settings
        self._read = read

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        plans = [from_json(line) for line in batch["plan"]]
        done = list(carry_out(plans, self._images, self._read, self._settings))
        return {
            "plan": [as_json(output.plan) for output in done],
            "data": [output.data for output in done],
            "error": [output.error for output in done],
            "copied": [output.copied for output in done],
        }


def _spread(
    plans: Sequence[Plan],
    images: Mapping[str, LabelledImage],
    settings: Settings,
    actors: int,
    read: Callable[[str], bytes],
) -> Iterator[Output]:
    import pyarrow as pa
    import ray
    import ray.data

    if not plans:
        return
    started = not ray.is_initialized()
    if started:
        from ingest.tasks import start_ray

        start_ray(os.environ.get("RAY_ADDRESS"))
    try:
        gpus = settings.executor == "dali" and settings.device is not None
        # A share of the cores for each, and one over for what Ray Data does besides: actors that hold all
        # of them would wait for ever for the tasks that feed them.
        cores = float(_resources().get("CPU", 1))
        threads = settings.threads or max(1, int(cores) // actors)
        plans_of_task = [
            pa.table({"plan": [as_json(plan) for plan in plans[start : start + _PER_TASK]]})
            for start in range(0, len(plans), _PER_TASK)
        ]
        ray.data.DataContext.get_current().enable_progress_bars = False
        outputs = ray.data.from_arrow(plans_of_task).map_batches(
            _Worker,
            fn_constructor_args=(ray.put(dict(images)), replace(settings, threads=threads), read),
            batch_size=_PER_TASK,
            concurrency=actors,
            num_cpus=min(float(threads), max(cores - 1, 0.5) / actors),
            num_gpus=1 if gpus else 0,
        )
        for row in outputs.iter_rows():
            yield Output(from_json(row["plan"]), row["data"], row["error"], copied=row["copied"])
    finally:
        if started:
            ray.shutdown()


def _resources() -> dict[str, float]:
    import ray

    found: Any = ray
    return dict(found.cluster_resources())
