"""The model card: a Markdown file beside a model that says what it is, made from what, and how good."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dropmill.pipelines.step_run import StepRun

_FILE = "model_card.md"


def write_card(run: StepRun) -> None:
    """Write the card of the model that a run exported, measured or judged, beside that model's files."""
    model = _model_of(run)
    if model is None:
        return
    chain = [*_ancestors(model), model]
    text = card_text(run, model, chain)
    path = model.folder / _FILE
    path.write_text(text, encoding="utf-8")
    model.keep("card", path, _about(model))


def card_text(run: StepRun, model: StepRun, chain: Sequence[StepRun]) -> str:
    """The card as Markdown; what was not measured says so."""
    about = _about(model)
    measured = run if run.row["step"] == "evaluate" else run.input("evaluation")
    parts = [
        f"# {_plain(model.dataset)}: {_plain(about['architecture'])}",
        _identity(model, about, run),
        "## Data",
        _data_sheet(model),
        "## Classes",
        _classes(model),
        "## Measured",
        _measured(measured),
        "## Made by",
        _table(("step", "run", "what it reports"), [_step_row(step, run) for step in chain]),
        "## Limits",
        _limits(model, measured),
        "## Lineage",
        _lineage(model),
    ]
    return "\n\n".join(parts) + "\n"


def _model_of(run: StepRun) -> StepRun | None:
    if run.row["step"] == "export":
        return run
    evaluation = run if run.row["step"] == "evaluate" else run.input("evaluation")
    return None if evaluation is None else evaluation.input("model")


def _ancestors(model: StepRun) -> list[StepRun]:
    """What came before, the first first, each once."""
    found: dict[str, StepRun] = {}
    for what in json.loads(model.row["inputs"] or "{}"):
        before = model.input(what)
        assert before is not None
        for one in [*_ancestors(before), before]:
            found.setdefault(one.name, one)
    return list(found.values())


def _about(model: StepRun) -> dict[str, Any]:
    rows = model.lake.sql(
        "SELECT architecture, categories FROM models WHERE run = $1 AND kind <> 'card' LIMIT 1",
        parameters=[model.name],
    ).to_pylist()
    return dict(rows[0]) if rows else {"architecture": "unknown", "categories": []}


def _identity(model: StepRun, about: Mapping[str, Any], run: StepRun) -> str:
    files = model.lake.sql(
        """SELECT kind, uri, size_bytes, sha256, state FROM models
           WHERE run = $1 AND kind <> 'card' ORDER BY kind""",
        parameters=[model.name],
    ).to_pylist()
    rows = [(row["kind"], row["uri"], f"{row['size_bytes']:,}", row["sha256"]) for row in files]
    state = next((row["state"] for row in files if row["state"]), None) or "not judged"
    pipeline = f"pipeline {_plain(model.row['pipeline'])}, execution {model.row['execution']}"
    return "\n\n".join(
        [
            f"Finds {', '.join(map(_plain, about['categories']))}. "
            f"Run `{model.name}` of {pipeline}. State: {state}"
            + (f" (judged by {run.name})." if run.row["step"] == "promote" else "."),
            _table(("file", "address", "bytes", "sha256"), rows),
        ]
    )


def _data_sheet(model: StepRun) -> str:
    rows = model.lake.sql(
        """SELECT coalesce(i.split, '(none)') AS split, count(DISTINCT i.sample) AS images,
                  count(DISTINCT i.sample) FILTER (WHERE i.labelled) AS labelled,
                  count(a.instance) AS boxes, count(a.instance) FILTER (WHERE a.corrected) AS corrected,
                  count(a.instance) FILTER (WHERE a.ignore) AS ignored
           FROM images i LEFT JOIN annotations a ON a.dataset = i.dataset AND a.sample = i.sample
           WHERE i.dataset = $1 GROUP BY 1 ORDER BY 1""",
        parameters=[model.dataset],
        versions=_pinned(model, "images", "annotations"),
    ).to_pylist()
    head = ("split", "images", "labelled", "boxes", "corrected", "ignored")
    findings = model.lake.sql(
        """SELECT rule, count(*) AS n FROM findings WHERE dataset = $1
           GROUP BY rule ORDER BY n DESC, rule LIMIT 8""",
        parameters=[model.dataset],
        versions=_pinned(model, "findings"),
    ).to_pylist()
    said = ", ".join(f"{_plain(row['rule'])} {row['n']}" for row in findings) or "none"
    return _table(head, [tuple(str(row[name]) for name in head) for row in rows]) + f"\n\nFindings: {said}."


