"""``dropmill dataset analytics``: the seeds' specs, their lines, their files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dropmill.analytics_spec import load_analytics_spec
from dropmill.cli.analytics import analytics
from ingest.batch import Committer
from ingest.events import DatasetRule
from ingest.parse import Limits, parse_objects
from ingest.reconcile import reconcile
from storage.errors import ConfigError, DropmillError, UnknownKeyError
from storage.lake import Lake
from storage.object_store import ObjectStore

_ANALYZE = """\
data:
  input_format: "KITTI"
  output_dir: "/results/analytics"
  image_dir: "/data/images"
  ann_path: "/data/labels"
workers: 2
image:
  generate_image_with_bounding_box: False
  sample_size: 100
graph:
  generate_summary_and_graph: True
  height: 15
  width: 15
  show_all: False
wandb:
  visualize: False
  project: "tao data analytics"
"""
_VALIDATE = """\
apply_correction: True
data:
  output_dir: "/results/analytics"
  input_format: "KITTI"
  image_dir: "/data/images"
  ann_path: "/data/labels"
workers: 2
"""


def run(*words: object) -> Result:
    result = CliRunner().invoke(analytics, [str(word) for word in words], standalone_mode=False)
    if result.exception and not isinstance(result.exception, DropmillError | SystemExit):
        raise result.exception
    return result


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "validate.yaml"
    path.write_text(_VALIDATE)
    return path


def kitti_line(category: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f"{category} 0.00 0 -1.57 {x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f} 1.5 1.6 3.7 -5.1 1.8 4.1 1.56"


def kitti_folder(folder: Path, files: dict[str, list[str]], size: tuple[int, int] = (100, 50)) -> Path:
    (folder / "labels").mkdir(parents=True)
    (folder / "images").mkdir()
    for name, lines in files.items():
        (folder / "labels" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        Image.effect_noise(size, 60).save(folder / "images" / f"{name}.jpeg")
    return folder


def test_a_sound_folder_is_reported_line_by_line_as_people_know_it(spec: Path, tmp_path: Path) -> None:
    lines = ["dontcare"] * 54 + ["car"] * 22 + ["pedestrian"] * 9 + ["van"] * 3 + ["truck"] * 2 + ["tram"] * 2
    # Each box in a place of its own, so that none is another's twin.
    rows = [
        kitti_line(name, i % 10 * 9, i // 10 * 4, i % 10 * 9 + 8, i // 10 * 4 + 4)
        for i, name in enumerate(lines)
    ]
    data = kitti_folder(tmp_path / "data", {"a.b": rows[:50], "c": rows[50:]})
    out = tmp_path / "out"
    result = run(
        "validate",
        "-e",
        spec,
        f"data.output_dir={out}",
        f"data.image_dir={data}/images",
        f"data.ann_path={data}/labels",
    )
    assert result.output.startswith(
        "Starting Data-services KITTI validation.\n"
        "Number of total annotations : 92\n"
        "Number of invalid annotations : 0\n"
        "Number of invalid annotations are 0.0 of total annotations,\n"
        "Number and Percent of annotations with out of bound coordinates 0, 0.0%\n"
        "Number and Percent of annotations with inverted coordinates 0, 0.0%\n"
        "Review below table to find if data for object tags is imbalanced\n"
        "  Object_tags  Percentage\n"
        "0    dontcare   58.695652\n"
        "1         car   23.913043\n"
        "2  pedestrian    9.782609\n"
        "3         van    3.260870\n"
        "4        tram    2.173913\n"
        "5       truck    2.173913\n"
    )
    assert "Total kitti files to be corrected - 0" in result.output
    assert result.output.endswith("Kitti validation finished successfully.\nExecution status: PASS\n")
    assert not (out / "corrected_kitti_files").exists()


def test_corrected_files_differ_in_the_corrected_numbers_alone(
    spec: Path, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "kitti-cropped" / "training"
    result = run(
        "validate", "-e", spec, f"data.output_dir={tmp_path}", f"data.image_dir={folder}/image_2",
        f"data.ann_path={folder}/label_2",
    )  # fmt: skip
    assert "Total kitti files to be corrected - 8" in result.output
    changed = sorted((tmp_path / "corrected_kitti_files").glob("*.txt"))
    assert len(changed) == 8
    words = 0
    for path in changed:
        before = (folder / "label_2" / path.name).read_text().split()
        after = path.read_text().split()
        assert len(before) == len(after)
        different = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
        assert {a for _, a in different} <= {"1224.00", "370.00"}
        words += len(different)
    assert words >= 10
    mended = tmp_path / "again"
    shutil.copytree(folder / "label_2", mended)
    for path in changed:
        shutil.copy(path, mended)
    again = run(
        "validate",
        "-e",
        spec,
        f"data.output_dir={tmp_path}/o",
        f"data.image_dir={folder}/image_2",
        f"data.ann_path={mended}",
    )
    assert "Number of invalid annotations : 0" in again.output


def test_a_corrected_coco_file_has_new_boxes_and_areas_and_keeps_the_rest(tmp_path: Path) -> None:
    document = {
        "info": {"year": 2020},
        "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 50, "license": 3}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 4,
                "bbox": [90, 10, 30, 20],
                "area": 600,
                "iscrowd": 0,
                "who": "x",
            },
            {"id": 2, "image_id": 7, "category_id": 4, "bbox": [10, 10, 0, 20], "area": 0, "iscrowd": 0},
            {
                "id": 3,
                "image_id": 7,
                "category_id": 4,
                "bbox": [40.5, 10, -10, 20],
                "area": 200,
                "iscrowd": 0,
            },
            {"id": 5, "image_id": 7, "category_id": 4, "bbox": [1, 1, 5, 6.25], "area": 3, "iscrowd": 0},
        ],
        "categories": [{"id": 4, "name": "car", "supercategory": "thing"}],
    }
    labels = tmp_path / "in" / "labels.json"
    labels.parent.mkdir()
    labels.write_text(json.dumps(document))
    out = tmp_path / "out"
    result = run(
        "validate",
        "data.input_format=COCO",
        f"data.output_dir={out}",
        f"data.ann_path={labels}",
        "apply_correction=True",
    )
    assert f"Corrected coco file is available at {out}/labels.json" in result.output
    assert "WARNING: 75.0% of all annotations are invalid" in result.output
    after = json.loads((out / "labels.json").read_text())
    boxes = {entry["id"]: (entry["bbox"], entry["area"]) for entry in after["annotations"]}
    assert boxes == {
        1: ([90, 10, 10, 20], 200),
        3: ([30.5, 10, 10, 20], 200),
        5: ([1, 1, 5, 6.25], 3),
    }
    assert after["annotations"][0]["who"] == "x"
    assert (after["info"], after["categories"]) == (document["info"], document["categories"])
    assert after["images"] == document["images"]


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_other_forms_are_corrected_in_their_own_form(form: str, tmp_path: Path) -> None:
    data = tmp_path / "set"
    (data / "labels").mkdir(parents=True)
    Image.effect_noise((200, 100), 60).save(data / "a.png")
    if form == "voc":
        (data / "labels" / "a.xml").write_text(
            "<annotation><filename>a.png</filename><size><width>200</width><height>100</height><depth>3</depth></size>"
            "<object><name>car</name><bndbox><xmin>150</xmin><ymin>10</ymin><xmax>230</xmax><ymax>60</ymax></bndbox>"
            "</object></annotation>"
        )
    else:
        (data / "labels" / "a.txt").write_text("0 0.95 0.35 0.4 0.5\n")
        (data / "labels" / "classes.txt").write_text("car\n")
    out = tmp_path / "out"
    words = (
        f"data.input_format={form}",
        f"data.output_dir={out}",
        f"data.image_dir={data}",
        "apply_correction=True",
    )
    first = run("validate", *words, f"data.ann_path={data}/labels")
    assert "Number of invalid annotations : 1" in first.output
    corrected = out / f"corrected_{form}_files"
    assert len([path for path in corrected.rglob("*") if path.is_file()]) == 1
    if form == "yolo":
        shutil.copy(data / "labels" / "classes.txt", corrected)
    again = run("validate", *words, f"data.ann_path={corrected}")
    assert "Number of total annotations : 1" in again.output
    assert "Number of invalid annotations : 0" in again.output


def test_a_corrected_odvg_file_keeps_its_labels_and_what_it_says_of_images(tmp_path: Path) -> None:
    line = {
        "filename": "a.jpg",
        "height": 50,
        "width": 100,
        "detection": {
            "instances": [
                {"bbox": [90.5, 10, 130, 30], "label": 7, "category": "car"},
                {"bbox": [1, 2, 30, 40], "label": 3, "category": "van"},
            ]
        },
    }
    labels = tmp_path / "in" / "labels.jsonl"
    labels.parent.mkdir()
    labels.write_text(json.dumps(line) + "\n")
    words = (f"data.output_dir={tmp_path}/out", f"data.ann_path={labels}", "apply_correction=True")
    result = run("validate", "data.input_format=ODVG", *words)
    assert f"Corrected odvg file is available at {tmp_path}/out/labels.jsonl" in result.output
    after = json.loads((tmp_path / "out" / "labels.jsonl").read_text())
    line["detection"]["instances"][0]["bbox"] = [90.5, 10, 100, 30]  # type: ignore[index]
    assert after == line


def test_forms_that_are_not_written_are_named_and_those_beside_them_are_not_written_either(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shape = {"label": "car", "shape_type": "rectangle", "points": [[90, 10], [130, 30]]}
    label = {"imagePath": "a.jpg", "imageWidth": 100, "imageHeight": 50, "shapes": [shape]}
    (folder / "a.json").write_text(json.dumps({"version": "5.0", "flags": {}, "imageData": None, **label}))
    voc = (
        "<annotation><filename>b.jpg</filename><size><width>100</width><height>50</height></size>"
        "<object><name>car</name><bndbox><xmin>90</xmin><ymin>10</ymin><xmax>120</xmax><ymax>30</ymax></bndbox>"
        "</object></annotation>"
    )
    (folder / "b.xml").write_text(voc)
    words = (f"data.output_dir={tmp_path}/out", f"data.ann_path={folder}", "apply_correction=True")
    refused = run("validate", "data.input_format=AUTO", *words)
    assert "no corrected files of the form labelme; they are written as kitti, coco" in str(refused.exception)
    assert not (tmp_path / "out" / "corrected_voc_files").exists()
    (folder / "a.json").unlink()
    assert "Total voc files to be corrected - 1" in run("validate", "data.input_format=AUTO", *words).output


def test_a_delivered_file_is_never_written_over(tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    text = json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [90, 10, 30, 20]}],
            "categories": [{"id": 1, "name": "car"}],
        }
    )
    labels.write_text(text)
    words = ("data.input_format=COCO", f"data.ann_path={labels}", "apply_correction=True")
    refused = run("validate", *words, f"results_dir={tmp_path}")
    assert "would be written over the file as it was delivered" in str(refused.exception)
    assert labels.read_text() == text


@pytest.mark.slow
def test_analyze_writes_graphs_tables_pictures_and_a_report(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    spec = tmp_path / "analytics.yaml"
    spec.write_text(_ANALYZE)
    out = tmp_path / "out"
    result = run(
        "analyze", "-e", spec, f"data.output_dir={out}", f"data.image_dir={shared_data}/kitti/image_2",
        f"data.ann_path={shared_data}/kitti/label_2", "image.generate_image_with_bounding_box=True",
        "image.sample_size=2", "graph.width=5", "graph.height=5", "--json",
    )  # fmt: skip
    lines = result.output.splitlines()
    assert lines[:3] == [
        "Starting Data-services KITTI analysis.",
        "Generating images with bounding boxes and labels.",
        "Total image files- 13",
    ]
    assert f"Images with bounding boxes are available at {out}/image_with_bounding_boxes" in lines
    assert f"Created Graphs inside {out} folder" in lines
    assert lines[-3:-1] == ["Kitti analysis finished successfully.", "Execution status: PASS"]
    facts = json.loads(lines[-1])
    assert (facts["total"], facts["invalid"], facts["images"]) == (84, 0, 13)
    assert facts["object_count"]["Car"] == 35
    assert "DontCare" not in facts["object_count"]
    assert len(list((out / "image_with_bounding_boxes").iterdir())) == 2
    assert pl.read_csv(out / "csv" / "valid_data.csv").height == 84
    assert pl.read_csv(out / "csv" / "invalid_data.csv").height == 0
    assert (out / "graphs" / "Occlusion.pdf").exists()
    report = (out / "report.html").read_text()
    assert report.count("data:image/jpeg;base64,") == 2
    states = [json.loads(line)["status"] for line in (out / "status.json").read_text().splitlines()]
    assert states == ["STARTED", "SUCCESS"]


def test_the_seeds_specs_load_and_overrides_win(tmp_path: Path) -> None:
    for text in (_ANALYZE, _VALIDATE):
        path = tmp_path / "spec.yaml"
        path.write_text(text)
        spec = load_analytics_spec(path, ["workers=7", "results_dir=/elsewhere", "graph.show_all=true"])
        assert (spec.form, spec.workers, spec.output, spec.graph.show_all) == (
            "kitti",
            7,
            Path("/elsewhere"),
            True,
        )
        assert spec.graph.height == 15


def test_keys_without_a_meaning_here_are_accepted_with_a_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(_VALIDATE + "encryption_key: tlt_encode\ngpu_ids: [0]\n")
    load_analytics_spec(path)
    assert "keys=encryption_key,gpu_ids" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["data.imagedir=/x"], UnknownKeyError, "did you mean 'data.image_dir'"),
        (["apply_corection=True"], UnknownKeyError, "did you mean 'apply_correction'"),
        (["data.input_format=KITI"], UnknownKeyError, "did you mean 'kitti'"),
        (["workers=many"], ConfigError, "workers.*'many'"),
        (["workers=0"], ConfigError, "workers"),
        (["data.ann_path"], ConfigError, "expected key=value"),
        (["data=5"], ConfigError, "data"),
        (["data.ann_path={"], ConfigError, "data.ann_path"),
        (["workers.x=1"], ConfigError, "workers is no group"),
        (["data.ann_path=/no/such/place"], ConfigError, "/no/such/place: neither a label file nor a folder"),
        (["limits.min_side=3"], UnknownKeyError, "did you mean 'min_side_px'"),
        (["gate.fail_imbalanced=3"], UnknownKeyError, "did you mean 'fail_imbalance'"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    spec: Path, tmp_path: Path, overrides: list[str], error: type, message: str
) -> None:
    result = run("validate", "-e", spec, f"data.output_dir={tmp_path}", *overrides)
    assert isinstance(result.exception, error)
    with pytest.raises(error, match=message):
        raise result.exception


def test_labels_of_another_form_than_the_spec_says_are_refused(
    spec: Path, shared_data: Path, tmp_path: Path
) -> None:
    result = run(
        "validate", "-e", spec, f"data.output_dir={tmp_path}", f"data.ann_path={shared_data}/nuts-coco-masks"
    )
    assert "none of" in str(result.exception)
    assert "KITTI labels" in str(result.exception)
    assert "Execution status: FAIL" in result.output
    assert json.loads((tmp_path / "status.json").read_text().splitlines()[-1])["status"] == "FAILURE"


def test_the_check_fails_where_the_gate_fails(spec: Path, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "kitti-cropped" / "training"
    words = ("validate", "-e", spec, f"data.output_dir={tmp_path}", f"data.image_dir={folder}/image_2",
             f"data.ann_path={folder}/label_2", "--check")  # fmt: skip
    assert run(*words).exit_code == 1
    assert run(*words, "gate.fail_invalid_share=0.2").exit_code == 0


def test_labels_without_images_are_checked_as_far_as_their_words_go(
    spec: Path, shared_data: Path, tmp_path: Path
) -> None:
    result = run(
        "validate", "-e", spec, f"data.output_dir={tmp_path}", "data.image_dir=/no/such/folder",
        f"data.ann_path={shared_data}/kitti-cropped/training/label_2", "apply_correction=False",
    )  # fmt: skip
    assert "Number of total annotations : 140" in result.output
    assert "Number of invalid annotations : 0" in result.output


def test_an_unreadable_label_file_is_named_and_does_not_stop_the_rest(spec: Path, tmp_path: Path) -> None:
    data = kitti_folder(tmp_path / "data", {"a": [kitti_line("car", 1, 1, 20, 20)], "b": ["car 0 0 what"]})
    out = tmp_path / "out"
    result = run(
        "validate",
        "-e",
        spec,
        f"data.output_dir={out}",
        f"data.image_dir={data}/images",
        f"data.ann_path={data}/labels",
    )
    assert "Number of total annotations : 1" in result.output
    findings = pl.read_csv(out / "findings.csv").filter(pl.col("rule") == "unreadable_file")
    assert findings["source"].to_list() == ["b.txt"]


def test_a_data_set_of_a_lake_is_checked_like_its_folder(shared_data: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    shutil.copytree(shared_data / "kitti-cropped" / "training", bucket / "frames" / "training")
    lake, store, rule = tmp_path / "lake", ObjectStore.at(bucket), DatasetRule(bucket="bucket")
    committer = Committer(
        Lake.create(lake), lambda events: parse_objects(store, events, rule, Limits()), rule=rule
    )
    reconcile(store, committer, rule)
    out = tmp_path / "out"
    result = run("validate", "--lake", lake, "--dataset", "frames", f"data.output_dir={out}", "--json")
    facts = json.loads(result.output.splitlines()[-1])
    assert (facts["total"], facts["out_of_bounds"], facts["images"]) == (140, 10, 21)
    wrong = run("validate", "--lake", lake, "--dataset", "framse", f"data.output_dir={out}")
    assert "there are frames" in str(wrong.exception)
