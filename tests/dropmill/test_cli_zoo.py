"""``dropmill model <detector>`` as its user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click import UsageError
from click.testing import CliRunner

from dropmill.cli import cli
from storage.errors import ConfigError
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
    again = json.loads(said)
    assert (again["images"], again["voc"]) == (6, report["voc"]), "the same pictures in shards"
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
