"""How sure a fit is: bootstrap of points, residuals or seeds, and profiles of single parameters.

Bands and intervals of few points need two corrections. Residuals of a fit are smaller than the noise, so resampled ones
are divided by sqrt(1 - leverage) (Davison and Hinkley 1997, section 6.3); and the noise itself is estimated, so
percentiles are stretched about the estimate by t(n - p) / z, exact for linear families. Where shares come with counts,
the counts say what the noise is unless the points scatter more than binomial; then its excess is estimated and
stretched alike.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import norm, t

from analysis.errors import AnalysisError
from analysis.scaling.fitting import Fit, bounds_of, weights_of
from analysis.scaling.solver import polish, solve

Array = np.ndarray
Kind = Literal["residuals", "cases", "seeds"]
KINDS: tuple[Kind, ...] = ("residuals", "cases", "seeds")
AUTO_KIND = "auto"
DEFAULT_DRAWS = 400
LEVELS = (0.5, 0.8, 0.95)
SPARE_LEVELS = 3
"""Different x beyond the number of parameters from which cases can be resampled without most draws being exact fits."""


def kind_for(fit: Fit, asked: str = AUTO_KIND) -> Kind:
    """What to resample: what was asked for, or what suits the fit.

    Surfaces and Huber losses with a delta are for points of which a few are far off. Those few decide some parameters,
    and new noise of equal size at every point knows nothing of that: there, cases. Residuals elsewhere, where points
    are few, and binomial noise.

    Raises:
        AnalysisError: There is no such kind.
    """
    if asked != AUTO_KIND:
        if asked not in KINDS:
            raise AnalysisError(f"uncertainty must be {AUTO_KIND} or one of {', '.join(KINDS)}, got {asked!r}")
        return next(kind for kind in KINDS if kind == asked)
    heavy = fit.family.n_variables > 1 or outliers_expected(fit)
    return "cases" if heavy and fit.points.n_levels >= fit.family.n_parameters + SPARE_LEVELS else "residuals"


def outliers_expected(fit: Fit) -> bool:
    """Whether the loss is the Huber one with a delta."""
    return fit.loss.positive and bool(np.isfinite(fit.loss.delta))


def resample(fit: Fit, kind: Kind = "residuals", *, draws: int = DEFAULT_DRAWS, random_seed: int = 0) -> Fit:
    """The fit with draws of its parameters.

    Args:
        fit: Of any family.
        kind: `residuals`: new noise at the same x, binomial where there are counts; `cases`: points drawn with
            replacement, for when the noise is uneven or the points are themselves a sample; `seeds`: whole repetitions
            drawn with replacement, for when points of one seed err together.
        draws: Number of resamples.
        random_seed: Of the resamples.

    Raises:
        AnalysisError: Too few points or seeds for the kind.
    """
    rng = np.random.default_rng([random_seed, KINDS.index(kind)])
    points = fit.points
    u = fit.position(points.x)
    w = weights_of(points, fit.loss)
    y = np.broadcast_to(points.y, (draws, len(points)))
    weights = np.broadcast_to(w, y.shape)
    if kind == "residuals":
        y = _new_noise(fit, u, w, draws, rng)
        degrees = fit.degrees
    else:
        counts, degrees = _counts(fit, kind, draws, rng)
        weights = w * counts
    bounds = bounds_of(points, fit.family)
    # Resamples are like the points: the optimum and the one best grid point are starts enough.
    family = replace(fit.family, n_polished=1)
    solution = solve(family, u, y, weights, fit.loss, bounds=bounds, starts=fit.parameters[None])
    return replace(fit, draws=solution.parameters, degrees=degrees, resampled=kind)


def _new_noise(fit: Fit, u: Array, w: Array, draws: int, rng: np.random.Generator) -> Array:
    f = fit.fitted
    if fit.loss.shares:
        assert fit.points.n is not None
        # Rounded, because means over seeds may have counts that are not whole.
        f, n = np.clip(f, 0, 1), np.maximum(np.rint(fit.points.n), 1)
        noise = rng.binomial(n.astype(np.int64), f, size=(draws, f.size)) / n - f
        return np.clip(f + np.sqrt(fit.dispersion) * noise, 0, 1)
    if fit.degrees <= 0:
        raise AnalysisError(
            f"{fit.family.name} passes through its {f.size} points exactly: nothing is left to say how noisy they are"
        )
    leverage = _leverage(fit, u, w)
    residual = fit.residuals * np.sqrt(w) / np.sqrt(np.maximum(1 - leverage, 0.05))
    residual = residual - np.average(residual)
    spread = np.sqrt(np.mean(residual**2))
    if f.size < 12 or spread == 0:
        # A handful of residuals has a handful of values; normal noise of their dispersion is smoother, no less known.
        noise = rng.standard_normal((draws, f.size)) * fit.dispersion
    else:
        # Of the dispersion that the degrees of freedom belong to: corrections point by point give it on average only.
        noise = rng.choice(residual * (fit.dispersion / spread), size=(draws, f.size))
    return fit.loss.shifted(f, noise / np.sqrt(w))


def _leverage(fit: Fit, u: Array, w: Array) -> Array:
    """Diagonal of the hat matrix of the linearised fit, shape (point,)."""
    f, slope = fit.family.predict_with_slope(fit.parameters, u)
    if fit.loss.positive:
        slope = slope / np.maximum(f, 1e-12)[:, None]
    q = np.linalg.svd(np.sqrt(w)[:, None] * slope, full_matrices=False)
    keep = 1e-10 * q.S[0] < q.S
    return np.sum(q.U[:, keep] ** 2, axis=1)


def _counts(fit: Fit, kind: Kind, draws: int, rng: np.random.Generator) -> tuple[Array, float]:
    """How often each point is drawn, shape (draw, point), and degrees of freedom of the spread."""
    points, needed = fit.points, max(fit.family.n_parameters, 2)
    if kind == "cases":
        size = len(points)
        labels = np.arange(size)
    else:
        if points.seed is None:
            raise AnalysisError("resampling seeds needs a column that tells repetitions apart; name it as seed")
        seeds, labels = np.unique(points.seed, return_inverse=True)
        size = seeds.size
        if size < 2:
            raise AnalysisError("resampling seeds needs at least two of them, there is one")
    # One seed fewer than there are: the variance over seeds is then S / (S - 1) times larger, and without bias.
    drawn = size if kind == "cases" else size - 1
    levels, level = np.unique(points.x, axis=0, return_inverse=True)
    rows: list[Array] = []
    tried = 0
    while sum(map(len, rows)) < draws:
        counts = rng.multinomial(drawn, np.full(size, 1 / size), size=draws)[:, labels]
        present = np.stack([np.bincount(level.ravel(), weights=row, minlength=len(levels)) > 0 for row in counts])
        rows.append(counts[present.sum(axis=1) >= needed])
        tried += 1
        if tried > 50:
            raise AnalysisError(f"{len(points)} points are too few to resample {kind} for {fit.family.name}")
    degrees = size - (fit.family.n_parameters if kind == "cases" else 1)
    return np.concatenate(rows)[:draws].astype(np.float64), float(max(degrees, 1))


@dataclass(frozen=True)
class Band:
    """An estimate and its interval at one level, arrays of one shape."""

    level: float
    estimate: Array
    low: Array
    high: Array


def stretched(estimate: Array, draws: Array, degrees: float, level: float) -> Band:
    """Percentiles over the first axis of draws, stretched about the estimate for the few degrees of freedom."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    stretch = t.ppf(1 - tail, degrees) / norm.ppf(1 - tail) if np.isfinite(degrees) else 1.0
    return Band(level, estimate, estimate + stretch * (low - estimate), estimate + stretch * (high - estimate))


