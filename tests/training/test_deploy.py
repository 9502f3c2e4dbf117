from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.errors import ConfigError, ExportError
from training.detectnet_v2.spec import ClusteringAlgorithm, ClusteringConfig
from training.export.calibration import read_tensorfile, stacked, write_tensorfile
from training.export.deploy import Deployment, write_nvinfer_config, write_triton_repository

DEPLOYMENT = Deployment(
    classes=("car", "person"),
    input_shape=(3, 384, 1248),
    clustering={
        "car": ClusteringConfig(dbscan_eps=0.3),
        "person": ClusteringConfig(clustering_algorithm=ClusteringAlgorithm.HYBRID, nms_iou_threshold=0.5),
    },
    precision="fp16",
    max_batch=4,
)


def settings(text: str) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("["):
            current = groups.setdefault(line.strip("[]"), {})
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            current[key] = value
    return groups


def test_nvinfer_is_told_files_sizes_precision_and_clusters(tmp_path: Path) -> None:
    path = tmp_path / "nvinfer_config.txt"
    write_nvinfer_config(path, DEPLOYMENT, onnx=tmp_path / "m.onnx", labels=tmp_path / "labels.txt",
                         engine=tmp_path / "m.engine")  # fmt: skip
    found = settings(path.read_text())
    assert found["property"] | {"onnx-file": "m.onnx"} == found["property"]
    expected = {
        "net-scale-factor": "0.00392156862745098",
        "model-engine-file": "m.engine",
        "labelfile-path": "labels.txt",
        "infer-dims": "3;384;1248",
        "network-mode": "2",
        "network-type": "0",
        "num-detected-classes": "2",
        "batch-size": "4",
        "output-blob-names": "output_cov/Sigmoid;output_bbox/BiasAdd",
    }
    assert found["property"].items() >= expected.items()
    assert found["class-attrs-0"]["eps"] == "0.3"
    assert "# person; HYBRID in the spec, but cluster-mode is one for all" in path.read_text()
    assert "nms-iou-threshold" not in found["class-attrs-1"]


@pytest.mark.parametrize(("algorithm", "mode"), [("NMS", "2"), ("HYBRID", "3")])
def test_nvinfer_is_told_of_suppression(tmp_path: Path, algorithm: str, mode: str) -> None:
    how = ClusteringConfig(clustering_algorithm=ClusteringAlgorithm[algorithm], nms_iou_threshold=0.4)
    path = tmp_path / "nvinfer_config.txt"
    deployment = replace(DEPLOYMENT, clustering={"car": how, "person": replace(how, nms_iou_threshold=0.5)})
    write_nvinfer_config(path, deployment, onnx=tmp_path / "m.onnx", labels=tmp_path / "labels.txt")
    found = settings(path.read_text())
    assert found["property"]["cluster-mode"] == mode
    assert [found[f"class-attrs-{i}"]["nms-iou-threshold"] for i in (0, 1)] == ["0.4", "0.5"]
    assert ("eps" in found["class-attrs-0"]) == (algorithm == "HYBRID")


def test_nvinfer_cannot_decode_other_scales_and_is_not_told_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nvinfer knows only 35"):
        write_nvinfer_config(
            tmp_path / "c.txt", replace(DEPLOYMENT, scale=20.0), onnx=tmp_path / "m", labels=tmp_path / "l"
        )
    assert not (tmp_path / "c.txt").exists()


def test_triton_gets_a_repository_with_shapes_of_the_grid(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    folder = write_triton_repository(
        tmp_path / "models", DEPLOYMENT, name="cars", model=tmp_path / "m.onnx", platform="onnxruntime_onnx"
    )
    assert (folder / "1" / "model.onnx").read_bytes() == b"model"
    assert (folder / "labels.txt").read_text() == "car\nperson\n"
    text = (folder / "config.pbtxt").read_text()
    for part in ("max_batch_size: 4", "dims: [ 3, 384, 1248 ]", "dims: [ 2, 24, 78 ]", "dims: [ 8, 24, 78 ]"):
        assert part in text
    with pytest.raises(ExportError, match="plain name"):
        write_triton_repository(
            tmp_path, DEPLOYMENT, name="../x", model=tmp_path / "m.onnx", platform="onnxruntime_onnx"
        )


def test_a_tensorfile_gives_its_pictures_back_and_is_not_overwritten(tmp_path: Path) -> None:
    images = [np.full((3, 4, 5), number, np.uint8) for number in (0, 51, 255)]
    path = tmp_path / "cal.h5"
    assert write_tensorfile(path, stacked(images, 2)) == 2
    found = list(read_tensorfile(path))
    assert [float(one.mean()) for one in found] == pytest.approx([0, 0.2, 1])
    assert len(list(read_tensorfile(path, batches=1))) == 2
    with pytest.raises(ConfigError, match="is there already"):
        write_tensorfile(path, stacked(images, 2))
    with pytest.raises(ExportError, match="no picture"):
        write_tensorfile(tmp_path / "none.h5", [])
    (tmp_path / "bad.h5").write_bytes(b"not HDF5")
    with pytest.raises(ConfigError, match="expected a file of calibration_tensorfile"):
        list(read_tensorfile(tmp_path / "bad.h5"))
