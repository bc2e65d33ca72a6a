"""A real weak-to-strong grid: four BERTs teach electra-base on SST-2, over sizes of the labelled and transfer sets.

    python benchmarks/w2s_grid.py --data DIR [--out FILE.md] [--figures DIR]

Prints what is missing, PGR of every cell with intervals, and surfaces of student error and PGR over both sizes.

Only accuracies are published, no predictions. So agreement cannot be computed, and the example part of an interval is
binomial: for means over seeds as if all seeds erred on the same examples, for the three roles as if they erred
independently of each other. Both make it too wide rather than too narrow, since models that learn from one another err
on the same examples. Seeds are paired between teacher and student. The ceilings have one seed, so intervals leave out
what another seed would change in them; `ceiling_scatter` says how much that may be.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scaling_data import LABELLED, SST2_TEST, TEACHERS, TRANSFER, Grid, markdown, sst2

from analysis.intervals import Interval, interval_of_draws, seed_noise
from analysis.plots.style import render, style, supervisor_colour
from analysis.scaling.families import ADDITIVE_POWER, LOG_ODDS_PLANE, PLANE, Family
from analysis.scaling.fitting import Fit, fit_points
from analysis.scaling.losses import Loss, LossName
from analysis.scaling.points import points_of
from analysis.scaling.uncertainty import parameter_intervals, resample

Array = np.ndarray
CELL = ["weak", "n_labelled", "n_transfer"]
SEEDS = 3
DRAWS = 2000
BANDED = 8000
"""Label size whose band is drawn; those of others lie over each other."""


@dataclass(frozen=True)
class Cells:
    """Accuracies of the cells that have a student and a ceiling, on the seeds that teacher and student share."""

    frame: pl.DataFrame
    """weak, n_labelled, n_transfer, n_seeds."""
    by_seed: Array
    """Accuracies (teacher, student) of each seed, shape (cell, 2, seed); NaN where a run is missing."""
    ceiling: Array
    """Accuracy of the ceiling's one seed, shape (cell,)."""

    @property
    def means(self) -> Array:
        """(teacher, student, ceiling), shape (cell, 3)."""
        return np.concatenate([np.nanmean(self.by_seed, axis=2), self.ceiling[:, None]], axis=1)


def cells_of(grid: Grid) -> Cells:
    """Joins students with teachers by seed and with ceilings by sizes; cells without a ceiling are left out."""
    runs = grid.students.rename({"accuracy": "student"}).join(
        grid.teachers.rename({"accuracy": "teacher"}), on=["weak", "n_labelled", "seed"], how="inner", validate="m:1"
    )
    runs = runs.join(grid.ceilings.rename({"accuracy": "ceiling"}), on=["n_labelled", "n_transfer"], how="inner")
    place = pl.col("weak").replace_strict({weak: i for i, weak in enumerate(TEACHERS)}, return_dtype=pl.Int64)
    frame = runs.group_by(CELL).agg(pl.len().alias("n_seeds"), pl.col("ceiling").first()).sort(place, *CELL[1:])
    by_seed = np.full((frame.height, 2, SEEDS), np.nan)
    index = {cell: i for i, cell in enumerate(frame.select(CELL).iter_rows())}
    for *cell, seed, student, teacher in runs.select(*CELL, "seed", "student", "teacher").iter_rows():
        by_seed[index[tuple(cell)], :, seed] = teacher, student
    return Cells(frame.drop("ceiling"), by_seed, frame["ceiling"].to_numpy())


def pgr_of(accuracies: Array) -> Array:
    """PGR of (teacher, student, ceiling) on the last axis (Burns et al. 2023, section 3)."""
    weak, student, ceiling = np.moveaxis(accuracies, -1, 0)
    return (student - weak) / (ceiling - weak)


def gap_of(accuracies: Array) -> Array:
    return accuracies[..., 2] - accuracies[..., 0]


@dataclass(frozen=True)
class Drawn:
    """Joint draws of the accuracies of all cells, shape (draw, cell, role)."""

    both: Array
    examples: Array
    """With examples varying only."""
    seeds: Array
    """With seeds varying only."""


