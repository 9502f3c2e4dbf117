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
    affinity = affinities(image, kernel_size=kernel_size, zeta=zeta)
    batch, _, height, width = probability.shape
    reach = kernel_size // 2
    x = (probability * box).clamp(low, high).float()
    box = box.float()
    # Both labels lie in one buffer with a border of zeros, the logarithm of certainty: neighbours outside
    # say nothing. Its shifted views are the neighbours, so that no round copies anything.
    logs = x.new_zeros(batch, 2, height + 2 * reach, width + 2 * reach)
    inner = logs[:, :, reach : reach + height, reach : reach + width]
    views = [
        logs[:, :, dy : dy + height, dx : dx + width]
        for dy in range(kernel_size)
        for dx in range(kernel_size)
    ]
    weights = [affinity[:, place : place + 1] for place in range(kernel_size**2)]
    centre = len(views) // 2
    evidence = torch.empty_like(inner, memory_format=torch.contiguous_format)
    before = x.clone()
    for done in range(1, iterations + 1):
        torch.log(x, out=inner[:, :1])
        torch.log1p(-x, out=inner[:, 1:])
        # A pixel is wholly like itself.
        evidence.copy_(views[centre])
        for place, view in enumerate(views):
            if place != centre:
                evidence.addcmul_(weights[place], view)
        evidence.exp_()
        foreground = evidence[:, :1].mul_(box)
        torch.div(foreground, evidence[:, 1:].add_(foreground).add_(_EPSILON), out=x)
        x.clamp_(low, high)
        # What a round leaves as it was, all further rounds leave.
        if done % _UNTIL_LOOKED_AT == 0:
            if torch.equal(x, before):
                break
            before.copy_(x)
    return (x > 0.5).to(probability.dtype)


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
