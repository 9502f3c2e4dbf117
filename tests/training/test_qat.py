from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from storage.errors import ExportError
from training.detectnet_v2.checkpoint import load_checkpoint, load_model, save_checkpoint
from training.detectnet_v2.model import DetectNetV2, build_model, warm_averages
from training.detectnet_v2.prune import prune
from training.detectnet_v2.qat import (
    LEVELS,
    QuantisedConv,
    folded_twin,
    is_quantised,
    prepare_qat,
    round_weights,
)
from training.detectnet_v2.spec import default_spec
from training.export.precision import graph_precision, read_onnx

SPEC = default_spec(["a", "b"], 64, 64, num_layers=10)


def network(arch: str = "resnet") -> DetectNetV2:
    """A narrow network whose normalisation has seen something."""
    torch.manual_seed(0)
    net = build_model(replace(SPEC, model_config=replace(SPEC.model_config, arch=arch)))
    prune(net, threshold=1.0, min_filters=16)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.2, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.1, 0.1)
    return net


def seen(net: DetectNetV2) -> DetectNetV2:
    prepare_qat(net)
    net.train()
    # Statistics stay what they are; ranges are measured.
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    net(torch.rand(4, 3, 64, 64))
    return net.eval()


def test_weights_are_rounded_to_steps_of_their_channels_largest_value() -> None:
    kernel = torch.tensor([[1.0, -0.501, 0.004], [0.127, 0.0014, 0.0016]])
    rounded = round_weights(kernel)
    steps = torch.tensor([[1.0], [0.127]]) / LEVELS
    assert torch.equal((rounded / steps).round() * steps, rounded)
    assert (rounded - kernel).abs().max() <= steps.max() / 2
    assert rounded[1].tolist() == pytest.approx([0.127, 0.001, 0.002])


def test_gradients_pass_through_the_rounding_of_every_convolution_but_the_heads() -> None:
    net = network()
    prepare_qat(net)
    assert not isinstance(net.output_cov, QuantisedConv)
    assert sum(isinstance(layer, QuantisedConv) for layer in net.modules()) == 13
    net.train()
    cov, bbox = net(torch.rand(2, 3, 64, 64))
    (cov.sum() + bbox.sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or "conv" in name, name


def test_eight_bits_change_the_outputs_a_little_and_folding_not_at_all() -> None:
    images = torch.rand(2, 3, 64, 64)
    plain, net = network().eval(), seen(network())
    with torch.inference_mode():
        exact = plain(images)
        rounded = net(images)
        twin, ranges = folded_twin(net)
        folded = twin(images)
    assert len(ranges) == 13
    for a, b, c in zip(exact, rounded, folded, strict=True):
        assert 0 < (a - b).abs().mean() < 0.05 * a.std() + 1e-3
        torch.testing.assert_close(c, a, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet", "mobilenet_v2"])
def test_the_onnx_graph_has_int8_kernels_and_gives_what_the_network_gives(tmp_path: Path, arch: str) -> None:
    from training.evaluation.onnx_runner import OnnxRunner
    from training.export.qat_graph import export_qat_onnx

    net = seen(network(arch))
    difference = export_qat_onnx(net, tmp_path / "q.onnx", input_shape=(3, 64, 64), classes=("a", "b"))
    graph = read_onnx(tmp_path / "q.onnx")
    assert graph_precision(graph) == "int8"
    kernels = [value for value in graph.graph.initializer if value.name.endswith(".weight_int8")]
    assert kernels
    assert {value.data_type for value in kernels} == {onnx.TensorProto.INT8}
    images = np.random.default_rng(1).random((3, 3, 64, 64), dtype=np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(images))
    for values, (name, found) in zip(
        expected, OnnxRunner(tmp_path / "q.onnx").run(images).items(), strict=True
    ):
        assert np.abs(found - values.numpy()).mean() <= 0.05 * values.std(), name
        assert difference[name] <= 0.05 * float(values.std())


def test_a_deep_network_that_was_hardly_trained_can_be_exported(tmp_path: Path) -> None:
    """It magnifies rounding by itself, and that is no fault of the graph."""
    from training.export.qat_graph import export_qat_onnx

    torch.manual_seed(0)
    spec = default_spec(["a", "b"], 64, 64)
    net = build_model(replace(spec, model_config=replace(spec.model_config, all_projections=True)))
    prepare_qat(net)
    net.train()
    for _ in range(3):
        warm_averages(net)
        net(torch.rand(2, 3, 64, 64))
    export_qat_onnx(net.eval(), tmp_path / "q.onnx", input_shape=(3, 64, 64), classes=("a", "b"))
    assert graph_precision(read_onnx(tmp_path / "q.onnx")) == "int8"


def test_a_network_that_has_seen_nothing_cannot_be_exported(tmp_path: Path) -> None:
    from training.export.qat_graph import export_qat_onnx

    net = network()
    prepare_qat(net)
    with pytest.raises(ExportError, match="train with enable_qat"):
        export_qat_onnx(net.eval(), tmp_path / "q.onnx", input_shape=(3, 64, 64), classes=("a", "b"))


def test_a_checkpoint_keeps_ranges_and_widths(tmp_path: Path) -> None:
    net = seen(network())
    save_checkpoint(tmp_path / "q.pt", net, SPEC)
    assert load_checkpoint(tmp_path / "q.pt").quantised
    again, _ = load_model(tmp_path / "q.pt")
    assert is_quantised(again)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for old, new in zip(net(images), again(images), strict=True):
            assert torch.equal(old, new)
