from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from storage.errors import ConfigError
from training.detectnet_v2.model import build_model, freeze, parameter_counts, warm_averages
from training.detectnet_v2.spec import TrainSpec, default_spec


def changed(spec: TrainSpec, **settings: object) -> TrainSpec:
    return replace(spec, model_config=replace(spec.model_config, **settings))  # type: ignore[arg-type]


def test_resnet18_for_one_class_has_the_published_numbers_of_parameters() -> None:
    spec = default_spec(["aircraft"], 320, 320)
    trainable, fixed = parameter_counts(build_model(spec))
    assert (trainable + fixed, trainable, fixed) == (11_197_893, 11_188_165, 9_728)


def test_resnet18_with_all_projections_has_the_published_number_of_parameters() -> None:
    spec = changed(default_spec(["aircraft"], 320, 320), all_projections=True)
    assert sum(parameter_counts(build_model(spec))) == 11_550_853


def test_outputs_are_coverage_and_four_distances_per_class_on_the_grid() -> None:
    torch.manual_seed(0)
    cov, bbox = build_model(default_spec(["a", "b", "c"], 96, 64, num_layers=10))(torch.rand(2, 3, 64, 96))
    assert cov.shape == (2, 3, 4, 6)
    assert bbox.shape == (2, 12, 4, 6)
    assert cov.min() > 0
    assert cov.max() < 1


def test_a_network_for_grey_images_takes_one_channel() -> None:
    spec = default_spec(["a"], 64, 64, num_layers=10)
    size = replace(spec.augmentation_config.preprocessing, output_image_channel=1)
    spec = replace(spec, augmentation_config=replace(spec.augmentation_config, preprocessing=size))
    cov, _ = build_model(spec)(torch.rand(1, 1, 64, 64))
    assert cov.shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    "settings", [{"arch": "resnett18"}, {"num_layers": 17}, {"arch": "vgg"}, {"freeze_blocks": (7.0,)}]
)
def test_what_is_not_there_is_refused_by_its_key(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(changed(default_spec(["a"], 64, 64), **settings))
    assert caught.value.key in {*settings, "num_layers"}


def test_frozen_blocks_keep_weights_and_running_averages_through_a_step() -> None:
    model = build_model(default_spec(["a"], 64, 64, num_layers=10)).train()
    freeze(model, (0.0, 1.0), batch_norm=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    cov, bbox = model(torch.rand(2, 3, 64, 64))
    (cov.sum() + bbox.sum()).backward()
    optimizer.step()
    changed_names = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert not [name for name in changed_names if "conv1" in name.split(".")[1] or "block_1" in name]
    assert "backbone.block_2a.conv_1.weight" in changed_names


def test_frozen_normalisation_uses_its_averages() -> None:
    model = build_model(default_spec(["a"], 64, 64, num_layers=10)).train()
    freeze(model, (), batch_norm=True)
    before = model.backbone.bn_conv1.running_mean.clone()
    model(torch.rand(2, 3, 64, 64))
    assert torch.equal(model.backbone.bn_conv1.running_mean, before)


def test_averages_beside_a_frozen_block_become_means_of_all_batches() -> None:
    """Not those of the last batch, though the frozen layers count none."""
    model = build_model(default_spec(["a"], 64, 64, num_layers=10)).train()
    freeze(model, (0.0,), batch_norm=False)
    seen = []
    conv = model.get_submodule("backbone.block_1a.conv_1")
    normalise = model.get_submodule("backbone.block_1a.bn_1")
    for number in range(4):
        warm_averages(model)
        images = torch.full((2, 3, 64, 64), number / 4)
        with torch.no_grad():
            stem = torch.relu(model.get_submodule("backbone.bn_conv1")(model.backbone.conv1(images)))
            seen.append(conv(stem).mean(dim=(0, 2, 3)))
            model(images)
    torch.testing.assert_close(normalise.running_mean, torch.stack(seen).mean(dim=0))
