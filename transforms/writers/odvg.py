"""Boxes to ODVG lines and a label map."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from msgspec import Raw

from transforms.writers.categories import numbered
from transforms.writers.collection import Collection
from transforms.writers.written import Written, attributes_of, json_text, unsaid

_COLUMNS = (
    *("image", "format", "category_id", "category", "score", "segmentation", "attributes", "truncation"),
    *("occlusion", "iscrowd", "ignore", "bbox_mode", "bbox", "xmin", "ymin", "xmax", "ymax"),
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
    grounded = {
        image: "caption" in attributes_of(attributes)
        for image, attributes in collection.images.select("image", "attributes").iter_rows()
    }
    instances: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in collection.absolute().select(_COLUMNS).iter_rows(named=True):
        if row["bbox"] is None:
            continue
        label = own.number_of(row["category_id"], row["category"], row["format"] == "odvg")
        instances[row["image"]].append(_instance(row, label, grounded=grounded[row["image"]]))
    text = [
        json_text(_line(image, instances[image["image"]], grounded=grounded[image["image"]]))
        for image in collection.images.iter_rows(named=True)
    ]
    files = {lines: "".join(f"{line}\n" for line in text).encode()}
    names = own.names
    if label_map is not None and names and not all(grounded.values()):
        files[label_map] = json_text({str(number): name for number, name in names.items()}).encode()
    says = {"truncation", "occlusion", "score", "segmentation", "iscrowd", "ignore", "attributes"}
    return Written(files=files, unsaid=unsaid(collection, "odvg", says=says))


def _only_odvg(collection: Collection) -> bool:
    return collection.images.height > 0 and collection.images["format"].eq_missing("odvg").all()


def _line(image: dict[str, Any], instances: list[dict[str, Any]], *, grounded: bool) -> dict[str, Any]:
    values = attributes_of(image["attributes"]) if image["format"] in {"odvg", "coco"} else {}
    caption = values.pop("caption", None)
    line: dict[str, Any] = {}
    if "filename" in values and "file_name" not in values:
        line["filename"] = values.pop("filename")
    else:
        line["file_name"] = values.pop("file_name", None) or image["file_name"] or image["ref"]
    line |= {side: image[side] for side in ("height", "width") if image[side] is not None}
    if "id" in values and image["format"] == "coco":
        line["image_id"] = values.pop("id")
    line |= values
    if grounded:
        return line | {"grounding": {"caption": caption, "regions": instances}}
    return line | {"detection": {"instances": instances}}


def _instance(row: dict[str, Any], label: int, *, grounded: bool) -> dict[str, Any]:
    box = row["bbox"] if row["bbox_mode"] == "xyxy" else [row[k] for k in ("xmin", "ymin", "xmax", "ymax")]
    found: dict[str, Any] = {"bbox": box}
    further = attributes_of(row["attributes"])
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
