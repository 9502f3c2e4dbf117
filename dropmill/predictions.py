"""What a model found in a data set, as rows that SQL joins to the annotations."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from storage import schemas
from storage.lake import Lake, sql_text
from training.evaluation import Truth
from training.evaluation.matching import MatchRules, match
from training.samples import Sample
from training.zoo.predict import Found

_IOU = 0.5
_VERDICTS = np.array(["false", "true", "ignored"])


def write_predictions(
    lake_url: str,
    dataset: str,
    model: str,
    found: Sequence[tuple[Sample, Found]],
    classes: Sequence[str],
    *,
    unlabelled: Collection[str] = (),
) -> int:
    """Write the detections of a model in a data set in place of its earlier ones; returns their number.

    ``verdict`` says whether a detection found an object of its class that no better one had found (``true``),
    lies in what is ignored (``ignored``), or neither (``false``): IoU 0.5, as COCO matches.
    Of samples that are ``unlabelled`` nobody knows: there it is null.
    """
    now = datetime.now(UTC)
    count = len(classes)
    rules = MatchRules(
        names=tuple(classes), iou=np.full(count, _IOU), smallest=np.zeros((count, 2)),
        largest=np.full((count, 2), np.inf), inclusive=False, second_choice=True, max_detections=None,
    )  # fmt: skip
    rows = []
    for sample, one in found:
        truth = Truth(sample.boxes, sample.categories, sample.ignore)
        judged = match(one.detections(classes), truth, rules)
        verdicts = _VERDICTS[judged.verdict]
        for place, verdict in zip(judged.rows.tolist(), verdicts.tolist(), strict=True):
            xmin, ymin, xmax, ymax = one.boxes[place].tolist()
            rows.append(
                {
                    "model": model, "dataset": dataset, "sample": sample.id, "detection": place,
                    "category": classes[int(one.labels[place])],
                    "xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax,
                    "score": float(one.scores[place]),
                    "verdict": None if sample.id in unlabelled else verdict,
                    "segmentation": None if one.masks is None else json.dumps(one.masks[place]),
                    "made_at": now,
                }
            )  # fmt: skip
    # Lakes of before have no such table yet.
    lake = Lake.create(lake_url)
    table = pa.Table.from_pylist(rows, schema=schemas.PREDICTIONS)
    if rows:
        lake.put("predictions", table, keys=["model", "dataset"])
    else:
        where = f"model = {sql_text(model)} AND dataset = {sql_text(dataset)}"
        lake.table("predictions").delete(where)
    return len(rows)
