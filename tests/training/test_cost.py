from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from training.detectnet_v2.cost import (
    ObjectiveWeights,
    Regularisation,
    TargetBatch,
    component_costs,
    foreground_weights,
)
from training.detectnet_v2.spec import (
    CostFunctionConfig,
    Objective,
    Regularizer,
    RegularizerType,
    TargetClass,
)


def config(targets: tuple[float, float] = (1, 10), **settings: object) -> CostFunctionConfig:
    objectives = (
        Objective(name="bbox", initial_weight=10, weight_target=targets[1]),
        Objective(name="cov", initial_weight=1, weight_target=targets[0]),
    )
    classes = (
        TargetClass(name="a", class_weight=3, objectives=objectives),
        TargetClass(name="b", class_weight=1, coverage_foreground_weight=0.2, objectives=objectives),
    )
    return replace(CostFunctionConfig(target_classes=classes), **settings)  # type: ignore[arg-type]


def target(cov: list[float], weight: list[float] | None = None) -> TargetBatch:
    """One image, one class, a row of cells; box distances 1 everywhere, weighted by coverage / 2."""
    covs = torch.tensor(cov).view(1, 1, 1, -1)
    weights = torch.tensor(weight or [1.0] * len(cov)).view(1, 1, 1, -1)
    return TargetBatch(cov=covs, norm=covs / 2, bbox=torch.ones(1, 4, 1, len(cov)), weight=weights)


def test_coverage_cost_is_cross_entropy_with_the_foreground_share() -> None:
    costs = component_costs(
        torch.tensor([0.3, 0.6]).view(1, 1, 1, 2),
        torch.ones(1, 4, 1, 2),
        target([1.0, 0.25]),
        torch.tensor([0.05]),
    )
    first = -math.log(0.3 + 1e-5) * 0.05
    second = -(0.25 * math.log(0.6 + 1e-5) + 0.75 * math.log(0.4 + 1e-5)) * 0.95
    assert costs[0, 0].item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_box_cost_is_the_mean_over_all_cells_and_distances() -> None:
    bbox = torch.zeros(1, 4, 1, 2)
    costs = component_costs(torch.full((1, 1, 1, 2), 0.5), bbox, target([1.0, 0.0]), torch.tensor([0.05]))
    assert costs[0, 1].item() == pytest.approx(0.25)  # 4 distances of 1, weight 0.5, over 8 numbers


def test_masked_cells_cost_nothing() -> None:
    arguments = torch.tensor([0.3, 0.9]).view(1, 1, 1, 2), torch.zeros(1, 4, 1, 2)
    masked = component_costs(*arguments, target([1.0, 0.0], [1.0, 0.0]), torch.tensor([0.05]))
    assert masked[0, 0].item() == pytest.approx(-math.log(0.3 + 1e-5) * 0.05 / 2, rel=1e-5)


def test_the_cost_of_a_saturated_output_in_half_precision_is_finite() -> None:
    cov = torch.tensor([0.0, 1.0], dtype=torch.bfloat16).view(1, 1, 1, 2).requires_grad_()
    costs = component_costs(cov, torch.zeros(1, 4, 1, 2), target([1.0, 0.0]), torch.tensor([0.5]))
    costs.sum().backward()
    assert torch.isfinite(costs).all()
    assert cov.grad is not None
    assert torch.isfinite(cov.grad).all()


def test_weights_start_at_the_normalised_initial_weights_and_classes_sum_to_one() -> None:
    weights = ObjectiveWeights(config())
    torch.testing.assert_close(weights.weights, torch.tensor([[1 / 11, 10 / 11]] * 2))
    total = weights.total(torch.tensor([[11.0, 0.0], [0.0, 11.0]]))
    assert total.item() == pytest.approx(0.75 * 1 + 0.25 * 10)


def test_auto_weighting_drives_weighted_costs_to_the_ratio_of_the_targets() -> None:
    weights = ObjectiveWeights(config((1, 4)))
    costs = torch.tensor([[0.2, 0.01], [0.5, 0.5]])
    weights.update(costs)
    weighted = weights.weights * costs
    torch.testing.assert_close(weighted[:, 1] / weighted[:, 0], torch.tensor([4.0, 4.0]))


def test_auto_weights_are_clamped_and_not_normalised_again() -> None:
    weights = ObjectiveWeights(config(min_objective_weight=0.2, max_objective_weight=0.9))
    weights.update(torch.tensor([[1.0, 0.001], [1.0, 0.001]]))
    torch.testing.assert_close(weights.weights, torch.tensor([[0.2, 0.9]] * 2))


def test_an_objective_without_cost_weighs_nothing_and_a_class_without_any_keeps_its_weights() -> None:
    weights = ObjectiveWeights(config())
    weights.update(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(weights.weights[0], torch.tensor([0.9999, 0.0001]))
    torch.testing.assert_close(weights.weights[1], torch.tensor([1 / 11, 10 / 11]))


def test_weights_stay_where_auto_weighting_is_off() -> None:
    weights = ObjectiveWeights(config(enable_autoweighting=False))
    weights.update(torch.tensor([[1.0, 5.0], [1.0, 5.0]]))
    torch.testing.assert_close(weights.weights, torch.tensor([[1 / 11, 10 / 11]] * 2))


def test_foreground_weights_follow_the_classes() -> None:
    assert foreground_weights(config()).tolist() == pytest.approx([0.05, 0.2])


def test_regularisation_counts_kernels_and_biases_but_no_normalisation() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    with torch.no_grad():
        model[0].weight.fill_(-2.0)
        model[0].bias.fill_(3.0)
    for kind, cost in ((RegularizerType.L1, 0.5), (RegularizerType.L2, 1.3)):
        found = Regularisation(model, Regularizer(type=kind, weight=0.1)).add_gradients()
        assert float(found) == pytest.approx(cost)
    assert Regularisation(model, Regularizer()).add_gradients() == 0.0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [RegularizerType.L1, RegularizerType.L2])
def test_the_gradient_of_regularisation_is_that_of_its_cost(
    kind: RegularizerType, layout: torch.memory_format
) -> None:
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Conv2d(128, 2, 1)).to(
        memory_format=layout
    )
    model[2].bias.requires_grad_(False)
    seen = torch.rand(2, 64, 4, 4)
    model(seen).square().sum().backward()
    found = Regularisation(model, Regularizer(type=kind, weight=0.3)).add_gradients()
    added = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    measure = torch.abs if kind is RegularizerType.L1 else torch.square
    kernels = [model[0].weight, model[0].bias, model[2].weight]
    cost = 0.3 * sum(measure(one).sum() for one in kernels)
    (model(seen).square().sum() + cost).backward()
    assert float(found) == pytest.approx(cost.item(), rel=1e-5)
    for parameter, gradient in zip(model.parameters(), added, strict=True):
        if parameter.grad is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, parameter.grad)


def test_the_gradient_of_regularisation_is_added_in_any_layout() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3)).to(memory_format=torch.channels_last)
    model[0].weight.grad = torch.zeros(8, 4, 3, 3)
    Regularisation(model, Regularizer(type=RegularizerType.L2, weight=0.5)).add_gradients()
    torch.testing.assert_close(model[0].weight.grad, model[0].weight.detach(), check_stride=False)
