from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.detectnet_v2.rasterise import EVERY_CLASS, NO_CLASS, Targets, class_indices, rasterise
from training.detectnet_v2.spec import (
    BboxRasterizerConfig,
    ClusteringConfig,
    RasterizerTarget,
    TrainSpec,
    default_spec,
)

WIDTH, HEIGHT = 160, 96


def spec_with(deadzone: float = 0.67, **target: float) -> TrainSpec:
    config = BboxRasterizerConfig(
        target_class_config={name: RasterizerTarget(**target) for name in ("a", "b")},
        deadzone_radius=deadzone,
    )
    return replace(default_spec(["a", "b"], WIDTH, HEIGHT), bbox_rasterizer_config=config)


def draw(
    boxes: list[list[float]],
    spec: TrainSpec,
    classes: list[int] | None = None,
    ignore: list[bool] | None = None,
) -> Targets:
    n = len(boxes)
    return rasterise(
        np.array(boxes, np.float64).reshape(n, 4),
        np.array(classes or [0] * n, np.int64),
        np.array(ignore or [False] * n, np.bool_),
        spec,
    )


def one_by_one(
    boxes: list[list[float]], target: RasterizerTarget, deadzone: float
) -> tuple[NDArray[np.float64], ...]:
    """The definition, cell by cell and sample by sample."""
    cov, norm = np.zeros((HEIGHT // 16, WIDTH // 16)), np.zeros((HEIGHT // 16, WIDTH // 16))
    bbox = np.zeros((4, *cov.shape))
    for xmin, ymin, xmax, ymax in sorted(([v / 16 for v in box] for box in boxes), key=lambda box: box[3]):
        cx = xmin + target.cov_center_x * (xmax - xmin)
        cy = ymin + target.cov_center_y * (ymax - ymin)
        sx = cx - xmin if target.cov_center_x < 0.5 else xmax - cx
        sy = cy - ymin if target.cov_center_y < 0.5 else ymax - cy
        rx, ry = max(target.cov_radius_x * sx, 0.1), max(target.cov_radius_y * sy, 0.1)
        if rx < target.bbox_min_radius:
            rx, ry = target.bbox_min_radius, ry * target.bbox_min_radius / rx
        if ry < target.bbox_min_radius:
            rx, ry = rx * target.bbox_min_radius / ry, target.bbox_min_radius
        dx = max((1 - deadzone) * rx + deadzone * sx, rx)
        dy = max((1 - deadzone) * ry + deadzone * sy, ry)
        for j in range(cov.shape[0]):
            for i in range(cov.shape[1]):
                points = [(i + (k + 0.5) / 4, j + (m + 0.5) / 4) for k in range(4) for m in range(4)]
                c = sum(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1 for x, y in points) / 16
                a = sum(((x - cx) / dx) ** 2 + ((y - cy) / dy) ** 2 < 1 for x, y in points) / 16
                if a > 0 and a >= cov[j, i]:
                    cov[j, i] = norm[j, i] = 0
                    bbox[:, j, i] = 0
                if c > 0 and c >= cov[j, i]:
                    cov[j, i], norm[j, i] = c, c / max(4 * rx * ry, 1)
                    bbox[:, j, i] = (
                        ((i - xmin) * 16 + 0.5) / 35,
                        ((j - ymin) * 16 + 0.5) / 35,
                        ((xmax - i) * 16 - 0.5) / 35,
                        ((ymax - j) * 16 - 0.5) / 35,
                    )
    return cov, norm, bbox


BOX = st.tuples(st.floats(-20, WIDTH), st.floats(-20, HEIGHT), st.floats(1, 120), st.floats(1, 80)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(BOX, max_size=5), st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([0.0, 0.67, 1.0]))
def test_the_grids_are_those_of_the_definition(
    boxes: list[list[float]], centre: float, deadzone: float
) -> None:
    target = RasterizerTarget(cov_center_x=centre, cov_radius_x=0.6, bbox_min_radius=0.7)
    spec = spec_with(deadzone, cov_center_x=centre, cov_radius_x=0.6, bbox_min_radius=0.7)
    drawn = draw(boxes, spec)
    cov, norm, bbox = one_by_one(boxes, target, deadzone)
    # A sample point on the ellipse's edge may fall to either side.
    assert np.isclose(drawn.cov[0], cov, atol=1 / 15.9).all()
    assert np.isclose(drawn.cov[0], cov, atol=1e-6).mean() > 0.95
    same = np.isclose(drawn.cov[0], cov, atol=1e-6)
    np.testing.assert_allclose(drawn.norm[0][same], norm[same], atol=1e-6)
    np.testing.assert_allclose(drawn.bbox[:4][:, same], bbox[:, same], atol=1e-5)


def test_a_drawn_box_comes_back_from_clustering() -> None:
    from training.detectnet_v2.postprocess import cluster

    boxes = [[10.0, 8.0, 58.0, 70.0], [90.0, 20.0, 150.0, 90.0]]
    drawn = draw(boxes, spec_with(), [0, 1])
    found = cluster(
        drawn.cov[None], drawn.bbox[None], configs={"a": ClusteringConfig(), "b": ClusteringConfig()},
        stride=16, scale=35, offset=0.5, width=WIDTH, height=HEIGHT,
    )[0]  # fmt: skip
    assert sorted(zip(found.categories.tolist(), found.boxes.round(3).tolist(), strict=True)) == [
        ("a", boxes[0]),
        ("b", boxes[1]),
    ]


def test_the_nearer_of_two_boxes_is_drawn_over_the_farther() -> None:
    far, near = [40.0, 10.0, 104.0, 60.0], [40.0, 20.0, 104.0, 80.0]
    both = draw([near, far], spec_with())
    alone = draw([near], spec_with())
    drawn = alone.cov[0] > 0
    np.testing.assert_array_equal(both.bbox[:4][:, drawn], alone.bbox[:4][:, drawn])


def test_the_order_of_many_boxes_does_not_matter() -> None:
    random = np.random.default_rng(0)
    low = random.uniform(0, 1800, (300, 2))
    boxes = np.concatenate([low, low + random.uniform(8, 200, (300, 2))], axis=1)
    spec = default_spec(["a"], 1920, 1088)
    zeros, no = np.zeros(300, np.int64), np.zeros(300, bool)
    whole = rasterise(boxes, zeros, no, spec)
    shuffled = rasterise(boxes[::-1], zeros, no, spec)
    np.testing.assert_array_equal(whole.cov, shuffled.cov)
    assert (whole.cov > 0).mean() > 0.2


def test_no_box_gives_empty_grids_that_count() -> None:
    drawn = draw([], spec_with())
    assert not drawn.cov.any()
    assert drawn.weight.all()


def test_an_ignored_box_takes_its_cells_out_of_the_cost_of_its_class_only() -> None:
    drawn = draw([[32.0, 32.0, 64.0, 64.0]], spec_with(), [1], [True])
    assert not drawn.cov.any()
    assert drawn.weight[0].all()
    np.testing.assert_array_equal(np.argwhere(drawn.weight[1] == 0), [[2, 2], [2, 3], [3, 2], [3, 3]])


def test_a_dontcare_region_takes_its_cells_out_of_every_class_but_not_those_of_objects() -> None:
    region, inside = [0.0, 0.0, 160.0, 96.0], [48.0, 32.0, 96.0, 64.0]
    drawn = draw([region, inside], spec_with(), [EVERY_CLASS, 0], [True, False])
    assert not drawn.weight[1].any()
    np.testing.assert_array_equal(drawn.weight[0] > 0, drawn.cov[0] > 0)


def test_label_names_map_exactly_first_and_then_without_case() -> None:
    mapping = {"Car": "b", "car": "a", "van": "a"}
    assert class_indices(["Car", "car", "VAN", "tram", "DontCare"], ["a", "b"], mapping).tolist() == [
        1, 0, 0, NO_CLASS, EVERY_CLASS
    ]  # fmt: skip
    assert class_indices(["A", "c"], ["a", "b"], {}).tolist() == [0, NO_CLASS]


def test_a_mapping_may_make_dontcare_a_class() -> None:
    assert class_indices(["dontcare"], ["a"], {"dontcare": "a"}).tolist() == [0]


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_class_without_rasterizer_settings_takes_those_of_default(name: str) -> None:
    spec = replace(
        default_spec(["a", "b"], WIDTH, HEIGHT),
        bbox_rasterizer_config=BboxRasterizerConfig(
            target_class_config={"default": RasterizerTarget(cov_radius_x=0.9)}
        ),
    )
    assert spec.rasterizer(name).cov_radius_x == 0.9
