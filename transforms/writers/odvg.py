"""Boxes to ODVG lines and a label map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl
from msgspec import Raw

from transforms.writers.categories import numbered
from transforms.writers.collection import Collection
from transforms.writers.written import Written, attributes_of, json_text, own_attributes, unsaid

_COLUMNS = (
    *("image", "format", "category_id", "category", "score", "segmentation", "attributes", "truncation"),
    *("occlusion", "iscrowd", "ignore", "bbox_mode", "bbox", "xmin", "ymin", "xmax", "ymax", "line"),
)
_INSTANCE = ("bbox", "label", "category", "mask", "score")


def write_odvg(
    collection: Collection, *, lines: str = "annotations.jsonl", label_map: str | None = "labelmap.json"
) -> Written:
    """One line per image, with all its instances, and the map of labels to names.

    Boxes are corners in pixels; labels are counted from 0 in the order of the class list. A line that came
    as grounding is one again: its caption, and regions with their phrases. Keys of other forms are kept below
    ``attributes`` of an instance.
    """
    classes = numbered(collection, keep=False)
    own = numbered(collection) if _only_odvg(collection) else classes
    parts = {image["image"]: _parts(image) for image in collection.images.iter_rows(named=True)}
    frame = collection.absolute()
    if "line" not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.Int64).alias("line"))
    for row in frame.select(_COLUMNS).iter_rows(named=True):
        if row["bbox"] is None:
            continue
        label = own.number_of(row["category_id"], row["category"], row["format"] == "odvg")
        of_image = parts[row["image"]]
        part = of_image.get(row["line"], of_image[None])
        part.instances.append(_instance(row, label, grounded=part.grounded))
    text = [
        json_text(_line(image, part))
        for image in collection.images.iter_rows(named=True)
        for part in parts[image["image"]].values()
    ]
    files = {lines: "".join(f"{line}\n" for line in text).encode()}
    names = own.names
    grounded = [part.grounded for of_image in parts.values() for part in of_image.values()]
    if label_map is not None and names and not all(grounded):
        files[label_map] = json_text({str(number): name for number, name in names.items()}).encode()
    says = {"truncation", "occlusion", "score", "segmentation", "iscrowd", "ignore", "attributes"}
    return Written(files=files, unsaid=unsaid(collection, "odvg", says=says))


def _only_odvg(collection: Collection) -> bool:
    return collection.images.height > 0 and collection.images["format"].eq_missing("odvg").all()


@dataclass
class _Part:
    """What one line says of its image: the members of the line, and its instances."""

    values: dict[str, Any]
    grounded: bool
    instances: list[dict[str, Any]] = field(default_factory=list)


def _parts(image: dict[str, Any]) -> dict[int | None, _Part]:
    """The lines of an image: the first, and those after it by their numbers."""
    values = own_attributes(image["attributes"]) if image["format"] in {"odvg", "coco"} else {}
    again = values.pop("$again", None)
    parts: dict[int | None, _Part] = {None: _Part(values, _is_grounded(values))}
    if image["format"] == "odvg" and isinstance(again, list):
        lines = [
            dict(more) for more in again if isinstance(more, dict) and isinstance(more.get("$line"), int)
        ]
        parts |= {more.pop("$line"): _Part(more, _is_grounded(more)) for more in lines}
    return parts


def _is_grounded(values: dict[str, Any]) -> bool:
    return "grounding" in values or ("caption" in values and "detection" not in values)


def _line(image: dict[str, Any], part: _Part) -> dict[str, Any]:
    values = dict(part.values)
    inner = {name: values.pop(name, None) or {} for name in ("detection", "grounding")}
    line: dict[str, Any] = {}
    if "filename" in values and "file_name" not in values:
        line["filename"] = values.pop("filename")
    else:
        line["file_name"] = values.pop("file_name", None) or image["file_name"] or image["ref"]
    line |= {side: image[side] for side in ("height", "width") if image[side] is not None}
    if "id" in values and image["format"] == "coco":
        line["image_id"] = values.pop("id")
    if not part.grounded:
        return line | values | {"detection": {"instances": part.instances, **inner["detection"]}}
    grounding = {"caption": values.pop("caption", None)} if "caption" not in inner["grounding"] else {}
    return (
        line
        | values
        | {"grounding": {**grounding, **inner["grounding"], "regions": _regions(part.instances)}}
    )


def _regions(instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The regions of a line: the boxes of one are together again."""
    regions: list[dict[str, Any]] = []
    last = None
    for instance in instances:
        number = instance.pop("$region", None)
        if number is None:
            regions.append(instance)
        elif number == last:
            regions[-1]["bbox"].append(instance["bbox"])
        else:
            regions.append({**instance, "bbox": [instance["bbox"]]})
        last = number
    return regions


def _instance(row: dict[str, Any], label: int, *, grounded: bool) -> dict[str, Any]:
    box = row["bbox"] if row["bbox_mode"] == "xyxy" else [row[k] for k in ("xmin", "ymin", "xmax", "ymax")]
    found: dict[str, Any] = {"bbox": box}
    further = own_attributes(row["attributes"]) if row["format"] == "odvg" else _foreign(row["attributes"])
    if grounded:
        found["phrase"] = further.pop("phrase", row["category"])
    elif row["format"] != "odvg":
        found |= {"label": label, "category": row["category"] or str(label)}
    else:
        found |= {"label": label} if row["category_id"] is not None else {}
        found |= {"category": row["category"]} if row["category"] is not None else {}
    if row["segmentation"] not in {None, "[]"}:
        found["mask"] = Raw(row["segmentation"].encode())
    if row["score"] is not None:
        found["score"] = row["score"]
    if row["format"] == "odvg":
        return found | {key: value for key, value in further.items() if key not in _INSTANCE}
    for key in ("truncation", "occlusion"):
        if row[key] is not None:
            further[key] = row[key]
    for key in ("iscrowd", "ignore"):
        if row[key]:
            further[key] = 1
    further.pop("$written", None)
    return found | ({"attributes": further} if further else {})


def _foreign(text: str | None) -> dict[str, Any]:
    """The attributes of another form; those below ``attributes`` stand for themselves."""
    values = attributes_of(text)
    if isinstance(values.get("attributes"), dict):
        del values["attributes"]
    return values
