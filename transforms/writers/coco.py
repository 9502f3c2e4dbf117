"""Boxes to COCO JSON: instances, and results.

Text is put together by columns: no dictionary per box.
"""

from __future__ import annotations

from typing import Any

import msgspec
import polars as pl

from transforms.writers.categories import numbered
from transforms.writers.collection import Collection
from transforms.writers.written import Written, json_text, of_image, own_attributes, unsaid

_EVERYTHING = {
    *("truncation", "occlusion", "score", "segmentation", "iscrowd", "ignore", "attributes"),
    *("instances without a box", "images"),
}
_UNLISTED = "image_id:"
# The reader's own members come before those of the file, among which may be an iscrowd of another object.
_OWN_CROWD = r'^(\{(?:"id":(?:-?[0-9]+|"(?:[^"\\]|\\.)*"),)?(?:"area":[^,"]+,)?)"iscrowd":'


def write_coco(
    collection: Collection, *, file: str = "annotations.json", first_category: int = 1, renumber: bool = False
) -> Written:
    """One file of images, annotations and categories.

    Boxes are ``xywh`` in pixels. What came as COCO has its ids, keys, digits and order again, unless
    ``renumber``; all else is numbered from 1 (categories from ``first_category``) in order. ``iscrowd`` is 1
    for regions to ignore: it is the only way in which COCO's evaluation knows them. What other forms say of
    an instance or an image stands below its ``attributes``, but for captions.
    """
    own = not renumber and _is_coco(collection)
    names = numbered(collection, first=first_category, keep=not renumber)
    categories = _own_categories(collection) if own else _categories(collection, names.names)
    images, ids = _images(collection, own=own)
    boxes = _boxes(collection, own=own)
    count = boxes.height
    number = (
        pl.col("category")
        .fill_null("")
        .replace_strict(
            list(names.of_name), list(names.of_name.values()), default=None, return_dtype=pl.Int64
        )
    )
    named = pl.when(pl.col("category").is_not_null()).then(number)
    category_id = pl.coalesce("category_id", named) if own else number
    boxes = boxes.with_columns(
        category_id.alias("category_id"),
        pl.Series("id", range(1, count + 1), pl.Int64),
        pl.col("image")
        .replace_strict(list(ids), list(ids.values()), return_dtype=pl.String)
        .alias("image_id"),
    )
    text = boxes.select(_annotation(own=own)).to_series()
    head = "".join(f"{json_text(key)}:{value}," for key, value in _document(collection).items())
    # An empty list of annotations would say that nothing is on any of the images.
    said = () if own and collection.only_listed else ('"annotations":[', ",\n".join(text), "],")
    parts = (
        f'{{{head}"images":[{",".join(images)}],',
        *said,
        f'"categories":[{",".join(categories)}]}}\n',
    )
    lost = [("instances without a class", boxes["category"].null_count() if not own else 0)]
    return Written(
        files={file: "".join(parts).encode()},
        unsaid=unsaid(collection, "coco", says=_EVERYTHING, also=lost),
    )


def write_coco_results(collection: Collection, *, file: str = "results.json") -> Written:
    """A list of results: image_id, category_id, bbox or segmentation, score.

    Ids are those of the collection: what came from a COCO file or results has them, all else is numbered
    from 1 in order. A box without a score gets 1, but for those that came as results without one.
    """
    _, ids = _images(collection, own=_is_coco(collection))
    names = numbered(collection, first=1)
    number = (
        pl.col("category")
        .fill_null("")
        .replace_strict(
            list(names.of_name), list(names.of_name.values()), default=None, return_dtype=pl.Int64
        )
    )
    came_so = _is_coco(collection) and collection.images["attributes"].is_null().all()
    boxes = _boxes(collection, own=True).with_columns(
        pl.coalesce("category_id", number).alias("category_id"),
        pl.col("image")
        .replace_strict(list(ids), list(ids.values()), return_dtype=pl.String)
        .alias("image_id"),
        pl.col("score") if came_so else pl.col("score").fill_null(1.0),
    )
    attributes = pl.col("attributes").fill_null("{}")
    said_none = attributes.str.starts_with('{"id":') & ~attributes.str.contains(_OWN_CROWD)
    crowd = (
        pl.when(pl.col("iscrowd") & (pl.col("format") == "coco"))
        .then(pl.lit("1"))
        .when(said_none & pl.lit(value=came_so))
        .then(pl.lit("0"))
    )
    further = _inside(_without_no_crowd(attributes))
    own = pl.when((pl.col("format") == "coco") & (further != "")).then(pl.concat_str(pl.lit(","), further))
    text = boxes.select(
        pl.concat_str(
            pl.lit('{"image_id":'),
            _owner(),
            _member("category_id", pl.col("category_id").cast(pl.String)),
            _member("bbox", _numbers()),
            _member("segmentation", pl.col("segmentation")),
            _member("iscrowd", crowd),
            _member("score", _number(pl.col("score"))),
            own.otherwise(pl.lit("")),
            pl.lit("}"),
        )
    ).to_series()
    return Written(
        files={file: f"[{','.join(text)}]\n".encode()},
        unsaid=unsaid(
            collection, "coco", says={"score", "segmentation", "iscrowd", "instances without a box"}
        ),
    )


