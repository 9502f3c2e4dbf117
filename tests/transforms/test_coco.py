from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import UnknownFormatError, UnreadableError
from transforms.formats.coco import read_coco


def _real(shared_data: Path, name: str) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    (file,) = (shared_data / name).rglob("*.json")
    data = file.read_bytes()
    return data, json.loads(data), json.loads((shared_data / "expected-counts.json").read_text())[name]


@pytest.mark.parametrize("name", ["nuts-coco-masks", "coco128-json", "visdrone-coco-json"])
def test_every_number_of_a_real_file_arrives(shared_data: Path, name: str) -> None:
    data, document, expected = _real(shared_data, name)
    delivery = read_coco(data, "annotations/instances.json")
    rows = delivery.labels.to_pylist()
    assert len(rows) == expected["annotations"]
    mentions = [row for row in delivery.mentions.to_pylist() if row["kind"] == "label"]
    assert len(mentions) == expected.get("images", expected.get("images_listed"))

    names = {category["id"]: category["name"] for category in document["categories"]}
    files = {image["id"]: image["file_name"].rsplit(".", 1)[0] for image in document["images"]}
    for place, (row, annotation) in enumerate(zip(rows, document["annotations"], strict=True)):
        assert row["instance"] == place
        assert row["bbox"] == annotation["bbox"]
        assert row["bbox_mode"] == "xywh"
        assert (row["category_id"], row["category"]) == (
            annotation["category_id"],
            names[annotation["category_id"]],
        )
        assert row["ref"] == files[annotation["image_id"]]
        assert row["iscrowd"] == row["ignore"] == bool(annotation["iscrowd"])
        assert json.loads(row["segmentation"]) == annotation["segmentation"]
        kept = json.loads(row["attributes"])
        known = {"image_id", "category_id", "bbox", "segmentation", "iscrowd", "score"}
        assert kept == {key: value for key, value in annotation.items() if key not in known}

    counted = Counter(annotation["image_id"] for annotation in document["annotations"])
    assert [row["instances"] for row in mentions] == [counted[image["id"]] for image in document["images"]]
    for mention, image in zip(mentions, document["images"], strict=True):
        assert (mention["width"], mention["height"]) == (image["width"], image["height"])
        left = {key: value for key, value in image.items() if key not in {"width", "height"}}
        assert json.loads(mention["attributes"]) == left


def test_coco128_gives_the_counted_crowds_parts_and_categories(shared_data: Path) -> None:
    data, _, expected = _real(shared_data, "coco128-json")
    delivery = read_coco(data, "a.json")
    rows = delivery.labels.to_pylist()
    polygons = [json.loads(row["segmentation"]) for row in rows if not row["iscrowd"]]
    assert sum(row["iscrowd"] for row in rows) == expected["crowd_list_rle"]
    assert len(polygons) == expected["polygon_annotations"]
    assert sum(map(len, polygons)) == expected["polygon_parts"]
    assert sum(len(parts) > 1 for parts in polygons) == expected["multi_part"]
    assert delivery.categories.num_rows == expected["categories"]
    assert len({row["category"] for row in rows}) == expected["categories_used"]
    empty = [m["ref"] for m in delivery.mentions.to_pylist() if m["instances"] == 0]
    assert empty == expected["images_without_annotation"]


def test_results_are_read_without_names_and_with_scores(shared_data: Path) -> None:
    folder = shared_data / "ap-reference" / "coco-val2014-100"
    for name in ("bbox", "segm"):
        data = (folder / f"instances_val2014_fake{name}100_results.json").read_bytes()
        rows = read_coco(data, "results.json").labels.to_pylist()
        for row, result in zip(rows, json.loads(data), strict=True):
            assert row["score"] == result["score"]
            assert row["bbox"] == result.get("bbox")
            assert row["ref"] == f"image_id:{result['image_id']}"
            assert (row["category_id"], row["category"]) == (result["category_id"], None)
            if name == "segm":
                assert json.loads(row["segmentation"]) == result["segmentation"]


def _document(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "train/a.b.jpg", "width": 64, "height": 48, "licence": 3}],
        "categories": [{"id": 2, "name": "Cat", "supercategory": "animal"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2.5, 3, 4], "area": 12.50, "iscrowd": 0}
        ],
    }
    return document | changes


def _annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 0} | changes


def _read(document: Any) -> Any:
    return read_coco(json.dumps(document).encode(), "a.json")


def test_keys_without_a_column_are_kept_as_they_are_written() -> None:
    text = json.dumps(_document()).replace(
        '"area": 12.5', '"area": 12.5, "keypoints": [1.50, 2e3], "tag": "a b"'
    )
    delivery = read_coco(text.encode(), "a.json")
    assert delivery.labels["attributes"].to_pylist() == [
        '{"id":1,"area":12.5,"keypoints":[1.50,2e3],"tag":"a b"}'
    ]
    assert delivery.mentions["attributes"].to_pylist() == ['{"id":7,"file_name":"train/a.b.jpg","licence":3}']
    assert delivery.categories["attributes"].to_pylist() == ['{"supercategory":"animal"}']


