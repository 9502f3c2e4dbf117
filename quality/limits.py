"""The limits of all warnings, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where the advisory rules and the rules about images and sets begin to warn."""

    min_side_px: float = 4.0
    """Boxes with a side below this many pixels are too small."""
    max_aspect: float = 20.0
    """Longer side through shorter side, above which a box is absurd."""
    duplicate_iou: float = 0.9
    """IoU (0 to 1) from which two boxes of one class in one image are the same; 0.5 or more."""
    mask_outside_px: float = 2.0
    """Pixels by which a mask may leave its box: outlines are drawn through pixel centres and rounded."""
    min_image_deviation: float = 2.0
    """Standard deviation of the grey values (0 to 255) below which an image is nearly uniform."""
    hash_distance: int = 8
    """Bits of 63 by which the perceptual hashes of two images that show the same may differ."""
    min_likeness: float = 0.95
    """Correlation of low frequencies (-1 to 1) from which two images with near hashes show the same."""
    max_js_divergence: float = 0.1
    """Jensen-Shannon divergence of two class mixes (base 2, 0 to 1) above which they drift."""
    max_psi: float = 0.25
    """Population stability index of two class mixes above which they drift; 0.1 is slight, 0.25 a shift."""
    min_drift_boxes: int = 50
    """With fewer boxes than this on either side, chance alone moves the mix, and nothing is said."""