def _is_coco(collection: Collection) -> bool:
    formats = collection.images["format"]
    return formats.len() > 0 and formats.eq_missing("coco").all()


def _boxes(collection: Collection, *, own: bool) -> pl.DataFrame:
    """The boxes with ``bbox`` as x, y, width, height in pixels."""
    boxes = collection.boxes
    if not (own and boxes["bbox_mode"].eq_missing("xywh").all()):
        boxes = collection.absolute()
        made = pl.concat_list(
            "xmin",
            "ymin",
            (pl.col("xmax") - pl.col("xmin")).round_sig_figs(12),
            (pl.col("ymax") - pl.col("ymin")).round_sig_figs(12),
        )
        kept = pl.when(pl.col("bbox_mode") == "xywh").then(pl.col("bbox")).otherwise(made)
        boxes = boxes.with_columns(pl.when(pl.col("bbox").is_null()).then(None).otherwise(kept).alias("bbox"))
    return boxes


def _annotation(*, own: bool) -> pl.Expr:
    """One annotation as JSON text, from columns."""
    attributes = pl.col("attributes").fill_null("{}")
    coco = (pl.col("format") == "coco").fill_null(value=False)
    ours = _inside(_without_no_crowd(attributes))
    mine = pl.when(ours == "").then(pl.lit("")).otherwise(pl.concat_str(pl.lit(","), ours))
    # An iscrowd among the attributes says that the delivered one was absent, or no 0 or 1.
    said = attributes.str.contains(_OWN_CROWD)
    crowd = pl.when(pl.col("iscrowd") | pl.col("ignore")).then(pl.lit("1")).otherwise(pl.lit("0"))
    start = [pl.lit('{"image_id":'), _owner(), _member("category_id", pl.col("category_id").cast(pl.String))]
    shape = [_member("bbox", _numbers()), _member("segmentation", pl.col("segmentation"))]
    score = _member("score", _number(pl.col("score")))
    as_it_was = pl.concat_str(
        *start,
        *shape,
        pl.when(said)
        .then(pl.lit(""))
        .otherwise(_member("iscrowd", pl.when("iscrowd").then(pl.lit("1")).otherwise(pl.lit("0")))),
        score,
        mine,
        pl.lit("}"),
    )
    area = (
        pl.col("bbox").list.get(2, null_on_oob=True) * pl.col("bbox").list.get(3, null_on_oob=True)
    ).round_sig_figs(12)
    kept = pl.struct("attributes", "truncation", "occlusion", "format").map_elements(
        _further, return_dtype=pl.String, skip_nulls=False
    )
    anew = pl.concat_str(
        pl.concat_str(pl.lit('{"id":'), pl.col("id").cast(pl.String), pl.lit(',"image_id":')),
        *start[1:],
        *shape,
        _member("area", _number(area)),
        _member("iscrowd", crowd),
        score,
        kept,
        pl.lit("}"),
    )
    return pl.when(coco).then(as_it_was).otherwise(anew) if own else anew


def _inside(text: pl.Expr) -> pl.Expr:
    """The members of a JSON object without its braces."""
    return text.str.strip_prefix("{").str.strip_suffix("}").str.strip_suffix(",")


def _without_no_crowd(attributes: pl.Expr) -> pl.Expr:
    """Attributes without the reader's note that no iscrowd was there."""
    return attributes.str.replace(_OWN_CROWD + r"null(?:,|(\}))", "${1}${2}")


