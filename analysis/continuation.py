"""Curves continued beyond their points by the mixture of families that inner origins choose, many curves at once.

`analysis.scaling.choice` says what an inner origin is, how candidates are weighted and how wide bands are. Here every
joint draw of a curve is refitted, and curves measured at the same x are fitted together: a report of a thousand pairs
continues hundreds of curves, each of them from three origins.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from analysis.lines import KINDS, Values
from analysis.refits import refit
from analysis.scaling.choice import (
    LAST,
    MIN_LEVELS,
    PRIOR_ORIGINS,
    STRAIGHT,
    InnerTest,
    Scale,
    Widening,
    at_stake,
    error_scale,
    in_range,
    noise_of,
    stack,
    straight_line,
    widening,
)
from analysis.scaling.families import LOG_ODDS_LINEAR, POWER, POWER_FLOOR, SATURATING, Family
from analysis.scaling.fitting import axes_of, bounds_of, weights_of
from analysis.scaling.losses import Loss, default_loss
from analysis.scaling.points import Points
from analysis.scaling.solver import solve

SHARE_FAMILIES = (LOG_ODDS_LINEAR, SATURATING, POWER_FLOOR)
PGR_FAMILIES = (POWER, POWER_FLOOR)
"""Ladders have few rungs: families of more parameters would meet nothing that could contradict them."""
AHEAD = 2
"""Most strong models hidden in a test."""
ERRORS_PER_DRAW = 10
NEGLIGIBLE = 0.02
"""Weight of a family below which its draws are not refitted; its estimate stands in."""
QUANTITIES = ("student", "ceiling", "pgr")
_TOGETHER = 64
"""Curves fitted in one go; more would only need more memory."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Something measured along strong models, by growing compute."""

    key: Mapping[str, Any]
    strong: tuple[str, ...]
    x: np.ndarray
    """All different, shape (point,)."""
    values: Values
    n_test: int | None
    """Examples behind shares; None for PGR."""

    def first(self, shown: int) -> "Curve":
        """The curve as it is known from its smallest models alone."""
        return Curve(self.key, self.strong[:shown], self.x[:shown], self.values.only(slice(shown)), self.n_test)

    @cached_property
    def points(self) -> Points:
        n = None if self.n_test is None else np.full(self.x.size, float(self.n_test))
        return Points(self.x[:, None], self.values.estimate, n)

    @cached_property
    def loss(self) -> Loss:
        return default_loss(self.points.y, counts=self.points.shares)

    @cached_property
    def standing(self) -> tuple[Family, ...]:
        """Families that the points could contradict."""
        if self.loss.positive and self.points.y.min() <= 0:
            return ()
        families = PGR_FAMILIES if self.n_test is None else SHARE_FAMILIES
        return tuple(family for family in families if family.n_parameters <= self.x.size - 2)

    @cached_property
    def alike(self) -> tuple:
        """Equal for curves that can be fitted together."""
        bounds = tuple(np.concatenate(bounds_of(self.points, family)).tobytes() for family in self.standing)
        names = tuple(family.name for family in self.standing)
        return tuple(self.x), self.n_test, self.loss, names, bounds


@dataclass(frozen=True, eq=False)
class Continued:
    """A curve and what carries it on."""

    curve: Curve
    weights: Mapping[str, float]
    """Of the families and baselines of the mixture."""
    wide: Widening
    rows: np.ndarray
    """Estimate and draws that were fitted, shape (row, point), and ..."""
    index: np.ndarray
    """... which of them each draw is, shape (kind x draw,)."""
    parameters: Mapping[str, np.ndarray]
    """Of each family, shape (row or 1, parameter)."""

    def at(self, x: np.ndarray, *, with_noise: bool) -> Values:
        """The curve at some x beyond its points, with draws that know sampling and how wrong such continuations were.

        Args:
            x: Beyond the points, shape (target,).
            with_noise: Whether draws are of new measurements rather than of the curve.
        """
        points, scale = self.curve.points, error_scale(self.curve.points)
        mixed = np.zeros((self.rows.shape[0], x.size))
        for name, share in self.weights.items():
            mixed = mixed + share * scale.to(in_range(points, self._member(name, x)))
        stake = at_stake(points, x, noise_of(points) if with_noise else 0.0)
        # Students and ceilings err independently of each other, which makes bands of PGR wider than a shared error.
        rng = np.random.default_rng([self.curve.x.size, QUANTITIES.index(self.curve.key["quantity"])])
        draws = self.index.size // KINDS
        t = rng.standard_t(PRIOR_ORIGINS + self.wide.origins, size=(draws * ERRORS_PER_DRAW, 1))
        errors = self.wide.factor * stake * t
        both, examples, seeds = (
            np.repeat(mixed[part], ERRORS_PER_DRAW, axis=0) for part in np.split(self.index, KINDS)
        )
        every = (mixed[0], both + errors, examples + errors, seeds)
        kinds = (in_range(points, scale.back(part)) for part in every)
        return Values.of(kinds, self.curve.values.fewest_seeds)

    def _member(self, name: str, x: np.ndarray) -> np.ndarray:
        """One family or baseline at some x, shape (row or 1, target)."""
        if name == LAST:
            return np.repeat(self.rows[:, -1:], x.size, axis=1)
        if name == STRAIGHT:
            return self.rows @ straight_line(self.curve.points, x).T
        family = next(family for family in self.curve.standing if family.name == name)
        axis = axes_of(self.curve.points, family)[0]
        return family.predict(self.parameters[name], axis.position(x[:, None]))


