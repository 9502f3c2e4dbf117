"""Pictures of a lake for ``inference``, and what it finds there as rows of the table ``predictions``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from dropmill.lake_samples import read_samples
from dropmill.predictions import write_predictions
from storage.errors import ConfigError
from storage.lake import Lake
from training.detectnet_v2.inference import Found as Seen
from training.samples import Sample
from training.zoo.predict import Found


def pictures_of(lake_url: str, dataset: str) -> list[tuple[str, str]]:
    """Address and name (the sample with its ending) of every image of a data set, labelled or not."""
    rows = Lake.open(lake_url).sql(
        "SELECT uri, sample FROM images WHERE dataset = $1 ORDER BY sample", parameters=[dataset]
    )
    found = [(row["uri"], row["sample"] + PurePosixPath(row["uri"]).suffix) for row in rows.to_pylist()]
    if not found:
        raise ConfigError(f"{lake_url}: no image in data set {dataset!r}")
    return found


def write_found(
    lake_url: str, dataset: str, model: str, seen: Sequence[Seen], shown: Mapping[str, str]
) -> int:
    """Rows of ``predictions`` for what ``model`` found in images of ``pictures_of``; returns their number.

    ``shown`` maps the network's classes to the categories of the rows, by which objects are compared.
    """
    lake = Lake.open(lake_url)
    counts = lake.sql(
        "SELECT count(*) AS n FROM images WHERE dataset = $1 AND labelled", parameters=[dataset]
    ).to_pylist()
    labelled = read_samples(lake, dataset, lake.snapshot()).samples if counts[0]["n"] else ()
    known = {sample.id: sample for sample in labelled}
    classes = tuple(dict.fromkeys(shown.values()))
    pairs, unlabelled = [], set()
    for one in seen:
        name = one.name.removesuffix(PurePosixPath(one.uri).suffix)
        if name not in known:
            unlabelled.add(name)
        labels = [classes.index(shown[str(category)]) for category in one.detections.categories]
        found = Found(one.detections.boxes, one.detections.scores, np.array(labels, dtype=np.int64))
        pairs.append((known.get(name) or _bare(name, one), found))
    return write_predictions(lake_url, dataset, model, pairs, classes, unlabelled=unlabelled)


def _bare(name: str, one: Seen) -> Sample:
    return Sample(
        id=name,
        uri=one.uri,
        width=one.width,
        height=one.height,
        split=None,
        boxes=np.zeros((0, 4)),
        categories=(),
        ignore=np.zeros(0, dtype=np.bool_),
    )