def _further(row: dict[str, Any]) -> str:
    """What another form says of an instance, below ``attributes``; keys of COCO stand for themselves."""
    values = msgspec.json.decode(row["attributes"] or "{}", type=dict[str, msgspec.Raw])
    if row["format"] == "coco":
        gone = {"id", "iscrowd", "area", "bbox", "image_id", "$written"}
        return "".join(
            f",{json_text(key)}:{bytes(value).decode()}" for key, value in values.items() if key not in gone
        )
    known = _beside(values)
    for key in ("truncation", "occlusion"):
        if row[key] is not None:
            known[key] = msgspec.Raw(json_text(row[key]).encode())
    return f',"attributes":{json_text(known)}' if known else ""


def _beside(values: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Members without the name ``attributes``, where what stands below it has other names than they."""
    below = bytes(values.get("attributes", b""))
    inner = msgspec.json.decode(below, type=dict[str, msgspec.Raw]) if below.startswith(b"{") else {}
    if not inner or inner.keys() & values.keys():
        return dict(values)
    return {key: value for key, value in values.items() if key != "attributes"} | inner


def _member(name: str, text: pl.Expr) -> pl.Expr:
    """A member with a comma before it; nothing where the text is null."""
    return pl.when(text.is_null()).then(pl.lit("")).otherwise(pl.concat_str(pl.lit(f',"{name}":'), text))


def _owner() -> pl.Expr:
    return pl.col("image_id")


def _number(value: pl.Expr) -> pl.Expr:
    """A number in its shortest digits; whole numbers without a point."""
    return value.cast(pl.String).str.strip_suffix(".0")


def _numbers() -> pl.Expr:
    texts = [_number(pl.col("bbox").list.get(i, null_on_oob=True)) for i in range(4)]
    joined = pl.concat_str(*texts, separator=",")
    return (
        pl.when(pl.col("bbox").is_null())
        .then(None)
        .otherwise(pl.concat_str(pl.lit("["), joined, pl.lit("]")))
    )


def _images(collection: Collection, *, own: bool) -> tuple[list[str], dict[int, str]]:
    """Image records as JSON, and the id of each image as JSON."""
    texts: list[str] = []
    ids: dict[int, str] = {}
    for row in collection.images.iter_rows(named=True):
        if own and row["attributes"] is None:
            # Not listed: only annotations named it.
            ids[row["image"]] = row["ref"].removeprefix(_UNLISTED)
            continue
        record = own_attributes(row["attributes"]) if row["format"] == "coco" and row["attributes"] else {}
        again = record.pop("$again", None)
        if row["format"] != "coco" and (said := of_image(row["attributes"])):
            record |= {"caption": said.pop("caption")} if "caption" in said else {}
            record |= {"attributes": said} if said else {}
        if not own:
            record |= {"id": len(texts) + 1}
        record.setdefault("file_name", row["file_name"] or row["ref"])
        sizes = {side: row[side] for side in ("width", "height") if row[side] is not None}
        ids[row["image"]] = json_text(record["id"])
        texts += [
            json_text({"id": one["id"], "file_name": one["file_name"], **sizes, **one})
            for one in (record, *(_records(again) if own else ()))
        ]
    return texts, ids


def _records(again: Any) -> list[dict[str, Any]]:
    """The further records of an image; what only has their name in a file is none."""
    records = again if isinstance(again, list) else []
    return [one for one in records if isinstance(one, dict) and one.keys() >= {"id", "file_name"}]


def _own_categories(collection: Collection) -> list[str]:
    texts = []
    for number, name, attributes in collection.categories.iter_rows():
        more = (attributes or "{}")[1:-1]
        texts.append(f'{{"id":{number},"name":{json_text(name)}{"," if more else ""}{more}}}')
    return texts


def _categories(collection: Collection, names: dict[int, str]) -> list[str]:
    more = dict(collection.categories.select("category", "attributes").iter_rows())
    texts = []
    for number, name in names.items():
        further = (more.get(name) or "{}")[1:-1]
        texts.append(f'{{"id":{number},"name":{json_text(name)}{"," if further else ""}{further}}}')
    return texts


def _document(collection: Collection) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in collection.documents:
        for key, value in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items():
            found.setdefault(key, bytes(value).decode())
    return found
