"""Families of scaling curves: what a value is, as a function of the logarithm of something that grows.

Every family has the form

    value = link^-1( sum_j c_j b_j(u; theta) )

with coefficients c that enter linearly and few shape parameters theta that do not. That is what makes fits converge:
for given theta the best c follow by linear least squares, so only theta has to be searched (variable projection, Golub
and Pereyra 1973), and all parameters together only have to be polished.

Inside, a variable x is its position u = log(x / low) / log(high / low), 0 at the smallest and 1 at the largest x
fitted, so that exponents are rates per range and bounds mean the same on every data set: below a rate of 0.05 no bend
can be seen within the range, above 20 the whole change lies between two points. `Family.natural` gives parameters in
the units of x.

| family | value | source |
|---|---|---|
| linear | a + b log10 x | the baseline |
| power | A x^-alpha | |
| power_floor | E + A x^-alpha | |
| log_odds_linear | log-odds: a + b log10 x | |
| saturating | log-odds: L + A x^-alpha | |
| logistic | low + (high - low) / (1 + (x / x_mid)^-k) | |
| bnsl1, bnsl2 | a + b x^-c0 prod_i (1 + (x / d_i)^(1 / f_i))^(-c_i f_i) | Caballero et al. 2022 (arXiv:2210.14891) |
| m4 | (y - y_inf) / (y_0 - y)^alpha = beta x^-c | Alabdulmohsin et al. 2022 (arXiv:2209.06640), M4 |

A broken law without a break, n = 0, is `power_floor`. The coefficient of a falling term may have either sign, so the
same families describe losses, which fall, and accuracies, which rise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, product

import numpy as np
from scipy.special import expit

Array = np.ndarray
Basis = Callable[[Array, Array], Array]
"""(theta [..., t], u [..., point, variable]) -> [..., point, coefficient]."""
Slope = Callable[[Array, Array], Array]
"""Same arguments -> derivative of the basis with respect to theta, [..., point, coefficient, t]."""

LOWEST_RATE, HIGHEST_RATE = 0.05, 20.0
LARGEST_LOG_ODDS = 12.0
"""Shares of 0.999994; no test set here can tell more."""


class Link(StrEnum):
    IDENTITY = "identity"
    LOG_ODDS = "log-odds"


@dataclass(frozen=True)
class Axis:
    """A variable's range in the points fitted."""

    low: float
    high: float

    @property
    def span(self) -> float:
        return float(np.log(self.high / self.low))

    def position(self, x: Array) -> Array:
        """0 at `low`, 1 at `high`; any shape."""
        return np.log(np.asarray(x, dtype=np.float64) / self.low) / self.span

    def value(self, u: Array | float) -> Array:
        """Inverse of `position`."""
        return self.low * np.exp(np.asarray(u, dtype=np.float64) * self.span)


@dataclass(frozen=True)
class Natural:
    """A parameter in the units of the table."""

    name: str
    compute: Callable[[Array, Sequence[Axis]], Array]
    """(parameters [..., parameter], axes) -> [...]."""
    index: int | None = None
    """Of the one internal parameter that it is a monotone function of; None where it mixes several."""


