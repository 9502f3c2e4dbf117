"""``dropmill dataset auto_label``: masks for the boxes of a COCO file, with TAO's specs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dropmill.cli import spec_options
from dropmill.extras import require
from dropmill.logs import set_up_logging
from storage.errors import ConfigError

if TYPE_CHECKING:
    from training.mal.auto_label_spec import AutoLabelSpec
    from transforms.masks.labeler import Labeler


@click.group("auto_label")
def auto_label() -> None:
    """Labels made by models."""


@auto_label.command("generate")
@spec_options.spec_file
@spec_options.as_json
@spec_options.overrides
def generate(spec_file: Path | None, *, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Write a COCO file again, with a mask for each box.

    autolabel_type is mal (with a checkpoint), grabcut (no weights), or promptable (with promptable.encoder
    and promptable.decoder, ONNX files of the SAM family).
    """
    require("train")
    set_up_logging(as_json=not sys.stderr.isatty())
    from dropmill.cli.mal import annotate_file
    from training.mal.auto_label_spec import load_auto_label_spec, meaningless

    spec = load_auto_label_spec(spec_file, overrides)
    if names := meaningless(spec):
        click.echo(f"without a meaning here, and passed over: {', '.join(names)}", err=True)
    wanted = spec.inference
    out = Path(spec.results_dir) / wanted.label_dump_path
    annotate_file(
        labeler_of(spec), wanted.ann_path, wanted.img_dir, out, load_mask=wanted.load_mask, as_json=as_json
    )


def labeler_of(spec: AutoLabelSpec) -> Labeler:
    """The labeler that a spec asks for. Raises ConfigError."""
    from dropmill.cli.mal import device, tell_passed_over

    if spec.autolabel_type == "grabcut":
        from transforms.masks.grabcut import GrabCutLabeler

        return GrabCutLabeler()
    if spec.autolabel_type == "promptable":
        from transforms.masks.promptable import PromptableLabeler

        files = spec.promptable
        if not (files.encoder and files.decoder):
            raise ConfigError("promptable.encoder and promptable.decoder are not set; expected ONNX files")
        return PromptableLabeler(files.encoder, files.decoder, name=files.name)
    from training.mal.labeler import MalLabeler

    if not spec.checkpoint:
        raise ConfigError(
            "checkpoint is not set; expected one of `dropmill model mal train`, or autolabel_type=grabcut, "
            "which needs none"
        )
    labeler = MalLabeler.of_checkpoint(
        spec.checkpoint, batch_size=spec.inference.batch_size, device=device(), given=spec.train
    )
    if spec.model is not None and spec.model.arch != labeler.arch:
        raise ConfigError(
            f"model.arch is {spec.model.arch!r}, and {spec.checkpoint} has {labeler.arch!r}; leave it out"
        )
    tell_passed_over(labeler.spec, spec.of_mal())
    return labeler
