"""Which labeler makes the masks of a lake."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from transforms.masks.labeler import Labeler


class MasksConfig(BaseModel):
    """Masks of all boxes. Without any file they are made by GrabCut, and say so in ``masks.model``."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    checkpoint: Path | None = None
    """A checkpoint of ``dropmill model mal train``."""
    encoder: Path | None = None
    """Promptable segmentation: the ONNX file of the encoder."""
    decoder: Path | None = None
    """Promptable segmentation: the ONNX file of the decoder."""
    name: str = Field(default="promptable", min_length=1)
    """Promptable segmentation: what its masks are called in ``masks.model``."""
    batch_size: int = Field(default=16, ge=1)
    """MAL: boxes that are looked at at once."""
    workers: int | None = Field(default=None, ge=1)
    """Processes that hold the model; one for each GPU, or for each two cores, if not said."""

    @model_validator(mode="after")
    def _check_one_kind(self) -> MasksConfig:
        if (self.encoder is None) != (self.decoder is None):
            raise ValueError("encoder and decoder belong together: give both, or none")
        if self.checkpoint is not None and self.encoder is not None:
            raise ValueError("checkpoint is of MAL, encoder and decoder are of another model: give one")
        return self

    def labeler(self, *, use_gpu: bool = False, threads: int = 1) -> Labeler:
        """Load the model. Raises ConfigError or TrainingError for files that are none."""
        if self.checkpoint is not None:
            import torch

            from training.mal.labeler import MalLabeler

            torch.set_num_threads(threads)
            device = "cuda" if use_gpu else "cpu"
            return MalLabeler.of_checkpoint(self.checkpoint, batch_size=self.batch_size, device=device)
        if self.encoder is not None and self.decoder is not None:
            from transforms.masks.promptable import PromptableLabeler

            return PromptableLabeler(
                self.encoder, self.decoder, name=self.name, threads=threads, use_gpu=use_gpu
            )
        from transforms.masks.grabcut import GrabCutLabeler

        return GrabCutLabeler()
