"""Beyond the largest strong model: accuracies of students and ceilings, PGR derived from them, and how well that went
before.

Accuracies are continued by the mixture of families that inner origins chose (`analysis.scaling.choice`), in every joint
draw anew, and each draw is moved by an error of the size that those origins showed. PGR is derived: one draw of the
supervisor's measured accuracy, of the student's and of the ceiling's continued curve give one PGR. A direct
continuation of the measured PGRs stands beside it.

The test hides the largest one, then the largest two strong models from students and ceilings, chooses anew from the
rest, predicts, and compares with what was measured, beside two baselines: the last value, and a straight line in log x.
Where the derived PGR was no better than the last one, predictions are marked as without skill.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.estimates import Estimates
from analysis.frames import SHARE, in_method_order, select_section
from analysis.gaps import SECTION_KEY
from analysis.grouping import Pair, SectionDraws, SectionPairs
from analysis.lines import Line, Values, accuracies_of, lines_of
from analysis.metrics import performance_gap_recovered
from analysis.scaling.choice import (
    LAST,
    MIN_LEVELS,
    PRIOR_ORIGINS,
    STRAIGHT,
    at_stake,
    error_scale,
    in_range,
    inner_test,
    noise_of,
    stack,
    straight_line,
    widening,
)
from analysis.scaling.families import LOG_ODDS_LINEAR, POWER, POWER_FLOOR, SATURATING
from analysis.scaling.fitting import axes_of, bounds_of, weights_of
from analysis.scaling.losses import default_loss
from analysis.scaling.points import Points
from analysis.scaling.solver import solve

SHARE_FAMILIES = (LOG_ODDS_LINEAR, SATURATING, POWER_FLOOR)
PGR_FAMILIES = (POWER, POWER_FLOOR)
"""Ladders have few rungs: families of more parameters would meet nothing that could contradict them."""
REACH = 10.0
"""Predictions go to so many times the largest measured compute."""
MULTIPLES = np.unique(np.concatenate([np.geomspace(1, REACH, 15), [2.0, 5.0]]))
AHEAD = 2
"""Most strong models hidden in a test."""
DRAWS = 100
"""Joint draws that are continued."""
ERRORS_PER_DRAW = 10
NEGLIGIBLE = 0.02
"""Weight of a family below which its draws are not refitted; its estimate stands in."""
LEVELS = (0.5, 0.8, 0.95)
DERIVED, DIRECT = "derived", "direct"
QUANTITIES = ("student", "ceiling", "pgr")
BEYOND, NO_SKILL, NOT_TESTED = "beyond", "beyond, no skill", "beyond, not tested"

_KEY: dict[str, Any] = dict.fromkeys((*SECTION_KEY, "quantity", "method", "weak", "predictor"), pl.String)
_BANDS: dict[str, Any] = {f"y_{side}_{level * 100:.0f}": pl.Float64 for level in LEVELS for side in ("low", "high")}
_INSIDE = tuple(f"inside_{level * 100:.0f}" for level in LEVELS)
PREDICTIONS_SCHEMA = _KEY | {"x": pl.Float64, "reach": pl.Float64, "y": pl.Float64} | _BANDS | {"status": pl.String}
TESTS_SCHEMA = (
    _KEY
    | {"strong": pl.String, "x": pl.Float64, "shown": pl.Int64, "ahead": pl.Int64}
    | {"observed": pl.Float64, "y": pl.Float64}
    | _BANDS
    | dict.fromkeys(_INSIDE, pl.Boolean)
)
SKILL_SCHEMA: dict[str, Any] = (
    dict.fromkeys((*SECTION_KEY, "quantity", "method", "predictor"), pl.String)
    | {"rmse": pl.Float64, "rmse_last": pl.Float64, "rmse_linear": pl.Float64, "n": pl.Int64}
    | dict.fromkeys(_INSIDE, pl.Float64)
)


@dataclass(frozen=True)
class Extrapolation:
    """Frames of what lies beyond the data, and of tests."""

    predictions: pl.DataFrame
    """One row per curve, predictor and multiple (`reach`) of the largest measured compute. `quantity` is `student`,
    `ceiling` or `pgr`; PGR has two predictors, `derived` and `direct`. `status` is `beyond`, `beyond, no skill` or
    `beyond, not tested`."""
    tests: pl.DataFrame
    """One row per curve, predictor, origin and hidden strong model; the baselines have no bands."""
    skill: pl.DataFrame
    """Errors of the tests by quantity, method and predictor: root mean square, that of the two baselines on the same
    tests, and the shares inside the bands."""

    def __repr__(self) -> str:
        return f"Extrapolation(rows: predictions {self.predictions.height}, tests {self.tests.height})"


@dataclass(frozen=True)
class _Curve:
    """Something measured along strong models, by growing compute."""

    key: Mapping[str, Any]
    strong: tuple[str, ...]
    x: np.ndarray
    values: Values
    n_test: int | None
    """Examples behind shares; None for PGR."""

    def first(self, shown: int) -> "_Curve":
        values = Values.of((kind[..., :shown] for kind in self.values.kinds()), self.values.n_seeds)
        return _Curve(self.key, self.strong[:shown], self.x[:shown], values, self.n_test)

    @property
    def points(self) -> Points:
        n = None if self.n_test is None else np.full(self.x.size, float(self.n_test))
        return Points(self.x[:, None], self.values.estimate, n)


def extrapolate(estimates: Estimates) -> Extrapolation:
    """Continue all lines of some estimates that have at least three students."""
    predicted: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    for grouped, drawn in estimates.sections:
        x = dict(select_section(estimates.ladder, grouped.section).select("model", "x").iter_rows())
        pairs = select_section(estimates.pairs, grouped.section).filter("has_gap")
        gaps = set(pairs.select("weak", "strong", "baseline").iter_rows())
        head = grouped.section._asdict()
        ceiling = _ladder_ceiling(head, grouped, drawn, x)
        if ceiling is not None:
            tests += _tests(ceiling)
            predicted += _beyond(ceiling)
        for line in lines_of(grouped, x):
            if line.x.size < MIN_LEVELS or np.unique(line.x).size < line.x.size:
                continue
            measured = _measured(head, line, grouped, drawn, ceiling, gaps)
            tests += _tests(measured.student) + _pgr_tests(measured)
            predicted += _beyond(measured.student) + _pgr_beyond(measured)
    test_frame = pl.DataFrame(tests, schema=TESTS_SCHEMA)
    skill = _skill(test_frame)
    frame = _with_status(pl.DataFrame(predicted, schema=PREDICTIONS_SCHEMA), skill)
    return Extrapolation(
        predictions=in_method_order(frame, "weak", "predictor", "x", first=("quantity",)),
        tests=in_method_order(test_frame, "weak", "shown", "predictor", "x", first=("quantity",)),
        skill=in_method_order(skill, "predictor", first=("quantity",)),
    )


# --- what is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """A line with all that its PGR is made of."""

    student: _Curve
    ceiling: _Curve | None
    """Its own, or the grid's over the whole ladder."""
    weak: Values | None
    pgr: _Curve | None
    """At the students with a gap; None where there is none."""


