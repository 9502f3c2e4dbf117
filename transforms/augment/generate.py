"""The whole of ``augmentation generate``: a folder of images and labels to a folder of more of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from storage.errors import ConfigError
from transforms.augment.balance import count_objects, imbalance, plan_outputs
from transforms.augment.dataset import LabelledSet, labels_files, read_set, with_cached_masks
from transforms.augment.executor import carry_out, chosen_executor
from transforms.augment.labels import Keep, labels_of
from transforms.augment.pixels import MAX_BYTES, written_name
from transforms.augment.plan import Plan, as_json
from transforms.augment.sample import LabelledImage, Placed
from transforms.augment.single import Output, Settings
from transforms.augment.spec import AugmentSpec
from transforms.conversion.sources import write_files

# Not .jsonl, which is a form of labels: the folder may be dropped into a bucket as it is.
RECORD = "parameters.ndjson"
_STATE = ".augmentation"

CarryOut = Callable[[Sequence[Plan], Mapping[str, LabelledImage], Settings], Iterable[Output]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done: plans, the images that they speak of, and what labels will say."""

    read: LabelledSet | None
    """The labels as they were read; None where they are no files."""
    plans: tuple[Plan, ...]
    images: Mapping[str, LabelledImage]
    placed: tuple[Placed, ...]
    keep: Keep
    masks: Mapping[str, int]
    """With refinement: objects with and without a mask."""

    @property
    def before(self) -> dict[str, int]:
        """Objects of each category that came in."""
        return _counted(self.images.values())

    @property
    def after(self) -> dict[str, int]:
        """Objects of each category that go out."""
        return count_objects(self.placed)


