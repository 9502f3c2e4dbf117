from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from storage.errors import ConfigError, TrainingError, UnknownKeyError
from training.detectnet_v2.checkpoint import load_checkpoint, load_model, save_checkpoint
from training.detectnet_v2.model import DetectNetV2, build_model
from training.detectnet_v2.prune import filter_statistic, keep_filters, merge, prune
from training.detectnet_v2.spec import default_spec

SPEC = default_spec(["a", "b"], 64, 64, num_layers=10)


def network(arch: str = "resnet", seed: int = 0, **settings: object) -> DetectNetV2:
    torch.manual_seed(seed)
    config = replace(SPEC.model_config, arch=arch, **settings)  # type: ignore[arg-type]
    return build_model(replace(SPEC, model_config=config)).eval()


def test_statistics_are_norms_divided_by_the_largest_or_by_their_root_of_squares() -> None:
    weight = torch.zeros(3, 2, 1, 2)
    weight[0, 0, 0] = torch.tensor([3.0, 4.0])
    weight[1, 1, 0, 0] = 12.0
    assert filter_statistic(weight, "max").tolist() == pytest.approx([5 / 12, 1, 0])
    assert filter_statistic(weight, "L2").tolist() == pytest.approx([15 / 13, 36 / 13, 0])
    assert filter_statistic(weight, "off").tolist() == [5, 12, 0]
    assert filter_statistic(torch.zeros(2, 1, 1, 1), "max").tolist() == [0, 0]


def test_merging_follows_the_criterion() -> None:
    first, second = torch.tensor([0.2, 0.9]), torch.tensor([0.8, 0.1])
    assert merge([first, second], "union").tolist() == pytest.approx([0.8, 0.9])
    assert merge([first, second], "intersection").tolist() == pytest.approx([0.2, 0.1])
    assert merge([first, second], "arithmetic_mean").tolist() == pytest.approx([0.5, 0.5])
    assert merge([first, second], "geometric_mean").tolist() == pytest.approx([0.4, 0.3])


