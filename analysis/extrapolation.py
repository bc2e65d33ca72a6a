"""Beyond the largest strong model: accuracies of students and ceilings, PGR derived from them, and how well that went
before.

Accuracies are continued by the mixture of families that inner origins chose (`analysis.continuation`), in every joint
draw anew, and each draw is moved by an error of the size that those origins showed. PGR is derived: one draw of the
supervisor's measured accuracy, of the student's and of the ceiling's continued curve give one PGR. A direct
continuation of the measured PGRs stands beside it.

The test hides the largest one, then the largest two strong models from students and ceilings, chooses anew from the
rest, predicts, and compares with what was measured, beside two baselines: the last value, and a straight line in log x.
Where a predictor was no better than the last value, or than the straight line, its predictions are marked so; and those
that continue a curve which its own points contradict (`analysis.misfit`).

Up to the largest model the figures show the fitted curve, or the points where none fits. Predictions start from there:
what the mixture is off at the largest model fades out over half a rung, where no test has been. An origin is named by
the rungs shown, `shown`: how many models the ladder has up to the largest one shown. It means the same for students,
ceilings and PGR, whatever the number of their points; `ahead` counts rungs from there.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.continuation import AHEAD, ERRORS_PER_DRAW, Continued, Curve, continue_all
from analysis.estimates import Estimates
from analysis.frames import SHARE, in_method_order, select_section
from analysis.gaps import SECTION_KEY
from analysis.grouping import Pair, SectionDraws, SectionPairs
from analysis.lines import Line, Values, accuracies_of, lines_of
from analysis.metrics import performance_gap_recovered
from analysis.scaling.choice import LAST, MIN_LEVELS, STRAIGHT, straight_line
from analysis.trends import DOES_NOT_FIT, Trends, trends

REACH = 10.0
"""Predictions go to so many times the largest measured compute."""
MULTIPLES = np.unique(np.concatenate([np.geomspace(1, REACH, 15), [2.0, 5.0]]))
DRAWS = 100
"""Joint draws that are continued."""
LEVELS = (0.5, 0.8, 0.95)
DERIVED, DIRECT = "derived", "direct"
BEYOND, NO_SKILL, NOT_TESTED = "beyond", "beyond, no skill", "beyond, not tested"
LINE_BETTER = "beyond, a straight line did better"
MISFIT = "beyond, its curve does not fit the points"
UNDEFINED = "no clear gap predicted"
"""Status of PGR where the ceiling's band comes down to the supervisor: there is no prediction."""

NO_GAP, UNCLEAR = "no gap was measured there", "no clear gap was predicted there"
TOO_FEW = f"fewer than {MIN_LEVELS} values were shown"
NONE_SHOWN = "no student that was shown has a gap"

_CURVE: dict[str, Any] = dict.fromkeys((*SECTION_KEY, "quantity", "method", "weak"), pl.String)
_KEY = _CURVE | {"predictor": pl.String}
_BANDS: dict[str, Any] = {f"y_{side}_{level * 100:.0f}": pl.Float64 for level in LEVELS for side in ("low", "high")}
_INSIDE = tuple(f"inside_{level * 100:.0f}" for level in LEVELS)
PREDICTIONS_SCHEMA = _KEY | {"x": pl.Float64, "reach": pl.Float64, "y": pl.Float64} | _BANDS | {"status": pl.String}
_HIDDEN = _KEY | {"strong": pl.String, "x": pl.Float64, "shown": pl.Int64, "ahead": pl.Int64}
TESTS_SCHEMA = _HIDDEN | {"observed": pl.Float64, "y": pl.Float64} | _BANDS | dict.fromkeys(_INSIDE, pl.Boolean)
LEFT_OUT_SCHEMA = _HIDDEN | {"reason": pl.String}
REFUSED_SCHEMA = _CURVE | {"reason": pl.String}
SKILL_SCHEMA: dict[str, Any] = (
    dict.fromkeys((*SECTION_KEY, "quantity", "method", "predictor"), pl.String)
    | {"rmse": pl.Float64, "rmse_last": pl.Float64, "rmse_linear": pl.Float64}
    | {"n": pl.Int64, "n_left_out": pl.Int64}
    | dict.fromkeys(_INSIDE, pl.Float64)
)