def draw(cells: Cells, *, draws: int = DRAWS, random_seed: int = 0) -> Drawn:
    """Joint draws: one test set for all cells, seeds crossed with it (see the module's text for what is assumed)."""
    mean = cells.means
    rng = np.random.default_rng([random_seed, 1])
    spread = np.sqrt(mean * (1 - mean) / SST2_TEST)
    examples = rng.standard_normal((draws, 1, 3)) * spread  # one test set: a role's runs rise and fall together
    count = cells.frame["n_seeds"].to_numpy()
    off = np.nan_to_num(cells.by_seed - mean[:, :2, None]) / np.sqrt(np.maximum(count * (count - 1), 1))[:, None, None]
    seeds = np.zeros((draws, *mean.shape))
    seeds[:, :, :2] = np.einsum("ds,crs->dcr", seed_noise(draws, SEEDS, random_seed), off)
    return Drawn(mean + examples + seeds, mean + examples, mean + seeds)


def interval(cells: Cells, drawn: Drawn, statistic) -> Interval:
    """95 % interval of a statistic of the accuracies, (..., cell, role) -> (..., value)."""
    estimate = statistic(cells.means)
    count = cells.frame["n_seeds"].to_numpy()
    if estimate.shape != count.shape:  # a summary of cells
        count = np.full(estimate.shape, count.min())
    both, examples, seeds = (statistic(values) for values in (drawn.both, drawn.examples, drawn.seeds))
    return interval_of_draws(estimate, both=both, examples=examples, seeds=seeds, n_seeds=count)


def _rows(frame: pl.DataFrame, **values: object) -> Array:
    """Indices of the rows with these values."""
    same = pl.all_horizontal(pl.col(column) == value for column, value in values.items())
    return frame.with_row_index("row").filter(same)["row"].to_numpy()


def incomplete(grid: Grid) -> pl.DataFrame:
    """Cells of the full grid that miss seeds or a ceiling: weak, n_labelled, n_transfer, seeds, ceiling (bool)."""
    full = pl.DataFrame({"weak": TEACHERS}).join(pl.DataFrame({"n_labelled": LABELLED}), how="cross")
    full = full.join(pl.DataFrame({"n_transfer": TRANSFER}), how="cross")
    runs = grid.students.group_by(CELL).agg(pl.len().alias("seeds"))
    found = full.join(runs, on=CELL, how="left", maintain_order="left").with_columns(pl.col("seeds").fill_null(0))
    ceilings = grid.ceilings.select(*CELL[1:], ceiling=pl.lit(True))
    found = found.join(ceilings, on=CELL[1:], how="left", maintain_order="left")
    found = found.with_columns(pl.col("ceiling").fill_null(False))
    return found.filter((pl.col("seeds") < SEEDS) | ~pl.col("ceiling"))


def explained(frame: pl.DataFrame, by: list[str]) -> float:
    """Share of the variance of log-odds of accuracy that main effects of the columns explain."""
    accuracy = frame["accuracy"].to_numpy()
    y = np.log(accuracy / (1 - accuracy))
    residual, _ = _without_effects(frame, y, by)
    return float(1 - residual.var() / y.var())


def ceiling_scatter(grid: Grid) -> float:
    """Standard deviation of ceiling accuracies about main effects of both sizes: what one seed each leaves open."""
    residual, degrees = _without_effects(grid.ceilings, grid.ceilings["accuracy"].to_numpy(), CELL[1:])
    return float(np.sqrt(np.sum(residual**2) / degrees))


def _without_effects(frame: pl.DataFrame, y: Array, by: list[str]) -> tuple[Array, int]:
    """Residuals of y about main effects of the columns, and their degrees of freedom."""
    effects = [frame.select(pl.col(column).cast(pl.String)).to_dummies().to_numpy() for column in by]
    x = np.concatenate(effects, axis=1).astype(np.float64)
    return y - x @ np.linalg.lstsq(x, y, rcond=None)[0], y.size - int(np.linalg.matrix_rank(x))


def error_surface(grid: Grid, weak: str, family: Family) -> Fit:
    """Student error over (n_labelled, n_transfer) of one teacher, all seeds; draws resample whole seeds."""
    frame = grid.students.filter(pl.col("weak") == weak).with_columns(
        error=1 - pl.col("accuracy"), n=pl.lit(float(SST2_TEST))
    )
    points = points_of(frame, CELL[1:], "error", n="n", seed="seed", where=weak)
    return resample(fit_points(points, family), "seeds", draws=200)


