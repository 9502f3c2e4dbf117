"""The pages of a report in Weights & Biases: the same charts, tables and pictures as on disk."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from quality.graphs import draw, style
from quality.page_kinds import Chapter, Table
from storage.errors import ConfigError


def log_report(
    chapters: Sequence[Chapter],
    pictures: Sequence[Path],
    *,
    folder: Path,
    size: tuple[float, float] = (15.0, 15.0),
    project: str | None = None,
    entity: str | None = None,
    name: str | None = None,
    notes: str | None = None,
    tags: Sequence[str] | None = None,
    save_code: bool = False,
) -> None:
    """Log all pages as one run. ``size`` of charts in inches.

    Where it goes is W&B's own matter: ``WANDB_MODE=offline`` keeps the run in ``folder``. Raises ConfigError
    where wandb is not installed, or does not let us in.
    """
    # Read when it is imported: its crashes would be reported to its makers.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("wandb.visualize needs the package wandb: pip install 'dropmill[wandb]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now().astimezone()
    try:
        run = wandb.init(
            project=project or "dropmill analytics",
            entity=entity,
            name=name or f"run_{now:%Y/%m/%d_%H:%M:%S}",
            notes=notes,
            tags=list(tags) if tags else None,
            save_code=save_code,
            dir=str(folder),
        )
    except wandb.Error as error:
        raise ConfigError(f"W&B: {error}; WANDB_MODE=offline needs no account") from error
    try:
        for chapter in chapters:
            for page in chapter.pages:
                shown: Any
                if isinstance(page, Table):
                    # A heading may stand twice in a table, and W&B wants them different.
                    heads = [
                        f"{head} {i}" if head in page.header[:i] else head
                        for i, head in enumerate(page.header)
                    ]
                    shown = wandb.Table(columns=heads, data=[list(row) for row in page.rows])
                else:
                    shown = wandb.Image(_picture(page, size), caption=page.title)
                run.log({f"{chapter.title}/{page.title}": shown})
        if pictures:
            # In a table alone they would not be among the files of an offline run.
            run.log({"image_with_bounding_boxes": [wandb.Image(str(p), caption=p.stem) for p in pictures]})
            rows = [[path.stem, wandb.Image(str(path))] for path in pictures]
            run.log({"image_table": wandb.Table(columns=["image", "boxes"], data=rows)})
    finally:
        run.finish()


def _picture(page: Any, size: tuple[float, float]) -> Any:
    from PIL import Image

    data = io.BytesIO()
    with style(min(size)):
        draw(page, *size).savefig(data, format="png", dpi=72)
    data.seek(0)
    return Image.open(data)
