"""What a batch makes of the lake: the groups it touches, derived anew from all that is known of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ingest.alike import Gallery
from ingest.events import DatasetRule, Event
from ingest.ledger import Ledger
from ingest.parse import Parsed
from quality.check import check_boxes
from quality.rules import FILE_RULES
from quality.selection import Selection
from quality.sets import declared_sizes, images_without_label, uniform_images
from storage import schemas
from storage.lake import LaneCommit
from transforms.conversion.mapping import ClassMapping, map_classes
from transforms.delivery import stem_of, stem_of_file, without_extension
from transforms.normalise import Groups, Normalised, dataset_path, normalise

Stems = dict[str, set[str]]
"""Data set to stems: a set of groups."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How samples are derived."""

    apply_correction: bool = True
    """Mend boxes that break a rule; what cannot be mended is left out of ``annotations``."""
    label_order: Sequence[str] = ()
    """Folders or files whose labels win where several speak of one image."""
    mappings: Mapping[str, ClassMapping] = field(default_factory=dict)
    """Data set (``*``: all others) to the names that its classes get in ``annotations``."""
    rules: Selection = field(default_factory=Selection)
    """The warnings that are looked for."""


@dataclass(frozen=True, kw_only=True)
class Derived:
    """New rows of the groups in ``stems``, to replace all that the tables hold of them."""

    stems: Stems
    sources: Stems
    """Data set to keys: the label files whose rows in mentions, categories and labels are replaced."""
    images: pa.Table
    annotations: pa.Table
    findings: pa.Table


@dataclass(frozen=True, kw_only=True)
class Touched:
    """What a batch is about: the label files whose rows it replaces, and the groups to derive anew."""

    sources: Stems
    stems: Stems


def touched_by(commit: LaneCommit, parsed: Parsed, events: Sequence[Event]) -> Touched:
    """The groups that the events of a batch touch, as ``commit`` sees the tables."""
    replaced: Stems = defaultdict(set)
    for event in events:
        if event.action != "replay":
            replaced[event.dataset].add(event.key)
    return Touched(sources=dict(replaced), stems=_touched(_Stored(commit, replaced), parsed, events))


def derive(
    commit: LaneCommit,
    parsed: Parsed,
    events: Sequence[Event],
    touched: Touched,
    *,
    ledger: Ledger,
    rule: DatasetRule,
    settings: Settings,
) -> Derived:
    """Derive the samples that the events of a batch touch.

    A pure function of the tables as ``commit`` sees them, of what was ``parsed``, and of the ledger:
    running it again after a crash, when some tables have this batch already, gives the same rows.
    """
    replaced, stems = touched.sources, touched.stems
    stored = _Stored(commit, replaced)
    # One event tells for its data set.
    prefixes = {name: rule.prefix_of(event) for name, event in {e.dataset: e for e in events}.items()}

    categories = _frame(stored.categories(parsed.categories))

    def normal_of(stems: Stems) -> Normalised:
        groups = Groups(
            images=stored.group("images", "key", stems, parsed.images),
            mentions=stored.group("mentions", "source", stems, parsed.mentions),
            labels=stored.group("labels", "source", stems, parsed.labels),
            categories=categories,
        )
        return normalise(groups, label_order=settings.label_order, prefixes=prefixes)

    normal = normal_of(stems)
    rules, gallery = settings.rules, None
    if rules.pixels:
        gallery = Gallery(commit, replaced)
        drawn_in = gallery.drawn_in(normal.images, stems, rules.limits)
        if drawn_in:
            stems = {dataset: set(found) for dataset, found in stems.items()}
            _add(stems, drawn_in)
            normal = normal_of(stems)
    boxes = rules.with_lists(map_classes(normal.boxes, settings.mappings))
    checked = check_boxes(boxes, correct=settings.apply_correction, rules=rules.box_rules())
    findings = pl.concat(
        [
            _as(checked.findings.with_columns(batch=pl.lit(None, pl.Int64)), schemas.FINDINGS),
            _severities(normal.remarks.filter(~pl.col("rule").is_in(list(rules.skip)))),
            _about_images(normal, stems, rules, gallery),
            _unreadable(ledger, parsed, replaced, stems, prefixes),
        ]
    ).sort("dataset", "stem", "source", "instance", "rule")
    number = pl.lit(commit.number, pl.Int64).alias("batch")
    return Derived(
        stems=stems,
        sources=replaced,
        images=_arrow(normal.images.with_columns(number), schemas.IMAGES),
        annotations=_arrow(checked.boxes.with_columns(number), schemas.ANNOTATIONS),
        findings=_arrow(findings.with_columns(number), schemas.FINDINGS),
    )


def _about_images(
    normal: Normalised, stems: Stems, rules: Selection, gallery: Gallery | None
) -> pl.DataFrame:
    found = [images_without_label(normal.images), declared_sizes(normal.matched, normal.images)]
    if gallery is not None:
        found.append(uniform_images(normal.images, rules.limits))
        found.append(gallery.findings(normal.images, stems, rules.limits))
    return _as(pl.concat(found).filter(~pl.col("rule").is_in(list(rules.skip))), schemas.FINDINGS)


