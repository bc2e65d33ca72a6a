"""Figures of one section: frames in, `Figure` out. Nothing here computes a result.

Colours: methods in the order of Okabe and Ito, safe for colour-blind readers; supervisors from dark (weak) to light
(strong) of one map; ceilings black, floors grey. Every figure says in its caption how many examples, seeds and
resamples stand behind it.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter, NullLocator

from analysis.estimates import Options, methods_in_order
from analysis.intervals import FEW_SEEDS

METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CEILING_COLOUR = "#1a1a1a"
FLOOR_COLOUR = "#7a7a7a"
GRID_COLOUR = "#e6e6e6"
TEXT_COLOUR = "#333333"
NO_GAP_COLOUR = "#f2f2f2"
AXIS_LABELS = {
    "compute": "strong model: pretraining compute (FLOPs, log)",
    "parameters": "strong model: matrix-multiplied parameters (log)",
    "rung": "strong model",
}
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": TEXT_COLOUR,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID_COLOUR,
    "grid.linewidth": 0.8,
    "text.color": TEXT_COLOUR,
    "xtick.color": TEXT_COLOUR,
    "ytick.color": TEXT_COLOUR,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.5,
    "hatch.color": "#c8c8c8",
    "svg.hashsalt": "w2s",  # so that the same figure is the same file
    "svg.fonttype": "path",
}
_TITLE_INCHES = 0.34
_LEGEND_ROW_INCHES = 0.23
_CAPTION_LINE_INCHES = 0.17


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures; hold it both while drawing and while saving."""
    with mpl.rc_context(cast(Any, _STYLE)):
        yield


def render(figure: Figure) -> dict[str, bytes]:
    """A figure as `png` and `svg`, the same bytes each time."""
    rendered = {}
    with style():
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
            rendered[kind] = buffer.getvalue()
            figure.set_layout_engine("none")  # the layout found for the first serves the second
    return rendered


def interval_caption(frame: pl.DataFrame, options: Options) -> str:
    """n of examples, seeds and resamples behind a frame with `n_test` and `n_seeds`."""
    seeds = _range_text(frame["n_seeds"].to_list())
    text = (
        f"Means over {seeds} seed{'' if seeds == '1' else 's'} on {_range_text(frame['n_test'].to_list())} test"
        " examples;"
        f" bars and bands are {options.level:.0%} intervals of {options.draws:,} joint resamples"
    )
    fewest = min(frame["n_seeds"].to_list(), default=0)
    if fewest == 1:
        return text + " of test examples only (one seed says nothing of seeds)."
    return text + (f" (fewer than {FEW_SEEDS} seeds: wide and rough)." if fewest < FEW_SEEDS else ".")


# --- the figures -----------------------------------------------------------------------------------------------------


