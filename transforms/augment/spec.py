"""The spec of ``dataset augmentation``: the keys of TAO's data services, 5.0 and later, and our own.

A list of numbers is a rule to draw one: nothing is the key's default, one value is taken as it is, two are
the ends of a uniform draw, three or more are drawn from with equal chances.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from storage.errors import ConfigError
from transforms.conversion.spec import load_spec

WITHOUT_MEANING = ("encryption_key", "wandb", "num_nodes", "model_name", "cuda_blocking")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


Finite = Annotated[float, Field(allow_inf_nan=False)]
Drawn = Annotated[list[Finite], BeforeValidator(_as_list)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class DataSection(_Strict):
    """What is read and what is written."""

    dataset_type: Literal["kitti", "coco", "KITTI", "COCO"] = "coco"
    image_dir: str = ""
    ann_path: str = ""
    """Folder of KITTI labels, or COCO file."""
    output_dataset: str = ""
    """Folder of the results in specs of version 5.0; COCO labels are then ``labels/output.json``."""
    output_image_width: int | None = Field(default=None, ge=1, le=32_768)
    output_image_height: int | None = Field(default=None, ge=1, le=32_768)
    """Both or neither: without them each image keeps its size."""
    output_fit: Literal["stretch", "letterbox"] = "stretch"
    """How an image comes to a fixed size; letterbox keeps its aspect and fills the rest."""
    batch_size: int = Field(default=8, ge=1, le=1024)
    """Images that DALI works on at a time."""
    include_masks: bool = True
    """Masks and polygons follow; false leaves them out."""
    copies: int = Field(default=1, ge=1, le=1000)
    """Outputs of each image, each with parameters of its own."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)


class RefineSection(_Strict):
    """Boxes from masks."""

    enabled: bool = False
    """A box becomes the extent of its moved mask."""
    gt_cache: str = ""
    """COCO file with the masks; without one, those of the labels themselves."""


class RotationSection(_Strict):
    """Rotation about the middle."""

    angle: Drawn = []
    """Positive turns clockwise on the screen."""
    units: Literal["degrees", "radians"] = "degrees"
    refine_box: RefineSection = Field(default_factory=RefineSection)


class ShearSection(_Strict):
    """Shear about the middle: x grows by ratio times y."""

    shear_ratio_x: Drawn = []
    shear_ratio_y: Drawn = []


class TranslationSection(_Strict):
    """Pixels of the input image."""

    translate_x: Drawn = []
    translate_y: Drawn = []


class FlipSection(_Strict):
    """True flips every image, a number between 0 and 1 is the chance of it."""

    flip_horizontal: bool | Share = False
    flip_vertical: bool | Share = False


class ScaleSection(_Strict):
    """Scale about the middle."""

    factor: Drawn = []


class CropSection(_Strict):
    """A window of the moved image, at a drawn place; its size becomes that of the output."""

    size: Drawn = []
    """Part of the sides that is kept, 0 to 1; 1 by default."""


class SpatialSection(_Strict):
    """Where pixels go."""

    rotation: RotationSection = Field(default_factory=RotationSection)
    shear: ShearSection = Field(default_factory=ShearSection)
    translation: TranslationSection = Field(default_factory=TranslationSection)
    flip: FlipSection = Field(default_factory=FlipSection)
    scale: ScaleSection = Field(default_factory=ScaleSection)
    crop: CropSection = Field(default_factory=CropSection)


class HueSection(_Strict):
    """Degrees."""

    hue_rotation_angle: Drawn = []


class SaturationSection(_Strict):
    """A factor; 1 by default."""

    saturation_shift: Drawn = []


class ContrastSection(_Strict):
    """out = center + (1 + contrast) * (in - center)."""

    contrast: Drawn = []
    center: Drawn = []
    """127 by default."""


class BrightnessSection(_Strict):
    """Added before the contrast; -255 to 255."""

    offset: Drawn = []


class ColorSection(_Strict):
    """What colours become."""

    hue: HueSection = Field(default_factory=HueSection)
    saturation: SaturationSection = Field(default_factory=SaturationSection)
    contrast: ContrastSection = Field(default_factory=ContrastSection)
    brightness: BrightnessSection = Field(default_factory=BrightnessSection)


class BlurSection(_Strict):
    """Gaussian blur. A sigma of 0 follows from the window, a window of 0 from the sigma."""

    std: Drawn = []
    """Pixels; 0.1 by default, which changes nothing."""
    size: Drawn = []
    """Window, made odd; 3 by default."""


class SharpenSection(_Strict):
    """in + amount * (in - blurred)."""

    amount: Drawn = []


class NoiseSection(_Strict):
    """Gaussian noise on every channel."""

    std: Drawn = []
    """Of 255."""


class CutoutSection(_Strict):
    """Rectangles of one grey value over the image."""

    count: Drawn = []
    size: Drawn = [0.1, 0.3]
    """Part of each side of the image."""
    value: int = Field(default=0, ge=0, le=255)


class MosaicSection(_Strict):
    """Four images around a drawn centre."""

    probability: Share = 0.0


class MixupSection(_Strict):
    """Another image laid over, objects of both."""

    probability: Share = 0.0
    weight: Drawn = [0.3, 0.5]
    """Of the other image."""


