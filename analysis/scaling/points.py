"""Tables to points: what a scaling curve is fitted to, checked, with errors that name row and column."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.errors import AnalysisError

Array = np.ndarray
_ROWS_NAMED = 3


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


def points_of(
    frame: pl.DataFrame, x: Sequence[str], y: str, *, n: str | None = None, seed: str | None = None, where: str = ""
) -> Points:
    """Points of a table.

    Args:
        frame: One row per point.
        x: One or two columns of positive numbers.
        y: Column of values.
        n: Column of counts, where y are shares of so many examples.
        seed: Column that tells repetitions apart.
        where: What the rows are, for messages: a file, a curve.

    Raises:
        AnalysisError: A column is missing, is not made of numbers, has empty or infinite entries, x is not positive, y
            is not a share though n is given, or there is no row.
    """
    prefix = f"{where}: " if where else ""
    for column in (*x, y, *([n] if n else []), *([seed] if seed else [])):
        if column not in frame.columns:
            raise AnalysisError(f"{prefix}there is no column {column!r}; the columns are {', '.join(frame.columns)}")
    if frame.is_empty():
        raise AnalysisError(f"{prefix}there are no rows to fit")
    xs = np.stack([_numbers(frame, column, prefix) for column in x], axis=1)
    ys = _numbers(frame, y, prefix)
    for index, column in enumerate(x):
        _refuse(xs[:, index] <= 0, frame, column, prefix, "x is on a logarithmic axis, so it must be above zero")
    counts = None
    if n:
        counts = _numbers(frame, n, prefix)
        _refuse(counts <= 0, frame, n, prefix, "n is a number of examples, so it must be above zero")
        _refuse_percent(ys, frame, y, prefix)
    order = np.lexsort((ys, *xs.T[::-1]))
    if seed:
        _refuse(frame[seed].is_null().to_numpy(), frame, seed, prefix, "every point must say which repetition it is of")
    seeds = frame[seed].to_numpy() if seed else None
    return Points(
        xs[order], ys[order], None if counts is None else counts[order], None if seeds is None else seeds[order]
    )


def _numbers(frame: pl.DataFrame, column: str, prefix: str) -> Array:
    values = frame[column]
    if not values.dtype.is_numeric():
        as_numbers = values.cast(pl.String).cast(pl.Float64, strict=False)
        bad = (as_numbers.is_null() & values.is_not_null()).to_numpy()
        _refuse(bad, frame, column, prefix, "all values must be plain numbers in one unit, such as 7.0e7 and not 70M")
        values = as_numbers
    array = values.cast(pl.Float64).to_numpy()
    _refuse(~np.isfinite(array), frame, column, prefix, "leave out or fill in empty, NaN and infinite values first")
    return array


def _refuse_percent(ys: Array, frame: pl.DataFrame, y: str, prefix: str) -> None:
    outside = (ys < 0) | (ys > 1)
    if not outside.any():
        return
    hint = "with n given, y is a share and must lie in [0, 1]"
    if np.all(ys >= 0) and np.all(ys <= 100):
        mixed = " Some are in [0, 1] and some above: two units seem to be mixed." if not outside.all() else ""
        hint += f"; are these percent? Divide them by 100.{mixed}"
    _refuse(outside, frame, y, prefix, hint)


def _refuse(bad: Array, frame: pl.DataFrame, column: str, prefix: str, hint: str) -> None:
    rows = np.flatnonzero(bad)
    if rows.size == 0:
        return
    shown = ", ".join(f"{frame[column][int(row)]!r} in row {row + 1}" for row in rows[:_ROWS_NAMED])
    more = f" and {rows.size - _ROWS_NAMED} more rows" if rows.size > _ROWS_NAMED else ""
    raise AnalysisError(f"{prefix}column {column!r} has {shown}{more}: {hint}")
