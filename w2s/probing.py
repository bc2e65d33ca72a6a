"""Linear and nearest-neighbour probes on activations: exact, in double precision, without randomness.

Shapes: n rows, D features. Low bits of a fitted probe depend on the linear algebra library and its threads; which
neighbours are nearest does not.

Source: EleutherAI's w2s, probes on a student's activations; Burns et al. 2023 (arXiv:2312.09390), section 5.2.3.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg
from scipy.spatial.distance import cdist

from w2s.errors import DataError, TrainingError

TOLERANCE = 1e-10
"""Norm of the gradient at which a fit has converged, for features of unit length; longer ones scale it up."""
MAX_STEPS = 100
DIRECT_UP_TO = 2048
"""Up to this many unknowns Newton's equations are solved by factorisation, beyond it by conjugate gradients."""
CHUNK_ENTRIES = 2**22
"""Distances held at a time, 32 MiB of them."""


@dataclass(frozen=True)
class LogisticProbe:
    """P(class 1) = sigmoid(features @ weights + bias)."""

    weights: np.ndarray
    """float64, shape [D]."""
    bias: float

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        """Log-odds of class 1 of each row, float64, shape [n].

        Raises:
            DataError: `features` are not finite, or not of shape [n, D].
        """
        x = _checked_features(features)
        if x.shape[1] != len(self.weights):
            raise DataError(
                f"the probe was fitted on {len(self.weights)} features per row, these rows have {x.shape[1]}: "
                "both must come from the same layer of the same model"
            )
        return x @ self.weights + self.bias

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """P(class 1) of each row, float64, shape [n]; raises as `log_odds` does."""
        return _sigmoid(self.log_odds(features))


def fit_logistic(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    penalty: float = 1e-3,
    intercept: bool = True,
    standardise: bool = False,
) -> LogisticProbe:
    """The probe that minimises mean soft cross-entropy + penalty * sum of squared weights; the bias is free.

    For hard labels this is scikit-learn's `LogisticRegression(C=1 / (2 * penalty * n))`. The objective is strictly
    convex, so the result depends on no initial value and on no order of rows (but for rounding). Newton's method with
    line search; with fewer rows than features in the span of the rows, where the minimum lies.

    Args:
        features: Shape [n, D], any float type.
        targets: P(class 1) of each row, hard or soft, shape [n].
        penalty: Not multiplied by n, and not by 1/2. It belongs to the features' units: features twice as long feel
            a penalty four times as weak. Must be positive, as separable classes have no unpenalised minimum.
        intercept: Fit a bias. Off for `compare`, whose features are differences of two replies: swapping them must
            change the sign of the log-odds.
        standardise: Divide each feature by its standard deviation before the penalty applies (by its root mean square
            without an intercept). Off by default, as in the source: the few very large dimensions of many language
            models then keep their weight. Weights and bias are given for the features as they came in.

    Raises:
        DataError: Shapes do not fit, a value is not finite, a target is outside [0, 1], or the penalty not positive.
        TrainingError: The fit did not converge.
    """
    x = _checked_features(features)
    t = _checked_targets(targets, len(x), "targets")
    if not (penalty > 0 and np.isfinite(penalty)):
        raise DataError(f"the probe's penalty is {penalty:g}; it must be a positive number, for instance 1e-3")
    # A shift of the features only moves the free bias, and a centred problem is better conditioned.
    mean = x.mean(axis=0) if intercept else np.zeros(x.shape[1])
    x = x - mean
    scale = np.ones(x.shape[1])
    if standardise:
        deviation = np.sqrt(np.mean(x**2, axis=0))
        scale = np.where(deviation > 0, deviation, 1.0)
        x = x / scale
    if x.shape[1] > x.shape[0]:
        # The penalty pulls every direction to 0 that no row has: w = basis @ u, and |w| = |u|.
        basis, rows = np.linalg.qr(x.T)
        u, bias = _newton(np.ascontiguousarray(rows.T), t, penalty, intercept)
        weights = basis @ u
    else:
        weights, bias = _newton(x, t, penalty, intercept)
    weights = weights / scale
    return LogisticProbe(weights, float(bias - mean @ weights))


