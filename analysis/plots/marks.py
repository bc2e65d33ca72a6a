"""What is drawn inside a panel: points with bars, curves with bands, axes of compute, limits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogFormatterSciNotation, LogLocator, NullFormatter, NullLocator

from analysis.estimates import is_oracle
from analysis.plots.layout import end_labels, slanted
from analysis.plots.style import MAX_BANDS, in_order, supervisor_colour

_TICK_DISTANCE = 0.19
"""Between labels of powers of ten, as a share of the axis: what the widest label needs in the narrowest panel."""
_MINOR_DECADES = 4.5
_DODGE, _DODGE_ALL = 0.018, 0.075
ORACLE_LINE = (0, (1, 1.2))
"""Dots: the line of a method that looked at ground truth."""


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
    faint: bool = False,
    oracle: bool = False,
) -> None:
    """The fitted curve with its band; where there is none, a thin line from point to point. Dotted: of a method that
    looked at ground truth."""
    look: dict[str, Any] = {"color": colour, "linestyle": ORACLE_LINE if oracle else "-"}
    if curve.is_empty():
        ax.plot(rows[x].to_numpy() * shift, rows[y].to_numpy(), **look, linewidth=0.9, alpha=0.6)
        return
    curve = curve.sort("x")
    ax.plot(curve["x"], curve["y"], **look)
    if band:
        ax.fill_between(
            curve["x"], curve["y_low"], curve["y_high"], color=colour, alpha=0.05 if faint else 0.1, linewidth=0
        )


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
        low, high = _x_limits(ticks["x"].to_numpy())
        ax.xaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
        ax.xaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
        # Over many decades the ticks between them would be a grey edge, and each is slow to draw.
        fine = high / low < 10**_MINOR_DECADES
        ax.xaxis.set_minor_locator(FixedLocator(minor_ticks(low, high)) if fine else LogLocator(numticks=99))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(*_x_limits(ticks["x"].to_numpy()))


def _x_limits(x: np.ndarray) -> tuple[float, float]:
    """Around ascending positions on a log axis."""
    pad = max((x[-1] / x[0]) ** 0.08, 1.02) if len(x) > 1 else 3.0
    return float(x[0] / pad), float(x[-1] * pad)


def log_ticks(low: float, high: float) -> list[float]:
    """Values to label on a log axis: powers of ten, and where there are fewer than three also 5, 2, 3, 7, ... times
    them, as far as the labels have room."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    chosen: list[float] = []
    for digit in (1, 5, 2, 3, 7, 4, 6, 8, 9):
        if digit > 1 and len(chosen) >= 3:
            break
        for exponent in decades:
            value = digit * 10.0**exponent
            room = _TICK_DISTANCE * np.log(high / low)
            if low <= value <= high and all(abs(np.log(value / other)) >= room for other in chosen):
                chosen.append(value)
    return sorted(chosen) or [float(np.sqrt(low * high))]


def minor_ticks(low: float, high: float) -> list[float]:
    """1, 2, ... 9 times the powers of ten of a log axis; over less than a third of a decade also tenths of these."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    digits = np.arange(1, 10) if high / low > 2 else np.arange(10, 100) / 10
    ticks = [float(digit * 10.0**exponent) for exponent in decades for digit in digits]
    return [tick for tick in ticks if low <= tick <= high]


def dodge(ladder: pl.DataFrame, index: int, count: int) -> float:
    """Factor on x that sets bars of several series beside each other: some percent of the axis each, less if they are
    many or the models close."""
    x = np.sort(ladder["x"].to_numpy())
    if x.size < 2:
        return float(np.exp(0.02 * (index - (count - 1) / 2)))
    steps = np.diff(np.log(x))
    span, closest = float(steps.sum()), float(steps[steps > 0].min(initial=np.inf))
    step = min(_DODGE * span, _DODGE_ALL * span / count, 0.6 * closest / count)
    return float(np.exp(step * (index - (count - 1) / 2)))


def nothing_here(ax: Axes, words: str) -> None:
    """In place of points, in the middle of a panel that has none."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 3.0}  # so that no line runs through the words
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", fontsize=9, color="#777777", bbox=box)


def at_least(limits: tuple[float, float], span: float) -> tuple[float, float]:
    """Limits widened to some span, so that rounding errors about equal values do not fill a frame."""
    low, high = limits
    more = max(0.0, span - (high - low)) / 2
    return low - more, high + more


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


def most_bars(frame: pl.DataFrame, quantity: str) -> tuple[float, float]:
    """Limits that hold all estimates, zero and four bars of five; longer ones, as two seeds give, run out of the frame
    where they would be more than twice as long as these."""
    rows = frame.filter(pl.col(quantity).is_not_null())
    estimates, lows, highs = (rows[f"{quantity}{bound}"].to_numpy() for bound in ("", "_low", "_high"))
    low, high = float(np.quantile(lows, 0.1)), float(np.quantile(highs, 0.9))
    span = high - low
    return min(low - span, float(estimates.min()), 0.0) - 0.02, max(high + span, float(estimates.max()), 0.0) + 0.02


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
        if quantity == "pgr":
            fitted = told(fitted)
        band, oracle = bands and len(models) <= MAX_BANDS, is_oracle(method)
        look: dict[str, Any] = {"shift": shift, "faint": len(models) > 1, "oracle": oracle}
        curve_or_line(ax, fitted, rows, "strong_x", quantity, colour, band=band, **look)
        points(ax, rows["strong_x"].to_numpy() * shift, rows, quantity, colour, hollow=oracle)
        ends.append((float(rows[quantity][-1]), weak, colour))
    compute_axis(ax, ladder.filter(pl.col("model").is_in(pairs["strong"].unique().implode())))
    if ends:
        end_labels(ax, ends)
    else:
        nothing_here(ax, "no pair with a gap" if quantity == "pgr" else "no pair")


def told(curve: pl.DataFrame) -> pl.DataFrame:
    """The part of a derived PGR curve that says something: where its band is narrower than the whole gap. Towards its
    ends, where supervisor and ceiling come close, the ratio shoots off between points that do not."""
    kept = curve.filter(pl.col("y_high") - pl.col("y_low") < 1)
    return kept if kept.height > 1 else curve.clear()
