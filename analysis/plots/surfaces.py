"""Surfaces fitted to any table: lines of equal value over both variables, and what is left between fit and points.

Filled points were fitted, hollow ones held out. The dotted box is the range
of the points fitted, where some were held out.
"""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from analysis.plots.layout import panels
from analysis.plots.marks import nothing_here
from analysis.plots.scaling import x_axis
from analysis.plots.style import METHOD_COLOURS, style, wrapped

if TYPE_CHECKING:
    from analysis.scaling.surfaces import Surface, Surfaces

MAX_SURFACES = 8
_LINES, _GRID = 8, 60
_MARK = "#8a8a8a"
_FITTED, _HELD_OUT = METHOD_COLOURS[0], METHOD_COLOURS[1]


def plot_surfaces(surfaces: "Surfaces") -> Figure:
    """Two panels per surface: lines of equal value with the points, and residuals by scale (the product of both x)."""
    shown = surfaces.each[:MAX_SURFACES]
    rows = max(len(shown), 1)
    with style():
        figure, axes = panels(
            wrapped(f"{surfaces.y} over {surfaces.x[0]} and {surfaces.x[1]}", 100),
            _caption(surfaces),
            rows,
            2,
            panel_height=3.4,
            sharex=False,
            sharey=False,
            legend=_legend(surfaces),
        )
        for (left, right), surface in zip(axes, shown, strict=False):
            left.set_title(wrapped(surface.label, 60))
            _draw_lines(left, surfaces, surface)
            _draw_residuals(right, surfaces, surface)
    return figure


def _draw_lines(ax: Axes, surfaces: "Surfaces", surface: "Surface") -> None:
    points, held_out = surface.points, surface.held_out
    if points is None:
        nothing_here(ax, "not fitted")
        return
    every = points.x if held_out is None else np.concatenate([points.x, held_out.x])
    lows, highs = every.min(axis=0), every.max(axis=0)
    pads = np.maximum((highs / lows) ** 0.05, 1.02)
    ax.set_xscale("log")
    ax.set_yscale("log")
    if surface.fitted is not None:
        first, second = (np.geomspace(lows[i] / pads[i], highs[i] * pads[i], _GRID) for i in range(2))
        mesh = np.meshgrid(first, second)
        value = surface.fitted.at(np.column_stack([m.ravel() for m in mesh])).reshape(mesh[0].shape)
        if np.ptp(value) > 0:
            # Even steps of log value crowd near the floor as the surface does.
            levels = np.geomspace(value.min(), value.max(), _LINES + 2) if value.min() > 0 else None
            levels = np.linspace(value.min(), value.max(), _LINES + 2) if levels is None else levels
            lines = ax.contour(*mesh, value, levels=levels[1:-1], colors=_MARK, linewidths=0.8, linestyles="solid")
            ax.clabel(lines, fmt=lambda v: f"{v:.3g}", fontsize=7)
    if held_out is not None:
        low, size = points.x.min(axis=0), np.ptp(points.x, axis=0)
        ax.add_patch(Rectangle(tuple(low), *size, fill=False, linestyle=(0, (1, 1.5)), linewidth=0.9, color=_MARK))
    _scatter(ax, points.x[:, 0], points.x[:, 1], held_out=False)
    if held_out is not None:
        _scatter(ax, held_out.x[:, 0], held_out.x[:, 1], held_out=True)
    x_axis(ax, lows[0], highs[0])
    ax.set_ylim(lows[1] / pads[1], highs[1] * pads[1])
    ax.set_xlabel(f"{surfaces.x[0]} (log)")
    ax.set_ylabel(f"{surfaces.x[1]} (log)")


def _draw_residuals(ax: Axes, surfaces: "Surfaces", surface: "Surface") -> None:
    fit, points, held_out = surface.fitted, surface.points, surface.held_out
    if fit is None or points is None:
        nothing_here(ax, wrapped(surface.refusal, 46))
        return
    relative = bool(np.all(points.y > 0))
    scales = []
    for part in (points, held_out):
        if part is None:
            continue
        predicted = fit.at(part.x)
        left = part.y / predicted - 1 if relative else part.y - predicted
        scale = part.x[:, 0] * part.x[:, 1]
        scales.append(scale)
        _scatter(ax, scale, left, held_out=part is held_out)
    ax.axhline(0, color=_MARK, linewidth=0.9)
    ax.set_xscale("log")
    every = np.concatenate(scales)
    x_axis(ax, float(every.min()), float(every.max()))
    if relative:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.3g} %"))
    ax.set_xlabel(f"{surfaces.x[0]} × {surfaces.x[1]} (log)")
    ax.set_ylabel("observed over predicted, less 1" if relative else "observed minus predicted")


def _scatter(ax: Axes, x: np.ndarray, y: np.ndarray, *, held_out: bool) -> None:
    colour = _HELD_OUT if held_out else _FITTED
    size = 4.0 if x.size <= 60 else 2.6
    face = "white" if held_out else colour
    ax.plot(x, y, linestyle="", marker="o", markersize=size, color=colour, markerfacecolor=face, alpha=0.85, zorder=3)


def _legend(surfaces: "Surfaces") -> list[Line2D]:
    handles = [Line2D([], [], color=_FITTED, marker="o", linestyle="", label="fitted")]
    if any(surface.held_out is not None for surface in surfaces):
        look = {"color": _HELD_OUT, "marker": "o", "markerfacecolor": "white"}
        handles.append(Line2D([], [], **look, linestyle="", label="held out"))  # type: ignore[arg-type]
        handles.append(Line2D([], [], color=_MARK, linestyle=(0, (1, 1.5)), label="range fitted"))
    return [*handles, Line2D([], [], color=_MARK, label=f"equal {surfaces.y}, as fitted")]


def _caption(surfaces: "Surfaces") -> str:
    parts = []
    for row in surfaces.summary.head(MAX_SURFACES).iter_rows(named=True):
        name = ", ".join(str(row[key]) for key in tuple(surfaces.keys))
        start = f"{name}: " if name else ""
        if row["family"] is None:
            parts.append(f"{start}not fitted, {row['diagnosis']}.")
            continue
        text = f"{start}{row['family']} on {row['n_points']} points, RMSLE {_error(row['rmsle_fitted'])}"
        if row["n_held_out"]:
            text += (
                f"; {row['n_held_out']} held out: RMSLE {_error(row['rmsle'])} (nearest point "
                f"{_error(row['rmsle_nearest'])}, plane of logarithms {_error(row['rmsle_plane'])})"
            )
            if row["inside_95"] is not None:
                text += f", {row['inside_95']} inside the 95 % interval"
        parts.append(text + ".")
    if len(surfaces) > MAX_SURFACES:
        parts.append(f"The first {MAX_SURFACES} of {len(surfaces)} surfaces are shown.")
    return " ".join(parts)


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