def _ladder_ceiling(
    head: Mapping[str, Any], grouped: SectionPairs, drawn: SectionDraws, x: Mapping[str, float]
) -> _Curve | None:
    models = sorted(grouped.ceilings, key=lambda model: x[model])
    at = np.array([x[model] for model in models])
    if at.size < MIN_LEVELS or np.unique(at).size < at.size:
        return None
    values = _first_draws(accuracies_of(drawn, [grouped.ceilings[model] for model in models]))
    return _Curve(_key(head, "ceiling", None), tuple(models), at, values, drawn.n_test)


def _measured(
    head: Mapping[str, Any],
    line: Line,
    grouped: SectionPairs,
    drawn: SectionDraws,
    ladder: _Curve | None,
    gaps: set[tuple[str, str, str]],
) -> _Measured:
    def of(role: str, pairs: Sequence[Pair] = line.pairs) -> Values:
        return _first_draws(accuracies_of(drawn, [getattr(pair, role) for pair in pairs]))

    strong = tuple(pair.strong for pair in line.pairs)
    student = _Curve(_key(head, "student", line), strong, line.x, of("student"), drawn.n_test)
    ceiling, floor = ladder, grouped.supervisors.get(line.weak)
    if line.own_baseline:
        ceiling = _Curve(_key(head, "ceiling", line), strong, line.x, of("ceiling"), drawn.n_test)
        floor = line.supervisor
    weak = None if floor is None else _first_draws(accuracies_of(drawn, [floor]))
    clear = [i for i, pair in enumerate(line.pairs) if pair.gap_key in gaps]
    pgr = None
    if clear and weak is not None:
        pairs = [line.pairs[i] for i in clear]
        parts = zip(*(of(role, pairs).kinds() for role in ("supervisor", "student", "ceiling")), strict=True)
        ratios = Values.of((performance_gap_recovered(*part) for part in parts), student.values.n_seeds)
        pgr = _Curve(_key(head, "pgr", line), tuple(pair.strong for pair in pairs), line.x[clear], ratios, None)
    return _Measured(student, ceiling, weak, pgr)


