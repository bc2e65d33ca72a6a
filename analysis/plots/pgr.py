"""PGR against strong compute, and of every pair."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.estimates import methods_in_order
from analysis.plots.layout import grid, outer_labels, panels, slanted
from analysis.plots.marks import dodge, lines_by_supervisor
from analysis.plots.style import NO_GAP_COLOUR, in_order, luminance, style, supervisor_colour, wrapped, x_label

LIMITS = (-1.25, 2.25)
"""Of PGR axes at most: one pair far out would press all others together."""
_CELLS_WITH_INTERVALS = 7
"""Models on a side of a map up to which cells have room for intervals."""
_MAP_INCHES = 13.0
"""Width of a row of maps up to which three stand side by side."""


def plot_pgr(pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, caption: str) -> Figure:
    """PGR against strong compute: a panel per method that has any, a line per supervisor."""
    pairs, caption = _with_pgr(pairs, caption)
    methods = methods_in_order(pairs["method"])
    caption += " Lines: from the fitted curves of student and ceiling, where their band is narrower than 1; thin lines"
    caption += (
        " only connect points. Pairs without a gap have no PGR. Bars are cut at the frame; arrows are pairs beyond it."
    )
    with style():
        figure, axes = panels(
            "Performance gap recovered (PGR) against strong-model compute", caption, *grid(len(methods))
        )
        for ax, method in zip(axes.ravel(), methods, strict=False):
            pgr_panel(ax, method, pairs, ladder, curves)
        for ax in axes.ravel()[len(methods) :]:
            ax.set_axis_off()
        outer_labels(axes, len(methods), "PGR", x_label(ladder))
    return figure


def plot_pgr_map(pairs: pl.DataFrame, ladder: pl.DataFrame, caption: str) -> Figure:
    """Weak x strong map of PGR per method that has any, with the interval in each cell."""
    weak_models, strong_models = in_order(pairs, "weak", "weak_rung"), in_order(pairs, "strong", "strong_rung")
    pairs, caption = _with_pgr(pairs, caption)
    methods = methods_in_order(pairs["method"])
    numbers_only = max(len(strong_models), len(weak_models)) > _CELLS_WITH_INTERVALS
    across, down = (0.5, 0.36) if numbers_only else (0.85, 0.62)
    rows, columns = grid(len(methods))
    if columns > 2 and columns * (across * len(strong_models) + 0.6) > _MAP_INCHES:
        rows, columns = -(-len(methods) // 2), 2
    height = max(down * len(weak_models) + 0.75, 1.9)
    if numbers_only:
        caption += " Intervals are in tables/pairs.csv."
    with style():
        figure, axes = panels(
            "PGR of every pair",
            caption,
            rows,
            columns,
            panel_height=height,
            width=max(5.2, columns * (across * len(strong_models) + 0.6)),
            sharex=False,
            sharey=False,
        )
        colours = mpl.colormaps["YlGnBu"]
        for ax, method in zip(axes.ravel(), methods, strict=False):
            _pgr_map_panel(
                ax, pairs.filter(pl.col("method") == method), weak_models, strong_models, colours, numbers_only
            )
            ax.set_title(wrapped(method, max(18, int(9.5 * len(strong_models)))))
        for ax in axes[:, 0]:
            ax.set_ylabel("weak supervisor")
        for ax in axes.ravel()[len(methods) :]:
            ax.set_axis_off()
        scale = ScalarMappable(norm=Normalize(0, 1), cmap=colours)
        bar = figure.colorbar(scale, ax=axes.ravel().tolist(), shrink=0.8, pad=0.015, aspect=24)
        bar.set_label("PGR")
        bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def pgr_panel(
    ax: Axes, method: str, pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, *, bands: bool = True
) -> None:
    for level in (0, 1):
        ax.axhline(level, color="#999999", linewidth=0.9, linestyle="-" if level == 0 else (0, (4, 2)))
    lines_by_supervisor(ax, "pgr", method, pairs, ladder, curves, bands=bands)
    ax.set_title(wrapped(method, 38))
    low, high = pgr_limits(pairs)
    ax.set_ylim(low, high)
    for row in pairs.filter((pl.col("method") == method) & ~pl.col("pgr").is_between(low, high)).to_dicts():
        # Out of the frame: an arrow at its edge, with the number.
        edge, marker, above = (low, "v", 7) if row["pgr"] < low else (high, "^", -7)
        index = in_order(pairs, "weak", "weak_rung").index(row["weak"])
        colour = supervisor_colour(index, pairs["weak"].n_unique())
        x = row["strong_x"] * dodge(ladder, index, pairs["weak"].n_unique())
        ax.plot(x, edge, marker=marker, color=colour, markersize=6, linestyle="", clip_on=False, zorder=6)
        label = two_digits(row["pgr"])
        offset = {"xytext": (6, above), "textcoords": "offset points", "va": "center"}
        ax.annotate(label, (x, edge), **offset, fontsize=7.5, color=colour)


def _with_pgr(pairs: pl.DataFrame, caption: str) -> tuple[pl.DataFrame, str]:
    """Without the methods that have no PGR anywhere, which the caption then names; all of them if none has any."""
    methods = methods_in_order(pairs["method"])
    some = methods_in_order(pairs.filter(pl.col("pgr").is_not_null())["method"])
    if len(some) in (0, len(methods)):
        return pairs, caption
    without = ", ".join(method for method in methods if method not in some)
    return pairs.filter(pl.col("method").is_in(some)), f"{caption} Without a pair that has a gap: {without}."


def _pgr_map_panel(
    ax: Axes,
    rows: pl.DataFrame,
    weak_models: Sequence[str],
    strong_models: Sequence[str],
    colours: Colormap,
    numbers_only: bool,
) -> None:
    """`numbers_only`: without intervals, in smaller type."""
    for row in rows.iter_rows(named=True):
        x, y = strong_models.index(row["strong"]), weak_models.index(row["weak"])
        if row["pgr"] is None:
            ax.add_patch(
                Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, facecolor=NO_GAP_COLOUR, hatch="////", edgecolor="#c8c8c8", linewidth=0
                )
            )
            ax.text(x, y, "no gap", ha="center", va="center", fontsize=6 if numbers_only else 7.5, color="#555555")
            continue
        face = colours(float(np.clip(row["pgr"], 0, 1)))
        ink = "white" if luminance(face) < 0.45 else "#111111"
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.2))
        centred: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
        if numbers_only:
            ax.text(x, y, two_digits(row["pgr"]), **centred, fontsize=8)
            continue
        ax.text(x, y - 0.13, two_digits(row["pgr"]), **centred, fontsize=9.5, fontweight="bold")
        bounds = f"{two_digits(row['pgr_low'])} to {two_digits(row['pgr_high'])}"
        ax.text(x, y + 0.24, bounds, **centred, fontsize=6.8)
    ax.set_xlim(-0.5, len(strong_models) - 0.5)
    ax.set_ylim(len(weak_models) - 0.5, -0.5)
    ax.set_xticks(range(len(strong_models)), strong_models, **slanted(strong_models, 12))
    ax.set_yticks(range(len(weak_models)), weak_models)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlabel("strong student")


def pgr_limits(pairs: pl.DataFrame) -> tuple[float, float]:
    values = [value for value in pairs["pgr"] if value is not None]
    low, high = min(values, default=0) - 0.15, max(values, default=1) + 0.15
    return max(min(-0.1, low), LIMITS[0]), min(max(1.1, high), LIMITS[1])


def two_digits(value: float) -> str:
    """Never "-0.00"."""
    return f"{round(value, 2) + 0.0:.2f}"