def curve_band(fit: Fit, x: Array, level: float = 0.95) -> Band:
    """Where the curve itself lies at x. Made on the family's own scale (log-odds), so that it stays within it."""
    estimate, drawn = fit.at(x), fit.drawn_at(x)
    to, back = scale_of(fit)
    band = stretched(to(estimate), to(drawn), fit.degrees, level)
    return Band(level, estimate, back(band.low), back(band.high))


def scale_of(fit: Fit):
    """A scale without bounds for values of the fit, and back: log-odds of shares with counts, log under a log loss."""
    if fit.family.link == "log-odds" or fit.loss.shares:
        return (lambda v: np.log(np.clip(v, 1e-9, 1 - 1e-9) / (1 - np.clip(v, 1e-9, 1 - 1e-9)))), (
            lambda o: 0.5 * (1 + np.tanh(o / 2))
        )
    if fit.loss.positive:
        return (lambda v: np.log(np.maximum(v, 1e-12))), np.exp
    return (lambda v: v), (lambda v: v)


def parameter_intervals(fit: Fit, level: float = 0.95) -> dict[str, tuple[float, float, float]]:
    """Parameters in the table's units with bootstrap intervals: name -> (estimate, low, high).

    Where a parameter is positive in the fit and in every draw (scales, exponents, floors), the stretch is made on its
    logarithm, so that few degrees of freedom do not lead below zero; ends beyond a parameter's bounds are set to these.
    """
    if fit.draws is None:
        raise AnalysisError("this fit has no draws; make them with analysis.scaling.resample")
    found = {}
    for parameter in fit.family.natural:
        estimate, drawn = parameter.compute(fit.parameters, fit.axes), parameter.compute(fit.draws, fit.axes)
        degrees = np.inf if fit.degrees <= 0 else fit.degrees
        if estimate > 0 and np.all(drawn > 0):
            band = stretched(np.log(estimate), np.log(drawn), degrees, level)
            ends = np.exp([band.low, band.high])
        else:
            band = stretched(estimate, drawn, degrees, level)
            ends = np.array([band.low, band.high])
        if parameter.index is not None:
            bounds = np.tile(fit.parameters, (2, 1))
            bounds[:, parameter.index] = [bound[parameter.index] for bound in bounds_of(fit.points, fit.family)]
            with np.errstate(over="ignore", invalid="ignore"):
                at_bounds = np.sort(parameter.compute(bounds, fit.axes))
            ends = np.clip(ends, *np.where(np.isnan(at_bounds), [-np.inf, np.inf], at_bounds))
        found[parameter.name] = (float(estimate), float(ends[0]), float(ends[1]))
    return found