@dataclass(frozen=True)
class Extrapolation:
    """Frames of what lies beyond the data, and of tests."""

    predictions: pl.DataFrame
    """One row per curve, predictor and multiple (`reach`) of the largest measured compute. `quantity` is `student`,
    `ceiling` or `pgr`; PGR has two predictors, `derived` and `direct`. `status` is `beyond`, `beyond, not tested`,
    `beyond, no skill` (the last value was as good in the tests), `beyond, a straight line did better`, `beyond, its
    curve does not fit the points`, or `no clear gap predicted`, where `y` is null: PGR is not defined there."""
    tests: pl.DataFrame
    """One row per curve, predictor, origin and hidden strong model; the baselines have no bands. `shown` is how many
    rungs the ladder has up to the largest model shown, `ahead` how many rungs further the hidden model is."""
    left_out: pl.DataFrame
    """Tests of PGR that could not be made, keyed as `tests`, and the `reason`."""
    skill: pl.DataFrame
    """Errors of the tests by quantity, method and predictor: root mean square, that of the two baselines on the same
    tests, how many tests there were and were left out, and the shares inside the bands."""
    refused: pl.DataFrame
    """One row per curve without any prediction, and the `reason`."""

    def __repr__(self) -> str:
        return f"Extrapolation(rows: predictions {self.predictions.height}, tests {self.tests.height})"


def extrapolate(estimates: Estimates, fitted: Trends | None = None) -> Extrapolation:
    """Continue all lines of some estimates that have at least three students.

    Args:
        estimates: Of finished sweeps.
        fitted: Their curves within the measured range, if they are known already.
    """
    within = _Within.of(fitted if fitted is not None else trends(estimates))
    sections = [_section(estimates, grouped, drawn) for grouped, drawn in estimates.sections]
    found = _Found(_Book.of(asked for section in sections for asked in section.asked()), within)
    for section in sections:
        if section.ceiling is not None:
            found.accuracies(section.ceiling, section.rungs)
        found.refused += section.refused
        for line in section.lines:
            for curve in line.accuracies(section.ceiling):
                found.accuracies(curve, section.rungs)
            found.pgr_tests(line, section.rungs)
            found.pgr_beyond(line)
    tests, left_out = pl.DataFrame(found.tests, schema=TESTS_SCHEMA), pl.DataFrame(found.left_out, LEFT_OUT_SCHEMA)
    skill = _skill(tests, left_out)
    predictions = with_status(pl.DataFrame(found.predicted, schema=PREDICTIONS_SCHEMA), skill)
    refused = pl.DataFrame(found.refused, schema=REFUSED_SCHEMA)
    return Extrapolation(
        predictions=in_method_order(predictions, "weak", "predictor", "x", first=("quantity",)),
        tests=in_method_order(tests, "weak", "shown", "predictor", "x", first=("quantity",)),
        left_out=in_method_order(left_out, "weak", "shown", "predictor", "x", first=("quantity",)),
        skill=in_method_order(skill, "predictor", first=("quantity",)),
        refused=in_method_order(refused, "weak", first=("quantity",)),
    )


