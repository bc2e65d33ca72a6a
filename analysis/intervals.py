"""Intervals for anything computed from accuracies: a joint bootstrap of test examples, crossed with seeds.

Every run of a task is tested on the same examples, so examples are crossed with seeds, and pairs share supervisors and
ceilings. One draw therefore resamples the examples once, for all runs and seeds together, and the seeds once, for all
runs together; whatever is computed from the runs is computed from that one draw.

With `X[e, c, s]` the value of example e (correct or not) in column c (a model and how it was trained) at seed s, and
`Y[c, s]` its mean over examples, draw b of the column's mean is

    mean(c)  +  sum_e (k[b, e] / n - 1 / n) mean_s X[e, c, s]        k[b] ~ Multinomial(n, 1/n): the bootstrap
             +  sum_s z[b, s] (Y[c, s] - mean_s Y[c, s]) / sqrt(S (S - 1))       z[b, s] ~ Normal(0, 1)

The second part has exactly the variance s^2 / S of a mean of S seeds; resampling 3 seeds with replacement would give
(S - 1) / S of it, in ten distinct values. The few-seed correction has two halves: that unbiased variance, and Student's
t. A percentile interval of a statistic is stretched about its estimate by q / z, where q is the quantile of Cochran and
Cox (Experimental Designs, 1957, section 4.14) for a sum of a well known and a badly known variance,

    q = (v_e z + v_s t(S - 1)) / (v_e + v_s),

with the statistic's variance v_e in draws in which only examples vary, and v_s in draws in which only seeds vary. With
one seed nothing is known about seeds: the interval covers test examples only.

The noise of a single run is in both parts, so intervals are too wide where seeds hardly matter and near nominal where
they do: with 3 seeds a nominal 95 % covers .99 of gaps and of pairs' PGR when models do not vary by seed at all, and
.956 when they vary by 3 points of accuracy. Satterthwaite's degrees of freedom in place of q cover .92 there, and
seeds resampled with replacement .89. `benchmarks/coverage_pgr.py` measures all this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

from analysis.errors import AnalysisError

DEFAULT_DRAWS = 1000
DEFAULT_LEVEL = 0.95
FEW_SEEDS = 5
"""With fewer seeds than this an interval is said to rest on few seeds (decision of the project, see docs)."""
_CHUNK_CELLS = 2**22
"""Largest block of resampling counts, and of draws of a statistic's columns, held at once, in numbers."""
_COUNTS, _SEEDS = 1, 2
"""Streams of random numbers."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""From column means, shape (..., column), to any number of values, shape (..., value)."""


