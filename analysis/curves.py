"""Curves of a share (accuracy, agreement) against compute, in log-odds.

With u the position of log compute between the smallest and the largest point fitted (0 to 1 there),

    log-odds(u) = start + rise * u                                              linear
    log-odds(u) = start + rise * (1 - exp(-rate u)) / (1 - exp(-rate))          saturating

so `start` and `start + rise` are the curve's values at the two ends. The saturating curve approaches the asymptote
start + rise / (1 - exp(-rate)) as compute^(-rate / range); as rate goes to 0 it becomes the linear one, of which it
is the extension by one parameter. Plain log-odds: chance in a balanced binary task is 0, and a value below chance, as
small models give, is as good as any other.
"""

from enum import StrEnum

import numpy as np

RATE_BOUNDS = (0.05, 20.0)
"""Rate per range of the points. Below, no bend can be seen; above, the whole rise lies between two points."""


class Family(StrEnum):
    LINEAR = "linear"
    SATURATING = "saturating"

    @property
    def n_parameters(self) -> int:
        return 2 if self is Family.LINEAR else 3


def shape(u: np.ndarray, rate: np.ndarray | float) -> np.ndarray:
    """Share of the rise reached at u; `rate` 0 is the straight line. Broadcasts."""
    rate = np.asarray(rate, dtype=np.float64)
    safe = np.where(rate > 0, rate, 1.0)
    return np.where(rate > 0, np.expm1(-safe * u) / np.expm1(-safe), u)


def log_odds(share: np.ndarray) -> np.ndarray:
    return np.log(share) - np.log1p(-share)


def share_of(odds: np.ndarray) -> np.ndarray:
    """Inverse of `log_odds`."""
    return 0.5 * (1 + np.tanh(odds / 2))  # the logistic function, without overflow