# --- what is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """A line with all that its PGR is made of."""

    student: Curve
    ceiling: Curve | None
    """Its own, or the grid's over the whole ladder."""
    weak: Values | None
    pgr: Curve | None
    """At the students with a gap; None where there is none."""

    @property
    def reason(self) -> str | None:
        """Why PGR cannot be continued, if so."""
        if self.weak is None:
            return "its students do not share one supervisor"
        if self.pgr is None:
            return "no student has a gap, so that PGR is defined nowhere"
        if self.ceiling is None:
            return f"there are fewer than {MIN_LEVELS} ceilings of different compute"
        if self.pgr.x[-1] < self.student.x[-1]:
            return f"the largest student, {self.student.strong[-1]}, has no gap: beyond it PGR may be defined nowhere"
        return None

    def accuracies(self, ladder: Curve | None) -> tuple[Curve, ...]:
        """Curves of shares that belong to the line alone: its students, and ceilings that are not the ladder's."""
        return (self.student,) if self.ceiling is None or self.ceiling is ladder else (self.student, self.ceiling)

    def origins(self) -> Iterator["_Origin"]:
        """Of the tests of PGR."""
        if self.pgr is None or self.ceiling is None or self.weak is None:
            return
        for students in _origins(self.student.x.size):
            top = self.student.x[students - 1]
            yield _Origin(students, int(np.sum(self.ceiling.x <= top)), int(np.sum(self.pgr.x <= top)))


@dataclass(frozen=True)
class _Origin:
    """How many values of each curve are known when the larger models are hidden."""

    students: int
    ceilings: int
    pgrs: int

    @property
    def reason(self) -> str | None:
        """Why nothing is predicted from here, if so."""
        if self.pgrs == 0:
            return NONE_SHOWN
        return TOO_FEW if self.ceilings < MIN_LEVELS else None


@dataclass(frozen=True)
class _Section:
    """Curves of one section."""

    rungs: Mapping[str, int]
    """Of each model, from 1."""
    ceiling: Curve | None
    lines: Sequence[_Measured]
    refused: Sequence[dict[str, Any]]

    def asked(self) -> Iterator[tuple[Curve, int]]:
        """Curves, and how many of their values are shown, that the tests and predictions below need continued."""
        of_lines = [curve for line in self.lines for curve in line.accuracies(self.ceiling)]
        for curve in (*([self.ceiling] if self.ceiling is not None else []), *of_lines):
            yield from ((curve, shown) for shown in (*_origins(curve.x.size), curve.x.size))
        for line in self.lines:
            for origin in line.origins():
                if origin.reason is None and line.ceiling is not None:
                    yield line.ceiling, origin.ceilings
                    if line.pgr is not None and origin.pgrs >= MIN_LEVELS:
                        yield line.pgr, origin.pgrs
            if line.reason is None and line.ceiling is not None and line.pgr is not None:
                yield line.ceiling, line.ceiling.x.size
                if line.pgr.x.size >= MIN_LEVELS:
                    yield line.pgr, line.pgr.x.size


def _section(estimates: Estimates, grouped: SectionPairs, drawn: SectionDraws) -> _Section:
    ladder = select_section(estimates.ladder, grouped.section).sort("rung")
    x = dict(ladder.select("model", "x").iter_rows())
    pairs = select_section(estimates.pairs, grouped.section).filter("has_gap")
    gaps = set(pairs.select("weak", "strong", "baseline").iter_rows())
    head = grouped.section._asdict()
    ceiling = _ladder_ceiling(head, grouped, drawn, x)
    lines, refused = [], []
    for line in lines_of(grouped, x):
        reason = _too_few(line)
        if reason is None:
            measured = _measured(head, line, grouped, drawn, ceiling, gaps)
            lines.append(measured)
            if measured.reason is not None:
                refused.append(_key(head, "pgr", line) | {"reason": measured.reason})
        else:
            refused += [_key(head, quantity, line) | {"reason": reason} for quantity in ("student", "pgr")]
    rungs = {model: number for number, model in enumerate(ladder["model"], 1)}
    return _Section(rungs, ceiling, lines, refused)


def _too_few(line: Line) -> str | None:
    """Why a line cannot be continued, if so."""
    if line.x.size < MIN_LEVELS:
        students = "1 student is" if line.x.size == 1 else f"{line.x.size} students are"
        return f"{students} too few to continue; it takes {MIN_LEVELS} of different compute"
    if np.unique(line.x).size < line.x.size:
        return "two of its students have the same compute"
    return None


