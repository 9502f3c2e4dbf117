"""The parameters of the steps of a pipeline; masks have theirs in :mod:`dropmill.masks_config`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.errors import ConfigError
from transforms.augment.spec import AugmentSpec

if TYPE_CHECKING:
    from training.zoo.spec import ZooSpec

Detector = Literal[
    "detectnet_v2", "faster_rcnn", "mask_rcnn", "retinanet", "fcos", "ssdlite", "rtdetr", "dfine"
]
"""What a pipeline can train; all but the first are the zoo's."""
PATHS = ("spec", "pretrained", "checkpoint", "encoder", "decoder")
"""Keys of steps that are paths of files."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AugmentConfig(_Strict):
    """Augmented shards of the training images. Without spec and options the classes are balanced, and every
    second image is mirrored.
    """

    spec: Path | None = None
    """A spec file of ``dropmill dataset augmentation``, on the machine that does the step."""
    options: AugmentSpec | None = None
    """The same keys, said here."""

    @model_validator(mode="after")
    def _one_of_both(self) -> AugmentConfig:
        if self.spec is not None and self.options is not None:
            raise ValueError("give spec or options, not both")
        return self


class _Schedule(_Strict):
    """How long and how fast a network learns."""

    epochs: int | None = Field(default=None, ge=1)
    """Passes over the training images."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images of a step of one worker."""
    workers: int = Field(default=1, ge=1)
    """Processes of Ray Train, each with a GPU where there are GPUs; one without a GPU is the job itself."""
    seed: int = 42
    """Of everything that is drawn."""
    max_learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate after the soft start."""
    validation_period: int | None = Field(default=None, ge=1)
    """Epochs from one evaluation to the next."""


class TrainConfig(_Schedule):
    """A training run; everything may be left out."""

    detector: Detector = "detectnet_v2"
    """The family of networks."""
    spec: Path | None = None
    """A spec file of that detector (prototxt for detectnet_v2, else YAML); none makes one from the data."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of other detectors: keys of their spec (model, data, train), above those of the file."""
    input_width: int | None = Field(default=None, ge=32)
    """Pixels of the network's input."""
    input_height: int | None = Field(default=None, ge=32)
    """Pixels of the network's input."""
    pretrained: Path | None = None
    """A checkpoint on this machine whose backbone is taken; other detectors take all that fits."""
    foreground_weight: float | None = Field(default=None, gt=0, lt=1)
    """Weight of covered cells in the coverage cost; more than the default of 0.05 suits short trainings."""
    num_layers: int | None = Field(default=None, ge=10)
    """Depth of the ResNet: 10, 18, 34, 50, 101."""

    @model_validator(mode="after")
    def _of_its_detector(self) -> TrainConfig:
        if self.detector == "detectnet_v2":
            if self.options:
                raise ValueError("options are of other detectors; detectnet_v2 takes a spec file")
            return self
        for name in _OF_DETECTNET_V2:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is of detectnet_v2; a {self.detector} takes options, such as "
                    "{model: {backbone: resnet18, short_side: [480]}}"
                )
        try:
            # The file may be on another machine, and its path is not complete yet.
            self.zoo(without_file=True)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def zoo(self, *, without_file: bool = False) -> ZooSpec:
        """The spec of a detector other than detectnet_v2. Raises ConfigError."""
        from training.spec_file import bind, plain
        from training.zoo.spec import ZooSpec, load_spec

        bind(ZooSpec, self.options, "options")
        content = plain(load_spec(None if without_file else self.spec, detector=self.detector))
        said = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "lr": self.max_learning_rate,
            "validate_every": self.validation_period,
            "load_from": None if self.pretrained is None else str(self.pretrained),
        }
        for section, keys in self.options.items():
            content[section] |= keys
        content["train"] |= {name: value for name, value in said.items() if value is not None}
        content["model"]["detector"] = self.detector
        return bind(ZooSpec, content, "the step train")

    def schedule(self) -> dict[str, Any]:
        """What is set of the schedule, under the names of the function that makes a spec."""
        names = ("max_learning_rate", "validation_period", "foreground_weight", "num_layers")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


_OF_DETECTNET_V2 = ("input_width", "input_height", "foreground_weight", "num_layers")


class PruneConfig(_Strict):
    """Take filters out of the trained network."""

    threshold: float = Field(default=0.1, ge=0)
    """Filters whose normalised weight is above stay."""
    normalizer: Literal["max", "L2", "off"] = "max"
    """What norms of a layer are divided by."""
    equalization: Literal["union", "intersection", "arithmetic_mean", "geometric_mean"] = "union"
    """How layers that are added agree."""
    granularity: int = Field(default=8, ge=1)
    """Filters at a time."""
    min_filters: int = Field(default=16, ge=1)
    """Kept in each layer."""
    excluded: tuple[str, ...] = ()
    """Layers to leave as they are."""


class RetrainConfig(_Schedule):
    """Training again what was pruned, with its own spec; what is set here stands above it."""


class QuantiseConfig(_Schedule):
    """Int8: by a training that knows it (qat), or by ranges measured on training images (ptq)."""

    method: Literal["qat", "ptq"] = "qat"
    """qat: a checkpoint; ptq: an ONNX file."""
    images: int = Field(default=80, ge=1)
    """ptq: training images whose ranges are measured."""


class ExportConfig(_Strict):
    """ONNX, and an engine where this machine has a builder."""

    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """int8 of a network that was not quantised before measures its ranges on training images."""
    images: int = Field(default=80, ge=1)
    """int8: training images whose ranges are measured."""
    engine: bool = True
    """Compile an engine as well."""
    compute_capabilities: tuple[str, ...] = ("8.6", "8.9")
    """Of the GPUs that an engine of TensorRT for RTX is for."""
    max_batch: int = Field(default=16, ge=1)
    """The largest batch of the engine."""


class EvaluateConfig(_Strict):
    """Measure the candidate and the current best on the same images."""

    split: Literal["test", "val"] = "test"
    """Whose images; where a data set has no test images those of validation are taken."""


class PromoteConfig(_Strict):
    """Make the candidate the current model where it is better than the one that is."""

    margin: float = Field(default=0.0, ge=0, le=1)
    """By how much its mAP50 has to be higher."""
    at_least: float = Field(default=0.0, ge=0, le=1)
    """The mAP50 that any current model has to have."""
