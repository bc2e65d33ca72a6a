"""What a fit minimises: sums over points of a loss of the observed value y and the fitted value f.

| loss | per point | for |
|---|---|---|
| squared | w (y - f)^2 / 2 | values with even noise |
| huber_log | w Huber_delta(log y - log f) | positive values; with delta 1e-3 Hoffmann et al. 2022 |
| binomial | n (KL(y, f)), half the deviance | shares of n examples |

Weights w are 1, or n relative to its mean where a table has counts. Everything works on many data sets at once.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import xlogy

Array = np.ndarray
_SMALLEST = 1e-12
DEFAULT_DELTA = 1e-3


class LossName(StrEnum):
    SQUARED = "squared"
    HUBER_LOG = "huber_log"
    BINOMIAL = "binomial"


@dataclass(frozen=True)
class Loss:
    """A loss with its constant."""

    name: LossName
    delta: float = DEFAULT_DELTA
    """Of `huber_log`: errors of log y beyond it count linearly. Infinite: squared errors of the logarithm."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", LossName(self.name))  # a plain string is as good

    @property
    def words(self) -> str:
        """For people."""
        if self.name is LossName.HUBER_LOG:
            return (
                "squared errors of log y"
                if not np.isfinite(self.delta)
                else f"Huber loss of log y, delta {self.delta:g}"
            )
        return "binomial likelihood" if self.shares else "squared errors of y"

    @property
    def positive(self) -> bool:
        """Whether values and fits must be above zero."""
        return self.name is LossName.HUBER_LOG

    @property
    def shares(self) -> bool:
        """Whether values and fits must be shares."""
        return self.name is LossName.BINOMIAL

    def objective(self, y: Array, f: Array, w: Array) -> Array:
        """Sum over points (last axis); infinite where a fit leaves the loss's domain."""
        if self.name is LossName.SQUARED:
            return 0.5 * np.sum(w * (y - f) ** 2, axis=-1)
        if self.name is LossName.HUBER_LOG:
            inside = np.all((f > 0) | (w == 0), axis=-1)
            r = np.abs(np.log(y) - np.log(np.maximum(f, _SMALLEST)))
            rho = (
                np.where(r <= self.delta, 0.5 * r**2, self.delta * (r - 0.5 * self.delta))
                if np.isfinite(self.delta)
                else 0.5 * r**2
            )
            return np.where(inside, np.sum(w * rho, axis=-1), np.inf)
        inside = np.all(((f >= 0) & (f <= 1)) | (w == 0), axis=-1)
        g = np.clip(f, _SMALLEST, 1 - _SMALLEST)
        divergence = xlogy(y, y / g) + xlogy(1 - y, (1 - y) / (1 - g))
        return np.where(inside, np.sum(w * divergence, axis=-1), np.inf)

    def score(self, y: Array, f: Array, w: Array) -> tuple[Array, Array]:
        """Minus the derivative of each point's loss in f, and a positive curvature for Gauss-Newton steps.

        For the Huber loss beyond delta the curvature is that of the quadratic that touches the loss from above, so that
        steps never overshoot; `Loss.newton_curvature` has the exact one.
        """
        if self.name is LossName.SQUARED:
            return w * (y - f), np.broadcast_to(w, f.shape)
        if self.name is LossName.HUBER_LOG:
            g = np.maximum(f, _SMALLEST)
            r = np.log(y) - np.log(g)
            factor = np.minimum(1.0, self.delta / np.maximum(np.abs(r), 1e-300))
            return w * factor * r / g, w * factor / g**2
        g = np.clip(f, _SMALLEST, 1 - _SMALLEST)
        return w * (y - g) / (g * (1 - g)), w / (g * (1 - g))

    def newton_curvature(self, y: Array, f: Array, w: Array) -> Array:
        """Curvature that is exact to first order in the residuals: zero for the Huber loss beyond delta, up to 1 %."""
        _, curvature = self.score(y, f, w)
        if self.name is not LossName.HUBER_LOG or not np.isfinite(self.delta):
            return curvature
        g = np.maximum(f, _SMALLEST)
        outside = np.abs(np.log(y) - np.log(g)) > self.delta
        return np.where(outside, 0.01 * curvature, curvature)

    def residual(self, y: Array, f: Array) -> Array:
        """Observed minus fitted on the scale whose spread is thought even: y, log y, or y as it is."""
        if self.name is LossName.HUBER_LOG:
            return np.log(y) - np.log(np.maximum(f, _SMALLEST))
        return y - f

    def shifted(self, f: Array, residual: Array) -> Array:
        """Inverse of `residual`: values with given residuals about fits, kept in the loss's domain."""
        if self.name is LossName.HUBER_LOG:
            return f * np.exp(residual)
        return np.clip(f + residual, 0, 1) if self.shares else f + residual

    def linear_weights(self, y: Array, w: Array) -> Array:
        """Weights with which weighted least squares in y stands in for the loss when the search for a start begins."""
        if self.name is LossName.SQUARED:
            return w
        if self.name is LossName.HUBER_LOG:
            return w / y**2
        smooth = np.clip(y, 0.005, 0.995)
        return w / (smooth * (1 - smooth))


def default_loss(y: Array, *, counts: bool) -> Loss:
    """What fits when the user names no loss: binomial for shares of n examples, squared errors of log y for other
    positive values (noise of losses and errors is a share of them), squared errors of y where some are not positive."""
    if counts:
        return Loss(LossName.BINOMIAL)
    return Loss(LossName.HUBER_LOG, np.inf) if np.all(y > 0) else Loss(LossName.SQUARED)


def rmsle(observed: Array, predicted: Array) -> float | None:
    """Root mean squared error of the logarithm; None without points or where an observed value is not positive.

    Infinite where a positive value was predicted to be zero or below.
    """
    if observed.size == 0 or np.any(observed <= 0):
        return None
    if np.any(predicted <= 0):
        return float("inf")
    return float(np.sqrt(np.mean(np.log(predicted / observed) ** 2)))
