"""A model with the family's interface, tiny and with random weights, made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storage.errors import ConfigError
from transforms.masks.labeler import BoxedImage

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def save(
    path: Path, nodes: list[object], inputs: list[object], outputs: list[object], constants: dict
) -> None:
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Path]:
    """The encoder sees patches through random weights; the decoder compares each place with the one between
    the corners that it is given, enlarged to the image's size.
    """
    from onnx import TensorProto, helper

    draw = np.random.default_rng(0)
    value, node = helper.make_tensor_value_info, helper.make_node
    kernel = np.repeat(np.repeat(draw.normal(size=(4, 3, 1, 1)), 8, 2), 8, 3).astype(np.float32) / 64
    save(
        tmp_path / "encoder.onnx",
        [node("Conv", ["image", "kernel"], ["embedding"], strides=[8, 8])],
        [value("image", TensorProto.FLOAT, [1, 3, 64, 64])],
        [value("embedding", TensorProto.FLOAT, [1, 4, 8, 8])],
        {"kernel": kernel},
    )
    # masks[0, 0] = similarity to the place between the corners, masks[0, 1] = its opposite.
    save(
        tmp_path / "decoder.onnx",
        [
            node("Cast", ["orig_im_size"], ["size"], to=TensorProto.INT64),
            node("ReduceMean", ["point_coords"], ["centre"], axes=[1], keepdims=0),
            node("Div", ["centre", "stride"], ["cell"]),
            node("Cast", ["cell"], ["xy"], to=TensorProto.INT64),
            node("Gather", ["xy", "flip"], ["yx"], axis=1),
            node("Transpose", ["image_embeddings"], ["places"], perm=[0, 2, 3, 1]),
            node("Squeeze", ["places", "zero"], ["grid"]),
            node("GatherND", ["grid", "yx"], ["wanted"]),
            node("Reshape", ["wanted", "column"], ["kernel"]),
            node("Sub", ["image_embeddings", "kernel"], ["apart"]),
            node("Abs", ["apart"], ["far"]),
            node("ReduceMean", ["far"], ["distance"], axes=[1], keepdims=1),
            node("Sub", ["limit", "distance"], ["near"]),
            node("Neg", ["near"], ["opposite"]),
            node("Concat", ["near", "opposite"], ["both"], axis=1),
            node("Concat", ["two", "size"], ["whole"], axis=0),
            node("Resize", ["both", "", "", "whole"], ["masks"], mode="nearest"),
            node("Identity", ["scores"], ["iou_predictions"]),
        ],
        [
            value("image_embeddings", TensorProto.FLOAT, [1, 4, 8, 8]),
            value("point_coords", TensorProto.FLOAT, [1, "n", 2]),
            value("point_labels", TensorProto.FLOAT, [1, "n"]),
            value("mask_input", TensorProto.FLOAT, [1, 1, 32, 32]),
            value("has_mask_input", TensorProto.FLOAT, [1]),
            value("orig_im_size", TensorProto.FLOAT, [2]),
        ],
        [
            value("masks", TensorProto.FLOAT, [1, 2, "h", "w"]),
            value("iou_predictions", TensorProto.FLOAT, [1, 2]),
        ],
        {
            "stride": np.array(8, np.float32),
            "flip": np.array([1, 0], np.int64),
            "zero": np.array([0], np.int64),
            "column": np.array([1, 4, 1, 1], np.int64),
            "limit": np.array(0.4, np.float32),
            "two": np.array([1, 2], np.int64),
            "scores": np.array([[0.75, 0.25]], np.float32),
        },
    )
    return tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"


def test_the_box_prompts_the_mask_with_the_best_predicted_iou(model: tuple[Path, Path]) -> None:
    from transforms.masks.promptable import PromptableLabeler

    labeler = PromptableLabeler(*model, name="tiny", threads=1)
    pixels = np.full((128, 128, 3), 40, np.uint8)
    pixels[32:96, 32:80] = (230, 60, 120)
    image = BoxedImage(pixels, np.array([[24.0, 20.0, 88.0, 108.0], [-10.0, 0.0, 20.0, 20.0]]))
    [[red, corner]] = labeler.label([image])
    wanted = pixels[20:108, 24:88, 0] == 230
    assert red.mask.shape == (88, 64)
    assert (red.left, red.top, red.score) == (24, 20, 0.75)
    assert (red.mask & wanted).sum() / (red.mask | wanted).sum() > 0.8
    assert (corner.left, corner.top, corner.mask.shape) == (0, 0, (20, 20))
    assert labeler.label([BoxedImage(pixels, np.zeros((0, 4)))]) == [[]]


def test_the_version_is_of_both_files(model: tuple[Path, Path], tmp_path: Path) -> None:
    from transforms.masks.promptable import PromptableLabeler

    first = PromptableLabeler(*model)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model[0].read_bytes())
    assert PromptableLabeler(copy, model[1]).version == first.version
    with pytest.raises(ConfigError, match=r"without image_embeddings, point_coords"):
        PromptableLabeler(model[0], model[0])