def test_the_image_is_named_with_its_folder_and_without_its_last_suffix() -> None:
    (mention,) = _read(_document()).mentions.to_pylist()
    assert (mention["ref"], mention["stem"]) == ("train/a.b", "a.b")
    windows = _document(images=[{"id": 7, "file_name": ".\\train\\a.b.jpg"}])
    assert _read(windows).mentions["ref"].to_pylist() == ["train/a.b"]


def test_names_that_differ_in_the_extension_alone_are_two_images() -> None:
    images = [
        {"id": 1, "file_name": "a.png"},
        {"id": 2, "file_name": "a.jpg"},
        {"id": 3, "file_name": "b.jpg"},
    ]
    annotations = [_annotation(image_id=1), _annotation(image_id=2), _annotation(image_id=2)]
    delivery = _read(_document(images=images, annotations=annotations))
    assert delivery.mentions["ref"].to_pylist() == ["a.png", "a", "b"]
    assert delivery.mentions["instances"].to_pylist() == [1, 2, 0]
    assert delivery.labels["ref"].to_pylist() == ["a.png", "a", "a"]


def test_records_of_one_file_under_two_ids_are_one_image() -> None:
    images = [
        {"id": 1, "file_name": "a.jpg"},
        {"id": 2, "file_name": "b.jpg"},
        {"id": 3, "file_name": "./a.jpg"},
    ]
    annotations = [_annotation(image_id=1), _annotation(image_id=3), _annotation(image_id=4)]
    delivery = _read(_document(images=images, annotations=annotations))
    assert delivery.mentions["ref"].to_pylist() == ["a", "b", "image_id:4"]
    assert delivery.mentions["instances"].to_pylist() == [2, 0, 1]
    assert delivery.labels["ref"].to_pylist() == ["a", "a", "image_id:4"]
    assert json.loads(delivery.mentions["attributes"].to_pylist()[0]) == {
        "id": 1,
        "file_name": "a.jpg",
        "$again": [{"id": 3, "file_name": "./a.jpg"}],
    }


def test_an_image_that_is_not_listed_is_mentioned_by_its_number() -> None:
    delivery = _read(
        _document(annotations=[_annotation(), _annotation(image_id=99), _annotation(image_id=99)])
    )
    assert delivery.labels["ref"].to_pylist() == ["train/a.b", "image_id:99", "image_id:99"]
    assert delivery.mentions["ref"].to_pylist() == ["train/a.b", "image_id:99"]
    assert delivery.mentions["instances"].to_pylist() == [1, 2]


@pytest.mark.parametrize("changes", [{"annotations": None}, {"annotations": [], "categories": []}])
def test_a_file_that_only_lists_images_says_nothing_of_their_labels(changes: dict[str, Any]) -> None:
    document = {key: value for key, value in _document(**changes).items() if value is not None}
    assert _read(document).mentions["instances"].to_pylist() == [None]


def test_images_without_annotations_are_negative_samples_where_there_are_classes() -> None:
    assert _read(_document(annotations=[])).mentions["instances"].to_pylist() == [0]


def test_a_missing_and_an_empty_box_are_null_while_others_have_theirs() -> None:
    delivery = _read(
        _document(annotations=[_annotation(), _annotation(bbox=[]), _annotation(bbox=None, iscrowd=None)])
    )
    assert delivery.labels["bbox"].to_pylist() == [[1, 2, 3, 4], None, None]


def test_ids_may_be_words_and_numbers_may_be_written_either_way() -> None:
    image = {"id": "img-1", "file_name": "a.jpg", "width": 64.0, "height": 48.0}
    delivery = _read(
        _document(images=[image], annotations=[_annotation(image_id="img-1", id="x", iscrowd=True)])
    )
    assert delivery.labels["ref"].to_pylist() == ["a"]
    assert delivery.labels["iscrowd"].to_pylist() == [True]
    assert json.loads(delivery.labels["attributes"].to_pylist()[0]) == {"id": "x"}
    assert delivery.mentions["width"].to_pylist() == [64]


def test_many_annotations_keep_their_order_over_the_parts_they_are_built_in() -> None:
    count = 140_000
    annotations = [_annotation(id=n, bbox=[n, 0, 1, 1]) for n in range(count)]
    labels = _read(_document(annotations=annotations)).labels
    assert labels["instance"].to_pylist() == list(range(count))
    assert [box[0] for box in labels["bbox"].to_pylist()] == list(range(count))


