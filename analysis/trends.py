"""Curves over strong-model compute for each section: accuracies, agreements, and PGR derived from them.

Accuracies and agreements are fitted (binomial likelihood, log-odds); PGR is never fitted here but computed from the
curves of student and ceiling and the supervisor's measured accuracy, in every joint draw anew, so that its band knows
what the three share. Points share test examples and seeds vary, so the binomial n gives the points their relative
weights, not the uncertainty: bands and the intervals of parameters come from refitting joint draws.

A curve with a bend needs five models: at most n - 2 parameters. With three or four a straight line in log-odds stands
in.

Each curve is tested against its own points (`analysis.misfit`). One that they contradict is not drawn, no PGR is
derived from it, and its row of fits says so. One that they do not contradict may still miss them by more than their
noise: bands hold that discrepancy too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtri

from analysis.bent import BENT, asymptote, exponent, levels_off, sense
from analysis.errors import AnalysisError
from analysis.estimates import Estimates
from analysis.frames import SHARE, in_method_order, select_section
from analysis.gaps import SECTION_KEY
from analysis.grouping import SectionDraws, SectionPairs
from analysis.intervals import Interval
from analysis.lines import KINDS, Line, Values, accuracies_of, agreements_of, lines_of
from analysis.misfit import ALPHA, Goodness, discrepancy_at, goodness
from analysis.refits import refit
from analysis.scaling.families import LOG_ODDS_LINEAR, Family
from analysis.scaling.fitting import Fit, FitStatus, axes_of, bounds_of, judged
from analysis.scaling.losses import Loss, LossName
from analysis.scaling.points import Points
from analysis.scaling.solver import Solution, solve

GRID_POINTS = 41
MIN_POINTS = 3
REFUSED = "refused"
"""Status of a curve that could not be fitted; its diagnosis says why."""
DOES_NOT_FIT = "does not fit"
"""Status of a curve that its own points contradict."""
AGREEMENTS = ("agreement", "agreement_when_weak_right", "agreement_when_weak_wrong")
BINOMIAL = Loss(LossName.BINOMIAL)
_KINDS_OF_CURVES = ("weak", "ceiling", "student", *AGREEMENTS)
_TOGETHER = 64
"""Curves fitted in one go; more would only need more memory."""

_KEY_SCHEMA: dict[str, Any] = dict.fromkeys((*SECTION_KEY, "quantity", "method", "weak"), pl.String)
FITS_SCHEMA = (
    _KEY_SCHEMA
    | {"family": pl.String, "status": pl.String, "testable": pl.Boolean, "diagnosis": pl.String, "n_points": pl.Int64}
    | dict.fromkeys(("asymptote", "asymptote_low", "asymptote_high"), pl.Float64)
    | dict.fromkeys(("exponent", "exponent_low", "exponent_high"), pl.Float64)
    | {"fit_p": pl.Float64, "objective": pl.Float64, "x_low": pl.Float64, "x_high": pl.Float64}
)
CURVES_SCHEMA = _KEY_SCHEMA | {"x": pl.Float64, "y": pl.Float64, "y_low": pl.Float64, "y_high": pl.Float64}


@dataclass(frozen=True)
class Trends:
    """Frames of fits and of their curves."""

    fits: pl.DataFrame
    """One row per curve, fitted or refused; `method` and `weak` are null where they do not apply. `exponent` is alpha
    of log-odds = L + A x^-alpha; it and `asymptote` are null where the points do not determine them. `fit_p` is the
    probability of residuals as large as those found if the curve were true; null with one seed, which says nothing of
    the noise of seeds."""
    curves: pl.DataFrame
    """The curves that fit and their bands on a grid of compute within the range of the points."""

    def __repr__(self) -> str:
        return f"Trends(rows: fits {self.fits.height}, curves {self.curves.height})"


@dataclass(frozen=True)
class _Job:
    """Shares along a line that want a curve."""

    key: dict[str, Any]
    x: np.ndarray
    """Ascending, shape (point,)."""
    values: Values
    n_test: int


@dataclass(frozen=True)
class _Fitted:
    """A curve fitted at the estimate and in every kind of draw."""

    fit: Fit
    kinds: tuple[np.ndarray, ...]
    """Parameters, each of shape (draw, parameter)."""
    n_seeds: int
    good: Goodness
    errors: np.ndarray
    """Of the curve itself in each draw, in units of its discrepancy, shape (draw,)."""

    @property
    def grid(self) -> np.ndarray:
        """Compute from the smallest to the largest point."""
        axis = self.fit.axes[0]
        return np.geomspace(axis.low, axis.high, GRID_POINTS)

    def on(self, grid: np.ndarray) -> Values:
        """The curves at some compute; draws know how far off the curve may be."""
        u = self.fit.position(grid)
        both, examples, seeds = (self.fit.family.predict(parameters, u) for parameters in self.kinds)
        off = self.errors[:, None] * discrepancy_at(self.fit, self.good, grid)
        return Values.of((self.fit.at(grid), both + off, examples + off, seeds), self.n_seeds)

    def parameter(self, compute: Callable[[np.ndarray], np.ndarray]) -> Values:
        """What parameters mean in the table's units."""
        return Values.of((compute(p)[..., None] for p in (self.fit.parameters, *self.kinds)), self.n_seeds)


