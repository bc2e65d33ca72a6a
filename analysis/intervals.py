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
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

DEFAULT_DRAWS = 1000
DEFAULT_LEVEL = 0.95
FEW_SEEDS = 5
"""With fewer seeds than this an interval is said to rest on few seeds (decision of the project, see docs)."""
_CHUNK_CELLS = 2**24
"""Largest block of resampling counts held at once, in numbers."""

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

    def first(self, n: int) -> "Draws":
        """The first n draws, for statistics that are slow to compute."""
        return Draws(self.estimate, self.examples[:n], self.seeds[:n], self.n_seeds)


def joint_draws(
    values: np.ndarray, by_seed: np.ndarray, *, n_draws: int = DEFAULT_DRAWS, random_seed: int = 0
) -> Draws:
    """Resample examples and seeds jointly over all columns.

    Args:
        values: Mean over seeds of each example's value, shape (example, column).
        by_seed: Mean over examples at each seed, shape (column, seed); NaN where a column lacks the seed.
        n_draws: Number of joint draws.
        random_seed: Seed of the resampling, so that equal results give equal intervals.
    """
    n_examples, n_columns = values.shape
    n_seeds = np.sum(~np.isnan(by_seed), axis=1)
    counts_rng, seeds_rng = (np.random.default_rng([random_seed, role]) for role in (1, 2))

    estimate = values.mean(axis=0, dtype=np.float64)
    centred = (values - estimate).astype(np.float32)
    examples = np.empty((n_draws, n_columns))
    step = max(1, _CHUNK_CELLS // max(n_examples, 1))
    for start in range(0, n_draws, step):
        block = min(step, n_draws - start)
        drawn = counts_rng.integers(n_examples, size=(block, n_examples)) + np.arange(block)[:, None] * n_examples
        counts = np.bincount(drawn.ravel(), minlength=block * n_examples).reshape(block, n_examples)
        examples[start : start + block] = counts.astype(np.float32) @ centred / n_examples

    deviations = by_seed - np.nanmean(by_seed, axis=1, keepdims=True)
    deviations = np.nan_to_num(deviations) / np.sqrt(np.maximum(n_seeds * (n_seeds - 1), 1))[:, None]
    seeds = seeds_rng.standard_normal((n_draws, by_seed.shape[1])) @ deviations.T
    return Draws(estimate, examples, seeds, n_seeds)


def interval_of_draws(
    estimate: np.ndarray,
    *,
    both: np.ndarray,
    examples: np.ndarray,
    seeds: np.ndarray,
    n_seeds: int,
    level: float = DEFAULT_LEVEL,
) -> Interval:
    """The stretched percentile interval of the module's text.

    Args:
        estimate: The statistic, shape (value,).
        both: Its draws with examples and seeds varying, shape (draw, value); so are the next two.
        examples: With examples varying only.
        seeds: With seeds varying only.
        n_seeds: Seeds that stand behind it.
        level: Nominal coverage.
    """
    tail = (1 - level) / 2
    low, high = _quantiles(both, tail)
    v_examples, v_seeds = _spread(examples) ** 2, _spread(seeds) ** 2
    z = norm.ppf(1 - tail)
    few = t.ppf(1 - tail, n_seeds - 1) / z if n_seeds > 1 else 1.0
    total = v_examples + v_seeds
    stretch = np.where(total > 0, (v_examples + few * v_seeds) / np.where(total > 0, total, 1.0), 1.0)
    return Interval(estimate, estimate + stretch * (low - estimate), estimate + stretch * (high - estimate))


def _spread(draws: np.ndarray) -> np.ndarray:
    """Robust standard deviation: half the width of the central 68 %, so that one wild ratio does not decide."""
    low, high = _quantiles(draws, float(norm.cdf(-1.0)))
    return (high - low) / 2


def _quantiles(draws: np.ndarray, tail: float) -> np.ndarray:
    """Lower and upper quantile over draws; draws in which a value is undefined are passed over."""
    undefined = np.isnan(draws)
    if not undefined.any():  # nanquantile goes through the columns one by one, so it is only used where it must be
        return np.quantile(draws, [tail, 1 - tail], axis=0)
    values = np.full((2, *draws.shape[1:]), np.nan)
    somewhere = ~undefined.all(axis=0)
    values[:, somewhere] = np.nanquantile(draws[:, somewhere], [tail, 1 - tail], axis=0)
    return values
