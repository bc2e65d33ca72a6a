"""A curve beyond its data: the mixture of families that tests at inner origins chose, its bands, and whether it has
skill."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.stats import norm

from analysis.errors import AnalysisError
from analysis.scaling.choice import (
    BASELINES,
    LAST,
    MIN_LEVELS,
    STRAIGHT,
    Widening,
    at_stake,
    candidates,
    combine,
    error_scale,
    in_range,
    inner_test,
    noise_of,
    predictions,
    stack,
    widening,
)
from analysis.scaling.families import CURVES, LINEAR, LOG_ODDS_LINEAR, POWER, Family
from analysis.scaling.fitting import Fit, fit_points
from analysis.scaling.losses import Loss, default_loss, rmsle
from analysis.scaling.points import Points, flat
from analysis.scaling.uncertainty import AUTO_KIND, DEFAULT_DRAWS, LEVELS, Kind, curve_band, kind_for, resample

Array = np.ndarray
AUTO = "auto"
TEST_SCHEMA: dict[str, Any] = {
    "predictor": pl.String,
    "shown": pl.Int64,
    "ahead": pl.Int64,
    "x": pl.Float64,
    "observed": pl.Float64,
    "predicted": pl.Float64,
    "log_error": pl.Float64,
} | {f"inside_{level * 100:.0f}": pl.Boolean for level in LEVELS}


@dataclass(frozen=True)
class Member:
    """A fit and its share in a mixture."""

    fit: Fit
    weight: float


@dataclass(frozen=True)
class Forecast:
    """A curve fitted to points, for use within and beyond their range."""

    points: Points = field(repr=False)
    family: str
    """What was asked for: a family's name, or `auto`."""
    members: tuple[Member, ...]
    """Fits in the order of their weights, which with `baselines` sum to 1."""
    baselines: Mapping[str, float]
    """Weights of the last value and the straight line; they only speak beyond the data."""
    widened: Widening
    tests: pl.DataFrame = field(repr=False)
    """Held-out levels and what was predicted (`TEST_SCHEMA`), each origin with a choice of its own."""
    diagnosis: str

    @property
    def chosen(self) -> Fit:
        """The fit of largest weight."""
        return self.members[0].fit

    @property
    def skill(self) -> bool | None:
        """Whether held-out errors were smaller than those of the last value; None where there was nothing to test."""
        own, last = rmsle_of(self.tests, self.family), rmsle_of(self.tests, LAST)
        return None if own is None or last is None else own < last

    def at(self, x: Array | Sequence[float]) -> Array:
        """Values, shape (point,): the mean of the fits within the data, the mixture beyond.

        The mixture has members that pass by the curve at the largest x (the last value, for one). What it is off there
        fades out over half a level, where no test has been, so that the curve does not jump.
        """
        x = np.atleast_1d(np.asarray(x, dtype=np.float64))
        top = self.points.x.max()
        scale, edge = error_scale(self.points), np.array([top])
        off = scale.to(self._inside(edge)) - scale.to(self._mixture(edge))
        near = self._nearness(x)
        mixture = self._mixture(x)
        blended = in_range(self.points, scale.back(scale.to(mixture) + near * off))
        return np.where(x > top, np.where(near > 0, blended, mixture), self._inside(x))

    def _nearness(self, x: Array) -> Array:
        """1 up to the largest x measured, falling in log x to 0 half the distance of the two largest beyond it."""
        t = np.log(self.points.levels[:, 0])
        return np.clip(1 - (np.log(x) - t[-1]) / (0.5 * (t[-1] - t[-2])), 0.0, 1.0)

    def bands(
        self, x: Array | Sequence[float], levels: Sequence[float] = LEVELS, *, observed: bool = False
    ) -> pl.DataFrame:
        """Values with bands.

        Args:
            x: Positive, any order.
            levels: Nominal coverages.
            observed: Where a new observation would lie, rather than the curve.

        Returns:
            `x`, `y`, `y_low_95`, `y_high_95`, ... for each level, `reach` (multiples of the largest measured x) and
            `status`: `inside`, `beyond`, `beyond, not tested` or `beyond, no skill`.
        """
        x = np.atleast_1d(np.asarray(x, dtype=np.float64))
        if np.any(~np.isfinite(x)) or np.any(x <= 0):
            raise AnalysisError(f"x must be positive and finite to be predicted at, got {x.tolist()}")
        y, top = self.at(x), self.points.x.max()
        scale, noise = error_scale(self.points), noise_of(self.points)
        beyond = x > top
        columns: dict[str, Array | list[str]] = {"x": x, "y": y}
        for level in levels:
            low, high = self._curve(np.minimum(x, top), level)
            centre = scale.to(self._inside(np.minimum(x, top)))
            below, above = centre - scale.to(low), scale.to(high) - centre
            stake = at_stake(self.points, x, noise)
            if observed:
                reach, near = self.widened.half_width(stake, level), self._nearness(x)
                arms = (np.sqrt(arm**2 + _normal(level) ** 2 * noise**2) for arm in (below, above))
                below, above = (
                    np.where(near > 0, near * arm, 0.0) + np.where(near < 1, (1 - near) * reach, 0.0) for arm in arms
                )
            else:
                reach = self.widened.half_width(at_stake(self.points, x, 0.0), level)
                below, above = (np.where(beyond, np.sqrt(arm**2 + reach**2), arm) for arm in (below, above))
            name = f"{level * 100:.0f}"
            columns[f"y_low_{name}"] = in_range(self.points, scale.back(scale.to(y) - below))
            columns[f"y_high_{name}"] = in_range(self.points, scale.back(scale.to(y) + above))
        if flat(self.points) and not self.points.shares:
            # Values that are all equal do not say how noisy they are, and there are no counts to do so.
            columns |= {name: np.full_like(x, np.nan) for name in columns if name not in ("x", "y")}
        columns["reach"] = x / top
        words = {None: "beyond, not tested", False: "beyond, no skill", True: "beyond"}[self.skill]
        columns["status"] = [words if b else "inside" for b in beyond]
        return pl.DataFrame(columns)

    def _inside(self, x: Array) -> Array:
        return self._mixed({m.fit.family.name: m.fit.at(x) for m in self.members}, {})

    def _mixture(self, x: Array) -> Array:
        values = {m.fit.family.name: m.fit.at(x) for m in self.members}
        if self.baselines:
            values |= {
                name: v[0]
                for name, v in predictions(self.points, [self.points.n_levels], x, [], self.chosen.loss).items()
            }
        return self._mixed(values, self.baselines)

    def _mixed(self, values: Mapping[str, Array], baselines: Mapping[str, float]) -> Array:
        weights = {m.fit.family.name: m.weight for m in self.members} | dict(baselines)
        total = sum(weights.values())
        inside = {name: in_range(self.points, v) for name, v in values.items()}
        return combine(self.points, inside, {name: share / total for name, share in weights.items()})

    def _curve(self, x: Array, level: float) -> tuple[Array, Array]:
        """Band of the fits' mean within the data: the weighted mean of theirs, no narrower than they differ."""
        scale = error_scale(self.points)
        total = sum(m.weight for m in self.members)
        bands = [(m.weight / total, curve_band(m.fit, x, level)) for m in self.members if m.fit.draws is not None]
        if not bands:
            return np.full_like(x, np.nan), np.full_like(x, np.nan)
        centre = scale.to(self._inside(x))
        arms = []
        for sign, of in ((-1, "low"), (1, "high")):
            squared = sum(
                share
                * (
                    (scale.to(getattr(band, of)) - scale.to(band.estimate)) ** 2
                    + (scale.to(band.estimate) - centre) ** 2
                )
                for share, band in bands
            )
            arms.append(scale.back(centre + sign * np.sqrt(squared / sum(share for share, _ in bands))))
        return arms[0], arms[1]