def trends(estimates: Estimates) -> Trends:
    """Fit all curves of some estimates. Curves with too few points are marked refused."""
    sections = [_Section.of(estimates, grouped, drawn) for grouped, drawn in estimates.sections]
    jobs = [job for section in sections for job in section.jobs]
    fitted = iter(_fit_all(jobs))
    fits: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for section in sections:
        section.note(fitted, fits, curves)
    return Trends(
        fits=in_method_order(pl.DataFrame(fits, schema=FITS_SCHEMA), "weak", first=("quantity",)),
        curves=in_method_order(pl.DataFrame(curves, schema=CURVES_SCHEMA), "weak", "x", first=("quantity",)),
    )


@dataclass(frozen=True)
class _Section:
    """What of one section wants curves."""

    grouped: SectionPairs
    drawn: SectionDraws
    lines: list[Line]
    gaps: set[tuple[str, str, str]]
    """(weak, strong, baseline) that have one."""
    jobs: list[_Job]

    @classmethod
    def of(cls, estimates: Estimates, grouped: SectionPairs, drawn: SectionDraws) -> "_Section":
        x = dict(select_section(estimates.ladder, grouped.section).select("model", "x").iter_rows())
        pairs = select_section(estimates.pairs, grouped.section).filter("has_gap")
        gaps = set(pairs.select("weak", "strong", "baseline").iter_rows())
        lines = lines_of(grouped, x)
        jobs: list[_Job] = []

        def add(quantity: str, x: np.ndarray, values: Values, line: Line | None = None) -> None:
            names = {"method": line.method, "weak": line.weak} if line else {"method": None, "weak": None}
            jobs.append(_Job({**grouped.section._asdict(), "quantity": quantity, **names}, x, values, drawn.n_test))

        for quantity, cells in (("weak", grouped.supervisors), ("ceiling", grouped.ceilings)):
            models = sorted(cells, key=lambda model: x[model])
            if models:
                values = accuracies_of(drawn, [cells[model] for model in models])
                add(quantity, np.array([x[model] for model in models]), values)
        for line in lines:
            add("student", line.x, accuracies_of(drawn, [pair.student for pair in line.pairs]), line)
            for quantity, values in zip(AGREEMENTS, agreements_of(drawn, line.pairs), strict=True):
                add(quantity, line.x, values, line)
            if line.own_baseline:
                add("ceiling", line.x, accuracies_of(drawn, [pair.ceiling for pair in line.pairs]), line)
        return cls(grouped, drawn, lines, gaps, jobs)

    def note(self, fitted: Iterator["_Fitted | AnalysisError"], fits: list[dict], curves: list[dict]) -> None:
        """Write down the fits of the section's jobs, their curves, and the PGR derived from them."""
        level = self.drawn.level
        found: dict[tuple, _Fitted] = {}
        for job in self.jobs:
            one = next(fitted)
            if isinstance(one, AnalysisError):
                refused = {"status": REFUSED, "testable": False, "diagnosis": str(one), "n_points": job.x.size}
                fits.append(job.key | refused)
                continue
            fits.append(job.key | _fit_row(one, level))
            if one.good.refused:
                continue
            found[job.key["quantity"], job.key["method"], job.key["weak"]] = one
            curves.extend(_curve_rows(job.key, one.grid, one.on(one.grid).interval(level).within(*SHARE)))
        for line in self.lines:
            student = found.get(("student", line.method, line.weak))
            with_gap = [at for pair, at in zip(line.pairs, line.x, strict=True) if pair.gap_key in self.gaps]
            top = found.get(("ceiling", line.method, line.weak) if line.own_baseline else ("ceiling", None, None))
            floor = line.supervisor if line.own_baseline else self.grouped.supervisors.get(line.weak)
            if student is None or top is None or floor is None or not with_gap:
                continue
            pgr = _pgr_curve(student, top, accuracies_of(self.drawn, [floor]), level, from_x=min(with_gap))
            if pgr is not None:
                key = {**self.grouped.section._asdict(), "quantity": "pgr", "method": line.method, "weak": line.weak}
                curves.extend(_curve_rows(key, *pgr))