def nearest(train: np.ndarray, queries: np.ndarray, k: int, *, skip_self: bool = False) -> np.ndarray:
    """The k rows of `train` nearest to each query by Euclidean distance, int64, shape [queries, k].

    Exact: matrix products find candidates, the distances of those are then computed as sums of squared differences.
    Sorted by distance, then by row, so that ties go to the earlier row.

    Args:
        train: Shape [n, D].
        queries: Shape [queries, D].
        k: Between 1 and n (n - 1 with `skip_self`).
        skip_self: `queries` is `train`, and a row is no neighbour of its own.

    Raises:
        DataError: There are fewer than k rows, shapes do not fit, or a value is not finite.
    """
    x, q = _checked_features(train), _checked_features(queries)
    if x.shape[1] != q.shape[1]:
        raise DataError(f"rows have {x.shape[1]} features and queries {q.shape[1]}: both must come from one layer")
    available = len(x) - skip_self
    if not 1 <= k <= available:
        raise DataError(f"k is {k}, but a row has {available} possible neighbours; choose k between 1 and {available}")
    centre = x.mean(axis=0)
    # Products of centred rows lose fewer digits; the exact distances below are taken from the rows as they are.
    x0, q0 = x - centre, q - centre
    x_squared, q_squared = np.einsum("ij,ij->i", x0, x0), np.einsum("ij,ij->i", q0, q0)
    # Bound on the rounding of |q|^2 + |x|^2 - 2 q x and of the exact distances: sums of D terms err by less than D eps,
    # relative to the sum of their magnitudes.
    unit = 8 * (x.shape[1] + 4) * np.finfo(np.float64).eps
    found = np.empty((len(q), k), dtype=np.int64)
    step = max(1, CHUNK_ENTRIES // len(x))
    for start in range(0, len(q), step):
        end = min(start + step, len(q))
        rough = q_squared[start:end, None] + x_squared - 2 * (q0[start:end] @ x0.T)
        if skip_self:
            rough[np.arange(end - start), np.arange(start, end)] = np.inf
        slack = unit * (q_squared[start:end] + x_squared.max())
        reach = np.partition(rough, k - 1, axis=1)[:, k - 1] + 2 * slack
        for i in range(end - start):
            candidates = np.flatnonzero(rough[i] <= reach[i])
            distances = _squared_distances(q[start + i], x, candidates)
            found[start + i] = candidates[np.argsort(distances, kind="stable")[:k]]
    return found


def knn_labels(
    train_features: np.ndarray, train_labels: np.ndarray, query_features: np.ndarray, *, k: int = 50
) -> np.ndarray:
    """Mean label of the k nearest training rows of each query, float64, shape [queries].

    A query that is itself a training row counts among its own neighbours, as in the source.

    Args:
        train_features: Shape [n, D].
        train_labels: P(class 1) of each training row, shape [n].
        query_features: Shape [queries, D].
        k: Neighbours, at most n; ties go to the earlier row.

    Raises:
        DataError: See `nearest`; or a label is outside [0, 1].
    """
    labels = _checked_targets(train_labels, len(train_features), "labels")
    return labels[nearest(train_features, query_features, k)].mean(axis=1)


def _newton(x: np.ndarray, t: np.ndarray, penalty: float, intercept: bool) -> tuple[np.ndarray, float]:
    """Weights and bias at the minimum. Unknowns are the weights and, last of all, the bias."""
    n, width = x.shape
    design = np.hstack([x, np.ones((n, 1))]) if intercept else x
    ridge = np.full(design.shape[1], 2 * penalty)
    ridge[width:] = 0
    solve = _direct if design.shape[1] <= DIRECT_UP_TO else _ConjugateGradients(design, ridge)
    # Rounding of the gradient grows with the features, and so does what can be reached.
    enough = TOLERANCE * max(1.0, float(np.sqrt(np.mean(np.einsum("ij,ij->i", design, design)))))
    theta, previous = np.zeros(design.shape[1]), np.inf
    z = design @ theta
    for _ in range(MAX_STEPS):
        p = _sigmoid(z)
        gradient = design.T @ (p - t) / n + ridge * theta
        norm = float(np.linalg.norm(gradient))
        # Beyond `enough`, go on for as long as it pays.
        if norm <= TOLERANCE or (norm <= enough and norm > previous / 2):
            return theta[:width], float(theta[width:].sum())
        previous = norm
        direction = -solve(design, p * (1 - p) / n, ridge, gradient)
        theta, z = _line_search(design, t, ridge, theta, z, direction, float(gradient @ direction))
    raise TrainingError(
        f"the logistic probe did not converge in {MAX_STEPS} Newton steps: the gradient's norm is {previous:.2g}, "
        f"above {enough:.2g}; a larger penalty than {penalty:g}, or standardised features, make it better conditioned"
    )


def _line_search(
    design: np.ndarray,
    t: np.ndarray,
    ridge: np.ndarray,
    theta: np.ndarray,
    z: np.ndarray,
    direction: np.ndarray,
    slope: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The longest of the steps 1, 1/2, 1/4, ... along `direction` that lowers the objective enough (Armijo)."""

    def objective(theta: np.ndarray, z: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0.0, z) - t * z) + 0.5 * np.sum(ridge * theta**2))

    before, change = objective(theta, z), design @ direction
    # Close to the minimum a step gains less than the objective's own rounding, which must not stop it.
    rounding = 64 * np.finfo(np.float64).eps * max(1.0, abs(before))
    size = 1.0
    while objective(theta + size * direction, z + size * change) > before + 1e-4 * size * slope + rounding:
        size /= 2
        if size < 1e-12:
            return theta, z
    theta = theta + size * direction
    return theta, design @ theta


def _direct(design: np.ndarray, curvature: np.ndarray, ridge: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Solves (X' diag(curvature) X + diag(ridge)) s = gradient by Cholesky factorisation."""
    hessian = design.T @ (curvature[:, None] * design)
    hessian[np.diag_indices_from(hessian)] += ridge
    damping = 0.0
    while True:
        try:
            damped = hessian + damping * np.eye(len(hessian)) if damping else hessian
            return cho_solve(cho_factor(damped), gradient)
        except LinAlgError:
            # Saturated rows have no curvature: where nothing else has any either, this makes it a gradient step.
            damping = max(10 * damping, 1e-12 * float(np.trace(hessian)), np.finfo(np.float64).tiny)


class _ConjugateGradients:
    """The same equations without the Hessian, preconditioned with its upper bound, which is factorised once.

    Every row's curvature p (1 - p) is at most 1/4 (Boehning and Lindsay 1988), so X' X / 4n + diag(ridge) is an upper
    bound that takes out the features' correlations and very different lengths, which slow descent methods down.
    """

    def __init__(self, design: np.ndarray, ridge: np.ndarray) -> None:
        bound = design.T @ design / (4 * len(design))
        bound[np.diag_indices_from(bound)] += ridge
        self.factor = cho_factor(bound, overwrite_a=True)

    def __call__(
        self, design: np.ndarray, curvature: np.ndarray, ridge: np.ndarray, gradient: np.ndarray
    ) -> np.ndarray:
        def apply(s: np.ndarray) -> np.ndarray:
            return design.T @ (curvature * (design @ s)) + ridge * s

        def precondition(residual: np.ndarray) -> np.ndarray:
            return cho_solve(self.factor, residual)

        size = (len(gradient), len(gradient))
        hessian: Any = LinearOperator(size, matvec=apply, dtype=np.float64)  # pyright: ignore[reportCallIssue]
        inverse: Any = LinearOperator(size, matvec=precondition, dtype=np.float64)  # pyright: ignore[reportCallIssue]
        # A direction that is not fully solved for still descends, and Newton's next step starts from there.
        step, _ = cg(hessian, gradient, rtol=1e-6, maxiter=500, M=inverse)
        return step


def _squared_distances(query: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Sums of squared differences from one query to some rows, in blocks when they are many."""
    step = max(1, CHUNK_ENTRIES // rows.shape[1])
    blocks = [which[start : start + step] for start in range(0, len(which), step)]
    return np.concatenate([cdist(query[None], rows[block], "sqeuclidean")[0] for block in blocks])


def _sigmoid(z: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(z))  # of a non-positive number: overflows nowhere
    return np.where(z >= 0, 1.0, e) / (1 + e)


def _checked_features(features: np.ndarray) -> np.ndarray:
    """Features as float64, shape [n, D]."""
    if features.ndim != 2 or 0 in features.shape:
        raise DataError(f"features have shape {list(features.shape)}; a probe needs rows and columns, [n, D]")
    x = np.asarray(features, dtype=np.float64)
    if (bad := np.flatnonzero(~np.isfinite(x).all(axis=1))).size:
        raise DataError(
            f"{bad.size} of {len(x)} rows have features that are not finite, the first is row {bad[0]}: "
            "the model's activations overflowed; compute them with precision: fp32"
        )
    return x


def _checked_targets(targets: np.ndarray, rows: int, what: str) -> np.ndarray:
    """Soft labels as float64, shape [rows]."""
    t = np.asarray(targets, dtype=np.float64)
    if t.shape != (rows,):
        raise DataError(f"{what} have shape {list(t.shape)} and features {rows} rows; a probe needs one label per row")
    if (bad := np.flatnonzero(~((t >= 0) & (t <= 1)))).size:
        raise DataError(
            f"{bad.size} of {rows} {what} are no probabilities in [0, 1], the first is row {bad[0]}: {t[bad[0]]:g}"
        )
    return t
