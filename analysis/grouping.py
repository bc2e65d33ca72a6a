"""Pairs at single seeds, grouped over seeds, and the joint draws of everything that is measured on them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from analysis.errors import AnalysisError
from analysis.frames import OWN, Section
from analysis.gaps import MIN_EXAMPLES
from analysis.intervals import Draws, Interval, joint_draws
from analysis.results import SharedTest

MAJORITY = ("right", "majority class")
"""Column of whoever answers every example with the more frequent class."""


class Cell(NamedTuple):
    """A model as trained in one role: its runs, one per seed."""

    seeds: tuple[int, ...]
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class SectionDraws:
    """The joint draws of one section and where to find each column in them.

    Keys are ("right", cell), ("agree", supervisor cell, student cell) and ("agree_right", supervisor cell, student
    cell), the last being the share of examples where both agree and are right.
    """

    section: Section
    draws: Draws
    column: Mapping[tuple, int]
    n_test: int
    level: float
    seeds: tuple[int, ...]
    """What the draws' seeds are, in their order."""

    def interval(self, statistic: Callable[[np.ndarray], np.ndarray], keys: Sequence[tuple]) -> Interval:
        return self.draws.interval(statistic, [self.column[key] for key in keys], level=self.level)

    def intervals(self, statistic: Callable[[np.ndarray], np.ndarray], groups: Iterable[Sequence[tuple]]) -> Interval:
        """One statistic of many groups of equally many columns, see `Draws.intervals`."""
        columns = np.array([[self.column[key] for key in keys] for keys in groups], dtype=int)
        columns = columns if columns.size else columns.reshape(0, 0)
        return self.draws.intervals(statistic, columns, level=self.level)


class Pair(NamedTuple):
    """One weak/strong/method combination of a section with its runs over seeds."""

    weak: str
    strong: str
    method: str
    baseline: str
    stop: str
    oracle: bool
    supervisor: Cell
    student: Cell
    """Of views, which are run ids unless the student is stopped early."""
    ceiling: Cell
    stop_step: float
    """The step of the student that counts, mean over seeds."""

    @property
    def models(self) -> tuple[str, str]:
        return self.weak, self.strong

    @property
    def gap_key(self) -> tuple[str, str, str]:
        """What shares a supervisor and a ceiling, and so a gap."""
        return self.weak, self.strong, self.baseline

    @property
    def accuracy_keys(self) -> list[tuple]:
        """Columns of weak, student and ceiling accuracy."""
        return [("right", self.supervisor), ("right", self.student), ("right", self.ceiling)]

    @property
    def agreement_keys(self) -> list[tuple]:
        """Columns from which `agreements` computes the three agreements."""
        both = (self.supervisor, self.student)
        return [("right", self.supervisor), ("agree", *both), ("agree_right", *both)]


@dataclass(frozen=True)
class SectionPairs:
    """The complete pairs of a section, grouped over seeds, and the models they are made of."""

    section: Section
    pairs: tuple[Pair, ...]
    gaps: Mapping[tuple[str, str, str], tuple[Cell, Cell]]
    """(weak, strong, baseline) -> supervisor and ceiling over all seeds of all methods; they decide the gap."""
    supervisors: Mapping[str, Cell]
    """The grid's own by model; where a model only occurs in another baseline that gives it one supervisor, that one."""
    ceilings: Mapping[str, Cell]


def group(section: Section, frame: pl.DataFrame) -> SectionPairs:
    """The pairs of one section over seeds, from its rows of `Results.pairs`.

    Raises:
        AnalysisError: One (weak, strong, method, seed) stands for several different runs.
    """
    _refuse_ambiguous(section, frame)
    roles = ("supervisor_id", "student_view", "ceiling_id")
    pairs = []
    for row in _by(frame, ("weak", "strong", "method"), (*roles, "baseline", "stop", "oracle", "stop_step")):
        cells = (_cell(row, role) for role in roles)
        head = (row["weak"], row["strong"], row["method"], row["baseline"][0], row["stop"][0], any(row["oracle"]))
        pairs.append(Pair(*head, *cells, stop_step=float(np.mean(row["stop_step"]))))
    gaps = {
        (row["weak"], row["strong"], row["baseline"]): (_cell(row, "supervisor_id"), _cell(row, "ceiling_id"))
        for row in _by(frame, ("weak", "strong", "baseline"), ("supervisor_id", "ceiling_id"))
    }
    by_weak, by_strong = _by_model(frame, "weak", "supervisor_id"), _by_model(frame, "strong", "ceiling_id")
    return SectionPairs(section, tuple(pairs), gaps, by_weak, by_strong)