@dataclass(kw_only=True)
class Report:
    """What was done."""

    executor: str
    folder: Path
    outputs: int = 0
    """Images in the folder of results, those of an earlier run among them."""
    written: int = 0
    kept: int = 0
    """From an earlier run that was cut short."""
    copied: int = 0
    """Byte for byte, because nothing changed."""
    objects: int = 0
    dropped: int = 0
    """Objects that are out of view, or hidden."""
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Output to the reason why it is not there."""
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def imbalance(self) -> tuple[float, float]:
        """Largest class to smallest, before and after."""
        return imbalance(self.before), imbalance(self.after)


def prepare(spec: AugmentSpec, repeat_factors: RepeatFactors | None = None) -> Work:
    """Read the labels and draw all plans. Nothing is written.

    ``repeat_factors`` gives, for the objects and images of each category, how often an image that shows it is
    drawn. Raises ConfigError where paths or masks are missing.
    """
    refine = spec.spatial_aug.rotation.refine_box
    read = read_set(spec.form, Path(spec.data.image_dir), Path(spec.data.ann_path))
    if not read.images:
        raise ConfigError(
            f"data.image_dir: {spec.data.image_dir} has none of the images that {spec.data.ann_path} names"
        )
    images = read.images
    masks: dict[str, int] = {}
    if refine.enabled and refine.gt_cache:
        cache = Path(refine.gt_cache)
        if not cache.is_file():
            raise ConfigError(
                f"spatial_aug.rotation.refine_box.gt_cache: {cache} is not there. Make it from the labels: "
                "`dropmill dataset annotations convert` to COCO, then `dropmill dataset auto_label generate`"
            )
        images, masks = with_cached_masks(images, cache)
    elif refine.enabled and not any(text for image in images for text in image.objects.segmentations):
        raise ConfigError(
            "spatial_aug.rotation.refine_box.enabled: the labels have no masks; "
            "set spatial_aug.rotation.refine_box.gt_cache to a COCO file that has"
        )
    factors = repeat_factors(images) if repeat_factors else None
    return work_of(spec, read, images, factors, masks)


RepeatFactors = Callable[[Sequence[LabelledImage]], Mapping[str, float]]


def work_of(
    spec: AugmentSpec,
    read: LabelledSet | None,
    images: Sequence[LabelledImage],
    factors: Mapping[str, float] | None = None,
    masks: Mapping[str, int] | None = None,
) -> Work:
    """The plans for images that have been read already."""
    known = {image.sample: image for image in images}
    keep = Keep(
        min_visibility=spec.labels.min_visibility,
        min_size=spec.labels.min_size,
        masks=spec.data.include_masks
        and (read is None or read.form == "coco" or spec.shards.format != "none"),
        refine=spec.spatial_aug.rotation.refine_box.enabled,
    )
    plans = plan_outputs(spec, images, repeat_factors=factors)
    plans = [msgspec.structs.replace(plan, name=written_name(plan.name)) for plan in plans]
    twice = {plan.name for plan in plans}
    if len(twice) < len(plans):
        names = sorted(plan.name for plan in plans)
        same = next(a for a, b in pairwise(names) if a == b)
        raise ConfigError(f"{same}: two outputs would have this name; rename one of the images")
    return Work(
        read=read,
        plans=tuple(plans),
        images=known,
        placed=tuple(labels_of(plan, known, keep) for plan in plans),
        keep=keep,
        masks=masks or {},
    )


def generate(
    spec: AugmentSpec,
    work: Work,
    *,
    carry_out_all: CarryOut | None = None,
    progress: Callable[[int], None] = lambda _count: None,
) -> Report:
    """Carry out the work into the spec's folder of results; what an earlier run left finished is kept.

    Images go to ``images/``, labels beside them once all images are there, and the parameters of every
    output to ``parameters.ndjson``. Every file appears as a whole or not at all.
    """
    if work.read is None:
        raise ConfigError("there are no label files to write beside the images")
    folder = spec.output
    settings = settings_of(spec)
    report = Report(executor=settings.executor, folder=folder, before=work.before)
    images = folder / "images"
    _check_apart(images, Path(spec.data.image_dir))
    images.mkdir(parents=True, exist_ok=True)
    missing = _missing(folder, work, settings)
    report.kept = len(work.plans) - len(missing)
    write_files(folder, [(RECORD, b"".join(as_json(plan) + b"\n" for plan in work.plans))])
    progress(report.kept)
    run = carry_out_all or (lambda plans, known, how: carry_out(plans, known, read_local, how))
    for output in run(missing, work.images, settings):
        progress(1)
        if output.data is None:
            report.failed[output.plan.name] = output.error or "unknown"
            continue
        _write(images / output.plan.name, output.data)
        report.written += 1
        report.copied += output.copied
    done = [
        (plan, placed)
        for plan, placed in zip(work.plans, work.placed, strict=True)
        if plan.name not in report.failed
    ]
    report.files = write_files(folder, labels_files(work.read, done, spec.coco_file).items())
    report.outputs = len(done)
    report.objects = sum(len(placed) for _, placed in done)
    report.dropped = sum(placed.facts.get("dropped", 0) for _, placed in done)
    report.after = count_objects([placed for _, placed in done])
    report.notes = _notes(work)
    return report


def settings_of(spec: AugmentSpec) -> Settings:
    """Which executor, with how many threads."""
    executor, device = chosen_executor(spec.executor)
    return Settings(
        executor=executor,
        threads=spec.workers or 0,
        jpeg_quality=spec.data.jpeg_quality,
        batch_size=spec.data.batch_size,
        device=device,
    )


def read_local(uri: str) -> bytes:
    """The bytes of a file; raises OSError, and ConfigError for one that is too large."""
    path = Path(uri)
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{uri}: more than {MAX_BYTES >> 20} MiB")
    return path.read_bytes()


def fingerprint(work: Work, settings: Settings) -> str:
    """What the outputs' bytes follow from: plans, versions of the images, executor and quality."""
    digest = hashlib.sha256(f"{settings.executor} {settings.jpeg_quality}\n".encode())
    for plan in work.plans:
        digest.update(as_json(plan))
        digest.update("".join(work.images[layer.sample].version for layer in plan.layers).encode())
    return digest.hexdigest()


def _missing(folder: Path, work: Work, settings: Settings) -> list[Plan]:
    """Plans whose image is not there yet. Images of other plans or parameters are made anew."""
    state, now = folder / _STATE, fingerprint(work, settings)
    if state.is_file() and state.read_text(encoding="utf-8") == now:
        return [plan for plan in work.plans if not (folder / "images" / plan.name).is_file()]
    for plan in work.plans:
        # None of an older run may be taken for one of this, should this one be cut short.
        (folder / "images" / plan.name).unlink(missing_ok=True)
    write_files(folder, [(_STATE, now.encode())])
    return list(work.plans)


def _check_apart(images: Path, source: Path) -> None:
    if images.resolve() == source.resolve():
        raise ConfigError(f"data.image_dir: {source} is where the results go; choose another folder for them")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def _notes(work: Work) -> list[str]:
    read = work.read
    found: list[str] = []
    if read is None:
        return found
    for what, names in (
        ("labels without a readable image, left out", read.without_image),
        ("images without a label, left out", read.without_label),
    ):
        if names:
            found.append(f"{len(names)} {what}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}")
    if work.masks:
        found.append(
            f"{work.masks['with_mask']} objects have a mask, {work.masks['without_mask']} keep the extent "
            "of their moved box"
        )
    return found


def _counted(images: Iterable[LabelledImage]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in _names(images):
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _names(images: Iterable[LabelledImage]) -> Iterator[str]:
    for image in images:
        for name, ignore in zip(image.objects.categories, image.objects.ignore.tolist(), strict=True):
            if not ignore:
                yield name
