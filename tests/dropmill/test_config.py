"""``dropmill.yaml``: what it says, and what is said where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from dropmill.config import Config, load_config
from storage.errors import ConfigError, UnknownKeyError
from training.detectnet_v2.spec import default_spec, spec_text

GOOD = """\
bucket: drops
lake: lake
ingest:
  batch_objects: 10
pipelines:
  - name: detector
    when: {gate: pass, new_images: 5}
    steps:
      - masks
      - train:
          spec: specs/train.txt
        retries: 3
        resources: {gpus: 1}
      - export: {precision: int8}
"""
ZOO = """\
bucket: drops
lake: lake
pipelines:
  - name: detector
    steps:
      - train:
          detector: faster_rcnn
          options: {model: {backbone: mobilenet_v2}, train: {epochs: 2}}
      - export: {precision: fp32}
"""
CLUSTER = """\
bucket: drops
lake: lake
ray:
  runtime_env:
    working_dir: specs
    env_vars: {OMP_WAIT_POLICY: PASSIVE}
"""
FAR = """\
bucket: s3://drops
bucket_access: {endpoint_url: http://a:1}
lake: s3://lakes
lake_access: {endpoint_url: http://b:1}
pipelines: [{name: p, steps: [masks]}]
"""


def write(tmp_path: Path, text: str) -> Path:
    """The file, beside a spec and a checkpoint that it may name."""
    path = tmp_path / "dropmill.yaml"
    (tmp_path / "specs").mkdir(exist_ok=True)
    (tmp_path / "specs" / "train.txt").write_text(spec_text(default_spec(["car"], 320, 240)))
    (tmp_path / "mal.pth").touch()
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.bucket == str(tmp_path / "drops")
    assert config.pipelines[0].steps[1].train.spec == tmp_path / "specs" / "train.txt"
    (pipeline,) = config.triggers()
    assert [step.name for step in pipeline.steps] == ["masks", "train", "export"]
    assert pipeline.when.new_images == 5
    train = pipeline.steps[1]
    assert (train.retries, train.resources.gpus) == (3, 1)
    assert train.parameters == {"spec": str(tmp_path / "specs" / "train.txt")}
    assert load_config(write(tmp_path, "bucket: s3://b/x\nlake: s3://l\n")).bucket == "s3://b/x"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (GOOD.replace("batch_objects", "batch_object"), 4, "did you mean 'ingest.batch_objects'"),
        (GOOD.replace("- train:", "- trian:"), 10, "did you mean 'pipelines.0.steps.1.train'"),
        (
            GOOD.replace("precision: int8", "precission: int8"),
            14,
            "did you mean 'pipelines.0.steps.2.export.prec",
        ),
        (GOOD.replace("- masks", "- mask"), 9, "did you mean 'pipelines.0.steps.0.masks'"),
        (GOOD.replace("- masks", "- promote"), 9, "step 1, promote: has no evaluation to work on"),
        (FAR, 4, "jobs of pipelines reach bucket and lake by one environment"),
        (ZOO.replace("precision: fp32", "precision: fp16"), 9, "exported as fp32 only, found fp16"),
        (
            ZOO.replace("- export: {precision: fp32}", "- prune"),
            9,
            "prune: not for a faster_rcnn: its network",
        ),
        (ZOO.replace("faster_rcnn", "rtdetr"), 9, "export: not for a rtdetr: it has no export"),
        (ZOO.replace("backbone:", "backbones:"), 6, "did you mean 'model.backbone'"),
        (
            ZOO.replace("faster_rcnn", "faster_rcnn\n          num_layers: 10"),
            6,
            "num_layers is of detectnet_v2",
        ),
        (ZOO.replace("faster_rcnn", "detectnet_v2"), 6, "options are of other detectors"),
        (GOOD.replace("new_images: 5", "new_images: 5, manual: true"), 7, "manual stands alone"),
        (GOOD.replace("        retries: 3", "        prune: {}"), 10, "found train and prune"),
        (GOOD.replace("gate: pass", "gate: maybe"), 7, "'pass' or 'warn'"),
        (GOOD.replace("batch_objects: 10", "batch_objects: many"), 4, "integer"),
        (GOOD.replace("bucket: drops\n", ""), 1, "bucket"),
        (GOOD.replace("train.txt", "none.txt"), 11, "none.txt: there is no such file"),
        (GOOD.replace("specs/train.txt", "mal.pth"), 11, "mal.pth"),
        (GOOD.replace("- masks", "- masks: {checkpoint: none.pth}"), 9, "none.pth: there is no such file"),
        (GOOD.replace("- masks", "- augment: {spec: dropmill.yaml}"), 9, "dropmill.yaml"),
        (GOOD + "lake: other\n", 15, "'lake' is there twice, first on line 2"),
        (GOOD.replace("        retries: 3", "          spec: mal.pth"), 12, "'spec' is there twice"),
        (CLUSTER.replace("env_vars:", "env_var:"), 6, "did you mean 'env_vars'"),
        (CLUSTER.replace("PASSIVE", "4"), 6, "Dict[str, str]"),
        (CLUSTER.replace(": specs", ": nowhere"), 5, "nowhere is not a valid path"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert f"line {line}" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "- 1\n", "bucket: [\n", "a: &a [*a]\n", "\x00", "bucket: !!python/name:os\n"]
)
def test_what_is_no_configuration_is_one_clear_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"dropmill\.yaml"):
        load_config(write(tmp_path, text))


def test_a_lake_inside_the_bucket_is_refused(tmp_path: Path) -> None:
    for bucket, lake in (("a", "a/lake"), ("a/b", "a"), ("a", "a")):
        with pytest.raises(ConfigError, match="inside each other"):
            load_config(write(tmp_path, f"bucket: {bucket}\nlake: {lake}\n"))


def test_an_absent_file_and_an_unknown_key_are_errors_of_their_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UnknownKeyError):
        load_config(write(tmp_path, "bucket: a\nlake: b\nlakes: c\n"))


def test_a_pipeline_without_conditions_waits_for_a_hundred_images_and_a_manual_one_for_a_hand(
    tmp_path: Path,
) -> None:
    text = "bucket: a\nlake: b\npipelines:\n- {name: one, steps: [masks]}\n"
    text += "- {name: two, when: {manual: true}, steps: [{masks: {checkpoint: mal.pth}}]}\n"
    one, two = load_config(write(tmp_path, text)).triggers()
    assert (one.when.new_images, one.when.manual) == (100, False)
    assert (two.when.new_images, two.when.manual) == (None, True)
    assert two.steps[0].parameters["checkpoint"] == str(tmp_path / "mal.pth")


def test_jobs_get_along_what_lies_beside_the_file_and_a_cluster_has_its_own_specs(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, CLUSTER))
    assert config.runtime_env() == {
        "working_dir": str(tmp_path / "specs"),
        "env_vars": {"OMP_WAIT_POLICY": "PASSIVE"},
    }
    far = GOOD.replace("train.txt", "elsewhere.txt") + "ray: {address: 'ray://head:10001'}\n"
    (pipeline,) = load_config(write(tmp_path, far)).triggers()
    assert pipeline.steps[1].parameters["spec"].endswith("elsewhere.txt")


def test_every_setting_is_documented() -> None:
    def undocumented(model: type, prefix: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            inner = (field.annotation, *getattr(field.annotation, "__args__", ()))
            nested = [a for a in inner if hasattr(a, "model_fields")]
            for child in nested:
                found += undocumented(child, f"{prefix}{name}.")
            if not nested and not field.description and name not in {"name", "seed", "epochs", "batch_size"}:
                found.append(prefix + name)
        return found

    allowed = {"quality.gate.", "quality.rules.limits.", "pipelines.steps.augment.options."}
    assert [name for name in undocumented(Config) if not name.startswith(tuple(allowed))] == []


@pytest.mark.parametrize("page", ["README.md", "docs/pipelines.md"])
def test_configurations_in_the_documents_load(tmp_path: Path, page: str) -> None:
    text = (Path(__file__).parents[2] / page).read_text()
    block = next(part for part in text.split("```yaml\n")[1:] if "pipelines:" in part).split("```")[0]
    head = "" if "bucket:" in block else "bucket: drops\nlake: lake\n"
    (pipeline,) = load_config(write(tmp_path, head + block)).triggers()
    assert pipeline.steps[-1].name == "promote"
