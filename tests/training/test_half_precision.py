"""Training in fp16 as on a GPU: the CPU computes in it as well, slowly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from storage.errors import ConfigError
from training.detectnet_v2 import step
from training.detectnet_v2.cost import TargetBatch
from training.detectnet_v2.precision import cost_scaler
from training.detectnet_v2.spec import CostScaling, TrainSpec, default_spec

CPU = torch.device("cpu")
PIXELS = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def spec_for(*, enable_qat: bool = False) -> TrainSpec:
    spec = default_spec(["a"], 32, 32, num_layers=10, batch_size=2, amp=True)
    scaling = CostScaling(enabled=True, initial_exponent=24)
    return replace(
        spec, training_config=replace(spec.training_config, enable_qat=enable_qat, cost_scaling=scaling)
    )


def target() -> TargetBatch:
    drawn = torch.Generator().manual_seed(1)
    shape = (2, 1, 2, 2)
    cov, norm, bbox = (torch.rand(2, count, 2, 2, generator=drawn) for count in (1, 1, 4))
    return TargetBatch(cov=cov, norm=norm, bbox=bbox, weight=torch.ones(shape))


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "choose_precision", lambda *_: "fp16")


@pytest.mark.parametrize("enable_qat", [False, True])
def test_steps_that_overflow_are_left_out_until_the_scale_fits_and_then_the_cost_falls(
    half: None, *, enable_qat: bool
) -> None:
    stepper = step.Stepper(spec_for(enable_qat=enable_qat), CPU)
    stepper.train()
    before = [parameter.detach().clone() for parameter in stepper.model.parameters()]
    costs = [stepper.step(PIXELS, target(), 1e-3)[1]]
    for old, new in zip(before, stepper.model.parameters(), strict=True):
        assert torch.equal(old, new)
    costs += [stepper.step(PIXELS, target(), 1e-3)[1] for _ in range(24)]
    assert costs[-1] < costs[0] / 2
    assert 0 < stepper.state()["scaler"]["scale"] < 2**24
    assert all(torch.isfinite(parameter).all() for parameter in stepper.model.parameters())


def test_a_run_that_began_without_scaling_goes_on_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "choose_precision", lambda *_: "fp32")
    began = step.Stepper(spec_for(), CPU)
    began.train()
    began.step(PIXELS, target(), 1e-3)
    monkeypatch.setattr(step, "choose_precision", lambda *_: "fp16")
    goes_on = step.Stepper(spec_for(), CPU)
    goes_on.restore(began.state())
    assert goes_on.state()["scaler"]["scale"] == 2**24


def test_a_scale_may_stay_and_must_be_able_to_fall() -> None:
    still = cost_scaler("fp16", CostScaling(enabled=True, increment=0), CPU)
    assert still.get_scale() == 2**20
    assert still.get_growth_interval() > 1e9
    for wrong in ({"decrement": 0.0}, {"increment": -1.0}, {"initial_exponent": 200.0}):
        with pytest.raises(ConfigError, match="cost_scaling"):
            cost_scaler("fp16", CostScaling(enabled=True, **wrong), CPU)