def choose_family(n_points: int) -> Family:
    """A curve with a bend where there are points to contradict it, else a straight line.

    Raises:
        AnalysisError: Fewer than 3 points; a line through two always fits and says nothing.
    """
    if n_points < MIN_POINTS:
        raise AnalysisError(
            f"a curve needs at least {MIN_POINTS} strong models of different compute, there are {n_points}"
        )
    return BENT if n_points >= BENT.n_parameters + 2 else LOG_ODDS_LINEAR


def _fit_all(jobs: Sequence[_Job]) -> list["_Fitted | AnalysisError"]:
    """Fit all jobs; those on the same x in one go, with all their draws."""
    found: list[_Fitted | AnalysisError] = [AnalysisError("")] * len(jobs)
    together: dict[tuple[float, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        try:
            choose_family(job.x.size)
            if np.unique(job.x).size != job.x.size:
                raise AnalysisError("two models have the same compute")
            if not np.all(np.isfinite(job.values.estimate)):
                raise AnalysisError("a share is undefined because there is no example to compute it from")
        except AnalysisError as error:
            found[index] = error
            continue
        together.setdefault(tuple(job.x), []).append(index)
    for x, members in together.items():
        for first in range(0, len(members), _TOGETHER):
            part = members[first : first + _TOGETHER]
            for index, fitted in zip(part, _fit_together(np.array(x), [jobs[i] for i in part]), strict=True):
                found[index] = fitted
    return found


def _fit_together(x: np.ndarray, jobs: Sequence[_Job]) -> Iterator[_Fitted]:
    family = choose_family(x.size)
    points = [Points(x[:, None], job.values.estimate, np.full(x.size, float(job.n_test))) for job in jobs]
    axes = axes_of(points[0], family)
    u = axes[0].position(x)[:, None]
    data, counts, indices = [], [], []
    for job in jobs:
        rows, index = job.values.rows()
        half = 0.5 / job.n_test
        data.append(np.clip(rows, half, 1 - half))
        counts.append(np.full(rows.shape, float(job.n_test)))
        indices.append(index)
    bounds = bounds_of(points[0], family)
    every, n = np.concatenate(data), np.concatenate(counts)
    ends = np.cumsum([rows.shape[0] for rows in data])
    firsts = ends - [rows.shape[0] for rows in data]
    best = solve(family, u, every[firsts], n[firsts], BINOMIAL, bounds=bounds)
    drawn = np.setdiff1d(np.arange(every.shape[0]), firsts)
    parameters = np.empty((every.shape[0], family.n_parameters))
    parameters[firsts] = best.parameters
    parameters[drawn] = refit(family, u, every[drawn], n[drawn], BINOMIAL, bounds)
    for i, (job, own) in enumerate(zip(jobs, points, strict=True)):
        flat = None if best.flat is None else best.flat[i : i + 1]
        one = Solution(best.parameters[i : i + 1], best.objective[i : i + 1], best.converged[i : i + 1], flat)
        fit = judged(own, family, BINOMIAL, axes, one)
        kinds = np.split(parameters[firsts[i] : ends[i]][indices[i]], KINDS)
        rng = np.random.default_rng([_KINDS_OF_CURVES.index(job.key["quantity"]), x.size])
        errors = rng.permutation(ndtri((np.arange(len(kinds[0])) + 0.5) / len(kinds[0])))
        yield _Fitted(fit, tuple(kinds), job.values.fewest_seeds, goodness(fit, job.values), errors)


def _pgr_curve(
    student: _Fitted, ceiling: _Fitted, weak: Values, level: float, *, from_x: float
) -> tuple[np.ndarray, Interval] | None:
    """PGR over the students' range, from the smallest one with a gap and where the ceiling's curve is above the
    supervisor in the lower bound too: elsewhere the ratio means nothing."""
    grid = student.grid
    n_seeds = min(student.n_seeds, ceiling.n_seeds, weak.fewest_seeds)
    kinds = list(zip(weak.kinds(), student.on(grid).kinds(), ceiling.on(grid).kinds(), strict=True))
    clear = Values.of((c - w for w, _, c in kinds), n_seeds).interval(level).low > 0
    clear &= grid >= from_x * (1 - 1e-9)
    if clear.sum() < 2:
        return None
    pgr = Values.of(((s - w)[..., clear] / (c - w)[..., clear] for w, s, c in kinds), n_seeds)
    return grid[clear], pgr.interval(level)


def _fit_row(fitted: _Fitted, level: float) -> dict[str, Any]:
    fit, refused = fitted.fit, fitted.good.refused
    bent = fit.family is BENT
    notes = [fit.diagnosis] if fit.diagnosis else []
    if refused:
        notes.insert(0, f"its points scatter about the curve by more than their noise (p = {fitted.good.p:.2g})")
    elif fitted.good.p is None:
        notes.append("fit not tested: one seed says nothing about the noise of seeds")
    row: dict[str, Any] = {
        "family": sense(fit.parameters) if bent else fit.family.name,
        "status": DOES_NOT_FIT if refused else str(fit.status),
        "testable": fit.testable,
        "diagnosis": "; ".join(notes),
        "n_points": len(fit.points),
        "fit_p": fitted.good.p,
        "objective": fit.objective,
        "x_low": fit.axes[0].low,
        "x_high": fit.axes[0].high,
    }
    if bent and not refused and fit.status is FitStatus.CONVERGED and levels_off(fit.parameters):
        natural = {"asymptote": asymptote, "exponent": lambda p: exponent(p, fit.axes[0])}
        for column, compute in natural.items():
            interval = fitted.parameter(compute).interval(level)
            if column == "asymptote":
                interval = interval.within(*SHARE)
            for bound, value in (("", interval.estimate), ("_low", interval.low), ("_high", interval.high)):
                row[f"{column}{bound}"] = float(value[0])
    return row


def _curve_rows(key: dict[str, Any], grid: np.ndarray, interval: Interval) -> list[dict[str, Any]]:
    columns = zip(grid, interval.estimate, interval.low, interval.high, strict=True)
    return [key | {"x": float(x), "y": float(y), "y_low": float(lo), "y_high": float(hi)} for x, y, lo, hi in columns]


def misfits(fits: pl.DataFrame) -> list[str]:
    """Which curves of one section their own points contradict, in a sentence; none where all fit.

    Args:
        fits: `Trends.fits` of the section.
    """
    rows = fits.filter(pl.col("status") == DOES_NOT_FIT).to_dicts()
    if not rows:
        return []
    n = fits.filter(pl.col("fit_p").is_not_null()).height
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(_WORDS[row["quantity"]], []).append(
            "" if row["method"] is None else f"{row['method']} under {row['weak']}"
        )
    which = [
        words + (f" ({', '.join(lines[:_NAMED])}{_more(lines)})" if lines[0] else "") for words, lines in names.items()
    ]
    return [
        f"{len(rows)} of {n} curves that could be tested do not fit: their points scatter about them by more than their"
        f" noise, at a level of {ALPHA * 100:g} % each. They are {'; '.join(which)}. Of these only the points are"
        " drawn, joined by thin lines, and no PGR curve is derived."
    ]


_WORDS = {
    "weak": "accuracy of supervisors",
    "ceiling": "accuracy of ceilings",
    "student": "accuracy of students",
    "agreement": "agreement",
    "agreement_when_weak_right": "agreement where the supervisor is right",
    "agreement_when_weak_wrong": "agreement where it is wrong",
}
_NAMED = 4


def _more(lines: Sequence[str]) -> str:
    return f", and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
