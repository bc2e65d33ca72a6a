"""Fits of the curves of `analysis.curves` to a few points, by binomial likelihood.

The likelihood of shares y of n examples is that of a binomial; its deviance is minimised. For a given rate a curve is
linear in `start` and `rise`, so these two come from Newton steps and the rate from a grid that is refined three
times: every grid point is a start of its own, and many data sets (the draws behind an interval) are fitted in one go.

Points share test examples and seeds vary, so the binomial n gives the points their relative weights, not the
uncertainty: bands come from refitting joint draws.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from analysis.curves import RATE_BOUNDS, Family, log_odds, shape, share_of
from analysis.errors import AnalysisError

_LARGEST_LOG_ODDS = 12.0  # shares of 0.999994; no test set here can tell more
_NEWTON_STEPS, _ROUGH_STEPS = 12, 4  # rough ones are enough to choose between rates
_GRID, _ZOOM, _ZOOMS = 24, 9, 3


class FitStatus(StrEnum):
    """How far a fit can be trusted."""

    CONVERGED = "converged"
    """An optimum inside the bounds."""
    AT_BOUND = "at bound"
    """The curve follows the points, but its parameters (rate, asymptote) are not determined by them."""
    NOT_CONVERGED = "not converged"
    """The optimiser stopped short; do not use the curve."""


@dataclass(frozen=True)
class Curves:
    """Fitted parameters of many data sets, each of shape (fit,)."""

    start: np.ndarray
    rise: np.ndarray
    rate: np.ndarray
    """0 for straight lines."""
    deviance: np.ndarray
    gradient: np.ndarray
    """Largest absolute score per example at the optimum, a measure of convergence."""

    def predict(self, u: np.ndarray) -> np.ndarray:
        """Shares at positions u, shape (fit, position)."""
        odds = self.start[:, None] + self.rise[:, None] * shape(u[None, :], self.rate[:, None])
        return share_of(odds)


@dataclass(frozen=True)
class CurveFit:
    """A curve fitted to points, with what to think of it."""

    family: Family
    status: FitStatus
    testable: bool
    """At most n - 2 parameters, and not the fall-back: the points could have contradicted the family."""
    diagnosis: str
    """Empty, or why the family is not the saturating one, or which parameter is not determined."""
    n_points: int
    n_examples: int
    start: float
    rise: float
    rate: float
    """Per range of the fitted points; 0 for a straight line."""
    deviance: float
    """Binomial deviance over n_points - parameters degrees of freedom, if points were independent."""
    x_low: float
    x_high: float
    """Compute of the smallest and the largest point."""

    @property
    def asymptote(self) -> float | None:
        """Share approached at unlimited compute; None where the points do not determine it."""
        if self.family is Family.LINEAR or self.status is not FitStatus.CONVERGED:
            return None
        return float(share_of(np.asarray(self.start - self.rise / np.expm1(-self.rate))))

    def predict(self, compute: np.ndarray | float) -> np.ndarray:
        """Share at some compute (same unit as the points), of any shape."""
        u = position(np.asarray(compute, dtype=np.float64), self.x_low, self.x_high)
        return share_of(self.start + self.rise * shape(u, self.rate))


def position(compute: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where log compute lies between low (0) and high (1)."""
    return np.log(compute / low) / np.log(high / low)


def choose_family(n_points: int) -> Family:
    """The saturating family needs 5 points: at most n - 2 parameters. With 3 or 4 the straight line stands in.

    Raises:
        AnalysisError: Fewer than 3 points; a line through two always fits and says nothing.
    """
    if n_points < 3:
        raise AnalysisError(f"a curve needs at least 3 strong models of different compute, there are {n_points}")
    return Family.SATURATING if n_points >= Family.SATURATING.n_parameters + 2 else Family.LINEAR


def fit_curve(compute: np.ndarray, share: np.ndarray, n_examples: int) -> CurveFit:
    """Fit a saturating curve to shares, or a straight line where there are too few points for it.

    Args:
        compute: Positive, all different, shape (point,).
        share: In [0, 1], shape (point,).
        n_examples: Test examples behind each share.

    Raises:
        AnalysisError: Too few points, points of equal compute, or numbers out of range.
    """
    compute, share = np.asarray(compute, dtype=np.float64), np.asarray(share, dtype=np.float64)
    _check(compute, share)
    family = choose_family(compute.size)
    low, high = float(compute.min()), float(compute.max())
    curves = fit_many(position(compute, low, high), share[None, :], n_examples, family)
    start, rise, rate = (float(values[0]) for values in (curves.start, curves.rise, curves.rate))
    status, diagnosis = _judge(family, start, rise, rate, float(curves.gradient[0]))
    if family is Family.LINEAR:
        needed = Family.SATURATING.n_parameters + 2
        diagnosis = (
            f"not testable: {compute.size} points, the saturating curve needs {needed}; straight line in log-odds"
        )
    return CurveFit(
        family=family,
        status=status,
        testable=family is Family.SATURATING,
        diagnosis=diagnosis,
        n_points=compute.size,
        n_examples=n_examples,
        start=start,
        rise=rise,
        rate=rate,
        deviance=float(curves.deviance[0]),
        x_low=low,
        x_high=high,
    )


