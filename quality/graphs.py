"""Drawing the pages of a report: PDF and PNG files of any size, and SVG for the HTML report."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quality.page_kinds import Bars, Chapter, Heat, Histogram, Page, Points, Table
from storage.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f6db5", "#e08a1e", "#3b9b62", "#b8433f", "#7d62b3", "#8a6a4f", "#cf6fa8", "#6b7280")
_INK, _PALE = "#1f2933", "#d9dee4"
_PNG_DPI = 72
_ROWS_ON_A_PAGE = 40
_MOST_LETTERS = 28


def save_graphs(
    chapters: Sequence[Chapter],
    folder: Path,
    *,
    width: float = 15.0,
    height: float = 15.0,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write ``<chapter>.pdf`` with all its pages and ``<chapter>_<page>.png`` into ``folder``; sizes in inch.

    Raises ConfigError where matplotlib is not installed.
    """
    pdf_pages = _pdf_pages()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chapter in chapters:
        path = folder / f"{chapter.name}.pdf"
        with style(min(width, height)), pdf_pages(path, metadata={"Title": chapter.title}) as pdf:
            for number, page in enumerate((p for whole in chapter.pages for p in _broken(whole)), start=1):
                figure = draw(page, width, height)
                picture = folder / f"{chapter.name}_{number}.png"
                figure.savefig(picture, dpi=_PNG_DPI, pil_kwargs={"compress_level": 1})
                pdf.savefig(figure)
                written.append(picture)
        written.append(path)
        if progress:
            progress(chapter.name)
    return written


def svg_of(page: Page) -> str:
    """A chart as SVG, of a size that fits its content, with text as text. Tables are better set as HTML."""
    rows = len(page.labels) * max(1, len(page.series) * 0.6) if isinstance(page, Bars) else 0
    rows = len(page.labels) if isinstance(page, Points) else rows
    height = min(40.0, max(2.2, 1.1 + 0.27 * rows)) if rows else 3.6
    text = io.StringIO()
    with style(9.0, small=True):
        # Without a ground of its own a chart suits light and dark pages.
        draw(page, 8.2, height, title=False).savefig(
            text, format="svg", metadata={"Date": None}, transparent=True
        )
    return text.getvalue()[text.getvalue().index("<svg") :]


def draw(page: Page, width: float, height: float, *, title: bool = True) -> Figure:
    """One page as a figure of ``width`` x ``height`` inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(_place(page, width, height, title=title))
    if title:
        axes.set_title(page.title, loc="left", pad=14, fontweight="bold")
    if isinstance(page, Bars):
        _draw_bars(axes, page)
    elif isinstance(page, Histogram):
        _draw_histogram(axes, page)
    elif isinstance(page, Points):
        _draw_points(axes, page)
    elif isinstance(page, Heat):
        _draw_heat(figure, axes, page)
    else:
        _draw_table(axes, page, width)
    return figure


def _place(page: Page, width: float, height: float, *, title: bool) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of the axes, as parts of the figure.

    Reckoned from the texts around them: matplotlib's own layouts draw everything twice to find it.
    """
    import matplotlib as mpl

    line = float(mpl.rcParams["font.size"]) / 72
    left, right, top, bottom = 0.3, 0.3, 0.25, 0.25
    top += 2.2 * line if title else 0.0
    if isinstance(page, Bars | Points):
        size = _fitting(height, len(page.labels) * (len(page.series) if isinstance(page, Bars) else 1)) / 72
        letters = max((min(len(label), _MOST_LETTERS) for label in page.labels), default=1)
        left += letters * 0.66 * min(size * 1.2, line) + 0.1
        bottom += 2.6 * line + (2.2 * line if isinstance(page, Bars) and len(page.series) > 1 else 0.0)
    elif not isinstance(page, Table):
        left += 4.6 * line
        bottom += 2.6 * line
        right += 1.5 * line if isinstance(page, Heat) else 0.0
    wide, high = max(width - left - right, 0.3 * width), max(height - top - bottom, 0.3 * height)
    return 1 - (wide + right) / width, bottom / height, wide / width, high / height


def _draw_bars(axes: Axes, page: Bars) -> None:
    count = len(page.series)
    thick = 0.8 / count
    place = np.arange(len(page.labels))
    top = max((max(values, default=0.0) for values in page.series.values()), default=0.0) or 1.0
    small = _text_size(axes, len(page.labels) * count)
    for i, (name, values) in enumerate(page.series.items()):
        at = place - 0.4 + thick * (i + 0.5)
        axes.barh(at, values, height=thick * 0.92, color=COLOURS[i % len(COLOURS)], label=name)
        for y, value in zip(at, values, strict=True):
            if count > 1 and not value:
                continue
            said = f"{value:,.{page.decimals}f}"
            axes.text(value + top * 0.008, y, said, va="center", fontsize=small, color=_INK)
    axes.set_yticks(
        place, [_short(label) for label in page.labels], fontsize=_text_size(axes, len(page.labels))
    )
    axes.set_ylim(_rows(axes, len(page.labels)) - 0.4, -0.6)
    axes.set_xlim(0, top * 1.12)
    axes.set_xlabel(page.unit)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    if count > 1:
        axes.get_figure(root=True).legend(loc="lower center", ncols=min(count, 4), frameon=False)  # type: ignore[union-attr]