def continue_all(curves: Sequence[Curve]) -> list[Continued]:
    """Continue curves, each from all of its points and from nothing else."""
    groups: dict[tuple, list[int]] = {}
    for index, curve in enumerate(curves):
        groups.setdefault(curve.alike, []).append(index)
    found: dict[int, Continued] = {}
    for members in groups.values():
        for first in range(0, len(members), _TOGETHER):
            part = members[first : first + _TOGETHER]
            found |= zip(part, _continue_alike([curves[index] for index in part]), strict=True)
    return [found[index] for index in range(len(curves))]


def _continue_alike(curves: Sequence[Curve]) -> Iterator[Continued]:
    """Curves that are alike: at the same x, with the same candidates."""
    tests = inner_tests(curves)
    weights = [stack(test, curve.points, curve.standing) for test, curve in zip(tests, curves, strict=True)]
    rows, indices = [], []
    for curve in curves:
        drawn, index = curve.values.rows()
        rows.append(in_range(curve.points, drawn))
        indices.append(index)
    parameters: list[dict[str, np.ndarray]] = [{} for _ in curves]
    for family in curves[0].standing:
        wanted = [
            drawn if weight.get(family.name, 0.0) >= NEGLIGIBLE else drawn[:1]
            for drawn, weight in zip(rows, weights, strict=True)
        ]
        best = _solve(curves[0], family, np.stack([drawn[0] for drawn in wanted]))
        refitted = _refit(curves[0], family, np.concatenate([drawn[1:] for drawn in wanted]))
        ends = np.cumsum([drawn.shape[0] - 1 for drawn in wanted])[:-1]
        for own, first, part in zip(parameters, best, np.split(refitted, ends), strict=True):
            own[family.name] = np.concatenate([first[None], part])
    for i, curve in enumerate(curves):
        yield Continued(curve, weights[i], widening(tests[i], weights[i]), rows[i], indices[i], parameters[i])


def _solve(like: Curve, family: Family, y: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
    """Parameters of a family fitted to rows of values, shape (row, parameter); `visible` is a mask of the points."""
    points = like.points
    weights = np.broadcast_to(weights_of(points, like.loss), y.shape)
    weights = weights if visible is None else weights * visible
    u = axes_of(points, family)[0].position(points.x)
    return solve(family, u, y, weights, like.loss, bounds=bounds_of(points, family)).parameters


def _refit(like: Curve, family: Family, y: np.ndarray) -> np.ndarray:
    points = like.points
    weights = np.broadcast_to(weights_of(points, like.loss), y.shape)
    u = axes_of(points, family)[0].position(points.x)
    return refit(family, u, y, weights, like.loss, bounds_of(points, family))


def inner_tests(curves: Sequence[Curve]) -> list[InnerTest]:
    """`analysis.scaling.choice.inner_test` of curves that are alike, with all their origins fitted together."""
    like = curves[0]
    x, n = like.x, like.x.size
    y = np.stack([curve.values.estimate for curve in curves])
    shown = np.arange(min(MIN_LEVELS, n), n)
    index = np.arange(n)
    hidden = (index[None, :] >= shown[:, None]) & (index[None, :] < shown[:, None] + AHEAD)
    straight = [y[:, :k] @ straight_line(like.points.take(index < k), x).T for k in shown]
    predicted = {
        LAST: np.repeat(y[:, shown - 1, None], n, axis=2),
        STRAIGHT: np.stack(straight, axis=1) if straight else np.zeros((len(curves), 0, n)),
    }  # each of shape (curve, origin, target)
    for family in like.standing:
        origins = np.flatnonzero(shown >= family.n_parameters + 2)
        values = np.full((len(curves), shown.size, n), np.nan)
        if origins.size:
            visible = np.tile(index < shown[origins, None], (len(curves), 1))
            solved = _solve(like, family, np.repeat(y, origins.size, axis=0), visible)
            u = axes_of(like.points, family)[0].position(like.points.x)
            values[:, origins] = family.predict(solved, u).reshape(len(curves), origins.size, n)
        predicted[family.name] = values
    return [
        _errors(curve.points, shown, hidden, {name: values[i] for name, values in predicted.items()})
        for i, curve in enumerate(curves)
    ]


def _errors(points: Points, shown: np.ndarray, hidden: np.ndarray, predicted: Mapping[str, np.ndarray]) -> InnerTest:
    scale: Scale = error_scale(points)
    noise, x = noise_of(points), points.x[:, 0]
    index = np.arange(x.size)
    seen = [points.take(index < k) for k in shown]
    stakes = np.array([at_stake(own, x, noise, scale) for own in seen]).reshape(hidden.shape)
    observed = scale.to(points.y)
    errors = {
        name: np.where(
            hidden, (scale.to(_as_such(name, seen, values)) - observed) / np.where(hidden, stakes, 1.0), np.nan
        )
        for name, values in predicted.items()
    }
    return InnerTest(shown, errors)


def _as_such(name: str, seen: Sequence[Points], values: np.ndarray) -> np.ndarray:
    """Predictions of each origin within what its own levels allow, shape (origin, target)."""
    if name == LAST:
        return values
    kept = [in_range(own, row) for own, row in zip(seen, values, strict=True)]
    return np.array(kept).reshape(values.shape)
