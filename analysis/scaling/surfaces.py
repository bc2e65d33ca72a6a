"""Surfaces over two variables from any table: losses over parameters and tokens, scores over weak and strong compute.

surfaces = fit2(table, x=("params", "tokens"), y="loss", by="dataset")
surfaces.parameters, surfaces.summary
surfaces.optimal([1e21, 1e22])      # parameters and tokens that make the most of a compute budget
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from scipy.stats import norm
from scipy.stats import t as student_t

from analysis.errors import AnalysisError
from analysis.scaling.families import ADDITIVE_POWER, SURFACES
from analysis.scaling.files import did_you_mean, require_columns, require_table, rows_where
from analysis.scaling.fitting import Fit, fit_points
from analysis.scaling.losses import DEFAULT_DELTA, Loss, LossName, rmsle
from analysis.scaling.points import Points, numbers_of, points_of
from analysis.scaling.tables import (
    AUTO,
    REFUSED,
    check_kind,
    groups,
    key_column,
    key_label,
    loss_in_words,
    loss_of,
    loss_reason,
    parameters_of,
)
from analysis.scaling.uncertainty import (
    AUTO_KIND,
    DEFAULT_DRAWS,
    LEVELS,
    Kind,
    curve_band,
    kind_for,
    resample,
    stretched,
)

Array = np.ndarray
NEAREST, PLANE_OF_LOGS = "nearest", "plane"
_PERCENTS = tuple(round(100 * level) for level in LEVELS)
FLOPS_PER_PARAMETER_AND_TOKEN = 6.0
"""Of training (Kaplan et al. 2020): C = 6 N D."""


@dataclass(frozen=True)
class Surface:
    """One surface of a table, or why there is none."""

    key: tuple[Any, ...]
    label: str
    points: Points | None
    held_out: Points | None
    fitted: Fit | None
    refusal: str = ""

    @property
    def fit(self) -> Fit:
        """The fit, with draws.

        Raises:
            AnalysisError: The surface was refused.
        """
        if self.fitted is None:
            raise AnalysisError(f"{self.label or 'the surface'} was not fitted: {self.refusal}")
        return self.fitted

    def tested(self) -> pl.DataFrame:
        """Each row held out, in the columns of `Surfaces.tests` but the keys."""
        if self.fitted is None or self.held_out is None:
            return _empty_tests()
        at, observed = self.held_out.x, self.held_out.y
        columns: dict[str, Any] = {"x1": at[:, 0], "x2": at[:, 1], "observed": observed}
        columns |= {"predicted": self.fitted.at(at)} | baselines(self.fitted.points, at)
        for level, p in zip(LEVELS, _PERCENTS, strict=True):
            low, high = new_observation(self.fitted, self.held_out, level)
            told = np.isfinite(low) & np.isfinite(high)
            columns |= {f"y_low_{p}": low, f"y_high_{p}": high}
            columns[f"inside_{p}"] = pl.Series(
                [bool(i) if t else None for i, t in zip((low <= observed) & (observed <= high), told, strict=True)],
                dtype=pl.Boolean,
            )
        return pl.DataFrame(columns).fill_nan(None).select(_empty_tests().columns)


@dataclass(frozen=True, repr=False)
class Surfaces:
    """Surfaces fitted to the groups of a table; iterates over them in the order of their keys."""

    keys: Mapping[str, pl.DataType]
    x: tuple[str, str]
    y: str
    each: tuple[Surface, ...]
    loss_reason: str
    """Why the loss is what it is."""

    def __iter__(self) -> Iterator[Surface]:
        return iter(self.each)

    def __len__(self) -> int:
        return len(self.each)

    def __getitem__(self, index: int) -> Surface:
        return self.each[index]

    def __repr__(self) -> str:
        return (
            f"{len(self)} surface{'' if len(self) == 1 else 's'} of {self.y} over {self.x[0]} and {self.x[1]}; "
            f"{sum(surface.fitted is None for surface in self)} refused\n{self.summary}"
        )

    @cached_property
    def summary(self) -> pl.DataFrame:
        """One row per surface: status, family, n, diagnosis, log error of the fitted points and of those held out.

        `rmsle`, `rmsle_nearest`, `rmsle_plane`: of the rows held out, predicted by the surface, by the value at the
        nearest fitted point, and by a plane of y in both logarithms; null without such rows or where a value is not
        positive. `inside_95`, `coverage_95`: how many of them, and which share, lay inside the interval.
        """
        rows = [self._summary(surface) for surface in self]
        floats = ("rmsle_fitted", "rmsle", "rmsle_nearest", "rmsle_plane", *(f"coverage_{p}" for p in _PERCENTS))
        types: dict[str, Any] = dict(self.keys) | dict.fromkeys(floats, pl.Float64)
        types |= {f"inside_{p}": pl.Int64 for p in _PERCENTS}
        types |= dict.fromkeys(("status", "family", "loss", "diagnosis"), pl.String)
        return pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None)

    def _summary(self, surface: Surface) -> dict[str, Any]:
        fit, points, held_out, tests = surface.fitted, surface.points, surface.held_out, surface.tested()
        observed = tests["observed"].to_numpy()
        scores: dict[str, Any] = {
            name: rmsle(observed, tests[column].to_numpy())
            for name, column in (("rmsle", "predicted"), ("rmsle_nearest", NEAREST), ("rmsle_plane", PLANE_OF_LOGS))
        }
        for p in _PERCENTS:
            told = tests[f"inside_{p}"].drop_nulls()
            scores[f"inside_{p}"] = int(told.sum()) if told.len() else None
            scores[f"coverage_{p}"] = int(told.sum()) / told.len() if told.len() else None
        return dict(zip(self.keys, surface.key, strict=True)) | {
            "status": REFUSED if fit is None else fit.status.value,
            "family": None if fit is None else fit.family.name,
            "loss": None if fit is None else loss_in_words(fit.loss),
            "n_points": 0 if points is None else len(points),
            "rmsle_fitted": None if fit is None else rmsle(fit.points.y, fit.fitted),
            "n_held_out": 0 if held_out is None else len(held_out),
            **scores,
            "diagnosis": surface.refusal if fit is None else fit.diagnosis,
        }

    @cached_property
    def tests(self) -> pl.DataFrame:
        """One row per row held out: observed, predicted, what two baselines say, and intervals of a new observation."""
        frames = [self._keyed(surface, surface.tested()) for surface in self]
        return self._stacked(frames) if frames else _empty_tests()

    def plot(self) -> Figure:
        """Observed against predicted values, and lines of equal value over both variables, of every surface."""
        from analysis.plots.surfaces import plot_surfaces

        return plot_surfaces(self)

    @cached_property
    def parameters(self) -> pl.DataFrame:
        """Parameters in the table's units with 95 % intervals; the columns are those of `Fits.parameters`."""
        return self._stacked([self._keyed(s, parameters_of(s.fit)) for s in self if s.fitted is not None])

    def predict(self, x: Sequence[tuple[float, float]] | Array) -> pl.DataFrame:
        """Every surface at these pairs of x, with its 95 % band.

        Raises:
            AnalysisError: x are not pairs of positive numbers.
        """
        at = np.atleast_2d(np.asarray(x, dtype=np.float64))
        if at.ndim != 2 or at.shape[1] != 2 or not np.all(np.isfinite(at) & (at > 0)):
            raise AnalysisError(f"predict needs pairs of positive numbers ({self.x[0]}, {self.x[1]})")
        frames = []
        for surface in self:
            if surface.fitted is not None:
                band = curve_band(surface.fit, at)
                columns = {
                    "x1": at[:, 0],
                    "x2": at[:, 1],
                    "y": band.estimate,
                    "y_low_95": band.low,
                    "y_high_95": band.high,
                }
                frames.append(self._keyed(surface, pl.DataFrame(columns)))
        return self._stacked(frames)

    def optimal(self, flops: Sequence[float] | float) -> pl.DataFrame:
        """Parameters and tokens with the least predicted loss at these training FLOPs, see `allocation`.

        Surfaces without a best split have no rows.

        Raises:
            AnalysisError: No surface has a best split.
        """
        frames: list[pl.DataFrame] = []
        refusal: AnalysisError | None = None
        for surface in self:
            try:
                frames.append(self._keyed(surface, allocation(surface.fit, flops)))
            except AnalysisError as error:
                refusal = error
        if refusal is not None and not frames:
            raise refusal
        return self._stacked(frames)

    def _keyed(self, surface: Surface, frame: pl.DataFrame) -> pl.DataFrame:
        keys = [pl.lit(v, dtype=t).alias(name) for (name, t), v in zip(self.keys.items(), surface.key, strict=True)]
        return frame.select(*keys, *frame.columns)

    def _stacked(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        return pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame(schema=dict(self.keys))


def fit2(
    table: pl.DataFrame,
    *,
    x: tuple[str, str],
    y: str,
    by: str | Sequence[str] = (),
    n: str | None = None,
    seed: str | None = None,
    train_where: str | None = None,
    holdout_largest: int = 0,
    holdout_of: str | None = None,
    family: str = ADDITIVE_POWER.name,
    loss: str | Loss = AUTO,
    delta: float = DEFAULT_DELTA,
    draws: int = DEFAULT_DRAWS,
    uncertainty: Kind | Literal["auto"] = AUTO_KIND,
    random_seed: int = 0,
) -> Surfaces:
    """Fit one surface to each group of rows.

    Args:
        table: One row per measurement.
        x: Two columns of positive numbers; for `additive_power` parameters first, then tokens.
        y: Column of values; shares if `n` is given.
        by, n, seed, train_where, delta, draws, random_seed: As in `analysis.scaling.tables.fit`.
        uncertainty: As there, except that `auto` is cases: a few points may decide a surface.
        holdout_largest: Of each surface, hold out the rows with so many of the largest values of one column.
        holdout_of: That column: of a variable (by default the first), or of compute.
        family: `additive_power`, E + A / x1^alpha + B / x2^beta (Hoffmann et al. 2022, eq. 2), `plane` or
            `log_odds_plane`.
        loss: As in `fit`, except that `auto` is `huber_log` for `additive_power` without counts (Hoffmann et al. 2022,
            section 3.3).

    Raises:
        AnalysisError: The table is empty or lacks a column, or an option is wrong. What is wrong with a single surface
            is told in its row.
    """
    by = (by,) if isinstance(by, str) else tuple(by)
    require_table(table)
    require_columns(table, [*x, y, *by, *(column for column in (n, seed, holdout_of) if column)])
    if x[0] == x[1]:
        raise AnalysisError(f"both variables are column {x[0]!r}; a surface needs two")
    if table.is_empty():
        raise AnalysisError("the table has no rows")
    if family not in SURFACES:
        hint = did_you_mean(family, SURFACES)
        raise AnalysisError(f"there is no surface {family!r}{hint}; there is {', '.join(SURFACES)}")
    check_kind(uncertainty)
    if holdout_largest < 0:
        raise AnalysisError(f"the number of values to hold out must not be negative, got {holdout_largest}")
    if holdout_largest and train_where:
        raise AnalysisError("give either the rows to train on or how many of the largest values to hold out, not both")
    if draws < 20:
        raise AnalysisError(f"{draws} draws are too few for intervals; take 400 or more")
    chosen = loss_of(loss, delta, n)
    of_paper = chosen is None and not n and family == ADDITIVE_POWER.name
    if of_paper:
        chosen = Loss(LossName.HUBER_LOG, delta)
    train = rows_where(table, train_where).to_numpy() if train_where else np.ones(table.height, dtype=bool)
    if not train.any():
        raise AnalysisError(f"no row satisfies {train_where!r}, so there is nothing to fit")

    def one(key: tuple[Any, ...], rows: Array) -> Surface:
        label, points, held_out = key_label(by, key), None, None
        try:
            shown = train[rows]
            if holdout_largest:
                shown = _without_largest(table, rows, holdout_of or x[0], holdout_largest)
            if not shown.any():
                raise AnalysisError("all rows of this surface are held out")
            points = points_of(table, x, y, n=n, seed=seed, rows=rows[shown])
            rest = rows[~shown]
            held_out = points_of(table, x, y, n=n, seed=seed, rows=rest) if rest.size else None
            made = fit_points(points, SURFACES[family], chosen)
            if made.degrees > 0:
                made = resample(made, kind_for(made, uncertainty), draws=draws, random_seed=random_seed)
        except AnalysisError as error:
            return Surface(key, label, points, held_out, None, str(error))
        return Surface(key, label, points, held_out, made)

    keys = {key_column(name): table.schema[name] for name in by}
    each = tuple(one(key, rows) for key, rows in groups(table, by))
    reason = "as in Hoffmann et al. 2022: a few points may be far off"
    if not of_paper:
        reason = loss_reason(chosen, n, [surface.fitted.loss for surface in each if surface.fitted is not None])
    return Surfaces(keys, x, y, each, reason)


def _without_largest(table: pl.DataFrame, rows: Array, column: str, largest: int) -> Array:
    """Which rows lie below the largest values of a column, bool, shape (row,)."""
    values = numbers_of(table, column, rows)
    levels = np.unique(values)
    if levels.size <= largest:
        raise AnalysisError(
            f"column {column!r} has only {levels.size} different values; with {largest} of them held out none is left"
        )
    return values < levels[-largest]


def baselines(points: Points, at: Array) -> dict[str, Array]:
    """What any surface should beat: the value at the nearest fitted point, and a plane of y in both logarithms.

    Distances are Euclidean in log x, each in units of its range over the fitted points; repetitions at one place are
    averaged first.

    Args:
        points: Fitted.
        at: Where to predict, shape (row, 2).
    """
    means = points.means()
    centre, span = np.log(means.x).mean(axis=0), np.maximum(np.ptp(np.log(means.x), axis=0), 1e-12)
    seen, asked = (np.log(means.x) - centre) / span, (np.log(at) - centre) / span
    nearest = np.argmin(((asked[:, None, :] - seen[None]) ** 2).sum(axis=-1), axis=1)
    weight = np.sqrt(np.ones_like(means.y) if means.n is None else means.n)
    c = np.linalg.lstsq(np.column_stack([np.ones(len(seen)), seen]) * weight[:, None], means.y * weight, rcond=None)[0]
    return {NEAREST: means.y[nearest], PLANE_OF_LOGS: c[0] + asked @ c[1:]}


def new_observation(fit: Fit, at: Points, level: float) -> tuple[Array, Array]:
    """Interval in which a new observation is expected at each of some points: the fit's own, and noise as of the points
    fitted, added as variances on the scale of the loss's residuals. NaN where the fit has no draws.

    Args:
        fit: With draws.
        at: Where; of its values only the counts n are used, under the binomial loss.
        level: Nominal coverage.
    """
    centre = fit.at(at.x)
    if fit.draws is None or not np.isfinite(fit.dispersion):
        return np.full(centre.size, np.nan), np.full(centre.size, np.nan)
    band = curve_band(fit, at.x, level)
    wide = norm.ppf(0.5 + level / 2) if np.isinf(fit.degrees) else student_t.ppf(0.5 + level / 2, fit.degrees)
    if fit.loss.shares:
        assert at.n is not None
        noise = np.sqrt(fit.dispersion * np.clip(centre * (1 - centre), 1e-6, None) / at.n)
    else:
        noise = fit.dispersion
    low, high = (
        sign * np.sqrt(fit.loss.residual(edge, centre) ** 2 + (wide * noise) ** 2)
        for sign, edge in ((-1, band.low), (1, band.high))
    )
    return fit.loss.shifted(centre, low), fit.loss.shifted(centre, high)


def _empty_tests() -> pl.DataFrame:
    numbers = ("x1", "x2", "observed", "predicted", NEAREST, PLANE_OF_LOGS)
    bands = [f"y_{side}_{p}" for p in _PERCENTS for side in ("low", "high")]
    types: dict[str, Any] = dict.fromkeys((*numbers, *bands), pl.Float64)
    return pl.DataFrame(schema=types | {f"inside_{p}": pl.Boolean for p in _PERCENTS})


def allocation(fit: Fit, flops: Sequence[float] | float) -> pl.DataFrame:
    """The compute-optimal split of training FLOPs C = 6 N D under L = E + A / N^alpha + B / D^beta.

    Hoffmann et al. 2022 (arXiv:2203.15556), eq. 4: N = G (C / 6)^a and D = (C / 6)^b / G, with
    a = beta / (alpha + beta), b = alpha / (alpha + beta) and G = (alpha A / (beta B))^(1 / (alpha + beta)).

    Args:
        fit: Of `additive_power`, with x1 = N parameters and x2 = D tokens.
        flops: Budgets.

    Returns:
        flops, params, tokens, tokens_per_param, loss and the exponent a, the same in each row, each with a 95 %
        interval (_low, _high; null where the fit has no draws).

    Raises:
        AnalysisError: Another family, a budget that is not positive, or a term that is zero, so that no split is best.
    """
    if fit.family is not ADDITIVE_POWER:
        raise AnalysisError(f"a compute-optimal split needs the surface additive_power, this is {fit.family.name}")
    budget = np.atleast_1d(np.asarray(flops, dtype=np.float64))
    if not np.all(np.isfinite(budget) & (budget > 0)):
        raise AnalysisError("FLOPs must be positive numbers")
    estimate = _split(fit, fit.parameters[None], budget)
    if estimate is None:
        raise AnalysisError(
            "a term of the surface is zero, so more of that variable never helps and no split of compute is best"
        )
    drawn = None if fit.draws is None else _split(fit, fit.draws, budget)
    columns: dict[str, Array] = {"flops": budget}
    for name, values in estimate.items():
        low = high = np.full(budget.size, np.nan)
        if drawn is not None:
            # Intervals on a log scale: all of these are positive and span orders of magnitude.
            band = stretched(np.log(values[0]), np.log(drawn[name]), fit.degrees, 0.95)
            low, high = np.exp(band.low), np.exp(band.high)
        columns |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
    return pl.DataFrame(columns).fill_nan(None)


def _split(fit: Fit, parameters: Array, budget: Array) -> dict[str, Array] | None:
    """Optimal N, D, D / N, loss and exponent, shape (draw, budget); None unless both terms fall in some draw."""
    named = {p.name: p.compute(parameters, fit.axes)[:, None] for p in fit.family.natural}
    falls = ((named["A"] > 0) & (named["B"] > 0))[:, 0]
    if not falls.any():
        return None
    e, a, b, alpha, beta = (named[name][falls] for name in ("E", "A", "B", "alpha", "beta"))
    nd = budget[None] / FLOPS_PER_PARAMETER_AND_TOKEN
    log_g = np.log(alpha * a / (beta * b)) / (alpha + beta)
    params = np.exp(log_g + beta / (alpha + beta) * np.log(nd))
    tokens = nd / params
    exponent = np.broadcast_to(beta / (alpha + beta), params.shape)
    loss = e + a * params**-alpha + b * tokens**-beta
    return {"params": params, "tokens": tokens, "tokens_per_param": tokens / params, "loss": loss, "exponent": exponent}
