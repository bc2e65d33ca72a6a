"""Which family to extrapolate with, decided by extrapolating: never by how well a family fits what it has seen.

An *origin* shows the smallest k levels of x and hides the rest; every candidate predicts the next ones. A candidate
stands at an origin only where its parameters number at most k - 2, so that what it saw could have contradicted it. Two
baselines stand
everywhere: the last value, and a straight line of y in log x.

Candidates are then *stacked*: each gets a weight inverse to its mean squared error relative to that of the last value,
both in units of what was *at stake*: the range of y seen, times how many of the seen ranges of log x a target lies
beyond. A candidate with at most three parameters that stands now but stood at no origin, for want of levels, counts as
the median one. Weights of few origins are noisy; one imagined target at which all are equal is added.
What an origin predicts follows from the levels it shows alone: bounds of fits (whether all y are shares), and the range
that predictions are kept in. Errors of all origins are measured on one scale, that of all points given, and in units of
their noise: a score sees what was hidden anyway. So do positions: the range of x is that of all points given.

How wrong the mixture was at the origins, in units of what was at stake, is also how wide its bands are beyond the data
(`widening`). The constants were chosen on one half of the curves of `benchmarks/extrapolation.py` and are judged
on the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t as student_t

from analysis.scaling.families import CURVES, Family
from analysis.scaling.fitting import axes_of, bounds_of, weights_of
from analysis.scaling.losses import Loss
from analysis.scaling.points import Points
from analysis.scaling.solver import solve

Array = np.ndarray
LAST, STRAIGHT = "last", "linear"
BASELINES = (LAST, STRAIGHT)
SHARE_FAMILIES = ("log_odds_linear", "saturating", "power_floor", "logistic", "m4", "bnsl1", "bnsl2")
VALUE_FAMILIES = ("power", "power_floor", "logistic", "m4", "bnsl1", "bnsl2")
MIN_LEVELS = 3
"""Levels that an origin shows at least."""
IMAGINED = 1.0
"""Targets added at which all candidates are equal."""
SIMPLE = 3
"""Parameters up to which a candidate may take part that stood at no origin."""
PRIOR_WIDENING, PRIOR_ORIGINS = 0.6, 3.0
"""Error in units of what is at stake that is expected before any test, and how many origins that expectation is
worth."""
_MOST_OF_IT = 0.5
"""Of a mixture's weight must stand at an origin for its errors there to be the mixture's."""
_NEVER_EXACT = 1e-3
"""Errors that are taken for at least this, in units of what is at stake: noise-free tables have none."""
NOISE_SHARE = 2.5
"""Variances of a level's noise that are at stake whatever the distance: of the last level and of the target, and some
more."""


@dataclass(frozen=True)
class Scale:
    """On what scale errors are measured and predictions are combined: log y where y is positive, else y."""

    log: bool

    def to(self, y: Array) -> Array:
        return np.log(np.maximum(y, 1e-12)) if self.log else np.asarray(y, dtype=np.float64)

    def back(self, v: Array) -> Array:
        return np.exp(v) if self.log else v


def error_scale(points: Points) -> Scale:
    return Scale(bool(np.all(points.y > 0)))


def candidates(points: Points) -> list[Family]:
    """Families that the points could contradict: at most n - 2 parameters for n different x."""
    names = SHARE_FAMILIES if points.shares else VALUE_FAMILIES
    return [CURVES[name] for name in names if CURVES[name].n_parameters <= points.n_levels - 2]


# --- predictions from some of the levels -----------------------------------------------------------------------------


def predictions(
    points: Points, shown: Sequence[int] | Array, at: Array, families: Sequence[Family], loss: Loss
) -> dict[str, Array]:
    """What each family and baseline predicts from the smallest levels of x alone.

    Args:
        points: Of a curve.
        shown: For each origin, how many levels are visible.
        at: x to predict, shape (target,).
        families: Candidates; fitted where they have at most k - 2 parameters for k visible levels.
        loss: What fits minimise.

    Returns:
        name -> shape (origin, target), NaN where the candidate does not stand.
    """
    means = points.means()
    levels, k = means.x[:, 0], np.asarray(shown, dtype=np.int64)
    visible = points.x[:, 0][None, :] <= levels[k - 1][:, None]  # (origin, point)
    found = {LAST: np.repeat(means.y[k - 1][:, None], at.size, axis=1), STRAIGHT: _straight(means, k, at)}
    for family in families:
        rows = np.flatnonzero(k >= family.n_parameters + 2)
        values = np.full((k.size, at.size), np.nan)
        if rows.size:
            axis = axes_of(points, family)[0]
            weights, u, target = weights_of(points, loss), axis.position(points.x), axis.position(at[:, None])
            seen = [points.take(visible[row]) for row in rows]
            # Nearly always one group: bounds depend on whether all y are shares, and whether some are negative.
            for bounds, own in _grouped([bounds_of(one, family) for one in seen]):
                shown_weights = weights * visible[rows[own]]
                y = np.broadcast_to(points.y, shown_weights.shape)
                solution = solve(family, u, y, shown_weights, loss, bounds=bounds)
                for index, value in zip(own, family.predict(solution.parameters, target), strict=True):
                    values[rows[index]] = in_range(seen[index], value)
        found[family.name] = values
    return found


def _grouped(bounds: Sequence[tuple[Array, Array]]) -> list[tuple[tuple[Array, Array], list[int]]]:
    """Equal bounds, each with the indices that have them."""
    groups: dict[bytes, list[int]] = {}
    for index, pair in enumerate(bounds):
        groups.setdefault(np.concatenate(pair).tobytes(), []).append(index)
    return [(bounds[own[0]], own) for own in groups.values()]


def _straight(means: Points, shown: Array, at: Array) -> Array:
    """Least squares of y on log x over the visible levels, shape (origin, target)."""
    seen = [means.take(np.arange(means.y.size) < k) for k in shown]
    rows = [in_range(own, straight_line(own, at) @ own.y) for own in seen]
    return np.array(rows).reshape(len(shown), at.size)


def straight_line(seen: Points, at: Array) -> Array:
    """The matrix that takes y at the levels seen to their least-squares line in log x at some x, shape (target,
    level)."""
    t, target = np.log(seen.x[:, 0]), np.log(at)
    weight = np.ones(t.size) if seen.n is None else seen.n
    share = weight / weight.sum()
    centred = t - np.sum(share * t)
    slope = share * centred / np.sum(share * centred**2)
    return share[None, :] + (target - np.sum(share * t))[:, None] * slope[None, :]


def in_range(points: Points, y: Array) -> Array:
    """Values as far as they can be such at all: shares within [0, 1], positive values above a small one."""
    if points.n is not None:
        half = 0.5 / points.n.max()
        return np.clip(y, half, 1 - half)
    return np.maximum(y, 1e-3 * points.y.min()) if np.all(points.y > 0) else y


# --- tests at inner origins ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InnerTest:
    """Errors of all candidates at all origins within some points, in units of what was at stake."""

    shown: Array
    """Visible levels of each origin, shape (origin,)."""
    errors: Mapping[str, Array] = field(repr=False)
    """Shape (origin, target); NaN where the target is not hidden, is beyond the horizon, or the candidate does not
    stand."""
    shares: bool = True
    """Whether y are shares of counts."""

    @property
    def n_origins(self) -> int:
        return self.shown.size


def inner_test(points: Points, families: Sequence[Family], loss: Loss, *, horizon: int) -> InnerTest:
    """Extrapolate from every origin within the points, up to `horizon` levels ahead."""
    means = points.means()
    n = means.y.size
    shown = np.arange(min(MIN_LEVELS, n), n)
    scale = error_scale(points)
    index = np.arange(n)
    hidden = (index[None, :] >= shown[:, None]) & (index[None, :] < shown[:, None] + horizon)
    noise = noise_of(points)
    stakes = [at_stake(means.take(index < k), means.x[:, 0], noise, scale) for k in shown]
    stakes = np.array(stakes).reshape(shown.size, n)
    observed = scale.to(means.y)
    predicted = predictions(points, shown, means.x[:, 0], families, loss)
    errors = {
        name: np.where(hidden, (scale.to(values) - observed) / np.where(hidden, stakes, 1.0), np.nan)
        for name, values in predicted.items()
    }
    return InnerTest(shown, errors, points.shares)


def at_stake(seen: Points, x: Array, noise: float, scale: Scale | None = None) -> Array:
    """What there is to be wrong about at some x, on the error scale (by default that of the levels seen).

    The range of y seen, times the distance beyond the largest x in ranges of log x; and the noise, added as variances.
    """
    means, scale = seen.means(), scale or error_scale(seen)
    t = np.log(means.x[:, 0])
    spread = float(np.ptp(scale.to(means.y)))
    beyond = np.maximum(np.log(x) - t[-1], 0.0) / max(t[-1] - t[0], 1e-12)
    return np.sqrt((spread * beyond) ** 2 + NOISE_SHARE * noise**2 + 1e-18)


def noise_of(points: Points) -> float:
    """Standard deviation of one level on the error scale: binomial where there are counts, else from second
    differences."""
    scale, means = error_scale(points), points.means()
    if means.n is not None:
        sd = np.sqrt(np.clip(means.y * (1 - means.y), 0.25 / means.n, None) / means.n)
        return float(np.median(sd / means.y if scale.log else sd))
    t, v = np.log(means.x[:, 0]), scale.to(means.y)
    if v.size < 3:
        return 0.0
    # Distance of each inner level from the line through its neighbours, with the variance that white noise gives it.
    share = (t[1:-1] - t[:-2]) / (t[2:] - t[:-2])
    bend = v[1:-1] - (1 - share) * v[:-2] - share * v[2:]
    return float(np.median(np.abs(bend) / np.sqrt(1 + share**2 + (1 - share) ** 2)) / 0.6745)


# --- from tests to weights and widths --------------------------------------------------------------------------------


def stack(test: InnerTest, points: Points, standing: Sequence[Family]) -> dict[str, float]:
    """Weights of candidates and baselines, summing to 1.

    A straight line takes part where y are shares or can be negative; positive values have the power law, straight in
    log y.
    """
    straight = points.shares or not error_scale(points).log
    names = [LAST, *([STRAIGHT] if straight else []), *(family.name for family in standing)]
    scores: dict[str, float] = {}
    for name in names:
        own, last = test.errors[name] ** 2, test.errors[LAST] ** 2
        both = np.isfinite(own)
        if both.any():
            # An origin with more levels is nearer to the question.
            weight = np.broadcast_to(test.shown[:, None], own.shape)[both]
            mean_own, mean_last = (np.average(e[both], weights=weight) for e in (own, last))
            n = both.sum()
            scores[name] = float((n * mean_own + IMAGINED * mean_last) / ((n + IMAGINED) * mean_last + 1e-12))
    usual = float(np.median(list(scores.values()))) if scores else 1.0
    simple = {LAST, STRAIGHT} | {family.name for family in standing if family.n_parameters <= SIMPLE}
    raw = {name: 1 / max(scores.get(name, usual), 1e-4) for name in names if name in scores or name in simple}
    total = sum(raw.values())
    return {name: value / total for name, value in raw.items()}


@dataclass(frozen=True)
class Widening:
    """How wrong a prediction beyond the data is expected to be, in units of what is at stake."""

    factor: float
    origins: int
    """Origins that were tested."""
    seen: float | None = None
    """Root mean square of the errors there, in the same units; None without any."""

    def half_width(self, stake: Array, level: float) -> Array:
        """Half the width of a band on the error scale."""
        return student_t.ppf(0.5 + level / 2, PRIOR_ORIGINS + self.origins) * self.factor * stake


def widening(test: InnerTest, weights: Mapping[str, float]) -> Widening:
    """From the errors of a mixture at the origins, with those of its members that stood there.

    They are averaged, as squares, with `PRIOR_WIDENING`, which counts as `PRIOR_ORIGINS` origins. Two things are
    different for values that are no shares of counts and that were predicted better than expected. Only origins count
    at which members of half the mixture's weight stood, or else as many as ever did: where few levels are shown little
    but the last value stands, whose errors are not the mixture's. And the average is one of logarithms, since in one of
    squares the expectation alone keeps bands wide however exact all tests were. Shares are left out of this: they may
    stay flat and then rise, and nothing in the visible levels says so.
    """
    total, weight = np.zeros(1), np.zeros(1)
    for name, share in weights.items():
        error = test.errors[name]
        total = total + np.where(np.isfinite(error), share * np.nan_to_num(error), 0.0)
        weight = weight + share * np.isfinite(error)
    total, weight = np.atleast_2d(total), np.atleast_2d(weight)
    if not np.any(weight > 0):
        return Widening(PRIOR_WIDENING, 0)
    tested = weight > 0 if test.shares else weight >= min(_MOST_OF_IT, float(weight.max()) - 1e-9)
    origins = int(tested.any(axis=1).sum())
    squared, prior = float(np.mean((total[tested] / weight[tested]) ** 2)), PRIOR_WIDENING**2
    share = PRIOR_ORIGINS / (PRIOR_ORIGINS + origins)
    if test.shares or squared >= prior:
        pooled = share * prior + (1 - share) * squared
    else:
        pooled = prior**share * max(squared, _NEVER_EXACT**2) ** (1 - share)
    return Widening(float(np.sqrt(pooled)), origins, float(np.sqrt(squared)))


def combine(points: Points, values: Mapping[str, Array], weights: Mapping[str, float]) -> Array:
    """The mixture's prediction: the weighted mean on the error scale."""
    scale = error_scale(points)
    mixed = sum(share * scale.to(values[name]) for name, share in weights.items())
    return in_range(points, scale.back(np.asarray(mixed)))
