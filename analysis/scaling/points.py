"""Tables to points: what a scaling curve is fitted to, checked, with errors that name row and column."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.errors import AnalysisError

Array = np.ndarray
_ROWS_NAMED = 3
_APART = 20.0
_SHARES = ("acc", "pct", "percent", "auc", "auroc", "pgr", "agree", "share", "rate", "win", "f1", "exact")
"""How names of columns of shares begin."""
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
    faults: list[str] = []
    values = _read(frame[rows], column, _Names("", rows), faults)
    if faults:
        raise AnalysisError("; ".join(faults))
    return values


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
    faults: list[str] = []  # all of them, so that a table is mended once
    wanted = [*x, y, *([n] if n else [])]
    columns = {column: _read(frame, column, names, faults) for column in wanted}
    for column in x:
        values = columns[column]
        _fault(faults, values <= 0, frame, column, names, "x is on a logarithmic axis, so it must be above zero")
        _fault_of_units(faults, values, column, names)
    if n:
        hint = f"n is a number of examples behind each share of {y!r}, so at least 1"
        _fault(faults, columns[n] < 1, frame, n, names, hint)
        _fault_of_percent(faults, columns[y], frame, y, names)
    if seed:
        empty = frame[seed].is_null().to_numpy()
        _fault(faults, empty, frame, seed, names, "every point must say which repetition it is of")
    if faults:
        raise AnalysisError(names.where + "; ".join(dict.fromkeys(faults)))
    xs, ys, counts = np.stack([columns[column] for column in x], axis=1), columns[y], columns[n] if n else None
    order = np.lexsort((ys, *xs.T[::-1]))
    seeds = frame[seed].to_numpy() if seed else None
    return Points(
        xs[order], ys[order], None if counts is None else counts[order], None if seeds is None else seeds[order]
    )


def _read(frame: pl.DataFrame, column: str, names: _Names, faults: list[str]) -> Array:
    """A column as numbers, NaN where it has none, which is a fault."""
    values = frame[column]
    if not values.dtype.is_numeric():
        as_numbers = values.cast(pl.String).cast(pl.Float64, strict=False)
        bad = (as_numbers.is_null() & values.is_not_null()).to_numpy()
        hint = "all values must be plain numbers in one unit, such as 7.0e7 and not 70M"
        _fault(faults, bad, frame, column, names, hint)
        values = as_numbers
        unread = (values.is_null() & ~pl.Series(bad)) | values.is_infinite().fill_null(False)
        unread |= values.is_nan().fill_null(False)
    else:
        unread = values.is_null() | ~values.cast(pl.Float64).is_finite().fill_null(True)
    hint = "leave out or fill in empty, NaN and infinite values first"
    _fault(faults, unread.to_numpy(), frame, column, names, hint)
    array = values.cast(pl.Float64).to_numpy()
    return np.where(np.isfinite(array), array, np.nan)


def flat(points: Points) -> bool:
    """Whether all y are equal."""
    return bool(np.ptp(points.y) == 0)


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


def percent_doubt(y: Array, name: str) -> str:
    """A note on values named like shares that look like percent; empty where they do not."""
    words = set(re.split(r"[^a-z]+", name.lower())) | ({"percent"} if "%" in name else set())
    named = any(word.startswith(_SHARES) for word in words)
    if not named or y.min() < 0 or not 1 < y.max() <= 100 or np.any((y > 0) & (y <= 1)):
        return ""
    return (
        f"{name!r} goes from {y.min():g} to {y.max():g}: if it is a percentage, divide it by 100 and name the column "
        "of counts (n), so that it stays below 100 % and has binomial noise"
    )


def _fault_of_units(faults: list[str], xs: Array, column: str, names: _Names) -> None:
    positive = np.where(xs > 0, xs, np.nan)
    if np.all(np.isnan(positive)):
        return
    low, high = int(np.nanargmin(positive)), int(np.nanargmax(positive))
    decades = np.log10(xs[high] / xs[low])
    if decades > _MOST_DECADES:
        faults.append(
            f"column {column!r} goes from {xs[low]:g} in row {names.rows[low] + 1} to {xs[high]:g} in row "
            f"{names.rows[high] + 1}, over {decades:.0f} decades: two units seem to be mixed, such as FLOPs and "
            "petaflops; give all rows in one"
        )


def _fault_of_percent(faults: list[str], ys: Array, frame: pl.DataFrame, y: str, names: _Names) -> None:
    outside = (ys < 0) | (ys > 1)
    if not outside.any():
        return
    hint = "with n given, y is a share and must lie in [0, 1]"
    told = ys[~np.isnan(ys)]
    if np.all(told >= 0) and np.all(told <= 100):
        mixed = " Some are in [0, 1] and some above: two units seem to be mixed." if np.any(told <= 1) else ""
        hint += f"; are these percent? Divide them by 100.{mixed}"
    _fault(faults, outside, frame, y, names, hint)


def _fault(faults: list[str], bad: Array, frame: pl.DataFrame, column: str, names: _Names, hint: str) -> None:
    """Add what is wrong with a column: its first values and their rows, and of many how many there are of each kind."""
    rows = np.flatnonzero(bad)
    if rows.size == 0:
        return
    values = [frame[column][int(row)] for row in rows]
    shown = ", ".join(f"{v!r} in row {names.rows[row] + 1}" for v, row in zip(values, rows[:_ROWS_NAMED], strict=False))
    more = f" and {rows.size - _ROWS_NAMED} more rows" if rows.size > _ROWS_NAMED else ""
    kinds = Counter(map(_kind, values))
    counted = (
        f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})"
        if len(kinds) > 1 or (more and "other" not in kinds)
        else ""
    )
    faults.append(f"column {column!r} has {shown}{more}{counted}: {hint}")


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "not a number"
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "infinite"
    return "zero" if number == 0 else "negative" if number < 0 else "other"
