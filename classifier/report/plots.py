"""The two plots of a report, as SVG texts; `width` is in inches, and the letters keep their size."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, QUIET, GRID = "#1f2933", "#616e7c", "#e4e7eb"
CHEAP_COLOUR, EXTRA_COLOUR = "#52606d", "#0b7285"
WIDE, NARROW = 9.6, 4.4
ZONES = {"helped": "#2b8a3e", "not": "#c92a2a"}


def arms_plot(report: dict[str, Any], width: float = WIDE) -> str:
    """Macro-F1 of each arm with its interval, and every seed as a faint mark."""
    arms = report["arms"]
    figure, axes = _figure(len(arms), width)
    for row, (name, arm) in enumerate(arms.items()):
        value = arm["macro_f1"]
        colour = EXTRA_COLOUR if name in ("gan", "full-data") else CHEAP_COLOUR
        axes.plot(value["by_seed"], [row] * len(value["by_seed"]), "|", color=colour, alpha=0.45, ms=9)
        axes.plot(value["ci"], [row, row], color=colour, lw=2, solid_capstyle="butt")
        axes.plot(value["mean"], row, "o", color=colour, ms=7)
    _label_rows(axes, list(arms))
    axes.set_xlabel("macro-F1 on the test split")
    return _svg(figure)


def primary_plot(report: dict[str, Any], width: float = WIDE) -> str:
    """The differences that bear on the conclusion, with the margin: the primary contrast first."""
    primary = report["conclusion"]["primary"]
    rows = [primary] + [
        pair
        for pair in report["paired"]
        if "gan" in (pair["a"], pair["b"]) and (pair["a"], pair["b"]) != (primary["a"], primary["b"])
    ]
    figure, axes = _figure(len(rows), width)
    margin = primary["margin"]
    reach = 1.1 * max(abs(edge) for row in rows for edge in (*row["ci"], 2 * margin))
    axes.set_xlim(-reach, reach)
    axes.axvspan(margin, reach, color=ZONES["helped"], alpha=0.07, lw=0)
    axes.axvline(margin, color=ZONES["helped"], lw=1, ls=(0, (4, 3)))
    axes.axvline(0, color=QUIET, lw=1)
    for i, row in enumerate(rows):
        colour = INK if i == 0 else "#9aa5b1"
        axes.plot(row["ci"], [i, i], color=colour, lw=3 if i == 0 else 1.5, solid_capstyle="butt")
        axes.plot(row["delta"], i, "o", color=colour, ms=8 if i == 0 else 5)
    _label_rows(axes, [f"{row['a']} − {row['b']}" for row in rows])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_xlabel("difference of macro-F1")
    return _svg(figure)


def _figure(rows: int, width: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 0.95 + 0.38 * rows), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.xaxis.label.set(color=QUIET, fontsize=9)
    return figure, axes


def _label_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "hemabalance"}):  # the same report, the same bytes
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()