def plot_accuracy(pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, caption: str) -> Figure:
    """Test accuracy against strong compute: one panel per supervisor with floor, students and ceiling."""
    weak_models = _in_order(pairs, "weak", "weak_rung")
    columns = min(3, len(weak_models))
    rows = -(-len(weak_models) // columns)
    spare = rows * columns > len(weak_models)
    handles = _role_handles(pairs)
    with style():
        title = "Accuracy against strong-model compute"
        figure, axes = _panels(title, caption, rows, columns, legend=() if spare else handles)
        flat = axes.ravel()
        limits = _limits(pairs, ladder)
        for ax, weak in zip(flat, weak_models, strict=False):
            _accuracy_panel(ax, weak, pairs, ladder, curves)
            ax.set_ylim(*limits)
        for ax in flat[len(weak_models) :]:
            ax.set_axis_off()
        if spare:
            flat[len(weak_models)].legend(handles=handles, loc="center left", bbox_to_anchor=(0.0, 0.5))
        _outer_labels(axes, len(weak_models), "test accuracy", _x_label(ladder))
    return figure


def plot_pgr(pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, caption: str) -> Figure:
    """PGR against strong compute: a panel per method, a line per supervisor."""
    methods = methods_in_order(pairs["method"])
    caption += " Lines: from the fitted curves of student and ceiling. Pairs without a gap have no PGR."
    caption += " Bars are cut at the frame."
    with style():
        figure, axes = _panels(
            "Performance gap recovered (PGR) against strong-model compute", caption, *_grid(len(methods))
        )
        limits = _pgr_limits(pairs)
        for ax, method in zip(axes.ravel(), methods, strict=False):
            _pgr_panel(ax, method, pairs, ladder, curves)
            ax.set_ylim(*limits)
        for ax in axes.ravel()[len(methods) :]:
            ax.set_axis_off()
        _outer_labels(axes, len(methods), "PGR", _x_label(ladder))
    return figure


def plot_agreement(pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, caption: str) -> Figure:
    """Agreement against strong compute, where the supervisor is right (left) and wrong (right); a row per method."""
    methods = methods_in_order(pairs["method"])
    parts = {"agreement_when_weak_right": "supervisor right", "agreement_when_weak_wrong": "supervisor wrong"}
    with style():
        figure, axes = _panels("Agreement of student and supervisor", caption, len(methods), 2, sharey="col")
        for column, (quantity, words) in zip(axes.T, parts.items(), strict=True):
            for ax, method in zip(column, methods, strict=True):
                _lines_by_supervisor(ax, quantity, method, pairs, ladder, curves)
                ax.set_title(f"{method}: {words}")
            low, high = _bar_limits([pairs], quantity)
            column[0].set_ylim(max(low, -0.02), min(high, 1.02))
            column[-1].set_xlabel(_x_label(ladder))
        for ax in axes[:, 0]:
            ax.set_ylabel("agreement")
    return figure


def plot_pgr_map(pairs: pl.DataFrame, ladder: pl.DataFrame, caption: str) -> Figure:
    """Weak x strong map of PGR per method, with the interval in each cell."""
    methods = methods_in_order(pairs["method"])
    weak_models, strong_models = _in_order(pairs, "weak", "weak_rung"), _in_order(pairs, "strong", "strong_rung")
    rows, columns = _grid(len(methods))
    height = max(0.62 * len(weak_models) + 0.75, 1.9)
    with style():
        figure, axes = _panels(
            "PGR of every pair",
            caption,
            rows,
            columns,
            panel_height=height,
            width=max(5.2, columns * (0.85 * len(strong_models) + 0.6)),
            sharex=False,
            sharey=False,
        )
        colours = mpl.colormaps["YlGnBu"]
        for ax, method in zip(axes.ravel(), methods, strict=False):
            _pgr_map_panel(ax, method, pairs.filter(pl.col("method") == method), weak_models, strong_models, colours)
        for ax in axes[:, 0]:
            ax.set_ylabel("weak supervisor")
        for ax in axes.ravel()[len(methods) :]:
            ax.set_axis_off()
        scale = ScalarMappable(norm=Normalize(0, 1), cmap=colours)
        bar = figure.colorbar(scale, ax=axes.ravel().tolist(), shrink=0.8, pad=0.015, aspect=24)
        bar.set_label("PGR")
        bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def plot_differences(differences: pl.DataFrame, caption: str) -> Figure:
    """Each method minus the reference by size gap, in PGR and in accuracy, paired."""
    others, reference = methods_in_order(differences["method"]), _reference(differences)
    several = len(others) > 1
    title = f"{'Methods' if several else others[0]} minus {reference}, by size gap"
    handles = _difference_handles(differences) if several else ()
    with style():
        figure, axes = _panels(title, caption, 1, 2, sharey=False, sharex=False, legend=handles)
        for ax, quantity in zip(axes.ravel(), ("pgr_difference", "accuracy_difference"), strict=True):
            _difference_panel(ax, quantity, differences)
    return figure


def plot_overview(
    pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, differences: pl.DataFrame, caption: str
) -> Figure:
    """The sweep in one picture: accuracy under the weakest supervisor, PGR of the reference, and methods compared."""
    weakest = _in_order(pairs, "weak", "weak_rung")[0]
    method = methods_in_order(pairs["method"])[0]
    columns = 2 if differences.is_empty() else 3
    with style():
        figure, axes = _panels(
            "Weak-to-strong generalization",
            caption,
            1,
            columns,
            sharey=False,
            sharex=False,
            panel_height=3.4,
            width=4.4 * columns,
            legend=_role_handles(pairs),
        )
        accuracy, pgr = axes[0, 0], axes[0, 1]
        _accuracy_panel(accuracy, weakest, pairs, ladder, curves)
        accuracy.set_ylim(*_limits(pairs, ladder))
        accuracy.set_title(f"Accuracy, weakest supervisor ({weakest})")
        accuracy.set_ylabel("test accuracy")
        _pgr_panel(pgr, method, pairs, ladder, curves, bands=False)
        pgr.set_ylim(*_pgr_limits(pairs))
        pgr.set_title(f"PGR, {method}, by supervisor")
        pgr.set_ylabel("PGR")
        for ax in (accuracy, pgr):
            ax.set_xlabel(_x_label(ladder))
        if columns == 3:
            _difference_panel(axes[0, 2], "pgr_difference", differences)
            axes[0, 2].set_title(f"PGR minus that of {_reference(differences)}, by size gap")
    return figure


# --- panels ----------------------------------------------------------------------------------------------------------


def _accuracy_panel(ax: Axes, weak: str, pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame) -> None:
    own = pairs.filter(pl.col("weak") == weak)
    ceilings = ladder.filter(pl.col("ceiling_acc").is_not_null()).sort("rung")
    floor = ladder.filter(pl.col("model") == weak).row(0, named=True)
    _curve_or_line(ax, curves.filter(pl.col("quantity") == "ceiling"), ceilings, "x", "ceiling_acc", CEILING_COLOUR)
    _points(ax, ceilings["x"].to_numpy(), ceilings, "ceiling_acc", CEILING_COLOUR, marker="D", size=3.6)
    ax.axhline(floor["supervisor_acc"], color=FLOOR_COLOUR, linestyle=(0, (4, 2)), linewidth=1.3)
    ax.plot(floor["x"], floor["supervisor_acc"], marker="s", color=FLOOR_COLOUR, markersize=4.2, linestyle="")
    ax.axhspan(floor["supervisor_acc_low"], floor["supervisor_acc_high"], color=FLOOR_COLOUR, alpha=0.12, linewidth=0)
    methods = methods_in_order(pairs["method"])
    for index, method in enumerate(methods):
        rows = own.filter(pl.col("method") == method).sort("strong_x")
        colour = _method_colour(methods, method)
        fitted = curves.filter(
            (pl.col("quantity") == "student") & (pl.col("method") == method) & (pl.col("weak") == weak)
        )
        _curve_or_line(ax, fitted, rows, "strong_x", "student_acc", colour)
        shift = _dodge(ladder, index, len(methods))
        _points(ax, rows["strong_x"].to_numpy() * shift, rows, "student_acc", colour)
    _compute_axis(ax, ladder)
    ax.set_title(f"supervisor {weak}")


def _pgr_panel(
    ax: Axes, method: str, pairs: pl.DataFrame, ladder: pl.DataFrame, curves: pl.DataFrame, *, bands: bool = True
) -> None:
    for level in (0, 1):
        ax.axhline(level, color="#999999", linewidth=0.9, linestyle="-" if level == 0 else (0, (4, 2)))
    _lines_by_supervisor(ax, "pgr", method, pairs, ladder, curves, bands=bands)
    ax.set_title(method)


def _lines_by_supervisor(
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
    models = _in_order(pairs, "weak", "weak_rung")
    ends: list[tuple[float, str, str]] = []
    for index, weak in enumerate(models):
        rows = pairs.filter(
            (pl.col("weak") == weak) & (pl.col("method") == method) & pl.col(quantity).is_not_null()
        ).sort("strong_x")
        if rows.is_empty():
            continue
        colour = _supervisor_colour(index, len(models))
        fitted = curves.filter(
            (pl.col("quantity") == quantity) & (pl.col("method") == method) & (pl.col("weak") == weak)
        )
        shift = _dodge(ladder, index, len(models))
        _curve_or_line(ax, fitted, rows, "strong_x", quantity, colour, band=bands and len(models) <= 6, shift=shift)
        _points(ax, rows["strong_x"].to_numpy() * shift, rows, quantity, colour)
        ends.append((float(rows[quantity][-1]), weak, colour))
    _compute_axis(ax, ladder.filter(pl.col("model").is_in(pairs["strong"].unique().implode())))
    _end_labels(ax, ends)


def _pgr_map_panel(
    ax: Axes,
    method: str,
    rows: pl.DataFrame,
    weak_models: Sequence[str],
    strong_models: Sequence[str],
    colours: Colormap,
) -> None:
    for row in rows.iter_rows(named=True):
        x, y = strong_models.index(row["strong"]), weak_models.index(row["weak"])
        if row["pgr"] is None:
            ax.add_patch(
                Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, facecolor=NO_GAP_COLOUR, hatch="////", edgecolor="#c8c8c8", linewidth=0
                )
            )
            ax.text(x, y, "no gap", ha="center", va="center", fontsize=7.5, color="#555555")
            continue
        face = colours(float(np.clip(row["pgr"], 0, 1)))
        ink = "white" if _luminance(face) < 0.45 else "#111111"
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.2))
        ax.text(x, y - 0.13, f"{row['pgr']:.2f}", ha="center", va="center", fontsize=9.5, color=ink, fontweight="bold")
        bounds = f"{row['pgr_low']:.2f} to {row['pgr_high']:.2f}"
        ax.text(x, y + 0.24, bounds, ha="center", va="center", fontsize=6, color=ink)
    ax.set_xlim(-0.5, len(strong_models) - 0.5)
    ax.set_ylim(len(weak_models) - 0.5, -0.5)
    ax.set_xticks(range(len(strong_models)), strong_models, **_slanted(strong_models, 12))
    ax.set_yticks(range(len(weak_models)), weak_models)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set(title=method, xlabel="strong student")