def _ladder_ceiling(
    head: Mapping[str, Any], grouped: SectionPairs, drawn: SectionDraws, x: Mapping[str, float]
) -> Curve | None:
    models = sorted(grouped.ceilings, key=lambda model: x[model])
    at = np.array([x[model] for model in models])
    if at.size < MIN_LEVELS or np.unique(at).size < at.size:
        return None
    values = accuracies_of(drawn, [grouped.ceilings[model] for model in models]).first_draws(DRAWS)
    return Curve(_key(head, "ceiling", None), tuple(models), at, values, drawn.n_test)


def _measured(
    head: Mapping[str, Any],
    line: Line,
    grouped: SectionPairs,
    drawn: SectionDraws,
    ladder: Curve | None,
    gaps: set[tuple[str, str, str]],
) -> _Measured:
    def of(role: str, pairs: Sequence[Pair] = line.pairs) -> Values:
        return accuracies_of(drawn, [getattr(pair, role) for pair in pairs]).first_draws(DRAWS)

    strong = tuple(pair.strong for pair in line.pairs)
    student = Curve(_key(head, "student", line), strong, line.x, of("student"), drawn.n_test)
    ceiling, floor = ladder, grouped.supervisors.get(line.weak)
    if line.own_baseline:
        ceiling = Curve(_key(head, "ceiling", line), strong, line.x, of("ceiling"), drawn.n_test)
        floor = line.supervisor
    weak = None if floor is None else accuracies_of(drawn, [floor]).first_draws(DRAWS)
    clear = [i for i, pair in enumerate(line.pairs) if pair.gap_key in gaps]
    pgr = None
    if clear and weak is not None:
        pairs = [line.pairs[i] for i in clear]
        parts = [of(role, pairs) for role in ("supervisor", "student", "ceiling")]
        kinds = zip(*(part.kinds() for part in parts), strict=True)
        n_seeds = np.min([np.broadcast_to(part.n_seeds, part.estimate.shape) for part in parts], axis=0)
        ratios = Values.of((performance_gap_recovered(*kind) for kind in kinds), n_seeds)
        pgr = Curve(_key(head, "pgr", line), tuple(pair.strong for pair in pairs), line.x[clear], ratios, None)
    return _Measured(student, ceiling, weak, pgr)


def _key(head: Mapping[str, Any], quantity: str, line: Line | None) -> dict[str, Any]:
    names = (line.method, line.weak) if line else (None, None)
    return {**head, "quantity": quantity, "method": names[0], "weak": names[1]}


# --- tests and predictions -------------------------------------------------------------------------------------------


class _Book:
    """Continued curves, each fitted once, by curve and by how much of it was shown."""

    def __init__(self, continued: Mapping[tuple[Curve, int], Continued]) -> None:
        self._continued = continued

    @classmethod
    def of(cls, asked: Iterable[tuple[Curve, int]]) -> "_Book":
        every = list(dict.fromkeys(asked))
        curves = continue_all([curve.first(shown) for curve, shown in every])
        return cls(dict(zip(every, curves, strict=True)))

    def at(self, curve: Curve, shown: int, x: np.ndarray, *, with_noise: bool) -> Values:
        return self._continued[curve, shown].at(x, with_noise=with_noise)


@dataclass(frozen=True)
class _Within:
    """What is drawn up to the largest model."""

    ends: Mapping[tuple, tuple[float, float]]
    """Largest x of each fitted curve, and the curve there."""
    misfits: Collection[tuple]
    """Curves that their points contradict."""

    @classmethod
    def of(cls, fitted: Trends) -> "_Within":
        last = fitted.curves.sort("x").group_by(*_CURVE, maintain_order=True).last()
        ends = {tuple(row[:-2]): row[-2:] for row in last.select(*_CURVE, "x", "y").iter_rows()}
        misfits = fitted.fits.filter(pl.col("status") == DOES_NOT_FIT).select(*_CURVE)
        return cls(ends, set(misfits.iter_rows()))

    def end(self, curve: Curve) -> float:
        """Where the line in the figures ends: at the fitted curve, or at the last point."""
        x, y = self.ends.get(_named(curve), (0.0, 0.0))
        return y if x >= curve.x[-1] * (1 - 1e-9) else float(curve.values.estimate[-1])

    def fits(self, *curves: Curve) -> bool:
        return not any(_named(curve) in self.misfits for curve in curves)


