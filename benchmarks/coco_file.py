"""A COCO file as large as instances_train2017.json, made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

IMAGES = 118_287
ANNOTATIONS = 860_001
_CATEGORIES = 80
_POLYGONS = 4_000
_MEAN_POINTS = 20


def write_instances(path: Path, *, times: int = 1, seed: int = 2017) -> int:
    """Write ``times`` as many images and annotations as train2017 has; returns the size in bytes.

    Members and white space are as in the real file: info, licenses, images, annotations, categories; a blank
    after each colon, and none between numbers. One annotation in a hundred is a crowd with run lengths.
    """
    draw = random.Random(seed)
    shapes = [_polygon(draw) for _ in range(_POLYGONS)]
    counts = [draw.randint(1, 900) for _ in range(200)]
    crowd = f'{{"counts": {_list(counts)}, "size": [480,640]}}'
    images, annotations = IMAGES * times, ANNOTATIONS * times
    with path.open("w", encoding="ascii", buffering=1 << 20) as file:
        file.write('{"info": {"description": "generated", "year": 2017}, ')
        file.write('"licenses": [{"id": 1, "name": "none", "url": "http://localhost/"}], "images": [')
        for number in range(images):
            file.write(
                f'{"," if number else ""}{{"license": 1, "file_name": "{number:012d}.jpg", "coco_url": '
                f'"http://images.localhost/train2017/{number:012d}.jpg", "height": 480, "width": 640, '
                f'"date_captured": "2013-11-14 17:02:52", "id": {number}}}'
            )
        file.write('], "annotations": [')
        for number in range(annotations):
            polygon, bbox, area = draw.choice(shapes)
            is_crowd = number % 100 == 99
            file.write(
                f'{"," if number else ""}{{"segmentation": {crowd if is_crowd else polygon}, "area": {area}, '
                f'"iscrowd": {int(is_crowd)}, "image_id": {draw.randrange(images)}, "bbox": {bbox}, '
                f'"category_id": {draw.randint(1, _CATEGORIES)}, "id": {number + 1}}}'
            )
        categories = [
            {"supercategory": f"group {n % 12}", "id": n, "name": f"class {n}"}
            for n in range(1, _CATEGORIES + 1)
        ]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return path.stat().st_size


def _polygon(draw: random.Random) -> tuple[str, str, float]:
    """A polygon inside 640x480 with its box and an area, as texts with two decimals."""
    points = max(3, round(draw.expovariate(1 / _MEAN_POINTS)))
    xs = [round(draw.uniform(0, 640), 2) for _ in range(points)]
    ys = [round(draw.uniform(0, 480), 2) for _ in range(points)]
    flat = [value for point in zip(xs, ys, strict=True) for value in point]
    width, height = round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)
    bbox = _list([min(xs), min(ys), width, height])
    return f"[{_list(flat)}]", bbox, round(width * height / 2, 5)


def _list(values: Sequence[float]) -> str:
    return "[" + ",".join(map(str, values)) + "]"