def _difference_panel(ax: Axes, quantity: str, differences: pl.DataFrame) -> None:
    """Points with bars at each size gap; the mean over all pairs stands apart on the left."""
    methods = methods_in_order([_reference(differences), *differences["method"]])
    gaps = sorted(gap for gap in differences["size_gap"].unique() if gap is not None)
    place = {None: 0.0} | {gap: 1.4 + index for index, gap in enumerate(gaps)}
    in_points = quantity == "accuracy_difference"
    scale = 100.0 if in_points else 1.0
    others = methods[1:]
    for index, method in enumerate(others):
        rows = differences.filter((pl.col("method") == method) & pl.col(quantity).is_not_null())
        x = np.array([place[gap] for gap in rows["size_gap"]]) + 0.16 * (index - (len(others) - 1) / 2)
        estimate, low, high = (rows[f"{quantity}{bound}"].to_numpy() * scale for bound in ("", "_low", "_high"))
        colour = _method_colour(methods, method)
        ax.errorbar(
            x,
            estimate,
            yerr=_arms(estimate, low, high),
            fmt="o",
            color=colour,
            elinewidth=1.4,
            capsize=0,
            markersize=5.5,
        )
    ax.axhline(0, color="#666666", linewidth=1.0)
    ax.axvline(0.7, color=GRID_COLOUR, linewidth=1.0)
    first = differences.filter(pl.col("method") == others[0])
    count = "n_pairs" if not in_points else None
    ax.set_xticks(
        [place[gap] for gap in (None, *gaps)],
        [_gap_label(first, gap, count) for gap in (None, *gaps)],
        fontsize=8 if len(gaps) < 7 else 7,
    )
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, place[gaps[-1]] + 0.6 if gaps else 0.6)
    with_compute = first["log10_compute_ratio"].null_count() == 0
    ax.set_xlabel(f"rungs from weak to strong ({'compute ratio, ' if with_compute else ''}pairs)")
    ax.set_ylabel("difference (percentage points)" if in_points else "difference")
    ax.set_title("Accuracy, all pairs" if in_points else "PGR, pairs with a gap")
    ax.margins(y=0.12)


