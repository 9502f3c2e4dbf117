from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dropmill.cli import main
from storage.errors import ConfigError, UnknownKeyError, UnreadableError
from transforms.conversion.convert import convert
from transforms.conversion.mapping import read_mapping
from transforms.conversion.spec import ConvertSpec, load_spec
from transforms.formats.detect import read_label
from transforms.formats.masks import mask_box, run_lengths

SEED = """data:
  input_format: "KITTI"
  output_format: "COCO"
  output_dir: "/results"
kitti:
  image_dir: "/data/images"
  label_dir: "/data/labels"
coco:
  ann_file: "/results/data.json"
"""
CAR = "Car 0.00 0 -1.58 10.5 10 30 40 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"


def _kitti(folder: Path, labels: dict[str, str], images: dict[str, tuple[int, int]]) -> list[str]:
    for name, text in labels.items():
        file = folder / "labels" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for name, size in images.items():
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(file)
    return [
        f"kitti.image_dir={folder / 'images'}",
        f"kitti.label_dir={folder / 'labels'}",
        f"results_dir={folder / 'out'}",
    ]


def _coco(folder: Path, document: dict[str, Any], name: str = "in.json") -> list[str]:
    (folder / name).write_text(json.dumps(document))
    return [f"coco.ann_file={folder / name}", "data.input_format=COCO", f"results_dir={folder / 'out'}"]


def _run(words: list[str], path: Path | None = None) -> Any:
    return convert(load_spec(ConvertSpec, path, words))


