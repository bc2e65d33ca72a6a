"""What a researcher types in a notebook: finished sweeps as tables, numbers and axes.

    results = analysis.load("results/facts")
    results.pairs()                                     # PGR, agreement, ... of every pair, with intervals
    results.pgr(method="confidence")                    # over the grid
    results.compare("confidence")                       # minus naive, paired
    results.plot("pgr", method="confidence")            # matplotlib axes, yours if you pass them
    results.predict("pgr", method="naive")              # beyond the largest model, with a status
    results.predict("pgr", at=3e12)                     # at some compute
    results.extrapolation.skill                         # how such predictions did on hidden models

Everything returns polars frames; what takes time is computed once, when first asked for.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import plots
from analysis.errors import AnalysisError
from analysis.estimates import REFERENCE_METHOD, Estimates, Options, compare, estimate
from analysis.extrapolation import UNDEFINED, Extrapolation, extrapolate
from analysis.plots.accuracy import accuracy_panel
from analysis.plots.marks import lines_by_supervisor
from analysis.plots.pgr import pgr_panel
from analysis.plots.style import in_order, style, x_label
from analysis.results import Results
from analysis.results import load as load_results
from analysis.scores import by_metric
from analysis.tags import by_tag
from analysis.trends import Trends, trends

QUANTITIES = ("accuracy", "pgr", "agreement", "agreement_when_weak_right", "agreement_when_weak_wrong")

CONTINUED = ("pgr", "student", "ceiling")
_NAMED = 6
"""Curves that a message names."""


class SweepResults:
    """Finished sweeps of a storage.

    Args:
        results: What was read.
        options: How intervals are made.
    """

    def __init__(self, results: Results, options: Options | None = None) -> None:
        self.results = results
        self.options = options or Options()

    def __repr__(self) -> str:
        return f"Sweep{self.results!r}"

    @property
    def runs(self) -> pl.DataFrame:
        """One row per finished run: model, task, seed, method, sizes, FLOPs, accuracy, AUROC, ..."""
        return self.results.runs

    @cached_property
    def estimates(self) -> Estimates:
        """All estimates with intervals, see `analysis.estimate`."""
        return estimate(self.results, self.options)

    @cached_property
    def scores(self) -> pl.DataFrame:
        """Scores beside accuracy, of tasks that ask for any, see `analysis.scores.by_metric`."""
        return by_metric(self.results, self.estimates)

    @cached_property
    def tags(self) -> pl.DataFrame:
        """Accuracy by tag, of tasks whose examples have tags, see `analysis.tags.by_tag`."""
        return by_tag(self.results, self.estimates)

    @cached_property
    def trends(self) -> Trends:
        """Curves within the measured range."""
        return trends(self.estimates)

    @cached_property
    def extrapolation(self) -> Extrapolation:
        """Curves beyond it, and their tests."""
        return extrapolate(self.estimates, self.trends)

    def pairs(
        self,
        *,
        task: str | None = None,
        method: str | None = None,
        weak: str | None = None,
        strong: str | None = None,
        by_seed: bool = False,
    ) -> pl.DataFrame:
        """Accuracies, gap, PGR and agreement of pairs: over seeds with `..._low` and `..._high`, or at single seeds.

        Raises:
            AnalysisError: No pair has such a task, method or model.
        """
        frame = self.results.pairs if by_seed else self.estimates.pairs
        return _select(frame, task=task, method=method, weak=weak, strong=strong)

    def pgr(self, *, task: str | None = None, method: str | None = None, over: str = "pairs") -> pl.DataFrame:
        """PGR of methods over the grid, with intervals.

        Args:
            task: Only this one.
            method: Only this one.
            over: `pairs`: a row per task, method and statistic (mean and median over pairs with a gap, and PGR of mean
                accuracies over all pairs); `tasks`: medians over tasks of their own PGR, and PGR of means over tasks.

        Raises:
            AnalysisError: Unknown `over`, or nothing has such a task or method.
        """
        if over not in ("pairs", "tasks"):
            raise AnalysisError(f"over is {over!r}; take pairs or tasks")
        if over == "tasks":
            if task is not None:
                raise AnalysisError("over='tasks' joins all tasks; leave task out")
            if self.estimates.tasks.is_empty():
                raise AnalysisError(
                    "over='tasks' takes medians over tasks that were trained alike, and"
                    f" {_tasks_there(self.estimates)}; over='pairs' has each task by itself"
                )
            return _select(self.estimates.tasks, method=method)
        return _select(self.estimates.methods, task=task, method=method)

    def compare(self, method: str, reference: str = REFERENCE_METHOD) -> pl.DataFrame:
        """Method minus reference in PGR and accuracy, paired, overall and by rungs between weak and strong."""
        return compare(self.estimates, method, reference)

    def predict(
        self,
        quantity: str = "pgr",
        *,
        at: float | Sequence[float] | None = None,
        task: str | None = None,
        method: str | None = None,
        weak: str | None = None,
    ) -> pl.DataFrame:
        """Predictions beyond the largest strong model, with 50, 80 and 95 % bands and a status that says how far to
        trust them: whether predictions of hidden models beat simple baselines, and whether the curve fits what was
        measured. Where `y` is null nothing is predicted, since the gap may be gone there. `.extrapolation` has the
        tests.

        Args:
            quantity: `pgr`, `student` or `ceiling` (accuracies).
            at: Strong-model compute, one value or several (by default steps up to ten times the largest measured);
                interpolated between these steps.
            task: Only this one, as are the next two.
            method: Of students.
            weak: Supervisor.

        Raises:
            AnalysisError: Nothing of the kind was continued; the message says of which students, and why. Or `at` is
                within the measured range, or beyond ten times its end.
        """
        if quantity not in CONTINUED:
            raise AnalysisError(f"{quantity!r} is not continued; take one of {', '.join(CONTINUED)}")
        wanted = {"task": task, "method": method, "weak": weak}
        rows = [pl.col(name) == value for name, value in wanted.items() if value is not None]
        same = [pl.col("quantity") == quantity, *rows]
        found = self.extrapolation.predictions.filter(same)
        if found.is_empty():
            if quantity != "ceiling":
                _select(self.estimates.pairs, **wanted)
            reasons = self.extrapolation.refused.filter(same)
            raise AnalysisError(f"no {quantity} is continued beyond the largest model{_told(reasons)}")
        return found if at is None else _interpolated(found, np.atleast_1d(np.asarray(at, dtype=np.float64)))

    def plot(
        self,
        quantity: str = "pgr",
        *,
        ax: Axes | None = None,
        task: str | None = None,
        method: str | None = None,
        weak: str | None = None,
    ) -> Axes:
        """Points with intervals and fitted curves over strong-model compute.

        Args:
            quantity: `accuracy` (under one supervisor, by default the weakest: floor, students of all methods,
                ceiling), `pgr`
                or an agreement (of one method, by default the reference: a line per supervisor).
            ax: Where to draw; a new figure by default.
            task: Needed where there are several.
            method: Of `pgr` and agreement.
            weak: Of `accuracy`.

        Raises:
            AnalysisError: Unknown quantity, several tasks or settings to choose from, or nothing to draw.
        """
        if quantity not in QUANTITIES:
            raise AnalysisError(f"there is no plot of {quantity!r}; take one of {', '.join(QUANTITIES)}")
        grouped = [grouped for grouped, _ in self.estimates.sections if task in (None, grouped.section.task)]
        if len(grouped) != 1:
            known = ", ".join(sorted({g.section.task for g, _ in self.estimates.sections})) or "none"
            raise AnalysisError(
                f"name one task to plot; there are: {known}. Of several sweeps or settings, load one sweep"
            )
        section = grouped[0].section
        pairs, ladder, curves = (
            self.estimates.of(section, frame)
            for frame in (self.estimates.pairs, self.estimates.ladder, self.trends.curves)
        )
        with style():
            ax = ax if ax is not None else Figure(figsize=(6.4, 4.2), layout="constrained").subplots()
            if quantity == "accuracy":
                supervisor = weak or in_order(pairs, "weak", "weak_rung")[0]
                _select(pairs, weak=supervisor)
                accuracy_panel(ax, supervisor, pairs, ladder, curves)
            else:
                method = method or plots.shown_methods(pairs["method"])[0]
                own = _select(pairs, method=method)
                if quantity == "pgr":
                    pgr_panel(ax, method, own, ladder, curves)
                else:
                    lines_by_supervisor(ax, quantity, method, own, ladder, curves)
            ax.set_xlabel(x_label(ladder))
            ax.set_ylabel({"accuracy": "test accuracy", "pgr": "PGR"}.get(quantity, "agreement"))
        return ax


def load(storage: str, sweep: str | None = None, *, options: Options | None = None) -> SweepResults:
    """Read the results of one sweep, or of everything in a storage.

    Args:
        storage: Folder or fsspec URL that holds `runs/` and `sweeps/`.
        sweep: Id of a sweep in `sweeps/`; None unites all of them.
        options: How intervals are made.

    Raises:
        AnalysisError: There is no such storage or sweep, or sweeps that are united call one run by different names.
    """
    return SweepResults(load_results(str(storage), sweep), options)


def _interpolated(found: pl.DataFrame, at: np.ndarray) -> pl.DataFrame:
    """Predictions at some compute, linear in log compute between the steps of each curve."""
    values = [name for name in found.columns if name.startswith("y")]
    curve = [name for name in found.columns if name not in ("x", "reach", "status", *values)]
    rows = []
    for steps in found.sort("x").partition_by(curve, maintain_order=True):
        x = steps["x"].to_numpy()
        outside = ~((at >= x[0] * (1 - 1e-9)) & (at <= x[-1] * (1 + 1e-9)))
        if outside.any():
            named = [steps[name][0] for name in ("quantity", "method", "weak")]
            raise AnalysisError(
                f"at is {at[outside][0]:.4g}; predictions of {' of '.join(part for part in named[:2] if part)}"
                f"{f' under {named[2]}' if named[2] else ''} go from {x[0]:.4g}, the largest measured compute, to"
                f" {x[-1]:.4g}: for what lies below, see .trends.curves"
            )
        columns = {
            name: np.interp(np.log(at), np.log(x), steps[name].cast(pl.Float64).fill_null(np.nan)) for name in values
        }
        status = steps["status"].gather(np.clip(np.searchsorted(x * (1 - 1e-9), at, side="right") - 1, 0, None))
        part = pl.DataFrame({"x": at, "reach": at / x[0], **columns, "status": status}).with_columns(
            pl.col(values).fill_nan(None), *(pl.lit(steps[name][0], pl.String).alias(name) for name in curve)
        )
        nothing = pl.col("y").is_null()
        rows.append(part.with_columns(status=pl.when(nothing).then(pl.lit(UNDEFINED)).otherwise("status")))
    return pl.concat(rows).select(found.columns)


def _tasks_there(estimates: Estimates) -> str:
    tasks = sorted({grouped.section.task for grouped, _ in estimates.sections})
    return f"there is only {tasks[0]}" if len(tasks) == 1 else f"of {', '.join(tasks) or 'none'} no two were"


def _told(reasons: pl.DataFrame) -> str:
    """Why curves were not continued, the first ones by name."""
    several = reasons["task"].n_unique() > 1
    parts = [
        f"{row['task'] + ': ' if several else ''}{row['method']} under {row['weak']}: {row['reason']}"
        for row in reasons.head(_NAMED).to_dicts()
    ]
    more = f"; and {reasons.height - _NAMED} more" if reasons.height > _NAMED else ""
    return f": {'; '.join(parts)}{more}" if parts else ""


def _select(frame: pl.DataFrame, **wanted: str | None) -> pl.DataFrame:
    """Rows with all given values.

    Raises:
        AnalysisError: A value occurs nowhere; the message lists those that do.
    """
    for column, value in wanted.items():
        if value is None:
            continue
        chosen = frame.filter(pl.col(column) == value)
        if chosen.is_empty():
            known = (
                ", ".join(str(v) for v in frame[column].drop_nulls().unique(maintain_order=True).to_list()) or "none"
            )
            raise AnalysisError(f"nothing has {column} {value!r} here; there are: {known}")
        frame = chosen
    return frame