# --- pieces ----------------------------------------------------------------------------------------------------------


def _panels(
    title: str,
    caption: str,
    rows: int,
    columns: int,
    *,
    panel_height: float = 3.0,
    width: float | None = None,
    sharex: bool = True,
    sharey: bool | str = True,
    legend: Sequence[Line2D] = (),
) -> tuple[Figure, np.ndarray]:
    """A figure with a title, a legend above all, a grid of axes, and a wrapped caption under it."""
    width = width or {1: 6.4, 2: 9.6}.get(columns, 3.4 * columns)
    lines = _wrap(caption, int(width * 15.5))
    legend_rows = _legend_rows(legend, width) if legend else []
    below = _CAPTION_LINE_INCHES * len(lines) + 0.12
    above = _TITLE_INCHES + _LEGEND_ROW_INCHES * len(legend_rows)
    height = rows * panel_height + below + above
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine(
        "constrained",
        rect=(0.005, below / height, 0.99, 1 - (below + above) / height),
        w_pad=0.06,
        h_pad=0.06,
        wspace=0.03,
        hspace=0.03,
    )
    figure.text(0.012, 1 - 0.08 / height, title, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(
        0.012, 0.08 / height, "\n".join(lines), ha="left", va="bottom", fontsize=7.8, color="#666666", linespacing=1.35
    )
    _legend_above(figure, legend_rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)  # type: ignore[call-overload]
    return figure, axes


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]


def _legend_above(figure: Figure, rows: Sequence[Sequence[Line2D]]) -> None:
    height = figure.get_figheight()
    for index, handles in enumerate(rows):
        top = 1 - (_TITLE_INCHES + index * _LEGEND_ROW_INCHES) / height
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.012, top),
            ncol=len(handles),
            borderaxespad=0,
            borderpad=0,
        )


