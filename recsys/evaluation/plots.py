"""The report's plots: SVG pictures as `data:` URLs that follow the reader's light or dark scheme.

Reads results in memory; writes nothing. The page draws the legends, by `style_of`.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from recsys.evaluation.evaluation import Slice, System
from recsys.tables import SemanticIds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders that the picture's own style sheet replaces, one value for each scheme.
INK, GRID = "#010203", "#040506"
SCHEMES = (
    "<style>svg{--ink:#5a6068;--grid:#e4e5e1}"
    "@media (prefers-color-scheme:dark){svg{--ink:#a3a9b1;--grid:#33373d}}</style>"
)
WIDTH = 3.7  # inches; about the width of a phone, so that text stays readable
SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "font.size": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "recsys",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Style(NamedTuple):
    """How a system looks in every plot; `glyph` is the plot's marker as a character."""

    color: str
    marker: str
    glyph: str


STYLES = (
    Style("#8b9098", "o", "●"),
    Style("#c58a35", "s", "■"),
    Style("#4d86b8", "^", "▲"),
    Style("#c0566f", "D", "◆"),
    Style("#4b9a7c", "v", "▼"),
    Style("#8877bd", "P", "✚"),
    Style("#3f9aa5", "X", "✖"),
    Style("#9a7b5c", "<", "◀"),
    Style("#d4653b", "*", "★"),
)


class Curve(NamedTuple):
    """A metric over the steps of training."""

    steps: list[int]
    values: list[float]


def style_of(systems: Sequence[str]) -> dict[str, Style]:
    """The style of each system, by its position in the report."""
    styles, count = {}, len(STYLES)
    for position, name in enumerate(systems):
        marked = STYLES[(position + position // count) % count]  # where colours repeat, the marks differ
        styles[name] = marked._replace(color=STYLES[position % count].color)
    return styles


def metric_by_cutoff(systems: Mapping[str, System], cutoffs: Sequence[int], metric: str) -> str:
    """One line a system over the cutoffs, its interval as a band."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _canvas(2.5)
        for name, style in style_of(list(systems)).items():
            estimates = [systems[name].metrics[f"{metric}@{k}"] for k in cutoffs]
            places = range(len(estimates))
            axes.fill_between(
                places, [e.low for e in estimates], [e.high for e in estimates], color=style.color, alpha=0.18, lw=0
            )
            axes.plot(places, [e.value for e in estimates], color=style.color, marker=style.marker, ms=4.5, lw=1.6)
        axes.set_xticks(range(len(cutoffs)), [str(k) for k in cutoffs])
        axes.set_xlabel("list length k")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        return _data_url(figure)


def slice_dots(rows: Sequence[Slice], metric: str) -> str:
    """One line a group of users, one mark a system."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _canvas(0.75 + 0.3 * len(rows))
        for name, style in style_of(list(rows[0].values)).items():
            values = [row.values[name][metric] or 0.0 for row in rows]
            axes.plot(values, range(len(rows)), ls="", color=style.color, marker=style.marker, ms=5.5, clip_on=False)
        axes.set_yticks(range(len(rows)), [_short(row.label) for row in rows], parse_math=False)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        best = max(value or 0.0 for row in rows for value in (v[metric] for v in row.values.values()))
        axes.set_xlim(left=-0.04 * best, right=1.06 * best or 1)
        axes.set_xlabel(metric.upper())
        axes.grid()
        axes.tick_params(length=0)
        return _data_url(figure)


def popularity_lift(systems: Mapping[str, System]) -> str | None:
    """Each system's popularity lift as a bar from 1 (as popular as the histories), in powers of 2; None without any."""
    lifts = {name: system.beyond.popularity_lift for name, system in systems.items()}
    styles = style_of(list(lifts))
    shown = {name: lift for name, lift in lifts.items() if lift}
    if not shown:
        return None
    with mpl.rc_context(SETTINGS):
        figure, axes = _canvas(0.75 + 0.3 * len(shown))
        for row, (name, lift) in enumerate(shown.items()):
            axes.barh(row, np.log2(lift), height=0.5, color=styles[name].color)
        powers = [0.0, *(float(np.log2(lift)) for lift in shown.values())]
        low, high = math.floor(min(powers)), math.ceil(max(powers))
        axes.set_xticks(range(low, high + 1), [f"{2.0**power:g}×" for power in range(low, high + 1)])
        axes.set_xlim(low - 0.1, high + 0.1)
        axes.set_yticks(range(len(shown)), list(shown), parse_math=False)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_xlabel("lists’ popularity over the histories’")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        return _data_url(figure)


def token_usage(semantic_ids: SemanticIds) -> str:
    """Items of each code of each level, in descending order; deeper levels are fainter."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _canvas(2.5)
        for level in range(semantic_ids.num_levels):
            load = np.sort(np.bincount(semantic_ids.codes[:, level], minlength=semantic_ids.num_codes))[::-1]
            strength = 1 - 0.7 * level / max(1, semantic_ids.num_levels - 1)
            label, color = f"level {level + 1}", STYLES[2].color
            axes.plot(np.arange(1, len(load) + 1), load, color=color, alpha=strength, lw=1.6, label=label)
        axes.legend(frameon=False, loc="upper right")
        axes.axhline(len(semantic_ids) / semantic_ids.num_codes, color=INK, lw=0.8, ls=(0, (4, 3)))
        axes.set_xlabel("codes of a level by number of items (dashed: uniform)")
        axes.set_ylabel("items")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        return _data_url(figure)


def training_curve(curve: Curve) -> str:
    """One metric over the steps of a training; markers where there are few points."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _canvas(2)
        marker = "o" if len(curve.steps) < 30 else ""
        axes.plot(curve.steps, curve.values, color=STYLES[2].color, lw=1.5, marker=marker, ms=3.5)
        axes.set_xlabel("step")
        axes.grid(axis="y")
        return _data_url(figure)


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes


def _short(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _data_url(figure: Figure) -> str:
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    file = io.StringIO()
    with warnings.catch_warnings():
        # Text is drawn with the reader's fonts; matplotlib only measures its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    head, tag, rest = file.getvalue().partition("<svg")
    attributes, end, body = rest.partition(">")
    picture = tag + attributes + end + SCHEMES + body
    for stand_in, variable in ((INK, "var(--ink)"), (GRID, "var(--grid)"), ("'DejaVu Sans'", "system-ui")):
        picture = picture.replace(stand_in, variable)
    return "data:image/svg+xml;base64," + base64.b64encode((head + picture).encode()).decode()
