from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.mal.losses import crf_loss, dice, ema_update, mal_loss, mil_loss, warm_up
from training.mal.mean_field import affinities, mean_field
from training.mal.schedule import learning_rate
from training.mal.spec import TrainSpec


def by_hand(
    image: Tensor,
    probability: Tensor,
    box: Tensor,
    kernel: int,
    zeta: float,
    rounds: int,
    low: float,
    high: float,
) -> Tensor:
    """The definition, pixel by pixel, for one object ``[C, H, W]`` and ``[H, W]``."""
    height, width = probability.shape
    x = (probability * box).clamp(low, high).tolist()
    reach = kernel // 2
    for _ in range(rounds):
        new = [[0.0] * width for _ in range(height)]
        for i in range(height):
            for j in range(width):
                foreground = background = 0.0
                for di in range(-reach, reach + 1):
                    for dj in range(-reach, reach + 1):
                        a, b = i + di, j + dj
                        if not (0 <= a < height and 0 <= b < width):
                            continue
                        apart = float((image[:, a, b] - image[:, i, j]).square().sum())
                        weight = math.exp(-apart / (2 * zeta**2))
                        foreground -= weight * -math.log(x[a][b])
                        background -= weight * -math.log(1 - x[a][b])
                e_fg = math.exp(foreground) * float(box[i, j])
                e_bg = math.exp(background)
                new[i][j] = min(max(e_fg / (1e-6 + e_bg + e_fg), low), high)
        x = new
    return torch.tensor(x) > 0.5


@pytest.mark.parametrize(("kernel", "rounds"), [(3, 1), (3, 7), (5, 3)])
def test_the_mean_field_is_the_one_that_loops_over_pixels_give(kernel: int, rounds: int) -> None:
    draw = torch.Generator().manual_seed(kernel * 100 + rounds)
    image = torch.rand(2, 3, 9, 7, generator=draw) * 0.4
    probability = torch.rand(2, 1, 9, 7, generator=draw)
    box = torch.zeros(2, 1, 9, 7)
    box[0, :, 1:8, 2:6] = 1
    box[1, :, 3:9, 0:4] = 0.8
    found = mean_field(image, probability, box, kernel_size=kernel, zeta=0.2, iterations=rounds)
    for number in range(2):
        wanted = by_hand(image[number], probability[number, 0], box[number, 0], kernel, 0.2, rounds, 0.1, 0.9)
        assert torch.equal(found[number, 0].bool(), wanted)


def test_the_mean_field_makes_of_a_doubtful_guess_what_the_colours_say() -> None:
    # A red square on grey. Three pixels of ten are guessed wrong, within the square and around it.
    image = torch.zeros(1, 3, 32, 32)
    image[:, 0, 8:24, 10:22] = 2.0
    square = image[:, :1] > 0
    wrong = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.3
    probability = torch.where(square ^ wrong, 0.8, 0.2)
    box = torch.zeros(1, 1, 32, 32)
    box[:, :, 6:26, 8:24] = 1
    found = mean_field(image, probability, box) > 0.5
    assert float((found == square).float().mean()) > 0.99
    assert not found[box == 0].any()


def test_stopping_at_a_fixed_point_changes_nothing() -> None:
    image = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    probability = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(2))
    box = torch.ones(2, 1, 24, 24)
    many = mean_field(image, probability, box, zeta=0.5, iterations=400)
    assert torch.equal(many, mean_field(image, probability, box, zeta=0.5, iterations=401))


def test_the_mean_field_of_a_mirrored_crop_is_mirrored() -> None:
    draw = torch.Generator().manual_seed(3)
    image, probability = torch.rand(1, 3, 16, 20, generator=draw), torch.rand(1, 1, 16, 20, generator=draw)
    box = torch.zeros(1, 1, 16, 20)
    box[..., 2:14, 3:15] = 1
    found = mean_field(image, probability, box, zeta=0.3)
    assert torch.equal(mean_field(image.flip(3), probability.flip(3), box.flip(3), zeta=0.3), found.flip(3))


def test_affinities_are_symmetric_one_at_the_pixel_and_nothing_outside() -> None:
    image = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(4))
    found = affinities(image, zeta=0.4)[0]
    assert torch.equal(found[4], torch.ones(5, 6))
    # The right neighbour of a pixel sees the pixel as its left neighbour.
    assert torch.allclose(found[5][:, :-1], found[3][:, 1:])
    assert float(found[5][:, -1].abs().max()) == 0
    apart = (image[0, :, 2, 3] - image[0, :, 3, 4]).square().sum()
    assert float(found[8][2, 3]) == pytest.approx(math.exp(-float(apart) / (2 * 0.16)), rel=1e-5)
    with pytest.raises(ValueError, match="odd"):
        affinities(image, kernel_size=4)