def _legend_rows(handles: Sequence[Line2D], width: float) -> list[list[Line2D]]:
    """Handles in as many rows as a figure of some width in inches needs."""
    rows: list[list[Line2D]] = [[]]
    used = 0.0
    for handle in handles:
        inches = 0.75 + 0.075 * len(str(handle.get_label()))
        if rows[-1] and used + inches > width:
            rows.append([])
            used = 0.0
        rows[-1].append(handle)
        used += inches
    return rows


def _role_handles(pairs: pl.DataFrame) -> list[Line2D]:
    methods = methods_in_order(pairs["method"])
    students = [Line2D([], [], color=_method_colour(methods, m), marker="o", label=f"student, {m}") for m in methods]
    ceiling = Line2D([], [], color=CEILING_COLOUR, marker="D", markersize=3.6, label="strong ceiling (ground truth)")
    floor = Line2D(
        [], [], color=FLOOR_COLOUR, linestyle=(0, (4, 2)), marker="s", markersize=4.2, label="weak supervisor"
    )
    return [ceiling, *students, floor]


def _difference_handles(differences: pl.DataFrame) -> list[Line2D]:
    methods = methods_in_order([_reference(differences), *differences["method"]])
    return [Line2D([], [], color=_method_colour(methods, m), marker="o", linestyle="", label=m) for m in methods[1:]]


def _reference(differences: pl.DataFrame) -> str:
    return str(differences["reference"][0])


