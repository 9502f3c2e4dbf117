"""Steps on real data, small: what each leaves, what is promoted, and where models come from."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dropmill.cli.jobs import command
from dropmill.pipelines.judging import learnt_of
from dropmill.pipelines.kept_folder import kept
from dropmill.pipelines.lineage import lineage_of, models_that_saw, removed_but_seen
from dropmill.pipelines.model_card import write_card
from dropmill.pipelines.step_run import StepRun
from dropmill.source_config import AccessConfig
from ingest.derive import Settings
from ingest.plans import Step, plan_execution, write_runs
from storage.errors import ConfigError, JobError
from storage.lake import Lake
from tests.ingest.mill import KITTI_CAR, Mill, picture
from tests.s3_server import client, s3_server

_COCO = (
    '{"images": [{"id": 1, "file_name": "1.png"}], "categories": [{"id": 1, "name": "Car"}],'
    ' "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}]}'
)
_ABOUT = {"architecture": "net", "categories": ["Car"]}


def planned(mill: Mill, *steps: str) -> list[StepRun]:
    """Runs of an execution, as a service leaves them when it submits their jobs."""
    rows = plan_execution(
        "p",
        [Step(name=name) for name in steps],
        "road",
        mill.lake.snapshot(),
        labelled_images=3,
        now=datetime.now(UTC),
    )
    write_runs(mill.lake, [{**row, "state": "submitted"} for row in rows])
    return [StepRun(mill.lake, row["run"]) for row in rows]


def test_a_model_leads_to_its_objects_and_an_object_to_its_models_also_when_it_is_gone(
    mill: Mill, tmp_path: Path
) -> None:
    for name in "123":
        mill.write(f"road/image_2/{name}.png", picture(100, 50))
        mill.write(f"road/label_2/{name}.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.ingest()
    train, export = planned(mill, "train", "export")
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    train.saw({"train": ["image_2/1", "image_2/2"], "val": ["image_2/3"]})
    train.keep("checkpoint", file, _ABOUT)
    train.succeed()
    export.keep("engine", file, _ABOUT)
    export.succeed()
    every = ["image_2/1", "image_2/2", "image_2/3"]
    assert learnt_of(mill.lake, export.name, "road", every) == every[:2]

    found = lineage_of(mill.lake, f"{export.name}/model.bin")
    assert [run["step"] for run in found.runs] == ["export", "train"]
    assert found.runs[0]["takes"] == {"model": train.name}
    versions = {row["key"]: row["version"] for row in mill.rows("SELECT key, version FROM newest")}
    objects = {row["key"]: row for row in found.objects.to_pylist()}
    assert {key: row["version"] for key, row in objects.items()} == versions
    assert objects["road/label_2/3.txt"]["roles"] == ["val"]
    assert removed_but_seen(mill.lake).to_pylist() == []

    (mill.folder / "road/image_2/1.png").unlink()
    mill.write("road/label_2/2.txt", KITTI_CAR.format(1, 1, 9, 9))
    mill.ingest()
    gone = removed_but_seen(mill.lake).to_pylist()
    assert [(row["key"], row["now"]) for row in gone] == [
        ("road/image_2/1.png", "removed"),
        ("road/label_2/2.txt", "replaced"),
    ]
    models = sorted([f"{train.name}/model.bin", f"{export.name}/model.bin"])
    assert gone[0]["models"] == models
    saw = models_that_saw(mill.lake, "road/image_2/1.png").to_pylist()
    assert sorted(row["model"] for row in saw) == models
    assert {(row["version"], row["now"]) for row in saw} == {(versions["road/image_2/1.png"], "removed")}
    with pytest.raises(ConfigError, match="no model 'x'"):
        lineage_of(mill.lake, "x")
    with pytest.raises(ConfigError, match="no object"):
        models_that_saw(mill.lake, "road/none.png")


def test_a_model_card_has_data_classes_measures_and_limits_and_names_are_no_markup(
    mill: Mill, tmp_path: Path
) -> None:
    name = "a<script>alert(1)</script>|[b](c)"
    for n in "123":
        mill.write(f"road/image_2/{n}.png", picture(100, 50))
        mill.write(f"road/label_2/{n}.txt", KITTI_CAR.replace("Car", name).format(1, 1, 150, 40))
    mill.write("road/label_2/3.txt", KITTI_CAR.format(1, 1, 50, 40))
    mill.ingest()
    train, export, evaluate = planned(mill, "train", "export", "evaluate")
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    for run, kind in ((train, "checkpoint"), (export, "onnx")):
        run.keep(kind, file, {"architecture": "net", "categories": [name, "Car"]})
        run.succeed()
    evaluate.metrics |= {"mAP50": 0.5, "images": 3, f"ap50/{name}": 0.25, "ap50/Car": 0.75}
    evaluate.metrics["current_learnt_images"] = 2
    evaluate.outputs["split"] = "test"
    write_card(evaluate)
    card = (mill.lake.artifacts.root / "runs" / export.name / "model_card.md").read_text()
    shown = r"a&lt;script>alert(1)&lt;/script>\|\[b\](c)"
    assert "<" not in card.replace("<br>", "")
    assert f"Finds {shown}, Car." in card
    assert "| (none) | 3 | 3 | 3 | 2 | 0 |" in card
    assert re.search(r"^Findings: \w+ 2\.$", card, re.MULTILINE)
    assert f"| {shown} | 2 | 2 | 66.7% | - |" in card
    assert "On 3 images of the split test, at IoU 0.5" in card
    assert f"Weakest class: {shown} (AP50 0.250)." in card
    assert "has learnt from 2 of these images" in card
    assert "3 images are few" in card
    assert f"dropmill lineage {export.name}" in card
    (row,) = mill.rows("SELECT run, sha256 FROM models WHERE kind = 'card'")
    assert row["run"] == export.name


def test_a_run_that_was_called_off_meanwhile_does_not_say_that_it_is_done(mill: Mill) -> None:
    mill.image("road/1.png")
    mill.ingest()
    train, export = planned(mill, "train", "export")
    with pytest.raises(JobError, match="which is submitted"):
        export.needed("model")
    write_runs(mill.lake, [{**train.row, "state": "stopped"}])
    train.succeed()
    assert StepRun(mill.lake, train.name).row["state"] == "stopped"


def test_steps_hand_files_on_through_a_lake_at_an_endpoint_that_their_environment_names(
    tmp_path: Path,
) -> None:
    pytest.importorskip("moto.server", reason="moto is not installed")
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights" * 1000)
    with s3_server() as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.s3_options._FOUND", {})
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "any")
        access = AccessConfig(endpoint_url=url, region="us-east-1")
        for name, value in access.environment().items():
            patch.setenv(name, value)
        patch.setenv("DROPMILL_RUNS", str(tmp_path / "shared"))
        client("s3", url).create_bucket(Bucket="lakes")
        lake = Lake.create("s3://lakes/p")
        steps = [Step(name="train"), Step(name="prune")]
        snapshot = lake.snapshot()
        rows = plan_execution("p", steps, "d", snapshot, labelled_images=0, now=datetime.now(UTC))
        write_runs(lake, [{**row, "state": "submitted"} for row in rows])
        train = StepRun(lake, rows[0]["run"])
        assert train.folder == tmp_path / "shared" / train.name
        train.keep("checkpoint", file, _ABOUT)
        train.succeed()
        fetched = StepRun(lake, rows[1]["run"]).needed("model").file("checkpoint")
        assert fetched != file
        assert fetched.read_bytes() == file.read_bytes()

        # One node learns, and dies; another goes on.
        first, second = tmp_path / "first", tmp_path / "second"
        files = {"metrics.jsonl": b"{}\n", "checkpoints/epoch-00001.pt": b"1", "weights/best.pt": b"best"}
        with kept(lake.artifacts, "runs/r/results", first, look_s=0.05):
            for name, data in files.items():
                (first / name).parent.mkdir(parents=True, exist_ok=True)
                (first / name).write_bytes(data)
            while lake.artifacts.head("runs/r/results/checkpoints/epoch-00001.pt") is None:
                time.sleep(0.05)
            (first / "checkpoints/epoch-00001.pt").rename(first / "checkpoints/epoch-00002.pt")
            (first / "half").write_bytes(b"of no use to others")
        with kept(lake.artifacts, "runs/r/results", second):
            found = {p.relative_to(second).as_posix(): p.read_bytes() for p in second.rglob("*.*")}
            del files["checkpoints/epoch-00001.pt"]
            assert found == {**files, "checkpoints/epoch-00002.pt": b"1"}

        lake.artifacts.remove(f"runs/{train.name}/model.bin")
        with pytest.raises(JobError, match="the file is gone"):
            StepRun(lake, rows[1]["run"]).needed("model").file("checkpoint")


def test_people_start_stop_and_retry_by_commands_that_need_no_cluster(mill: Mill, tmp_path: Path) -> None:
    mill.image("road/1.png")
    mill.write("road/labels.json", _COCO)
    mill.ingest()
    config = tmp_path / "dropmill.yaml"
    config.write_text(
        f"bucket: {mill.folder}\nlake: {mill.lake_folder}\n"
        "pipelines: [{name: p, when: {manual: true}, steps: [masks, train]}]\n"
    )

    def jobs(*words: str) -> str:
        ended = CliRunner().invoke(command, [*words, "-c", str(config)], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
        return ended.output

    first, second = jobs("start", "p", "--dataset", "road").split()
    assert jobs("stop", first).startswith(first)

    def states() -> list[tuple[str, int]]:
        rows = {row["run"]: row for row in json.loads(jobs("list", "--json"))}
        return [(rows[run]["state"], rows[run]["attempt"]) for run in (first, second)]

    assert states() == [("stopped", 1), ("skipped", 1)]
    assert f"{first}: planned, attempt 2" in jobs("retry", first)
    assert states() == [("planned", 2), ("planned", 1)]
    for words, said in (
        (("start", "q"), "did you mean 'p'|known: p"),
        (("start", "p"), "--dataset"),
        (("start", "p", "--dataset", "road"), "--anew"),
        (("retry", "nobody"), "no run 'nobody'"),
    ):
        ended = CliRunner().invoke(command, [*words, "-c", str(config)])
        assert ended.exit_code != 0
        assert re.search(said, ended.output + str(ended.exception))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    from transforms.scenes import SceneConfig, write_scenes

    folder = tmp_path_factory.mktemp("scenes")
    config = SceneConfig(images=20, width=96, height=96, min_size=30, max_size=60, seed=3)
    write_scenes(config, folder / "drops" / "air", format="voc", workers=1)
    mill = Mill(folder / "drops", folder / "lake", Settings())
    mill.ingest()
    return mill.lake


@pytest.mark.slow
def test_steps_take_what_those_before_them_made_and_only_the_better_model_becomes_current(
    scenes: Lake,
) -> None:
    pytest.importorskip("torch_pruning")
    from dropmill.pipelines.work import work_by_hand

    def metrics(run: StepRun) -> dict[str, Any]:
        return dict(json.loads(run.row["metrics"]))

    quick = {"epochs": 1, "batch_size": 4}
    first = {
        run.row["step"]: run
        for run in work_by_hand(
            scenes,
            "air",
            [
                ("augment", {}),
                ("train", {**quick, "num_layers": 10}),
                ("prune", {"threshold": 0.99}),
                ("retrain", quick),
                ("quantise", {"method": "ptq", "images": 8}),
                ("export", {"precision": "int8", "engine": False}),
                ("evaluate", {}),
                ("promote", {}),
            ],
        )
    }
    assert metrics(first["augment"])["imbalance_after"] <= metrics(first["augment"])["imbalance_before"]
    assert metrics(first["prune"])["ratio"] < 0.7
    assert metrics(first["promote"])["promoted"] == 1
    held = scenes.sql("SELECT sample FROM images WHERE split IN ('val', 'test')").to_pylist()
    learnt = scenes.sql(
        "SELECT sample FROM seen WHERE role IN ('shards', 'train', 'calibration')"
    ).to_pylist()
    assert not {row["sample"] for row in held} & {row["sample"] for row in learnt}
    card = (scenes.artifacts.root / "runs" / first["export"].name / "model_card.md").read_text()
    assert all(f"| {step} |" in card for step in ("augment", "train", "prune", "retrain", "quantise"))
    assert lineage_of(scenes, "current:air").run == first["export"].name

    # The same weights measured again are not better than themselves.
    second = work_by_hand(
        scenes,
        "air",
        [
            ("train", {**quick, "num_layers": 10}),
            ("evaluate", {"split": "val"}),
            ("promote", {"margin": 0.5}),
        ],
    )
    assert json.loads(second[1].row["outputs"])["current"] == first["export"].name
    assert "current_mAP50" in metrics(second[1])
    assert metrics(second[2])["promoted"] == 0
    states = scenes.sql("SELECT DISTINCT run, state FROM models WHERE state IS NOT NULL ORDER BY state")
    assert [(row["run"], row["state"]) for row in states.to_pylist()] == [
        (first["export"].name, "current"),
        (second[0].name, "rejected"),
    ]


@pytest.mark.slow
def test_a_detector_of_the_zoo_is_trained_exported_measured_and_becomes_current(scenes: Lake) -> None:
    from dropmill.pipelines.work import work_by_hand

    options = {
        "model": {"backbone": "mobilenet_v2", "neck_channels": 32, "short_side": [96], "long_side": 96},
        "train": {"tensorboard": False},
    }
    train = {"detector": "retinanet", "epochs": 1, "batch_size": 4, "options": options}
    runs = {
        run.row["step"]: run
        for run in work_by_hand(
            scenes,
            "air",
            [
                ("train", train),
                ("export", {"engine": False}),
                ("evaluate", {"split": "val"}),
                ("promote", {}),
            ],
        )
    }
    metrics = {step: json.loads(run.row["metrics"]) for step, run in runs.items()}
    assert metrics["train"]["mAP50"] == pytest.approx(metrics["evaluate"]["mAP50"], abs=1e-4)
    assert metrics["export"]["difference/boxes"] < 1
    models = scenes.sql(
        "SELECT kind, architecture FROM models WHERE run IN ($1, $2) ORDER BY kind",
        parameters=[runs["train"].name, runs["export"].name],
    ).to_pylist()
    assert [row["kind"] for row in models] == ["card", "checkpoint", "labels", "onnx"]
    assert {row["architecture"] for row in models} == {"retinanet/mobilenet_v2"}
    assert lineage_of(scenes, f"{runs['export'].name}/model.onnx").runs[1]["step"] == "train"
    # Whatever was current before, of another family: both were measured on the same images.
    assert metrics["promote"]["promoted"] in (0, 1)
    assert "current_mAP50" in metrics["evaluate"] or metrics["promote"]["promoted"] == 1
