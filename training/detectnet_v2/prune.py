"""Take out the filters that weigh least: a smaller network of the same family, to be trained again.

1. Every convolution's filters get a statistic: the L2 norm of the kernel, made comparable within the layer.
2. Layers whose outputs are added (or that filter each channel alone) must lose the same channels: they form a
   group, and their statistics are merged.
3. Filters above the threshold stay, and at least ``min_filters``, rounded up to ``granularity``.
4. What reads the channels (normalisation, following layers, concatenations) loses them too.

Groups come from the dependency graph of Torch-Pruning (Fang et al. 2023, arXiv 2301.12900). The rules are
those of TAO's ``prune``. A network that was pruned is to be trained again before it is used.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from storage.errors import ConfigError, TrainingError, UnknownKeyError
from training.detectnet_v2.channels import layer_widths
from training.detectnet_v2.model import DetectNetV2

logger = logging.getLogger(__name__)

Normalizer = Literal["max", "L2", "off"]
Equalization = Literal["union", "intersection", "arithmetic_mean", "geometric_mean"]

_HEADS = ("output_cov", "output_bbox")
_SIDE = 64  # pixels of the picture that the graph is followed with


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """Filters of every layer before and after, and parameters of the whole network (trainable and fixed)."""

    before: dict[str, int]
    after: dict[str, int]
    parameters_before: int
    parameters_after: int

    @property
    def ratio(self) -> float:
        """The share of parameters that is left."""
        return self.parameters_after / self.parameters_before

    def lines(self) -> list[str]:
        """A table for people: layer, filters before, after, share."""
        wide = max(map(len, self.before))
        lines = [f"{'layer':<{wide}}  before  after   left"]
        for name, before in self.before.items():
            after = self.after[name]
            lines.append(f"{name:<{wide}}  {before:>6}  {after:>5}  {after / before:>4.0%}")
        lines.append(f"{'parameters':<{wide}}  {self.parameters_before:,} -> {self.parameters_after:,}")
        return lines


def prune(
    model: DetectNetV2,
    *,
    threshold: float = 0.1,
    normalizer: Normalizer = "max",
    equalization: Equalization = "union",
    granularity: int = 8,
    min_filters: int = 16,
    excluded: Sequence[str] = (),
) -> PruneReport:
    """Prune ``model`` in place; its heads keep their outputs.

    ``normalizer`` divides the norms of a layer by their maximum, or by their root of squares and times their
    number (``L2``). ``excluded`` are layer names as the table has them, or TAO's (``block_1a_conv_1``); with
    one of them a whole group stays, and so it does with a convolution that reads its channels in groups.
    Raises ``ConfigError`` for unusable arguments, and ``TrainingError`` for weights that are not finite and
    for networks whose layers cannot lose channels together (some of timm's).
    """
    _check(threshold, normalizer, equalization, granularity, min_filters)
    kept_out = _names(model, excluded)
    before, parameters = layer_widths(model), _count(model)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    plans = _plan(model, kept_out, normalizer, equalization, threshold, granularity, min_filters)
    graph = _graph(model)
    for root, drop in plans:
        pruner = graph.get_pruner_of_module(root)
        graph.get_pruning_group(root, pruner.prune_out_channels, idxs=drop).prune()
    for parameter in model.parameters():
        parameter.grad = None
    _check_network(model, shapes)
    report = PruneReport(
        before=before,
        after=layer_widths(model),
        parameters_before=parameters,
        parameters_after=_count(model),
    )
    logger.info(
        "pruned threshold=%g ratio=%.4f parameters=%d", threshold, report.ratio, report.parameters_after
    )
    return report


def keep_filters(statistic: Tensor, *, threshold: float, granularity: int, min_filters: int) -> list[int]:
    """Indices, rising, of the filters that stay, by their statistic ``[n]``.

    As many as are above the threshold, at least ``min_filters``, rounded up to ``granularity``, at most all;
    the ones with the largest statistic.
    """
    depth = len(statistic)
    count = max(int((statistic > threshold).sum()), min(min_filters, depth))
    count = min(-(-count // granularity) * granularity, depth)
    return sorted(torch.argsort(statistic, descending=True, stable=True)[:count].tolist())


def filter_statistic(weight: Tensor, normalizer: Normalizer) -> Tensor:
    """L2 norms of the filters of a kernel ``[outputs, inputs, h, w]``, normalised within the layer."""
    norms = weight.detach().double().flatten(1).norm(dim=1)
    if not torch.isfinite(norms).all():
        raise TrainingError("a kernel holds numbers that are not finite; a diverged network cannot be pruned")
    if normalizer == "off" or not norms.any():
        return norms
    return norms / norms.max() if normalizer == "max" else norms / norms.norm() * len(norms)


def merge(statistics: Sequence[Tensor], equalization: Equalization) -> Tensor:
    """One statistic for layers that must keep the same channels."""
    stacked = torch.stack(list(statistics))
    match equalization:
        case "union":
            return stacked.amax(dim=0)
        case "intersection":
            return stacked.amin(dim=0)
        case "arithmetic_mean":
            return stacked.mean(dim=0)
        case "geometric_mean":
            return stacked.log().mean(dim=0).exp()


def _plan(
    model: DetectNetV2,
    kept_out: set[str],
    normalizer: Normalizer,
    equalization: Equalization,
    threshold: float,
    granularity: int,
    min_filters: int,
) -> list[tuple[nn.Module, list[int]]]:
    """For each group its first layer and the channels to drop, all from the weights as they are now."""
    graph = _graph(model)
    names = {module: name for name, module in model.named_modules()}
    heads = [model.get_submodule(name) for name in _HEADS]
    plans = []
    for group in graph.get_all_groups(ignored_layers=heads, root_module_types=[nn.Conv2d]):
        if any(_is_grouped(item.dep.target.module) for item in group):
            continue
        root = group[0].dep.target.module
        members: dict[nn.Conv2d, list[int]] = {}
        for item in group:
            layer = item.dep.target.module
            if isinstance(layer, nn.Conv2d) and graph.is_out_channel_pruning_fn(item.dep.handler):
                members.setdefault(layer, list(item.idxs))
        whole = list(range(root.out_channels))
        # Channels that are shared in part only (a sum of concatenations) have no statistic in common.
        if any(idxs != whole or layer.out_channels != len(whole) for layer, idxs in members.items()):
            continue
        if any(names[layer] in kept_out for layer in members):
            continue
        statistic = merge([filter_statistic(layer.weight, normalizer) for layer in members], equalization)
        keep = set(
            keep_filters(statistic, threshold=threshold, granularity=granularity, min_filters=min_filters)
        )
        if drop := [index for index in whole if index not in keep]:
            plans.append((root, drop))
    return plans


def _check_network(model: DetectNetV2, before: Mapping[str, torch.Size]) -> None:
    """``TrainingError`` where the network does not run any more, or could not be loaded from a checkpoint."""
    advice = "leave its layers out (-el), or take another backbone"
    for name, parameter in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        if parameter.shape != before[name] and not isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            raise TrainingError(f"{name} is of a {type(layer).__name__}, which cannot be pruned; {advice}")
    try:
        with torch.no_grad():
            model(torch.zeros(1, model.channels, _SIDE, _SIDE, device=next(model.parameters()).device))
    except RuntimeError as error:
        raise TrainingError(f"the pruned layers do not fit one another: {error}; {advice}") from None


def _is_grouped(layer: nn.Module) -> bool:
    """Whether it reads its channels in several groups, which would have to stay of one size (RegNet)."""
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and not depthwise


def _graph(model: DetectNetV2) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning

        model.eval()
        # The graph is followed backwards from the outputs, through what has a gradient.
        for parameter in model.parameters():
            parameter.requires_grad = True
        images = torch.zeros(1, model.channels, _SIDE, _SIDE, device=next(model.parameters()).device)
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(
                model, example_inputs=images, verbose=False
            )


def _names(model: DetectNetV2, excluded: Sequence[str]) -> set[str]:
    known = layer_widths(model)
    by_any = {alias: name for name in known for alias in _aliases(name)}
    found = set()
    for name in excluded:
        if name not in by_any:
            raise UnknownKeyError("excluded layers", name, by_any)
        found.add(by_any[name])
    return found


def _aliases(name: str) -> set[str]:
    short = name.removeprefix("backbone.")
    return {name, short, short.replace(".", "_")}


def _check(threshold: float, normalizer: str, equalization: str, granularity: int, min_filters: int) -> None:
    if normalizer not in get_args(Normalizer):
        raise UnknownKeyError("normalizer", normalizer, get_args(Normalizer))
    if equalization not in get_args(Equalization):
        raise UnknownKeyError("equalization_criterion", equalization, get_args(Equalization))
    if not threshold >= 0 or granularity < 1 or min_filters < 1:
        raise ConfigError(
            f"threshold is {threshold}, granularity {granularity}, min_filters {min_filters}; expected 0 or "
            "more, 1 or more, 1 or more"
        )


def _count(model: nn.Module) -> int:
    floats = [tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return sum(floats)