@dataclass(frozen=True)
class Family:
    """A family of curves or surfaces. Parameters are ordered coefficients first, then theta."""

    name: str
    formula: str
    link: Link
    coefficients: tuple[str, ...]
    coefficient_bounds: tuple[tuple[float, float], ...]
    thetas: tuple[str, ...]
    theta_bounds: tuple[tuple[float, float], ...]
    basis: Basis
    slope: Slope
    starts: Callable[[], Array]
    """Grid of theta to search first, shape (start, t)."""
    natural: tuple[Natural, ...]
    n_polished: int = 1
    """How many of the best grid points are polished."""
    kinds: Callable[[], Array] | None = None
    """Which kind of curve each grid point is, from 0, shape (start,): then only the best of each kind are candidates,
    so that the starts are not all neighbours."""
    n_variables: int = 1

    @property
    def n_parameters(self) -> int:
        return len(self.coefficients) + len(self.thetas)

    @property
    def n_coefficients(self) -> int:
        return len(self.coefficients)

    def bounds(self, *, shares: bool) -> tuple[Array, Array]:
        """Lower and upper bounds of all parameters, shape (parameter,).

        With `shares`, coefficients that are themselves values (floors, asymptotes) lie in [0, 1] too.
        """
        coefficients = self.coefficient_bounds
        if shares and self.link is Link.IDENTITY:
            coefficients = tuple((low, min(high, 1.0) if low == 0 else high) for low, high in coefficients)
        low, high = np.array([*coefficients, *self.theta_bounds], dtype=np.float64).reshape(-1, 2).T
        return low, high

    def predict(self, parameters: Array, u: Array) -> Array:
        """Values at positions.

        Args:
            parameters: Shape (..., parameter).
            u: Shape (point, variable).

        Returns:
            Shape (..., point).
        """
        c, theta = np.split(parameters, [self.n_coefficients], axis=-1)
        eta = np.einsum("...pc,...c->...p", self.basis(theta[..., None, :], u), c)
        return expit(eta) if self.link is Link.LOG_ODDS else eta

    def predict_with_slope(self, parameters: Array, u: Array) -> tuple[Array, Array]:
        """Values, and their derivatives with respect to all parameters, shape (..., point, parameter)."""
        c, theta = np.split(parameters, [self.n_coefficients], axis=-1)
        basis = self.basis(theta[..., None, :], u)
        eta = np.einsum("...pc,...c->...p", basis, c)
        slope = np.broadcast_to(basis, (*eta.shape, self.n_coefficients))
        if self.thetas:
            by_coefficient = self.slope(theta[..., None, :], u)
            by_theta = sum(by_coefficient[..., j, :] * c[..., None, None, j] for j in range(self.n_coefficients))
            slope = np.concatenate([slope, by_theta], axis=-1)
        if self.link is Link.IDENTITY:
            return eta, slope
        value = expit(eta)
        return value, slope * (value * (1 - value))[..., None]


# --- bases -----------------------------------------------------------------------------------------------------------
# theta arrives as [..., 1, t] and u as [point, variable], so that everything broadcasts to [..., point].

ANY = (-np.inf, np.inf)
NOT_NEGATIVE = (0.0, np.inf)
RATE = (LOWEST_RATE, HIGHEST_RATE)


def _stack(*columns: Array) -> Array:
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _line(theta: Array, u: Array) -> Array:
    return _stack(np.ones_like(u[..., 0]), u[..., 0])


def _plane(theta: Array, u: Array) -> Array:
    return _stack(np.ones_like(u[..., 0]), u[..., 0], u[..., 1])


def _none(theta: Array, u: Array) -> Array:
    raise AssertionError("families without theta have no slope in it")


def _power(theta: Array, u: Array) -> Array:
    return np.exp(-theta[..., 0] * u[..., 0])[..., None]


def _power_slope(theta: Array, u: Array) -> Array:
    return (-u[..., 0] * np.exp(-theta[..., 0] * u[..., 0]))[..., None, None]


def _decay(theta: Array, u: Array) -> Array:
    falling = np.exp(-theta[..., 0] * u[..., 0])
    return _stack(np.ones_like(falling), falling)


def _decay_slope(theta: Array, u: Array) -> Array:
    falling = -u[..., 0] * np.exp(-theta[..., 0] * u[..., 0])
    return _stack(np.zeros_like(falling), falling)[..., None]


def _step(theta: Array, u: Array) -> Array:
    """Weights of the two levels of a logistic curve, theta = (rate, middle)."""
    high = expit(theta[..., 0] * (u[..., 0] - theta[..., 1]))
    return _stack(1 - high, high)