def _named(curve: Curve) -> tuple:
    return tuple(curve.key[name] for name in _CURVE)


class _Found:
    """Rows of all frames, as they are found."""

    def __init__(self, book: _Book, within: _Within) -> None:
        self._book, self._within = book, within
        self.predicted: list[dict[str, Any]] = []
        self.tests: list[dict[str, Any]] = []
        self.left_out: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []

    def accuracies(self, curve: Curve, rungs: Mapping[str, int]) -> None:
        """Hide the largest models of a curve of shares and predict them; then go beyond all."""
        for shown in _origins(curve.x.size):
            test = _Test.of(curve, shown, curve.strong[shown - 1], rungs)
            self.tests += test.rows(DERIVED, self._book.at(curve, shown, test.x, with_noise=True))
            self.tests += test.baseline_rows()
        self._beyond(curve, DERIVED)

    def pgr_tests(self, line: _Measured, rungs: Mapping[str, int]) -> None:
        """The same for PGR; at an origin nothing of the hidden students and their ceilings is known."""
        if line.pgr is None or line.ceiling is None or line.weak is None:
            return
        for origin in line.origins():
            top = line.student.strong[origin.students - 1]
            hidden = line.student.strong[origin.students :]
            test = _Test.of(line.pgr, origin.pgrs, top, rungs)
            # Predicted at all hidden students: which of them have a gap is only asked when predictions are compared.
            at = line.student.x[origin.students :]
            with_gap = np.isin(hidden, test.strong)
            without = _Test.named(line.pgr.key, [m for m in hidden if m not in test.strong], line.student, top, rungs)
            for predictor in (DERIVED, DIRECT):
                self.left_out += without.left_out(predictor, NO_GAP)
            if origin.reason is not None:
                for predictor in (DERIVED, DIRECT):
                    self.left_out += test.left_out(predictor, origin.reason)
                continue
            student = self._book.at(line.student, origin.students, at, with_noise=True)
            ceiling = self._book.at(line.ceiling, origin.ceilings, at, with_noise=True)
            derived = pgr_of(line.weak, student, ceiling).only(with_gap)
            self.tests += test.rows(DERIVED, derived)
            self.left_out += test.left_out(DERIVED, UNCLEAR, where=~np.isfinite(derived.estimate))
            if origin.pgrs >= MIN_LEVELS:
                direct = self._book.at(line.pgr, origin.pgrs, test.x, with_noise=True)
                self.tests += test.rows(DIRECT, direct)
            else:
                self.left_out += test.left_out(DIRECT, TOO_FEW)
            self.tests += test.baseline_rows()

    def pgr_beyond(self, line: _Measured) -> None:
        """PGR beyond the largest student, if that one has a gap: beyond it there is one all the more."""
        if line.reason is not None or line.pgr is None or line.ceiling is None or line.weak is None:
            return
        at = line.student.x[-1] * MULTIPLES
        student, ceiling = (self._continued(curve, at) for curve in (line.student, line.ceiling))
        rows = _rows(line.pgr.key, DERIVED, at, pgr_of(line.weak, student, ceiling))
        rows = rows if any(row["y"] is not None for row in rows) else []
        self.predicted += self._flagged(rows, line.student, line.ceiling)
        if line.pgr.x.size >= MIN_LEVELS:
            self._beyond(line.pgr, DIRECT)
        elif not rows:
            names = {name: line.pgr.key[name] for name in _CURVE}
            self.refused.append(names | {"reason": "beyond the largest student no clear gap is predicted"})

    def _beyond(self, curve: Curve, predictor: str) -> None:
        at = curve.x[-1] * MULTIPLES
        self.predicted += self._flagged(_rows(curve.key, predictor, at, self._continued(curve, at)), curve)

    def _continued(self, curve: Curve, at: np.ndarray) -> Values:
        """The curve beyond its last point, starting where the line up to there ends."""
        values = self._book.at(curve, curve.x.size, np.append(at, curve.x[-1]), with_noise=False)
        t = np.log(curve.x)
        near = np.clip(1 - (np.log(at) - t[-1]) / (0.5 * (t[-1] - t[-2])), 0.0, 1.0)
        off = near * (self._within.end(curve) - values.estimate[-1])
        moved = (kind[..., :-1] + off for kind in values.kinds())
        kinds = moved if curve.n_test is None else (np.clip(kind, *SHARE) for kind in moved)
        return Values.of(kinds, values.n_seeds)

    def _flagged(self, rows: list[dict[str, Any]], *curves: Curve) -> list[dict[str, Any]]:
        """With the status of predictions that continue a curve that does not fit."""
        fits = self._within.fits(*curves)
        return [row | {"status": UNDEFINED if row["y"] is None else None if fits else MISFIT} for row in rows]


