"""``dropmill model <detector>`` as its user types it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from click import UsageError
from click.testing import CliRunner

from dropmill.cli import cli
from storage.errors import ConfigError, ExportError
from tests.training.zoo_samples import blocks
from training.zoo.coco_eval import measure
from training.zoo.results import coco_truth

_SMALL = [
    "model.backbone=mobilenet_v3_small", "model.input_size=64", "train.epochs=2", "train.batch_size=2",
    "train.warmup_steps=1", "train.lr=0.01", "train.base_batch=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO set and a detector trained on it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("zoo")
    (root / "set").mkdir()
    samples = blocks(root / "set", 6)
    (root / "set" / "labels.json").write_text(json.dumps(coco_truth(samples, ["red", "blue"])))
    said = run("ssdlite", "train", "--data", str(root / "set"), "-r", str(root / "run"), "--json", *_SMALL)
    assert json.loads(said.splitlines()[-1])["checkpoint"].endswith("best.pt")
    return root


def run(*words: str) -> str:
    """What a command says; its errors are raised."""
    result = CliRunner().invoke(cli, ["model", *words], catch_exceptions=False, standalone_mode=False)
    return result.stdout


@pytest.mark.slow
def test_a_folder_is_trained_on_evaluated_and_drawn(folder: Path) -> None:
    best = str(folder / "run" / "best.pt")
    said = run(
        "ssdlite", "evaluate", "-m", best, "--data", str(folder / "set"), "-r", str(folder / "ev"),
        "--show-dir", str(folder / "shown"), "--metric", "bbox", "--metric", "proposal_fast",
    )  # fmt: skip
    assert "bbox_mAP_50" in said
    assert "proposal_fast_AR@100" in said
    assert len(list((folder / "shown").glob("*.png"))) == 6
    report = json.loads((folder / "ev" / "evaluation.json").read_text())
    labels = str(folder / "set" / "labels.json")
    words = ["dataset", "shards", "write", "--images", str(folder / "set"), "--labels", labels]
    CliRunner().invoke(cli, [*words, "--to", str(folder / "shards")], catch_exceptions=False)
    said = run("ssdlite", "evaluate", "-m", best, "--shards", str(folder / "shards"), "--json")
    old = run(
        "ssdlite", "evaluate", "-m", best, "--shards", str(folder / "shards"), "--voc", "2007", "--json"
    )
    again = json.loads(said)
    assert (again["images"], again["voc"]) == (6, report["voc"]), "the same pictures in shards"
    assert json.loads(old)["voc"] != again["voc"]
    assert set(report["classes"]["bbox"]) == {"red", "blue"}
    rows = json.loads((folder / "ev" / "results.bbox.json").read_text())
    assert {"image_id", "category_id", "bbox", "score"} == set(rows[0])
    truth = json.loads((folder / "ev" / "truth.json").read_text())
    measured = measure(truth, rows).metrics
    assert measured == pytest.approx({k: v for k, v in report["coco"].items() if k in measured})
    with pytest.raises(ConfigError, match="results without masks"):
        run("ssdlite", "evaluate", "-m", best, "--data", str(folder / "set"), "--metric", "segm")


@pytest.mark.slow
def test_pictures_are_searched_and_the_model_becomes_onnx(folder: Path) -> None:
    best, picture = str(folder / "run" / "best.pt"), str(folder / "set" / "0.png")
    run("ssdlite", "inference", "-m", best, "-i", picture, "-o", str(folder / "inf"), "--score", "0.01")
    listed = json.loads((folder / "inf" / "images.json").read_text())
    assert listed["images"][0]["file_name"] == "0.png"
    assert (folder / "inf" / "images" / "0.png").is_file()
    run("ssdlite", "export", "-m", best, "--sample", picture, "-o", str(folder / "m.onnx"))
    assert (folder / "m.onnx").stat().st_size > 1_000_000
    if importlib.util.find_spec("tensorrt_rtx_bindings"):
        words = ["export", "-m", best, "--sample", picture, "-o", str(folder / "n.onnx")]
        with pytest.raises(ExportError, match=r"n\.onnx is whole, and runs in ONNX Runtime"):
            run("ssdlite", *words, "--engine_file", str(folder / "n.engine"))


@pytest.fixture(scope="module")
def lake(folder: Path) -> str:
    """The set in a lake."""
    words = ["ingest", str(folder / "set"), "--lake", str(folder / "lake"), "--dataset", "blocks"]
    CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    return str(folder / "lake")


@pytest.mark.slow
def test_a_training_on_a_lake_is_a_run_with_its_checkpoint_and_what_it_saw(folder: Path, lake: str) -> None:
    from storage.lake import Lake
    from training.zoo.checkpoint import load_detector

    words = ["train", "--lake", lake, "--dataset", "blocks", "-r", str(folder / "in-lake")]
    run("ssdlite", *words, *_SMALL)
    with pytest.raises(ConfigError, match="class"):
        run("ssdlite", *words, *_SMALL, "data.classes=[green]")
    opened = Lake.open(lake)
    done, failed = opened.sql("SELECT * FROM runs ORDER BY submitted_at").to_pylist()
    assert (done["state"], done["step"]) == ("succeeded", "model ssdlite train")
    assert {"epoch", "loss", "mAP50"} <= set(json.loads(done["metrics"]))
    assert json.loads(done["parameters"])["model"]["detector"] == "ssdlite"
    assert (failed["state"], failed["error"][:12]) == ("failed", "ConfigError:")
    (model,) = opened.sql("SELECT * FROM models").to_pylist()
    assert (model["run"], model["kind"], model["architecture"]) == (done["run"], "checkpoint", "ssdlite")
    assert model["snapshot"] == done["snapshot"]
    network, _ = load_detector(model["uri"])
    assert sum(p.numel() for p in network.parameters()) > 1000
    seen = opened.sql("SELECT DISTINCT sample, role FROM seen WHERE kind = 'image'").to_pylist()
    assert len(seen) == 6
    assert {row["role"] for row in seen} == {"train", "val"}


@pytest.mark.slow
def test_detections_become_rows_that_sql_joins_to_annotations(folder: Path, lake: str) -> None:
    from storage.lake import Lake

    best = str(folder / "run" / "best.pt")
    for _ in range(2):
        run("ssdlite", "evaluate", "-m", best, "--lake", lake, "--dataset", "blocks", "--write-lake")
    found = Lake.open(lake).sql(
        """SELECT p.category, p.verdict, count(*) AS n FROM predictions p
           JOIN images i USING (dataset, sample) GROUP BY ALL"""
    )
    rows = found.to_pylist()
    assert {row["verdict"] for row in rows} <= {"true", "false", "ignored"}
    assert 0 < sum(row["n"] for row in rows) <= 600


@pytest.mark.slow
def test_the_queries_of_the_documentation_say_what_is_wrong(folder: Path, lake: str) -> None:
    """On detections that are known: an object found, one taken for another, one missed, and a ghost."""
    import numpy as np

    from dropmill.lake_samples import read_samples
    from dropmill.predictions import write_predictions
    from storage.lake import Lake
    from training.zoo.predict import Found

    opened = Lake.open(lake)
    samples = sorted(read_samples(opened, "blocks", opened.snapshot()).samples, key=lambda one: one.id)
    classes = ("red", "blue")
    found = []
    for sample in samples:
        labels = np.array([classes.index(name) for name in sample.categories])
        found.append((sample, Found(sample.boxes, np.full(len(labels), 0.9), labels)))
    first, second, third = (one for one, _ in found[:3])
    swapped = 1 - found[0][1].labels
    found[0] = (first, Found(first.boxes, found[0][1].scores, swapped))
    found[1] = (second, Found(second.boxes[:0], np.zeros(0), np.zeros(0, np.int64)))
    ghost = np.concatenate([third.boxes, third.boxes[:1] * 0 + [90.0, 0, 95, 5]])
    found[2] = (
        third, Found(ghost, np.full(len(ghost), 0.8), np.append(found[2][1].labels, 0))
    )  # fmt: skip
    write_predictions(lake, "blocks", "known", found, classes)
    page = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text()
    queries = [part.split("```", 1)[0] for part in page.split("```sql\n")[1:]]
    opened = Lake.open(lake)
    opened.table("predictions").delete("model <> 'known'")
    sizes, worst, instead = (Lake.open(lake).sql(query).to_pylist() for query in queries)
    assert sum(row["false_positives"] for row in sizes) == len(first.boxes) + 1
    assert {row["size"] for row in sizes if row["category"] == "red" and row["false_positives"]} <= {"small"}
    by_sample = {row["sample"]: (row["missed"], row["wrong"]) for row in worst}
    assert by_sample[first.id] == (len(first.boxes), len(first.boxes))
    assert by_sample[second.id] == (len(second.boxes), 0)
    assert by_sample[third.id] == (0, 1)
    assert all(by_sample[one.id] == (0, 0) for one, _ in found[3:])
    assert worst[0]["missed"] + worst[0]["wrong"] == max(map(sum, by_sample.values()))
    said = {(row["said"], row["instead"]): row["detections"] for row in instead}
    assert said.pop(("red", "background")) == 1
    assert sum(said.values()) == len(first.boxes)
    assert all(set(pair) == {"red", "blue"} for pair in said)


@pytest.mark.slow
def test_labels_become_a_file_in_the_middle_format_that_training_takes(folder: Path) -> None:
    words = ["dataset", "middle", "--data", str(folder / "set"), "-o", str(folder / "middle.json")]
    CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    best = str(folder / "run" / "best.pt")
    ours = run("ssdlite", "evaluate", "-m", best, "--data", str(folder / "set"), "--json")
    said = run("detector", "evaluate", "-m", best, "--middle", str(folder / "middle.json"), "--json")
    assert json.loads(said) == json.loads(ours)


@pytest.mark.slow
def test_wrong_words_are_answered_with_what_to_do(folder: Path) -> None:
    best = str(folder / "run" / "best.pt")
    with pytest.raises(ConfigError, match="take `model ssdlite evaluate`"):
        run("fcos", "evaluate", "-m", best, "--data", str(folder / "set"))
    with pytest.raises(ConfigError, match=r"did you mean 'train\.epochs'"):
        run("fcos", "train", "-r", str(folder / "x"), "--data", str(folder / "set"), "train.epoch=3")
    with pytest.raises(ConfigError, match=r"not pruned: .* `dropmill model detectnet_v2 prune`"):
        run("ssdlite", "prune", "-m", best)
    with pytest.raises(UsageError, match="give one of --lake"):
        run("fcos", "train", "-r", str(folder / "x"))
