from __future__ import annotations

import pytest
import torch

from storage.errors import ConfigError
from training.detectnet_v2.backbones.resnet import ResNet


@pytest.mark.parametrize(("depth", "channels"), [(10, 512), (18, 512), (34, 512), (50, 2048)])
def test_every_depth_has_stride_16(depth: int, channels: int) -> None:
    with torch.device("meta"):
        features = ResNet(depth)(torch.zeros(1, 3, 64, 96))
    assert features.shape == (1, channels, 4, 6)


def test_an_unknown_depth_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_layers is 20; expected one of 10, 18, 34, 50, 101"):
        ResNet(20)


def test_layers_have_the_names_that_users_know() -> None:
    names = dict(ResNet(18, all_projections=True).named_modules())
    for name in ("conv1", "bn_conv1", "block_1a.conv_1", "block_4b.bn_2", "block_2b.conv_shortcut"):
        assert name in names
    assert "block_2b.conv_shortcut" not in dict(ResNet(18).named_modules())


def test_without_batch_normalisation_there_is_none() -> None:
    assert not [name for name, _ in ResNet(10, use_batch_norm=False).named_buffers()]
