"""Curves fitted to any table: points, curve, bands, and how far beyond the points the curve goes.

Filled points were fitted, hollow ones held out. A line is solid where there are fitted points and dashed beyond them.
Bands are those of the curve; the thin bar through a held-out point is the 95 % interval in which a new observation was
expected there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from analysis.plots.layout import end_labels, outer_labels, panels
from analysis.plots.marks import log_ticks, nothing_here
from analysis.plots.style import METHOD_COLOURS, style, supervisor_colour, wrapped

if TYPE_CHECKING:
    from analysis.scaling.tables import Curve, Fits

MAX_TOGETHER = 9
"""Curves drawn in one panel; more get a panel each."""
MAX_PANELS = 24
_MAX_FULL_BANDS = 3
_BAND_ALPHAS = {95: 0.10, 80: 0.12, 50: 0.16}
_BEYOND = (0, (4, 2))
_MARK = "#8a8a8a"
_LOG_Y_FROM = 20.0
"""Ratio of the largest to the smallest value from which y is drawn on a log axis."""
_NAMED = 4
"""Curves that a caption names."""
_LONGEST_NAME = 28
"""Characters of a name beside a curve."""


def plot_curves(fits: "Fits", *, to: float | None = None) -> Figure:
    """All curves of some fits: together in one panel, or each in a small one when they are more than 9.

    Args:
        fits: Fitted curves; refused ones are counted in the caption.
        to: Draw curves up to this x.
    """
    drawn = [curve for curve in fits if curve.points is not None]
    together = len(drawn) <= MAX_TOGETHER
    shown = drawn if together else drawn[:MAX_PANELS]
    columns = 1 if together else min(4, -(-len(shown) // 2))
    rows = 1 if together else -(-len(shown) // columns)
    caption = _caption(fits, shown, len(drawn), together, to)
    title = wrapped(f"{fits.y} against {fits.x}", 60 if together else 120)
    with style():
        figure, axes = panels(
            title,
            caption,
            rows,
            columns,
            width=8.4 if together else None,
            panel_height=4.4 if together else 2.3,
            sharex=False,
            sharey=False,
            legend=_legend(shown, to),
        )
        flat = axes.ravel()
        if together:
            _draw(flat[0], shown, to, together=True)
            flat[0].set_xlabel(f"{fits.x} (log)")
            flat[0].set_ylabel(fits.y)
            if len(shown) > 1:
                end_labels(flat[0], _ends(shown, to))
        else:
            for ax, curve in zip(flat, shown, strict=False):
                _draw(ax, [curve], to, together=False)
                ax.set_title(wrapped(_short(curve), 34), fontsize=8)
                if curve.forecast is None:
                    nothing_here(ax, "not fitted")
            outer_labels(axes, len(shown), fits.y, f"{fits.x} (log)")
        for ax in flat[1 if together else len(shown) :]:
            ax.set_axis_off()
    return figure


def draw_curves(ax: Axes, fits: "Fits", *, to: float | None = None) -> Axes:
    """All curves of some fits into one panel, named in a legend if there are several."""
    curves = [curve for curve in fits if curve.points is not None]
    _draw(ax, curves, to, together=True)
    ax.set_xlabel(f"{fits.x} (log)")
    ax.set_ylabel(fits.y)
    if len(curves) > 1:
        handles = [
            Line2D([], [], color=colour, label=_short(c)) for c, colour in zip(curves, _colours(curves), strict=True)
        ]
        ax.legend(handles=handles)
    return ax


def _draw(ax: Axes, curves: Sequence["Curve"], to: float | None, *, together: bool) -> None:
    if not curves:
        nothing_here(ax, "no curve could be fitted")
        return
    ax.set_xscale("log")
    for curve, colour in zip(curves, _colours(curves), strict=True):
        percents = (95, 80, 50) if len(curves) <= _MAX_FULL_BANDS else (95,)
        _draw_curve(ax, curve, colour, to, percents)
    lows, highs = zip(*(_x_range(curve, to) for curve in curves), strict=True)
    x_axis(ax, min(lows), max(highs))
    _y_axis(ax, curves)
    _mark_largest(ax, curves, max(highs), words=together)


def _draw_curve(ax: Axes, curve: "Curve", colour: str, to: float | None, percents: Sequence[int]) -> None:
    assert curve.points is not None
    size = 4.5 if len(curve.points) <= 40 else 3.0
    if curve.forecast is not None:
        line = curve.line(to)
        x, largest = line["x"].to_numpy(), float(curve.points.x.max())
        for p in percents:
            low, high = line[f"y_low_{p}"].to_numpy(), line[f"y_high_{p}"].to_numpy()
            ax.fill_between(x, low, high, color=colour, alpha=_BAND_ALPHAS[p], linewidth=0)
        inside = x <= largest * (1 + 1e-9)
        ax.plot(x[inside], line["y"].to_numpy()[inside], color=colour)
        beyond = ~inside
        beyond[max(int(inside.sum()) - 1, 0)] = True  # so that the dashes begin where the line ends
        ax.plot(x[beyond], line["y"].to_numpy()[beyond], color=colour, linestyle=_BEYOND)
    look: dict[str, Any] = {"color": colour, "linestyle": "", "marker": "o", "markersize": size, "zorder": 3}
    ax.plot(curve.points.x[:, 0], curve.points.y, **look, alpha=0.9)
    if curve.held_out is None:
        return
    tests = curve.tested().drop_nulls(["y_low_95", "y_high_95"])
    if tests.height:
        ax.vlines(tests["x"], tests["y_low_95"], tests["y_high_95"], color=colour, linewidth=0.8, alpha=0.8)
    ax.plot(curve.held_out.x[:, 0], curve.held_out.y, **look, markerfacecolor="white")


def _mark_largest(ax: Axes, curves: Sequence["Curve"], high: float, *, words: bool) -> None:
    """A line at the largest x fitted, where all curves end at one, and how far beyond it the axis goes."""
    largest = {float(curve.points.x.max()) for curve in curves if curve.points is not None}
    if high <= min(largest) * (1 + 1e-9):
        return
    if len(largest) == 1:
        ax.axvline(next(iter(largest)), color=_MARK, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=1)
    reach = _multiple(high / max(largest))
    text = f"to {reach} the largest x fitted" if words else f"to {reach}"
    ax.text(1.0, 1.01, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=8, color=_MARK)


def _multiple(ratio: float) -> str:
    return f"{ratio:.2g} ×" if ratio < 100 else f"{ratio:,.0f} ×"


def x_axis(ax: Axes, low: float, high: float) -> None:
    """A log axis around `low` to `high` with readable labels: plain numbers up to 10,000, powers of ten beyond."""
    pad = max((high / low) ** 0.05, 1.02)
    ax.set_xlim(low / pad, high * pad)
    ax.xaxis.set_major_locator(FixedLocator(log_ticks(low / pad, high * pad)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    ax.xaxis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=12))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _number(value: float) -> str:
    if 0.01 <= value < 99_999.5:
        return f"{value:,.6g}"
    exponent = int(np.floor(np.log10(value) + 1e-9))
    digits = f"{value / 10.0**exponent:.3g}"
    return rf"$10^{{{exponent}}}$" if digits == "1" else rf"${digits} \times 10^{{{exponent}}}$"


def _y_axis(ax: Axes, curves: Sequence["Curve"]) -> None:
    """Limits that show the points and the curve, even where bands are far wider; log where values span decades."""
    values = np.concatenate(
        [points.y for curve in curves for points in (curve.points, curve.held_out) if points is not None]
    )
    if values.min() > 0 and values.max() / values.min() > _LOG_Y_FROM:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
        ax.set_ylim(values.min() / 1.6, values.max() * 1.6)
        return
    low, high = ax.get_ylim()
    room = 0.6 * max(float(np.ptp(values)), 1e-3 * max(abs(float(values.max())), 1e-9))
    ax.set_ylim(max(low, float(values.min()) - room), min(high, float(values.max()) + room))


def _x_range(curve: "Curve", to: float | None) -> tuple[float, float]:
    assert curve.points is not None
    x = [curve.points.x, *([curve.held_out.x] if curve.held_out is not None else [])]
    return min(float(v.min()) for v in x), max(*(float(v.max()) for v in x), to or 0.0)


def _colours(curves: Sequence["Curve"]) -> list[str]:
    """Distinct for a few names; from dark to light where curves are ordered by a number, or are many."""
    ordered = len(curves) > 2 and all(len(c.key) == 1 and isinstance(c.key[0], (int, float)) for c in curves)
    if len(curves) > len(METHOD_COLOURS) or ordered:
        return [supervisor_colour(index, len(curves)) for index in range(len(curves))]
    return list(METHOD_COLOURS[: len(curves)])


def _short(curve: "Curve") -> str:
    return curve.label.split("=", 1)[1] if len(curve.key) == 1 else curve.label


def _ends(curves: Sequence["Curve"], to: float | None) -> list[tuple[float, str, str]]:
    """Where each line ends at the right, its name and colour."""
    ends = []
    for curve, colour in zip(curves, _colours(curves), strict=True):
        assert curve.points is not None
        y = float(curve.points.y[-1]) if curve.forecast is None else float(curve.line(to, size=2)["y"][-1])
        ends.append((y, _values(curve), colour))
    return ends


def _legend(curves: Sequence["Curve"], to: float | None) -> list[Line2D]:
    black: dict[str, Any] = {"color": "#555555"}
    handles = [Line2D([], [], **black, marker="o", linestyle="", label="fitted")]
    if any(curve.held_out is not None for curve in curves):
        handles.append(Line2D([], [], **black, marker="o", linestyle="", markerfacecolor="white", label="held out"))
    handles.append(Line2D([], [], **black, label="curve"))
    if to is not None or any(curve.held_out is not None for curve in curves):
        handles.append(Line2D([], [], **black, linestyle=_BEYOND, label="beyond the points fitted"))
    return handles


def _caption(fits: "Fits", shown: Sequence["Curve"], drawn: int, together: bool, to: float | None) -> str:
    """Families, errors where it was tested, bands, and what is not shown."""
    table = fits.curves
    losses = " or ".join(table["loss"].drop_nulls().unique().sort())
    parts = [f"{int(table['n_points'].sum()):,} points fitted; minimised: {losses or 'nothing'}."]
    if len(fits) == 1 and fits[0].forecast is not None:
        if len(fits[0].forecast.members) > 1:
            parts.append(f"Curve within the points: mixture of {fits[0].weights_inside}.")
        parts.append(f"Beyond the points: {fits[0].weights}.")
    else:
        families = table.drop_nulls("family").group_by("family").len().sort("len", "family", descending=[True, False])
        mixed = any(curve.forecast is not None and len(curve.forecast.members) > 1 for curve in fits)
        what = "Curves are mixtures; family of the largest weight: " if mixed else "Families: "
        parts.append(what + ", ".join(f"{family} {count}" for family, count in families.iter_rows()) + ".")
    tested = table.filter(pl.col("rmsle").is_not_null())
    if tested.height:
        own, last, line = (error(_median(tested[name])) for name in ("rmsle", "rmsle_last", "rmsle_linear"))
        how = " and ".join(tested["tested_on"].unique().sort())
        how = f"{how.capitalize()}: {'median ' if tested.height > 1 else ''}RMSLE"
        parts.append(f"{how} {own} (last value {last}, linear in log x {line}),")
        parts.append(f"{int(tested['inside_95'].sum())} of {int(tested['n_tested'].sum())} inside the 95 % interval.")
    many = together and len(shown) > _MAX_FULL_BANDS
    parts.append("Bands: 95 % of the curve." if many else "Bands: 50, 80 and 95 % of the curve.")
    if not together and any(_x_range(curve, to)[1] > float(curve.points.x.max()) for curve in shown if curve.points):
        parts.append("Beside the titles: how many times the largest x fitted the axis reaches.")
    if any(curve.held_out is not None for curve in shown):
        parts.append("Thin bars: 95 % interval of a new observation.")
    refused = sum(curve.forecast is None and curve.points is not None for curve in fits)
    if refused:
        parts.append(f"{refused} of {len(fits)} curves could not be fitted.")
    unreadable = [curve for curve in fits if curve.points is None]
    if unreadable:
        names = ", ".join(_short(curve) for curve in unreadable[:_NAMED])
        names += ", ..." if len(unreadable) > _NAMED else ""
        parts.append(f"Not drawn, as the rows of {len(unreadable)} of {len(fits)} curves are not points: {names}.")
    if len(shown) < drawn:
        parts.append(f"The first {len(shown)} of {drawn} curves are shown.")
    return " ".join(parts)


def _median(values: pl.Series) -> float | None:
    return None if values.drop_nulls().is_empty() else float(np.median(values.drop_nulls().to_numpy()))


def error(value: float | None) -> str:
    """A root mean squared log error in words."""
    return "–" if value is None else f"{value:.3g}"


def _values(curve: "Curve") -> str:
    """A name of one line for the margin: what tells the curves apart, without the names of the columns."""
    parts = [part.split("=", 1)[1] for part in curve.label.split(", ") if "=" in part]
    name = ", ".join(parts)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "\u2026"
