"""The report on a data set as one HTML file that needs nothing else: no script, no request, good in print."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from quality.graphs import svg_of
from quality.page_kinds import Chapter, Table
from quality.review import Review
from quality.summary import Summary

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { --ink:#1f2933; --soft:#5b6773; --line:#d9dee4; --pale:#f5f7f9; --blue:#2f6db5; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; margin: 0; } h2 { font-size: 1.35rem; margin: 2.6rem 0 .6rem;
  padding-top: .8rem; border-top: 2px solid var(--ink); } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p, ul { margin: .4rem 0; } .soft { color: var(--soft); }
nav { margin: 1rem 0; } nav a { margin-right: 1rem; color: var(--blue); text-decoration: none; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.fact { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; min-width: 8rem; }
.fact b { display: block; font-size: 1.4rem; }
.verdict { display: inline-block; padding: .1rem .7rem; border-radius: 4px; color: #fff; font-weight: 600; }
.pass { background: #2e7d4f; } .warn { background: #a86400; } .fail { background: #a5322e; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .3rem 0 1rem; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: break-word; }
th { border-bottom: 1.5px solid var(--ink); white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
figure { margin: .4rem 0 1.2rem; } figure svg { width: 100%; height: auto; max-width: 52rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
.pictures figure { margin: 0; } .pictures img { width: 100%; border: 1px solid var(--line); display: block; }
figcaption { font-size: .82rem; color: var(--soft); overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  h2, h3 { break-after: avoid; } figure, tr, .fact { break-inside: avoid; } .wide { overflow: visible; }
  @page { margin: 16mm; } }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink:#e4e9ee; --soft:#9aa7b3; --line:#36404a; --pale:#1c232a; --blue:#7fb0ea; }
  html, body { background: #12171c; } figure svg { filter: invert(1) hue-rotate(180deg) brightness(1.2); } }
"""


def write_report(
    path: Path,
    review: Review,
    summary: Summary,
    chapters: Sequence[Chapter],
    *,
    pictures: Sequence[Path] = (),
    title: str | None = None,
) -> None:
    """Write the report. ``pictures`` (PNG or JPEG files, drawn images) become part of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html_of(review, summary, chapters, pictures=pictures, title=title), encoding="utf-8")


def html_of(
    review: Review,
    summary: Summary,
    chapters: Sequence[Chapter],
    *,
    pictures: Sequence[Path] = (),
    title: str | None = None,
) -> str:
    """The report as text."""
    name = title or f"Data set {review.material.dataset}"
    links = "".join(f'<a href="#{escape(c.name)}">{escape(c.title)}</a>' for c in chapters)
    links += '<a href="#pictures">Pictures</a>' if pictures else ""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        # Nothing may be asked for from anywhere, whatever stands in the labels.
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{escape(name)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">Labels: {escape(review.material.format.upper())}</p>',
        _facts(review, summary),
        _verdict(review),
        f"<nav>{links}</nav>",
        *(_chapter(chapter) for chapter in chapters),
        _pictures(pictures),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def _facts(review: Review, summary: Summary) -> str:
    facts = {
        "images": f"{review.material.images.height:,}",
        "annotations": f"{summary.total:,}",
        "classes": f"{len(review.balance.classes):,}",
        "invalid": f"{summary.invalid:,} ({summary.percent(summary.invalid):g} %)",
        "out of bounds": f"{summary.out_of_bounds:,}",
        "inverted": f"{summary.inverted:,}",
        "findings": f"{review.findings.height:,}",
    }
    cells = "".join(f'<div class="fact"><b>{value}</b>{name}</div>' for name, value in facts.items())
    return f'<div class="facts">{cells}</div>'


def _verdict(review: Review) -> str:
    verdict = review.gate.verdict.value
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in review.gate.reasons)
    said = f"<ul>{reasons}</ul>" if reasons else ""
    return f'<p>Gate: <span class="verdict {verdict}">{verdict}</span></p>{said}'


def _chapter(chapter: Chapter) -> str:
    parts = [f'<section><h2 id="{escape(chapter.name)}">{escape(chapter.title)}</h2>']
    for page in chapter.pages:
        parts.append(f"<h3>{escape(page.title)}</h3>")
        parts.append(_table(page) if isinstance(page, Table) else f"<figure>{svg_of(page)}</figure>")
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    if not table.rows:
        return '<p class="soft">None.</p>'
    numbers = [all(_is_number(row[i]) for row in table.rows) for i in range(len(table.header))]

    def line(cells: Sequence[str], tag: str) -> str:
        marks = [' class="n"' if number else "" for number in numbers]
        inner = "".join(f"<{tag}{m}>{escape(c)}</{tag}>" for c, m in zip(cells, marks, strict=True))
        return f"<tr>{inner}</tr>"

    head, body = line(table.header, "th"), "".join(line(row, "td") for row in table.rows)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _pictures(pictures: Sequence[Path]) -> str:
    if not pictures:
        return ""
    shown = []
    for path in pictures:
        kind = "png" if path.suffix.lower() == ".png" else "jpeg"
        data = base64.b64encode(path.read_bytes()).decode()
        shown.append(
            f'<figure><img alt="{escape(path.stem)}" src="data:image/{kind};base64,{data}">'
            f"<figcaption>{escape(path.name)}</figcaption></figure>"
        )
    return f'<section><h2 id="pictures">Pictures</h2><div class="pictures">{"".join(shown)}</div></section>'


def _is_number(text: str) -> bool:
    return text == "" or text.replace(",", "").replace(".", "").replace("%", "").lstrip("-").isdigit()
