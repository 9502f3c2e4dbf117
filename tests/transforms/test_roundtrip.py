"""Read, write and read again: the same form gives back what came in."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transforms.formats.coco import read_coco, read_coco_chunks
from transforms.formats.detect import read_label
from transforms.formats.kitti import read_kitti
from transforms.formats.odvg import read_odvg
from transforms.formats.voc import read_voc
from transforms.formats.yolo import read_yolo
from transforms.writers.coco import write_coco, write_coco_results
from transforms.writers.collection import of_deliveries
from transforms.writers.kitti import write_kitti
from transforms.writers.odvg import write_odvg
from transforms.writers.voc import write_voc
from transforms.writers.yolo import write_yolo

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _words(data: bytes) -> list[list[str]]:
    return [line.split() for line in data.decode().splitlines() if line.strip()]


@pytest.mark.parametrize("folder", ["kitti/label_2", "kitti-cropped/training/label_2"])
def test_real_kitti_files_come_back_word_by_word(shared_data: Path, folder: str) -> None:
    files = sorted((shared_data / folder).glob("*.txt"))
    assert len(files) > 10
    given_ = {f"label_2/{file.name}": file.read_bytes() for file in files}
    written = write_kitti(of_deliveries((path, read_kitti(data, path)) for path, data in given_.items()))
    assert {path: _words(data) for path, data in written.files.items()} == {
        path: _words(data) for path, data in given_.items()
    }
    assert not written.unsaid


@pytest.mark.parametrize("folder", ["labels", "labels-segment"])
def test_real_yolo_files_come_back_word_by_word(shared_data: Path, folder: str) -> None:
    files = sorted((shared_data / "coco128-yolo" / folder).rglob("*.txt"))
    given_ = {f"labels/{file.name}": file.read_bytes() for file in files}
    written = write_yolo(of_deliveries((path, read_yolo(data, path)) for path, data in given_.items()))
    assert {path: _words(written.files[path]) for path in given_} == {
        path: _words(data) for path, data in given_.items()
    }


def test_a_darknet_set_comes_back_with_its_names(shared_data: Path) -> None:
    folder = shared_data / "yolo-darknet-pairs"
    given_ = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.suffix in {".txt", ".names"} and "README" not in file.name
    }
    collection = of_deliveries((path, read_label(data, path)) for path, data in given_.items())
    written = write_yolo(collection, layout="darknet")
    for path, data in written.files.items():
        if path in given_ and path != "train.txt":
            assert _words(data) == _words(given_[path])
    names = next(data for path, data in given_.items() if path.endswith(".names"))
    assert written.files["obj.names"].split() == names.split()
    assert b"names = obj.names" in written.files["obj.data"]


def _tree(element: ET.Element) -> Any:
    """An element without the order of children of different names."""
    by_name: dict[str, list[Any]] = {}
    for child in element:
        by_name.setdefault(child.tag, []).append(_tree(child))
    return (element.attrib, (element.text or "").strip(), by_name)


def test_real_voc_files_come_back_element_by_element(shared_data: Path) -> None:
    files = sorted((shared_data / "bccd-voc" / "Annotations").glob("*.xml"))
    files += sorted((shared_data / "formats" / "voc_dataset").rglob("*.xml"))
    files += sorted((shared_data / "formats" / "roboflow_dataset" / "voc").rglob("*.xml"))
    given_ = {f"{i}/{file.name}": file.read_bytes() for i, file in enumerate(files)}
    written = write_voc(of_deliveries((path, read_voc(data, path)) for path, data in given_.items()))
    assert len(written.files) == len(files) > 360
    for path, data in given_.items():
        assert _tree(ET.fromstring(written.files[path])) == _tree(ET.fromstring(data)), path


def test_the_splits_of_voc_come_back(shared_data: Path) -> None:
    folder = shared_data / "bccd-voc"
    lists = {f"ImageSets/Main/{split}.txt" for split in ("train", "val", "test")}
    paths = [*lists, *(f"Annotations/{file.name}" for file in sorted((folder / "Annotations").glob("*.xml")))]
    collection = of_deliveries((path, read_label((folder / path).read_bytes(), path)) for path in paths)
    written = write_voc(collection)
    for path in lists:
        assert sorted(written.files[path].split()) == sorted((folder / path).read_bytes().split())


def _coco_files(shared_data: Path) -> list[Path]:
    names = ("nuts-coco-masks", "coco128-json", "visdrone-coco-json")
    files = [file for name in names for file in (shared_data / name).rglob("*.json")]
    files.append(shared_data / "ap-reference" / "coco-val2014-100" / "instances_val2014_100.json")
    samples = shared_data / "formats" / "coco_dataset"
    for form in ("instances", "person_keypoints", "stuff"):
        files += sorted(samples.rglob(f"{form}_*.json"))
    return [*files, *sorted(samples.rglob("_annotations.coco.json"))]


def test_real_coco_files_come_back_value_by_value(shared_data: Path) -> None:
    for file in _coco_files(shared_data):
        data = file.read_bytes()
        written = write_coco(of_deliveries([("a.json", read_coco(data, "a.json"))]), file="a.json")
        assert json.loads(written.files["a.json"]) == json.loads(data), file
        assert not {key for key in written.unsaid if key != "instances without a box"}


def test_real_results_come_back_value_by_value(shared_data: Path) -> None:
    folder = shared_data / "ap-reference" / "coco-val2014-100"
    for name in ("bbox", "segm"):
        data = (folder / f"instances_val2014_fake{name}100_results.json").read_bytes()
        written = write_coco_results(of_deliveries([("r.json", read_coco(data, "r.json"))]))
        assert json.loads(written.files["results.json"]) == json.loads(data)


@pytest.mark.parametrize("slice_bytes", [64, 700, 5_000, 1_000_000])
def test_a_coco_file_in_parts_says_what_it_says_as_a_whole(shared_data: Path, slice_bytes: int) -> None:
    for file in _coco_files(shared_data):
        data = file.read_bytes()
        if slice_bytes < 1000 and len(data) > 100_000:
            continue
        whole = read_coco(data, "a/b.json")
        parts = list(read_coco_chunks(io.BytesIO(data), "a/b.json", slice_bytes=slice_bytes))
        for name in ("labels", "mentions", "categories"):
            rows = [row for part in parts for row in getattr(part, name).to_pylist()]
            assert rows == getattr(whole, name).to_pylist(), (file, name)


numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: v + 0.0)
words = st.one_of(
    numbers.map(repr),
    numbers.map(lambda v: f"{v:.2f}"),
    numbers.map(lambda v: f"{v:.6f}"),
    st.integers(-9999, 9999).map(str),
    st.sampled_from(["-0", "+1.50", ".5", "5.", "1e3", "-1.50E-2", "007"]),
)
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=9
).filter(lambda name: not name[0].isdigit() and name.strip() == name and len(name.split()) == 1)


@few
@given(st.lists(st.tuples(names, st.lists(words, min_size=12, max_size=13), words, st.integers(-1, 9))))
def test_any_kitti_line_comes_back_word_by_word(rows: list[tuple[str, list[str], str, int]]) -> None:
    lines = [[name, first, str(occluded), *rest] for name, rest, first, occluded in rows]
    text = "".join(" ".join(line) + "\n" for line in lines).encode()
    try:
        delivery = read_kitti(text, "a.txt")
    except Exception:  # noqa: BLE001 - a name may be a number
        return
    assert _words(write_kitti(of_deliveries([("a.txt", delivery)])).files["a.txt"]) == _words(text)


parts_of_image = st.one_of(
    st.floats(-1, 2, allow_nan=False).map(lambda v: f"{v:.6f}"),
    st.floats(0, 1).map(repr).filter(lambda word: "e-" not in word or len(word) < 24),
    st.sampled_from(["0", "1", "0.50", ".5", "1.", "+0.25"]),
)


@few
@given(
    st.lists(
        st.tuples(
            st.integers(0, 99),
            st.integers(2, 9).flatmap(
                lambda n: st.lists(parts_of_image, min_size=2 * n, max_size=2 * n).filter(
                    lambda v: len(v) != 6
                )
            )
            | st.lists(parts_of_image, min_size=5, max_size=5),
        )
    )
)
def test_any_yolo_line_comes_back_with_its_numbers(rows: list[tuple[int, list[str]]]) -> None:
    lines = [[str(number), *points] for number, points in rows]
    text = "".join(" ".join(line) + "\n" for line in lines).encode()
    written = write_yolo(of_deliveries([("a.txt", read_yolo(text, "a.txt"))])).files["a.txt"]
    found = _words(written)
    assert [[float(word) for word in line] for line in found] == [
        [float(word) for word in line] for line in lines
    ]
    boxes = [i for i, line in enumerate(lines) if len(line) < 7]
    assert [found[i] for i in boxes] == [lines[i] for i in boxes]


tags = st.sampled_from(["pose", "truncated", "difficult", "occluded", "part", "colour", "note", "actions"])
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), max_size=9)
leaves = st.dictionaries(tags, texts, max_size=3)


@few
@given(
    st.lists(
        st.tuples(
            texts.filter(bool), st.lists(words.filter(lambda w: w != "-0"), min_size=4, max_size=4), leaves
        )
    ),
    leaves,
    st.none() | st.tuples(st.sampled_from(["640", "640.0", "x"]), st.sampled_from(["480", "480.5", ""])),
)
def test_any_voc_file_comes_back_element_by_element(
    objects: list[tuple[str, list[str], dict[str, str]]], outside: dict[str, str], size: Any
) -> None:
    root = ET.Element("annotation", {"verified": "yes"})
    for tag, text in outside.items():
        ET.SubElement(root, tag).text = text
    if size is not None:
        element = ET.SubElement(root, "size")
        for side, text in zip(("width", "height"), size, strict=True):
            ET.SubElement(element, side).text = text
    for name, corners, leaves_ in objects:
        element = ET.SubElement(root, "object")
        ET.SubElement(element, "name").text = name
        for tag, text in leaves_.items():
            ET.SubElement(element, tag).text = text
        box = ET.SubElement(element, "bndbox")
        for corner, word in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ET.SubElement(box, corner).text = word
    data = ET.tostring(root)
    written = write_voc(of_deliveries([("a.xml", read_voc(data, "a.xml"))])).files["a.xml"]
    assert _tree(ET.fromstring(written)) == _tree(root)


keys = st.text(max_size=5) | st.sampled_from(["id", "iscrowd", "attributes"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)
boxes = st.lists(numbers, min_size=4, max_size=4)
segmentations = st.one_of(
    st.lists(st.lists(numbers, min_size=6, max_size=8), min_size=1, max_size=2),
    st.fixed_dictionaries({"size": st.just([9, 9]), "counts": st.just("0<1") | st.just([3, 78])}),
)


@st.composite
def documents(draw: Any) -> dict[str, Any]:
    count = draw(st.integers(1, 4))
    further = st.dictionaries(
        st.sampled_from(["keypoints", "attributes", "again", "x y", 'q"', "ü"]), values, max_size=2
    )
    ids = draw(st.lists(st.integers(0, 10**12), min_size=count, max_size=count, unique=True))
    images = [
        {"id": i, "file_name": f"d/{n}.x.jpg", "width": 9, "height": 8, **draw(further)}
        for n, i in enumerate(ids)
    ]
    categories = [{"id": n * 3, "name": f"c {n}", **draw(further)} for n in range(draw(st.integers(1, 3)))]
    annotations = []
    for n in range(draw(st.integers(0, 5))):
        annotation = {
            "id": n + 5,
            "image_id": draw(st.sampled_from(ids)),
            "category_id": draw(st.sampled_from(categories))["id"],
            "bbox": draw(boxes),
            **draw(further),
        }
        for key, strategy in (
            ("segmentation", segmentations),
            ("area", numbers),
            ("iscrowd", st.sampled_from([0, 1])),
            ("score", st.floats(0, 1)),
        ):
            if draw(st.booleans()):
                annotation[key] = draw(strategy)
        annotations.append(annotation)
    document = {"images": images, "annotations": annotations, "categories": categories}
    return document | draw(st.dictionaries(st.sampled_from(["info", "licenses", "contributor"]), values))


@few
@given(documents())
def test_any_coco_file_comes_back_value_by_value(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    written = write_coco(of_deliveries([("a.json", read_coco(data, "a.json"))]), file="a.json")
    assert json.loads(written.files["a.json"]) == document
    parts = list(read_coco_chunks(io.BytesIO(data), "a.json", slice_bytes=40))
    again = write_coco(of_deliveries(("a.json", part) for part in parts), file="a.json")
    assert json.loads(again.files["a.json"]) == document


def test_two_records_of_one_image_come_back_with_the_ids_of_their_annotations() -> None:
    document = {
        "images": [
            {"id": 1, "file_name": "a.jpg"},
            {"id": 2, "file_name": "b.jpg"},
            {"id": 3, "file_name": "a.jpg"},
        ],
        "categories": [{"id": 1, "name": "c"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0, "area": 12}
            for n in (1, 2, 3)
        ],
    }
    collection = of_deliveries([("a.json", read_coco(json.dumps(document).encode(), "a.json"))])
    again = json.loads(write_coco(collection, file="a.json").files["a.json"])
    assert again["annotations"] == document["annotations"]
    assert sorted(again["images"], key=lambda image: image["id"]) == document["images"]


@st.composite
def odvg_lines(draw: Any) -> list[dict[str, Any]]:
    lines = []
    for n in range(draw(st.integers(1, 4))):
        line: dict[str, Any] = {"file_name": f"d/{n}.jpg", "height": 5, "width": 7}
        line |= draw(st.dictionaries(st.sampled_from(["image_id", "ü"]), values, max_size=2))
        if draw(st.booleans()):
            rows = [
                {"bbox": draw(boxes), "label": draw(st.integers(0, 9)), "category": draw(st.text(max_size=4))}
                for _ in range(draw(st.integers(0, 3)))
            ]
            for row in rows:
                if draw(st.booleans()):
                    row["mask"] = draw(segmentations)
            line["detection"] = {"instances": rows}
        else:
            phrases = st.text(max_size=5) | st.lists(st.text(max_size=5), min_size=1, max_size=3)
            regions = [{"bbox": draw(boxes), "phrase": draw(phrases)} for _ in range(draw(st.integers(0, 3)))]
            line["grounding"] = {"caption": draw(st.text(max_size=9)), "regions": regions}
        lines.append(line)
    return lines


@few
@given(odvg_lines())
def test_any_odvg_line_comes_back_value_by_value(lines: list[dict[str, Any]]) -> None:
    data = "\n".join(json.dumps(line) for line in lines).encode()
    written = write_odvg(of_deliveries([("a.jsonl", read_odvg(data, "a.jsonl"))]), lines="a.jsonl")
    assert [json.loads(line) for line in written.files["a.jsonl"].splitlines()] == lines


def test_counts_of_classes_survive_every_pair_of_forms(shared_data: Path) -> None:
    folder = shared_data / "bccd-voc" / "Annotations"
    paths = sorted(folder.glob("*.xml"))[:40]
    collection = of_deliveries((file.name, read_voc(file.read_bytes(), file.name)) for file in paths)
    expected = Counter(collection.boxes["category"])
    files = {
        "coco": write_coco(collection).files,
        "kitti": write_kitti(collection).files,
        "yolo": write_yolo(collection).files,
        "odvg": write_odvg(collection).files,
        "voc": write_voc(collection).files,
    }
    for form, written in files.items():
        again = of_deliveries((path, read_label(data, path)) for path, data in written.items())
        assert Counter(again.boxes["category"]) == expected, form
        assert again.images.height == 40, form
        if form != "yolo":
            corners = ("xmin", "ymin", "xmax", "ymax")
            assert again.absolute().select(corners).equals(collection.absolute().select(corners)), form