def forecast(
    points: Points,
    family: str = AUTO,
    loss: Loss | None = None,
    *,
    draws: int = DEFAULT_DRAWS,
    uncertainty: Kind | Literal["auto"] = AUTO_KIND,
    random_seed: int = 0,
    test_ahead: int = 2,
) -> Forecast:
    """Fit a curve, choose how to continue it, and test that.

    Args:
        points: Of one curve.
        family: Of `families.CURVES`, or `auto`.
        loss: What fits minimise; by default what suits y.
        draws: Resamples behind bands; 0 for none.
        uncertainty: What is resampled; `auto`: see `uncertainty.kind_for`.
        random_seed: Of the resamples.
        test_ahead: The largest 1, ..., so many levels are hidden in turn to test the choice.

    Raises:
        AnalysisError: Unknown family, or too few points for it.
    """
    asked = loss
    loss = loss or default_loss(points.y, counts=points.shares)
    choice = _choose(points, family, loss, horizon=test_ahead)
    fits: dict[str, Fit] = {}
    for name, share in choice.weights.items():
        if name in BASELINES and name not in choice.fitted:
            continue
        fit = fit_points(points, choice.fitted[name], loss)
        fits[name] = _with_draws(fit, draws, uncertainty, random_seed) if share >= 0.02 and draws else fit
    if not fits:  # too few levels for any family to be contradicted: the straight line, marked as not testable
        line = LOG_ODDS_LINEAR if points.shares else (POWER if error_scale(points).log else LINEAR)
        fit = fit_points(points, line, loss)
        fits[line.name] = _with_draws(fit, draws, uncertainty, random_seed) if draws else fit
        choice.weights.setdefault(line.name, 1.0)
        total = sum(choice.weights.values())
        choice.weights.update({name: share / total for name, share in choice.weights.items()})
    members = [Member(fit, choice.weights[name]) for name, fit in fits.items()]
    members.sort(key=lambda m: -m.weight)
    return Forecast(
        points=points,
        family=family,
        members=tuple(members),
        baselines={name: choice.weights[name] for name in BASELINES if name in choice.weights and name not in fits},
        widened=choice.widened,
        tests=held_out(points, family, asked, ahead=test_ahead),
        diagnosis=members[0].fit.diagnosis,
    )


