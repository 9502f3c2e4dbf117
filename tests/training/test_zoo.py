"""Parts of the zoo: registries, networks, ignored regions, data, schedules."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import ConfigError, UnknownKeyError, UnreadableError
from training.samples import Sample
from training.zoo.checkpoint import Checkpoint, checkpoint_bytes, load_detector
from training.zoo.data import BatchOrder, DetectionDataset, classes_of
from training.zoo.detectors import build_detector
from training.zoo.ignore import inside
from training.zoo.middle import first_middle_format, middle_format, read_middle
from training.zoo.registry import BACKBONES
from training.zoo.schedule import learning_rate, peak_rate
from training.zoo.spec import DataSpec, ModelSpec, TrainSpec, ZooSpec, load_spec, without_effect
from training.zoo.weights import load_weights

_DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny(detector: str, backbone: str = "mobilenet_v3_small", **more: object) -> ModelSpec:
    settings = {"neck_channels": 32, "short_side": (64,), "long_side": 96, "input_size": 96, **more}
    return ModelSpec(detector=detector, backbone=backbone, **settings)  # type: ignore[arg-type]


def targets(*, ignore: list[list[float]], boxes: list[list[float]]) -> list[dict[str, torch.Tensor]]:
    masks = torch.zeros(len(boxes), 64, 96, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, np.array(boxes, int).reshape(-1, 4), strict=True):
        mask[top:bottom, left:right] = 1
    return [
        {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.ones(len(boxes), dtype=torch.int64),
            "ignore": torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
            "masks": masks,
        }
    ]


@pytest.mark.parametrize(
    ("detector", "backbone"),
    [
        ("faster_rcnn", "mobilenet_v2"),
        ("mask_rcnn", "resnet18"),
        ("retinanet", "timm:mobilenetv3_small_050"),
        ("fcos", "efficientnet_b0"),
        ("ssdlite", "mobilenet_v3_small"),
    ],
)
def test_every_detector_learns_from_a_step_and_finds_boxes(detector: str, backbone: str) -> None:
    torch.manual_seed(0)
    network = build_detector(tiny(detector, backbone, neck_channels=64, long_side=160), 2)
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    wanted = targets(boxes=[[10, 10, 50, 60]], ignore=[]) + targets(boxes=[], ignore=[[0, 0, 20, 20]])
    losses = network.train()(images, wanted)
    loss = sum(losses.values())
    assert torch.isfinite(loss)
    loss.backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert sum(p.grad is not None for p in trained) >= 0.9 * len(trained)
    with torch.inference_mode():
        found = network.eval()(images)
    assert len(found) == 2
    assert {"boxes", "scores", "labels"} <= set(found[0])
    assert ("masks" in found[0]) == (detector == "mask_rcnn")


@pytest.mark.parametrize("detector", ["rtdetr", pytest.param("dfine", marks=pytest.mark.slow)])
def test_a_transformer_learns_and_needs_no_suppression(detector: str) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    spec = tiny(detector, "resnet18", neck_channels=64, queries=20)
    network = build_detector(spec, 2).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    images, wanted = [torch.rand(3, 64, 96)], targets(boxes=[[10, 10, 50, 60]], ignore=[[60, 0, 96, 30]])
    losses = []
    for _ in range(6):
        loss = sum(network(images, wanted).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    # A query may stand for either class.
    assert len(network.eval()(images)[0]["boxes"]) <= 2 * 20


@pytest.mark.parametrize("detector", ["rtdetr", pytest.param("dfine", marks=pytest.mark.slow)])
def test_a_transformer_has_a_gradient_for_every_weight_without_any_object(detector: str) -> None:
    """Processes that train together wait for each of them."""
    pytest.importorskip("transformers")
    spec = tiny(detector, "resnet18", neck_channels=32, queries=10, norm="batch", frozen_stages=2)
    network = build_detector(spec, 2).train()
    body = network.network.model.backbone.model
    still, moving = body.embedder, body.encoder.stages[3]
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in (still, moving)]
    sum(network([torch.rand(3, 64, 96)] * 2, targets(boxes=[], ignore=[]) * 2).values()).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    assert all(torch.equal(value, before[0][name]) for name, value in still.state_dict().items())
    assert any(not torch.equal(value, before[1][name]) for name, value in moving.state_dict().items())


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_a_frozen_stage_keeps_its_weights_and_its_statistics(backbone: str) -> None:
    network = build_detector(tiny("fcos", backbone, norm="batch", frozen_stages=2), 1).train()
    stages = network.backbone.backbone.stages
    before = [{k: v.clone() for k, v in stage.state_dict().items()} for stage in stages]
    sum(network([torch.rand(3, 64, 96)] * 2, targets(boxes=[], ignore=[]) * 2).values()).backward()
    kept = [
        all(torch.equal(v, old[k]) for k, v in stage.state_dict().items())
        for stage, old in zip(stages, before, strict=True)
    ]
    assert kept == [True, True, False, False, False]
    assert not any(p.requires_grad for stage in stages[:2] for p in stage.parameters())


def test_norms_of_timm_that_are_shared_or_frozen_still_activate() -> None:
    images, found = torch.rand(1, 3, 64, 64), {}
    for norm in ("batch", "sync", "frozen"):
        torch.manual_seed(0)
        spec = tiny("fcos", "timm:mobilenetv3_small_050", norm=norm)
        with torch.inference_mode():
            found[norm] = build_detector(spec, 1).eval().backbone.backbone(images)[-1]
    assert torch.allclose(found["sync"], found["batch"], atol=1e-6)
    assert torch.allclose(found["frozen"], found["batch"], atol=1e-6)


def test_a_checkpoint_runs_no_file_that_its_user_did_not_name(tmp_path: Path) -> None:
    parts = tmp_path / "parts.py"
    parts.write_text(
        "import pathlib\n"
        "from training.zoo.registry import BACKBONES\n"
        "pathlib.Path(__file__).with_suffix('.ran').touch()\n"
        "from dataclasses import replace\n"
        "@BACKBONES.register('of_parts')\n"
        "def of_parts(spec):\n"
        "    return BACKBONES['mobilenet_v3_small'](replace(spec, backbone='mobilenet_v3_small'))\n"
    )
    model = tiny("fcos", "of_parts", imports=(str(parts),))
    like = build_detector(tiny("fcos"), 1)
    checkpoint = Checkpoint(spec=ZooSpec(model=model), classes=("a",), weights=like.state_dict())
    (tmp_path / "best.pt").write_bytes(checkpoint_bytes(checkpoint))
    with pytest.raises(ConfigError, match=r"parts\.py.*--imports FILE"):
        load_detector(str(tmp_path / "best.pt"))
    assert not parts.with_suffix(".ran").exists()
    network, _ = load_detector(str(tmp_path / "best.pt"), imports=[parts])
    assert len(network.state_dict()) == len(like.state_dict())


def test_keys_that_steer_nothing_in_a_detector_are_named() -> None:
    spec = load_spec(
        None, ["model.anchor_sizes=[8,16]", "train.schedule=cosine", "train.gamma=0.5"], detector="ssdlite"
    )
    assert without_effect(spec) == ["model.anchor_sizes", "train.gamma"]
    assert without_effect(load_spec(None, ["model.short_side=640"], detector="fcos")) == []


@pytest.mark.parametrize("detector", ["faster_rcnn", "retinanet", "fcos", "ssdlite"])
def test_nothing_is_learnt_in_a_region_that_is_ignored(detector: str) -> None:
    spec = tiny(detector, norm="frozen")
    images = [torch.rand(3, 64, 96)] * 2

    def background_loss(ignore: list[list[float]]) -> float:
        torch.manual_seed(0)
        network = build_detector(spec, 2).train()
        if detector == "ssdlite":
            network.neg_to_pos_ratio = 10_000
        torch.manual_seed(1)
        # SSD looks for background only where there is an object; the loss of the others is mostly of objects.
        boxes = [[40.0, 20, 60, 50]] if detector == "ssdlite" else []
        losses = network(images, 2 * targets(boxes=boxes, ignore=ignore))
        name = {"faster_rcnn": "loss_objectness"}.get(detector, "classification")
        return float(losses[name].detach())

    nothing, everything = background_loss([]), background_loss([[-200, -200, 300, 300]])
    if detector == "faster_rcnn":
        # Its loss is a mean over samples: with only the object left they are fewer, not cheaper.
        network = build_detector(spec, 2).train()
        anchors = [torch.tensor([[0.0, 0, 10, 10], [40, 20, 60, 50], [70, 40, 90, 60]])]
        labels, _ = network.rpn.assign_targets_to_anchors(
            anchors, targets(boxes=[[40, 20, 60, 50]], ignore=[[65, 35, 96, 64]])
        )
        assert labels[0].tolist() == [0, 1, -1]
    else:
        assert everything < (0.9 if detector == "ssdlite" else 0.01) * nothing


def test_a_region_holds_what_lies_in_it_to_more_than_half() -> None:
    regions = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 5, 5], [6, 0, 14, 10], [4, 0, 14, 10], [20, 20, 30, 30]])
    assert inside(boxes, regions).tolist() == [True, False, True, False]
    assert not inside(boxes, regions[:0]).any()


@pytest.mark.parametrize("drawn", [64, 96])
def test_the_short_side_that_is_drawn_is_the_one_that_an_image_gets(drawn: int) -> None:
    network = build_detector(tiny("fcos", short_side=(64, 96), long_side=400), 1)
    target = {
        **targets(boxes=[[0, 0, 50, 60]], ignore=[[10, 0, 20, 8]])[0],
        "short_side": torch.tensor(drawn),
    }
    image, resized = network.transform.resize(torch.rand(3, 128, 256), target)
    assert tuple(image.shape) == (3, drawn, 2 * drawn)
    for name, before in (("boxes", [0, 0, 50, 60]), ("ignore", [10, 0, 20, 8])):
        assert resized[name][0].tolist() == pytest.approx([side * drawn / 128 for side in before])
    found, _ = network.eval().transform.resize(torch.rand(3, 128, 256))
    assert found.shape[1] == 96, "evaluation takes the last"


def test_a_name_that_is_not_registered_names_the_nearest() -> None:
    with pytest.raises(UnknownKeyError, match="did you mean 'mobilenet_v2'"):
        build_detector(tiny("fcos", "mobilenet_v22"), 1)
    with pytest.raises(UnknownKeyError, match="did you mean 'retinanet'"):
        build_detector(tiny("retinnet"), 1)
    with pytest.raises(ConfigError, match="there already"):
        BACKBONES.register("resnet18")(lambda spec: None)
    with pytest.raises(ConfigError, match="expected 32 or more"):
        load_spec(None, ["model.short_side=8"])


def test_the_backbone_of_the_documentation_works(tmp_path: Path) -> None:
    page = (_DOCS / "backbone.md").read_text()
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert sum(bool(line) for line in code.splitlines()) <= 20
    (tmp_path / "patches.py").write_text(code)
    (tmp_path / "spec.yaml").write_text(page.split("```yaml\n", 1)[1].split("```", 1)[0])
    spec = load_spec(tmp_path / "spec.yaml", ["model.neck_channels=32"], detector="fcos")
    network = build_detector(spec.model, 2)
    assert network.backbone.backbone.channels == (32, 64, 128, 256)
    assert torch.isfinite(
        sum(
            network.train()(
                [torch.rand(3, 64, 96)] * 2, 2 * targets(boxes=[[1, 1, 30, 30]], ignore=[])
            ).values()
        )
    )


def test_weights_of_a_file_are_matched_by_name_or_by_order(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(3)
    source = torchvision.models.mobilenet_v3_small()
    torch.save(source.state_dict(), tmp_path / "named.pth")
    renamed = {f"x{i}": value for i, value in enumerate(source.state_dict().values())}
    torch.save(renamed, tmp_path / "ordered.pth")
    for name in ("named.pth", "ordered.pth"):
        target = torchvision.models.mobilenet_v3_small()
        load_weights(target, tmp_path / name)
        for a, b in zip(source.parameters(), target.parameters(), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(ConfigError, match="weights of this network"):
        load_weights(torchvision.models.resnet18(), tmp_path / "named.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="no file of weights"):
        load_weights(source, tmp_path / "broken.pth")


def test_the_rate_follows_the_batch_of_all_processes() -> None:
    spec = TrainSpec(lr=0.02, base_batch=16, batch_size=2)
    assert peak_rate(spec, world=4) == pytest.approx(0.01)
    assert peak_rate(replace(spec, batch_size=4), world=16) == pytest.approx(0.08)
    assert peak_rate(replace(spec, auto_scale_lr=False), world=4) == 0.02


def test_the_rate_warms_up_and_falls_at_its_milestones() -> None:
    spec = TrainSpec(lr=1, auto_scale_lr=False, epochs=12, warmup_steps=500, milestones=(8, 11))
    assert learning_rate(spec, 0, 1000, 1) == pytest.approx(0.001)
    assert learning_rate(spec, 250, 1000, 1) == pytest.approx(0.5005)
    assert learning_rate(spec, 7_999, 1000, 1) == 1
    assert learning_rate(spec, 8_000, 1000, 1) == pytest.approx(0.1)
    assert learning_rate(spec, 11_500, 1000, 1) == pytest.approx(0.01)
    cosine = replace(spec, schedule="cosine", warmup_steps=0)
    assert learning_rate(cosine, 6_000, 1000, 1) == pytest.approx(0.5)


@given(
    count=st.integers(1, 60),
    size=st.integers(1, 5),
    world=st.integers(1, 4),
    tall=st.integers(0, 2**60 - 1),
)
@settings(max_examples=60, deadline=None)
def test_every_sample_comes_once_an_epoch_and_shapes_come_together(
    count: int, size: int, world: int, tall: int
) -> None:
    shapes = [2.0 if tall >> i & 1 else 0.5 for i in range(count)]
    orders = [BatchOrder(count, size, seed=7, rank=r, world=world, shapes=shapes) for r in range(world)]
    parts = [list(order) for order in orders]
    assert {len(part) for part in parts} == {len(orders[0])}
    for together in zip(*parts, strict=True):
        assert len({len(batch) for batch in together}) == 1
    dealt = [number for part in parts for batch in part for number in batch]
    assert set(dealt) == set(range(count))
    assert len(dealt) - count < 2 * world
    whole = orders[0].whole_batches()
    # The last one may have been filled up with any images.
    mixed = sum(len({shapes[i] for i in batch}) > 1 for batch in whole[:-1])
    assert mixed <= 1


def test_samples_are_drawn_the_same_whoever_asks(shared_data: Path) -> None:
    from dropmill.folder_samples import read_folder_samples

    samples = read_folder_samples(shared_data / "kitti")
    classes = classes_of(samples)
    assert classes[0] == "Car"
    assert "DontCare" not in classes
    data = DataSpec(transforms=("flip", "crop", "colour"))
    first, second = (
        DetectionDataset(samples, classes, data, ModelSpec(short_side=(200, 300)), seed=5) for _ in range(2)
    )
    image, target = first[0]
    again, same = second[0]
    assert torch.equal(image, again)
    assert all(torch.equal(target[name], same[name]) for name in target)
    second.set_epoch(1)
    assert any(not torch.equal(second[i][0], first[i][0]) for i in range(3))
    plain = DetectionDataset(samples, classes, data, ModelSpec(), for_training=False)
    regions = sum(len(plain[i][1]["ignore"]) for i in range(len(samples)))
    assert regions == 26


def test_a_class_without_objects_is_an_error_that_lists_those_there_are() -> None:
    sample = Sample("a", "", 8, 8, None, np.array([[0.0, 0, 4, 4]]), ("car",), np.zeros(1, bool))
    with pytest.raises(ConfigError, match="no object of dog; the samples have car"):
        classes_of([sample], ("dog",))


def test_the_middle_format_goes_out_and_in(shared_data: Path, tmp_path: Path) -> None:
    import json

    from dropmill.folder_samples import read_folder_samples

    samples = read_folder_samples(shared_data / "nuts-coco-masks")
    classes = classes_of(samples)
    (tmp_path / "middle.json").write_text(json.dumps(middle_format(samples, classes)))
    back = read_middle(tmp_path / "middle.json")
    for one, other in zip(samples, back, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        assert one.categories == other.categories
        assert list(map(json.loads, one.shapes)) == list(map(json.loads, other.shapes))
        assert (one.uri, one.width) == (other.uri, other.width)


def test_the_first_middle_format_counts_labels_from_one(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(
        '[{"filename": "a.jpg", "width": 20, "height": 10, "ann": {"bboxes": [[1, 2, 3, 4]], "labels": [2],'
        ' "bboxes_ignore": [[0, 0, 5, 5]], "labels_ignore": [1]}},'
        ' {"filename": "b.jpg", "width": 4, "height": 4}]'
    )
    first, second = read_middle(tmp_path / "old.json", "images", ["cat", "dog"])
    assert first.categories == ("dog", "cat")
    assert first.ignore.tolist() == [False, True]
    assert first.uri == "images/a.jpg"
    assert second.categories == ()
    (tmp_path / "bare.json").write_text(
        '[{"filename": "a.jpg", "width": 20, "height": 10, "ann": {"bboxes": [], "labels": [],'
        ' "bboxes_ignore": [[0, 0, 5, 5]]}}]'
    )
    assert read_middle(tmp_path / "bare.json", "", ["cat"])[0].categories == ("*",)
    for wrong in ('"bboxes": [[1, 2, 3, 4]], "labels": []', '"bboxes": [[1, 2, 3, NaN]], "labels": [1]'):
        (tmp_path / "wrong.json").write_text(
            f'[{{"filename": "a.jpg", "width": 20, "height": 10, "ann": {{{wrong}}}}}]'
        )
        with pytest.raises(UnreadableError, match="entry 0: 1 boxes"):
            read_middle(tmp_path / "wrong.json", "", ["cat"])
    (tmp_path / "old.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="a pickle, which runs code"):
        read_middle(tmp_path / "old.pkl")


def test_ignored_regions_go_out_in_both_middle_formats_and_come_back(tmp_path: Path) -> None:
    import json

    boxes = np.array([[1.0, 2, 3, 4], [5, 5, 9, 9], [0, 0, 8, 8], [0, 0, 2, 2]])
    names, ignore = ("dog", "cat", "DontCare", "bird"), np.array([False, True, True, False])
    sample = Sample("a", "a.jpg", 20, 10, None, boxes, names, ignore)
    for content in (middle_format([sample], ["cat", "dog"]), first_middle_format([sample], ["cat", "dog"])):
        (tmp_path / "middle.json").write_text(json.dumps(content))
        (back,) = read_middle(tmp_path / "middle.json", "", ["cat", "dog"])
        said = sorted(zip(back.categories, back.ignore.tolist(), back.boxes.tolist(), strict=True))
        # The region of all classes is one of each; the bird is of no class that was asked for.
        assert said == [
            ("cat", True, [0, 0, 8, 8]), ("cat", True, [5, 5, 9, 9]), ("dog", False, [1, 2, 3, 4]),
            ("dog", True, [0, 0, 8, 8]),
        ]  # fmt: skip


def test_the_zoo_imports_without_the_packages_of_the_lake() -> None:
    code = (
        "import sys\n"
        "for name in ('ray', 'polars', 'deltalake', 'pyarrow', 'duckdb'): sys.modules[name] = None\n"
        "import training.zoo.loop, training.zoo.export, training.zoo.middle, training.zoo.ray_fit"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=_DOCS.parent)