def pgr_surface(cells: Cells, weak: str) -> Fit:
    """Plane of PGR over the logarithms of both sizes, at single seeds; draws resample whole seeds."""
    own = _rows(cells.frame, weak=weak)
    ceiling = np.broadcast_to(cells.ceiling[own, None], (own.size, SEEDS))
    values = pgr_of(np.stack([cells.by_seed[own, 0], cells.by_seed[own, 1], ceiling], axis=-1))
    sizes = cells.frame[own].select(CELL[1:])
    frame = pl.concat([sizes.with_columns(pgr=pl.Series(values[:, s]), seed=pl.lit(s)) for s in range(SEEDS)])
    points = points_of(frame.filter(pl.col("pgr").is_not_nan()), CELL[1:], "pgr", seed="seed", where=weak)
    return resample(fit_points(points, PLANE, Loss(LossName.SQUARED)), "seeds", draws=400)


# --- text ------------------------------------------------------------------------------------------------------------


def _with_interval(estimate: float, low: float, high: float, digits: int = 2) -> str:
    return f"{estimate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _labels_table(data: Path) -> str:
    rows = []
    for name, grid in (("as published", sst2(data, as_published=True)), ("corrected", sst2(data))):
        students = [explained(grid.students.filter(pl.col("weak") == weak), CELL[1:]) for weak in TEACHERS]
        rows.append((name, f"{explained(grid.ceilings, CELL[1:]):.2f}", *(f"{share:.2f}" for share in students)))
    return markdown(("labels", "ceilings", *(f"students of {weak}" for weak in TEACHERS)), rows)


def _missing_lines(grid: Grid) -> Iterator[str]:
    full = len(LABELLED) * len(TRANSFER)
    missing = incomplete(grid)
    rows = []
    for weak in TEACHERS:
        own = missing.filter(pl.col("weak") == weak)
        none = own.filter(pl.col("seeds") == 0)
        few = own.filter((pl.col("seeds") > 0) & (pl.col("seeds") < SEEDS))
        without = own.filter(~pl.col("ceiling") & (pl.col("seeds") > 0))
        named = [f"{a:,}/{b:,} ({n})" for _, a, b, n, _ in few.iter_rows()]
        rows.append((weak, full - none.height - few.height, none.height, ", ".join(named) or "–", without.height))
    head = ("teacher", f"cells of {full} with {SEEDS} seeds", "without a student")
    yield markdown((*head, "with fewer seeds: labelled/transfer (seeds)", "with students but no ceiling"), rows)


def _pgr_tables(cells: Cells, found: Interval, weak: str) -> str:
    at = {row: i for i, row in enumerate(cells.frame.select(CELL).iter_rows())}
    rows = []
    for labelled in LABELLED:
        if not any((weak, labelled, transfer) in at for transfer in TRANSFER):
            continue
        row = [f"{labelled:,}"]
        for transfer in TRANSFER:
            i = at.get((weak, labelled, transfer))
            if i is None:
                row.append("–")
                continue
            few = "*" if cells.frame["n_seeds"][i] < SEEDS else ""
            row.append(_with_interval(found.estimate[i], found.low[i], found.high[i]) + few)
        rows.append(row)
    return markdown((f"{weak}: labelled", *(f"{transfer:,} to transfer" for transfer in TRANSFER)), rows)


def _aggregate_rows(cells: Cells, drawn: Drawn, gaps: Interval) -> Iterator[tuple[object, ...]]:
    """Per teacher: cells, cells without a gap, mean PGR over cells with one, PGR of mean accuracies over all cells.

    The mean has a second interval with seeds varying only: what would be left of the first if all models of a cell
    erred on the same examples. The truth lies between the two.
    """
    fixed = Drawn(drawn.seeds, np.broadcast_to(cells.means, drawn.seeds.shape), drawn.seeds)
    for weak in TEACHERS:
        own = _rows(cells.frame, weak=weak)
        counted = own[gaps.low[own] > 0]
        mean, narrow = (
            interval(cells, d, lambda a, rows=counted: pgr_of(a[..., rows, :]).mean(axis=-1)) for d in (drawn, fixed)
        )
        whole = interval(cells, drawn, lambda a, rows=own: pgr_of(a[..., rows, :].mean(axis=-2)))
        gap = f"{gaps.estimate[own].min():.3f} to {gaps.estimate[own].max():.3f}"
        numbers = [_with_interval(float(i.estimate), float(i.low), float(i.high), 3) for i in (mean, narrow, whole)]
        yield (weak, own.size, own.size - counted.size, gap, *numbers)


