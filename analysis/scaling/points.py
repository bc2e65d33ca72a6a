"""Tables to points: what a scaling curve is fitted to, checked, with errors that name row and column."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.errors import AnalysisError

Array = np.ndarray
_ROWS_NAMED = 3
_APART = 20.0
_MOST_DECADES = 20
"""That one variable in one unit can be measured over; training compute so far spans about 15."""


@dataclass(frozen=True)
class Points:
    """Observations of one curve or surface, sorted by x.

    x: shape (point, variable), positive; y: shape (point,); n: examples behind each share, shape (point,), or None;
    seed: which repetition each point belongs to, shape (point,), or None.
    """

    x: Array
    y: Array
    n: Array | None = None
    seed: Array | None = None

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1]:
            raise AnalysisError(f"a fit needs one y per x, got shapes {self.y.shape} and {self.x.shape}")

    def __len__(self) -> int:
        return self.y.size

    @property
    def levels(self) -> Array:
        """Different x of a curve, ascending; for a surface, different rows."""
        return np.unique(self.x, axis=0)

    @property
    def n_levels(self) -> int:
        return self.levels.shape[0]

    @property
    def shares(self) -> bool:
        """Whether y are shares of n examples."""
        return self.n is not None

    def take(self, rows: Array) -> "Points":
        """Some of the points, by index or mask."""
        n = None if self.n is None else self.n[rows]
        seed = None if self.seed is None else self.seed[rows]
        return Points(self.x[rows], self.y[rows], n, seed)

    def up_to(self, x: float) -> "Points":
        """Points of a curve with at most this x."""
        return self.take(self.x[:, 0] <= x)

    def means(self) -> "Points":
        """One point per x: the mean over repetitions, weighted by n where there are counts; n is the sum."""
        levels, inverse = np.unique(self.x, axis=0, return_inverse=True)
        inverse = inverse.ravel()
        weight = np.ones_like(self.y) if self.n is None else self.n
        total = np.bincount(inverse, weights=weight)
        y = np.bincount(inverse, weights=weight * self.y) / total
        return Points(levels, y, None if self.n is None else total)


def numbers_of(frame: pl.DataFrame, column: str, rows: Array) -> Array:
    """Some rows of a column as finite numbers, in their order.

    Raises:
        AnalysisError: Some are not; messages count rows as the whole frame does.
    """
    return _numbers(frame[rows], column, _Names("", rows))


@dataclass(frozen=True)
class _Names:
    """How messages name rows."""

    where: str
    rows: Array
    """Index of each row in the user's table."""


def points_of(
    frame: pl.DataFrame,
    x: Sequence[str],
    y: str,
    *,
    n: str | None = None,
    seed: str | None = None,
    where: str = "",
    rows: Array | None = None,
) -> Points:
    """Points of a table.

    Args:
        frame: One row per point.
        x: One or two columns of positive numbers.
        y: Column of values.
        n: Column of counts, where y are shares of so many examples.
        seed: Column that tells repetitions apart.
        where: What the rows are, for messages: a file, a curve.
        rows: Only these rows, by index from 0; messages count rows as the whole frame does, from 1.

    Raises:
        AnalysisError: A column is missing, is not made of numbers, has empty or infinite entries, x is not positive, n
            is below 1, y is not a share though n is given, or there is no row.
    """
    where = f"{where}: " if where else ""
    for column in (*x, y, *([n] if n else []), *([seed] if seed else [])):
        if column not in frame.columns:
            raise AnalysisError(f"{where}there is no column {column!r}; the columns are {', '.join(frame.columns)}")
    if frame.is_empty() or (rows is not None and rows.size == 0):
        raise AnalysisError(f"{where}there are no rows to fit")
    names = _Names(where, np.arange(frame.height) if rows is None else rows)
    frame = frame[names.rows]
    xs = np.stack([_numbers(frame, column, names) for column in x], axis=1)
    ys = _numbers(frame, y, names)
    for index, column in enumerate(x):
        _refuse(xs[:, index] <= 0, frame, column, names, "x is on a logarithmic axis, so it must be above zero")
        decades = np.log10(xs[:, index].max() / xs[:, index].min())
        if decades > _MOST_DECADES:
            low, high = int(np.argmin(xs[:, index])), int(np.argmax(xs[:, index]))
            raise AnalysisError(
                f"{names.where}column {column!r} goes from {xs[low, index]:g} in row {names.rows[low] + 1} to "
                f"{xs[high, index]:g} in row {names.rows[high] + 1}, over {decades:.0f} decades: two units seem to be "
                "mixed, such as FLOPs and petaflops; give all rows in one"
            )
    counts = None
    if n:
        counts = _numbers(frame, n, names)
        _refuse(counts < 1, frame, n, names, f"n is a number of examples behind each share of {y!r}, so at least 1")
        _refuse_percent(ys, frame, y, names)
    order = np.lexsort((ys, *xs.T[::-1]))
    if seed:
        _refuse(frame[seed].is_null().to_numpy(), frame, seed, names, "every point must say which repetition it is of")
    seeds = frame[seed].to_numpy() if seed else None
    return Points(
        xs[order], ys[order], None if counts is None else counts[order], None if seeds is None else seeds[order]
    )


def _numbers(frame: pl.DataFrame, column: str, names: _Names) -> Array:
    values = frame[column]
    if not values.dtype.is_numeric():
        as_numbers = values.cast(pl.String).cast(pl.Float64, strict=False)
        bad = (as_numbers.is_null() & values.is_not_null()).to_numpy()
        _refuse(bad, frame, column, names, "all values must be plain numbers in one unit, such as 7.0e7 and not 70M")
        values = as_numbers
    array = values.cast(pl.Float64).to_numpy()
    _refuse(~np.isfinite(array), frame, column, names, "leave out or fill in empty, NaN and infinite values first")
    return array


def unit_doubt(y: Array) -> str:
    """A note on values that look like shares in some rows and percent in others; empty where they do not.

    Without counts nothing says that y are shares, so this is no error: between those up to 1 and those above, with none
    above 100, lies at least a factor of 20.
    """
    low, high = y[(y > 0) & (y <= 1)], y[y > 1]
    if np.any(y < 0) or not low.size or not high.size or high.max() > 100 or high.min() < _APART * low.max():
        return ""
    return (
        f"y goes up to {low.max():g} in some rows and from {high.min():g} to {high.max():g} in others: "
        "if these are shares and percent, divide the percent by 100"
    )


def _refuse_percent(ys: Array, frame: pl.DataFrame, y: str, names: _Names) -> None:
    outside = (ys < 0) | (ys > 1)
    if not outside.any():
        return
    hint = "with n given, y is a share and must lie in [0, 1]"
    if np.all(ys >= 0) and np.all(ys <= 100):
        mixed = " Some are in [0, 1] and some above: two units seem to be mixed." if not outside.all() else ""
        hint += f"; are these percent? Divide them by 100.{mixed}"
    _refuse(outside, frame, y, names, hint)


def _refuse(bad: Array, frame: pl.DataFrame, column: str, names: _Names, hint: str) -> None:
    rows = np.flatnonzero(bad)
    if rows.size == 0:
        return
    shown = ", ".join(f"{frame[column][int(row)]!r} in row {names.rows[row] + 1}" for row in rows[:_ROWS_NAMED])
    more = f" and {rows.size - _ROWS_NAMED} more rows" if rows.size > _ROWS_NAMED else ""
    raise AnalysisError(f"{names.where}column {column!r} has {shown}{more}: {hint}")
