from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from storage.errors import ConfigError
from training.detectnet_v2.backbones import build_backbone
from training.detectnet_v2.backbones.backbone import normalised
from training.detectnet_v2.spec import ModelConfig

ALL = [
    ("resnet", {"num_layers": 10}, 512),
    ("resnet", {"num_layers": 18, "use_pooling": True}, 512),
    ("vgg", {"num_layers": 16}, 512),
    ("vgg", {"num_layers": 19, "use_pooling": True}, 512),
    ("googlenet", {}, 1024),
    ("mobilenet_v1", {}, 512),
    ("mobilenet_v2", {}, 96),
    ("efficientnet_lite0", {}, 112),
]


def config(arch: str, **settings: object) -> ModelConfig:
    return replace(ModelConfig(use_batch_norm=True), arch=arch, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("arch", "settings", "channels"), ALL)
def test_every_backbone_has_stride_16_and_says_its_channels(
    arch: str, settings: dict[str, object], channels: int
) -> None:
    backbone = build_backbone(config(arch, **settings), 3).eval()
    with torch.inference_mode():
        assert backbone(torch.zeros(1, 3, 64, 96)).shape == (1, channels, 4, 6)
    assert backbone.out_channels == channels


@pytest.mark.parametrize(("arch", "settings", "channels"), ALL)
def test_freeze_blocks_name_layers_that_hold_all_parameters_between_them(
    arch: str, settings: dict[str, object], channels: int
) -> None:
    backbone = build_backbone(config(arch, **settings), 1)
    held = [p for number in backbone.freeze_ids for part in backbone.stage(number) for p in part.parameters()]
    assert {id(p) for p in held} == {id(p) for p in backbone.parameters()}
    assert len(held) == len(list(backbone.parameters()))


def test_freeze_blocks_are_numbered_as_tao_numbers_them() -> None:
    assert sorted(build_backbone(config("mobilenet_v1"), 3).freeze_ids) == list(range(12))
    assert sorted(build_backbone(config("mobilenet_v2"), 3).freeze_ids) == list(range(14))
    assert sorted(build_backbone(config("vgg", num_layers=16), 3).freeze_ids) == [1, 2, 3, 4, 5]
    assert sorted(build_backbone(config("googlenet"), 3).freeze_ids) == list(range(10))


def test_the_stages_of_timms_networks_are_frozen_one_by_one() -> None:
    backbone = build_backbone(config("efficientnet_lite0"), 3)
    assert sorted(backbone.freeze_ids) == list(range(8))
    stages = [sum(p.numel() for part in backbone.stage(n) for p in part.parameters()) for n in range(2, 7)]
    assert 0 < max(stages) < sum(stages)


def test_a_bias_before_normalisation_is_left_out_of_training_and_in_the_running_mean() -> None:
    torch.manual_seed(1)
    conv, bn = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.3)
    nn.init.normal_(bn.weight)
    nn.init.normal_(bn.bias)
    other_conv, other_bn = copy.deepcopy(conv), copy.deepcopy(bn)
    for _ in range(2):
        seen = torch.randn(4, 3, 8, 8)
        ours, plain = normalised(conv, bn, seen), other_bn(other_conv(seen))
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
        ours.square().sum().backward()
        plain.square().sum().backward()
    for one, other in zip(bn.buffers(), other_bn.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in (
        (conv.weight, other_conv.weight),
        (bn.weight, other_bn.weight),
        (bn.bias, other_bn.bias),
    ):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3)
    assert conv.bias is not None
    assert conv.bias.grad is not None
    assert not conv.bias.grad.any()
    torch.testing.assert_close(normalised(conv.eval(), bn.eval(), seen), other_bn.eval()(other_conv(seen)))


def test_blocks_that_nobody_reads_are_cut_off() -> None:
    backbone = build_backbone(config("efficientnet_lite0"), 3)
    backbone(torch.zeros(1, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_an_unknown_name_is_refused_with_the_nearest_of_timm() -> None:
    with pytest.raises(ConfigError, match="did you mean 'efficientnet_lite0'"):
        build_backbone(config("eficientnet_lite0"), 3)
