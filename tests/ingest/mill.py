"""A small bucket, a lake, and passes over it without starting Ray."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from PIL import Image

from ingest.batch import Committer, Counts
from ingest.derive import Settings
from ingest.events import DatasetRule, Event
from ingest.parse import Limits, Parsed, parse_objects
from ingest.reconcile import reconcile
from storage.lake import Lake
from storage.object_store import ObjectStore

KITTI_CAR = "Car 0.00 0 -1.58 {} {} {} {} 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"


@dataclass
class Mill:
    """A bucket and a lake, and what people do with them."""

    folder: Path
    lake_folder: Path
    settings: Settings
    batch_objects: int = 2_000

    @property
    def store(self) -> ObjectStore:
        return ObjectStore.at(self.folder)

    @property
    def lake(self) -> Lake:
        return Lake.open(self.lake_folder)

    @property
    def rule(self) -> DatasetRule:
        return DatasetRule(bucket=self.store.name)

    def parse(self, events: list[Event]) -> Parsed:
        limits = Limits(look_at_pixels=self.settings.rules.pixels)
        return parse_objects(self.store, events, self.rule, limits)

    def committer(self) -> Committer:
        return Committer(
            Lake.create(self.lake_folder),
            self.parse,  # type: ignore[arg-type]
            rule=self.rule,
            settings=self.settings,
        )

    def ingest(self) -> Counts:
        done = reconcile(self.store, self.committer(), self.rule, batch_objects=self.batch_objects)
        return done.counts

    def write(self, key: str, data: bytes | str) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    def image(self, key: str, width: int = 100, height: int = 50) -> None:
        self.write(key, picture(width, height, key.rsplit(".", 1)[-1]))

    def rows(self, query: str) -> list[dict[str, object]]:
        return self.lake.sql(query).to_pylist()

    def tables(self) -> dict[str, list[str]]:
        """What the tables say, without who said it when: equal for equal buckets, however they came about."""
        said = {}
        for name in ("images", "labels", "annotations", "findings", "mentions", "categories"):
            frame = pl.from_arrow(self.lake.read(name))
            assert isinstance(frame, pl.DataFrame)
            frame = frame.drop("batch", "uri", "version", strict=False)
            if name == "findings":
                # What is found between batches is of the batches.
                frame = frame.filter(~pl.col("stem").str.starts_with("/"))
            said[name] = sorted(frame.write_ndjson().splitlines())
        objects = self.rows("SELECT key, kind, format, state, error FROM newest WHERE state <> 'removed'")
        said["objects"] = sorted(map(str, objects))
        return said


def picture(width: int, height: int, form: str = "png") -> bytes:
    """A small true image."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(
        file, format={"jpg": "jpeg"}.get(form, form)
    )
    return file.getvalue()
