from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from storage.errors import TrainingError, UnreadableError
from training.mal.checkpoint import LATEST, load_checkpoint
from training.mal.coco_file import CROWD, NO_IMAGE, CocoFile, read_coco
from training.mal.data import BoxDataset, collate
from training.mal.evaluate import Overlap, evaluate, mask_metrics
from training.mal.infer import annotate
from training.mal.labeler import MalLabeler
from training.mal.loop import fit
from training.mal.parallel import CropOrder
from training.mal.spec import MalSpec, load_spec, passed_over
from training.place import Place
from transforms.masks.crops import Window
from transforms.masks.labeler import BoxedImage

pytest.importorskip("timm")

_SETTINGS = (
    "model.arch=mobilenetv2_050", "dataset.crop_size=64", "dataset.min_obj_size=16",
    "model.mask_head_hidden_channel=16", "model.mask_head_out_channel=16", "model.not_adjust_scale=True",
    "train.use_amp=False", "train.batch_size=4", "train.lr=1e-4", "train.loss_mil_step=2",
    "train.loss_crf_step=2", "train.crf_num_iter=10", "train.num_epochs=2",
)  # fmt: skip


def spec_of(*overrides: str) -> MalSpec:
    return load_spec(None, [*_SETTINGS, *overrides])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures with a disc and a small square, as COCO with true masks."""
    folder = tmp_path_factory.mktemp("discs")
    draw = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(6):
        pixels = draw.integers(0, 60, (96, 128, 3), np.uint8)
        y, x = np.mgrid[:96, :128]
        disc = (y - 48) ** 2 + (x - 40 - 4 * number) ** 2 < 30**2
        pixels[disc] = (200, 60, 60)
        pixels[10:26, 100:120] = (60, 60, 220)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 128, "height": 96})
        left = 40 - 29 + 4 * number
        points = [
            [40 + 4 * number + 29.5 * np.cos(t), 48 + 29.5 * np.sin(t)] for t in np.linspace(0, 6.28, 60)
        ]
        annotations += [
            {"id": 10 * number + 7, "image_id": number, "category_id": 1, "bbox": [left, 19, 59, 59],
             "iscrowd": 0, "area": 1, "segmentation": [np.ravel(points).tolist()], "score": 0.5, "mine": "x"},
            {"id": 10 * number + 8, "image_id": number, "category_id": 2, "bbox": [100, 10, 20, 16],
             "iscrowd": 0, "area": 1, "segmentation": [[100, 10, 120, 10, 120, 26, 100, 26]]},
        ]  # fmt: skip
    document = {"info": {"by": "hand"}, "images": images, "annotations": annotations, "categories": []}
    (folder / "all.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def coco(discs: Path) -> CocoFile:
    return read_coco(discs / "all.json", discs)


@pytest.fixture(scope="module")
def trained(coco: CocoFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    fit(spec_of(), [image.sample for image in coco.images], folder, val=coco, device="cpu")
    return folder


class Filling:
    """Fills the boxes."""

    name, version = "filling", "1"

    def label(self, images: list[BoxedImage]) -> list[list[Window]]:
        def window(box: np.ndarray, image: BoxedImage) -> Window:
            height, width = image.pixels.shape[:2]
            x1, y1, x2, y2 = np.clip(box, 0, [width, height, width, height]).astype(int)
            return Window(np.ones((y2 - y1, x2 - x1), bool), int(x1), int(y1))

        return [[window(box, image) for box in image.boxes] for image in images]


def test_training_leaves_checkpoints_by_epoch_and_the_latest(trained: Path, coco: CocoFile) -> None:
    assert {path.name for path in trained.glob("*.pth")} == {
        "model_epoch_001.pth", "model_epoch_002.pth", LATEST,
    }  # fmt: skip
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[0]["learning_rate"] < lines[1]["learning_rate"] * 10
    assert 0 <= lines[1]["mIoU"] <= 1
    assert "mIoU_medium" in lines[1]
    checkpoint = load_checkpoint(trained / LATEST)
    assert checkpoint.spec == spec_of()
    # The teacher has begun as the student and followed it slowly.
    first = next(iter(checkpoint.student))
    assert not torch.equal(checkpoint.student[first], checkpoint.teacher[first])
    assert torch.allclose(checkpoint.student[first], checkpoint.teacher[first], atol=0.05)


def test_a_training_that_was_cut_short_ends_with_the_same_weights(
    trained: Path, coco: CocoFile, tmp_path: Path
) -> None:
    samples = [image.sample for image in coco.images]

    class CutError(Exception):
        pass

    def cut(_: object) -> None:
        raise CutError

    with pytest.raises(CutError):
        fit(spec_of(), samples, tmp_path, device="cpu", on_epoch=cut)
    again = fit(spec_of(), samples, tmp_path, device="cpu")
    assert [metrics["epoch"] for metrics in again.history] == [2]
    ours, theirs = load_checkpoint(tmp_path / LATEST), load_checkpoint(trained / LATEST)
    for name, tensor in theirs.student.items():
        assert torch.equal(ours.student[name], tensor), name
    for name, tensor in theirs.teacher.items():
        assert torch.equal(ours.teacher[name], tensor), name
    with pytest.raises(TrainingError, match="another spec"):
        fit(spec_of("train.lr=1e-5"), samples, tmp_path, device="cpu")


def test_crops_depend_on_image_box_epoch_and_seed_only(coco: CocoFile) -> None:
    samples = [image.sample for image in coco.images]
    one, other = BoxDataset(samples, spec_of()), BoxDataset(samples[::-1], spec_of())
    first, same = one[0], other[len(other) - 2]
    assert torch.equal(first.student, same.student)
    assert torch.equal(first.box, same.box)
    one.epoch = 1
    assert not torch.equal(first.teacher, one[0].teacher)
    assert not torch.equal(first.student, first.teacher) or not torch.equal(one[0].student, one[0].teacher)


def test_the_box_of_a_training_crop_is_where_the_object_is(coco: CocoFile) -> None:
    data = BoxDataset([image.sample for image in coco.images], spec_of("dataset.min_obj_size=1000"))
    assert (len(data), data.passed) == (6, 6)
    for epoch in range(3):
        data.epoch = epoch
        batch = collate([data[i] for i in range(len(data))])
        red = (batch.teacher[:, 0] > 150) & (batch.teacher[:, 2] < 120)
        inside = torch.nn.functional.interpolate(batch.box, 64)[:, 0] > 0.05
        assert float((red & inside).sum() / red.sum()) > 0.97


def test_boxes_beyond_the_bounds_of_size_leave_nothing_to_learn(coco: CocoFile) -> None:
    with pytest.raises(TrainingError, match=r"no box to learn from among 12.*dataset\.min_obj_size"):
        BoxDataset([image.sample for image in coco.images], spec_of("dataset.min_obj_size=1e6"))


def test_processes_share_the_boxes_of_an_epoch_out() -> None:
    images = [number // 3 for number in range(300)]
    parts = [list(CropOrder(images, seed=1, place=Place(rank=rank, world=2))) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(300))
    # Few images are in hand at a time, so that each is decoded once.
    alone = list(CropOrder(images, seed=1, place=Place()))
    assert len({images[index] for index in alone[:96]}) <= 64
    again = CropOrder(images, seed=1, place=Place())
    again.epoch = 1
    assert list(again) != alone


def test_mean_iou_is_over_classes_and_sizes_are_by_the_box() -> None:
    overlaps = [
        Overlap("a", 100, 0.5),
        Overlap("a", 1024, 0.7),
        Overlap("b", 5000, 0.9),
        Overlap("b", 9216, 0.1),
        Overlap("c", 9217, 0.4),
    ]
    metrics = mask_metrics(overlaps)
    assert metrics["mIoU"] == pytest.approx((0.6 + 0.5 + 0.4) / 3)
    assert metrics["mIoU_small"] == pytest.approx(0.6)
    assert metrics["mIoU_medium"] == pytest.approx(0.5)
    assert metrics["mIoU_large"] == pytest.approx(0.4)
    assert mask_metrics([]) == {}


def test_filled_boxes_have_the_iou_that_geometry_says(coco: CocoFile) -> None:
    found = evaluate(Filling(), coco)
    discs = [one.iou for one in found if one.category == 1]
    assert np.mean(discs) == pytest.approx(np.pi / 4, abs=0.03)
    assert [one.iou for one in found if one.category == 2] == [1.0] * 6


def test_annotations_keep_their_ids_and_all_that_they_had(discs: Path, trained: Path, tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    document = json.loads((discs / "all.json").read_text())
    document["annotations"] += [
        {"id": 900, "image_id": 0, "category_id": 1, "bbox": [-10, 20, 40, 40], "iscrowd": 0},
        {"id": 901, "image_id": 0, "category_id": 1, "bbox": [10, 10, 0, 5], "iscrowd": 0, "area": 3},
        {"id": 902, "image_id": 0, "category_id": 1, "bbox": [500, 10, 5, 5], "iscrowd": 0},
        {"id": 903, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 1},
        {"id": 904, "image_id": 77, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 0},
        {"id": 905, "image_id": 0, "category_id": 1},
    ]
    source = tmp_path / "in.json"
    source.write_text(json.dumps(document))
    labeler = MalLabeler.of_checkpoint(trained / LATEST)
    done = annotate(labeler, source, discs, tmp_path / "out" / "masks.json")
    assert (done.masks, len(done.passed), done.metrics) == (13, 5, {})
    assert [(one.id, one.why) for one in done.passed] == [
        (901, "empty"), (902, "outside"), (903, CROWD), (904, NO_IMAGE), (905, "no box"),
    ]  # fmt: skip
    written = json.loads(done.path.read_text())
    assert [one["id"] for one in written["annotations"]] == [one["id"] for one in document["annotations"]]
    first = written["annotations"][0]
    assert (first["mine"], first["score"], written["info"]) == ("x", 0.5, {"by": "hand"})
    assert first["area"] == int(coco_mask.area(first["segmentation"]))
    assert written["annotations"][13] == document["annotations"][13]
    # The part of a box within its image has a mask, and nothing of it leaves the box.
    leaving = coco_mask.decode(written["annotations"][12]["segmentation"])
    assert leaving.shape == (96, 128)
    assert not leaving[:, 30:].any()
    assert COCO(str(done.path)).annToMask(first).sum() == first["area"]


def test_masks_are_compared_with_those_that_the_file_had(discs: Path, tmp_path: Path) -> None:
    done = annotate(Filling(), discs / "all.json", discs, tmp_path / "out.json", load_mask=True)
    assert done.metrics["mIoU"] == pytest.approx((np.pi / 4 + 1) / 2, abs=0.02)
    assert json.loads(done.path.read_text())["annotations"][1]["iou"] == 1.0
    bare = json.loads((discs / "all.json").read_text())
    del bare["annotations"][3]["segmentation"]
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    with pytest.raises(UnreadableError, match=r"annotations\[3\]: no segmentation.*load_mask: False"):
        annotate(Filling(), tmp_path / "bare.json", discs, tmp_path / "out.json", load_mask=True)


def test_an_empty_file_gives_an_empty_file(discs: Path, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"images": [], "annotations": [], "categories": []}')
    done = annotate(Filling(), tmp_path / "none.json", discs, tmp_path / "out.json")
    assert (done.masks, done.passed, done.metrics) == (0, (), {})


@pytest.mark.parametrize(
    "text", ["[1, 2]", "{}", "nonsense", '{"images": [{"id": 1}]}', '{"images": [], "annotations": [5]}']
)
def test_what_is_no_coco_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UnreadableError, match=r"x\.json"):
        read_coco(tmp_path / "x.json", tmp_path)


def test_images_outside_of_the_folder_are_not_read(discs: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    document = {
        "images": [{"id": 1, "file_name": "../secret.png"}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 1, 5, 5]}],
    }
    (tmp_path / "x.json").write_text(json.dumps(document))
    found = read_coco(tmp_path / "x.json", tmp_path / "images")
    assert [one.why for one in found.passed] == [NO_IMAGE]


def test_a_mirrored_image_has_mirrored_masks_when_both_are_looked_at(trained: Path, coco: CocoFile) -> None:
    from training.samples import load_image

    pixels = load_image(coco.images[0].sample)
    box = np.array([[21.0, 19.0, 80.0, 78.0]])
    mirrored = np.array([[128 - 80.0, 19.0, 128 - 21.0, 78.0]])
    # The one pixel more at right and bottom of a crop is the only thing that is not symmetric.
    labeler = MalLabeler.of_checkpoint(trained / LATEST, flip=True)
    [[one]], [[other]] = (
        labeler.label([BoxedImage(pixels, box)]),
        labeler.label([BoxedImage(np.ascontiguousarray(pixels[:, ::-1]), mirrored)]),
    )
    assert one.mask.shape == other.mask.shape
    assert (one.mask == other.mask[:, ::-1]).mean() > 0.9


def test_boxes_of_many_images_in_one_batch_get_the_masks_that_they_get_alone(
    trained: Path, coco: CocoFile
) -> None:
    from training.samples import load_image

    boxed = [BoxedImage(load_image(one.sample), one.sample.boxes) for one in coco.images[:3]]
    labeler = MalLabeler.of_checkpoint(trained / LATEST, batch_size=5)
    together = labeler.label(boxed)
    for image, windows in zip(boxed, together, strict=True):
        for box, window in zip(image.boxes, windows, strict=True):
            [[alone]] = labeler.label([BoxedImage(image.pixels, box[None])])
            assert (alone.left, alone.top, alone.mask.shape) == (window.left, window.top, window.mask.shape)
            assert (alone.mask == window.mask).mean() > 0.99
    assert labeler.label([]) == []
    assert labeler.label([BoxedImage(boxed[0].pixels, np.zeros((0, 4)))]) == [[]]


def test_a_version_names_the_weights_not_the_file(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes((trained / LATEST).read_bytes())
    version = MalLabeler.of_checkpoint(trained / LATEST).version
    assert MalLabeler.of_checkpoint(copy).version == version
    assert MalLabeler.of_checkpoint(trained / LATEST, teacher=True).version != version


def test_a_spec_that_is_given_later_steers_thresholds_and_so_the_version(
    trained: Path, coco: CocoFile
) -> None:
    """Masks by another threshold are other masks: a lake has to see that."""
    from training.samples import load_image

    own = MalLabeler.of_checkpoint(trained / LATEST)
    same = MalLabeler.of_checkpoint(trained / LATEST, given=spec_of().train)
    strict = MalLabeler.of_checkpoint(trained / LATEST, given=spec_of("train.mask_thres=[0.9]").train)
    assert own.version == same.version != strict.version
    boxed = [BoxedImage(load_image(one.sample), one.sample.boxes) for one in coco.images[:2]]
    areas = [
        sum(window.area for windows in labeler.label(boxed) for window in windows)
        for labeler in (own, same, strict)
    ]
    assert areas[0] == areas[1] > areas[2]
    other = spec_of("model.arch=efficientnet_lite0", "dataset.crop_size=96", "model.teacher_momentum=0.9")
    assert passed_over(own.spec, other) == ["model.arch", "dataset.crop_size"]
    assert passed_over(own.spec, spec_of()) == []


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "tao.pth")
    with pytest.raises(TrainingError, match=r"holds state_dict.*train\.pretrained_model_path"):
        load_checkpoint(tmp_path / "tao.pth")


def test_gradient_accumulation_steps_once_for_several_batches(coco: CocoFile, tmp_path: Path) -> None:
    samples = [image.sample for image in coco.images]
    one = spec_of("train.num_epochs=1", "train.accum_grad_batches=3")
    fit(one, samples, tmp_path / "accumulated", device="cpu")
    state = load_checkpoint(tmp_path / "accumulated" / LATEST).training["optimizer"]["state"]
    # Twelve boxes are three batches of four.
    assert {int(each["step"]) for each in state.values()} == {1}


def test_specs_are_kept_with_their_types(trained: Path) -> None:
    spec = load_checkpoint(trained / LATEST).spec
    assert replace(spec, strategy="ddp") == spec
    assert isinstance(spec.train.optim_betas, tuple)