class PasteSection(_Strict):
    """Instances of other images, cut out by their masks."""

    instances: Drawn = []
    """Per image, 0 by default; balance asks for more where it needs them."""
    categories: list[str] = []
    """Only these; all by default."""
    max_overlap: Share = 0.3
    """Part of any box that another may cover."""
    scale: Drawn = [0.8, 1.2]
    blend: float = Field(default=1.0, ge=0, le=50)
    """Pixels over which the edge fades."""
    without_mask: Literal["ellipse", "skip"] = "ellipse"
    """What to do with a box that has no mask: cut the ellipse within it, or leave it."""


class BalanceSection(_Strict):
    """More of the rare classes."""

    mode: Literal["none", "oversample", "full"] = "none"
    """oversample repeats images by their repeat factors; full pastes rare instances until the target is
    met.
    """
    ratio: float = Field(default=2.0, gt=1)
    """Largest class to smallest that full aims below."""
    max_growth: float = Field(default=3.0, ge=1, le=100)
    """Outputs for each image, at most."""
    pastes_per_image: int = Field(default=8, ge=1, le=200)


class LabelsSection(_Strict):
    """Which objects remain."""

    min_visibility: Share = 0.1
    """Part of an object's area that must remain in view, and uncovered; 0 keeps whatever has an area."""
    min_size: float = Field(default=1.0, ge=0)
    """Pixels that either side must have."""


class ShardsSection(_Strict):
    """Files of many samples, beside the folder."""

    format: Literal["none", "webdataset", "tfrecord"] = "none"
    size_mb: Positive = 256.0
    """Megabytes that a shard should have."""
    masks: bool = False
    """A picture with each sample that numbers the pixels of its objects."""


class AugmentSpec(_Strict):
    """``dropmill dataset augmentation generate``."""

    random_seed: int = 42
    num_gpus: int | None = None
    gpu_ids: list[int] | None = None
    results_dir: str = ""
    """Folder of the results; COCO labels are then ``annotations.json``."""
    executor: Literal["auto", "dali", "opencv"] = "auto"
    """auto takes DALI where it finds a GPU, else OpenCV."""
    workers: int | None = Field(default=None, ge=1, le=1024)
    """Threads; by default one for each core."""
    actors: int = Field(default=0, ge=0, le=1024)
    """Ray actors that share the work, each with ``workers`` threads; 0 works in this process, unless DALI is
    to use several GPUs: then there is one for each.
    """
    data: DataSection = Field(default_factory=DataSection)
    spatial_aug: SpatialSection = Field(default_factory=SpatialSection)
    color_aug: ColorSection = Field(default_factory=ColorSection)
    blur_aug: BlurSection = Field(default_factory=BlurSection)
    sharpen_aug: SharpenSection = Field(default_factory=SharpenSection)
    noise_aug: NoiseSection = Field(default_factory=NoiseSection)
    cutout_aug: CutoutSection = Field(default_factory=CutoutSection)
    mosaic_aug: MosaicSection = Field(default_factory=MosaicSection)
    mixup_aug: MixupSection = Field(default_factory=MixupSection)
    paste_aug: PasteSection = Field(default_factory=PasteSection)
    balance: BalanceSection = Field(default_factory=BalanceSection)
    labels: LabelsSection = Field(default_factory=LabelsSection)
    shards: ShardsSection = Field(default_factory=ShardsSection)
    encryption_key: Any = None
    wandb: Any = None
    num_nodes: Any = None
    model_name: Any = None
    cuda_blocking: Any = None

    @model_validator(mode="after")
    def _one_size(self) -> AugmentSpec:
        if (self.data.output_image_width is None) != (self.data.output_image_height is None):
            raise ValueError("data.output_image_width and data.output_image_height: both or neither")
        return self

    @property
    def output(self) -> Path:
        """Folder of the results. Raises ConfigError where the spec names none."""
        folder = self.results_dir or self.data.output_dataset
        if not folder:
            raise ConfigError("the spec names no folder for results: set results_dir or data.output_dataset")
        return Path(folder)

    @property
    def gpus(self) -> int:
        """GPUs that are asked for: num_gpus or gpu_ids, whichever says more."""
        return max(self.num_gpus or 0, len(self.gpu_ids or []))

    @property
    def form(self) -> str:
        """``kitti`` or ``coco``."""
        return self.data.dataset_type.lower()

    @property
    def coco_file(self) -> str:
        """Where COCO labels go below the folder of results: each version of the spec has its place."""
        return "annotations.json" if self.results_dir else "labels/output.json"


def load_augment_spec(path: Path | None, overrides: Sequence[str] = ()) -> AugmentSpec:
    """Read a YAML spec and put ``key.of.section=value`` over it.

    Raises ConfigError (UnknownKeyError for keys that nobody knows, with the nearest), naming file and key.
    """
    kind: Any = AugmentSpec
    spec: AugmentSpec = load_spec(kind, path, overrides)
    return spec


def meaningless(spec: AugmentSpec) -> list[str]:
    """Keys of the spec that are accepted and steer nothing."""
    return [name for name in WITHOUT_MEANING if getattr(spec, name) is not None]
