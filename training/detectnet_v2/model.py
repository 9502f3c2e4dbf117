"""DetectNet_v2: a backbone of stride 16 and two 1x1 heads, coverage and boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.detectnet_v2.backbones import Backbone, build_backbone
from training.detectnet_v2.backbones.backbone import BN_MOMENTUM
from training.detectnet_v2.spec import STRIDE, TrainSpec

INPUT_NAME = "input_1"
# Coverage begins near 0.01, not at 0.5 as in TAO: else the first epochs only teach that most cells are empty
# (Lin et al. 2017, arXiv 1708.02002, section 4.1).
_PRIOR_LOGIT = -4.6
OUTPUT_NAMES = ("output_cov/Sigmoid", "output_bbox/BiasAdd")


class DetectNetV2(nn.Module):
    """Images ``[B, channels, H, W]`` in 0..1 (RGB) to coverage ``[B, K, H/16, W/16]`` in 0..1 and boxes ``[B,
    4K, …]``.

    H and W are multiples of 16. Box channels are, class by class, the distances left, top, right, bottom from
    the cell's corner to the box, in ``(pixels ± offset) / scale``. Exported, input and outputs are named
    ``input_1``, ``output_cov/Sigmoid`` and ``output_bbox/BiasAdd``.
    """

    stride = STRIDE

    def __init__(
        self,
        classes: tuple[str, ...],
        backbone: Backbone,
        *,
        channels: int = 3,
        width: int = 960,
        height: int = 544,
        scale: float = 35.0,
        offset: float = 0.5,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.channels = channels
        self.width = width  # pixels of the input it was trained at; any multiple of 16 works
        self.height = height
        self.scale = scale
        self.offset = offset
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout_rate)
        self.output_cov = _head(backbone.out_channels, len(classes), bias=_PRIOR_LOGIT)
        self.output_bbox = _head(backbone.out_channels, 4 * len(classes), bias=0.0)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.dropout(self.backbone(images))
        # In half precision a sigmoid is exactly 1 from logits of about 6 on, and its gradient 0: such
        # cells would never learn again.
        return torch.sigmoid(self.output_cov(features).float()), self.output_bbox(features)


def build_model(spec: TrainSpec) -> DetectNetV2:
    """The network of ``spec`` with random weights (from torch's generator).

    Raises ``ConfigError`` for what this implementation does not have.
    """
    size = spec.augmentation_config.preprocessing
    head = spec.model_config.objective_set.bbox
    return DetectNetV2(
        spec.classes,
        build_backbone(spec.model_config, size.output_image_channel),
        channels=size.output_image_channel,
        width=size.output_image_width,
        height=size.output_image_height,
        scale=head.scale,
        offset=head.offset,
        dropout_rate=spec.model_config.dropout_rate,
    )


def freeze(model: DetectNetV2, blocks: tuple[float, ...], *, batch_norm: bool) -> None:
    """Make freeze blocks (their numbers are the backbone's) untrainable, and with ``batch_norm`` all
    normalisation.

    Frozen normalisation also keeps its running averages: call this again after ``model.train()``.
    """
    for block in blocks:
        for layer in model.backbone.stage(int(block)):
            layer.requires_grad_(requires_grad=False)
            layer.eval()
    if batch_norm:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(requires_grad=False)
                module.eval()


def warm_averages(model: DetectNetV2) -> None:
    """Make running averages plain means until they have seen as many batches as their momentum spans.

    With TAO's 0.99 from zero mean and unit variance, 250 batches leave 8 % of these in every layer: enough to
    drown the signal of a network that was trained for no longer than that. Call before each training step.
    """
    counts = {
        module: module.num_batches_tracked
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None
    }
    if not counts:
        return
    # Layers have counts of their own: frozen ones never count, pretrained ones have begun before. One look at
    # all of them, because each look waits for a GPU.
    for layer, seen in zip(counts, torch.stack(list(counts.values())).tolist(), strict=True):
        layer.momentum = max(BN_MOMENTUM, 1 / (seen + 1))


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Trainable and fixed numbers of ``model``; running averages of batch normalisation are fixed."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    averages = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    return trainable, frozen + averages


def _head(inputs: int, outputs: int, *, bias: float) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)
    return layer