def _key(head: Mapping[str, Any], quantity: str, line: Line | None) -> dict[str, Any]:
    names = (line.method, line.weak) if line else (None, None)
    return {**head, "quantity": quantity, "method": names[0], "weak": names[1]}


def _first_draws(values: Values) -> Values:
    estimate, *kinds = values.kinds()
    return Values.of((estimate, *(kind[:DRAWS] for kind in kinds)), values.n_seeds)


# --- continuing a curve ----------------------------------------------------------------------------------------------


def continued(curve: _Curve, at: np.ndarray, *, with_noise: bool) -> Values:
    """A curve at some x beyond its points, with draws that know sampling and how wrong such continuations were.

    Args:
        curve: At least one point.
        at: Beyond the points, shape (target,).
        with_noise: Whether draws are of new measurements rather than of the curve.
    """
    points = curve.points
    families = PGR_FAMILIES if curve.n_test is None else SHARE_FAMILIES
    standing = [family for family in families if family.n_parameters <= points.n_levels - 2]
    loss = default_loss(points.y, counts=points.shares)
    if loss.positive and points.y.min() <= 0:
        standing = []
    test = inner_test(points, standing, loss, horizon=AHEAD)
    weights = stack(test, points, standing)
    scale = error_scale(points)
    estimate, *kinds = curve.values.kinds()
    drawn = np.concatenate([estimate[None], *(np.where(np.isfinite(kind), kind, estimate) for kind in kinds)])
    drawn = in_range(points, drawn)
    mixed = np.zeros((drawn.shape[0], at.size))
    for name, share in weights.items():
        if name == LAST:
            values = np.repeat(drawn[:, -1:], at.size, axis=1)
        elif name == STRAIGHT:
            values = drawn @ straight_line(points, at).T
        else:
            family = next(f for f in standing if f.name == name)
            axes = axes_of(points, family)
            u, target = axes[0].position(points.x), axes[0].position(at[:, None])
            rows = drawn if share >= NEGLIGIBLE else drawn[:1]
            solution = solve(family, u, rows, weights_of(points, loss), loss, bounds=bounds_of(points, family))
            values = np.broadcast_to(family.predict(solution.parameters, target), mixed.shape)
        mixed = mixed + share * scale.to(in_range(points, values))
    stake = at_stake(points, at, noise_of(points) if with_noise else 0.0)
    wide = widening(test, weights)
    # Students and ceilings err independently of each other, which makes bands of PGR wider than a shared error would.
    rng = np.random.default_rng([curve.x.size, QUANTITIES.index(curve.key["quantity"])])
    errors = (
        wide.factor
        * stake
        * rng.standard_t(PRIOR_ORIGINS + wide.origins, size=(kinds[0].shape[0] * ERRORS_PER_DRAW, 1))
    )
    both, examples, seeds = (np.repeat(part, ERRORS_PER_DRAW, axis=0) for part in np.split(mixed[1:], 3))
    every = (mixed[0], both + errors, examples + errors, seeds)
    return Values.of((in_range(points, scale.back(part)) for part in every), curve.values.n_seeds)