def fit_many(u: np.ndarray, shares: np.ndarray, n_examples: int, family: Family) -> Curves:
    """Fit one family to many data sets on the same points.

    Args:
        u: Positions of the points, shape (point,).
        shares: Shape (fit, point). Clipped by half an example, so that 0 and 1 have log-odds.
        n_examples: Test examples behind each share.
        family: What to fit.
    """
    half = 0.5 / n_examples
    y = np.clip(shares, half, 1 - half)
    if family is Family.LINEAR:
        return _best(u, y, np.zeros((y.shape[0], 1)), n_examples)
    low, high = RATE_BOUNDS
    rates = np.broadcast_to(np.geomspace(low, high, _GRID), (y.shape[0], _GRID))
    best = _best(u, y, rates, n_examples, _ROUGH_STEPS)
    factor = (high / low) ** (1 / (_GRID - 1))
    for zoom in range(_ZOOMS):
        rates = np.clip(best.rate[:, None] * np.geomspace(1 / factor, factor, _ZOOM), low, high)
        best = _best(u, y, rates, n_examples, _NEWTON_STEPS if zoom == _ZOOMS - 1 else _ROUGH_STEPS)
        factor **= 2 / (_ZOOM - 1)
    return best


def _best(u: np.ndarray, y: np.ndarray, rates: np.ndarray, n_examples: int, steps: int = _NEWTON_STEPS) -> Curves:
    """Newton for start and rise at each rate, shape (fit, rate); the rate of least deviance wins."""
    h = shape(u, rates[:, :, None])  # (fit, rate, point)
    y3 = y[:, None, :]
    odds = log_odds(y3)
    weight = np.broadcast_to(y3 * (1 - y3), h.shape)
    start, rise = _weighted_line(h, np.broadcast_to(odds, h.shape), weight)
    for _ in range(steps):
        eta = start[..., None] + rise[..., None] * h
        mean = share_of(eta)
        weight = np.maximum(mean * (1 - mean), 1e-9)
        new_start, new_rise = _weighted_line(h, eta + (y3 - mean) / weight, weight)
        # A step is bounded, which keeps Newton from overshooting where the likelihood is flat.
        step_start, step_rise = np.clip(new_start - start, -2, 2), np.clip(new_rise - rise, -2, 2)
        start = np.clip(start + step_start, -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS)
        rise = np.clip(rise + step_rise, -2 * _LARGEST_LOG_ODDS, 2 * _LARGEST_LOG_ODDS)
        if max(np.abs(step_start).max(), np.abs(step_rise).max()) < 1e-8:
            break
    mean = np.clip(share_of(start[..., None] + rise[..., None] * h), 1e-12, 1 - 1e-12)
    deviance = 2 * n_examples * np.sum(y3 * np.log(y3 / mean) + (1 - y3) * np.log((1 - y3) / (1 - mean)), axis=-1)
    residual = y3 - mean
    gradient = np.maximum(np.abs(residual.sum(axis=-1)), np.abs((residual * h).sum(axis=-1)))
    pick = np.argmin(deviance, axis=1)
    rows = np.arange(y.shape[0])
    chosen = (values[rows, pick] for values in (start, rise, rates, deviance, gradient))
    return Curves(*chosen)


def _weighted_line(h: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares of target on (1, h) along the last axis."""
    total = weight.sum(axis=-1)
    h_mean = (weight * h).sum(axis=-1) / total
    target_mean = (weight * target).sum(axis=-1) / total
    h_centred = h - h_mean[..., None]
    slope = (weight * h_centred * target).sum(axis=-1) / np.maximum((weight * h_centred**2).sum(axis=-1), 1e-12)
    return target_mean - slope * h_mean, slope


def _judge(family: Family, start: float, rise: float, rate: float, gradient: float) -> tuple[FitStatus, str]:
    if gradient > 1e-4:
        return FitStatus.NOT_CONVERGED, "the fit did not converge"
    if family is Family.LINEAR:
        return FitStatus.CONVERGED, ""
    low, high = RATE_BOUNDS
    asymptote = start - rise / np.expm1(-rate)
    if rate <= low * 1.01:
        return FitStatus.AT_BOUND, "no bend to be seen: the asymptote is not determined by these points"
    if rate >= high / 1.01:
        return (
            FitStatus.AT_BOUND,
            "the whole change lies between two points: the rate is not determined by these points",
        )
    if abs(asymptote) > _LARGEST_LOG_ODDS:
        return FitStatus.AT_BOUND, "the asymptote cannot be told from 0 or 1"
    return FitStatus.CONVERGED, ""


def _check(compute: np.ndarray, share: np.ndarray) -> None:
    if compute.shape != share.shape or compute.ndim != 1:
        raise AnalysisError(f"a fit needs one share per compute, got shapes {share.shape} and {compute.shape}")
    if not np.all(np.isfinite(compute)) or np.any(compute <= 0):
        raise AnalysisError(f"compute must be positive and finite, got {compute.tolist()}")
    if not np.all((share >= 0) & (share <= 1)):
        raise AnalysisError(f"shares must lie in [0, 1], got {share.tolist()}")
    if np.unique(compute).size != compute.size:
        raise AnalysisError(f"two points have the same compute ({compute.tolist()}); average them first")
