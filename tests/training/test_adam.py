from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from training.detectnet_v2.adam import FlatAdam


def network(layout: torch.memory_format) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 2, 1)).to(memory_format=layout)


def gradients(net: nn.Module, step: int, layout: torch.memory_format) -> None:
    drawn = torch.Generator().manual_seed(step)
    for parameter in net.parameters():
        gradient = torch.randn(parameter.shape, generator=drawn)
        parameter.grad = gradient.contiguous(memory_format=layout) if gradient.dim() == 4 else gradient


def flat_adam(net: nn.Module) -> FlatAdam:
    return FlatAdam(net.parameters(), rate=0.1, betas=(0.9, 0.99), eps=1e-8)


def numbers(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("of_gradients", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_weights", [torch.contiguous_format, torch.channels_last])
def test_every_layout_is_updated_as_torchs_plain_adam_does_it(
    of_weights: torch.memory_format, of_gradients: torch.memory_format
) -> None:
    ours, theirs = network(of_weights), network(torch.contiguous_format)
    one = flat_adam(ours)
    other = torch.optim.Adam(theirs.parameters(), lr=0.1, betas=(0.9, 0.99), fused=False, foreach=False)
    for step in range(3):
        gradients(ours, step, of_gradients)
        gradients(theirs, step, torch.contiguous_format)
        one.collect()
        one.step()
        other.step()
    assert_same(numbers(ours), numbers(theirs))
    assert ours[0].weight.is_contiguous(memory_format=of_weights)


def test_states_are_those_of_torchs_adam_and_go_on_in_another_layout() -> None:
    ours, theirs = network(torch.channels_last), network(torch.contiguous_format)
    one, other = flat_adam(ours), torch.optim.Adam(theirs.parameters(), lr=0.1, betas=(0.9, 0.99))
    gradients(ours, 0, torch.channels_last)
    one.collect()
    one.step()
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    saved, again_saved = (torch.load(io.BytesIO(file.getvalue()), weights_only=True) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    plain = [{**group, "fused": False} for group in saved["param_groups"]]
    other.load_state_dict({**saved, "param_groups": plain})
    again = network(torch.contiguous_format)
    again.load_state_dict(ours.state_dict())
    resumed = flat_adam(again)
    resumed.load_state_dict(again_saved)
    for net, optimizer in ((ours, one), (theirs, other), (again, resumed)):
        gradients(net, 1, torch.contiguous_format)
        if isinstance(optimizer, FlatAdam):
            optimizer.collect()
        optimizer.step()
    assert_same(numbers(ours), numbers(theirs))
    assert_same(numbers(again), numbers(theirs))


def test_a_weight_without_gradient_stays_and_none_is_kept_from_the_step_before() -> None:
    net = network(torch.channels_last)
    adam = flat_adam(net)
    gradients(net, 0, torch.channels_last)
    net[1].bias.grad = None
    before = numbers(net)
    adam.collect()
    adam.step()
    after = numbers(net)
    assert torch.equal(before[3], after[3])
    assert not torch.equal(before[0], after[0])
    adam.zero_grad()
    adam.collect()
    adam.step()
    assert_same(numbers(net), after)
