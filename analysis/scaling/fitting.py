"""A family fitted to points: parameters, what they mean in the table's units, and what the points could not tell."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from analysis.errors import AnalysisError
from analysis.scaling.families import Axis, Family
from analysis.scaling.losses import Loss, default_loss
from analysis.scaling.points import Points, flat
from analysis.scaling.solver import Solution, solve

Array = np.ndarray


class FitStatus(StrEnum):
    """How far a fit can be trusted."""

    CONVERGED = "converged"
    """An optimum inside the bounds."""
    AT_BOUND = "at bound"
    """The curve follows the points, but some parameters are not determined by them; `diagnosis` says which."""
    FLAT = "flat optimum"
    """The curve follows the points as closely as it can, to 1e-4 of the objective, but parameters can be traded for one
    another there, so the optimiser did not come to an end; do not quote them."""
    NOT_CONVERGED = "not converged"
    """The optimiser stopped short; do not use the curve."""


@dataclass(frozen=True)
class Fit:
    """One family fitted to the points of one curve or surface."""

    family: Family
    loss: Loss
    axes: tuple[Axis, ...]
    points: Points
    parameters: Array = field(repr=False)
    """Internal, shape (parameter,); `natural` has them in the table's units."""
    objective: float
    status: FitStatus
    testable: bool
    """At most n - 2 parameters for n different x: the points could have contradicted the family."""
    diagnosis: str
    """Empty, or what the points do not determine, and why."""
    draws: Array | None = field(default=None, repr=False)
    """Parameters of resampled points, shape (draw, parameter); see `analysis.scaling.uncertainty`."""
    resampled: str = ""
    """What the draws are of: residuals, cases or seeds."""
    dispersion: float = 1.0
    """Residual standard deviation on the loss's scale; under the binomial loss, the variance over the binomial one."""
    degrees: float = np.inf
    """Degrees of freedom behind the dispersion; infinite where the counts say what the noise is."""

    def natural(self) -> dict[str, float]:
        """Parameters in the units of the table."""
        return {p.name: float(p.compute(self.parameters, self.axes)) for p in self.family.natural}

    def position(self, x: Array) -> Array:
        """Positions of x, shape (point,) or (point, variable) -> (point, variable)."""
        x = np.asarray(x, dtype=np.float64)
        x = x[:, None] if x.ndim == 1 else x
        return np.stack([axis.position(x[:, i]) for i, axis in enumerate(self.axes)], axis=-1)

    def at(self, x: Array) -> Array:
        """Fitted values, shape (point,)."""
        return self.family.predict(self.parameters, self.position(np.atleast_1d(x)))

    def drawn_at(self, x: Array) -> Array:
        """Values of the resampled fits, shape (draw, point)."""
        if self.draws is None:
            raise AnalysisError("this fit has no draws; make them with analysis.scaling.resample")
        return self.family.predict(self.draws, self.position(np.atleast_1d(x)))

    @property
    def fitted(self) -> Array:
        """Values at the points."""
        return self.at(self.points.x)

    @property
    def residuals(self) -> Array:
        return self.loss.residual(self.points.y, self.fitted)


def axes_of(points: Points, family: Family) -> tuple[Axis, ...]:
    """The range of every variable.

    Raises:
        AnalysisError: A variable takes one value only.
    """
    if points.x.shape[1] != family.n_variables:
        raise AnalysisError(
            f"{family.name} is a function of {family.n_variables} variable(s), the points have {points.x.shape[1]}"
        )
    axes = tuple(Axis(float(column.min()), float(column.max())) for column in points.x.T)
    if any(axis.low == axis.high for axis in axes):
        raise AnalysisError(f"x takes one value only ({axes[0].low:g}); a curve needs several different ones")
    return axes


def weights_of(points: Points, loss: Loss) -> Array:
    """Counts under the binomial loss; otherwise 1, or counts relative to their mean."""
    if points.n is None:
        return np.ones_like(points.y)
    return points.n if loss.shares else points.n / points.n.mean()


def check(points: Points, family: Family, loss: Loss) -> None:
    """Refuse what cannot be fitted.

    Raises:
        AnalysisError: Fewer different x than parameters, values outside the loss's domain, shares without counts.
    """
    if points.n_levels == 1:
        place = ", ".join(f"{value:g}" for value in points.x[0])
        if len(points) == 1:
            raise AnalysisError(f"one point (x = {place}); a curve needs points at two different x at least")
        raise AnalysisError(f"all points are at one x ({place}); a curve needs two different ones at least")
    if points.n_levels < max(family.n_parameters, 2):
        raise AnalysisError(
            f"{family.name} has {family.n_parameters} parameters; there are only {points.n_levels} different x"
        )
    if loss.positive and np.any(points.y <= 0):
        raise AnalysisError(
            f"y is {points.y.min():g} somewhere: {loss.name} takes logarithms, so all y must be above zero; use squared"
        )
    if loss.shares and points.n is None:
        raise AnalysisError("the binomial loss needs the number of examples behind each share; name its column")
    if family.link != "identity" and (points.y.min() < 0 or points.y.max() > 1):
        raise AnalysisError(
            f"{family.name} is a curve of shares; y must lie in [0, 1], "
            f"it goes from {points.y.min():g} up to {points.y.max():g}"
        )


def fit_points(points: Points, family: Family, loss: Loss | None = None) -> Fit:
    """Fit one family to one set of points, without uncertainty.

    Raises:
        AnalysisError: See `check` and `axes_of`.
    """
    loss = loss or default_loss(points.y, counts=points.shares)
    check(points, family, loss)
    axes = axes_of(points, family)
    u = np.stack([axis.position(points.x[:, i]) for i, axis in enumerate(axes)], axis=-1)
    solution = solve(family, u, points.y[None], weights_of(points, loss), loss, bounds=bounds_of(points, family))
    return judged(points, family, loss, axes, solution)