class _Stored:
    """What the lake holds, less what this batch replaces."""

    def __init__(self, commit: LaneCommit, replaced: Mapping[str, set[str]]) -> None:
        self._commit = commit
        self._replaced = pa.array([key for keys in replaced.values() for key in keys], pa.string())
        self.replaced = replaced

    def group(self, name: str, owner: str, stems: Stems, new: pa.Table) -> pl.DataFrame:
        """All rows of the groups, stored and new; ``owner`` is the column of the key that rows come from."""
        rows = self._commit.read(name, where=~pc.field(owner).isin(self._replaced), among=[("stem", stems)])
        # A frame of one piece is not brought together again by all that is done with it.
        return pl.concat([_frame(rows).drop("batch"), _frame(new)]) if rows.num_rows else _frame(new)

    def categories(self, new: pa.Table) -> pa.Table:
        """All class lists of the data sets concerned."""
        datasets = pa.array(sorted(self.replaced), pa.string())
        where = pc.field("dataset").isin(datasets) & ~pc.field("source").isin(self._replaced)
        return pa.concat_tables([self._commit.read("categories", where=where).drop_columns(["batch"]), new])

    def stems_of(self, name: str, owner: str, where: pc.Expression | None = None) -> Stems:
        """The stems of stored rows that come from replaced keys, or that fulfil ``where``."""
        among = [(owner, self.replaced)] if where is None else []
        rows = self._commit.read(name, columns=["dataset", "stem"], where=where, among=among)
        return _stems_in(rows)

    def named_by_number(self, datasets: Sequence[str]) -> Stems:
        """The groups whose labels have only a class number."""
        where = pc.field("dataset").isin(pa.array(datasets, pa.string())) & pc.field("category").is_null()
        return self.stems_of("labels", "source", where)

    def class_lists_replaced(self) -> set[str]:
        """The data sets of which a stored class list is replaced or goes."""
        rows = self._commit.read("categories", columns=["dataset"], among=[("source", self.replaced)])
        return set(rows["dataset"].to_pylist())


def _touched(stored: _Stored, parsed: Parsed, events: Sequence[Event]) -> Stems:
    """The groups that have to be derived: of every object itself, of what it says, and of what it said
    before.
    """
    stems: Stems = defaultdict(set)
    for action, key, _, _, dataset in events:
        stems[dataset].add(key if action == "replay" else stem_of_file(key))
    for table in (parsed.images, parsed.mentions):
        _add(stems, _stems_in(table))
    _add(stems, stored.stems_of("mentions", "source"))
    classes = set(parsed.categories["dataset"].to_pylist()) | stored.class_lists_replaced()
    if classes:
        _add(stems, stored.named_by_number(sorted(classes)))
    return dict(stems)


def _stems_in(rows: pa.Table) -> Stems:
    different = _frame(rows.select(["dataset", "stem"])).unique().partition_by("dataset", as_dict=True)
    return {dataset: set(found["stem"].to_list()) for (dataset,), found in different.items()}


def _add(stems: Stems, more: Stems) -> None:
    for dataset, found in more.items():
        stems[dataset] |= found


def _severities(remarks: pl.DataFrame) -> pl.DataFrame:
    words = {name: severity for name, (severity, _) in FILE_RULES.items()}
    named = remarks.with_columns(
        pl.col("rule").replace_strict(words, default="warning", return_dtype=pl.String).alias("severity")
    )
    return _as(named, schemas.FINDINGS)


def _unreadable(
    ledger: Ledger,
    parsed: Parsed,
    replaced: Mapping[str, set[str]],
    stems: Stems,
    prefixes: Mapping[str, str],
) -> pl.DataFrame:
    """A finding for each quarantined object of the groups, those of this batch among them."""
    gone = set().union(*replaced.values()) if replaced else set()
    bad = {key: (entry.dataset, entry.error) for key, entry in ledger.quarantined() if key not in gone}
    bad.update({o.event.key: (o.event.dataset, o.error) for o in parsed.outcomes if o.state == "quarantined"})
    rows = []
    for key, (dataset, error) in bad.items():
        sample = without_extension(dataset_path(key, prefixes.get(dataset, "")))
        if stem_of(sample) in stems.get(dataset, ()):
            rows.append(
                {
                    "dataset": dataset,
                    "rule": "unreadable_file",
                    "severity": FILE_RULES["unreadable_file"][0],
                    "sample": sample,
                    "stem": stem_of(sample),
                    "source": key,
                    "observed": error,
                    "correction": "quarantined",
                }
            )
    return _frame(pa.Table.from_pylist(rows, schema=schemas.FINDINGS))


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _as(frame: pl.DataFrame, schema: pa.Schema) -> pl.DataFrame:
    return _frame(_arrow(frame, schema))


def _arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return frame.select(schema.names).to_arrow().cast(schema)
