"""The curve that is fitted within the measured range: log-odds that rise or fall along one bend, of either sense.

    log-odds(x) = first + (last - first) g(u),    g(u) = (1 - exp(-bend u)) / (1 - exp(-bend))

with u the position of x on the range of log x, 0 at its start and 1 at its end. A positive bend is the saturating curve
of `analysis.scaling.families`, log-odds = L + A x^-alpha, with alpha the bend over the length of the range; a bend of
zero is a straight line; a negative one is steeper at its end, which saturating curves cannot be. A family that could
only level off would say that everything does.
"""

import numpy as np
from scipy.special import expit

from analysis.scaling.families import ANY, HIGHEST_RATE, LARGEST_LOG_ODDS, LOWEST_RATE, Axis, Family, Link

_STRONGEST_RISE = -5.0
"""Bend below which nearly all of the change lies between the last two of a handful of points."""
_STARTS = np.array([-4.0, -2.0, -1.0, -0.3, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0])
_SMALL = 1e-3
SATURATING, STRAIGHT, ACCELERATING = "saturating", "log_odds_linear", "accelerating"


def _share(bend: np.ndarray, u: np.ndarray) -> np.ndarray:
    """g(u)."""
    small = np.abs(bend) < _SMALL
    safe = np.where(small, 1.0, bend)
    return np.where(small, u + 0.5 * bend * u * (1 - u), np.expm1(-safe * u) / np.expm1(-safe))


def _basis(theta: np.ndarray, u: np.ndarray) -> np.ndarray:
    g = _share(theta[..., 0], u[..., 0])
    return np.stack([1 - g, g], axis=-1)


def _slope(theta: np.ndarray, u: np.ndarray) -> np.ndarray:
    bend, u = theta[..., 0], u[..., 0]
    small = np.abs(bend) < _SMALL
    safe = np.where(small, 1.0, bend)
    whole = -np.expm1(-safe)
    exact = (u * np.exp(-safe * u) - _share(safe, u) * np.exp(-safe)) / whole
    by_bend = np.where(small, 0.5 * u * (1 - u), exact)
    return np.stack([-by_bend, by_bend], axis=-1)[..., None]


BENT = Family(
    name="bent",
    formula="log-odds = first + (last - first) (1 - exp(-bend u)) / (1 - exp(-bend))",
    link=Link.LOG_ODDS,
    coefficients=("first", "last"),
    coefficient_bounds=(ANY, ANY),
    thetas=("bend",),
    theta_bounds=((_STRONGEST_RISE, HIGHEST_RATE),),
    basis=_basis,
    slope=_slope,
    starts=lambda: _STARTS[:, None],
    natural=(),
)


def sense(parameters: np.ndarray) -> str:
    """What a bent curve is called: its bend in a word."""
    bend = float(parameters[-1])
    return SATURATING if bend > LOWEST_RATE else ACCELERATING if bend < -LOWEST_RATE else STRAIGHT


def asymptote(parameters: np.ndarray) -> np.ndarray:
    """Share that saturating curves tend to, (..., parameter) -> (...,).

    Curves without such a bend tend to 0 or 1: in draws of a saturating one they stand for "no end in sight".
    """
    first, last, bend = (parameters[..., i] for i in range(3))
    levels_off = bend > LOWEST_RATE
    limit = first - (last - first) / np.expm1(-np.where(levels_off, bend, 1.0))
    limit = np.where(levels_off, limit, np.sign(last - first) * LARGEST_LOG_ODDS)
    return expit(np.clip(limit, -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS))


def exponent(parameters: np.ndarray, axis: Axis) -> np.ndarray:
    """alpha of log-odds = L + A x^-alpha, (..., parameter) -> (...,)."""
    return np.maximum(parameters[..., -1], LOWEST_RATE) / axis.span


def levels_off(parameters: np.ndarray) -> bool:
    """Whether the curve has an asymptote that differs from 0 and 1."""
    edge = expit(LARGEST_LOG_ODDS)
    return sense(parameters) == SATURATING and bool(1 - edge < asymptote(parameters) < edge)