def pgr_of(weak: Values, student: Values, ceiling: Values) -> Values:
    """PGR of continued curves in every draw; NaN at targets where the ceiling is not clearly above the supervisor."""
    n_seeds = min(weak.n_seeds, student.n_seeds, ceiling.n_seeds)
    estimate, *kinds = weak.kinds()
    repeated = (estimate, *(np.repeat(kind, ERRORS_PER_DRAW, axis=0) for kind in kinds))
    parts = list(zip(repeated, student.kinds(), ceiling.kinds(), strict=True))
    gap = Values.of((c - w for w, _, c in parts), n_seeds).interval(0.95)
    unclear = np.where(gap.low > 0, 0.0, np.nan)
    return Values.of((performance_gap_recovered(w, s, c) + unclear for w, s, c in parts), n_seeds)


# --- beyond the data -------------------------------------------------------------------------------------------------


def _beyond(curve: _Curve) -> list[dict[str, Any]]:
    at = curve.x[-1] * MULTIPLES
    predictor = DIRECT if curve.n_test is None else DERIVED
    return _rows(curve.key, predictor, at, continued(curve, at, with_noise=False))


def _pgr_beyond(line: _Measured) -> list[dict[str, Any]]:
    """PGR beyond the largest student, if that one has a gap: beyond it there is one all the more."""
    if line.pgr is None or line.ceiling is None or line.weak is None or line.pgr.x[-1] < line.student.x[-1]:
        return []
    at = line.student.x[-1] * MULTIPLES
    student, ceiling = (continued(curve, at, with_noise=False) for curve in (line.student, line.ceiling))
    rows = _rows(line.pgr.key, DERIVED, at, pgr_of(line.weak, student, ceiling))
    return rows + (_beyond(line.pgr) if line.pgr.x.size >= MIN_LEVELS else [])


def _rows(key: Mapping[str, Any], predictor: str, at: np.ndarray, values: Values) -> list[dict[str, Any]]:
    bands = _bands(key, values)
    return [
        {**key, "predictor": predictor, "x": float(x), "reach": float(x / at[0]), "y": float(values.estimate[i])}
        | {name: float(band[i]) for name, band in bands.items()}
        for i, x in enumerate(at)
        if np.isfinite(values.estimate[i])
    ]


def _bands(key: Mapping[str, Any], values: Values) -> dict[str, np.ndarray]:
    bands = {}
    for level in LEVELS:
        interval = values.interval(level)
        interval = interval if key["quantity"] == "pgr" else interval.within(*SHARE)
        bands |= {f"y_low_{level * 100:.0f}": interval.low, f"y_high_{level * 100:.0f}": interval.high}
    return bands


# --- tests -----------------------------------------------------------------------------------------------------------


def _tests(curve: _Curve) -> list[dict[str, Any]]:
    """Hide the largest models of a curve of shares, and predict them."""
    rows: list[dict[str, Any]] = []
    for shown in _origins(curve.x.size):
        seen, at = curve.first(shown), curve.x[shown:]
        rows += _test_rows(curve, DERIVED, shown, continued(seen, at, with_noise=True))
        rows += _baseline_rows(curve, seen, shown)
    return rows


def _pgr_tests(line: _Measured) -> list[dict[str, Any]]:
    """The same for PGR; at an origin nothing of the hidden students and their ceilings is known."""
    if line.pgr is None or line.ceiling is None or line.weak is None:
        return []
    rows: list[dict[str, Any]] = []
    for shown in _origins(line.student.x.size):
        top = line.student.x[shown - 1]
        known, ceilings = int(np.sum(line.pgr.x <= top)), int(np.sum(line.ceiling.x <= top))
        if known == 0 or known == line.pgr.x.size or ceilings < MIN_LEVELS:
            continue
        # Predicted at all hidden students: which of them have a gap is only asked when predictions are compared.
        at = line.student.x[shown:]
        with_gap = np.isin(at, line.pgr.x)
        ceiling = continued(line.ceiling.first(ceilings), at, with_noise=True)
        derived = pgr_of(line.weak, continued(line.student.first(shown), at, with_noise=True), ceiling)
        rows += _test_rows(line.pgr, DERIVED, known, derived.only(with_gap))
        seen = line.pgr.first(known)
        if known >= MIN_LEVELS:
            rows += _test_rows(line.pgr, DIRECT, known, continued(seen, at, with_noise=True).only(with_gap))
        rows += _baseline_rows(line.pgr, seen, known)
    return rows