@pytest.mark.parametrize(
    ("threshold", "granularity", "min_filters", "kept"),
    [
        (0.5, 1, 1, [1, 3, 5]),
        (0.5, 2, 1, [1, 2, 3, 5]),  # rounded up to the granularity
        (0.5, 4, 1, [1, 2, 3, 5]),
        (0.5, 8, 1, [0, 1, 2, 3, 4, 5]),  # never more than there are
        (0.95, 1, 2, [3, 5]),  # the least number
        (2.0, 1, 9, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_filters_above_the_threshold_stay_in_their_order(
    threshold: float, granularity: int, min_filters: int, kept: list[int]
) -> None:
    statistic = torch.tensor([0.1, 0.6, 0.5, 0.9, 0.2, 1.0])
    assert (
        keep_filters(statistic, threshold=threshold, granularity=granularity, min_filters=min_filters) == kept
    )


def test_filters_that_are_zero_go_and_the_outputs_stay() -> None:
    """Normalisation and bias included: a channel of zeros is nothing to the layers behind it."""
    net = network()
    silent = {"backbone.block_1a.conv_1": 24, "backbone.block_3a.conv_1": 200}
    with torch.no_grad():
        for name, count in silent.items():
            layer = net.get_submodule(name)
            layer.weight[:count] = 0
            net.get_submodule(name.replace("conv_", "bn_")).weight[:count] = 0
    images = torch.rand(2, 3, 64, 64)
    before = net(images)
    report = prune(net, threshold=1e-6, granularity=8, min_filters=8)
    changed = {
        n: report.before[n] - report.after[n] for n in report.before if report.after[n] != report.before[n]
    }
    assert changed == silent
    for old, new in zip(before, net(images), strict=True):
        torch.testing.assert_close(new, old, atol=1e-5, rtol=1e-4)
    assert report.parameters_after < report.parameters_before


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("resnet", {"num_layers": 50}),
        ("resnet", {"num_layers": 18, "all_projections": True}),
        ("vgg", {"num_layers": 16}),
        ("googlenet", {}),
        ("mobilenet_v2", {}),
        ("efficientnet_lite0", {}),
    ],
)
def test_every_family_gets_smaller_and_is_loaded_again(
    tmp_path: Path, arch: str, settings: dict[str, object]
) -> None:
    net = network(arch, **settings)
    spec = replace(SPEC, model_config=replace(SPEC.model_config, arch=arch, **settings))  # type: ignore[arg-type]
    report = prune(net, threshold=0.99)
    assert report.ratio < 0.5
    assert all(width % 8 == 0 for name, width in report.after.items() if not name.startswith("output"))
    save_checkpoint(tmp_path / "pruned.pt", net, spec)
    again, _ = load_model(tmp_path / "pruned.pt")
    images = torch.rand(1, 3, 64, 64)
    for old, new in zip(net(images), again(images), strict=True):
        assert torch.equal(old, new)
    assert load_checkpoint(tmp_path / "pruned.pt").widths == report.after


def test_what_reads_its_channels_in_groups_keeps_them_and_the_network_runs_again(tmp_path: Path) -> None:
    net = network("regnety_002")
    report = prune(net, threshold=0.99)
    assert report.ratio < 1
    save_checkpoint(
        tmp_path / "p.pt", net, replace(SPEC, model_config=replace(SPEC.model_config, arch="regnety_002"))
    )
    again, _ = load_model(tmp_path / "p.pt")
    images = torch.rand(1, 3, 64, 64)
    for old, new in zip(net(images), again(images), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("arch", "complaint"), [("convnext_atto", "LayerNorm"), ("hrnet_w18_small", "do not fit")]
)
def test_a_network_that_cannot_be_pruned_is_refused(arch: str, complaint: str) -> None:
    with pytest.raises(TrainingError, match=complaint):
        prune(network(arch), threshold=0.99)


def test_layers_that_are_added_keep_the_same_channels() -> None:
    net = network(num_layers=18)
    with torch.no_grad():
        # Strong filters in one member alone: union keeps them for all, intersection for none.
        for name in ("block_2a.conv_2", "block_2a.conv_shortcut", "block_2b.conv_2"):
            net.get_submodule(f"backbone.{name}").weight.fill_(0.01)
        net.get_submodule("backbone.block_2b.conv_2").weight[40:80] = 1.0
    twin = network(num_layers=18)
    twin.load_state_dict(net.state_dict())
    union = prune(net, threshold=0.5, equalization="union").after
    narrow = prune(twin, threshold=0.5, equalization="intersection").after
    assert {
        union[f"backbone.{n}"] for n in ("block_2a.conv_2", "block_2a.conv_shortcut", "block_2b.conv_2")
    } == {128}
    assert narrow["backbone.block_2b.conv_2"] == narrow["backbone.block_2a.conv_shortcut"] == 40


def test_an_excluded_layer_keeps_its_whole_group() -> None:
    report = prune(network(num_layers=18), threshold=1.0, excluded=["block_2b_conv_2", "conv1"])
    for name in ("conv1", "block_2a.conv_2", "block_2a.conv_shortcut", "block_2b.conv_2"):
        assert report.after[f"backbone.{name}"] == report.before[f"backbone.{name}"]
    assert report.after["backbone.block_2a.conv_1"] == 16
    assert report.after["output_bbox"] == 8


def test_what_cannot_be_pruned_says_why() -> None:
    with pytest.raises(UnknownKeyError, match="did you mean 'block_2b_conv_2'"):
        prune(network(num_layers=18), excluded=["block_2b_conv_22"])
    with pytest.raises(UnknownKeyError, match="'union'"):
        prune(network(), equalization="onion")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="granularity 0"):
        prune(network(), granularity=0)
    broken = network()
    with torch.no_grad():
        broken.backbone.conv1.weight[0] = torch.nan
    with pytest.raises(TrainingError, match="not finite"):
        prune(broken)


def test_a_checkpoint_whose_widths_do_not_fit_is_refused(tmp_path: Path) -> None:
    net = network()
    prune(net, threshold=1.0)
    save_checkpoint(tmp_path / "pruned.pt", net, SPEC)
    content = torch.load(tmp_path / "pruned.pt", weights_only=True)
    content["weights"]["backbone.block_2a.conv_1.weight"] = torch.zeros(8, 8, 3, 3)
    torch.save(content, tmp_path / "broken.pt")
    with pytest.raises(TrainingError, match="do not fit"):
        load_model(tmp_path / "broken.pt")


def test_the_report_is_a_table_of_layers() -> None:
    lines = prune(network(), threshold=1.0).lines()
    assert lines[0].split() == ["layer", "before", "after", "left"]
    assert lines[1].split() == ["backbone.conv1", "64", "16", "25%"]
    assert lines[-1].startswith("parameters")
