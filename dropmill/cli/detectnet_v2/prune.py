"""``prune``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dropmill.cli.detectnet_v2 import options


@click.command("prune")
@options.model_option
@click.option(
    "-o", "--output_file", "--output_dir", "out", type=options.PATH, required=True, help="The pruned model."
)
@click.option("-n", "--normalizer", default="max", show_default=True, help="max or L2: of a layer's norms.")
@click.option(
    "-eq",
    "--equalization_criterion",
    "equalization",
    default="union",
    show_default=True,
    help="Of layers that are added: union, intersection, arithmetic_mean, geometric_mean.",
)
@click.option(
    "-pg", "--pruning_granularity", "granularity", default=8, show_default=True, help="Filters at a time."
)
@click.option(
    "-pth", "--pruning_threshold", "threshold", default=0.1, show_default=True, help="Filters above stay."
)
@click.option(
    "-nf", "--min_num_filters", "min_filters", default=16, show_default=True, help="Kept in each layer."
)
@click.option("-el", "--excluded_layers", "excluded", multiple=True, help="Layers to leave; may come again.")
@click.argument("more", nargs=-1, metavar="")
@options.without_meaning
@options.as_json
def prune(
    model: Path,
    out: Path,
    normalizer: str,
    equalization: str,
    granularity: int,
    threshold: float,
    min_filters: int,
    excluded: tuple[str, ...],
    more: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Take filters out of a trained model; train it again with the result as pretrained_model_file."""
    from training.detectnet_v2.checkpoint import load_checkpoint, load_model, save_checkpoint
    from training.detectnet_v2.prune import prune as prune_model

    if more and not excluded:
        raise click.UsageError(f"{more[0]!r} belongs to no option; layers to leave follow -el")
    options.quiet_logging()
    network, spec = load_model(model)
    # TAO takes several names behind one -el.
    names = [name for text in (*excluded, *more) for name in text.replace(",", " ").split()]
    report = prune_model(
        network,
        threshold=threshold,
        normalizer=normalizer,  # type: ignore[arg-type]
        equalization=equalization,  # type: ignore[arg-type]
        granularity=granularity,
        min_filters=min_filters,
        excluded=names,
    )
    metrics = {
        "pruned_from": str(model),
        "ratio": report.ratio,
        **_measured(dict(load_checkpoint(model).metrics)),
    }
    save_checkpoint(out, network, spec, metrics=metrics)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "model": str(out),
                    "ratio": report.ratio,
                    "parameters": [report.parameters_before, report.parameters_after],
                    "layers": {name: [width, report.after[name]] for name, width in report.before.items()},
                }
            )
        )
        return
    for line in report.lines():
        click.echo(line)
    click.echo(f"Pruning ratio (pruned model / original model): {report.ratio:.6f}")
    click.echo(f"{out}; now train with it as pretrained_model_file (load_graph: true, regularizer NO_REG)")


def _measured(metrics: dict[str, object]) -> dict[str, object]:
    return {f"before_{name}": value for name, value in metrics.items() if name.startswith("val_")}