# The peak is the child's own: what getrusage tells begins with the peak of the process that started it.
_MILLION = """
from pathlib import Path
from transforms.formats.coco import read_coco
rows = ",".join(
    f'{{"id":{n},"image_id":{n % 100_000},"category_id":1,"bbox":[{n % 640},1.5,20.25,30],"area":607.5,'
    f'"iscrowd":0,"segmentation":[[{n % 640},1.5,{n % 640},31.5,20.25,31.5,20.25,1.5]]}}'
    for n in range(1_000_000)
)
images = ",".join(f'{{"id":{n},"file_name":"{n:012}.jpg","width":640,"height":480}}' for n in range(100_000))
data = f'{{"images":[{images}],"categories":[{{"id":1,"name":"a"}}],"annotations":[{rows}]}}'.encode()
del rows, images
labels = read_coco(data, "a.json").labels
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(labels.num_rows, int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.slow
def test_a_million_boxes_need_less_than_two_gigabytes() -> None:
    done = subprocess.run([sys.executable, "-c", _MILLION], capture_output=True, text=True, check=True)
    rows, peak_mib = map(int, done.stdout.split())
    assert rows == 1_000_000
    assert peak_mib < 2048


def test_byte_order_marks_change_nothing() -> None:
    plain = json.dumps(_document())
    expected = read_coco(plain.encode(), "a.json").labels
    for encoding in ("utf-8-sig", "utf-16"):
        assert read_coco(plain.encode(encoding), "a.json").labels.equals(expected)


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        ({"id": 1, "image_id": 7, "caption": "a cat"}, "COCO captions"),
        ({"image_id": 7, "file_name": "a.png", "segments_info": []}, "COCO panoptic segmentation"),
        ({"id": 1, "image_id": 7, "category_id": 2}, "COCO image labels"),
    ],
)
def test_files_without_boxes_are_refused_by_name(annotation: dict[str, Any], name: str) -> None:
    with pytest.raises(UnknownFormatError, match=f"recognised as {name}"):
        _read(_document(annotations=[annotation]))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"annotations": [_annotation(), _annotation(bbox="1,2,3,4")]}, r"annotations\[1\].bbox"),
        ({"annotations": [_annotation(), _annotation(bbox=[1, 2, 3])]}, "3 numbers as bbox of annotation 1"),
        ({"annotations": [{"id": 1, "bbox": [1, 2, 3, 4]}]}, r"`image_id` - at `\$.annotations\[0\]`"),
        ({"annotations": [_annotation(category_id=2**70)]}, "category_id"),
        ({"images": [{"id": 7}]}, r"`file_name` - at `\$.images\[0\]`"),
        (
            {"images": [{"id": 7, "file_name": "a"}, {"id": 7, "file_name": "b"}]},
            "image id 7 for 'a' and 'b'",
        ),
        ({"images": [{"id": 7, "file_name": "a", "width": 1.5}]}, "1.5 as width of image 7"),
        ({"images": [{"id": 7, "file_name": "a", "height": 10**12}]}, "as height of image 7"),
        ({"categories": [{"id": 2, "name": "a"}, {"id": 2, "name": "b"}]}, "category id 2 for 'a' and 'b'"),
        ({"categories": [{"id": "two", "name": "a"}]}, r"at `\$.categories\[0\].id`"),
    ],
)
def test_a_contradiction_is_named_with_its_place(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(UnreadableError, match=found):
        _read(_document(**changes))


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ('{\n"images": [],\n"annotations": [{"image_id": 1, "bbox": [NaN, 1, 1, 1]}]}', 3, "NaN"),
        ('{\n"images": [],}', 2, "'}'"),
        ('{\n"images": [\n', 3, "truncated"),
        ('{"images": ' + "[" * 100_000, 1, "recursion"),
        ('{"images": [], "annotations": [{"image_id": 1, "bbox": [1e999, 1, 1, 1]}]}', None, "out of range"),
        ("[]", None, "an empty list"),
    ],
)
def test_broken_json_is_named_with_its_line(text: str, line: int | None, found: str) -> None:
    with pytest.raises(UnreadableError) as error:
        read_coco(text.encode(), "a.json")
    assert found in error.value.message
    assert line is None or error.value.line in {line, None}


def test_reading_leaves_the_garbage_collector_as_it_was() -> None:
    assert gc.isenabled()
    with pytest.raises(UnreadableError):
        read_coco(b"{", "a.json")
    assert gc.isenabled()


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_box = st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4)


@given(
    st.lists(
        st.tuples(
            _box, st.dictionaries(st.sampled_from(["keypoints", "note", "x y"]), _json, max_size=2), _json
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([None, 2]),
)
def test_any_annotation_arrives_unchanged(
    given_annotations: list[tuple[list[float], dict[str, Any], Any]], indent: int | None
) -> None:
    annotations = [
        _annotation(id=number, bbox=box, segmentation=segmentation, **more)
        for number, (box, more, segmentation) in enumerate(given_annotations)
    ]
    text = json.dumps(_document(annotations=annotations), indent=indent)
    rows = read_coco(text.encode(), "a.json").labels.to_pylist()
    for row, annotation, (_, more, segmentation) in zip(rows, annotations, given_annotations, strict=True):
        assert row["bbox"] == annotation["bbox"]
        assert json.loads(row["segmentation"] or "null") == segmentation
        assert json.loads(row["attributes"]) == {"id": annotation["id"]} | more
