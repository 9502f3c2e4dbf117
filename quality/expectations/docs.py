"""Data Docs that ask nothing of the network.

Great Expectations' pages fetch their styles, icons and scripts from several hosts when they are opened, and
show their lists of results by script alone. Here the same pages get a style of their own, and plain lists.
"""

from __future__ import annotations

import ast
import re
from html import escape
from pathlib import Path
from typing import Any

_SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE)
_LINK = re.compile(r"<link\b[^>]*>", re.IGNORECASE)
_STYLE = re.compile(r"<style\b.*?</style>", re.DOTALL | re.IGNORECASE)
_IMAGE = re.compile(r"<img\b[^>]*\balt=\"([^\"]*)\"[^>]*>", re.IGNORECASE)
_FOOTER = re.compile(r"<footer\b.*?</footer>", re.DOTALL | re.IGNORECASE)
_HANDLER = re.compile(r"\son\w+=\"[^\"]*\"", re.IGNORECASE)
_TABLE = re.compile(r"<table\s+id=\"([^\"]+-table)\"([^>]*)>\s*</table>", re.DOTALL)
_ROWS = re.compile(
    r"\$\('#([^']+)'\)\.bootstrapTable\(.*?columns: (\[.*?\]),\n\s*data: (\[.*?\]),\n", re.DOTALL
)
_TAG = re.compile(r"<[^>]+>")
_TOOLTIP = re.compile(r"<span class=\"?top\"?>.*?</span>", re.DOTALL)

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LOOK = """
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1f2933; margin: 0;
  padding: 1.5rem 2rem 3rem; max-width: 84rem; } a { color: #2f6db5; }
.navbar-brand a { font-size: 1.25rem; font-weight: 600; text-decoration: none; color: inherit; }
ol.breadcrumb, ul.nav { list-style: none; padding: 0; display: flex; gap: 1rem;
  flex-wrap: wrap; margin: .5rem 0; }
.ge-navigation-sidebar-container ul { display: block; } .tab-pane { margin: 1rem 0 2rem; }
h4, h5, h6 { font-size: 1rem; margin: 1rem 0 .3rem; }
.ge-section { margin: 1rem 0 2rem; }
.alert { background: #f5f7f9; border-left: 4px solid #2f6db5;
  padding: .4rem .9rem; margin: .6rem 0; } .alert h5, .alert h6 { margin: 0; font-size: 1.05rem; }
table { border-collapse: collapse; margin: .4rem 0 1rem; font-size: .9rem; max-width: 100%; }
th, td { border-bottom: 1px solid #d9dee4; padding: .3rem .9rem .3rem 0; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; } th { border-bottom: 1.5px solid #1f2933; }
.text-danger { color: #a5322e; } .text-success { color: #2e7d4f; } .text-warning { color: #a86400; }
i.fas { font-style: normal; font-weight: 700; } .fa-times::before { content: "failed"; }
.fa-check-circle::before { content: "passed"; } .fa-exclamation-triangle::before { content: "error"; }
.badge { border: 1px solid #d9dee4; border-radius: 4px; padding: 0 .35rem; font-size: .92em; }
pre, code { white-space: pre-wrap; font-size: .85rem; }
.show-scrollbars { max-height: 22rem; overflow: auto; }
.card, .btn, .btn-group, .alert-dismissible, .modal, a[data-toggle="collapse"],
.cooltip .top { display: none; }
.row { display: flow-root; } .lead { color: #5b6773; margin: .2rem 0; }
@media print { body { padding: 0; } tr { break-inside: avoid; } .show-scrollbars { max-height: none; } }
"""


def make_self_contained(site: Path) -> None:
    """Rewrite all pages below ``site`` so that they neither fetch nor run anything. Can be run again."""
    for page in sorted(site.rglob("*.html")):
        page.write_text(self_contained(page.read_text(encoding="utf-8")), encoding="utf-8")


def self_contained(html: str) -> str:
    """One page of Data Docs without scripts, foreign styles and images."""
    if _POLICY in html:
        return html
    lists = {name: _list(columns, rows) for name, columns, rows in _ROWS.findall(html)}
    html = _TABLE.sub(lambda found: lists.get(found.group(1), found.group(0)), html)
    for pattern in (_SCRIPT, _LINK, _STYLE, _FOOTER, _HANDLER):
        html = pattern.sub("", html)
    html = _IMAGE.sub(lambda found: f"<span>{found.group(1)}</span>", html)
    head = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n<style>{_LOOK}</style>\n'
    return html.replace("</head>", f"{head}</head>", 1)


def _list(columns: str, rows: str) -> str:
    """A list of results or suites, which the page has as literals for its script."""
    try:
        shown: list[dict[str, Any]] = ast.literal_eval(columns)
        values: list[dict[str, Any]] = ast.literal_eval(rows)
    except (ValueError, SyntaxError):
        return "<p>No list: see the folders validations and expectations.</p>"
    head = "".join(f"<th>{escape(str(column['title']))}</th>" for column in shown)
    lines = []
    for row in values:
        link = escape(str(row.get("_table_row_link_path", "")), quote=True)
        cells = []
        for number, column in enumerate(shown):
            name = column["field"]
            text = str(row.get("_validation_success_text" if name == "validation_success" else name, ""))
            plain = escape(" ".join(_TAG.sub(" ", _TOOLTIP.sub("", text)).split()))
            cells.append(f'<td><a href="{link}">{plain}</a></td>' if number == 0 else f"<td>{plain}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