def _classes(model: StepRun) -> str:
    rows = model.lake.sql(
        "SELECT category, boxes, images, share FROM class_balance WHERE dataset = $1 ORDER BY boxes DESC",
        parameters=[model.dataset],
        versions=_pinned(model, "annotations"),
    ).to_pylist()
    shards = model.input("shards")
    after = {} if shards is None else _metrics(shards)
    lines = [
        (
            row["category"],
            str(row["boxes"]),
            str(row["images"]),
            f"{row['share']:.1%}",
            f"{after[name]:.0f}" if (name := f"boxes_after/{row['category']}") in after else "-",
        )
        for row in rows
    ]
    return _table(("class", "boxes", "images", "share", "boxes in the augmented shards"), lines)


def _measured(run: StepRun | None) -> str:
    if run is None:
        return "Not measured: the pipeline has no step `evaluate` after the one that made this."
    metrics = run.metrics or _metrics(run)
    outputs = run.outputs or run.outputs_said
    rows = [("mAP50", f"{metrics['mAP50']:.3f}")]
    if "current_mAP50" in metrics:
        rows.append((f"mAP50 of {outputs['current']}, current then", f"{metrics['current_mAP50']:.3f}"))
    rows += [(name, f"{metrics[name]:.3f}") for name in ("precision50", "recall50") if name in metrics]
    rows += [
        (f"AP50 of {name.removeprefix('ap50/')}", f"{value:.3f}")
        for name, value in metrics.items()
        if name.startswith("ap50/")
    ]
    return f"On {metrics['images']:.0f} images of the split {outputs['split']}, at IoU 0.5:\n\n" + _table(
        ("measure", "value"), rows
    )


def _step_row(step: StepRun, run: StepRun) -> tuple[str, str, str]:
    metrics = run.metrics if step.name == run.name else _metrics(step)
    shown = [
        f"{name} {value:.4g}" for name, value in metrics.items() if "/" not in name and name[-2:] != "_s"
    ]
    return str(step.row["step"]), step.name, ", ".join(shown[:8])


def _limits(model: StepRun, measured: StepRun | None) -> str:
    lines = [
        "It was measured on images of the same data set only; other cameras, places and seasons are unknown.",
        "Scores are not probabilities: choose thresholds on images of your own.",
    ]
    if measured is not None:
        metrics = measured.metrics or _metrics(measured)
        weak = sorted(
            (value, name.removeprefix("ap50/")) for name, value in metrics.items() if name.startswith("ap50/")
        )
        if weak:
            lines.append(f"Weakest class: {_plain(weak[0][1])} (AP50 {weak[0][0]:.3f}).")
        if metrics.get("current_learnt_images"):
            learnt = f"{metrics['current_learnt_images']:.0f} of these images"
            lines.append(f"The model it was compared with has learnt from {learnt}: its measure is too good.")
        if metrics["images"] < _FEW_IMAGES:
            lines.append(
                f"{metrics['images']:.0f} images are few: differences of some hundredths are chance."
            )
    engine = model.lake.sql(
        "SELECT metrics FROM models WHERE run = $1 AND kind = 'engine'", parameters=[model.name]
    ).to_pylist()
    reasons = [json.loads(row["metrics"]).get("not_verified") for row in engine]
    lines += [f"The engine was not run here: {_plain(reason)}" for reason in reasons if reason]
    return "\n".join(f"- {line}" for line in lines)


_FEW_IMAGES = 200


def _lineage(model: StepRun) -> str:
    snapshot = model.snapshot
    versions = ", ".join(
        f"{name} {snapshot[name]}" for name in ("objects", "images", "labels", "annotations")
    )
    return (
        f"Tables were read at {versions}. `dropmill lineage {model.name}` lists every object of the bucket, "
        "with its version, that this model saw."
    )


def _pinned(model: StepRun, *names: str) -> dict[str, int]:
    snapshot = model.snapshot
    return {name: snapshot[name] for name in names}


def _metrics(run: StepRun) -> dict[str, float]:
    return dict(json.loads(run.row["metrics"] or "{}"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        [_plain(cell) for cell in head],
        ["---"] * len(head),
        *([_plain(c) for c in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """A name may hold anything; here it is one line, and no markup."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split())).replace("<", "&lt;")


# Not within words, where they say nothing: names such as small_vehicle stay as they are.
_MARKUP = re.compile(r"([\\`|\[\]*]|(?<!\w)_|_(?!\w))")
