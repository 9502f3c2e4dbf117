"""The spec of MAL: every key with its default, read from the YAML files that TAO's users have.

Keys and defaults are those of the TAO documentation; ``load_spec`` reads the files of version 5.0 and later
unmodified. Some keys have no meaning here and are accepted: ``WITHOUT_MEANING``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from training.spec_file import read_spec

_OF_INFERENCE = ("mask_thres", "test_margin_rate")
_OF_TRAINING = ("frozen_stages", "teacher_momentum", "vit_dpr")
WITHOUT_MEANING = (
    "encryption_key", "wandb", "train.optim_momentum", "train.optim_type", "num_nodes",
    "evaluate.comp_clustering", "evaluate.num_gpus", "evaluate.gpu_ids", "inference.num_gpus",
    "inference.gpu_ids",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Where images and boxes are. Sizes are areas of boxes in pixels."""

    type: str = "coco"
    train_ann_path: str = ""
    train_img_dir: str = ""
    val_ann_path: str = ""
    val_img_dir: str = ""
    min_obj_size: float = 2048
    max_obj_size: float = 1e10
    num_workers_per_gpu: int = 2
    load_mask: bool = True
    crop_size: int = 512
    """Side of the square crop that the network sees, in pixels."""

    def __post_init__(self) -> None:
        if self.type != "coco":
            raise ValueError(f"type: found {self.type!r}; expected coco")
        if not 32 <= self.crop_size <= 2048:
            raise ValueError(f"crop_size: found {self.crop_size}; expected 32 to 2048")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The network. ``arch`` is a ViT name of the documentation, or a convolutional model of timm."""

    arch: str = "vit-mae-base/16"
    frozen_stages: tuple[int, ...] = (-1,)
    """Parts of the backbone that are not trained: 0 is the embedding, 1 and on the blocks; -1: none."""
    mask_head_num_convs: int = 4
    mask_head_hidden_channel: int = 256
    mask_head_out_channel: int = 256
    teacher_momentum: float = 0.996
    not_adjust_scale: bool = False
    """Do not resize the features by the size of the box."""
    mask_scale_ratio_pre: float = 1
    mask_scale_ratio: float = 2.0
    vit_dpr: float = 0.0

    def __post_init__(self) -> None:
        if self.mask_head_num_convs < 1:
            raise ValueError(f"mask_head_num_convs: found {self.mask_head_num_convs}; expected 1 or more")
        if not 0 <= self.teacher_momentum <= 1:
            raise ValueError(f"teacher_momentum: found {self.teacher_momentum}; expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """The training. The rate of the optimiser is ``lr`` times processes times ``batch_size``."""

    seed: int = 1234
    num_epochs: int = 10
    checkpoint_interval: int = 1
    """Epochs between checkpoints (``save_every_k_epoch`` in version 5.0)."""
    validation_interval: int = 1
    """Epochs between validations (``val_interval`` in version 5.0)."""
    save_every_k_epoch: int | None = None
    val_interval: int | None = None
    num_gpus: int = 1
    gpu_ids: tuple[int, ...] = (0,)
    num_nodes: int = 1
    batch_size: int = 3
    accum_grad_batches: int = 1
    use_amp: bool = True
    pretrained_model_path: str | None = None
    """Weights of the backbone, or a whole checkpoint: a path, or a URL of a store or a web server."""
    resume_training_checkpoint_path: str | None = None
    optim_type: str = "adamw"
    optim_momentum: float = 0.9
    lr: float = 1e-6
    min_lr: float = 0.0
    min_lr_rate: float = 0.2
    num_wave: float = 1
    wd: float = 5e-4
    optim_eps: float = 1e-8
    optim_betas: tuple[float, ...] = (0.9, 0.9)
    warmup_epochs: float = 1
    margin_rate: tuple[float, ...] = (0, 1.2)
    test_margin_rate: tuple[float, ...] = (0.6, 0.6)
    mask_thres: tuple[float, ...] = (0.1,)
    """Probability from which a pixel is of the mask: one number, or three for small, medium and large."""
    loss_mil_weight: float = 4
    loss_crf_weight: float = 0.5
    crf_zeta: float = 0.1
    crf_kernel_size: int = 3
    crf_num_iter: int = 100
    loss_crf_step: int = 4000
    loss_mil_step: int = 1000
    crf_size_ratio: float = 1
    crf_value_high_thres: float = 0.9
    crf_value_low_thres: float = 0.1

    def __post_init__(self) -> None:
        if self.crf_kernel_size < 1 or self.crf_kernel_size % 2 == 0:
            raise ValueError(f"crf_kernel_size: found {self.crf_kernel_size}; expected an odd number")
        if len(self.mask_thres) not in {1, 3}:
            raise ValueError(f"mask_thres: found {len(self.mask_thres)} numbers; expected one or three")
        if not self.test_margin_rate or min(self.test_margin_rate) < 0:
            raise ValueError(f"test_margin_rate: found {self.test_margin_rate}; expected numbers from 0 on")
        if not all(0 < value < 1 for value in self.mask_thres):
            raise ValueError(f"mask_thres: found {self.mask_thres}; expected probabilities between 0 and 1")
        if len(self.optim_betas) != 2:
            raise ValueError(f"optim_betas: found {len(self.optim_betas)} numbers; expected two")
        if len(self.margin_rate) != 2 or self.margin_rate[0] > self.margin_rate[1]:
            raise ValueError(f"margin_rate: found {self.margin_rate}; expected the least and the greatest")
        if self.optim_type.lower() != "adamw":
            raise ValueError(f"optim_type: found {self.optim_type!r}; expected adamw")
        for name in ("num_epochs", "batch_size", "accum_grad_batches", "crf_num_iter", "num_gpus"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}; expected 1 or more")
        if not 0 < self.crf_value_low_thres < self.crf_value_high_thres < 1:
            raise ValueError(
                f"crf_value_low_thres: found {self.crf_value_low_thres} to {self.crf_value_high_thres}; "
                "expected 0 < low < high < 1"
            )

    @property
    def save_every(self) -> int:
        """Epochs between checkpoints, by either name."""
        return max(1, self.save_every_k_epoch or self.checkpoint_interval)

    @property
    def validate_every(self) -> int:
        """Epochs between validations, by either name."""
        return max(1, self.val_interval or self.validation_interval)


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec:
    """``evaluate``. ``results_dir`` is that of the whole spec where it is not said here."""

    checkpoint: str = ""
    results_dir: str = ""
    num_gpus: int = 1
    gpu_ids: tuple[int, ...] = (0,)
    batch_size: int = 3
    use_mixed_model_test: bool = False
    use_teacher_test: bool = False
    use_flip_test: bool = False
    comp_clustering: bool = False


@dataclass(frozen=True, kw_only=True)
class InferenceSpec:
    """``inference``. ``label_dump_path`` is below the results folder unless it is absolute."""

    checkpoint: str = ""
    results_dir: str = ""
    num_gpus: int = 1
    gpu_ids: tuple[int, ...] = (0,)
    batch_size: int = 3
    ann_path: str = ""
    img_dir: str = ""
    label_dump_path: str = "instances_val2017_mal.json"
    load_mask: bool = False


@dataclass(frozen=True, kw_only=True)
class MalSpec:
    """``dropmill model mal train|evaluate|inference``."""

    strategy: str = "ddp"
    results_dir: str = "/results"
    encryption_key: Any = None
    wandb: Any = None
    num_nodes: int = 1
    num_gpus: int = 1
    gpu_ids: tuple[int, ...] = (0,)
    checkpoint: str = ""
    """The checkpoint of ``evaluate`` and ``inference`` where they do not name their own."""
    dataset: DatasetSpec = field(default_factory=DatasetSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    inference: InferenceSpec = field(default_factory=InferenceSpec)

    def __post_init__(self) -> None:
        known = ("auto", "ddp", "fsdp", "ddp_sharded")
        if self.strategy not in known:
            raise ValueError(f"strategy: found {self.strategy!r}; expected one of {', '.join(known)}")


def load_spec(path: Path | None, overrides: Sequence[str] = ()) -> MalSpec:
    """Read a spec file with ``key=value`` overrides over it; see :func:`training.spec_file.read_spec`."""
    return read_spec(MalSpec, path, overrides)


def with_thresholds(trained: MalSpec, given: TrainSpec) -> MalSpec:
    """The spec of a checkpoint with what another says of making masks: ``mask_thres`` and
    ``test_margin_rate``, where it does not leave them at their defaults.
    """
    default = TrainSpec()
    said = {key: getattr(given, key) for key in _OF_INFERENCE if getattr(given, key) != getattr(default, key)}
    return replace(trained, train=replace(trained.train, **said))


def passed_over(trained: MalSpec, given: MalSpec) -> list[str]:
    """What a spec says of the network other than a checkpoint, whose own network is taken."""
    default = MalSpec()
    return [
        f"{group}.{one.name}"
        for group in ("model", "dataset")
        for one in fields(getattr(default, group))
        if (group == "model" or one.name == "crop_size")
        and one.name not in _OF_TRAINING
        and getattr(getattr(given, group), one.name)
        not in (getattr(getattr(default, group), one.name), getattr(getattr(trained, group), one.name))
    ]


def meaningless(spec: MalSpec) -> list[str]:
    """Keys of the spec that were set, and steer nothing here."""
    default = MalSpec()
    found = [name for name in ("encryption_key", "wandb") if getattr(spec, name) is not None]
    if spec.num_nodes != default.num_nodes or spec.train.num_nodes != 1:
        found.append("num_nodes")
    if spec.train.optim_momentum != default.train.optim_momentum:
        found.append("train.optim_momentum")
    margins = spec.train.test_margin_rate
    if margins[1:] != default.train.test_margin_rate[1:] and len(set(margins)) > 1:
        # As in TAO, one margin is for all sides.
        found.append("train.test_margin_rate after its first number")
    if spec.evaluate.comp_clustering:
        found.append("evaluate.comp_clustering")
    for name in ("evaluate", "inference"):
        part: EvaluateSpec | InferenceSpec = getattr(spec, name)
        # One process looks at all images; several do in a lake (dropmill dataset masks).
        found += [f"{name}.{key}" for key in ("num_gpus", "gpu_ids") if getattr(part, key) not in (1, (0,))]
    return found
