"""Fits of one family to many data sets at once.

The search has two parts. A grid over the few parameters theta that do not enter linearly, with the coefficients of each
grid point from bounded least squares (variable projection: Golub and Pereyra 1973); then damped Gauss-Newton steps
(Levenberg 1944, Marquardt 1963) on all parameters from the best grid points, within bounds, on the loss itself.

scipy has both parts for one data set at a time, at some milliseconds each. Bands, held-out rungs and profiles ask for
hundreds of fits per curve; arrays of fits make that a hundred times cheaper.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import product

import numpy as np
from scipy.special import expit, logit

from analysis.scaling.families import LARGEST_LOG_ODDS, Family, Link
from analysis.scaling.losses import Loss, LossName

Array = np.ndarray
_CHUNK_CELLS = 4_000_000
"""Grid points x points x data sets held at once."""
_ITERATIONS = 200
_STALLED = 1e-11
_CREEPING = 1e-8
"""Gain of a step, relative to the objective, at which a flat valley is only walked along; three such end a fit."""
_LARGEST_DAMPING = 1e16
_ONE_ROUND, _ROUNDS, _FEW = (50,), (15, 15, 30), 4
"""Steps from every start before only the better half goes on, once or, from starts of many kinds, again and again; and
up to how many starts all go on."""
_LEVELLED, _FLAT = 50, 1e-4
"""A fit that stopped for want of steps is flat if its last so many gained less than this share of the objective."""
_TOGETHER, _THREADS = 500, 2
"""Data sets fitted together, as many as caches and memory like, and how many such lots are fitted side by side."""
_PROBE, _MOST_BENT = 0.1, 0.75
"""Share of a step at which its curvature is measured, and the largest bend that is believed, relative to the step."""


@dataclass(frozen=True)
class Solution:
    """Best parameters of each data set."""

    parameters: Array
    """Shape (fit, parameter)."""
    objective: Array
    """Shape (fit,)."""
    converged: Array
    """Whether steps came to an end at an optimum, bool, shape (fit,)."""
    flat: Array | None = None
    """Whether, though they did not, the last of them gained next to nothing: parameters can be traded for each other at
    the same objective, so the curve is found and they are not. Bool, shape (fit,); None: not told."""


def solve(
    family: Family,
    u: Array,
    y: Array,
    w: Array,
    loss: Loss,
    *,
    bounds: tuple[Array, Array],
    starts: Array | None = None,
) -> Solution:
    """Fit a family to data sets that share their positions.

    Args:
        family: What to fit.
        u: Positions, shape (point, variable).
        y: Values, shape (fit, point).
        w: Weights (for the binomial loss: counts), shape (fit, point) or (point,). Zero leaves a point out.
        loss: What to minimise.
        bounds: Lower and upper bounds of all parameters, shape (parameter,).
        starts: Further parameters to polish from, shape (start, parameter): the optimum of a similar data set.
    """
    y = np.atleast_2d(y)
    w = np.broadcast_to(w, y.shape)
    lots = [slice(first, first + _TOGETHER) for first in range(0, y.shape[0], _TOGETHER)]

    def one(lot: slice) -> Solution:
        return _solve_lot(family, u, y[lot], w[lot], loss, bounds, starts)

    if len(lots) <= 1:
        return one(slice(None))
    with ThreadPoolExecutor(_THREADS) as pool:  # numpy lets go of the interpreter in its loops
        parts = list(pool.map(one, lots))
    return Solution(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Solution)))


def _solve_lot(
    family: Family,
    u: Array,
    y: Array,
    w: Array,
    loss: Loss,
    bounds: tuple[Array, Array],
    starts: Array | None,
) -> Solution:
    found = search(family, u, y, w, loss, bounds)
    if starts is not None:
        more = np.broadcast_to(starts[None], (y.shape[0], *starts.shape))
        found = np.concatenate([found, more], axis=1)
    left = _ITERATIONS
    for steps in _ROUNDS if family.kinds is not None else _ONE_ROUND:
        if found.shape[1] > _FEW:
            found = _better_half(family, u, y, w, loss, bounds, found, steps)
            left -= steps
    n_fits, n_starts, n_parameters = found.shape
    repeat = np.repeat(np.arange(n_fits), n_starts)
    flat = found.reshape(-1, n_parameters)
    polished = polish(family, u, y[repeat], w[repeat], loss, bounds, flat, iterations=left)
    objective = polished.objective.reshape(n_fits, n_starts)
    pick = np.argmin(np.where(np.isfinite(objective), objective, np.inf), axis=1)
    chosen = np.arange(n_fits) * n_starts + pick
    assert polished.flat is not None
    return Solution(
        polished.parameters[chosen], polished.objective[chosen], polished.converged[chosen], polished.flat[chosen]
    )


def _better_half(
    family: Family, u: Array, y: Array, w: Array, loss: Loss, bounds: tuple[Array, Array], found: Array, steps: int
) -> Array:
    """The starts that are best after a few steps, moved by them, (fit, start, parameter) -> (fit, half, parameter)."""
    n_fits, n_starts, n_parameters = found.shape
    repeat = np.repeat(np.arange(n_fits), n_starts)
    flat = found.reshape(-1, n_parameters)
    tried = polish(family, u, y[repeat], w[repeat], loss, bounds, flat, iterations=steps)
    objective = tried.objective.reshape(n_fits, n_starts)
    best = np.argsort(np.where(np.isfinite(objective), objective, np.inf), axis=1)[:, : -(-n_starts // 2)]
    return np.take_along_axis(tried.parameters.reshape(found.shape), best[:, :, None], axis=1)


def search(family: Family, u: Array, y: Array, w: Array, loss: Loss, bounds: tuple[Array, Array]) -> Array:
    """The best points of the family's grid with their coefficients, shape (fit, family.n_polished, parameter)."""
    thetas = family.starts()
    low, high = bounds
    k = family.n_coefficients
    basis = np.broadcast_to(family.basis(thetas[:, None, :], u), (thetas.shape[0], u.shape[0], k))
    kinds = family.kinds() if family.kinds is not None else None
    keep = min(family.n_polished, thetas.shape[0])
    step = max(1, _CHUNK_CELLS // max(thetas.shape[0] * u.shape[0], 1))
    parts = []
    for first in range(0, y.shape[0], step):
        own_y, own_w = y[first : first + step], w[first : first + step]
        target, weight = own_y, loss.linear_weights(own_y, own_w)
        if family.link is Link.LOG_ODDS:
            clipped = np.clip(own_y, expit(-LARGEST_LOG_ODDS / 2), expit(LARGEST_LOG_ODDS / 2))
            target = logit(clipped)
            spread = clipped * (1 - clipped)
            weight = own_w * (spread if loss.shares else spread**2)
        # Grid points outside the loss's domain still say where the shape fits; they rank after all others.
        gram = np.einsum("fp,spi,spj->fsij", weight, basis, basis, optimize=True)
        moment = np.einsum("fp,spi->fsi", weight * target, basis, optimize=True)
        c = bounded_least_squares(gram, moment, low[:k], high[:k])  # (fit, start, coefficient)
        eta = np.einsum("spi,fsi->fsp", basis, c, optimize=True)
        fallback = np.einsum("fp,fsp->fs", weight, (target[:, None, :] - eta) ** 2)
        theta = np.broadcast_to(thetas, (c.shape[0], *thetas.shape))
        if kinds is not None:
            # Of a large grid only the best of each kind, by the least squares just solved, are asked the loss itself.
            chosen = _best_of_each(fallback, kinds)
            c, eta, theta = (np.take_along_axis(v, chosen[:, :, None], axis=1) for v in (c, eta, theta))
            fallback = np.take_along_axis(fallback, chosen, axis=1)
        f = expit(eta) if family.link is Link.LOG_ODDS else eta
        value = loss.objective(own_y[:, None, :], f, own_w[:, None, :])
        value = np.where(np.isfinite(value), value, 1e100 * (1 + fallback / (1 + fallback)))
        every = np.concatenate([c, theta], axis=-1)
        best = np.argsort(value, axis=1)[:, :keep]
        parts.append(np.take_along_axis(every, best[:, :, None], axis=1))
    return np.concatenate(parts)


def _best_of_each(value: Array, kinds: Array) -> Array:
    """Index of the least value of each kind, (fit, start) and (start,) -> (fit, kind)."""
    columns = []
    for kind in range(int(kinds.max()) + 1):
        own = np.flatnonzero(kinds == kind)
        columns.append(own[np.argmin(value[:, own], axis=1)])
    return np.stack(columns, axis=1)


def bounded_least_squares(gram: Array, moment: Array, low: Array, high: Array) -> Array:
    """Least squares with bounds, exactly, by trying which bounds hold: minimise c G c / 2 - m c.

    Non-negative least squares (Lawson and Hanson 1974) is the case low = 0. With three coefficients the cases are
    fewer than an active-set method would visit, and all data sets go through them together.

    Args:
        gram: Shape (..., k, k).
        moment: Shape (..., k).
        low: Shape (k,), may be -inf.
        high: Shape (k,), may be inf.

    Returns:
        Shape (..., k).
    """
    k = moment.shape[-1]
    scale = np.sqrt(np.maximum(np.einsum("...ii->...i", gram), 1e-300))
    best = np.zeros_like(moment)
    best_value = np.full(moment.shape[:-1], np.inf)
    choices = [
        [(None,), *(((low[j],),) if np.isfinite(low[j]) else ()), *(((high[j],),) if np.isfinite(high[j]) else ())]
        for j in range(k)
    ]
    for fixed in product(*choices):
        c = np.zeros_like(moment)
        free = [j for j in range(k) if fixed[j][0] is None]
        held = [j for j in range(k) if fixed[j][0] is not None]
        for j in held:
            c[..., j] = fixed[j][0]
        if free:
            rest = moment[..., free] - np.einsum("...fh,...h->...f", gram[..., free, :][..., held], c[..., held])
            own = gram[..., free, :][..., free] / (scale[..., free, None] * scale[..., None, free])
            own = own + 1e-13 * np.eye(len(free))
            c[..., free] = _solved(own, rest / scale[..., free]) / scale[..., free]
        slack = 1e-9 * (1 + np.abs(c))
        feasible = np.all((c >= low - slack) & (c <= high + slack), axis=-1)
        value = 0.5 * np.einsum("...i,...ij,...j->...", c, gram, c) - np.einsum("...i,...i->...", moment, c)
        better = feasible & (value < best_value)
        best = np.where(better[..., None], c, best)
        best_value = np.where(better, value, best_value)
    return np.clip(best, low, high)


def _solved(matrix: Array, right: Array) -> Array:
    """Solutions of small positive definite equations, (..., k, k) and (..., k) -> (..., k).

    Up to k = 2 by elimination, much faster than LAPACK on many small matrices.
    """
    if right.shape[-1] == 1:
        return right / matrix[..., 0]
    if right.shape[-1] > 2:
        return np.linalg.solve(matrix, right[..., None])[..., 0]
    share = matrix[..., 1, 0] / matrix[..., 0, 0]
    second = (right[..., 1] - share * right[..., 0]) / (matrix[..., 1, 1] - share * matrix[..., 0, 1])
    return np.stack([(right[..., 0] - matrix[..., 0, 1] * second) / matrix[..., 0, 0], second], axis=-1)


def polish(
    family: Family,
    u: Array,
    y: Array,
    w: Array,
    loss: Loss,
    bounds: tuple[Array, Array],
    start: Array,
    *,
    fixed: Array | None = None,
    iterations: int = _ITERATIONS,
) -> Solution:
    """Levenberg-Marquardt steps within bounds, each data set with a damping of its own.

    Args:
        y: Shape (fit, point); `w` and `start` (fit, parameter) likewise.
        fixed: Parameters that stay where they start, bool, shape (parameter,) or (fit, parameter).
        iterations: At most so many steps.
    """
    low, high = bounds
    n_fits, n_parameters = start.shape
    p = np.clip(start, low, high)
    held = np.zeros(p.shape, dtype=bool) if fixed is None else np.broadcast_to(fixed, p.shape)
    objective = loss.objective(y, family.predict(p, u), w)
    converged = np.zeros(n_fits, dtype=bool)
    damping = np.full(n_fits, 1e-3)
    cautious = np.zeros(n_fits, dtype=bool)
    crept = np.zeros(n_fits, dtype=np.int64)
    active = np.flatnonzero(np.ones(n_fits, dtype=bool))
    eye = np.eye(n_parameters)
    before = np.full(n_fits, np.inf)
    for iteration in range(iterations):
        if active.size == 0:
            break
        if iteration == iterations - _LEVELLED:
            before = objective.copy()
        own, own_y, own_w = p[active], y[active], w[active]
        f, slope = family.predict_with_slope(own, u)
        score, curvature = loss.score(own_y, f, own_w)
        exact = loss.newton_curvature(own_y, f, own_w)
        curvature = np.where(cautious[active, None], curvature, exact)
        gradient = np.einsum("fp,fpi->fi", score, slope)  # of the way down
        blocked = held[active] | ((own <= low) & (gradient < 0)) | ((own >= high) & (gradient > 0))
        slope = np.where(blocked[:, None, :], 0.0, slope)
        gradient = np.where(blocked, 0.0, gradient)
        matrix = np.einsum("fp,fpi,fpj->fij", curvature, slope, slope, optimize=True)
        diagonal = np.einsum("fii->fi", matrix)
        scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        scaled = matrix / (scale[:, :, None] * scale[:, None, :])
        scaled = np.where(np.isfinite(scaled), scaled, 0.0)
        scaled = scaled + (damping[active, None, None] + 1e-14) * eye
        scaled = np.where((diagonal <= 0)[:, :, None] & eye.astype(bool), 1.0, scaled)
        step = np.linalg.solve(scaled, (np.nan_to_num(gradient) / scale)[..., None])[..., 0] / scale
        step = step + _bend(family, u, own, step, f, slope, curvature, scaled, scale, bounds)
        trial = np.clip(own + step, low, high)
        value = loss.objective(own_y, family.predict(trial, u), own_w)
        value = np.where(np.isnan(value), np.inf, value)
        better = value < objective[active]
        moved = np.where(better[:, None], trial, own)
        gain = np.subtract(objective[active], value, out=np.zeros_like(value), where=better)
        small_step = np.all(np.abs(trial - own) <= _STALLED * (np.abs(own) + 1e-3), axis=-1)
        crept[active] = np.where(better & (gain <= _CREEPING * np.abs(objective[active])), crept[active] + 1, 0)
        stuck = ~better & (damping[active] >= _LARGEST_DAMPING)
        p[active] = moved
        objective[active] = np.where(better, value, objective[active])
        damping[active] = np.clip(np.where(better, damping[active] / 5, damping[active] * 6), 1e-12, _LARGEST_DAMPING)
        # Newton's curvature of a Huber loss may mislead far from the optimum; after a failure the safe one is used.
        cautious[active] = ~better
        done = small_step | stuck | (crept[active] >= 3)
        converged[active] |= done
        active = active[~done]
    converged &= np.isfinite(objective)
    with np.errstate(invalid="ignore"):  # infinity less infinity is not flat
        flat = ~converged & (before - objective <= _FLAT * np.abs(objective))
    return Solution(p, objective, converged, flat)


def _bend(
    family: Family,
    u: Array,
    own: Array,
    step: Array,
    f: Array,
    slope: Array,
    curvature: Array,
    scaled: Array,
    scale: Array,
    bounds: tuple[Array, Array],
) -> Array:
    """Second-order part of steps, shape (fit, parameter), which follows the bend of a valley.

    The curve's second derivative along the step, by a difference, takes the place of the residual in the step's own
    equations; zero where the result is not small beside the step (Transtrum and Sethna 2012, section 3).
    """
    probe = np.clip(own + _PROBE * step, *bounds)
    along = (probe - own) / _PROBE
    second = 2 / _PROBE * ((family.predict(probe, u) - f) / _PROBE - np.einsum("fpi,fi->fp", slope, along))
    right = np.einsum("fp,fpi->fi", curvature * second, slope) / scale
    bend = -0.5 * np.linalg.solve(scaled, np.nan_to_num(right)[..., None])[..., 0]
    small = 4 * np.sum(bend**2, axis=-1) < _MOST_BENT**2 * np.sum((step * scale) ** 2, axis=-1)
    return np.where(small[:, None], bend / scale, 0.0)


__all__ = ["LossName", "Solution", "bounded_least_squares", "polish", "search", "solve"]
