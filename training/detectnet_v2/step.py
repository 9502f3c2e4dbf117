"""One step of training: forward, costs, backward, Adam."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from storage.errors import TrainingError
from training.detectnet_v2.adam import FlatAdam
from training.detectnet_v2.cost import (
    ObjectiveWeights,
    Regularisation,
    TargetBatch,
    component_costs,
    foreground_weights,
)
from training.detectnet_v2.infer import scale_inputs
from training.detectnet_v2.model import freeze, warm_averages
from training.detectnet_v2.precision import autocast, choose_precision, cost_scaler
from training.detectnet_v2.pretrained import initial_model
from training.detectnet_v2.qat import prepare_qat
from training.detectnet_v2.spec import TrainSpec


class Stepper:
    """The network and all that changes with each step."""

    def __init__(self, spec: TrainSpec, device: torch.device, *, world: int = 1) -> None:
        self._spec = spec
        self._device = device
        self.precision = choose_precision(spec, device)
        self._autocast = autocast(self.precision, device)
        self.model = initial_model(spec).to(device).to(memory_format=torch.channels_last)
        if spec.training_config.enable_qat:
            prepare_qat(self.model)
        self._freeze()
        self._regularisation = Regularisation(self.model, spec.training_config.regularizer)
        self._parallel = DistributedDataParallel(self.model) if world > 1 else self.model
        adam = spec.training_config.optimizer.adam
        self._optimizer = FlatAdam(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            rate=spec.training_config.learning_rate.soft_start_annealing_schedule.min_learning_rate,
            betas=(adam.beta1, adam.beta2),
            eps=adam.epsilon,
        )
        self._scaler = cost_scaler(self.precision, spec.training_config.cost_scaling, device)
        self.weights = ObjectiveWeights(spec.cost_function_config)
        self._foreground = foreground_weights(spec.cost_function_config).to(device)

    def train(self) -> None:
        """Before the steps of an epoch."""
        self.model.train()
        self._freeze()

    def step(self, pixels: Tensor, target: TargetBatch, rate: float) -> tuple[Tensor, float]:
        """One step at a learning rate, on inputs ``[B, C, H, W]`` uint8: component costs ``[K, 2]`` and the
        whole cost.

        Raises ``TrainingError`` where the cost is not finite.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        warm_averages(self.model)
        with self._autocast:
            cov, bbox = self._parallel(scale_inputs(pixels.to(self._device, non_blocking=True)))
        costs = component_costs(cov, bbox, target.to(self._device), self._foreground)
        total = self.weights.total(costs)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()
        self._optimizer.collect()
        self._scaler.unscale_(self._optimizer)
        value = float(total.detach() + self._regularisation.add_gradients())
        if not math.isfinite(value):
            raise TrainingError(f"the cost became {value} at learning rate {rate:.3g} in {self.precision}")
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return costs.detach(), value

    def predict(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Coverage and boxes of inputs ``[B, C, H, W]`` uint8, without gradients."""
        with torch.no_grad(), self._autocast:
            cov, bbox = self.model(scale_inputs(pixels.to(self._device)))
        return cov, bbox

    def state(self) -> dict[str, Any]:
        """For a checkpoint; the network's weights are not among it."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "objective_weights": self.weights.weights,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._optimizer.load_state_dict(state["optimizer"])
        # Empty where the run began on a machine that needs no scaling: then it begins here.
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        self.weights.weights = state["objective_weights"]

    def _freeze(self) -> None:
        config = self._spec.model_config
        freeze(self.model, config.freeze_blocks, batch_norm=config.freeze_bn)