def _step_slope(theta: Array, u: Array) -> Array:
    rate, middle = theta[..., 0], theta[..., 1]
    high = expit(rate * (u[..., 0] - middle))
    by_argument = high * (1 - high)
    by_rate, by_middle = by_argument * (u[..., 0] - middle), -by_argument * rate
    return np.stack([_stack(-by_rate, -by_middle), _stack(by_rate, by_middle)], axis=-2)


def _m4_level(t: Array, alpha: Array) -> Array:
    """z in (0, 1) with log z - alpha log(1 - z) = t, by Newton's method on the log-odds of z.

    With w the log-odds, log z = -softplus(-w) and log(1 - z) = -softplus(w); the left side rises and is concave or
    convex in w throughout, so Newton started where it is steepest converges from any t.
    """
    t, alpha = np.broadcast_arrays(np.asarray(t, dtype=np.float64), np.asarray(alpha, dtype=np.float64))
    w = np.where(t < 0, t, t / np.maximum(alpha, 1e-2))
    for _ in range(60):
        decay = np.exp(-np.abs(w))
        soft = np.log1p(decay)
        z = np.where(w >= 0, 1.0, decay) / (1 + decay)
        # log z = min(w, 0) - soft and log(1 - z) = -max(w, 0) - soft
        error = np.minimum(w, 0) - soft + alpha * (np.maximum(w, 0) + soft) - t
        step = np.clip(error / ((1 - z) + alpha * z + 1e-300), -8, 8)
        w = w - step
        # Convergence is quadratic, so the next step would be of the order of the square; beyond 40, z is 0 or 1.
        if not np.any((np.abs(step) > 1e-6) & (np.abs(w) < 40)):
            break
    return np.clip(w, -700, 700)


def _m4(theta: Array, u: Array) -> Array:
    """Weights of the levels at no and at unlimited compute; theta = (alpha, offset, rate)."""
    alpha, offset, rate = (theta[..., i] for i in range(3))
    w = _m4_level(offset - rate * u[..., 0], alpha)
    return _stack(expit(w), expit(-w))


def _m4_slope(theta: Array, u: Array) -> Array:
    alpha, offset, rate = (theta[..., i] for i in range(3))
    w = _m4_level(offset - rate * u[..., 0], alpha)
    z = expit(w)
    # Implicit differentiation: (1 - z + alpha z) dw = dt + log(1 - z) d alpha, and dz = z (1 - z) dw.
    by_t = z * (1 - z) / ((1 - z) + alpha * z + 1e-300)
    slopes = _stack(-by_t * np.logaddexp(0, w), by_t, -by_t * u[..., 0])
    return np.stack([slopes, -slopes], axis=-2)


_LARGEST_LOG = 60.0
"""Of the falling term of broken laws, so that it stays finite far beyond the points."""


def _broken_log(theta: Array, u: Array) -> Array:
    """Logarithm of the falling term; theta = (c0, then c, d, f of each break), with d a position and f in positions."""
    log = -theta[..., 0] * u[..., 0]
    for first in range(1, theta.shape[-1], 3):
        c, d, f = (theta[..., first + i] for i in range(3))
        v = (u[..., 0] - d) / f
        log = log - c * f * (np.maximum(v, 0) + np.log1p(np.exp(-np.abs(v))))
    return np.clip(log, -_LARGEST_LOG, _LARGEST_LOG)


def _broken(theta: Array, u: Array) -> Array:
    term = np.exp(_broken_log(theta, u))
    return _stack(np.ones_like(term), term)