@dataclass(frozen=True)
class Profile:
    """A parameter's interval by profile likelihood, in the table's units."""

    name: str
    estimate: float
    low: float
    high: float
    open_low: bool
    """The points say nothing against values down to the bound."""
    open_high: bool

    @property
    def identified(self) -> bool:
        return not (self.open_low or self.open_high)


_BISECTIONS = 22
"""Of brackets no wider than the interval: ends to six digits."""


def profiles(fit: Fit, level: float = 0.95) -> list[Profile]:
    """Intervals of the parameters that can be held fixed one by one, by refitting all others.

    A value is inside while twice the rise of the objective, over the dispersion, is below F(1, n - p) (exact for linear
    families; Bates and Watts 1988, section 6.1). For the Huber loss the dispersion is that of M-estimates, mean psi^2 /
    mean psi' (Schrader and Hettmansperger 1980), so that the same rule holds for all three losses.
    """
    n, p = len(fit.points), fit.family.n_parameters
    degrees = n - p
    if degrees <= 0:
        return []
    u, w = fit.position(fit.points.x), weights_of(fit.points, fit.loss)
    # Not the degrees of the draws, which may be of seeds; without excess over binomial noise nothing was estimated.
    known = fit.loss.shares and fit.dispersion == 1.0
    quantile = f_distribution.ppf(level, 1, 1e9 if known else degrees)
    threshold = fit.objective + 0.5 * quantile * _quasi_dispersion(fit, w, degrees)
    low, high = bounds_of(fit.points, fit.family)
    natural = [parameter for parameter in fit.family.natural if parameter.index is not None]
    jobs = [(parameter, sign) for parameter in natural for sign in (-1, 1)]
    index = np.array([parameter.index for parameter, _ in jobs])
    sign = np.array([s for _, s in jobs])
    start = np.tile(fit.parameters, (len(jobs), 1))
    rows = np.arange(len(jobs))
    held = np.zeros(start.shape, dtype=bool)
    held[rows, index] = True
    y = np.broadcast_to(fit.points.y, (len(jobs), n))
    weights = np.broadcast_to(w, y.shape)

    def refit(value: Array, warm: Array) -> tuple[Array, Array]:
        begin = warm.copy()
        begin[rows, index] = value
        solution = polish(fit.family, u, y, weights, fit.loss, (low, high), begin, fixed=held)
        return solution.objective, solution.parameters

    inside = fit.parameters[index]
    bound = np.where(sign < 0, low[index], high[index])
    # Walk outwards in growing steps until the objective has risen enough or the bound is reached.
    step = np.maximum(np.abs(inside), 0.1) * 0.02
    outside = np.full(len(jobs), np.nan)
    warm, crossed = start.copy(), np.zeros(len(jobs), dtype=bool)
    for _ in range(60):
        trial = np.where(crossed, outside, inside + sign * step)
        trial = np.where(sign < 0, np.maximum(trial, bound), np.minimum(trial, bound))
        value, fitted = refit(trial, warm)
        now = ~crossed & (value > threshold)
        outside = np.where(now, trial, outside)
        crossed |= now
        moved = ~crossed & (trial != bound)
        inside = np.where(~crossed, trial, inside)
        warm = np.where(~crossed[:, None], fitted, warm)
        step = step * 1.6
        if np.all(crossed | ~moved):
            break
    for _ in range(_BISECTIONS):
        middle = np.where(crossed, (inside + np.where(crossed, outside, inside)) / 2, inside)
        value, fitted = refit(middle, warm)
        over = value > threshold
        outside = np.where(crossed & over, middle, outside)
        inside = np.where(crossed & ~over, middle, inside)
        warm = np.where((crossed & ~over)[:, None], fitted, warm)
    found = []
    for at, parameter in enumerate(natural):
        ends = np.tile(fit.parameters, (2, 1))
        ends[:, parameter.index] = np.where(
            crossed[2 * at : 2 * at + 2], outside[2 * at : 2 * at + 2], bound[2 * at : 2 * at + 2]
        )
        first, last = parameter.compute(ends, fit.axes)
        found.append(
            Profile(
                name=parameter.name,
                estimate=float(parameter.compute(fit.parameters, fit.axes)),
                low=float(first),
                high=float(last),
                open_low=not crossed[2 * at],
                open_high=not crossed[2 * at + 1],
            )
        )
    return found


def _quasi_dispersion(fit: Fit, w: Array, degrees: int) -> float:
    """What twice the rise of the objective is divided by to be chi-squared."""
    if fit.loss.shares:
        return fit.dispersion
    if not fit.loss.positive or not np.isfinite(fit.loss.delta):
        return fit.dispersion**2
    residual = np.abs(fit.residuals)
    psi2 = np.sum(w * np.minimum(residual, fit.loss.delta) ** 2) / degrees
    inside = np.sum(w * (residual <= fit.loss.delta)) / np.sum(w)
    return float(psi2 / max(inside, 1 / len(fit.points)))
