from __future__ import annotations

import io
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from storage.errors import ConfigError
from training.detectnet_v2.inference import list_images
from training.samples import read_image

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 that the environment names, as on a machine where credentials are set up."""
    from s3fs import S3FileSystem

    from tests.s3_server import s3_server

    with s3_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name, data in {"": b"", "/day-1/a.png": _png(10), "/day-1/deep/b.png": _png(20),
                           "/day-2/c.png": _png(30), "/day-1/notes.txt": b"none"}.items():  # fmt: skip
            put = urllib.request.Request(f"{url}/pictures{name}", data=data or None, method="PUT")
            put.add_header("Content-Type", "application/octet-stream")  # else it is taken for a form
            urllib.request.urlopen(put, timeout=60).close()
        # Instances are kept by their arguments, and these come from the environment.
        S3FileSystem.clear_instance_cache()
        yield "s3://pictures"
        S3FileSystem.clear_instance_cache()


def _png(value: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((8, 9, 3), value, np.uint8)).save(data, "png")
    return data.getvalue()


@pytest.mark.slow
def test_pictures_come_from_a_folder_a_prefix_or_a_glob_of_a_bucket(bucket: str) -> None:
    names = [name for _, name in list_images([f"{bucket}/day-1"])]
    assert names == ["a.png", "deep/b.png"]
    assert [name for _, name in list_images([f"{bucket}/day-"])] == [
        "day-1/a.png",
        "day-1/deep/b.png",
        "day-2/c.png",
    ]
    found = list_images([f"{bucket}/day-*/*.png"])
    assert [uri for uri, _ in found] == [f"{bucket}/day-1/a.png", f"{bucket}/day-2/c.png"]
    assert [int(read_image(uri).mean()) for uri, _ in found] == [10, 30]
    with pytest.raises(ConfigError, match="no picture there"):
        list_images([f"{bucket}/day-3"])
