"""Methods against the reference, by size gap."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.estimates import methods_in_order
from analysis.plots.layout import panels
from analysis.plots.marks import arms, at_least, most_bars, nothing_here
from analysis.plots.style import GRID_COLOUR, method_line, style


def plot_differences(differences: pl.DataFrame, caption: str, methods: Sequence[str] | None = None) -> Figure:
    """Each method minus the reference by size gap, in PGR and in accuracy, paired.

    `methods` fixes the colours of the reference and the others; by default those that occur."""
    methods = methods or methods_in_order([reference_of(differences), *differences["method"]])
    others, reference = methods_in_order(differences["method"]), reference_of(differences)
    several = len(others) > 1
    title = f"{'Methods' if several else others[0]} minus {reference}, by size gap"
    handles = _difference_handles(others, methods) if several else ()
    caption = f"{caption} Bars much longer than most run out of the frame.".strip()
    with style():
        figure, axes = panels(title, caption, 1, 2, sharey=False, sharex=False, legend=handles)
        for ax, quantity in zip(axes.ravel(), ("pgr_difference", "accuracy_difference"), strict=True):
            difference_panel(ax, quantity, differences, methods)
    return figure


def difference_panel(ax: Axes, quantity: str, differences: pl.DataFrame, methods: Sequence[str]) -> None:
    """Points with bars at each size gap; the mean over all pairs stands apart on the left."""
    gaps = sorted(gap for gap in differences["size_gap"].unique() if gap is not None)
    place = {None: 0.0} | {gap: 1.4 + index for index, gap in enumerate(gaps)}
    in_points = quantity == "accuracy_difference"
    scale = 100.0 if in_points else 1.0
    others = methods_in_order(differences["method"])
    step = min(0.16, 0.7 / len(others))
    for index, method in enumerate(others):
        rows = differences.filter((pl.col("method") == method) & pl.col(quantity).is_not_null())
        x = np.array([place[gap] for gap in rows["size_gap"]]) + step * (index - (len(others) - 1) / 2)
        estimate, low, high = (rows[f"{quantity}{bound}"].to_numpy() * scale for bound in ("", "_low", "_high"))
        if rows.is_empty():
            continue
        look = method_line(methods, method)
        ax.errorbar(
            x, estimate, yerr=arms(estimate, low, high), **look, linestyle="", elinewidth=1.4, capsize=0, markersize=5.5
        )
    ax.axhline(0, color="#666666", linewidth=1.0)
    ax.axvline(0.7, color=GRID_COLOUR, linewidth=1.0)
    count = "n_pairs" if not in_points else None
    ax.set_xticks(
        [place[gap] for gap in (None, *gaps)],
        [_gap_label(differences, gap, count, ratios=len(gaps) < 7) for gap in (None, *gaps)],
        fontsize=8 if len(gaps) < 7 else 7,
    )
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, place[gaps[-1]] + 0.6 if gaps else 0.6)
    with_compute = differences["log10_compute_ratio"].null_count() == 0
    ax.set_xlabel(f"rungs from weak to strong ({'compute ratio, ' if with_compute and len(gaps) < 7 else ''}pairs)")
    ax.set_ylabel("difference (percentage points)" if in_points else "difference")
    ax.set_title("Accuracy, all pairs" if in_points else "PGR, pairs with a gap")
    ax.margins(y=0.12)
    if differences[quantity].null_count() == differences.height:
        nothing_here(ax, "no pair with a gap")
        ax.set_yticks([])
    else:
        low, high = most_bars(differences, quantity)
        bottom, top = ax.get_ylim()
        ax.set_ylim(max(bottom, scale * low), min(top, scale * high))
    ax.set_ylim(*at_least(ax.get_ylim(), 1.0 if in_points else 0.1))


def _difference_handles(others: Sequence[str], methods: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], **method_line(methods, m), linestyle="", label=m) for m in others]


def reference_of(differences: pl.DataFrame) -> str:
    return str(differences["reference"][0])


def _gap_label(rows: pl.DataFrame, gap: int | None, count: str | None, *, ratios: bool) -> str:
    """Rungs, compute ratio and number of pairs at a size gap; methods may differ in how many of the pairs they have."""
    own = rows.filter(pl.col("size_gap").is_null() if gap is None else pl.col("size_gap") == gap).to_dicts()
    counts = sorted({row["n_pairs"] + (0 if count else row["n_no_gap"]) for row in own})
    lines = ["all" if gap is None else str(gap)]
    logs = [row["log10_compute_ratio"] for row in own if row["log10_compute_ratio"] is not None] if ratios else []
    if logs:
        lines.append(f"\u00d7{_short(10 ** (sum(logs) / len(logs)))}" if gap is not None else "")
    lines.append(f"n={counts[0]}" + (f"\u2013{counts[-1]}" if len(counts) > 1 else ""))
    return "\n".join(lines)


def _short(value: float) -> str:
    if value >= 1e6:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if value >= 1000:
        return f"{value / 1000:.{0 if value >= 9950 else 1}f}k"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