def fit_many(points: Points, y: Array, family: Family, loss: Loss) -> tuple[tuple[Axis, ...], Solution]:
    """Fit one family to many data sets that share x (and n), shape of y (fit, point)."""
    check(points, family, loss)
    axes = axes_of(points, family)
    u = np.stack([axis.position(points.x[:, i]) for i, axis in enumerate(axes)], axis=-1)
    return axes, solve(family, u, y, weights_of(points, loss), loss, bounds=bounds_of(points, family))


def bounds_of(points: Points, family: Family) -> tuple[Array, Array]:
    """Floors and asymptotes of values that are all shares are shares; those of others are not negative, unless y is."""
    shares = bool(np.all((points.y >= 0) & (points.y <= 1)))
    low, high = family.bounds(shares=shares)
    if points.y.min() < 0 and family.n_variables == 1:
        low[: family.n_coefficients] = -np.inf
    return low, high


def judged(points: Points, family: Family, loss: Loss, axes: tuple[Axis, ...], solution: Solution) -> Fit:
    """The first fit of a solution, with what to think of it."""
    parameters = solution.parameters[0]
    testable = family.n_parameters <= points.n_levels - 2
    dispersion, degrees = _dispersion(points, family, loss, parameters, axes)
    fit = Fit(
        family=family,
        loss=loss,
        axes=axes,
        points=points,
        parameters=parameters,
        objective=float(solution.objective[0]),
        status=FitStatus.CONVERGED,
        testable=testable,
        diagnosis="",
        dispersion=dispersion,
        degrees=degrees,
    )
    flat = solution.flat is not None and bool(solution.flat[0])
    if not solution.converged[0] and not flat:
        return replace(fit, status=FitStatus.NOT_CONVERGED, diagnosis="the fit did not converge")
    notes = undetermined(fit)
    status = FitStatus.FLAT if flat else FitStatus.AT_BOUND if notes else fit.status
    if flat:
        notes = ["flat optimum: other parameters give the same curve, so the points do not determine them", *notes]
    if not testable:
        notes = [f"not testable: {points.n_levels} different x, {family.name} needs {family.n_parameters + 2}", *notes]
    return replace(fit, status=status, diagnosis="; ".join(notes))


def undetermined(fit: Fit) -> list[str]:
    """What the points do not determine, as far as the optimum alone shows it."""
    low, high = bounds_of(fit.points, fit.family)
    named = dict(zip((*fit.family.coefficients, *fit.family.thetas), fit.parameters, strict=True))
    if flat(fit.points):
        noise = "" if fit.points.shares else ", nor how noisy y is"
        return [f"flat: all y are {fit.points.y[0]:g}, so no exponent, floor or break can be told{noise}"]
    notes = []
    for index, (name, value) in enumerate(named.items()):
        room = 1e-6 * (high[index] - low[index] if np.isfinite(high[index] - low[index]) else 1.0)
        at_low, at_high = value <= low[index] + room, value >= high[index] - room
        if index < fit.family.n_coefficients:
            if at_low and low[index] == 0 and name in ("E", "a", "low", "y_inf"):
                notes.append(f"{name} is at its bound 0: a floor cannot be told from none")
            elif at_high and high[index] == 1:
                notes.append(f"{name} is at its bound 1: the asymptote cannot be told from 1")
            elif at_low and low[index] == 0 and fit.family.n_variables == 2:
                # The term is absent, so nothing is known of its exponent.
                partner = fit.family.thetas[index - 1]
                notes.append(f"{name} is zero: y does not fall with that variable, so {partner} is not determined")
            elif name == "L" and (at_low or at_high):
                notes.append("the asymptote cannot be told from 0 or 1")
            continue
        if not (at_low or at_high):
            continue
        if name in ("alpha", "beta", "c") and fit.family.name != "m4":
            notes.append(
                f"{name} is at its bound: "
                + (
                    "no bend to be seen, so the asymptote is not determined"
                    if at_low
                    else "the whole change lies between two points"
                )
            )
        elif name.startswith("d"):
            notes.append(f"the break {name} lies outside the points")
        else:
            notes.append(f"{name} is at its bound, these points do not determine it")
    for index, name in enumerate(fit.family.thetas):
        if name.startswith("d") and name[1:].isdigit():
            place = fit.parameters[fit.family.n_coefficients + index]
            u = fit.position(fit.points.levels)[:, 0]
            beside = min(int((u < place).sum()), int((u > place).sum()))
            if beside < 2 and not any(name in note for note in notes):
                notes.append(f"fewer than two x beyond the break {name}")
    return notes


def _dispersion(
    points: Points, family: Family, loss: Loss, parameters: Array, axes: tuple[Axis, ...]
) -> tuple[float, float]:
    """Noise and its degrees of freedom: see `Fit.dispersion`."""
    u = np.stack([axis.position(points.x[:, i]) for i, axis in enumerate(axes)], axis=-1)
    f = family.predict(parameters, u)
    degrees = len(points) - family.n_parameters
    if loss.shares:
        assert points.n is not None
        g = np.clip(f, 1e-6, 1 - 1e-6)
        chi2 = float(np.sum(points.n * (points.y - f) ** 2 / (g * (1 - g))))
        # Models of few seeds scatter more than coin flips do; less than binomial is chance.
        if degrees <= 0 or chi2 <= degrees:
            return 1.0, np.inf
        return chi2 / degrees, float(degrees)
    residual = loss.residual(points.y, f)
    if degrees <= 0:
        return float("nan"), 0.0
    return float(np.sqrt(np.sum(weights_of(points, loss) * residual**2) / degrees)), float(degrees)
