"""What files of the field have beside the plain case comes back as well."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from storage.errors import UnreadableError
from transforms.conversion.merge import _by_image, unite
from transforms.formats.detect import read_label
from transforms.writers.coco import write_coco, write_coco_results
from transforms.writers.collection import of_deliveries
from transforms.writers.kitti import write_kitti
from transforms.writers.odvg import write_odvg
from transforms.writers.voc import write_voc

_ANNOTATION = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
_IMAGE = {"id": 1, "file_name": "x/a.jpg", "width": 10, "height": 20}


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in _ANNOTATION.items() if name != key}


def _collection(path: str, text: str) -> Any:
    return of_deliveries([(path, read_label(text.encode(), path))])


@pytest.mark.parametrize(
    ("image", "annotation"),
    [
        ({**_IMAGE, "attributes": {"weather": "rain", "id": 7}}, _ANNOTATION),
        ({**_IMAGE, "again": {"x": 1}, "caption": "a cat", "score": 0.5}, _ANNOTATION),
        (_IMAGE, {**_ANNOTATION, "iscrowd": 1, "attributes": {"a": 1, "iscrowd": None, "id": 3}}),
        (_IMAGE, {**_ANNOTATION, "iscrowd": 1, "id": 'x"iscrowd":', "note": {"iscrowd": 0}}),
        (_IMAGE, {**_without("iscrowd"), "attributes": {"a": 1, "iscrowd": None}}),
        (_IMAGE, _without("category_id")),
        (_IMAGE, {**_ANNOTATION, "category_id": 99}),
        (_IMAGE, {**_without("bbox"), "segmentation": {"size": [20, 10], "counts": '0\\5"1 `'}}),
    ],
    ids=[
        *("attributes of an image", "again", "crowd below attributes", "crowd in an id", "no crowd"),
        *("no class", "a class that is not listed", "no box"),
    ],
)
def test_coco_comes_back_whatever_its_keys_are_called(
    image: dict[str, Any], annotation: dict[str, Any]
) -> None:
    document = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
    written = write_coco(_collection("a.json", json.dumps(document)), file="a.json")
    assert json.loads(written.files["a.json"]) == document
    assert not written.unsaid


def test_three_records_of_one_image_come_back() -> None:
    images = [_IMAGE, {**_IMAGE, "id": 2}, {**_IMAGE, "id": 3, "width": 11}]
    annotations = [{**_ANNOTATION, "image_id": number} for number in (3, 1, 2)]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    collection = _collection("a.json", json.dumps(document))
    assert collection.images.height == 1
    assert json.loads(write_coco(collection, file="a.json").files["a.json"]) == document


def test_a_file_that_only_lists_images_does_not_become_one_that_says_that_they_are_empty() -> None:
    document = {"images": [_IMAGE], "categories": [{"id": 1, "name": "cat"}]}
    written = write_coco(_collection("a.json", json.dumps(document)), file="a.json").files["a.json"]
    assert json.loads(written) == document
    assert read_label(written, "a.json").mentions["instances"].to_pylist() == [None]


@pytest.mark.parametrize(
    "further",
    [
        {"score": 0.25, "id": 3, "area": 4, "keypoints": [1, 2, 2]},
        {"score": 0.25, "iscrowd": 1},
        {"score": 0.25, "id": 3, "area": 4.5, "iscrowd": 0},
        {},
    ],
)
def test_results_get_no_member_that_they_did_not_have(further: dict[str, Any]) -> None:
    results = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4.5], **further}]
    written = write_coco_results(_collection("r.json", json.dumps(results)))
    assert json.loads(written.files["results.json"]) == results


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


_DETECTION = {"bbox": [1, 2, 3.5, 4], "label": 0, "category": "cat"}
_REGION = {"bbox": [1, 2, 3, 4], "phrase": "cat", "score": 0.5}


def _detection(*instances: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"filename": "a.jpg", "height": 9, "width": 8, **members, "detection": {"instances": [*instances]}}


def _grounding(*regions: dict[str, Any], **members: Any) -> dict[str, Any]:
    inner = {"caption": "a cat", "regions": [*regions]}
    return {"filename": "a.jpg", "height": 9, "width": 8, **members, "grounding": inner}


@pytest.mark.parametrize(
    "lines",
    [
        [_detection({**_DETECTION, "attributes": {"color": "red", "score": 3}}, attributes={"w": 1})],
        [_detection(_DETECTION, caption="beside a detection"), _detection(caption=None)],
        [_grounding(_REGION, caption="beside the grounding")],
        [_grounding({**_REGION, "attributes": {"q": 1}}, tokens=[1, 2])],
        [{**_grounding(), "grounding": {"caption": "c", "regions": [_REGION], "tokens": [[1, 2]]}}],
        [{**_detection(), "detection": {"instances": [], "source": "x"}}],
        [_grounding(_REGION, {**_REGION, "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "phrase": ["a", "b"]})],
    ],
    ids=["attributes", "caption", "two captions", "keys", "of the grounding", "of the detection", "boxes"],
)
def test_odvg_comes_back_whatever_its_keys_are_called(lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    written = write_odvg(_collection("a.jsonl", text)).files["annotations.jsonl"]
    assert _lines(written.decode()) == lines


def test_several_lines_of_one_image_are_one_image_and_come_back_as_they_were() -> None:
    lines = [
        _detection(_DETECTION),
        {**_detection({**_DETECTION, "label": 1, "category": "dog"}), "width": 7},
        _grounding(_REGION),
        {**_grounding({**_REGION, "phrase": "dog"}), "more": 1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    delivery = read_label(text.encode(), "a.jsonl")
    # Each mention takes all instances of its image: two would double them.
    assert delivery.mentions.select(["ref", "instances"]).to_pylist() == [{"ref": "a", "instances": 4}]
    written = write_odvg(of_deliveries([("a.jsonl", delivery)])).files["annotations.jsonl"]
    assert _lines(written.decode()) == lines


def test_lines_of_one_image_come_together_in_a_merge_but_for_captions() -> None:
    plain = json.dumps(_detection(_DETECTION)) + "\n"
    united = unite([_collection("a.jsonl", plain * 2), _collection("b.jsonl", plain)])
    merged = _lines(write_odvg(_by_image(united)).files["annotations.jsonl"].decode())
    assert [len(line["detection"]["instances"]) for line in merged] == [3]
    captions = json.dumps(_grounding(_REGION)) + "\n"
    united = unite([_collection("a.jsonl", captions * 2), _collection("b.jsonl", plain)])
    merged = _lines(write_odvg(_by_image(united)).files["annotations.jsonl"].decode())
    assert [len(line["grounding"]["regions"]) for line in merged if "grounding" in line] == [1, 1]
    assert [len(line["detection"]["instances"]) for line in merged if "detection" in line] == [1]


_OBJECT = "<name>a</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"


def _tree(element: ET.Element) -> Any:
    children = sorted((child.tag, place) for place, child in enumerate(element))
    inner = [_tree(element[place]) for _, place in children]
    return element.tag, element.attrib, (element.text or "").strip(), inner


@pytest.mark.parametrize(
    "inner",
    [
        "<attributes><attribute><name>color</name><value>red</value></attribute></attributes>" + _OBJECT,
        _OBJECT
        + "<part><name>head</name><bndbox><xmin>1.5</xmin></bndbox></part><part><name>f</name></part>",
        _OBJECT + "<actions><jumping>1</jumping></actions><point><x>3.5</x><y>4</y></point>",
        _OBJECT.replace("<xmin>1<", '<xmin by="me">1.50<').replace("<bndbox>", '<bndbox kind="z">'),
        _OBJECT.replace("<name>", '<name of="it">'),
        _OBJECT.replace("<xmin>", "<angle>4</angle><xmin>"),
    ],
    ids=["attributes", "parts", "actions", "of the box", "of the name", "in the box"],
)
def test_voc_comes_back_whatever_stands_in_an_object(inner: str) -> None:
    text = f"<annotation><filename>a.jpg</filename><object>{inner}</object></annotation>"
    written = write_voc(_collection("a.xml", text)).files["a.xml"]
    assert _tree(ET.fromstring(written)) == _tree(ET.fromstring(text))


@pytest.mark.parametrize(
    ("double", "found"),
    [
        ("<name>b</name>", "2 <name>"),
        ("<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>7</xmax><ymax>8</ymax></bndbox>", "2 <bndbox>"),
    ],
)
def test_an_object_of_two_names_or_boxes_is_not_half_read(double: str, found: str) -> None:
    text = f"<annotation>\n<object>{_OBJECT}{double}</object></annotation>"
    with pytest.raises(UnreadableError, match=rf"line 2: <object> with {found}"):
        read_label(text.encode(), "a.xml")


_WORDS = "<attributes><color>red</color></attributes>" + _OBJECT
_VOC = f"<annotation><segmented>1</segmented><object>{_WORDS}</object></annotation>"


def test_what_a_form_says_of_its_images_goes_into_coco_and_is_named_where_it_cannot_go() -> None:
    collection = _collection("a.xml", _VOC)
    written = write_coco(collection, file="a.json")
    document = json.loads(written.files["a.json"])
    assert document["images"][0]["attributes"] == {"segmented": "1"}
    assert document["annotations"][0]["attributes"] == {"color": "red"}
    assert not written.unsaid
    assert write_kitti(collection).unsaid == {"color": 1, "segmented of the image": 1}


def test_what_coco_says_of_files_images_and_classes_is_named_where_it_cannot_go() -> None:
    document = {
        "info": {"year": 2017},
        "images": [{**_IMAGE, "license": 3}],
        "annotations": [_ANNOTATION],
        "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}],
    }
    unsaid = write_kitti(_collection("a.json", json.dumps(document))).unsaid
    assert unsaid == {
        "area": 1,
        "id": 1,
        "info of the file": 1,
        "license of the image": 1,
        "supercategory of the class": 1,
    }


def test_captions_stay_captions_between_odvg_and_coco() -> None:
    text = json.dumps(_grounding(_REGION)) + "\n"
    coco = write_coco(_collection("a.jsonl", text), file="a.json").files["a.json"]
    assert json.loads(coco)["images"][0]["caption"] == "a cat"
    again = write_odvg(_collection("a.json", coco.decode())).files["annotations.jsonl"]
    assert _lines(again.decode())[0]["grounding"]["caption"] == "a cat"


def test_names_that_only_we_use_do_no_harm_in_a_file() -> None:
    image = {**_IMAGE, "$again": [3, {"id": 4}], "$written": 1}
    document = {"images": [image], "annotations": [_ANNOTATION], "categories": [{"id": 1, "name": "cat"}]}
    written = write_coco(_collection("a.json", json.dumps(document)), file="a.json")
    assert len(json.loads(written.files["a.json"])["images"]) == 1
    line = {**_detection(_DETECTION), "$again": [3, {"detection": {}}]}
    written = write_odvg(_collection("a.jsonl", json.dumps(line)))
    assert len(_lines(written.files["annotations.jsonl"].decode())) == 1


def test_what_is_left_unsaid_is_called_by_its_name() -> None:
    shapes = [{"label": "", "shape_type": "rectangle", "points": [[1, 2], [3, 4]]}]
    document = {"shapes": shapes, "imagePath": "a.jpg"}
    unsaid = write_kitti(_collection("a.json", json.dumps(document))).unsaid
    assert unsaid == {"instances without a class": 1, "points": 1, "shape_type": 1}
    region = {**_REGION, "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    unsaid = write_kitti(_collection("a.jsonl", json.dumps(_grounding(region)))).unsaid
    assert unsaid == {"caption of the image": 1}