def _broken_slope(theta: Array, u: Array) -> Array:
    u = u[..., 0]
    shape = np.broadcast_shapes(theta.shape[:-1], u.shape)
    slopes = np.empty(
        (*shape, theta.shape[-1])
    )  # of the logarithm first; this is where fits of breaks spend their time
    log = -theta[..., 0] * u
    slopes[..., 0] = -u
    for first in range(1, theta.shape[-1], 3):
        c, d, f = (theta[..., first + i] for i in range(3))
        v = (u - d) / f
        decay = np.exp(-np.abs(v))
        soft, gate = np.maximum(v, 0) + np.log1p(decay), np.where(v >= 0, 1.0, decay) / (1 + decay)
        slopes[..., first] = -f * soft
        slopes[..., first + 1] = c * gate
        slopes[..., first + 2] = -c * (soft - v * gate)
        log = log - c * f * soft
    both = np.zeros((*shape, 2, theta.shape[-1]))
    # Where the logarithm is clipped, `_broken` is constant.
    term = np.where(np.abs(log) < _LARGEST_LOG, np.exp(np.clip(log, -_LARGEST_LOG, _LARGEST_LOG)), 0.0)
    np.multiply(term[..., None], slopes, out=both[..., 1, :])
    return both


def _two_powers(theta: Array, u: Array) -> Array:
    first, second = np.exp(-theta[..., 0] * u[..., 0]), np.exp(-theta[..., 1] * u[..., 1])
    return _stack(np.ones_like(first), first, second)


def _two_powers_slope(theta: Array, u: Array) -> Array:
    first = -u[..., 0] * np.exp(-theta[..., 0] * u[..., 0])
    second = -u[..., 1] * np.exp(-theta[..., 1] * u[..., 1])
    zero = np.zeros_like(first)
    return np.stack([_stack(zero, zero), _stack(first, zero), _stack(zero, second)], axis=-2)


# --- grids of theta --------------------------------------------------------------------------------------------------


def _grid(*axes: Array) -> Callable[[], Array]:
    return lambda: np.array(list(product(*axes)), dtype=np.float64).reshape(-1, len(axes))


_RATES = np.geomspace(LOWEST_RATE, HIGHEST_RATE, 24)
_SIGNED_RATES = np.linspace(-4, 4, 33)


_BREAK_RATES = (-5.0, -1.5, 0.3, 1.5, 5.0)


def _one_break() -> Array:
    rates, bends = (-5.0, -1.5, -0.3, 0.3, 1.5, 5.0), (-12.0, -5.0, -1.5, 0.3, 1.5, 5.0, 12.0)
    # A sharp break is found from the gap between points that it lies in only, also from the first and the last one.
    places, widths = (np.arange(11) + 0.5) / 11, (0.03, 0.15)
    return np.array(list(product(rates, bends, places, widths)))


def _one_break_kinds() -> Array:
    """By the place of the break, whether it is sharp, and whether the rates before it and at it are positive."""
    grid = _one_break()
    return _labels(grid[:, 2], grid[:, 3] < 0.1, grid[:, 0] > 0, grid[:, 1] > 0)


def _labels(*columns: Array) -> Array:
    """A number from 0 for each different row."""
    return np.unique(np.column_stack(columns), axis=0, return_inverse=True)[1].ravel()


def _two_breaks() -> Array:
    """Pairs of breaks at distinct places, over rates before, between and after."""
    pairs = combinations((0.1, 0.25, 0.4, 0.55, 0.7, 0.85), 2)
    rows = [
        (c0, c1, d1, f, c2, d2, f)
        for (d1, d2), c0, c1, c2, f in product(pairs, _BREAK_RATES, _BREAK_RATES, _BREAK_RATES, (0.05,))
    ]
    return np.array(rows)


def _two_breaks_kinds() -> Array:
    """By the places of the breaks, and whether the rate before them is positive."""
    grid = _two_breaks()
    return _labels(grid[:, 2], grid[:, 5], grid[:, 0] > 0)


# --- natural parameters ----------------------------------------------------------------------------------------------


def _parameter(name: str, index: int) -> Natural:
    return Natural(name, lambda p, axes: p[..., index], index)


