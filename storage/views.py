"""The views over the lake's tables: one definition for queries, help texts and documentation.

In the SQL of a view ``{name}`` stands for a table or an earlier view, so that a view can be put over any
version of its tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from storage.schemas import TABLES


@dataclass(frozen=True)
class View:
    """A view: one sentence on what its rows are, and its SQL."""

    about: str
    sql: str

    @property
    def builds_upon(self) -> tuple[str, ...]:
        """The tables and views that the SQL names, in alphabetical order."""
        return tuple(sorted(set(re.findall(r"\{(\w+)\}", self.sql))))


VIEWS: dict[str, View] = {
    "boxes": View(
        "annotations with their width, height, area, aspect and COCO size class",
        """
        SELECT a.*, xmax - xmin AS width, ymax - ymin AS height, (xmax - xmin) * (ymax - ymin) AS area,
               CASE WHEN ymax > ymin THEN (xmax - xmin) / (ymax - ymin) END AS aspect,
               CASE WHEN (xmax - xmin) * (ymax - ymin) < 1024 THEN 'small'
                    WHEN (xmax - xmin) * (ymax - ymin) < 9216 THEN 'medium' ELSE 'large' END AS size_class
        FROM {annotations} a""",
    ),
    "class_balance": View(
        "boxes, images and share of every class of a data set, its effective number of samples and the "
        "weight that follows (Cui et al. 2019, beta 0.999; mean 1); ignored boxes left out",
        """
        SELECT *, (1 / effective_number) / avg(1 / effective_number) OVER (PARTITION BY dataset) AS weight
        FROM (SELECT dataset, category, count(*) AS boxes, count(DISTINCT sample) AS images,
                     count(*) / sum(count(*)) OVER (PARTITION BY dataset) AS share,
                     max(count(*)) OVER (PARTITION BY dataset) / count(*) AS ratio_to_largest,
                     (1 - pow(0.999, count(*))) / 0.001 AS effective_number
              FROM {annotations} WHERE NOT ignore GROUP BY dataset, category)""",
    ),
    "class_balance_by_split": View(
        "boxes, images and share of every class within each split, ignored boxes left out",
        """
        SELECT a.dataset, i.split, a.category, count(*) AS boxes, count(DISTINCT a.sample) AS images,
               count(*) / sum(count(*)) OVER (PARTITION BY a.dataset, i.split) AS share
        FROM {annotations} a LEFT JOIN {images} i ON i.dataset = a.dataset AND i.sample = a.sample
        WHERE NOT a.ignore GROUP BY a.dataset, i.split, a.category""",
    ),
    "class_balance_over_time": View(
        "boxes and share of every class in each batch that brought them or changed them last, with its time",
        """
        SELECT a.dataset, a.batch, any_value(b.done_at) AS done_at, a.category, count(*) AS boxes,
               count(*) / sum(count(*)) OVER (PARTITION BY a.dataset, a.batch) AS share
        FROM {annotations} a LEFT JOIN (
            SELECT number, max(done_at) AS done_at FROM {batches} GROUP BY number) b ON b.number = a.batch
        WHERE NOT a.ignore GROUP BY a.dataset, a.batch, a.category""",
    ),
    "image_labels": View(
        "every image with its number of boxes, its classes, and in the same order how many boxes of each",
        """
        SELECT i.dataset, i.sample, i.uri, i.width, i.height, i.split, i.labelled,
               coalesce(l.boxes, 0) AS boxes, coalesce(l.ignored, 0) AS ignored,
               coalesce(l.categories, []) AS categories, coalesce(l.counts, []) AS counts
        FROM {images} i LEFT JOIN (
            SELECT dataset, sample, sum(boxes)::BIGINT AS boxes, sum(ignored)::BIGINT AS ignored,
                   list(category ORDER BY category) FILTER (boxes > 0) AS categories,
                   list(boxes ORDER BY category) FILTER (boxes > 0) AS counts
            FROM (SELECT dataset, sample, category, count(*) FILTER (NOT ignore) AS boxes,
                         count(*) FILTER (ignore) AS ignored
                  FROM {annotations} GROUP BY dataset, sample, category)
            GROUP BY dataset, sample) l ON l.dataset = i.dataset AND l.sample = i.sample""",
    ),
    "latest_findings": View(
        "the findings of the newest batch of each data set that brought any",
        """
        SELECT * FROM {findings} QUALIFY batch = max(batch) OVER (PARTITION BY dataset)""",
    ),
    "waiting": View(
        "labels whose image has not arrived",
        """
        SELECT m.dataset, m.source, m.ref, m.instances FROM {mentions} m
        WHERE m.kind = 'label' AND EXISTS (SELECT 1 FROM {findings} f WHERE f.dataset = m.dataset
              AND f.source = m.source AND f.sample = m.ref AND f.rule = 'unknown_image')""",
    ),
    "newest": View(
        "the last word on every object of the bucket",
        """
        SELECT * FROM {objects} QUALIFY row_number() OVER (PARTITION BY lane, key ORDER BY batch DESC) = 1""",
    ),
    "quarantine": View(
        "objects that cannot be read, and why",
        """
        SELECT dataset, key, version, error, batch, seen_at FROM {newest} WHERE state = 'quarantined'""",
    ),
    "run_inputs": View(
        "what a run took, and the run that made it",
        """
        SELECT run, e.key AS what, e.value AS made_by
        FROM (SELECT run, unnest(map_entries(from_json(coalesce(inputs, json_object()),
                                                       '"MAP(VARCHAR, VARCHAR)"'))) AS e FROM {runs})""",
    ),
    "ancestry": View(
        "every run with all runs before it that it rests on, itself among them",
        """
        WITH RECURSIVE up(run, rests_on) AS (
            SELECT run, run FROM {runs}
            UNION
            SELECT up.run, i.made_by FROM up JOIN {run_inputs} i ON i.run = up.rests_on)
        SELECT up.run, up.rests_on, r.step, r.dataset, r.execution, r.position, r.snapshot, r.outputs
        FROM up JOIN {runs} r ON r.run = up.rests_on""",
    ),
    "model_objects": View(
        "every model file with the objects of the bucket that it was made from, at their versions, and "
        "whether these are still there (current), replaced or removed",
        """
        SELECT m.model, m.kind AS file, m.state AS model_state, o.*,
               CASE WHEN n.key IS NULL OR n.state = 'removed' THEN 'removed'
                    WHEN n.version IS DISTINCT FROM o.version THEN 'replaced' ELSE 'current' END AS now
        FROM {models} m JOIN (
            SELECT a.run AS made_by, s.dataset, s.sample, s.kind, s.key, s.version,
                   list_sort(list(DISTINCT s.role)) AS roles
            FROM {ancestry} a JOIN {seen} s ON s.run = a.rests_on GROUP BY ALL) o ON o.made_by = m.run
        LEFT JOIN (SELECT dataset, key, arg_max(state, batch) AS state, arg_max(version, batch) AS version
                   FROM {newest} GROUP BY ALL) n ON n.dataset = o.dataset AND n.key = o.key""",
    ),
}


COLUMNS_SQL = """
    SELECT table_name AS name,
           string_agg(column_name || ' ' || lower(data_type), ', ' ORDER BY ordinal_position) AS columns
    FROM information_schema.columns WHERE table_schema = 'main' GROUP BY table_name ORDER BY table_name"""
"""The query that lists tables and views with their columns."""


def tables_of(name: str) -> tuple[str, ...]:
    """The tables that a view rests on, through other views as well; of a table itself."""
    if name in TABLES:
        return (name,)
    return tuple(sorted({table for part in VIEWS[name].builds_upon for table in tables_of(part)}))


def view_sql(name: str, schema: str) -> str:
    """The SELECT of a view over the tables and views of ``schema``."""
    return re.sub(r"\{(\w+)\}", rf'"{schema}".\1', VIEWS[name].sql)
