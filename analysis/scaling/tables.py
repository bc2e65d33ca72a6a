"""From any table to fitted curves: one per group of rows, each tested on points it did not see.

    fits = fit(table, x="compute", y="loss", by="model", holdout_largest=2)
    fits.curves, fits.parameters, fits.tests     # polars frames, one row per curve, parameter, held-out point
    fits.predict([1e21, 1e22])                   # with 50, 80 and 95 % bands
    fits.plot()

A curve that cannot be fitted never stops the others: it is a row with status `refused` and a diagnosis.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.errors import AnalysisError
from analysis.scaling.choice import LAST, PRIOR_ORIGINS, PRIOR_WIDENING, STRAIGHT, predictions
from analysis.scaling.families import CURVES
from analysis.scaling.files import did_you_mean, require_columns, require_table, rows_where
from analysis.scaling.fitting import Fit
from analysis.scaling.forecast import Forecast, forecast
from analysis.scaling.losses import DEFAULT_DELTA, Loss, LossName, rmsle
from analysis.scaling.points import Points, flat, percent_doubt, points_of, unit_doubt
from analysis.scaling.uncertainty import (
    AUTO_KIND,
    DEFAULT_DRAWS,
    KINDS,
    LEVELS,
    Kind,
    outliers_expected,
    parameter_intervals,
    profiles,
)

Array = np.ndarray
AUTO = "auto"
REFUSED = "refused"
HELD_OUT, HIDDEN_IN_TURN = "held out", "largest x hidden in turn"
_BASELINE_WORDS = {LAST: "last value", STRAIGHT: "straight line"}
_PERCENTS = tuple(round(100 * level) for level in LEVELS)
_LINE_POINTS = 120
_RESERVED = frozenset(
    (
        "x", "y", "n_points", "n_levels", "x_low", "x_high", "status", "family", "weights", "loss", "diagnosis",
        "tested_on", "n_tested", "rmsle", "rmsle_last", "rmsle_linear", "skill", "parameter", "estimate", "low", "high",
        "method", "identified", "shown", "observed", "predicted", "last", "linear", "reach", "x1", "x2", "flops",
        "params", "tokens", "tokens_per_param", "exponent", "rmsle_fitted", "n_held_out", "nearest", "plane",
        "rmsle_nearest", "rmsle_plane", "preferred", "width_ratio",
    )
)  # fmt: skip
"""Columns of results."""


@dataclass(frozen=True)
class Curve:
    """One curve of a table: its points, and its forecast or why there is none."""

    key: tuple[Any, ...]
    """Values of the `by` columns."""
    label: str
    points: Points | None
    """Fitted; None where the rows could not be read as points."""
    held_out: Points | None
    forecast: Forecast | None
    refusal: str = ""
    doubt: str = ""
    """What seems odd about the values."""

    @property
    def fit(self) -> Fit:
        """The chosen family's fit.

        Raises:
            AnalysisError: The curve was refused.
        """
        return self._forecast.chosen

    @property
    def _forecast(self) -> Forecast:
        if self.forecast is None:
            raise AnalysisError(f"{self.label or 'the curve'} was not fitted: {self.refusal}")
        return self.forecast

    @property
    def weights(self) -> str:
        """What is averaged beyond the points, in words: "power_floor 62 %, last value 38 %"."""
        shares = [(member.fit.family.name, member.weight) for member in self._forecast.members]
        shares += [(_BASELINE_WORDS[name], share) for name, share in self._forecast.baselines.items()]
        shares.sort(key=lambda item: -item[1])
        return _shares_in_words(shares)

    @property
    def weights_inside(self) -> str:
        """What is averaged within the points: fits alone, in words."""
        members = self._forecast.members
        total = sum(member.weight for member in members)
        return _shares_in_words([(member.fit.family.name, member.weight / total) for member in members])

    @property
    def flat(self) -> bool:
        """Whether all y are equal, so that there is a value and no curve."""
        return self.points is not None and flat(self.points)

    @property
    def band_words(self) -> str:
        """What bands beyond the points are made of."""
        wide = self._forecast.widened
        made = (
            "bands beyond the points: the fit's own at the largest x, and an expected error that grows with log x: "
            f"{100 * wide.factor:.2g} % of the range of y for each range of log x beyond"
        )
        if wide.seen is None:
            return f"{made} (assumed: too few different x to test)"
        return (
            f"{made} ({100 * wide.seen:.2g} % when the larger fitted x were hidden, {_count(wide.origins)}; "
            f"{100 * PRIOR_WIDENING:.0f} % assumed before, which counts as {PRIOR_ORIGINS:.0f} more)"
        )

    @property
    def tested_on(self) -> str | None:
        """What `tested` compares with: rows held out as asked, or the largest x, hidden in turn; None: nothing."""
        if self.forecast is None:
            return None
        if self.held_out is not None:
            return HELD_OUT
        return HIDDEN_IN_TURN if self.forecast.tests.height else None

    def tested(self) -> pl.DataFrame:
        """Each x that a prediction was tested at, the mean over repetitions observed there, and what was predicted.

        Where rows were held out, the curve predicts them. Otherwise the largest x was hidden, then the two largest,
        with a family chosen anew from what was left (`shown` different x); the curve itself is fitted to all of them.
        Intervals are those of new observations, not of the curve.
        """
        if self.forecast is None:
            return _empty_tests()
        if self.held_out is None:
            return _hidden_in_turn(self.forecast)
        points, means = self.forecast.points, self.held_out.means()
        bands = self.forecast.bands(means.x[:, 0], levels=LEVELS, observed=True).fill_nan(None)
        baselines = predictions(points, [points.n_levels], means.x[:, 0], [], self.fit.loss)
        frame = bands.with_columns(
            pl.lit(points.n_levels, pl.Int64).alias("shown"),
            pl.col("y").alias("predicted"),
            pl.Series("observed", means.y),
            pl.Series("last", baselines[LAST][0]),
            pl.Series("linear", baselines[STRAIGHT][0]),
        )
        inside = [pl.col("observed").is_between(f"y_low_{p}", f"y_high_{p}").alias(f"inside_{p}") for p in _PERCENTS]
        return frame.with_columns(inside).select(_empty_tests().columns)

    def summary(self) -> dict[str, Any]:
        """The curve as one row of `Fits.curves`."""
        points = self.points
        row: dict[str, Any] = {
            "status": REFUSED,
            "family": None,
            "weights": None,
            "loss": None,
            "n_points": 0 if points is None else len(points),
            "n_levels": 0 if points is None else points.n_levels,
            "x_low": None if points is None else float(points.x.min()),
            "x_high": None if points is None else float(points.x.max()),
            "diagnosis": self.refusal,
        }
        tests = self.tested()
        row |= {"tested_on": self.tested_on, "n_tested": tests.height}
        for name, column in (("rmsle", "predicted"), ("rmsle_last", "last"), ("rmsle_linear", "linear")):
            row[name] = rmsle(tests["observed"].to_numpy(), tests[column].to_numpy())
        for p in _PERCENTS:
            told = tests[f"inside_{p}"].drop_nulls()
            row[f"inside_{p}"] = int(told.sum()) if told.len() else None
            row[f"coverage_{p}"] = int(told.sum()) / told.len() if told.len() else None
        row["skill"] = None
        if self.forecast is not None:
            fit = self.fit
            row |= {"status": fit.status.value, "family": fit.family.name, "weights": self.weights}
            row |= {"loss": loss_in_words(fit.loss), "skill": self.forecast.skill}
            doubt = unit_doubt(self.forecast.points.y)
            row["diagnosis"] = "; ".join(note for note in (self.forecast.diagnosis, doubt, self.doubt) if note)
        return row

    def line(self, to: float | None = None, size: int = _LINE_POINTS) -> pl.DataFrame:
        """The curve with its bands, from the smallest x fitted to the largest, held out or not, or to `to`."""
        x = self._forecast.points.x
        high = max(float(x.max()), *([float(self.held_out.x.max())] if self.held_out is not None else []), to or 0.0)
        at = np.union1d(np.geomspace(float(x.min()), high, size), [float(x.max())])
        return self._forecast.bands(at, levels=LEVELS).fill_nan(None)


def _shares_in_words(shares: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares if share >= 0.005)


def _count(origins: int) -> str:
    return f"{origins} test{'' if origins == 1 else 's'}"


@dataclass(frozen=True, repr=False)
class Fits:
    """Curves fitted to the groups of a table; iterates over them in the order of their keys."""

    keys: Mapping[str, pl.DataType]
    """The columns that tell curves apart, as results name them, with their types."""
    x: str
    y: str
    each: tuple[Curve, ...]
    loss_reason: str
    """Why the loss is what it is."""

    @property
    def by(self) -> tuple[str, ...]:
        return tuple(self.keys)

    def __iter__(self) -> Iterator[Curve]:
        return iter(self.each)

    def __len__(self) -> int:
        return len(self.each)

    def __getitem__(self, index: int) -> Curve:
        return self.each[index]

    def __repr__(self) -> str:
        shown = self.curves.select(*self.by, "status", "family", "n_points", "n_tested", "rmsle", "coverage_95")
        return (
            f"{len(self)} curve{'' if len(self) == 1 else 's'} of {self.y} against {self.x}, "
            f"{sum(curve.forecast is None for curve in self)} refused\n{shown}"
        )

    def _keyed(self, curve: Curve, frame: pl.DataFrame) -> pl.DataFrame:
        keys = [pl.lit(v, dtype=t).alias(name) for (name, t), v in zip(self.keys.items(), curve.key, strict=True)]
        return frame.select(*keys, *frame.columns)

    def _stacked(self, frames: Sequence[pl.DataFrame], empty: pl.DataFrame) -> pl.DataFrame:
        frames = [frame for frame in frames if frame.height]
        if frames:
            return pl.concat(frames, how="vertical_relaxed")
        return pl.DataFrame(schema={**self.keys, **empty.schema})

    @cached_property
    def curves(self) -> pl.DataFrame:
        """One row per curve: status, family and weights, n, diagnosis, and how well it predicts what it did not see.

        `tested_on`, `n_tested`: see `Curve.tested`. `rmsle`, `rmsle_last`, `rmsle_linear`: root mean squared log error
        of the forecast, of the last value and of a straight line in log x; null where nothing was tested or a value is
        not positive. `inside_95`: how many observations lay inside the interval; `coverage_95`: which share. `skill`:
        whether predictions of the largest of the fitted x, hidden in turn, beat the last value; null where there were
        too few to tell.
        """
        rows = [dict(zip(self.by, curve.key, strict=True)) | curve.summary() for curve in self]
        floats = ("x_low", "x_high", "rmsle", "rmsle_last", "rmsle_linear", *(f"coverage_{p}" for p in _PERCENTS))
        words = ("status", "family", "weights", "loss", "diagnosis", "tested_on")
        types: dict[str, Any] = (
            dict(self.keys)
            | dict.fromkeys(floats, pl.Float64)
            | dict.fromkeys(words, pl.String)
            | {"skill": pl.Boolean}
        )
        types |= {f"inside_{p}": pl.Int64 for p in _PERCENTS}
        return pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None)

    @cached_property
    def parameters(self) -> pl.DataFrame:
        """Parameters of each curve's chosen family in the table's units, with 95 % intervals.

        One row per method: `profile` (by profile likelihood, for parameters that can be held fixed one by one),
        `resampled residuals`, `resampled cases`, `resampled seeds`, or `none`. `preferred`: the row to quote, see
        `parameters_of`. `identified`: the profile closes on both sides; a scale such as A, which has no profile, is
        identified if everything profiled is. `width_ratio`: of the wider to the narrower of the two intervals of a
        parameter that has two; from 2 on they do not say the same.
        """
        frames = [self._keyed(curve, parameters_of(curve.fit)) for curve in self if curve.forecast is not None]
        return self._stacked(frames, _empty_parameters())

    @cached_property
    def tests(self) -> pl.DataFrame:
        """What `Curve.tested` says of every curve."""
        return self._stacked([self._keyed(curve, curve.tested()) for curve in self], _empty_tests())

    def predict(self, x: Sequence[float] | float) -> pl.DataFrame:
        """Every fitted curve at these x, with 50, 80 and 95 % bands of the curve, and how far beyond its points x is.

        Raises:
            AnalysisError: x is not a positive number.
        """
        at = np.atleast_1d(np.asarray(x, dtype=np.float64))
        if not np.all(np.isfinite(at) & (at > 0)):
            raise AnalysisError("x to predict at must be positive numbers: x is on a logarithmic axis")
        frames = [
            self._keyed(curve, curve.forecast.bands(at, levels=LEVELS).fill_nan(None))
            for curve in self
            if curve.forecast is not None
        ]
        return self._stacked(frames, pl.DataFrame(schema=dict.fromkeys(("x", "y"), pl.Float64)))

    def plot(self, ax: Axes | None = None, *, to: float | None = None) -> Axes | Figure:
        """Points, curves and bands: into `ax`, which is returned, or as a figure of its own.

        Args:
            ax: Where to draw all curves; without it a figure is made, of small panels when curves are many.
            to: Draw curves up to this x.
        """
        from analysis.plots.scaling import draw_curves, plot_curves

        return draw_curves(ax, self, to=to) if ax is not None else plot_curves(self, to=to)


def fit(
    table: pl.DataFrame,
    *,
    x: str,
    y: str,
    by: str | Sequence[str] = (),
    n: str | None = None,
    seed: str | None = None,
    train_where: str | None = None,
    holdout_largest: int = 0,
    family: str = AUTO,
    loss: str | Loss = AUTO,
    delta: float = DEFAULT_DELTA,
    draws: int = DEFAULT_DRAWS,
    uncertainty: Kind | Literal["auto"] = AUTO_KIND,
    random_seed: int = 0,
) -> Fits:
    """Fit one scaling curve to each group of rows, and test it on the rows held out.

    Args:
        table: One row per measurement; several rows of one x (seeds) are all fitted.
        x: Column of positive numbers in one unit: compute, tokens, examples.
        y: Column of values; shares if `n` is given.
        by: Columns that tell curves apart.
        n: Column of counts, where y are shares of so many examples. Without it values in [0, 1] are values like all
            others.
        seed: Column that tells repetitions apart, for `uncertainty="seeds"`.
        train_where: One comparison `COLUMN OP VALUE`; other rows are held out.
        holdout_largest: Of each curve, hold out this many of its largest x.
        family: Name of a family, or `auto`: chosen by how well each extrapolates from the smaller of the fitted points.
        loss: `squared`, `huber_log` or `binomial`; `auto` is binomial with `n`, else squared errors of log y, or of y
            where some y are not above zero.
        delta: Of `huber_log`, in units of log y.
        draws: Resamples behind bands and intervals.
        uncertainty: What is resampled: `residuals`, `cases` or `seeds`; `auto` is cases for a Huber loss with a delta,
            where a few points are expected to be far off, and residuals otherwise.
        random_seed: Of the resamples.

    Raises:
        AnalysisError: The table is empty or lacks a column, or an option is wrong. What is wrong with a single curve is
            told in its row.
    """
    by = (by,) if isinstance(by, str) else tuple(by)
    require_table(table)
    require_columns(table, [x, y, *by, *([n] if n else []), *([seed] if seed else [])])
    if table.is_empty():
        raise AnalysisError("the table has no rows")
    _check_options(by, family, draws, uncertainty, seed, holdout_largest, train_where)
    chosen = loss_of(loss, delta, n)
    train = rows_where(table, train_where).to_numpy() if train_where else np.ones(table.height, dtype=bool)
    if train_where and not train.any():
        raise AnalysisError(f"no row satisfies {train_where!r}, so there is nothing to fit")
    if train_where and train.all():
        raise AnalysisError(
            f"every row satisfies {train_where!r}, so nothing is held out; leave it away to fit all rows"
        )

    def one(key: tuple[Any, ...], rows: Array) -> Curve:
        label, points, held_out = key_label(by, key), None, None
        try:
            points, held_out = _split(table, rows, train, x, y, n, seed, holdout_largest)
            made = forecast(points, family, chosen, draws=draws, uncertainty=uncertainty, random_seed=random_seed)
        except AnalysisError as error:
            return Curve(key, label, points, held_out, None, str(error))
        return Curve(key, label, points, held_out, made, doubt="" if n else percent_doubt(points.y, y))

    keys = {key_column(name): table.schema[name] for name in by}
    each = tuple(one(key, rows) for key, rows in groups(table, by))
    used = [curve.fit.loss for curve in each if curve.forecast is not None]
    return Fits(keys, x, y, each, loss_reason(chosen, n, used))


def groups(table: pl.DataFrame, by: Sequence[str]) -> list[tuple[tuple[Any, ...], Array]]:
    """Rows of each group of the table, by ascending key (empty keys last)."""
    if not by:
        return [((), np.arange(table.height))]
    grouped = table.select(by).with_row_index("row number of ours").group_by(by, maintain_order=True).all()
    grouped = grouped.sort(list(by), nulls_last=True)
    return [(tuple(key), np.array(rows)) for *key, rows in grouped.iter_rows()]


def key_column(name: str) -> str:
    """What a column of `by` is called in results: its name, or "by NAME" where results have a column of that name."""
    return f"by {name}" if name in _RESERVED else name


def key_label(by: Sequence[str], key: tuple[Any, ...]) -> str:
    """A curve's name: "dataset=c4, size=1e9"; empty for the only curve of a table."""
    return ", ".join(f"{name}={_word(value)}" for name, value in zip(by, key, strict=True))


