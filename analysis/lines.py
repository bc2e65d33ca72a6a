"""What is measured along the strong models of a section, at its estimate and in the joint draws.

A *line* holds the students of one method under one supervisor, from the first model larger than the supervisor on.
Curves within the measured range (`analysis.trends`) and beyond it (`analysis.extrapolation`) are fitted to lines.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.frames import OWN
from analysis.grouping import Cell, Pair, SectionDraws, SectionPairs
from analysis.intervals import Interval, interval_of_draws
from analysis.rows import agreements

REFITS = 150
"""Joint draws that are refitted for a band."""
KINDS = 3
"""Of draws: examples and seeds varying, examples only, seeds only."""


@dataclass(frozen=True)
class Values:
    """Quantities at their estimate and in the three kinds of draws, shapes (value,) and (draw, value)."""

    estimate: np.ndarray
    both: np.ndarray
    examples: np.ndarray
    seeds: np.ndarray
    n_seeds: int | np.ndarray
    """Seeds behind the values: of each, shape (value,), or of all."""

    @classmethod
    def of(cls, kinds: Iterable[np.ndarray], n_seeds: int | np.ndarray) -> "Values":
        estimate, both, examples, seeds = kinds
        return cls(estimate, both, examples, seeds, n_seeds)

    def interval(self, level: float) -> Interval:
        return interval_of_draws(
            self.estimate, both=self.both, examples=self.examples, seeds=self.seeds, n_seeds=self.n_seeds, level=level
        )

    def kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.estimate, self.both, self.examples, self.seeds

    @property
    def fewest_seeds(self) -> int:
        """Of a curve through all values: those of the value with the fewest."""
        return int(np.min(self.n_seeds))

    def only(self, keep: np.ndarray | slice) -> "Values":
        """Some of the values, by a mask or slice."""
        n_seeds = np.broadcast_to(self.n_seeds, self.estimate.shape)[keep]
        return Values.of((kind[..., keep] for kind in self.kinds()), n_seeds)

    def first_draws(self, n: int) -> "Values":
        """The same values in fewer draws."""
        estimate, *kinds = self.kinds()
        return Values.of((estimate, *(kind[:n] for kind in kinds)), self.n_seeds)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """What there is to refit: the estimate and all different draws, and which of these rows each draw is.

        Returns:
            Shape (row, value), the estimate first; and shape (kind x draw,), the kinds of draws one after the other.
            Where one seed stands behind all values, draws of both are draws of examples, and no draw of seeds differs
            from the estimate. A share that is undefined in some draw only has a denominator of a few examples: the
            estimate stands in.
        """
        estimate, both, examples, seeds = self.kinds()
        draws = np.arange(1, 1 + both.shape[0])
        every, index = [both, examples, seeds], [draws, draws + both.shape[0], draws + 2 * both.shape[0]]
        if np.array_equal(both, examples, equal_nan=True) and np.all((seeds == estimate) | np.isnan(seeds)):
            every, index = [both], [draws, draws, np.zeros_like(draws)]
        filled = [np.where(np.isfinite(kind), kind, estimate) for kind in every]
        return np.concatenate([estimate[None], *filled]), np.concatenate(index)


@dataclass(frozen=True)
class Line:
    """Students of one method under one supervisor, by growing compute."""

    method: str
    weak: str
    pairs: tuple[Pair, ...]
    x: np.ndarray
    """Of the strong models, shape (pair,)."""

    @property
    def own_baseline(self) -> bool:
        """Whether its supervisor or ceilings are not the grid's."""
        return any(pair.baseline != OWN for pair in self.pairs)

    @property
    def supervisor(self) -> Cell | None:
        """The supervisor of all students, None where it depends on the student."""
        cells = {pair.supervisor for pair in self.pairs}
        return cells.pop() if len(cells) == 1 else None


def lines_of(grouped: SectionPairs, x: Mapping[str, float]) -> list[Line]:
    """All lines of a section, by method and supervisor."""
    by_line: dict[tuple[str, str], list[Pair]] = {}
    for pair in grouped.pairs:
        if x[pair.strong] > x[pair.weak]:
            by_line.setdefault((pair.method, pair.weak), []).append(pair)
    lines = []
    for (method, weak), pairs in sorted(by_line.items()):
        pairs.sort(key=lambda pair: x[pair.strong])
        lines.append(Line(method, weak, tuple(pairs), np.array([x[pair.strong] for pair in pairs])))
    return lines


def accuracies_of(drawn: SectionDraws, cells: Iterable[Cell]) -> Values:
    """Accuracy of each cell."""
    return _values(drawn, [("right", cell) for cell in cells], lambda columns: columns)


def agreements_of(drawn: SectionDraws, pairs: Iterable[Pair]) -> tuple[Values, Values, Values]:
    """Agreement of each pair: overall, where the supervisor is right, where it is wrong."""
    pairs = list(pairs)
    keys = [key for pair in pairs for key in pair.agreement_keys]

    def statistic(columns: np.ndarray) -> np.ndarray:
        return agreements(columns.reshape(*columns.shape[:-1], len(pairs), 3))

    split = _values(drawn, keys, statistic)
    n_seeds = np.broadcast_to(split.n_seeds, (len(keys),)).reshape(len(pairs), 3).min(axis=1)
    parts = (Values.of((kind[..., i] for kind in split.kinds()), n_seeds) for i in range(3))
    first, second, third = parts
    return first, second, third


def _values(drawn: SectionDraws, keys: list[tuple], statistic: Callable[[np.ndarray], np.ndarray]) -> Values:
    index = [drawn.column[key] for key in keys]
    draws = drawn.draws.first(REFITS)
    estimate, examples, seeds = draws.estimate[index], draws.examples[:, index], draws.seeds[:, index]
    return Values(
        statistic(estimate),
        statistic(estimate + examples + seeds),
        statistic(estimate + examples),
        statistic(estimate + seeds),
        draws.n_seeds[index],
    )