def _exponent(name: str, index: int, axis: int = 0) -> Natural:
    return Natural(name, lambda p, axes: p[..., index] / axes[axis].span, index)


def _scale(name: str, coefficient: int, rate: int, axis: int = 0) -> Natural:
    """A of A x^-alpha: the coefficient belongs to x / low."""
    return Natural(
        name, lambda p, axes: p[..., coefficient] * np.exp(p[..., rate] / axes[axis].span * np.log(axes[axis].low))
    )


def _place(name: str, index: int) -> Natural:
    return Natural(name, lambda p, axes: axes[0].value(p[..., index]), index)


def _per_decade(name: str, index: int, axis: int = 0) -> Natural:
    return Natural(name, lambda p, axes: p[..., index] * np.log(10) / axes[axis].span, index)


def _at_one(name: str, slopes: Sequence[int]) -> Natural:
    """a of a + b log10 x: the value at x = 1."""
    return Natural(
        name,
        lambda p, axes: p[..., 0] - sum(p[..., j] / axes[i].span * np.log(axes[i].low) for i, j in enumerate(slopes)),
    )


def _broken_natural(breaks: int) -> tuple[Natural, ...]:
    names: list[Natural] = [_parameter("a", 0)]

    def scale(p: Array, axes: Sequence[Axis]) -> Array:
        # x^-c0 inside is (x / low)^-c0; the factors of the breaks are the same in both.
        return p[..., 1] * np.exp(p[..., 2] / axes[0].span * np.log(axes[0].low))

    names.append(Natural("b", scale))
    names.append(_exponent("c0", 2))
    for i in range(breaks):
        first = 3 + 3 * i
        names += [_exponent(f"c{i + 1}", first), _place(f"d{i + 1}", first + 1)]
        names.append(Natural(f"f{i + 1}", lambda p, axes, j=first + 2: p[..., j] * axes[0].span, first + 2))
    return tuple(names)


def _broken_family(breaks: int) -> Family:
    rate, place, width = (-HIGHEST_RATE, HIGHEST_RATE), (0.0, 1.0), (0.02, 1.0)
    grid, kinds = (_one_break, _one_break_kinds) if breaks == 1 else (_two_breaks, _two_breaks_kinds)
    return Family(
        name=f"bnsl{breaks}",
        formula="a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i)",
        link=Link.IDENTITY,
        coefficients=("a", "b"),
        coefficient_bounds=(NOT_NEGATIVE, ANY),
        thetas=("c0", *(f"{name}{i + 1}" for i in range(breaks) for name in "cdf")),
        theta_bounds=(rate, *[rate, place, width] * breaks),
        basis=_broken,
        slope=_broken_slope,
        starts=grid,
        natural=_broken_natural(breaks),
        n_polished=28 if breaks == 1 else 30,
        kinds=kinds,
    )