@dataclass(frozen=True)
class Interval:
    """Estimates with their intervals, each of shape (value,)."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def within(self, smallest: float, largest: float) -> "Interval":
        """Bounds cut at the ends of the range that the quantity can have at all: a stretched interval from two or three
        seeds easily reaches beyond."""
        return Interval(self.estimate, np.clip(self.low, smallest, largest), np.clip(self.high, smallest, largest))


@dataclass(frozen=True)
class Draws:
    """Joint draws of column means. Deviations are kept apart by what varies, see the module's text."""

    estimate: np.ndarray
    """Mean of each column over seeds and examples, shape (column,)."""
    examples: np.ndarray
    """Deviations from resampling examples, shape (draw, column)."""
    seeds: np.ndarray
    """Deviations from resampling seeds, shape (draw, column)."""
    n_seeds: np.ndarray
    """Seeds of each column, shape (column,)."""
    deviations: np.ndarray
    """What `seeds` is made of: each seed's distance from the mean over sqrt(S (S - 1)), shape (column, seed), so that
    `seed_noise @ deviations.T` are the draws."""

    def interval(self, statistic: Statistic, columns: Sequence[int], *, level: float = DEFAULT_LEVEL) -> Interval:
        """Interval of a statistic of some columns, whose means it receives in the order given."""
        index = np.asarray(columns, dtype=int)
        estimate, examples, seeds = self.estimate[index], self.examples[:, index], self.seeds[:, index]
        return interval_of_draws(
            statistic(estimate),
            both=statistic(estimate + examples + seeds),
            examples=statistic(estimate + examples),
            seeds=statistic(estimate + seeds),
            n_seeds=int(self.n_seeds[index].min()),
            level=level,
        )

    def intervals(self, statistic: Statistic, columns: ArrayLike, *, level: float = DEFAULT_LEVEL) -> Interval:
        """The intervals of one statistic of many groups of columns, faster than `interval` of each.

        Args:
            statistic: From column means, shape (..., group, column of the group), to shape (..., group, value).
            columns: Which columns make up each group, shape (group, column of the group).
            level: Nominal coverage.

        Returns:
            Arrays of shape (group, value).
        """
        columns = np.asarray(columns, dtype=int)
        step = max(1, _CHUNK_CELLS // max(1, self.examples.shape[0] * columns.shape[1]))
        parts = []
        for start in range(0, len(columns), step):
            index = columns[start : start + step]
            estimate, examples, seeds = self.estimate[index], self.examples[:, index], self.seeds[:, index]
            part = interval_of_draws(
                statistic(estimate),
                both=statistic(estimate + examples + seeds),
                examples=statistic(estimate + examples),
                seeds=statistic(estimate + seeds),
                n_seeds=self.n_seeds[index].min(axis=1, keepdims=True),
                level=level,
            )
            parts.append((part.estimate, part.low, part.high))
        if not parts:
            return Interval(*(np.empty((0, 0)) for _ in range(3)))
        return Interval(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def part(self, columns: Sequence[int], *, order: np.ndarray, noise: np.ndarray) -> "Draws":
        """Some columns, to be set beside draws of other examples.

        Args:
            columns: Which ones, in which order.
            order: In which order the draws of examples are taken, shape (draw,). In different random orders, draws are
                independent of each other, and still the same draws.
            noise: What seeds are drawn by, shape (draw, seed), see `seed_noise`: equal for what shares its seeds.
        """
        index = np.asarray(columns, dtype=int)
        deviations = self.deviations[index]
        examples = self.examples[order[:, None], index]
        return Draws(self.estimate[index], examples, noise @ deviations.T, self.n_seeds[index], deviations)

    def first(self, n: int) -> "Draws":
        """The first n draws, for statistics that are slow to compute."""
        return replace(self, examples=self.examples[:n], seeds=self.seeds[:n])


def joint_draws(
    values: np.ndarray, by_seed: np.ndarray, *, n_draws: int = DEFAULT_DRAWS, random_seed: int = 0
) -> Draws:
    """Resample examples and seeds jointly over all columns.

    Args:
        values: Mean over seeds of each example's value, shape (example, column).
        by_seed: Mean over examples at each seed, shape (column, seed); NaN where a column lacks the seed.
        n_draws: Number of joint draws.
        random_seed: Seed of the resampling, so that equal results give equal intervals.

    Raises:
        AnalysisError: There are no examples, or a column has a value at no seed.
    """
    n_examples, n_columns = values.shape
    if n_examples == 0:
        raise AnalysisError("intervals need test examples, got none")
    n_seeds = np.sum(~np.isnan(by_seed), axis=1)
    if n_columns and n_seeds.min() == 0:
        raise AnalysisError(f"column {int(n_seeds.argmin())} has a value at no seed")
    counts_rng = np.random.default_rng([random_seed, _COUNTS])

    estimate = values.mean(axis=0, dtype=np.float64)
    centred = np.subtract(values, estimate, dtype=np.float32, casting="same_kind")
    examples = np.empty((n_draws, n_columns))
    step = max(1, _CHUNK_CELLS // n_examples)
    for start in range(0, n_draws, step):
        block = min(step, n_draws - start)
        drawn = counts_rng.integers(n_examples, size=(block, n_examples)) + np.arange(block)[:, None] * n_examples
        counts = np.bincount(drawn.ravel(), minlength=block * n_examples).reshape(block, n_examples)
        examples[start : start + block] = counts.astype(np.float32) @ centred / n_examples

    deviations = by_seed - np.nanmean(by_seed, axis=1, keepdims=True) if n_columns else by_seed
    deviations = np.nan_to_num(deviations) / np.sqrt(np.maximum(n_seeds * (n_seeds - 1), 1))[:, None]
    seeds = seed_noise(n_draws, by_seed.shape[1], random_seed) @ deviations.T
    return Draws(estimate, examples, seeds, n_seeds, deviations)


def side_by_side(parts: Sequence[Draws]) -> Draws:
    """Draws of several parts, which were made jointly, as those of one; `deviations` are left out."""
    estimate, n_seeds = (np.concatenate([getattr(part, name) for part in parts]) for name in ("estimate", "n_seeds"))
    examples, seeds = (
        np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("examples", "seeds")
    )
    return Draws(estimate, examples, seeds, n_seeds, np.empty((estimate.size, 0)))


def seed_noise(n_draws: int, n_seeds: int, random_seed: int = 0) -> np.ndarray:
    """z[b, s] of the module's text, shape (draw, seed)."""
    return np.random.default_rng([random_seed, _SEEDS]).standard_normal((n_draws, n_seeds))


def interval_of_draws(
    estimate: np.ndarray,
    *,
    both: np.ndarray,
    examples: np.ndarray,
    seeds: np.ndarray,
    n_seeds: int | np.ndarray,
    level: float = DEFAULT_LEVEL,
) -> Interval:
    """The stretched percentile interval of the module's text.

    Args:
        estimate: The statistic, shape (value,) or any other.
        both: Its draws with examples and seeds varying, shape (draw, *shape of the estimate); so are the next two.
        examples: With examples varying only.
        seeds: With seeds varying only.
        n_seeds: Seeds that stand behind it; one number, or an array that broadcasts with the estimate.
        level: Nominal coverage.
    """
    tail = (1 - level) / 2
    low, high = _quantiles(both, tail)
    v_examples, v_seeds = _spread(examples) ** 2, _spread(seeds) ** 2
    few = _few_seeds(np.asarray(n_seeds), tail)
    total = v_examples + v_seeds
    stretch = np.where(total > 0, (v_examples + few * v_seeds) / np.where(total > 0, total, 1.0), 1.0)
    return Interval(estimate, estimate + stretch * (low - estimate), estimate + stretch * (high - estimate))


def _few_seeds(n_seeds: np.ndarray, tail: float) -> np.ndarray:
    """Quantile of Student's t over that of the normal distribution; 1 where there is one seed."""
    known, inverse = np.unique(n_seeds, return_inverse=True)  # the quantile of t is slow, and the same for most
    z = ndtri(1 - tail)
    factors = np.array([stdtrit(n - 1, 1 - tail) / z if n > 1 else 1.0 for n in known])
    return factors[inverse].reshape(n_seeds.shape)


_ONE_SIGMA = float(ndtr(-1.0))


def _spread(draws: np.ndarray) -> np.ndarray:
    """Robust standard deviation: half the width of the central 68 %, so that one wild ratio does not decide."""
    low, high = _quantiles(draws, _ONE_SIGMA)
    return (high - low) / 2


def _quantiles(draws: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper quantile over draws, interpolated linearly; draws in which a value is undefined are passed over.

    One sort of each value's draws gives both. Undefined ones (NaN) come last in it.
    """
    values = np.ascontiguousarray(draws.reshape(len(draws), -1).T)
    values = np.sort(values, axis=1)
    defined = np.full(len(values), len(draws))
    undefined = np.isnan(values[:, -1])
    if undefined.any():
        defined[undefined] -= np.isnan(values[undefined]).sum(axis=1)
    rows = np.arange(len(values))

    def at(share: float) -> np.ndarray:
        position = share * np.maximum(defined - 1, 0)
        below = position.astype(int)
        above = np.minimum(below + 1, np.maximum(defined - 1, 0))
        lower, upper = values[rows, below], values[rows, above]
        return (lower + (position - below) * (upper - lower)).reshape(draws.shape[1:])

    return at(tail), at(1 - tail)