def _with_draws(fit: Fit, draws: int, asked: str, random_seed: int) -> Fit:
    kind = kind_for(fit, asked)
    if kind == "residuals" and fit.degrees <= 0:
        return fit  # passes through its points: nothing left to resample
    return resample(fit, kind, draws=draws, random_seed=random_seed)


@dataclass(frozen=True)
class _Choice:
    weights: dict[str, float]
    fitted: Mapping[str, Family]
    widened: Widening


def _choose(points: Points, family: str, loss: Loss, *, horizon: int) -> _Choice:
    if family != AUTO:
        only = family_named(family)
        standing = [only] if only.n_parameters <= points.n_levels - 2 else []
        test = inner_test(points, standing, loss, horizon=horizon)
        weights = {only.name: 1.0}
        tested = widening(test, weights) if standing else Widening(1.0, 0)
        return _Choice(weights, {only.name: only}, tested)
    standing = candidates(points)
    test = inner_test(points, standing, loss, horizon=horizon)
    weights = stack(test, points, standing)
    return _Choice(weights, {f.name: f for f in standing}, widening(test, weights))


def family_named(name: str) -> Family:
    """A family of curves.

    Raises:
        AnalysisError: There is none of this name.
    """
    if name not in CURVES:
        raise AnalysisError(f"there is no family {name!r}; take {AUTO} or one of {', '.join(CURVES)}")
    return CURVES[name]