def pgr_of(weak: Values, student: Values, ceiling: Values) -> Values:
    """PGR of continued curves in every draw; NaN at targets where the ceiling is not clearly above the supervisor."""
    n_seeds = min(weak.fewest_seeds, student.fewest_seeds, ceiling.fewest_seeds)
    estimate, *kinds = weak.kinds()
    repeated = (estimate, *(np.repeat(kind, ERRORS_PER_DRAW, axis=0) for kind in kinds))
    parts = list(zip(repeated, student.kinds(), ceiling.kinds(), strict=True))
    gap = Values.of((c - w for w, _, c in parts), n_seeds).interval(0.95)
    unclear = np.where(gap.low > 0, 0.0, np.nan)
    return Values.of((performance_gap_recovered(w, s, c) + unclear for w, s, c in parts), n_seeds)


def _rows(key: Mapping[str, Any], predictor: str, at: np.ndarray, values: Values) -> list[dict[str, Any]]:
    """Predictions; null where there is none."""
    bands = _bands(key, values)
    defined = np.isfinite(values.estimate)
    columns = {"y": values.estimate, **bands}
    return [
        {**key, "predictor": predictor, "x": float(x), "reach": float(x / at[0])}
        | {name: float(column[i]) if defined[i] else None for name, column in columns.items()}
        for i, x in enumerate(at)
    ]


def _bands(key: Mapping[str, Any], values: Values) -> dict[str, np.ndarray]:
    bands = {}
    for level in LEVELS:
        interval = values.interval(level)
        interval = interval if key["quantity"] == "pgr" else interval.within(*SHARE)
        bands |= {f"y_low_{level * 100:.0f}": interval.low, f"y_high_{level * 100:.0f}": interval.high}
    return bands