def _draw_histogram(axes: Axes, page: Histogram) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    edges = np.array(page.edges)
    axes.bar(
        edges[:-1],
        page.values,
        width=np.diff(edges),
        align="edge",
        color=COLOURS[0],
        edgecolor="white",
        linewidth=0.6,
    )
    if page.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(page.axis)
    axes.set_ylabel(page.unit)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=not page.unit.startswith("%")))
    axes.grid(axis="y")


def _draw_points(axes: Axes, page: Points) -> None:
    place = np.arange(len(page.labels))
    axes.hlines(place, page.low, page.high, color=_PALE, linewidth=6, capstyle="round")
    axes.plot(page.values, place, "o", color=COLOURS[0])
    axes.set_yticks(
        place, [_short(label) for label in page.labels], fontsize=_text_size(axes, len(page.labels))
    )
    axes.set_ylim(_rows(axes, len(page.labels)) - 0.4, -0.6)
    if min(page.low, default=0) > 0:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        spread = max(page.high) / min(page.low)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if spread < 300 else (1.0,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(page.axis)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _draw_heat(figure: Figure, axes: Axes, page: Heat) -> None:
    picture = axes.imshow(
        page.values, extent=(0, 1, 1, 0), cmap="Blues", aspect="auto", interpolation="nearest"
    )
    axes.set_xlabel(page.axes[0])
    axes.set_ylabel(page.axes[1])
    axes.spines[:].set_visible(True)
    figure.colorbar(picture, ax=axes, label="boxes", shrink=0.8)


def _draw_table(axes: Axes, page: Table, width: float) -> None:
    axes.axis("off")
    if not page.rows:
        axes.text(0, 1, "none", va="top")
        return
    cells = [[_short(cell, 44) for cell in row] for row in page.rows]
    wide = [max(len(head), *(len(row[i]) for row in cells)) + 2 for i, head in enumerate(page.header)]
    # One text for a whole column: matplotlib's own tables take a second for a long one.
    whole = max(sum(wide), 60)
    size = min(_text_size(axes, 1.6 * (len(cells) + 1)), 105 * width / whole)
    ends = np.cumsum(wide) / whole
    for i, head in enumerate(page.header):
        right = all(_is_number(row[i]) for row in cells)
        x = ends[i] - 2 / whole if right else ends[i] - wide[i] / whole
        side = "right" if right else "left"
        axes.text(x, 0.965, head, fontsize=size, fontweight="bold", ha=side, va="bottom")
        column = "\n".join(row[i] for row in cells)
        axes.text(x, 0.95, column, fontsize=size, ha=side, va="top", multialignment=side, linespacing=1.6)
    axes.plot([0, ends[-1]], [0.958, 0.958], color=_INK, linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _broken(page: Page) -> list[Page]:
    """Long tables in parts that fit on a page."""
    if not isinstance(page, Table) or len(page.rows) <= _ROWS_ON_A_PAGE:
        return [page]
    starts = range(0, len(page.rows), _ROWS_ON_A_PAGE)
    return [
        Table(
            title=f"{page.title} ({i} of {len(starts)})",
            header=page.header,
            rows=page.rows[start : start + _ROWS_ON_A_PAGE],
        )
        for i, start in enumerate(starts, start=1)
    ]


def _rows(axes: Axes, rows: int) -> float:
    """Rows to leave room for, so that few bars do not grow fat."""
    return max(rows, 0.8 * axes.get_window_extent().height / axes.get_figure(root=True).dpi)  # type: ignore[union-attr]


def _text_size(axes: Axes, lines: float) -> float:
    """Points of a text of which ``lines`` fit below each other."""
    return _fitting(axes.get_window_extent().height / axes.get_figure(root=True).dpi, lines)  # type: ignore[union-attr]


def _fitting(inches: float, lines: float) -> float:
    import matplotlib as mpl

    room = 72 * inches / max(lines, 1)
    return float(max(4.0, min(mpl.rcParams["font.size"], room * 0.75)))


def _short(text: str, most: int = _MOST_LETTERS) -> str:
    # A dollar sign would begin a formula.
    return (
        textwrap.shorten(text, most, placeholder="…").replace("$", r"\$")
        if len(text) > most
        else text.replace("$", r"\$")
    )


def _is_number(text: str) -> bool:
    return text == "" or text.replace(",", "").replace(".", "").replace("%", "").lstrip("-").isdigit()


def _pdf_pages() -> Any:
    try:
        from matplotlib.backends.backend_pdf import PdfPages
    except ImportError as error:
        raise ConfigError("graphs need matplotlib: pip install 'dropmill[quality]'") from error
    return PdfPages


def style(inches: float, *, small: bool = False) -> Any:
    """The look of all charts, as a context; text fits a figure of ``inches``."""
    import matplotlib as mpl

    return mpl.rc_context(
        {
            "font.size": 9.0 if small else max(7.0, inches * 1.05),
            "font.family": "sans-serif",
            "svg.fonttype": "none",
            "svg.hashsalt": "dropmill",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "axes.edgecolor": _INK,
            "axes.axisbelow": True,
            "grid.color": _PALE,
            "grid.linewidth": 0.8,
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
        }
    )
