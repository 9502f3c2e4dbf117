"""Any backbone of timm that has features at stride 16, among them EfficientNet-Lite0."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import ConfigError
from training.detectnet_v2.backbones.backbone import Backbone, normalisation

_STRIDE = 16


class TimmBackbone(Backbone):
    """The last features of stride 16 of the timm model ``name``, with random weights, normalised.

    Features that no activation bounds come out large (ImageNet's EfficientNet-Lite0: a deviation of 6), and a
    step of the heads then throws all boxes about; normalised, the heads learn in a third of the steps.
    Freeze blocks are the layers of the model's feature path, in their order and stage by stage, then the norm
    (of EfficientNet-Lite0: 0 and 1 the stem, 2 to 6 the stages, 7 the norm). Raises
    ``ConfigError`` where timm is not installed, does not know the name, or the model has no features at
    stride 16.
    """

    def __init__(self, name: str, *, channels: int = 3) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ConfigError(
                f'model_config.arch is "{name}", which needs the package timm: pip install dropmill[train]',
                key="arch",
            ) from error
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=1)
            raise ConfigError(
                f'model_config.arch is "{name}", and timm has no such model'
                + (f"; did you mean {near[0]!r}?" if near else "; timm.list_models() has their names"),
                key="arch",
                found=name,
            )
        try:
            whole: Any = timm.create_model(name, features_only=True, pretrained=False, in_chans=channels)
            levels = [
                i for i, info in enumerate(whole.feature_info.get_dicts()) if info["reduction"] == _STRIDE
            ]
            if not levels:
                raise ConfigError(f"features at strides {whole.feature_info.reduction()}")
            net: Any = timm.create_model(
                name, features_only=True, pretrained=False, in_chans=channels, out_indices=(levels[-1],)
            )
        except (RuntimeError, AttributeError, AssertionError, ValueError, TypeError, ConfigError) as error:
            raise ConfigError(
                f'model_config.arch is "{name}": timm gives {error}; expected features at stride {_STRIDE}',
                key="arch",
                found=name,
            ) from error
        _cut_unused(net, channels)
        self.net = net
        self.out_channels = int(net.feature_info.channels()[0])
        self.norm = normalisation(self.out_channels, use=True)
        parts = [*(f"net.{part}" for part in _parts(self.net)), "norm"]
        self.freeze_ids = {number: [part] for number, part in enumerate(parts)}

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.net(images)[0])
        return features


def _parts(net: nn.Module) -> list[str]:
    """Names of the layers; a list of stages is not one layer but its stages."""
    names = []
    for name, part in net.named_children():
        stages = list(part.named_children()) if isinstance(part, nn.Sequential) else []
        apart = bool(stages) and all(isinstance(stage, nn.Sequential) for _, stage in stages)
        names += [f"{name}.{number}" for number, _ in stages] if apart else [name]
    return names


def _cut_unused(net: nn.Module, channels: int) -> None:
    """Take out the blocks behind the last features: some of timm's models compute them for nobody."""
    net.eval()
    net(torch.zeros(1, channels, 64, 64))[0].sum().backward()
    for part in net.children():
        while isinstance(part, nn.Sequential) and len(part) and _is_unused(part[-1]):
            del part[-1]
    for parameter in net.parameters():
        parameter.grad = None
    net.train()


def _is_unused(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and all(parameter.grad is None for parameter in parameters)
