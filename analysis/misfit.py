"""Whether a curve fits its own points, and how far off it is.

Residuals are compared with the noise of the points. That noise is not binomial: points share their test examples, and
means over few seeds scatter more. So the residuals are weighed in the n - p directions in which the curve cannot
follow (the complement of its tangent, on the scale on which binomial noise is even), where the joint draws say how
large noise is. With c the residuals there, Pearson's chi-squared is c'c, and with S the draws' covariance there

    F = c'c / tr S

has about an F distribution (the ANOVA-type statistic of Brunner, Dette and Munk 1997, Box's approximation), with
tr(S)^2 / tr(S^2) and, since the seeds' part of S is known from few seeds only, (seeds - 1) tr(S)^2 / tr(S_seeds)^2
degrees of freedom. Both are taken on the side of too few. One seed says nothing about seeds, so nothing is tested then.

What c'c is beyond tr S, per direction, is the variance of a discrepancy between truth and curve, as in
quasi-likelihood (McCullagh and Nelder 1989, section 4.5), but added instead of multiplied: noise that points share
moves curves without making them fit worse.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from analysis.lines import Values
from analysis.scaling.fitting import Fit, bounds_of

ALPHA = 0.05
"""A curve whose p is below this does not fit. One true curve in twenty is refused, or fewer."""
_RANK = 1e-7


@dataclass(frozen=True)
class Goodness:
    """How well a curve fits its points."""

    p: float | None
    """Probability of residuals as large as these if the curve were true; None where it could not be tested."""
    discrepancy: float
    """Standard deviation of truth about the curve, in units of one point's binomial noise; 0 if residuals are noise."""

    @property
    def refused(self) -> bool:
        return self.p is not None and self.p < ALPHA


def goodness(fit: Fit, values: Values) -> Goodness:
    """Of a fit of shares to the estimate of some values.

    Args:
        fit: Its points have counts.
        values: What was fitted, with joint draws, shape (point,).
    """
    root = np.sqrt(_weights(fit, fit.points.x))
    q = _complement(root[:, None] * _tangent(fit, fit.points.x))
    if q.shape[1] == 0:
        return Goodness(None, 0.0)
    c = q.T @ (root * (fit.points.y - fit.fitted))
    examples, seeds = (
        _covariance(_moved(values.estimate, draws) * root @ q) for draws in (values.examples, values.seeds)
    )
    noise = examples + seeds
    total, squared = float(np.trace(noise)), float(c @ c)
    if total <= 0:
        return Goodness(None, 0.0)
    discrepancy = float(np.sqrt(max(0.0, squared - total) / c.size))
    known = values.fewest_seeds - 1
    if known < 1:
        return Goodness(None, discrepancy)
    of_seeds = float(np.trace(seeds))
    above = total**2 / float(np.sum(noise**2))
    below = known * total**2 / of_seeds**2 if of_seeds > 0 else np.inf
    below = min(below, 1e9)
    return Goodness(float(f_distribution.sf(squared / total, above, below)), discrepancy)


def discrepancy_at(fit: Fit, found: Goodness, x: np.ndarray) -> np.ndarray:
    """Standard deviation of the truth about the fitted curve at some x for want of fit, as a share, shape (x,): of the
    discrepancy there, and of what those at the points did to the parameters."""
    if found.discrepancy == 0:
        return np.zeros(x.size)
    at_points = np.sqrt(_weights(fit, fit.points.x))[:, None] * _tangent(fit, fit.points.x)
    root = np.sqrt(_weights(fit, x[:, None]))
    here = root[:, None] * _tangent(fit, x[:, None])
    leverage = np.sum((here @ np.linalg.pinv(at_points, rcond=_RANK)) ** 2, axis=1)
    return found.discrepancy * np.sqrt(1 + leverage) / root


def _weights(fit: Fit, x: np.ndarray) -> np.ndarray:
    """One over the binomial variance of a point at x."""
    assert fit.points.n is not None
    n = float(np.mean(fit.points.n))
    f = np.clip(fit.at(x), 0.5 / n, 1 - 0.5 / n)
    return n / (f * (1 - f))


def _tangent(fit: Fit, x: np.ndarray) -> np.ndarray:
    """Derivatives of the curve in its parameters, but for those held by their bounds, shape (point, parameter)."""
    _, slope = fit.family.predict_with_slope(fit.parameters, fit.position(x))
    low, high = bounds_of(fit.points, fit.family)
    return slope[:, (fit.parameters > low) & (fit.parameters < high)]


def _complement(tangent: np.ndarray) -> np.ndarray:
    """Orthonormal directions in which the curve cannot move, shape (point, direction)."""
    u, s, _ = np.linalg.svd(tangent, full_matrices=True)
    rank = int(np.sum(s > _RANK * max(s.max(initial=0.0), 1e-300)))
    return u[:, rank:]


def _moved(estimate: np.ndarray, draws: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(draws), draws, estimate) - estimate


def _covariance(moved: np.ndarray) -> np.ndarray:
    return moved.T @ moved / len(moved)
