from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from storage.errors import TrainingError
from training.detectnet_v2.checkpoint import load_checkpoint, load_model, save_checkpoint
from training.detectnet_v2.model import DetectNetV2, build_model
from training.detectnet_v2.pretrained import load_pretrained
from training.detectnet_v2.prune import prune
from training.detectnet_v2.spec import TrainSpec, default_spec

HEADS = {"output_cov.weight", "output_cov.bias", "output_bbox.weight", "output_bbox.bias"}


@pytest.fixture
def spec() -> TrainSpec:
    return default_spec(["a"], 64, 64, num_layers=10)


@pytest.fixture
def model(spec: TrainSpec) -> DetectNetV2:
    torch.manual_seed(0)
    return build_model(spec)


def test_torchvisions_resnet18_computes_the_same_inside_our_network(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.9, 1.1)
            module.eps = 1e-3
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = build_model(default_spec(["a"], 64, 64)).eval()
    report = load_pretrained(ours, tmp_path / "resnet18.pth")
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    new = {name for name in report.kept if not name.endswith(".bias") and "block_1a" not in name}
    assert new == {name for name in HEADS if "weight" in name}
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        # Theirs without the pooling of its stem, and with our strides.
        theirs.maxpool = torch.nn.Identity()
        for stage, stride in ((theirs.layer1, 2), (theirs.layer2, 2), (theirs.layer3, 2), (theirs.layer4, 1)):
            stage[0].conv1.stride = (stride, stride)
            if stage[0].downsample is not None:
                stage[0].downsample[0].stride = (stride, stride)
        features = theirs.bn1(theirs.conv1(images)).relu()
        first = theirs.layer1[0]
        branch = first.bn2(first.conv2(first.bn1(first.conv1(features)).relu()))
        # Our first block projects where theirs does not: that branch is the only thing without a counterpart.
        own = ours.backbone.block_1a
        assert torch.allclose(own.bn_2(own.conv_2(own.bn_1(own.conv_1(features)).relu())), branch, atol=1e-5)
        features = torch.rand(1, 64, 16, 16)
        expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1[1](features))))
        for name in ours.backbone.block_names[1:]:
            features = ours.backbone.get_submodule(name)(features)
    assert torch.allclose(features, expected, atol=1e-4)


def test_a_detector_of_other_classes_gives_its_backbone(
    tmp_path: Path, model: DetectNetV2, spec: TrainSpec
) -> None:
    save_checkpoint(tmp_path / "model.pt", model, spec)
    other = build_model(default_spec(["x", "y"], 64, 64, num_layers=10))
    report = load_pretrained(other, tmp_path / "model.pt")
    assert set(report.kept) == HEADS
    assert torch.equal(other.backbone.conv1.weight, model.backbone.conv1.weight)


def test_a_bare_backbone_loads_with_or_without_the_prefix_of_parallel_training(
    tmp_path: Path, model: DetectNetV2, spec: TrainSpec
) -> None:
    torch.save(model.backbone.state_dict(), tmp_path / "bare.pt")
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "parallel.pt"
    )
    for file in ("bare.pt", "parallel.pt"):
        other = build_model(spec)
        load_pretrained(other, tmp_path / file)
        assert torch.equal(other.backbone.conv1.weight, model.backbone.conv1.weight)


def test_imagenets_weights_of_efficientnet_lite0_are_taken_by_their_order(
    efficientnet_lite0: Path, spec: TrainSpec
) -> None:
    lite = replace(spec, model_config=replace(spec.model_config, arch="efficientnet_lite0"))
    ours = build_model(lite)
    report = load_pretrained(ours, efficientnet_lite0)
    norm = {f"backbone.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    assert set(report.kept) == HEADS | norm
    theirs = [t for t in torch.load(efficientnet_lite0, weights_only=True).values() if t.dim()]
    own = [t for t in ours.backbone.get_submodule("net").state_dict().values() if t.dim()]
    assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=False))
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = ours.eval().backbone(pictures)
        assert 0.01 < features.std() < 10  # the statistics belong to the kernels
        assert ours.train().backbone(pictures).std() == pytest.approx(1, abs=0.1)
    resnet = build_model(spec)
    with pytest.raises(TrainingError, match="none of its"):
        load_pretrained(resnet, efficientnet_lite0)


def test_weights_that_are_not_finite_are_left_out(tmp_path: Path, model: DetectNetV2) -> None:
    state = model.state_dict()
    state["backbone.conv1.weight"] = torch.full_like(state["backbone.conv1.weight"], torch.nan)
    torch.save(state, tmp_path / "broken.pt")
    assert "backbone.conv1.weight" in load_pretrained(model, tmp_path / "broken.pt").kept
    assert torch.isfinite(model.backbone.conv1.weight).all()


def test_heads_alone_are_no_pretrained_backbone(tmp_path: Path, model: DetectNetV2) -> None:
    heads = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("output_")}
    torch.save(heads, tmp_path / "heads.pt")
    with pytest.raises(TrainingError, match="fits the backbone"):
        load_pretrained(model, tmp_path / "heads.pt")


def test_weights_for_a_small_part_of_the_backbone_are_a_warning(
    tmp_path: Path, model: DetectNetV2, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"conv1.weight": torch.ones(64, 3, 7, 7)}, tmp_path / "stem.pt")
    load_pretrained(model, tmp_path / "stem.pt")
    assert "only 1 of the backbone's" in caplog.text


def test_a_file_without_anything_that_fits_is_refused(tmp_path: Path, model: DetectNetV2) -> None:
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(TrainingError, match=r"none of its 1 tensors \(encoder\.weight"):
        load_pretrained(model, tmp_path / "other.pt")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil-was-here"),)


@pytest.mark.parametrize("kind", ["pickle", "torch", "text", "empty", "cut", "list", "absent"])
def test_a_hostile_or_broken_file_is_a_clear_error(
    tmp_path: Path, model: DetectNetV2, spec: TrainSpec, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "torch":
        torch.save({"conv1.weight": Evil()}, path)
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "empty":
        path.touch()
    elif kind == "cut":
        save_checkpoint(path, model, spec)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "list":
        torch.save([torch.zeros(1)], path)
    for load in (lambda: load_pretrained(model, path), lambda: load_checkpoint(path)):
        with pytest.raises(TrainingError, match=r"weights\.pt"):
            load()
    assert not (tmp_path / "evil-was-here").exists()


def test_a_checkpoint_holds_structure_spec_and_weights(tmp_path: Path, spec: TrainSpec) -> None:
    torch.manual_seed(1)
    model = build_model(spec)
    prune(model, threshold=1.0, min_filters=16)
    save_checkpoint(tmp_path / "model.pt", model, spec, metrics={"val_map50": 0.5})
    loaded, loaded_spec = load_model(tmp_path / "model.pt")
    assert loaded_spec == spec
    assert load_checkpoint(tmp_path / "model.pt").metrics == {"val_map50": 0.5}
    images = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(loaded(images), model.eval()(images), strict=True):
        assert torch.equal(ours, theirs)


def test_a_torch_file_that_is_no_checkpoint_is_refused(tmp_path: Path, model: DetectNetV2) -> None:
    torch.save(model.state_dict(), tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"expected a trained DetectNet_v2"):
        load_checkpoint(tmp_path / "state.pt")
