"""What is drawn inside a panel: points with bars, curves with bands, axes of compute, limits."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter, NullLocator

from analysis.estimates import is_oracle
from analysis.plots.layout import end_labels, slanted
from analysis.plots.style import in_order, supervisor_colour


def curve_or_line(
    ax: Axes,
    curve: pl.DataFrame,
    rows: pl.DataFrame,
    x: str,
    y: str,
    colour: str,
    *,
    band: bool = True,
    shift: float = 1.0,
) -> None:
    """The fitted curve with its band; where there is none, a thin line from point to point."""
    if curve.is_empty():
        ax.plot(rows[x].to_numpy() * shift, rows[y].to_numpy(), color=colour, linewidth=0.9, alpha=0.6)
        return
    curve = curve.sort("x")
    ax.plot(curve["x"], curve["y"], color=colour)
    if band:
        ax.fill_between(curve["x"], curve["y_low"], curve["y_high"], color=colour, alpha=0.1, linewidth=0)


def points(
    ax: Axes,
    x: np.ndarray,
    rows: pl.DataFrame,
    name: str,
    colour: str,
    *,
    marker: str = "o",
    size: float = 4.5,
    hollow: bool = False,
) -> None:
    """Estimates with their intervals. Hollow: of a method that looked at ground truth."""
    estimate, low, high = (rows[f"{name}{bound}"].to_numpy() for bound in ("", "_low", "_high"))
    ax.errorbar(
        x,
        estimate,
        yerr=arms(estimate, low, high),
        fmt=marker,
        color=colour,
        markerfacecolor="white" if hollow else colour,
        markersize=size,
        elinewidth=1.0,
        capsize=0,
        alpha=0.95,
    )


def arms(estimate: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Lengths of error bars; an estimate outside its own percentile interval gets an arm of 0."""
    return np.maximum(np.stack([estimate - low, high - estimate]), 0)


def compute_axis(ax: Axes, ladder: pl.DataFrame) -> None:
    """Log compute in powers of ten, or model names where compute and size are unknown."""
    ax.set_xscale("log")
    ticks = ladder.sort("rung")
    if ladder["x_axis"][0] == "rung":
        names = ticks["model"].to_list()
        ax.set_xticks(ticks["x"].to_numpy(), names, **slanted(names, 8))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        narrow = ticks["x"].to_numpy()[-1] / ticks["x"].to_numpy()[0] < 30  # too few powers of ten to label alone
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=8))
        ax.xaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    x = ticks["x"].to_numpy()
    pad = (x[-1] / x[0]) ** 0.06 if len(x) > 1 else 3.0
    ax.set_xlim(x[0] / pad, x[-1] * pad)


def dodge(ladder: pl.DataFrame, index: int, count: int) -> float:
    """Factor on x that sets bars of several series beside each other: 1 % of the axis each, less if they are many."""
    x = ladder["x"].to_numpy()
    span = np.log(x.max() / x.min()) if x.size > 1 else 1.0
    return float(np.exp(min(0.01, 0.05 / count) * span * (index - (count - 1) / 2)))


def accuracy_limits(pairs: pl.DataFrame, ladder: pl.DataFrame) -> tuple[float, float]:
    """Of an accuracy axis."""
    supervisors = bar_limits([ladder.filter(pl.col("supervisor_acc").is_not_null())], "supervisor_acc")
    students = bar_limits([pairs], "student_acc")
    ceilings = bar_limits([ladder.filter(pl.col("ceiling_acc").is_not_null())], "ceiling_acc")
    low, high = zip(supervisors, students, ceilings, strict=True)
    return min(low), min(max(high), 1.005)


def bar_limits(frames: Sequence[pl.DataFrame], quantity: str) -> tuple[float, float]:
    """Limits that show the bars, unless a few of them would dwarf the differences between points."""
    estimates, lows, highs = (
        [value for frame in frames for value in frame[f"{quantity}{bound}"] if value is not None]
        for bound in ("", "_low", "_high")
    )
    low, high = min(estimates, default=0), max(estimates, default=1)
    room = 0.35 * (high - low) + 0.04
    pad = 0.04 * (high - low) + 0.005
    return max(min(lows, default=low), low - room) - pad, min(max(highs, default=high), high + room) + pad


def lines_by_supervisor(
    ax: Axes,
    quantity: str,
    method: str,
    pairs: pl.DataFrame,
    ladder: pl.DataFrame,
    curves: pl.DataFrame,
    *,
    bands: bool = True,
) -> None:
    """Points with bars and a line per supervisor, each labelled at its right end."""
    models = in_order(pairs, "weak", "weak_rung")
    ends: list[tuple[float, str, str]] = []
    for index, weak in enumerate(models):
        rows = pairs.filter(
            (pl.col("weak") == weak) & (pl.col("method") == method) & pl.col(quantity).is_not_null()
        ).sort("strong_x")
        if rows.is_empty():
            continue
        colour = supervisor_colour(index, len(models))
        fitted = curves.filter(
            (pl.col("quantity") == quantity) & (pl.col("method") == method) & (pl.col("weak") == weak)
        )
        shift = dodge(ladder, index, len(models))
        curve_or_line(ax, fitted, rows, "strong_x", quantity, colour, band=bands and len(models) <= 6, shift=shift)
        points(ax, rows["strong_x"].to_numpy() * shift, rows, quantity, colour, hollow=is_oracle(method))
        ends.append((float(rows[quantity][-1]), weak, colour))
    compute_axis(ax, ladder.filter(pl.col("model").is_in(pairs["strong"].unique().implode())))
    end_labels(ax, ends)