LINEAR = Family(
    "linear", "a + b log10 x", Link.IDENTITY, ("a", "b"), (ANY, ANY), (), (), _line, _none,
    lambda: np.empty((1, 0)), (_at_one("a", (1,)), _per_decade("b", 1)),
)  # fmt: skip
LOG_ODDS_LINEAR = Family(
    "log_odds_linear", "log-odds = a + b log10 x", Link.LOG_ODDS, ("a", "b"), (ANY, ANY), (), (), _line, _none,
    lambda: np.empty((1, 0)), (_at_one("a", (1,)), _per_decade("b", 1)),
)  # fmt: skip
POWER = Family(
    "power", "A x^-alpha", Link.IDENTITY, ("A",), (ANY,), ("alpha",), ((-HIGHEST_RATE, HIGHEST_RATE),),
    _power, _power_slope, _grid(_SIGNED_RATES), (_scale("A", 0, 1), _exponent("alpha", 1)),
)  # fmt: skip
POWER_FLOOR = Family(
    "power_floor", "E + A x^-alpha", Link.IDENTITY, ("E", "A"), (NOT_NEGATIVE, ANY), ("alpha",), (RATE,),
    _decay, _decay_slope, _grid(_RATES), (_parameter("E", 0), _scale("A", 1, 2), _exponent("alpha", 2)),
)  # fmt: skip
SATURATING = Family(
    "saturating", "log-odds = L + A x^-alpha", Link.LOG_ODDS, ("L", "A"),
    ((-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS), ANY), ("alpha",), (RATE,), _decay, _decay_slope, _grid(_RATES),
    (Natural("asymptote", lambda p, axes: expit(p[..., 0]), 0), _scale("A", 1, 2), _exponent("alpha", 2)),
)  # fmt: skip
LOGISTIC = Family(
    "logistic", "low + (high - low) / (1 + (x/x_mid)^-k)", Link.IDENTITY, ("low", "high"),
    (NOT_NEGATIVE, NOT_NEGATIVE), ("k", "x_mid"), ((0.5, 40.0), (-1.0, 2.0)), _step, _step_slope,
    _grid(np.geomspace(0.7, 30, 9), np.linspace(-0.75, 1.75, 11)),
    (_parameter("low", 0), _parameter("high", 1), _exponent("k", 2), _place("x_mid", 3)), n_polished=3,
)  # fmt: skip
M4 = Family(
    "m4", "(y - y_inf) / (y_0 - y)^alpha = beta x^-c", Link.IDENTITY, ("y_0", "y_inf"),
    (NOT_NEGATIVE, NOT_NEGATIVE), ("alpha", "log_beta", "c"), ((0.0, 10.0), (-30.0, 30.0), (LOWEST_RATE, 40.0)),
    _m4, _m4_slope, _grid(np.array([0.1, 1.0, 3.0]), np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 8.0]), np.geomspace(0.3, 20,
    6)), (_parameter("y_0", 0), _parameter("y_inf", 1), _parameter("alpha", 2), _exponent("c", 4)), n_polished=5,
)  # fmt: skip
BNSL1, BNSL2 = _broken_family(1), _broken_family(2)

PLANE = Family(
    "plane", "a + b log10 x1 + c log10 x2", Link.IDENTITY, ("a", "b", "c"), (ANY,) * 3, (), (), _plane, _none,
    lambda: np.empty((1, 0)), (_at_one("a", (1, 2)), _per_decade("b", 1), _per_decade("c", 2, 1)), n_variables=2,
)  # fmt: skip
LOG_ODDS_PLANE = Family(
    "log_odds_plane", "log-odds = a + b log10 x1 + c log10 x2", Link.LOG_ODDS, ("a", "b", "c"), (ANY,) * 3, (), (),
    _plane, _none, lambda: np.empty((1, 0)), (_at_one("a", (1, 2)), _per_decade("b", 1), _per_decade("c", 2, 1)),
    n_variables=2,
)  # fmt: skip
ADDITIVE_POWER = Family(
    "additive_power", "E + A / x1^alpha + B / x2^beta", Link.IDENTITY, ("E", "A", "B"), (NOT_NEGATIVE,) * 3,
    ("alpha", "beta"), (RATE, RATE), _two_powers, _two_powers_slope,
    _grid(np.geomspace(0.1, 16, 16), np.geomspace(0.1, 16, 16)),
    (_parameter("E", 0), _scale("A", 1, 3, 0), _scale("B", 2, 4, 1), _exponent("alpha", 3, 0), _exponent("beta", 4, 1)),
    n_polished=4, n_variables=2,
)  # fmt: skip

CURVES: dict[str, Family] = {
    family.name: family
    for family in (LINEAR, POWER, POWER_FLOOR, LOG_ODDS_LINEAR, SATURATING, LOGISTIC, BNSL1, BNSL2, M4)
}
SURFACES: dict[str, Family] = {family.name: family for family in (PLANE, LOG_ODDS_PLANE, ADDITIVE_POWER)}
