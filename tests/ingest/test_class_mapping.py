"""Class names are mapped between what was delivered and what is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from dropmill.config import load_config
from ingest.derive import Settings
from storage.errors import ConfigError
from tests.ingest.mill import KITTI_CAR, Mill
from transforms.conversion.mapping import read_mapping

LINES = "".join(KITTI_CAR.replace("Car", name).format(10, 10, 20, 30) for name in ("Car", "Van", "car"))
AS_LIST = "- vehicle: [Car, Van]\n- person: Pedestrian\n"
AS_MAPPING = "vehicle: [Car, Van]\nperson: Pedestrian\n"


@pytest.mark.parametrize("text", [AS_LIST, AS_MAPPING])
def test_annotations_have_the_mapped_names_and_labels_those_that_were_delivered(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "road.yaml").write_text(text)
    (tmp_path / "others.yaml").write_text("- automobile: [Car]\n")
    mappings = {"road": read_mapping(tmp_path / "road.yaml"), "*": read_mapping(tmp_path / "others.yaml")}
    mill = Mill(tmp_path / "drops", tmp_path / "lake", Settings(mappings=mappings))
    for dataset in ("road", "field"):
        mill.image(f"{dataset}/image_2/1.png")
        mill.write(f"{dataset}/label_2/1.txt", LINES)
    mill.ingest()
    query = "SELECT dataset, category FROM {} ORDER BY dataset, instance"
    delivered = [row["category"] for row in mill.rows(query.format("labels"))]
    assert delivered == ["Car", "Van", "car"] * 2
    mapped = [row["category"] for row in mill.rows(query.format("annotations"))]
    assert mapped == ["automobile", "Van", "car", "vehicle", "vehicle", "car"]


def test_a_box_finds_the_name_that_it_was_delivered_with(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(AS_LIST)
    mill = Mill(
        tmp_path / "drops", tmp_path / "lake", Settings(mappings={"*": read_mapping(tmp_path / "m.yaml")})
    )
    mill.image("road/1.png")
    mill.write("road/1.txt", KITTI_CAR.replace("Car", "Van").format(10, 10, 20, 30))
    mill.ingest()
    (row,) = mill.rows(
        "SELECT a.category, l.category AS delivered FROM annotations a JOIN labels l "
        "USING (dataset, source, instance)"
    )
    assert row == {"category": "vehicle", "delivered": "Van"}


def test_mappings_stand_in_the_configuration_beside_it(tmp_path: Path) -> None:
    (tmp_path / "road.yaml").write_text(AS_LIST)
    file = tmp_path / "dropmill.yaml"
    file.write_text("bucket: drops\nlake: lake\nquality: {mappings: {road: road.yaml}}\n")
    assert load_config(file).settings().mappings["road"].targets == ("vehicle", "person")


def test_a_mapping_that_is_wrong_is_said_when_the_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "road.yaml").write_text("- a: [x]\n- b: [x]\n")
    file = tmp_path / "dropmill.yaml"
    file.write_text("bucket: drops\nlake: lake\nquality: {mappings: {road: road.yaml}}\n")
    with pytest.raises(ConfigError, match="has the targets 'a' and 'b'"):
        load_config(file)