def test_dice_of_a_worked_example() -> None:
    u, v = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    assert float(dice(u, v)) == pytest.approx(1 - 2 / (1.25 + 2 + 0.002))
    assert float(dice(v, v)) == pytest.approx(0, abs=1e-3)


def test_the_mil_loss_asks_for_every_row_and_column_of_the_box_and_no_more() -> None:
    box = torch.zeros(1, 1, 8, 8)
    box[..., 2:6, 1:7] = 1
    cross = torch.zeros(1, 1, 8, 8)
    cross[..., 2:6, 3] = 1
    cross[..., 4, 1:7] = 1
    assert float(mil_loss(cross, box)) == pytest.approx(0, abs=1e-3)
    outside = cross.clone()
    outside[..., 0, 3] = 1
    assert float(mil_loss(outside, box)) == pytest.approx(
        1 - 2 * 4 / (4 + 5 + 0.002) + 1 - 2 * 6 / (6 + 6 + 0.002), abs=1e-3
    )


def test_an_empty_batch_has_no_loss() -> None:
    nothing = torch.zeros(0, 1, 8, 8)
    image = torch.zeros(0, 3, 32, 32)
    total, parts = mal_loss(nothing, nothing, nothing, image, TrainSpec(), epoch=1, step=0)
    assert float(total) == 0
    assert parts == {"mil": 0.0, "crf": 0.0}


def test_gradients_are_those_of_finite_differences() -> None:
    draw = torch.Generator().manual_seed(5)
    box = torch.zeros(2, 1, 6, 6, dtype=torch.float64)
    box[..., 1:5, 2:6] = 1
    start = torch.rand(2, 1, 6, 6, generator=draw, dtype=torch.float64)

    # Dice computes in single precision, so the step has to be large enough to be seen.
    def check(loss, step: float = 2e-3) -> None:
        given = start.clone().requires_grad_()
        loss(given).backward()
        assert given.grad is not None
        for place in [(0, 0, 1, 2), (0, 0, 3, 3), (1, 0, 4, 5), (1, 0, 0, 0)]:
            up, down = start.clone(), start.clone()
            up[place] += step
            down[place] -= step
            slope = (float(loss(up)) - float(loss(down))) / (2 * step)
            assert float(given.grad[place]) == pytest.approx(slope, abs=2e-3)

    check(lambda given: mil_loss(given, box))
    image = torch.rand(2, 3, 24, 24, generator=draw)
    # The target does not depend on the student that it is compared with here: the teacher decides it.
    teacher = torch.where(box > 0, 3.0, 0.0)
    check(lambda given: crf_loss(given, teacher, box, image, TrainSpec()))


def test_no_gradient_reaches_the_teacher_or_the_image() -> None:
    draw = torch.Generator().manual_seed(6)
    student = torch.rand(1, 1, 8, 8, generator=draw, requires_grad=True)
    teacher = torch.rand(1, 1, 8, 8, generator=draw, requires_grad=True)
    image = torch.rand(1, 3, 32, 32, generator=draw, requires_grad=True)
    crf_loss(student, teacher, torch.ones(1, 1, 8, 8), image, TrainSpec()).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert image.grad is None


def test_losses_warm_up_in_the_first_epoch_only() -> None:
    assert warm_up(0, 0, 1000) == 0
    assert warm_up(0, 250, 1000) == 0.25
    assert warm_up(0, 4000, 1000) == 1
    assert warm_up(1, 0, 1000) == 1


def test_the_rate_rises_for_an_epoch_and_falls_by_a_cosine() -> None:
    spec = TrainSpec(lr=1e-6, batch_size=4, num_epochs=11, warmup_epochs=1, min_lr_rate=0.2)
    peak = 1e-6 * 4 * 2
    assert learning_rate(0.5, spec, processes=2) == pytest.approx(peak / 2)
    assert learning_rate(1, spec, processes=2) == pytest.approx(peak)
    assert learning_rate(6, spec, processes=2) == pytest.approx(peak * 0.6)
    assert learning_rate(11, spec, processes=2) == pytest.approx(peak * 0.2)


def test_the_teacher_moves_by_its_momentum() -> None:
    student, teacher = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    with torch.no_grad():
        student.weight.fill_(1)
        teacher.weight.fill_(0)
    for _ in range(2):
        ema_update(teacher, student, 0.75)
    assert torch.allclose(teacher.weight, torch.full((1, 2), 1 - 0.75**2))