def _word(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def loss_of(loss: str | Loss, delta: float, n: str | None) -> Loss | None:
    """The loss asked for; None leaves it to each curve's values.

    Raises:
        AnalysisError: An unknown loss, a delta that is not positive, binomial without counts.
    """
    if isinstance(loss, Loss):
        return loss
    if not delta > 0:
        raise AnalysisError(f"delta must be above zero, got {delta:g}; it is an error of log y, such as 0.001")
    if loss == AUTO:
        return None
    if loss not in list(LossName):
        names = [AUTO, *map(str, LossName)]
        raise AnalysisError(f"there is no loss {loss!r}{did_you_mean(loss, names)}; there is {', '.join(names)}")
    if loss == LossName.BINOMIAL and not n:
        raise AnalysisError("the binomial loss is for shares of n examples; name the column of counts as n")
    return Loss(LossName(loss), delta)


def loss_in_words(loss: Loss) -> str:
    """What a fit minimises: "squared errors of log y"."""
    if loss.name is LossName.HUBER_LOG:
        return f"Huber errors of log y, delta {loss.delta:g}" if np.isfinite(loss.delta) else "squared errors of log y"
    return "binomial deviance" if loss.shares else "squared errors of y"


def loss_reason(asked: Loss | None, n: str | None, used: Iterable[Loss] = ()) -> str:
    """Why a loss is what it is, in words; `used` are the losses of fits for which none was asked."""
    if asked is not None:
        return "as asked"
    if n:
        return f"y are shares of the examples counted in {n!r}"
    positive = {loss.positive for loss in used}
    even = "some y are not above zero, so noise is taken to be equally large everywhere"
    if positive == {True}:
        return "noise is taken to be a share of y"
    if positive == {False}:
        return even
    return f"noise is taken to be a share of y; where {even}" if positive else "nothing could be fitted"


def parameters_of(fit: Fit) -> pl.DataFrame:
    """Parameters of a fit in the table's units, with 95 % intervals: the columns of `Fits.parameters` but the keys.

    Profiles are preferred for curves under squared errors and counts, where simulations find them at their nominal
    coverage; resamples where a few points may be far off (a Huber loss with a delta, surfaces) or seeds are resampled:
    a profile takes all points to be equally noisy, and is then far too narrow. Nothing is said of y that are all equal
    but their value.
    """
    if flat(fit.points):
        rows = [(fit.family.name, "y", float(fit.points.y[0]), None, None, "none", True, True, None)]
        return pl.DataFrame(rows, schema=_empty_parameters().schema, orient="row")
    profiled = {profile.name: profile for profile in profiles(fit)}
    drawn = parameter_intervals(fit) if fit.draws is not None else {}
    resampled = f"resampled {fit.resampled}" if fit.resampled else "resampled"
    trust_draws = fit.family.n_variables > 1 or outliers_expected(fit) or fit.resampled == "seeds"
    all_told = bool(profiled) and all(profile.identified for profile in profiled.values())
    rows: list[tuple[Any, ...]] = []
    for name, estimate in fit.natural().items():
        profile = profiled.get(name)
        told = all_told if profile is None else profile.identified
        ratio = None
        if profile is not None and profile.identified and name in drawn:
            widths = sorted((profile.high - profile.low, drawn[name][2] - drawn[name][1]))
            ratio = widths[1] / widths[0] if widths[0] > 0 and np.isfinite(widths[1]) else None
        if profile is not None:
            preferred = not (trust_draws and name in drawn)
            rows.append((fit.family.name, name, estimate, profile.low, profile.high, "profile", told, preferred, ratio))
        if name in drawn:
            _, low, high = drawn[name]
            preferred = trust_draws or profile is None
            rows.append((fit.family.name, name, estimate, low, high, resampled, told, preferred, ratio))
        if profile is None and name not in drawn:
            rows.append((fit.family.name, name, estimate, None, None, "none", False, True, None))
    return pl.DataFrame(rows, schema=_empty_parameters().schema, orient="row")


# --- inside ----------------------------------------------------------------------------------------------------------


def check_kind(uncertainty: str) -> None:
    """Refuse a kind of resampling that there is not."""
    if uncertainty not in (AUTO_KIND, *KINDS):
        names = ", ".join((AUTO_KIND, *KINDS))
        raise AnalysisError(f"uncertainty must be one of {names}, got {uncertainty!r}")


def _check_options(
    by: Sequence[str], family: str, draws: int, uncertainty: str, seed: str | None, holdout: int, where: str | None
) -> None:
    if family != AUTO and family not in CURVES:
        names = [AUTO, *CURVES]
        raise AnalysisError(f"there is no family {family!r}{did_you_mean(family, names)}; there is {', '.join(names)}")
    if len(set(by)) < len(by):
        raise AnalysisError(f"a column is named twice in by: {', '.join(by)}")
    if draws < 20:
        raise AnalysisError(f"{draws} draws are too few for bands; take 400 or more")
    check_kind(uncertainty)
    if uncertainty == "seeds" and seed is None:
        raise AnalysisError("resampling seeds needs the column that tells repetitions apart; name it as seed")
    if holdout < 0:
        raise AnalysisError(f"the number of x to hold out must not be negative, got {holdout}")
    if holdout and where:
        raise AnalysisError("give either the rows to train on or how many of the largest x to hold out, not both")


def _split(
    table: pl.DataFrame, rows: Array, train: Array, x: str, y: str, n: str | None, seed: str | None, holdout: int
) -> tuple[Points, Points | None]:
    """Points to fit and points held out of one curve's rows."""
    if holdout:
        every = points_of(table, [x], y, n=n, seed=seed, rows=rows)
        levels = every.levels[:, 0]
        if levels.size < holdout + 2:
            raise AnalysisError(
                f"there are only {levels.size} different x; with the {holdout} largest held out, "
                f"{max(levels.size - holdout, 0)} would be left, and a curve needs 2"
            )
        shown = every.x[:, 0] < levels[-holdout]
        return every.take(shown), every.take(~shown)
    if not train[rows].any():
        raise AnalysisError("all rows of this curve are held out")
    points = points_of(table, [x], y, n=n, seed=seed, rows=rows[train[rows]])
    rest = rows[~train[rows]]
    return points, points_of(table, [x], y, n=n, seed=seed, rows=rest) if rest.size else None


def _hidden_in_turn(made: Forecast) -> pl.DataFrame:
    """The forecast's own tests, one row per origin and hidden x, in the columns of `Curve.tested`."""
    if made.tests.is_empty():
        return _empty_tests()
    names = {made.family: "predicted", LAST: "last", STRAIGHT: "linear"}
    wide = made.tests.filter(pl.col("predictor") == made.family).with_columns(pl.col("predicted").alias("predicted"))
    for predictor in (LAST, STRAIGHT):
        other = made.tests.filter(pl.col("predictor") == predictor).select(
            "shown", "x", pl.col("predicted").alias(names[predictor])
        )
        wide = wide.join(other, on=["shown", "x"], how="left", validate="1:1")
    largest = {shown: float(made.points.levels[shown - 1, 0]) for shown in wide["shown"].unique()}
    reach = pl.col("x") / pl.col("shown").replace_strict(largest, return_dtype=pl.Float64)
    missing = [pl.lit(None, pl.Float64).alias(name) for name in _band_columns()]
    return wide.with_columns(reach.alias("reach"), *missing).select(_empty_tests().columns)


def _band_columns() -> list[str]:
    return [f"y_{side}_{p}" for p in _PERCENTS for side in ("low", "high")]


def _empty_tests() -> pl.DataFrame:
    numbers = ("x", "observed", "predicted", "last", "linear", *_band_columns(), "reach")
    types: dict[str, Any] = (
        {"shown": pl.Int64} | dict.fromkeys(numbers, pl.Float64) | {f"inside_{p}": pl.Boolean for p in _PERCENTS}
    )
    return pl.DataFrame(schema=types)


def _empty_parameters() -> pl.DataFrame:
    words, numbers = ("family", "parameter"), ("estimate", "low", "high")
    types: dict[str, Any] = dict.fromkeys(words, pl.String) | dict.fromkeys(numbers, pl.Float64)
    types |= {"method": pl.String, "identified": pl.Boolean, "preferred": pl.Boolean, "width_ratio": pl.Float64}
    return pl.DataFrame(schema=types)