def _surface_rows(grid: Grid, cells: Cells) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    errors, planes = [], []
    for weak in TEACHERS:
        for family in (ADDITIVE_POWER, LOG_ODDS_PLANE):
            fit = error_surface(grid, weak, family)
            values = parameter_intervals(fit)
            note = _status(fit)
            for term, exponent, size in (("A", "alpha", "labelled"), ("B", "beta", "transfer")):
                if values.get(term, (1.0,))[0] == 0:  # a falling term that nothing asks for
                    del values[term], values[exponent]
                    note = f"error does not fall with the {size} size, its term is zero; otherwise {note}"
            values = ", ".join(f"{name} {v:.3g} [{low:.3g}, {high:.3g}]" for name, (v, low, high) in values.items())
            errors.append((weak, family.name, len(fit.points), values, f"{fit.dispersion:.1f}", note))
        plane = pgr_surface(cells, weak)
        slopes = parameter_intervals(plane)
        planes.append(
            (weak, len(plane.points), *(_with_interval(*slopes[name]) for name in "bc"), f"{plane.dispersion:.3f}")
        )
    return errors, planes


def _status(fit: Fit) -> str:
    return fit.status.value + (f": {fit.diagnosis}" if fit.diagnosis else "")


def report(data: Path) -> str:
    """All tables, in markdown."""
    grid = sst2(data)
    cells = cells_of(grid)
    drawn = draw(cells)
    found, gaps = interval(cells, drawn, pgr_of), interval(cells, drawn, gap_of)
    errors, planes = _surface_rows(grid, cells)
    lines = [
        "Share of the variance of log-odds that main effects of both sizes explain:",
        "",
        _labels_table(data),
        "",
        "What is missing, with corrected labels:",
        "",
        *_missing_lines(grid),
        "",
        markdown(
            ("teacher", "cells", "without a gap", "gap", "mean PGR", "the same, seeds only", "PGR of mean accuracies"),
            _aggregate_rows(cells, drawn, gaps),
        ),
        "",
        f"Scatter of ceilings about both sizes' effects: {ceiling_scatter(grid):.4f} of accuracy.",
        "",
        *(line for weak in TEACHERS for line in (_pgr_tables(cells, found, weak), "")),
        "\\* fewer than three seeds.",
        "",
        markdown(
            ("teacher", "surface of student error", "n", "parameters", "times binomial variance", "status"), errors
        ),
        "",
        markdown(("teacher", "n", "PGR per tenfold labelled", "PGR per tenfold transfer", "residual s.d."), planes),
    ]
    return "\n".join(lines) + "\n"


# --- figures ---------------------------------------------------------------------------------------------------------


def _size_axis(axis, values: tuple[int, ...]) -> None:
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k"))


def _pgr_panel(axes: Axes, cells: Cells, found: Interval, weak: str) -> None:
    for place, labelled in enumerate(LABELLED):
        own = _rows(cells.frame, weak=weak, n_labelled=labelled)
        if own.size < 2:
            continue
        x, colour = cells.frame["n_transfer"].to_numpy()[own], supervisor_colour(place, len(LABELLED))
        if labelled == BANDED:
            axes.fill_between(x, found.low[own], found.high[own], color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, found.estimate[own], color=colour, linewidth=1.1, marker="o", markersize=2.6)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set(xscale="log", xlim=(7300, 43500))
    axes.set_title(weak)
    _size_axis(axes.xaxis, (8000, 15000, 25000, 40000))