def held_out(
    points: Points, family: str = AUTO, loss: Loss | None = None, *, ahead: int = 2, every: bool = False
) -> pl.DataFrame:
    """Hide the largest 1, ..., `ahead` levels in turn, choose from the rest alone, predict, compare.

    Args:
        points: Of one curve.
        family: As in `forecast`.
        loss: As in `forecast`; by default what suits the y that are shown at each origin.
        ahead: Most levels to hide. At least three are always shown.
        every: Also each candidate by itself; else only the choice and the two baselines.

    Returns:
        One row per predictor, origin and hidden level (`TEST_SCHEMA`); bands are those of new observations.
    """
    rows: list[dict[str, Any]] = []
    for hide in range(1, ahead + 1):
        rows += _hidden_rows(points, points.n_levels - hide, family, loss, every=every)
    return pl.DataFrame(rows, schema=TEST_SCHEMA)


def predicted_rows(train: Points, test: Points, family: str = AUTO, loss: Loss | None = None) -> pl.DataFrame:
    """The same for points that were set apart beforehand, of any x: one row per predictor and level of `test`."""
    return pl.DataFrame(_rows(train, test.means(), family, loss, every=False), schema=TEST_SCHEMA)


def _hidden_rows(points: Points, shown: int, family: str, loss: Loss | None, *, every: bool) -> list[dict[str, Any]]:
    if shown < MIN_LEVELS:
        return []
    levels = points.levels[:, 0]
    train = points.up_to(float(levels[shown - 1]))
    means = points.means()
    return _rows(train, means.take(means.x[:, 0] > levels[shown - 1]), family, loss, every=every)


def _rows(train: Points, test: Points, family: str, loss: Loss | None, *, every: bool) -> list[dict[str, Any]]:
    if family != AUTO and family_named(family).n_parameters > train.n_levels - 2:
        return []
    loss = loss or default_loss(train.y, counts=train.shares)
    shown = train.n_levels
    standing = candidates(train) if family == AUTO else [family_named(family)]
    inner = inner_test(train, standing, loss, horizon=len(test))
    at = test.x[:, 0]
    predicted = {name: v[0] for name, v in predictions(train, [shown], at, standing, loss).items()}
    mixtures: dict[str, dict[str, float]] = {LAST: {LAST: 1.0}, STRAIGHT: {STRAIGHT: 1.0}}
    mixtures[family] = stack(inner, train, standing) if family == AUTO else {family: 1.0}
    if every:
        mixtures |= {f.name: {f.name: 1.0} for f in standing}
    scale, noise = error_scale(train), noise_of(train)
    stake = at_stake(train, at, noise)
    observed = scale.to(test.y)
    rows = []
    for name, weights in mixtures.items():
        value = combine(train, predicted, weights)
        error = scale.to(value) - observed
        wide = widening(inner, weights)
        inside = {f"inside_{level * 100:.0f}": np.abs(error) <= wide.half_width(stake, level) for level in LEVELS}
        for i in range(at.size):
            log_error = float(np.log(value[i] / test.y[i])) if value[i] > 0 and test.y[i] > 0 else None
            rows.append(
                {
                    "predictor": name,
                    "shown": shown,
                    "ahead": i + 1,
                    "x": at[i],
                    "observed": test.y[i],
                    "predicted": value[i],
                }
                | {"log_error": log_error}
                | {key: bool(flags[i]) for key, flags in inside.items()}
            )
    return rows


def rmsle_of(tests: pl.DataFrame, predictor: str) -> float | None:
    """Root mean squared log error of one predictor, of the rows where both values are positive; None without any."""
    own = tests.filter((pl.col("predictor") == predictor) & pl.col("log_error").is_not_null())
    return rmsle(own["observed"].to_numpy(), own["predicted"].to_numpy())


def coverage(tests: pl.DataFrame, predictor: str, level: float) -> tuple[int, int]:
    """How many held-out levels lay inside the predictor's band, and of how many."""
    inside = tests.filter(pl.col("predictor") == predictor)[f"inside_{level * 100:.0f}"].drop_nulls()
    return int(inside.sum()), inside.len()


def _normal(level: float) -> float:
    return float(norm.ppf(0.5 + level / 2))
