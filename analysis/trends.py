"""Curves over strong-model compute for each section: accuracies, agreements, and PGR derived from them.

Accuracies and agreements are fitted; PGR is never fitted itself but computed from the curves of student and ceiling
and the supervisor's measured accuracy, in every joint draw anew, so that its band knows what the three share.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.curves import Family
from analysis.errors import AnalysisError
from analysis.estimates import (
    OWN,
    SECTION_KEY,
    SHARE,
    Cell,
    Estimates,
    Pair,
    SectionDraws,
    SectionPairs,
    agreements,
    in_method_order,
)
from analysis.fitting import CurveFit, Curves, fit_curve, fit_many, position
from analysis.intervals import Interval, interval_of_draws

GRID_POINTS = 41
REFUSED = "refused"
"""Status of a curve that could not be fitted; its diagnosis says why."""
REFITS = 200
"""Joint draws that are refitted for a band."""
AGREEMENTS = ("agreement", "agreement_when_weak_right", "agreement_when_weak_wrong")

_KEY_SCHEMA: dict[str, Any] = dict.fromkeys((*SECTION_KEY, "quantity", "method", "weak"), pl.String)
FITS_SCHEMA = _KEY_SCHEMA | {
    "family": pl.String,
    "status": pl.String,
    "testable": pl.Boolean,
    "diagnosis": pl.String,
    "n_points": pl.Int64,
    "asymptote": pl.Float64,
    "start": pl.Float64,
    "rise": pl.Float64,
    "rate": pl.Float64,
    "deviance": pl.Float64,
    "x_low": pl.Float64,
    "x_high": pl.Float64,
}
CURVES_SCHEMA = _KEY_SCHEMA | {"x": pl.Float64, "y": pl.Float64, "y_low": pl.Float64, "y_high": pl.Float64}


@dataclass(frozen=True)
class Trends:
    """Frames of fits and of their curves."""

    fits: pl.DataFrame
    """One row per curve, fitted or refused; `method` and `weak` are null where they do not apply."""
    curves: pl.DataFrame
    """The curves and their bands on a grid of compute within the range of the points."""

    def __repr__(self) -> str:
        return f"Trends(rows: fits {self.fits.height}, curves {self.curves.height})"


@dataclass(frozen=True)
class _Values:
    """A quantity at its estimate and in the three kinds of draws, shapes (value,) and (draw, value)."""

    estimate: np.ndarray
    both: np.ndarray
    examples: np.ndarray
    seeds: np.ndarray
    n_seeds: int

    @classmethod
    def of(cls, kinds: Iterable[np.ndarray], n_seeds: int) -> "_Values":
        estimate, both, examples, seeds = kinds
        return cls(estimate, both, examples, seeds, n_seeds)

    def interval(self, level: float) -> Interval:
        return interval_of_draws(
            self.estimate, both=self.both, examples=self.examples, seeds=self.seeds, n_seeds=self.n_seeds, level=level
        )

    def kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.estimate, self.both, self.examples, self.seeds


@dataclass(frozen=True)
class _Fitted:
    """A curve fitted at the estimate and in every kind of draw."""

    fit: CurveFit
    kinds: tuple[Curves, ...]
    n_seeds: int

    @property
    def grid(self) -> np.ndarray:
        """Compute from the smallest to the largest point."""
        return np.geomspace(self.fit.x_low, self.fit.x_high, GRID_POINTS)

    def on(self, grid: np.ndarray) -> _Values:
        """The curves at some compute."""
        u = position(grid, self.fit.x_low, self.fit.x_high)
        return _Values.of((self.fit.predict(grid), *(curves.predict(u) for curves in self.kinds)), self.n_seeds)


def trends(estimates: Estimates) -> Trends:
    """Fit all curves of some estimates. Curves with too few points are marked refused."""
    fits: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for grouped, drawn in estimates.sections:
        ladder = estimates.of(grouped.section, estimates.ladder)
        gaps = estimates.of(grouped.section, estimates.pairs).filter("has_gap")
        x = dict(ladder.select("model", "x").iter_rows())
        keys = set(gaps.select("weak", "strong", "baseline").iter_rows())
        _section(grouped, drawn, x, keys, fits, curves)
    return Trends(
        fits=in_method_order(pl.DataFrame(fits, schema=FITS_SCHEMA), "weak", first=("quantity",)),
        curves=in_method_order(pl.DataFrame(curves, schema=CURVES_SCHEMA), "weak", "x", first=("quantity",)),
    )


def _section(
    grouped: SectionPairs,
    drawn: SectionDraws,
    x: Mapping[str, float],
    gaps: set[tuple[str, str, str]],
    fits: list[dict],
    curves: list[dict],
) -> None:
    head = grouped.section._asdict()

    def curve(
        quantity: str, points: Mapping[str, _Values], method: str | None = None, weak: str | None = None
    ) -> _Fitted | None:
        """Fit shares at models, and note the curve and its band, or why there is none."""
        key = head | {"quantity": quantity, "method": method, "weak": weak}
        try:
            fitted = _fit(points, x, drawn.n_test)
        except AnalysisError as error:
            fits.append(key | {"status": REFUSED, "testable": False, "diagnosis": str(error), "n_points": len(points)})
            return None
        fits.append(key | _fit_row(fitted.fit))
        curves.extend(_curve_rows(key, fitted.grid, fitted.on(fitted.grid).interval(drawn.level).within(*SHARE)))
        return fitted

    curve("weak", {model: _accuracy(drawn, cell) for model, cell in grouped.supervisors.items()})
    ceiling = curve("ceiling", {model: _accuracy(drawn, cell) for model, cell in grouped.ceilings.items()})
    by_line: dict[tuple[str, str], list[Pair]] = {}
    for pair in grouped.pairs:
        if x[pair.strong] > x[pair.weak]:
            by_line.setdefault((pair.method, pair.weak), []).append(pair)
    for (method, weak), pairs in sorted(by_line.items()):
        student = curve("student", {pair.strong: _accuracy(drawn, pair.student) for pair in pairs}, method, weak)
        split = {pair.strong: _agreements(drawn, pair) for pair in pairs}
        for index, quantity in enumerate(AGREEMENTS):
            curve(quantity, {strong: _part(values, index) for strong, values in split.items()}, method, weak)
        with_gap = [x[pair.strong] for pair in pairs if pair.gap_key in gaps]
        if student is None or not with_gap:
            continue
        top, floor = ceiling, grouped.supervisors.get(weak)
        if any(pair.baseline != OWN for pair in pairs):
            # Its own ceilings, and its own supervisor if that is the same for all students; else there is no curve.
            top = curve("ceiling", {pair.strong: _accuracy(drawn, pair.ceiling) for pair in pairs}, method, weak)
            cells = {pair.supervisor for pair in pairs}
            floor = cells.pop() if len(cells) == 1 else None
        if top is None or floor is None:
            continue
        pgr = _pgr_curve(student, top, _accuracy(drawn, floor), drawn.level, from_x=min(with_gap))
        if pgr is not None:
            curves.extend(_curve_rows(head | {"quantity": "pgr", "method": method, "weak": weak}, *pgr))


def _fit(points: Mapping[str, _Values], x: Mapping[str, float], n_test: int) -> _Fitted:
    """Fit one curve to shares at models.

    Raises:
        AnalysisError: The points are too few, or not all defined.
    """
    models = sorted(points, key=lambda model: x[model])
    compute = np.array([x[model] for model in models])
    estimate, *kinds = (
        np.concatenate([kind[..., :1] for kind in of_models], axis=-1)
        for of_models in zip(*(points[model].kinds() for model in models), strict=True)
    )
    if not np.all(np.isfinite(estimate)):
        raise AnalysisError("a share is undefined because there is no example to compute it from")
    fit = fit_curve(compute, estimate, n_test)
    u = position(compute, fit.x_low, fit.x_high)
    # A share that is undefined in some draw only has a denominator of a few examples; the estimate stands in.
    drawn = tuple(fit_many(u, np.where(np.isfinite(k), k, estimate), n_test, fit.family) for k in kinds)
    return _Fitted(fit, drawn, min(values.n_seeds for values in points.values()))


def _pgr_curve(
    student: _Fitted, ceiling: _Fitted, weak: _Values, level: float, *, from_x: float
) -> tuple[np.ndarray, Interval] | None:
    """PGR over the students' range, from the smallest one with a gap and where the ceiling's curve is above the
    supervisor in the lower bound too: elsewhere the ratio means nothing."""
    grid = student.grid
    n_seeds = min(student.n_seeds, ceiling.n_seeds, weak.n_seeds)
    kinds = list(zip(weak.kinds(), student.on(grid).kinds(), ceiling.on(grid).kinds(), strict=True))
    clear = _Values.of((c - w for w, _, c in kinds), n_seeds).interval(level).low > 0
    clear &= grid >= from_x * (1 - 1e-9)
    if clear.sum() < 2:
        return None
    pgr = _Values.of(((s - w)[..., clear] / (c - w)[..., clear] for w, s, c in kinds), n_seeds)
    return grid[clear], pgr.interval(level)


def _accuracy(drawn: SectionDraws, cell: Cell) -> _Values:
    return _values(drawn, [("right", cell)], lambda columns: columns)


def _agreements(drawn: SectionDraws, pair: Pair) -> _Values:
    return _values(drawn, pair.agreement_keys, agreements)


def _values(drawn: SectionDraws, keys: list[tuple], statistic: Any) -> _Values:
    index = [drawn.column[key] for key in keys]
    draws = drawn.draws.first(REFITS)
    estimate, examples, seeds = draws.estimate[index], draws.examples[:, index], draws.seeds[:, index]
    return _Values(
        statistic(estimate),
        statistic(estimate + examples + seeds),
        statistic(estimate + examples),
        statistic(estimate + seeds),
        int(draws.n_seeds[index].min()),
    )


def _part(values: _Values, index: int) -> _Values:
    return _Values.of((kind[..., index : index + 1] for kind in values.kinds()), values.n_seeds)


def _fit_row(fit: CurveFit) -> dict[str, Any]:
    return {
        "family": str(fit.family),
        "status": str(fit.status),
        "testable": fit.testable,
        "diagnosis": fit.diagnosis,
        "n_points": fit.n_points,
        "asymptote": fit.asymptote,
        "start": fit.start,
        "rise": fit.rise,
        "rate": fit.rate if fit.family is Family.SATURATING else None,
        "deviance": fit.deviance,
        "x_low": fit.x_low,
        "x_high": fit.x_high,
    }


def _curve_rows(key: dict[str, Any], grid: np.ndarray, interval: Interval) -> list[dict[str, Any]]:
    columns = zip(grid, interval.estimate, interval.low, interval.high, strict=True)
    return [key | {"x": float(x), "y": float(y), "y_low": float(lo), "y_high": float(hi)} for x, y, lo, hi in columns]