def _surface_panel(axes: Axes, grid: Grid, weak: str, levels: Array):
    fit = error_surface(grid, weak, LOG_ODDS_PLANE)
    means = grid.students.filter(pl.col("weak") == weak).group_by(CELL[1:]).agg(pl.col("accuracy").mean(), pl.len())
    x = np.geomspace(3700, fit.axes[0].high * 1.08, 60)  # the plane is drawn where there are measurements
    y = np.geomspace(7400, 43500, 60)
    xx, yy = np.meshgrid(x, y)
    z = 1 - fit.at(np.stack([xx.ravel(), yy.ravel()], axis=-1)).reshape(xx.shape)
    filled = axes.contourf(x, y, z, levels=levels, cmap="viridis")
    lines = axes.contour(x, y, z, levels=levels[::2], colors="white", linewidths=0.6)
    axes.clabel(lines, fmt=lambda value: f"{value:.2f}", fontsize=7)
    axes.scatter(
        means["n_labelled"], means["n_transfer"], c=means["accuracy"], s=26, cmap="viridis",
        norm=Normalize(levels[0], levels[-1]),
        edgecolors=["white" if n == SEEDS else "#D55E00" for n in means["len"]], linewidths=0.8, zorder=3,
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(3700, 16300), ylim=(7400, 43500))
    axes.grid(False)
    _size_axis(axes.xaxis, (4000, 6000, 9000, 15000))
    _size_axis(axes.yaxis, TRANSFER)
    return filled


def grid_figure(data: Path) -> Figure:
    """PGR against the transfer size per teacher, and student accuracy over both sizes with its fitted plane."""
    grid = sst2(data)
    cells = cells_of(grid)
    found = interval(cells, draw(cells), pgr_of)
    with style():
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        axes = figure.subplots(2, len(TEACHERS), sharey="row")
        levels = np.arange(0.68, 0.921, 0.02)
        filled = None
        for column, weak in enumerate(TEACHERS):
            _pgr_panel(axes[0, column], cells, found, weak)
            filled = _surface_panel(axes[1, column], grid, weak, levels)
            axes[0, column].set_xlabel("examples to transfer (log)")
            axes[1, column].set_xlabel("labelled examples (log)")
        axes[0, 0].set_ylabel("PGR of electra-base")
        axes[1, 0].set_ylabel("examples to transfer (log)")
        assert filled is not None
        bar = figure.colorbar(filled, ax=axes[1, :], fraction=0.03, pad=0.01, ticks=levels[::2])
        bar.set_label("accuracy of the student")
        shown = [(i, n) for i, n in enumerate(LABELLED) if n in cells.frame["n_labelled"]]
        handles = [
            Line2D([], [], color=supervisor_colour(i, len(LABELLED)), marker="o", markersize=3, label=f"{n / 1000:g}k")
            for i, n in reversed(shown)
        ]
        axes[0, -1].legend(handles=handles, title="labelled", loc="center left", bbox_to_anchor=(1.02, 0.5))
        figure.supxlabel(
            f"Top: PGR of mean accuracies over 3 seeds (one of the ceiling) on {SST2_TEST:,} test phrases; band: 95 %"
            f" interval at {BANDED:,} labelled.\nBottom: log-odds plane fitted to all seeds; points are measured means,"
            " ringed in orange where a seed is missing. What was not run is white.",
            fontsize=8,
            x=0.01,
            ha="left",
        )
    return figure


def labels_figure(data: Path) -> Figure:
    """Ceiling accuracy against transfer size with the labels as published and corrected."""
    with style():
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for panel, as_published in zip(axes, (True, False), strict=True):
            frame = sst2(data, as_published=as_published).ceilings
            for place, labelled in enumerate(LABELLED):
                own = frame.filter(pl.col("n_labelled") == labelled)
                colour = supervisor_colour(place, len(LABELLED))
                panel.plot(own["n_transfer"], own["accuracy"], color=colour, marker="o", markersize=3, linewidth=1)
            panel.set(xscale="log", xlabel="examples to transfer (log)")
            panel.set_title("labels as published" if as_published else "labels corrected")
            _size_axis(panel.xaxis, TRANSFER)
        axes[0].set_ylabel("accuracy of the ceiling")
        figure.supxlabel(f"One line per label size, 4k dark to 15k light; one seed; n = {SST2_TEST:,}.", fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="write the tables here, in markdown")
    parser.add_argument("--figures", type=Path, help="write w2s_grid.png and w2s_labels.png into this folder")
    options = parser.parse_args()
    text = report(options.data)
    print(text, end="")
    if options.out:
        options.out.write_text(text)
    if options.figures:
        options.figures.mkdir(parents=True, exist_ok=True)
        for name, figure in (("w2s_grid", grid_figure(options.data)), ("w2s_labels", labels_figure(options.data))):
            (options.figures / f"{name}.png").write_bytes(render(figure)["png"])


if __name__ == "__main__":
    main()
