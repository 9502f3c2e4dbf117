"""The spec of auto_label, of both generations: MAL's keys at the root (5.0), or below ``mal`` (later)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from storage.errors import ConfigError
from training.mal.spec import DatasetSpec, EvaluateSpec, InferenceSpec, MalSpec, ModelSpec, TrainSpec
from training.spec_file import read_spec

KINDS = ("mal", "grabcut", "promptable")


@dataclass(frozen=True, kw_only=True)
class PromptableSpec:
    """Local ONNX files of a model of the SAM family, and the name that its masks get."""

    encoder: str = ""
    decoder: str = ""
    name: str = "promptable"


@dataclass(frozen=True, kw_only=True)
class MalGroup:
    """MAL in specs of version 5.5 and later."""

    checkpoint: str = ""
    results_dir: str = ""
    dataset: DatasetSpec = field(default_factory=DatasetSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    inference: InferenceSpec = field(default_factory=InferenceSpec)


@dataclass(frozen=True, kw_only=True)
class AutoLabelSpec:
    """``dropmill dataset auto_label generate``."""

    autolabel_type: str = "mal"
    """``mal``; or ours: ``grabcut``, which needs no weights, and ``promptable``."""
    results_dir: str = ""
    checkpoint: str = ""
    gpu_ids: tuple[int, ...] = (0,)
    num_gpus: int = 1
    num_nodes: int = 1
    num_workers: int = 8
    batch_size: int = 4
    strategy: str = "ddp_sharded"
    encryption_key: Any = None
    wandb: Any = None
    dataset: DatasetSpec = field(default_factory=DatasetSpec)
    model: ModelSpec | None = None
    train: TrainSpec = field(default_factory=TrainSpec)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    inference: InferenceSpec = field(default_factory=InferenceSpec)
    mal: MalGroup | None = None
    promptable: PromptableSpec = field(default_factory=PromptableSpec)
    grounding_dino: Any = None

    def __post_init__(self) -> None:
        if self.autolabel_type not in KINDS:
            raise ValueError(
                f"autolabel_type: found {self.autolabel_type!r}; expected one of {', '.join(KINDS)}"
            )

    def settled(self) -> AutoLabelSpec:
        """The same with the keys of a group ``mal`` at the root. Raises ConfigError."""
        found = self
        if self.mal is not None:
            found = replace(
                self,
                mal=None,
                checkpoint=self.mal.checkpoint or self.checkpoint,
                results_dir=self.mal.results_dir or self.results_dir,
                model=self.mal.model,
                dataset=self.mal.dataset,
                train=self.mal.train,
                inference=replace(self.mal.inference, batch_size=self.batch_size),
            )
        for name in ("ann_path", "img_dir"):
            if not getattr(found.inference, name):
                raise ConfigError(
                    f"inference.{name} is not set; expected the COCO file and its images' folder"
                )
        return found

    def of_mal(self) -> MalSpec:
        """The part that MAL knows."""
        return MalSpec(model=self.model or ModelSpec(), dataset=self.dataset, train=self.train)


def meaningless(spec: AutoLabelSpec) -> list[str]:
    """Keys of the spec that were set, and steer nothing here: one process makes the masks of a file."""
    default = AutoLabelSpec()
    names = (
        "gpu_ids", "num_gpus", "num_nodes", "num_workers", "strategy", "encryption_key", "wandb",
        "grounding_dino", "evaluate",
    )  # fmt: skip
    found = [name for name in names if getattr(spec, name) != getattr(default, name)]
    inference, unset = spec.inference, default.inference
    return found + [
        f"inference.{name}"
        for name in ("num_gpus", "gpu_ids")
        if getattr(inference, name) != getattr(unset, name)
    ]


def load_auto_label_spec(path: Path | None, overrides: Sequence[str] = ()) -> AutoLabelSpec:
    """Read a spec with ``key=value`` overrides over it, and bring it to one form."""
    return read_spec(AutoLabelSpec, path, overrides).settled()