def _curve_or_line(
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


def _points(
    ax: Axes, x: np.ndarray, rows: pl.DataFrame, name: str, colour: str, *, marker: str = "o", size: float = 4.5
) -> None:
    estimate, low, high = (rows[f"{name}{bound}"].to_numpy() for bound in ("", "_low", "_high"))
    ax.errorbar(
        x,
        estimate,
        yerr=_arms(estimate, low, high),
        fmt=marker,
        color=colour,
        markersize=size,
        elinewidth=1.0,
        capsize=0,
        alpha=0.95,
    )


def _arms(estimate: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Lengths of error bars; an estimate outside its own percentile interval gets an arm of 0."""
    return np.maximum(np.stack([estimate - low, high - estimate]), 0)


def _end_labels(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right edge, moved apart by as much as they need."""
    texts = [
        (y, ax.text(1.015, 0, name, transform=ax.transAxes, fontsize=8, color=colour, va="center"))
        for y, name, colour in sorted(ends)
    ]
    grid = ax.get_subplotspec().get_gridspec()  # type: ignore[union-attr]
    inches = ax.get_figure().get_figheight() / grid.nrows - 1.0  # type: ignore[union-attr]

    def place(_axes: object = None) -> None:
        low, high = ax.get_ylim()
        wanted = [float(np.clip((y - low) / (high - low), 0, 1)) for y, _ in texts]
        for (_, text), y in zip(texts, spread(wanted, 0.14 / inches), strict=True):
            text.set_y(y)

    ax.callbacks.connect("ylim_changed", place)  # limits may still be set after the labels
    place()


def spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Positions near those wanted (ascending), in their order, at least `distance` apart, by small moves."""
    if not wanted:
        return []
    blocks: list[list[float]] = []  # [sum of (wanted - offset), count]; blocks that would overlap are merged
    for index, y in enumerate(wanted):
        blocks.append([y - index * distance, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    base = [total / count for total, count in blocks for _ in range(int(count))]
    placed = [b + index * distance for index, b in enumerate(base)]
    # Within 0 to 1 as far as there is room: pushed down from the top, then up from the bottom.
    placed = [min(y, 1 - (len(placed) - 1 - index) * distance) for index, y in enumerate(placed)]
    return [max(y, index * distance) for index, y in enumerate(placed)]


def _compute_axis(ax: Axes, ladder: pl.DataFrame) -> None:
    """Log compute in powers of ten, or model names where compute and size are unknown."""
    ax.set_xscale("log")
    ticks = ladder.sort("rung")
    if ladder["x_axis"][0] == "rung":
        names = ticks["model"].to_list()
        ax.set_xticks(ticks["x"].to_numpy(), names, **_slanted(names, 8))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        narrow = ticks["x"].to_numpy()[-1] / ticks["x"].to_numpy()[0] < 30  # too few powers of ten to label alone
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=8))
        ax.xaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    x = ticks["x"].to_numpy()
    pad = (x[-1] / x[0]) ** 0.06 if len(x) > 1 else 3.0
    ax.set_xlim(x[0] / pad, x[-1] * pad)


def _outer_labels(axes: np.ndarray, used: int, y_label: str, x_label: str) -> None:
    """Label the left column and the lowest used panel of each column, whose ticks are shown."""
    rows, columns = axes.shape
    for row in range(rows):
        axes[row, 0].set_ylabel(y_label)
    for column in range(columns):
        lowest = max((row for row in range(rows) if row * columns + column < used), default=None)
        if lowest is not None:
            axes[lowest, column].set_xlabel(x_label.replace("strong model: ", "") if columns > 2 else x_label)
            axes[lowest, column].tick_params(labelbottom=True)


def _grid(n: int) -> tuple[int, int]:
    columns = n if n <= 3 else (2 if n == 4 else 3)
    return -(-n // columns), columns


def _dodge(ladder: pl.DataFrame, index: int, count: int) -> float:
    """Factor on x that sets bars of several series beside each other: 1 % of the axis each, less if they are many."""
    x = ladder["x"].to_numpy()
    span = np.log(x.max() / x.min()) if x.size > 1 else 1.0
    return float(np.exp(min(0.01, 0.05 / count) * span * (index - (count - 1) / 2)))


def _limits(pairs: pl.DataFrame, ladder: pl.DataFrame) -> tuple[float, float]:
    """Of an accuracy axis."""
    supervisors = _bar_limits([ladder.filter(pl.col("supervisor_acc").is_not_null())], "supervisor_acc")
    students = _bar_limits([pairs], "student_acc")
    ceilings = _bar_limits([ladder.filter(pl.col("ceiling_acc").is_not_null())], "ceiling_acc")
    low, high = zip(supervisors, students, ceilings, strict=True)
    return min(low), min(max(high), 1.005)


def _bar_limits(frames: Sequence[pl.DataFrame], quantity: str) -> tuple[float, float]:
    """Limits that show the bars, unless a few of them would dwarf the differences between points."""
    estimates, lows, highs = (
        [value for frame in frames for value in frame[f"{quantity}{bound}"] if value is not None]
        for bound in ("", "_low", "_high")
    )
    low, high = min(estimates, default=0), max(estimates, default=1)
    room = 0.35 * (high - low) + 0.04
    pad = 0.04 * (high - low) + 0.005
    return max(min(lows, default=low), low - room) - pad, min(max(highs, default=high), high + room) + pad


def _pgr_limits(pairs: pl.DataFrame) -> tuple[float, float]:
    values = [value for value in pairs["pgr"] if value is not None]
    return min(-0.1, min(values, default=0) - 0.15), max(1.1, max(values, default=1) + 0.15)


def _gap_label(rows: pl.DataFrame, gap: int | None, count: str | None) -> str:
    row = rows.filter(pl.col("size_gap").is_null() if gap is None else pl.col("size_gap") == gap).row(0, named=True)
    n = row["n_pairs"] + (0 if count else row["n_no_gap"])
    lines = ["all" if gap is None else str(gap)]
    if row["log10_compute_ratio"] is not None:
        lines.append(f"\u00d7{_short(10 ** row['log10_compute_ratio'])}" if gap is not None else "")
    lines.append(f"n={n}")
    return "\n".join(lines)


def _short(value: float) -> str:
    if value >= 1e6:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if value >= 1000:
        return f"{value / 1000:.{0 if value >= 9950 else 1}f}k"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _in_order(pairs: pl.DataFrame, model: str, rung: str) -> list[str]:
    return pairs.select(model, rung).unique().sort(rung)[model].to_list()


def _method_colour(methods: Sequence[str], method: str) -> str:
    return METHOD_COLOURS[methods.index(method) % len(METHOD_COLOURS)]


def _supervisor_colour(index: int, count: int) -> str:
    position = 0.05 + 0.75 * index / max(count - 1, 1)  # the lightest end of the map is unreadable on white
    return to_hex(mpl.colormaps["viridis"](position))


def _luminance(colour: Sequence[float]) -> float:
    red, green, blue = to_rgb(colour)  # type: ignore[arg-type]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _slanted(names: Sequence[str], longest: int) -> dict[str, Any]:
    """Long names are set at an angle so that they do not run into each other."""
    return {"rotation": 30, "ha": "right"} if max(map(len, names)) > longest else {}


def _x_label(ladder: pl.DataFrame) -> str:
    return AXIS_LABELS[ladder["x_axis"][0]]


def _range_text(values: Sequence[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
