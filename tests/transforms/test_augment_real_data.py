"""What refinement gives on real masks, and what balance gives on real imbalance."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from transforms.augment.boxes import overlap
from transforms.augment.dataset import with_cached_masks
from transforms.augment.generate import prepare
from transforms.augment.geometry import of_pixel_centres
from transforms.augment.labels import Keep, labels_of
from transforms.augment.spec import load_augment_spec
from transforms.formats.masks import rle_text


def penn_fudan(data: Path, folder: Path, count: int) -> dict[str, np.ndarray]:
    """Penn-Fudan as COCO in ``folder/truth.json``; the instance pictures by sample."""
    images, annotations, pictures = [], [], {}
    for path in sorted((data / "PedMasks").glob("*_mask.png"))[:count]:
        numbers = np.asarray(Image.open(path))
        name = path.name.replace("_mask", "")
        pictures[Path(name).stem] = numbers
        images.append(
            {"id": len(images) + 1, "file_name": name, "width": numbers.shape[1], "height": numbers.shape[0]}
        )
        for number in range(1, int(numbers.max()) + 1):
            rows, columns = np.nonzero(numbers == number)
            left, top = int(columns.min()), int(rows.min())
            wide, high = int(columns.max()) + 1 - left, int(rows.max()) + 1 - top
            text = rle_text(numbers == number, 0, 0, numbers.shape[1], numbers.shape[0])
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": len(images), "category_id": 1, "iscrowd": 0,
                    "area": len(rows), "bbox": [left, top, wide, high], "segmentation": json.loads(text),
                }
            )  # fmt: skip
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "truth.json").write_text(json.dumps(document))
    return pictures


def refinement(data: Path, folder: Path, count: int) -> tuple[float, float, int]:
    """Mean IoU with the box of the turned true mask: of turned boxes, of refined boxes; and how many."""
    pictures = penn_fudan(data, folder, count)
    words = [f"data.image_dir={data / 'PNGImages'}", f"data.ann_path={folder / 'truth.json'}"]
    work = prepare(
        load_augment_spec(None, [*words, "spatial_aug.rotation.angle=[-30,30]", "labels.min_visibility=0.3"])
    )
    loose, tight = [], []
    for plan in work.plans:
        plain = labels_of(plan, work.images, Keep(min_visibility=0.3))
        refined = labels_of(plan, work.images, Keep(min_visibility=0.3, refine=True))
        there = {source: i for i, source in enumerate(refined.sources)}
        for i, (sample, instance) in enumerate(plain.sources):
            # The brute way: the pixels of the whole true mask, by another interpolation.
            matrix = of_pixel_centres(plan.layers[0].affine())
            mask = (pictures[sample] == instance + 1).astype(np.uint8) * 255
            turned = cv2.warpAffine(mask, matrix, (plan.width, plan.height), flags=cv2.INTER_CUBIC) > 127
            rows, columns = np.nonzero(turned)
            if not rows.size or (sample, instance) not in there:
                continue
            truth = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], float)
            loose.append(overlap(plain.boxes[i : i + 1], truth)[0, 0])
            place = there[sample, instance]
            tight.append(overlap(refined.boxes[place : place + 1], truth)[0, 0])
    return float(np.mean(loose)), float(np.mean(tight)), len(loose)


def test_refined_boxes_of_turned_pedestrians_are_those_of_their_turned_masks(
    shared_data: Path, tmp_path: Path
):
    before, after, count = refinement(shared_data / "pennfudan-masks", tmp_path, 40)
    assert count > 60
    assert before < 0.85
    assert after > 0.97


def test_masks_of_a_cache_find_their_boxes_though_both_were_moved_a_little(shared_data: Path, tmp_path: Path):
    data = shared_data / "pennfudan-masks"
    penn_fudan(data, tmp_path, 10)
    document = json.loads((tmp_path / "truth.json").read_text())
    for annotation in document["annotations"]:
        annotation.pop("segmentation")
        annotation["bbox"][0] += 2
    (tmp_path / "plain.json").write_text(json.dumps(document))
    words = [f"data.image_dir={data / 'PNGImages'}", f"data.ann_path={tmp_path / 'plain.json'}"]
    work = prepare(load_augment_spec(None, words))
    found, counts = with_cached_masks(tuple(work.images.values()), tmp_path / "truth.json")
    assert counts == {"with_mask": len(document["annotations"]), "without_mask": 0}
    assert len(found) == 10


@pytest.mark.slow
def test_blood_cells_come_from_eleven_to_below_two(shared_data: Path, tmp_path: Path):
    from transforms.conversion.convert import convert
    from transforms.conversion.spec import ConvertSpec, load_spec

    data = shared_data / "bccd-voc"
    words = ["data.input_format=VOC", "data.output_format=COCO", f"results_dir={tmp_path}"]
    words += [f"voc.label_dir={data / 'Annotations'}", f"voc.image_dir={data / 'JPEGImages'}"]
    file = convert(load_spec(ConvertSpec, None, words)).files[0]
    words = [f"data.image_dir={data / 'JPEGImages'}", f"data.ann_path={file}", "balance.mode=full"]
    spec = load_augment_spec(None, [*words, "paste_aug.scale=[0.7,1.0]"])
    work = prepare(spec)
    counts = work.before, work.after
    ratios = [max(one.values()) / min(one.values()) for one in counts]
    assert ratios[0] == pytest.approx(11.5, abs=0.05)
    assert ratios[1] < 2
    assert len(work.plans) < 3 * 364