def _command_line(*words: str) -> int | str | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["dropmill", "dataset", "annotations", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code


def _document(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "images": [
            {"id": 7, "file_name": "a/x.1.jpeg", "width": 64, "height": 48},
            {"id": 9, "file_name": "b/x.1.jpeg", "width": 64, "height": 48},
            {"id": 4, "file_name": "none.jpg", "width": 64, "height": 48},
        ],
        "categories": [
            {"id": 3, "name": "Traffic Light"},
            {"id": 90, "name": "Car"},
            {"id": 5, "name": "Bus"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 90, "bbox": [0.1, 0.1, 0.2, 30], "area": 6, "iscrowd": 1},
        ],
    }
    return document | changes


def test_the_seed_spec_loads_unmodified_and_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "convert.yaml"
    path.write_text(SEED)
    spec = load_spec(ConvertSpec, path, ["data.output_format=VOC", "verbose=true"])
    assert (spec.data.output_dir, spec.data.output_format, spec.verbose) == ("/results", "VOC", True)
    assert spec.kitti.label_dir == "/data/labels"


def test_the_current_schema_loads_and_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "convert.yaml"
    path.write_text(
        "results_dir: /r\nkitti: {no_skip: true, mapping: '', project: null}\ncoco:\n  ann_file: ???\n"
    )
    assert load_spec(ConvertSpec, path).results_dir == "/r"
    with pytest.raises(UnknownKeyError, match=r"'kitti.labeldir'; did you mean 'kitti.label_dir'"):
        load_spec(ConvertSpec, path, ["kitti.labeldir=x"])
    with pytest.raises(ConfigError, match="no_skip"):
        load_spec(ConvertSpec, path, ["kitti.no_skip=perhaps"])


def test_real_kitti_becomes_coco_with_the_name_of_the_folder_above(shared_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(shared_data / "kitti" / "image_2", data / "images")
    shutil.copytree(shared_data / "kitti" / "label_2", data / "labels")
    path = tmp_path / "convert.yaml"
    path.write_text(SEED.replace("/data/", f"{data}/").replace("/results", f"{tmp_path}/results"))
    report = _run([], path)
    assert report.files == [tmp_path / "results" / "data.json"]
    found = json.loads(report.files[0].read_text())
    names = {category["id"]: category["name"] for category in found["categories"]}
    counts = Counter(names[annotation["category_id"]] for annotation in found["annotations"])
    assert counts == {
        "Car": 35,
        "DontCare": 26,
        "Pedestrian": 14,
        "Cyclist": 6,
        "Truck": 1,
        "Misc": 1,
        "Van": 1,
    }
    assert list(names) == list(range(1, 8))
    assert len(found["images"]) == 13
    assert {(image["width"], image["height"]) for image in found["images"]} == {
        (1242, 375),
        (1238, 374),
        (1224, 370),
    }
    assert {a["iscrowd"] for a in found["annotations"] if names[a["category_id"]] == "DontCare"} == {1}


def test_real_kitti_to_coco_and_back_loses_nothing(shared_data: Path, tmp_path: Path) -> None:
    labels = shared_data / "kitti" / "label_2"
    words = [f"kitti.image_dir={shared_data / 'kitti' / 'image_2'}", f"kitti.label_dir={labels}"]
    first = _run([*words, f"results_dir={tmp_path / 'coco'}", "kitti.project=k"])
    assert first.unsaid == {}
    words = [f"coco.ann_file={tmp_path / 'coco' / 'k.json'}", "data.input_format=COCO"]
    back = _run([*words, "data.output_format=KITTI", f"results_dir={tmp_path / 'kitti'}"])
    for file in labels.glob("*.txt"):
        assert (tmp_path / "kitti" / file.name).read_text().split() == file.read_text().split()
    assert len(back.files) == 13


def test_dotted_jpeg_and_nested_names_neither_break_nor_collide(tmp_path: Path) -> None:
    words = _kitti(
        tmp_path,
        {"a.b.txt": CAR, "d/x.txt": CAR * 2, "e/x.txt": ""},
        {"a.b.jpeg": (99, 50), "d/x.PNG": (98, 50), "e/x.png": (97, 50)},
    )
    found = json.loads(_run(words).files[0].read_text())
    assert [(i["file_name"], i["width"]) for i in found["images"]] == [
        ("a.b.jpeg", 99),
        ("d/x.PNG", 98),
        ("e/x.png", 97),
    ]
    assert [a["image_id"] for a in found["annotations"]] == [1, 2, 2]
    words = _coco(tmp_path, _document())
    assert {
        f.relative_to(tmp_path / "out").as_posix() for f in _run([*words, "data.output_format=KITTI"]).files
    } == {
        "a/x.1.txt",
        "b/x.1.txt",
        "none.txt",
    }


def test_category_ids_do_not_depend_on_the_order_of_a_directory(tmp_path: Path) -> None:
    orders = []
    for folder, names in (("one", ["a", "b"]), ("two", ["b", "a"])):
        (tmp_path / folder).mkdir()
        classes = {"a": "Van", "b": "Car"}
        words = _kitti(tmp_path / folder, {}, {})
        for name in names:
            line = CAR.replace("Car", classes[name])
            words = _kitti(tmp_path / folder, {f"{name}.txt": line}, {f"{name}.png": (60, 50)})
        orders.append(json.loads(_run(words).files[0].read_text())["categories"])
    assert orders[0] == orders[1] == [{"id": 1, "name": "Car"}, {"id": 2, "name": "Van"}]


def test_nothing_is_dropped_in_silence(tmp_path: Path) -> None:
    inverted = CAR.replace("10.5 10 30 40", "30 40 10.5 10")
    outside = CAR.replace("30 40", "300 400")
    words = _kitti(
        tmp_path,
        {"a.txt": CAR + CAR + inverted + outside, "empty.txt": ""},
        {"a.png": (60, 50), "empty.png": (60, 50), "unlabelled.png": (60, 50)},
    )
    report = _run(words)
    found = json.loads(report.files[0].read_text())
    assert len(found["annotations"]) == 4
    assert [image["file_name"] for image in found["images"]] == ["a.png", "empty.png", "unlabelled.png"]
    assert all({"width", "height"} <= image.keys() for image in found["images"])
    assert report.notes == ["1 images have no label file: unlabelled.png …"]


def test_images_without_a_box_go_where_no_skip_is_false_and_are_listed(tmp_path: Path) -> None:
    words = _kitti(tmp_path, {"a.txt": CAR, "b.txt": ""}, {"a.png": (60, 50), "b.png": (60, 50)})
    report = _run([*words, "kitti.no_skip=false"])
    assert [file.name for file in report.files] == [f"{tmp_path.name}.json", "skipped_files.txt"]
    assert report.files[1].read_text() == "b.png\n"
    assert len(json.loads(report.files[0].read_text())["images"]) == 1


def test_two_blanks_between_columns_are_one(tmp_path: Path) -> None:
    words = _kitti(tmp_path, {"a.txt": CAR.replace(" ", "  ")}, {"a.png": (60, 50)})
    found = json.loads(_run(words).files[0].read_text())
    assert found["annotations"][0]["bbox"] == [10.5, 10, 19.5, 30]


def test_a_class_mapping_numbers_and_renames_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("- person: [Pedestrian, Person]\n- vehicle: [Car, Van]\n")
    lines = CAR + CAR.replace("Car", "Pedestrian") + CAR.replace("Car", "Tram")
    words = _kitti(tmp_path, {"a.txt": lines}, {"a.png": (60, 50)})
    report = _run([*words, f"kitti.mapping={mapping}"])
    found = json.loads(report.files[0].read_text())
    assert found["categories"] == [{"id": 1, "name": "person"}, {"id": 2, "name": "vehicle"}]
    assert [a["category_id"] for a in found["annotations"]] == [2, 1]
    assert report.notes[0].startswith("1 boxes of classes that")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a: [x]\n- b: [x]\n", "has the targets 'a' and 'b'"),
        ("- a: [1]\n", "expected names"),
        ("- a\n", "expected a list of"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_a_wrong_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_mapping(tmp_path / "m.yaml")


def test_crowds_become_regions_to_ignore_and_blanks_in_classes_come_back(tmp_path: Path) -> None:
    report = _run([*_coco(tmp_path, _document()), "data.output_format=KITTI"])
    out = tmp_path / "out"
    assert (out / "a/x.1.txt").read_text().split()[:8] == [
        "Traffic%20Light",
        "0.00",
        "0",
        "0.00",
        "1.00",
        "2.00",
        "4.00",
        "6.00",
    ]
    assert (out / "b/x.1.txt").read_text().split()[:8] == [
        "DontCare",
        "0.00",
        "0",
        "0.00",
        "0.10",
        "0.10",
        "0.30",
        "30.10",
    ]
    assert (out / "none.txt").read_text() == ""
    assert report.unsaid["classes with a blank, written as %20"] == 1
    assert report.unsaid["classes of regions to ignore, which become DontCare"] == 1
    delivery = read_label((out / "a/x.1.txt").read_bytes(), "a.txt")
    assert delivery.labels["category"].to_pylist() == ["Traffic Light"]


def test_refine_box_takes_the_extent_of_polygons_and_run_lengths_and_no_empty_mask(tmp_path: Path) -> None:
    encoded = {"size": [4, 4], "counts": "55"}
    assert run_lengths("55") == [5, 5]
    shapes = [
        [[10, 10, 20, 10, 20, 30.5]],
        {"size": [4, 4], "counts": [5, 2, 2, 2, 5]},
        {"size": [4, 4], "counts": [16]},
    ]
    annotations = [
        {
            "id": i,
            "image_id": 7,
            "category_id": 3,
            "bbox": [0, 0, 50, 40],
            "area": 1,
            "iscrowd": 0,
            "segmentation": s,
        }
        for i, s in enumerate(shapes)
    ]
    words = [*_coco(tmp_path, _document(annotations=annotations)), "data.output_format=KITTI"]
    _run([*words, "coco.refine_box=true"])
    rows = [line.split()[4:8] for line in (tmp_path / "out/a/x.1.txt").read_text().splitlines()]
    assert rows == [
        ["10.00", "10.00", "20.00", "30.50"],
        ["1.00", "1.00", "3.00", "3.00"],
        ["0.00", "0.00", "50.00", "40.00"],
    ]
    with pytest.raises(ValueError, match="runs of 10 pixels for 4x4"):
        mask_box(json.dumps(encoded))


def test_encoded_run_lengths_are_those_of_pycocotools(shared_data: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    results = json.loads(
        (shared_data / "ap-reference/coco-val2014-100/instances_val2014_fakesegm100_results.json").read_text()
    )
    for result in results[:200]:
        shape = result["segmentation"]
        pixels = mask.decode(shape)
        rows, columns = pixels.any(axis=1).nonzero()[0], pixels.any(axis=0).nonzero()[0]
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if rows.size else None
        assert mask_box(json.dumps(shape)) == expected


def test_odvg_to_coco_and_back_keeps_every_category(tmp_path: Path) -> None:
    words = [*_coco(tmp_path, _document()), "data.output_format=ODVG"]
    files = {file.name: file for file in _run(words).files}
    assert set(files) == {"in_odvg.jsonl", "in_odvg_labelmap.json"}
    assert json.loads(files["in_odvg_labelmap.json"].read_text()) == {"0": "Traffic Light", "1": "Car"}
    lines = [json.loads(line) for line in files["in_odvg.jsonl"].read_text().splitlines()]
    assert [line["image_id"] for line in lines] == [7, 9, 4]
    assert lines[1]["detection"]["instances"][0] | {"attributes": 0} == {
        "bbox": [0.1, 0.1, 0.3, 30.1],
        "label": 1,
        "category": "Car",
        "attributes": 0,
    }
    back = [
        f"odvg.ann_file={files['in_odvg.jsonl']}",
        "data.input_format=ODVG",
        f"results_dir={tmp_path / 'back'}",
    ]
    back.append(f"odvg.labelmap_file={files['in_odvg_labelmap.json']}")
    (file,) = _run(back).files
    assert file.name == "in_odvg.json"
    found = json.loads(file.read_text())
    names = {category["id"]: category["name"] for category in found["categories"]}
    assert [names[a["category_id"]] for a in found["annotations"]] == ["Traffic Light", "Car"]
    with_background = json.loads(_run([*back, "coco.add_background=true"]).files[0].read_text())
    names = {category["id"]: category["name"] for category in with_background["categories"]}
    assert names == {0: "background", 1: "Traffic Light", 2: "Car"}
    assert [names[a["category_id"]] for a in with_background["annotations"]] == ["Traffic Light", "Car"]


def test_coco_ids_become_contiguous_also_with_unused_categories(tmp_path: Path) -> None:
    words = _coco(tmp_path, _document())
    (file,) = _run(words).files
    assert file.name == "in_remapped.json"
    found = json.loads(file.read_text())
    assert [(c["id"], c["name"]) for c in found["categories"]] == [(0, "Traffic Light"), (1, "Car")]
    assert [(a["id"], a["category_id"]) for a in found["annotations"]] == [(1, 0), (2, 1)]
    assert found["images"] == _document()["images"]
    found = json.loads(_run([*words, "coco.use_all_categories=true"]).files[0].read_text())
    assert [c["id"] for c in found["categories"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("source", "target"),
    [("KITTI", "LabelMe"), ("aicity", "ovpkl"), ("nvidia_pas", "tao_clip"), ("COCO", "CVAT")],
)
def test_a_pair_that_is_not_supported_is_an_error_and_no_pass(
    tmp_path: Path, source: str, target: str
) -> None:
    with pytest.raises(ConfigError, match="is not supported"):
        _run([f"data.input_format={source}", f"data.output_format={target}", f"results_dir={tmp_path}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kitti.label_dir=/nowhere", "results_dir=out"], "kitti.label_dir: /nowhere does not exist"),
        (["data.input_format=COCO", "results_dir=out"], "coco.ann_file: no value"),
        (["kitti.label_dir=."], "results_dir: no value"),
        (["data.input_format=KITI", "results_dir=out"], "did you mean 'kitti'"),
    ],
)
def test_what_is_missing_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _run(words)


def _yolo(folder: Path, *trees: str) -> list[str]:
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (100, 50)).save(folder / "images" / "a.jpg")
    for tree in trees:
        (folder / tree).mkdir()
        (folder / tree / "a.txt").write_text("3 0.5 0.5 0.2 0.2\n")
    words = [f"yolo.label_dir={folder}", f"yolo.image_dir={folder / 'images'}"]
    return [*words, "data.input_format=yolo", f"results_dir={folder / 'out'}"]


@pytest.mark.parametrize("target", ["coco", "voc", "kitti", "odvg"])
def test_yolo_without_class_names_is_refused(tmp_path: Path, target: str) -> None:
    words = [*_yolo(tmp_path / "set", "labels"), f"data.output_format={target}"]
    with pytest.raises(ConfigError, match=r"yolo.label_dir: the class numbers 3 have no name; .*data.yaml"):
        _run(words)
    # Beside the folder of a split, above that of the labels.
    (tmp_path / "data.yaml").write_text("names: [a, b, c, traffic light]\n")
    assert "traffic light" in _run(words).classes.values()


def test_two_trees_of_labels_are_never_mixed(tmp_path: Path) -> None:
    words = _yolo(tmp_path, "labels", "labels-segment")
    (tmp_path / "data.yaml").write_text("names: [a, b, c, d]\n")
    found = "labels/a.txt and labels-segment/a.txt speak of one image; name one of the folders"
    with pytest.raises(ConfigError, match=found):
        _run([*words, "data.output_format=yolo"])
    assert _run([*words, "data.output_format=coco", f"yolo.label_dir={tmp_path / 'labels'}"]).boxes == 1


def test_a_box_without_a_class_is_of_one_that_the_table_names(tmp_path: Path) -> None:
    box = '<box label="" xtl="1" ytl="2" xbr="3" ybr="4"/>'
    text = f'<annotations><image name="a.jpg" width="9" height="9">{box}</image></annotations>'
    (tmp_path / "a.xml").write_text(text)
    words = ["data.input_format=cvat", f"cvat.label_dir={tmp_path / 'a.xml'}", f"results_dir={tmp_path}"]
    report = _run([*words, "data.output_format=coco"])
    document = json.loads(report.files[0].read_text())
    assert document["categories"] == [{"id": document["annotations"][0]["category_id"], "name": "unknown"}]
    assert report.unsaid["instances without a class"] == 1


def test_labels_of_another_form_are_refused(tmp_path: Path) -> None:
    words = _kitti(tmp_path, {"a.txt": "0 0.5 0.5 0.1 0.1\n"}, {"a.png": (60, 50)})
    with pytest.raises(UnreadableError, match="YOLO labels"):
        _run(words)


@pytest.mark.parametrize("target", ["kitti", "coco", "odvg", "voc", "yolo"])
def test_every_form_that_is_read_becomes_every_form_that_is_written(
    shared_data: Path, tmp_path: Path, target: str
) -> None:
    formats = shared_data / "formats"
    sources = {
        "voc": (formats / "roboflow_dataset/voc/train", None),
        "yolo": (
            formats / "roboflow_dataset/yolo/train/labels",
            formats / "roboflow_dataset/yolo/train/images",
        ),
        "cvat": (formats / "cvat_dataset/for_images/export_task/train.xml", None),
        "tfrecord": (formats / "roboflow_dataset/tfrecord/train/train.tfrecord", None),
        "open_images": (
            formats / "open_images_dataset/v6/annotations/test-annotations-bbox.csv",
            formats / "open_images_dataset/v6/images/test",
        ),
    }
    for source, (labels, images) in sources.items():
        words = [
            f"data.input_format={source}",
            f"data.output_format={target}",
            f"{source}.label_dir={labels}",
        ]
        if images is not None:
            words.append(f"{source}.image_dir={images}")
        report = _run([*words, f"results_dir={tmp_path / source}"])
        assert report.files
        assert report.boxes >= 1
        read_label(report.files[0].read_bytes(), report.files[0].name)


def test_both_generations_of_the_schema_write_the_same_files(tmp_path: Path) -> None:
    words = _kitti(tmp_path / "set", {"a.txt": CAR}, {"a.png": (60, 50)})[:2]
    reports = {}
    for key in ("data.output_dir", "results_dir"):
        reports[key] = _run([*words, f"{key}={tmp_path / key}", "kitti.mapping=", "data.output_format=coco"])
    old, new = ([file.read_bytes() for file in report.files] for report in reports.values())
    assert old == new
    assert {file.name for report in reports.values() for file in report.files} == {"set.json"}


def test_a_link_to_images_gives_its_own_folder_its_name(tmp_path: Path) -> None:
    words = _kitti(tmp_path / "far" / "away", {"a.txt": CAR}, {"a.png": (60, 50)})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(words[0].partition("=")[2])
    report = _run([*words, f"kitti.image_dir={tmp_path / 'data' / 'images'}"])
    assert report.files[0].name == "data.json"


@pytest.mark.parametrize("target", ["CVAT", "ovpkl"])
def test_on_the_command_line_an_unsupported_pair_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    words = ["data.input_format=KITTI", f"data.output_format={target}", f"results_dir={tmp_path}"]
    assert _command_line("convert", *words) == 2
    said = capsys.readouterr()
    assert "is not supported; from: kitti" in said.err
    assert "success" not in said.out


def test_an_image_whose_label_file_is_empty_keeps_its_size_with_no_skip(tmp_path: Path) -> None:
    words = _kitti(tmp_path, {"a.txt": CAR, "b.txt": ""}, {"a.png": (60, 50), "b.png": (40, 30)})
    found = json.loads(_run([*words, "kitti.no_skip=true"]).files[0].read_text())
    assert [(i["file_name"], i["width"], i["height"]) for i in found["images"]] == [
        ("a.png", 60, 50),
        ("b.png", 40, 30),
    ]


def test_all_categories_go_to_odvg_also_where_ids_have_gaps(tmp_path: Path) -> None:
    words = [*_coco(tmp_path, _document()), "data.output_format=ODVG", "coco.use_all_categories=true"]
    names = [json.loads(file.read_text()) for file in _run(words).files if "labelmap" in file.name]
    assert names == [{"0": "Traffic Light", "1": "Car", "2": "Bus"}]


def test_refine_box_below_coco_does_something_from_the_command_line(tmp_path: Path) -> None:
    document = _document()
    document["annotations"][0]["segmentation"] = [[2, 2, 4, 2, 4, 5]]
    words = _coco(tmp_path, document)
    for asked, left in (("false", "1.00"), ("true", "2.00")):
        arguments = [*words, "data.output_format=KITTI", f"coco.refine_box={asked}"]
        assert _command_line("convert", *arguments) == 0
        assert (tmp_path / "out" / "a/x.1.txt").read_text().split()[4] == left
