"""Mean-field inference of a pairwise colour model: what the foreground inside a box looks like to its pixels.

1. Each pixel knows its k x k neighbourhood and how alike the colours are: the affinities.
2. Foreground and background gather the evidence of their neighbours, again and again.
3. What is foreground at the end (more than one half) is the target of the CRF loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-6
_UNTIL_LOOKED_AT = 10


@torch.no_grad()
def mean_field(
    image: Tensor,
    probability: Tensor,
    box: Tensor,
    *,
    kernel_size: int = 3,
    zeta: float = 0.1,
    iterations: int = 100,
    low: float = 0.1,
    high: float = 0.9,
) -> Tensor:
    """Foreground ``r [B, 1, H, W]``, 0 or 1, of ``image [B, C, H, W]`` (normalised), ``probability`` and
    ``box [B, 1, H, W]`` in 0 to 1.

    Each round, x becomes e_fg t / (1e-6 + e_bg + e_fg t) clamped to ``low`` and ``high``, where e is the
    product over the neighbours j of x_j (1 - x_j for the background) to the power of their affinity. It
    starts from the probability within the box. Source: Lan et al., CVPR 2023, section 3 (mean field with
    the initial value as the only unary evidence). No gradient flows.
    """
    reach = kernel_size // 2
    part = _rectangle(box)
    result = torch.zeros_like(probability)
    if part is None:
        return result
    # Where no box is, every pixel stays at ``low``: only the boxes' rectangle is computed, with a border of
    # such pixels (those outside of the image have no affinity). All objects lie one behind the other in one
    # row of pixels, so that the neighbours in a direction are the row itself, some places further on.
    frame = (reach,) * 4
    weights = functional.pad(affinities(image, kernel_size=kernel_size, zeta=zeta)[part], frame)
    weights = weights.transpose(0, 1).flatten(1).contiguous()
    inside = functional.pad(box[part].float(), frame)
    x = functional.pad((probability * box)[part].float(), frame).clamp(low, high)
    shape, width, count = x.shape, x.shape[-1], x.numel()
    inside, x = inside.flatten(), x.flatten()
    furthest = reach * width + reach
    logs = x.new_zeros(2, count + 2 * furthest)
    own = logs[:, furthest : furthest + count]
    steps = [dy * width + dx for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    evidence = torch.empty_like(own, memory_format=torch.contiguous_format)
    foreground, background = evidence
    before = x.clone()
    for done in range(1, iterations + 1):
        torch.log(x, out=own[0])
        torch.log1p(-x, out=own[1])
        # A pixel is wholly like itself; those of the border have their zero of the box.
        evidence.copy_(own)
        for place, step in enumerate(steps):
            if step:
                evidence.addcmul_(weights[place], logs[:, furthest + step : furthest + step + count])
        evidence.exp_()
        foreground.mul_(inside)
        torch.div(foreground, background.add_(foreground).add_(_EPSILON), out=x)
        x.clamp_(low, high)
        # What a round leaves as it was, all further rounds leave.
        if done % _UNTIL_LOOKED_AT == 0:
            if torch.equal(x, before):
                break
            before.copy_(x)
    x = x.reshape(shape)[:, :, reach : shape[2] - reach, reach : shape[3] - reach]
    result[part] = (x > 0.5).to(result.dtype)
    return result


def _rectangle(box: Tensor) -> tuple[slice, ...] | None:
    """The rows and columns that hold all boxes of a batch; None where there is none."""
    if not box.numel():
        return None
    rows, columns = (box.amax(axes).nonzero().flatten() for axes in ((0, 1, 3), (0, 1, 2)))
    if not len(rows):
        return None
    first, last = (torch.stack([rows[end], columns[end]]).tolist() for end in (0, -1))
    return slice(None), slice(None), slice(first[0], last[0] + 1), slice(first[1], last[1] + 1)


def affinities(image: Tensor, *, kernel_size: int = 3, zeta: float = 0.1) -> Tensor:
    """How alike pixel i and its neighbour j are: ``[B, k * k, H, W]``, exp(-|I_j - I_i|^2 / (2 zeta^2)).

    Neighbours are numbered row by row, the pixel itself in the middle; those outside the image have 0.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size {kernel_size}; expected an odd number")
    reach = kernel_size // 2
    height, width = image.shape[-2:]
    image = image.float()
    padded = functional.pad(image, (reach,) * 4, value=float("inf"))
    found = [
        (padded[:, :, dy : dy + height, dx : dx + width] - image).square_().sum(1)
        for dy in range(kernel_size)
        for dx in range(kernel_size)
    ]
    return torch.stack(found, 1).div_(-2 * zeta**2).exp_()