def draw(grouped: SectionPairs, test: SharedTest, *, n_draws: int, random_seed: int, level: float) -> SectionDraws:
    """The joint draws of accuracies and agreements of a section.

    Raises:
        AnalysisError: The runs share too few test examples to resample.
    """
    if test.n_examples < MIN_EXAMPLES:
        raise AnalysisError(
            f"the runs of task {test.task} share {test.n_examples} test example; intervals come from resampling test"
            f" examples, so at least {MIN_EXAMPLES} are needed, better some hundreds: give the task a larger test part"
        )
    cells = {cell for pair in grouped.pairs for cell in (pair.supervisor, pair.student, pair.ceiling)}
    cells |= {cell for pair in grouped.gaps.values() for cell in pair}
    cells |= {*grouped.supervisors.values(), *grouped.ceilings.values()}
    compared = list({(pair.supervisor, pair.student): None for pair in grouped.pairs})
    seeds = sorted({seed for cell in cells for seed in cell.seeds})
    position = {seed: index for index, seed in enumerate(seeds)}

    # A run per row, so that each is read in one piece.
    prediction, gold = np.ascontiguousarray(test.prediction.T), test.gold
    n_columns = len(cells) + 2 * len(compared) + 1
    values = np.empty((n_columns, test.n_examples), dtype=np.float32)
    by_seed = np.full((n_columns, len(seeds)), np.nan)
    column: dict[tuple, int] = {}

    def add(key: tuple, at: Sequence[int], per_run: np.ndarray) -> None:
        """`per_run`: value of each example at each of the seeds at these positions, bool, shape (seed, example)."""
        index = column[key] = len(column)
        np.divide(per_run.sum(axis=0, dtype=np.int32), np.float32(len(per_run)), out=values[index], casting="same_kind")
        by_seed[index, at] = np.count_nonzero(per_run, axis=1) / test.n_examples

    def views(cell: Cell) -> list[int]:
        return [test.column[view] for view in cell.run_ids]

    def positions(cell: Cell) -> list[int]:
        return [position[seed] for seed in cell.seeds]

    for cell in sorted(cells):
        add(("right", cell), positions(cell), prediction[views(cell)] == gold)
    for supervisor, student in compared:
        weak = prediction[views(supervisor)]
        agree = weak == prediction[views(student)]
        add(("agree", supervisor, student), positions(student), agree)
        add(("agree_right", supervisor, student), positions(student), agree & (weak == gold))
    majority = gold == most_frequent(gold)
    add(MAJORITY, range(len(seeds)), np.broadcast_to(majority, (len(seeds), majority.size)))
    draws = joint_draws(values.T, by_seed, n_draws=n_draws, random_seed=random_seed)
    return SectionDraws(grouped.section, draws, column, test.n_examples, level, tuple(seeds))


def most_frequent(gold: np.ndarray) -> int:
    """The more frequent class, 1 if both are as frequent; of answers in words, the most frequent of them."""
    values, counts = np.unique(gold, return_counts=True)
    return int(values[::-1][np.argmax(counts[::-1])])


def _by(frame: pl.DataFrame, keys: Sequence[str], values: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row per key, in their order, with lists of the seeds and of some columns."""
    lists = frame.sort(*keys, "seed").group_by(*keys, maintain_order=True).agg("seed", *values)
    return lists.iter_rows(named=True)


def _cell(row: Mapping[str, Any], role: str) -> Cell:
    """The runs in a role, by seed."""
    unique = sorted(set(zip(row["seed"], row[role], strict=True)))
    return Cell(tuple(seed for seed, _ in unique), tuple(run_id for _, run_id in unique))


def _by_model(frame: pl.DataFrame, side: str, role: str) -> dict[str, Cell]:
    """Each model's run in a role, of the grid's own baseline where that has one."""
    found: dict[str, Cell] = {}
    for row in _by(frame, (side, "baseline"), (role,)):
        cell = _cell(row, role)
        if len(set(cell.seeds)) == len(cell.seeds):  # else it depends on the other model, so it is not this one's
            found.setdefault(row[side], cell)
    return found


def _refuse_ambiguous(section: Section, frame: pl.DataFrame) -> None:
    own, others = frame.filter(pl.col("baseline") == OWN), frame.filter(pl.col("baseline") != OWN)
    pair = ("weak", "strong", "baseline")
    uses = (
        (frame, ("weak", "strong", "method"), "student_view"),
        (frame, ("weak", "strong", "method"), "baseline"),
        (own, ("weak",), "supervisor_id"),
        (own, ("strong",), "ceiling_id"),
        (others, pair, "supervisor_id"),
        (others, pair, "ceiling_id"),
    )
    for rows, models, role in uses:
        several = (
            rows.group_by(*models, "seed").agg(pl.col(role).n_unique()).filter(pl.col(role) > 1).sort(*models, "seed")
        )
        if not several.is_empty():
            first = several.row(0, named=True)
            where = ", ".join(f"{key} {first[key]}" for key in (*models, "seed"))
            what = role.replace("student_view", "student_id")
            raise AnalysisError(
                f"task {section.task}: {where} stands for {first[role]} different runs ({what}), so"
                " seeds cannot be averaged; the storage holds sweeps that trained it differently: name one sweep"
            )