def _origins(n: int) -> range:
    """How many models are shown: all but the largest one, ..., all but the largest `AHEAD`, and three at least."""
    return range(max(MIN_LEVELS, n - AHEAD), n)


def _test_rows(curve: _Curve, predictor: str, shown: int, values: Values) -> list[dict[str, Any]]:
    observed = curve.values.estimate[shown:]
    bands = _bands(curve.key, values)
    rows = []
    for i, base in enumerate(_hidden(curve, predictor, shown)):
        if not np.isfinite(values.estimate[i]):
            continue  # no clear gap was predicted there
        row = base | {"y": float(values.estimate[i])} | {name: float(band[i]) for name, band in bands.items()}
        for level in LEVELS:
            name = f"{level * 100:.0f}"
            row[f"inside_{name}"] = bool(row[f"y_low_{name}"] <= observed[i] <= row[f"y_high_{name}"])
        rows.append(row)
    return rows


def _baseline_rows(curve: _Curve, seen: _Curve, shown: int) -> list[dict[str, Any]]:
    at = curve.x[shown:]
    baselines = {LAST: np.full(at.size, seen.values.estimate[-1])}
    if seen.x.size > 1:
        line = straight_line(seen.points, at) @ seen.values.estimate
        baselines[STRAIGHT] = line if curve.n_test is None else np.clip(line, *SHARE)
    return [
        base | {"y": float(y)}
        for name, values in baselines.items()
        for base, y in zip(_hidden(curve, name, shown), values, strict=True)
    ]


def _hidden(curve: _Curve, predictor: str, shown: int) -> list[dict[str, Any]]:
    """What is known of each hidden model."""
    return [
        {**curve.key, "predictor": predictor, "strong": curve.strong[i], "x": float(curve.x[i])}
        | {"shown": shown, "ahead": i - shown + 1, "observed": float(curve.values.estimate[i])}
        for i in range(shown, curve.x.size)
    ]


def _skill(tests: pl.DataFrame) -> pl.DataFrame:
    test = [*SECTION_KEY, "quantity", "method", "weak", "strong", "shown"]
    squared = tests.with_columns(error=(pl.col("y") - pl.col("observed")) ** 2)
    own = squared.filter(~pl.col("predictor").is_in([LAST, STRAIGHT]))
    for name in (LAST, STRAIGHT):
        baseline = squared.filter(pl.col("predictor") == name).select(*test, pl.col("error").alias(name))
        own = own.join(baseline, on=test, how="left", nulls_equal=True, maintain_order="left")
    frame = own.group_by(*SECTION_KEY, "quantity", "method", "predictor", maintain_order=True).agg(
        pl.col("error").mean().sqrt().alias("rmse"),
        pl.col(LAST).mean().sqrt().alias("rmse_last"),
        pl.col(STRAIGHT).mean().sqrt().alias("rmse_linear"),
        pl.len().alias("n"),
        *(pl.col(name).cast(pl.Float64).mean() for name in _INSIDE),
    )
    return frame.select(pl.col(name).cast(kind) for name, kind in SKILL_SCHEMA.items())


def _with_status(predictions: pl.DataFrame, skill: pl.DataFrame) -> pl.DataFrame:
    """Whether the predictor beat the last value in the tests of the same quantity and method."""
    keys = [*SECTION_KEY, "quantity", "method", "predictor"]
    tested = skill.select(*keys, skilled=pl.col("rmse") < pl.col("rmse_last"))
    joined = predictions.drop("status").join(tested, on=keys, how="left", nulls_equal=True, maintain_order="left")
    status = (
        pl.when(pl.col("skilled").is_null())
        .then(pl.lit(NOT_TESTED))
        .when("skilled")
        .then(pl.lit(BEYOND))
        .otherwise(pl.lit(NO_SKILL))
    )
    return joined.with_columns(status=status).select(*PREDICTIONS_SCHEMA)
