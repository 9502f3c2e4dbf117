"""RT-DETR (Zhao et al., arXiv 2304.08069) and D-FINE (Peng et al., arXiv 2410.13842) through transformers.

Images are resized to a square; nothing is suppressed. Regions to ignore are painted over with the mean
colour where no object is, because its loss has no place for them.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import ConfigError
from training.zoo.backbones import freeze_stage, set_norm
from training.zoo.ignore import Target
from training.zoo.registry import DETECTORS
from training.zoo.spec import ModelSpec
from training.zoo.weights import load_weights

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_RESNETS = {
    "resnet18": ("basic", (64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet34": ("basic", (64, 128, 256, 512), (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (256, 512, 1024, 2048), (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (256, 512, 1024, 2048), (3, 4, 23, 3)),
}


class TransformerDetector(nn.Module):
    """transformers' network between torchvision's inputs and outputs; classes count from 1 outside."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self._side, self._most, self._threshold = spec.input_size, spec.max_detections, spec.score_threshold
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Losses by name in training, else boxes, scores and labels of each image."""
        if not self.training:
            return self._found(self.network(pixel_values=self._square(images)), images)
        assert targets is not None
        painted = [_painted(image, target) for image, target in zip(images, targets, strict=True)]
        labels = [
            {"class_labels": target["labels"] - 1, "boxes": _centred(target["boxes"], image)}
            for image, target in zip(images, targets, strict=True)
        ]
        output = self.network(pixel_values=self._square(painted), labels=labels)
        # The whole loss once: the parts that it also gives are without their weights.
        loss: Tensor = output.loss
        for name, weight in self.network.named_parameters():
            # Without an object nothing is denoised; processes that train together need a gradient even so.
            if "denoising" in name:
                loss = loss + 0 * weight.sum()
        return {"loss_transformer": loss}

    def _square(self, images: list[Tensor]) -> Tensor:
        size = (self._side, self._side)
        return torch.stack(
            [
                (nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0] - self.mean)
                / self.std
                for image in images
            ]
        )

    def _found(self, output: Any, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for logits, boxes, image in zip(output.logits.sigmoid(), output.pred_boxes, images, strict=True):
            scores, place = logits.flatten().topk(min(self._most, logits.numel()))
            height, width = image.shape[-2:]
            size = boxes.new_tensor([width, height, width, height])
            centre, half = boxes[:, :2], boxes[:, 2:] / 2
            corners = torch.cat([centre - half, centre + half], dim=1).clamp(0, 1) * size
            keep = scores > self._threshold
            query = torch.div(place, logits.shape[1], rounding_mode="floor")[keep]
            found.append(
                {
                    "boxes": corners[query],
                    "scores": scores[keep],
                    "labels": place[keep] % logits.shape[1] + 1,
                }
            )
        return found


@DETECTORS.register("rtdetr")
def rtdetr(spec: ModelSpec, classes: int) -> nn.Module:
    """RT-DETR on a ResNet; ``backbone_weights`` may be those of a whole RT-DETR (safetensors or torch)."""
    return _built(spec, classes, "rtdetr", "RTDetr")


@DETECTORS.register("dfine")
def dfine(spec: ModelSpec, classes: int) -> nn.Module:
    """D-FINE on a ResNet; ``backbone_weights`` may be those of a whole D-FINE (safetensors or torch)."""
    return _built(spec, classes, "dfine", "DFine")


def _built(spec: ModelSpec, classes: int, name: str, family: str) -> nn.Module:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(f"{name} needs transformers: pip install dropmill[zoo]") from error
    if spec.backbone not in _RESNETS:
        raise ConfigError(
            f"model.backbone: {spec.backbone!r}; {name} is made on {', '.join(sorted(_RESNETS))}"
        )
    if spec.input_size % 32:
        raise ConfigError(f"model.input_size: {spec.input_size}; {name} needs a multiple of 32")
    kind, widths, depths = _RESNETS[spec.backbone]
    body = transformers.RTDetrResNetConfig(
        layer_type=kind,
        hidden_sizes=list(widths),
        depths=list(depths),
        out_features=["stage2", "stage3", "stage4"],
    )
    side = spec.neck_channels
    config = getattr(transformers, f"{family}Config")(
        backbone_config=body,
        num_labels=classes,
        num_queries=spec.queries,
        d_model=side,
        encoder_hidden_dim=side,
        encoder_in_channels=list(widths[1:]),
        encoder_ffn_dim=4 * side,
        decoder_in_channels=[side] * 3,
        decoder_ffn_dim=4 * side,
        freeze_backbone_batch_norms=spec.norm == "frozen",
    )
    network = getattr(transformers, f"{family}ForObjectDetection")(config)
    if spec.backbone_weights:
        load_weights(network, spec.backbone_weights)
    seen = network.model.backbone.model
    for stage in [seen.embedder, *seen.encoder.stages][: spec.frozen_stages]:
        freeze_stage(stage)
    if spec.norm == "sync":
        set_norm(network, "sync")
    return TransformerDetector(network, spec)


def _centred(boxes: Tensor, image: Tensor) -> Tensor:
    """Corners in pixels as centre and size in parts of the image."""
    height, width = image.shape[-2:]
    size = boxes.new_tensor([width, height, width, height])
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1) / size


def _painted(image: Tensor, target: Target) -> Tensor:
    """The image with its ignored regions painted over, objects excepted."""
    if not len(target["ignore"]):
        return image
    hidden = torch.zeros(image.shape[-2:], dtype=torch.bool, device=image.device)
    for regions, value in ((target["ignore"], True), (target["boxes"], False)):
        for xmin, ymin, xmax, ymax in regions.round().int().tolist():
            hidden[max(0, ymin) : max(0, ymax), max(0, xmin) : max(0, xmax)] = value
    mean = image.new_tensor(_MEAN)[:, None, None]
    return torch.where(hidden, mean, image)