@dataclass(frozen=True)
class _Test:
    """Hidden models of a curve at one origin."""

    key: Mapping[str, Any]
    strong: tuple[str, ...]
    x: np.ndarray
    observed: np.ndarray
    shown: int
    """Rungs of the ladder up to the largest model shown."""
    ahead: tuple[int, ...]
    seen: Curve
    """What is known of the curve."""

    @classmethod
    def of(cls, curve: Curve, known: int, top: str, rungs: Mapping[str, int]) -> "_Test":
        """All of a curve's models after the first ones known; `top` is the largest model that is shown."""
        strong = curve.strong[known:]
        ahead = tuple(rungs[model] - rungs[top] for model in strong)
        return cls(
            curve.key, strong, curve.x[known:], curve.values.estimate[known:], rungs[top], ahead, curve.first(known)
        )

    @classmethod
    def named(
        cls, key: Mapping[str, Any], strong: Sequence[str], curve: Curve, top: str, rungs: Mapping[str, int]
    ) -> "_Test":
        """Some models at which nothing was observed; `curve` knows their compute."""
        x = np.array([curve.x[curve.strong.index(model)] for model in strong])
        ahead = tuple(rungs[model] - rungs[top] for model in strong)
        return cls(key, tuple(strong), x, np.full(len(strong), np.nan), rungs[top], ahead, curve.first(0))

    def rows(self, predictor: str, values: Values) -> list[dict[str, Any]]:
        """Predictions and what was observed, where something was predicted."""
        bands = _bands(self.key, values)
        rows = []
        for i, base in enumerate(self._bases(predictor)):
            if not np.isfinite(values.estimate[i]):
                continue  # no clear gap was predicted there
            row = base | {"observed": float(self.observed[i]), "y": float(values.estimate[i])}
            row |= {name: float(band[i]) for name, band in bands.items()}
            for level in LEVELS:
                name = f"{level * 100:.0f}"
                row[f"inside_{name}"] = bool(row[f"y_low_{name}"] <= self.observed[i] <= row[f"y_high_{name}"])
            rows.append(row)
        return rows

    def baseline_rows(self) -> list[dict[str, Any]]:
        estimate = self.seen.values.estimate
        baselines = {LAST: np.full(self.x.size, estimate[-1])}
        if estimate.size > 1:
            line = straight_line(self.seen.points, self.x) @ estimate
            baselines[STRAIGHT] = line if self.seen.n_test is None else np.clip(line, *SHARE)
        return [
            base | {"observed": float(self.observed[i]), "y": float(values[i])}
            for name, values in baselines.items()
            for i, base in enumerate(self._bases(name))
        ]

    def left_out(self, predictor: str, reason: str, where: np.ndarray | None = None) -> list[dict[str, Any]]:
        """Models that are not compared, all or those of a mask."""
        return [base | {"reason": reason} for i, base in enumerate(self._bases(predictor)) if where is None or where[i]]

    def _bases(self, predictor: str) -> list[dict[str, Any]]:
        return [
            {**self.key, "predictor": predictor, "strong": model, "x": float(x), "shown": self.shown, "ahead": ahead}
            for model, x, ahead in zip(self.strong, self.x, self.ahead, strict=True)
        ]


def _origins(n: int) -> range:
    """How many models are shown: all but the largest one, ..., all but the largest `AHEAD`, and three at least."""
    return range(max(MIN_LEVELS, n - AHEAD), n)


def _skill(tests: pl.DataFrame, left_out: pl.DataFrame) -> pl.DataFrame:
    """One row per predictor with a test, made or left out."""
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
    keys = [*SECTION_KEY, "quantity", "method", "predictor"]
    missing = left_out.group_by(*keys, maintain_order=True).agg(pl.len().alias("n_left_out"))
    frame = frame.join(missing, on=keys, how="full", coalesce=True, nulls_equal=True, maintain_order="left_right")
    frame = frame.with_columns(pl.col("n", "n_left_out").fill_null(0))
    return frame.select(pl.col(name).cast(kind) for name, kind in SKILL_SCHEMA.items())


def with_status(predictions: pl.DataFrame, skill: pl.DataFrame) -> pl.DataFrame:
    """Whether the predictor beat the last value and the straight line in the tests of the same quantity and method."""
    keys = [*SECTION_KEY, "quantity", "method", "predictor"]
    tested = skill.filter(pl.col("n") > 0).select(
        *keys, over_last=pl.col("rmse") < pl.col("rmse_last"), over_line=pl.col("rmse") < pl.col("rmse_linear")
    )
    joined = predictions.join(tested, on=keys, how="left", nulls_equal=True, maintain_order="left")
    status = (
        pl.when(pl.col("status").is_not_null())
        .then("status")
        .when(pl.col("over_last").is_null())
        .then(pl.lit(NOT_TESTED))
        .when(~pl.col("over_last"))
        .then(pl.lit(NO_SKILL))
        .when(~pl.col("over_line").fill_null(True))
        .then(pl.lit(LINE_BETTER))
        .otherwise(pl.lit(BEYOND))
    )
    return joined.with_columns(status=status).select(*PREDICTIONS_SCHEMA)
