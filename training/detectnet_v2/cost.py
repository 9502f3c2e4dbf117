"""The cost: weighted cross entropy of coverage and L1 of box distances, balanced class by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.detectnet_v2.adam import flat
from training.detectnet_v2.spec import CostFunctionConfig, Regularizer, RegularizerType

_EPSILON = 1e-5
OBJECTIVES = ("cov", "bbox")
_PIECE = 1 << 17  # numbers; 512 KiB, which a core's cache holds from one use to the next


@dataclass(frozen=True)
class TargetBatch:
    """``rasterise.Targets`` of B images, stacked: ``cov``, ``norm``, ``weight [B, K, h, w]``, ``bbox [B, 4K,
    h, w]``.
    """

    cov: Tensor
    norm: Tensor
    bbox: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> TargetBatch:
        """The same on ``device``."""
        tensors = (self.cov, self.norm, self.bbox, self.weight)
        return TargetBatch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def component_costs(cov: Tensor, bbox: Tensor, target: TargetBatch, foreground: Tensor) -> Tensor:
    """Unweighted costs ``[K, 2]`` (coverage, boxes) of outputs ``cov [B, K, h, w]`` and ``bbox [B, 4K, h,
    w]``.

    Means go over the batch, all cells and (for boxes) the four distances, so that images without objects
    count. ``foreground [K]`` is the share of cells with coverage above 0.5 in the cross entropy.
    """
    cov, bbox = cov.float(), bbox.float()  # 1e-5 beside 1 is lost in half precision
    share = foreground.view(1, -1, 1, 1)
    entropy = -(target.cov * torch.log(cov + _EPSILON) + (1 - target.cov) * torch.log(1 - cov + _EPSILON))
    cov_cost = entropy * torch.where(target.cov > 0.5, share, 1 - share) * target.weight
    batch, classes, height, width = cov.shape
    distance = (target.bbox - bbox).abs().view(batch, classes, 4, height, width)
    bbox_cost = distance * (target.norm * target.weight).unsqueeze(2)
    return torch.stack([cov_cost.mean(dim=(0, 2, 3)), bbox_cost.mean(dim=(0, 2, 3, 4))], dim=1)


def foreground_weights(config: CostFunctionConfig) -> Tensor:
    """``coverage_foreground_weight`` of every class ``[K]``."""
    return torch.tensor([target.coverage_foreground_weight for target in config.target_classes])


class ObjectiveWeights:
    """The weights ``[K, 2]`` of the component costs, adapted after each epoch where the spec asks for it.

    A weight is the objective's target divided by its cost, so that the weighted costs come to the ratio of
    the targets; then clamped to the spec's range and, as in TAO, not normalised again.
    """

    def __init__(self, config: CostFunctionConfig) -> None:
        targets = config.target_classes
        initial = torch.tensor([[t.objective(name).initial_weight for name in OBJECTIVES] for t in targets])
        self._config = config
        self._goal = torch.tensor([[t.objective(name).weight_target for name in OBJECTIVES] for t in targets])
        self.weights = initial / initial.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        class_weights = torch.tensor([t.class_weight for t in targets])
        self._class_weights = class_weights / class_weights.sum()

    def total(self, costs: Tensor) -> Tensor:
        """The weighted sum of component costs ``[K, 2]``."""
        factors = self.weights * self._class_weights.unsqueeze(1)
        return (costs * factors.to(costs.device)).sum()

    def update(self, epoch_costs: Tensor) -> None:
        """Adapt to the sums ``[K, 2]`` of an epoch's component costs (over all processes)."""
        if not self._config.enable_autoweighting:
            return
        sums = epoch_costs.detach().cpu().float()
        wanted = torch.where(sums > 0, self._goal / sums, torch.zeros_like(sums))
        total = wanted.sum(dim=1, keepdim=True)
        share = wanted / torch.where(total > 0, total, torch.ones_like(total))
        clamped = share.clamp(self._config.min_objective_weight, self._config.max_objective_weight)
        self.weights = torch.where(total > 0, clamped, self.weights)


class Regularisation:
    """The cost of the size of kernels and biases of convolutions; batch normalisation is left out.

    Its gradient is known (for L1 the sign, for L2 twice the number), so it is added to that of the other
    costs instead of being derived, which would go over all weights four times more.
    """

    def __init__(self, model: nn.Module, config: Regularizer) -> None:
        self._type, self._weight = config.type, config.weight
        idle = config.type is RegularizerType.NO_REG or config.weight == 0
        self._tensors: list[Tensor] = [
            parameter
            for module in model.modules()
            if isinstance(module, nn.Conv2d) and not idle
            for parameter in module.parameters()
            if parameter.requires_grad
        ]

    @torch.no_grad()
    def add_gradients(self) -> Tensor | float:
        """Add to what the backward pass left, where it left something; call it once, after that pass.

        Returns the cost: the weighted sum of absolute values, or of squares.
        """
        if not self._tensors:
            return 0.0
        if self._tensors[0].device.type == "cpu":
            return self._weight * sum(self._add_to(tensor) for tensor in self._tensors)
        reached = [(tensor, tensor.grad) for tensor in self._tensors if tensor.grad is not None]
        if reached:
            tensors, gradients = [tensor for tensor, _ in reached], [gradient for _, gradient in reached]
            slopes = torch._foreach_sign(tensors) if self._is_l1 else tensors  # noqa: SLF001
            torch._foreach_add_(gradients, slopes, alpha=self._factor)
        norms = torch.stack(torch._foreach_norm(self._tensors, 1 if self._is_l1 else 2))  # noqa: SLF001
        return self._weight * (norms if self._is_l1 else norms.square()).sum()

    def _add_to(self, tensor: Tensor) -> float:
        """The unweighted cost of one tensor; in pieces that stay in the cache from one use to the next."""
        gradient = tensor.grad
        if gradient is not None and gradient.stride() != tensor.stride():
            gradient.add_(torch.sign(tensor) if self._is_l1 else tensor, alpha=self._factor)
            gradient = None
        pieces = flat(tensor).split(_PIECE)
        targets = [None] * len(pieces) if gradient is None else flat(gradient).split(_PIECE)
        room, cost = torch.empty_like(pieces[0]), 0.0
        for piece, target in zip(pieces, targets, strict=True):
            slope = torch.sign(piece, out=room[: len(piece)]) if self._is_l1 else piece
            cost += float(torch.dot(piece, slope))
            if target is not None:
                target.add_(slope, alpha=self._factor)
        return cost

    @property
    def _is_l1(self) -> bool:
        return self._type is RegularizerType.L1

    @property
    def _factor(self) -> float:
        return self._weight if self._is_l1 else 2 * self._weight
