"""From pairs at single seeds to estimates with intervals: per model, per pair, per method, between methods.

Everything of one *section* (a task in one form, one settings digest, one training part) is computed from the same
joint draws (`analysis.intervals`), because pairs share supervisors, ceilings and test examples. PGR is always that of
seed-mean accuracies. A pair of models has a gap, or has none, for all methods alike: the lower bound of its interval
of ceiling minus weak decides, once, from all seeds.

A method may be measured against a supervisor and ceiling other than the grid's own (a probe against probes, an ensemble
against the ensemble); the manifest's `baseline` names these. Gaps are then decided per (weak, strong, baseline): alike
for all methods of one baseline. Such a method is still compared with the reference at equal weak, strong and seeds,
each PGR with the supervisor and ceiling of its own, and a pair counts only where both baselines have a gap.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from analysis.errors import AnalysisError
from analysis.gaps import SECTION_KEY
from analysis.intervals import DEFAULT_DRAWS, DEFAULT_LEVEL, Draws, Interval, joint_draws
from analysis.metrics import performance_gap_recovered, pgr_to_first_order
from analysis.results import Results, SharedTest

REFERENCE_METHOD = "naive"
ORACLE_MARK = "[oracle]"
"""Ends the label of a method that looked at ground truth beyond its supervisor's own data."""
OWN = ""
"""The baseline of the grid itself."""
SLOPE_POINTS = 3
"""Students that a slope over compute needs at least."""
BOUNDS = ("", "_low", "_high")
MAJORITY = ("right", "majority class")
"""Column of whoever answers every example with the more frequent class."""
SHARE, SHARE_DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)
RANGES: dict[Any, tuple[float, float]] = (
    dict.fromkeys(("supervisor_acc", "weak_acc", "student_acc", "ceiling_acc"), SHARE)
    | dict.fromkeys(("agreement", "agreement_when_weak_right", "agreement_when_weak_wrong"), SHARE)
    | dict.fromkeys(("gap", "rise", "accuracy_difference"), SHARE_DIFFERENCE)
    | dict.fromkeys(("supervisor_above_majority", "ceiling_above_majority"), SHARE_DIFFERENCE)
)
"""What a quantity can be at all; intervals are cut there. PGR has no such range."""


class Section(NamedTuple):
    """What may be compared with each other."""

    task: str
    form: str
    settings: str
    part: str


def _columns(*names: str) -> dict[str, Any]:
    return {f"{name}{bound}": pl.Float64 for name in names for bound in BOUNDS}


_SECTION_SCHEMA: dict[str, Any] = dict.fromkeys(SECTION_KEY, pl.String)
LADDER_SCHEMA = (
    _SECTION_SCHEMA
    | {"rung": pl.Int64, "model": pl.String, "n_params": pl.Int64, "n_matmul": pl.Int64}
    | {"pretrain_flops": pl.Float64, "x": pl.Float64, "x_axis": pl.String}
    | _columns("supervisor_acc", "ceiling_acc", "supervisor_above_majority", "ceiling_above_majority")
    | {"supervisors_one_class": pl.Int64, "ceilings_one_class": pl.Int64}
    | {"n_seeds": pl.Int64, "n_test": pl.Int64}
)
RISES_SCHEMA = (
    _SECTION_SCHEMA
    | {"smaller": pl.String, "larger": pl.String, "neighbours": pl.Boolean}
    | _columns("rise")
    | {"n_seeds": pl.Int64, "n_test": pl.Int64}
)
PAIRS_SCHEMA = (
    _SECTION_SCHEMA
    | {"method": pl.String, "baseline": pl.String, "stop": pl.String, "oracle": pl.Boolean}
    | {"weak": pl.String, "strong": pl.String, "weak_rung": pl.Int64, "strong_rung": pl.Int64}
    | {"size_gap": pl.Int64, "log10_compute_ratio": pl.Float64, "weak_x": pl.Float64, "strong_x": pl.Float64}
    | _columns("weak_acc", "student_acc", "ceiling_acc", "gap")
    | {"has_gap": pl.Boolean}
    | _columns("pgr", "agreement", "agreement_when_weak_right", "agreement_when_weak_wrong")
    | {"students_one_class": pl.Int64}
    | {"stop_step": pl.Float64, "n_seeds": pl.Int64, "n_test": pl.Int64}
)
METHODS_SCHEMA = (
    _SECTION_SCHEMA
    | {"method": pl.String, "baseline": pl.String, "oracle": pl.Boolean, "statistic": pl.String}
    | _columns("pgr")
    | {"n_pairs": pl.Int64, "n_no_gap": pl.Int64, "n_seeds": pl.Int64, "n_test": pl.Int64}
)
DIFFERENCES_SCHEMA = (
    _SECTION_SCHEMA
    | {"method": pl.String, "reference": pl.String, "size_gap": pl.Int64, "log10_compute_ratio": pl.Float64}
    | _columns("pgr_difference", "accuracy_difference")
    | {"n_pairs": pl.Int64, "n_no_gap": pl.Int64, "n_seeds": pl.Int64, "n_test": pl.Int64}
)
SLOPES_SCHEMA = (
    _SECTION_SCHEMA
    | {"method": pl.String, "weak": pl.String, "weak_rung": pl.Int64, "x_axis": pl.String}
    | _columns("slope")
    | {"n_students": pl.Int64, "n_seeds": pl.Int64, "n_test": pl.Int64}
)


@dataclass(frozen=True)
class Options:
    """How intervals are made."""

    draws: int = DEFAULT_DRAWS
    random_seed: int = 0
    level: float = DEFAULT_LEVEL

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise AnalysisError(f"draws is {self.draws}; a 95 % interval needs at least 100, better 1000")
        if not 0.5 <= self.level < 1:
            raise AnalysisError(f"level is {self.level}; give the coverage as a fraction, for instance 0.95")


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

    def interval(self, statistic: Callable[[np.ndarray], np.ndarray], keys: Sequence[tuple]) -> Interval:
        return self.draws.interval(statistic, [self.column[key] for key in keys], level=self.level)


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


@dataclass(frozen=True)
class Estimates:
    """Frames with `name`, `name_low`, `name_high` for each estimated quantity; accuracies and PGR are fractions."""

    ladder: pl.DataFrame
    """One row per section and model: accuracy as supervisor and as ceiling, both also minus that of the more frequent
    class, and how many of its runs predict one class only."""
    rises: pl.DataFrame
    """Differences of ceilings: between neighbouring rungs, and (`neighbours` false) between the last and the first."""
    pairs: pl.DataFrame
    """One row per section, method, weak and strong; `pgr` is null where there is no gap. `students_one_class`: seeds at
    which the student predicts one class only."""
    methods: pl.DataFrame
    """PGR of each method over the grid. `statistic`: `mean` and `median` over pairs with a gap, and `of_means`, the PGR
    of mean accuracies over all pairs, which selects nothing; its `pgr` is null unless the mean gap is above zero."""
    differences: pl.DataFrame
    """Method minus reference, paired, mean over pairs: overall (`size_gap` null) and by rungs from weak to strong.
    PGR on each side has its own baseline; `n_pairs` counts pairs at which both have a gap."""
    agreement_slopes: pl.DataFrame
    """Inverse scaling (Burns et al. 2023, figure 8): least-squares slope, per factor of ten in the student's compute,
    of agreement where the supervisor is wrong; a row per method and supervisor with at least three larger students."""
    options: Options
    sections: tuple[tuple[SectionPairs, SectionDraws], ...]
    cut: frozenset[Section]
    """Sections where some interval reached beyond what its quantity can be, and was cut there (`RANGES`)."""
    settings: Mapping[tuple[str, str], str]
    """What tells settings apart, see `Results.settings`."""

    def __repr__(self) -> str:
        frames = ("ladder", "rises", "pairs", "methods", "differences", "agreement_slopes")
        rows = ", ".join(f"{name} {getattr(self, name).height}" for name in frames)
        return f"Estimates(rows: {rows}; {len(self.sections)} sections)"

    def of(self, section: Section, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows of one section."""
        return select_section(frame, section)


def select_section(frame: pl.DataFrame, section: Section) -> pl.DataFrame:
    """Rows of a frame that belong to one section."""
    return frame.filter(pl.all_horizontal(pl.col(key) == value for key, value in section._asdict().items()))


def estimate(results: Results, options: Options | None = None) -> Estimates:
    """All estimates of some results.

    Raises:
        AnalysisError: One (weak, strong, method, seed) stands for several different runs, as when two sweeps of one
            storage pretrain different ladders under the same names.
    """
    options = options or Options()
    sections: list[tuple[SectionPairs, SectionDraws]] = []
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("ladder", "rises", "pairs", "methods", "differences", "agreement_slopes")
    }
    cut: set[Section] = set()
    one_class = {view for test in results.tests.values() for view in _of_one_class(test)}
    for key, frame in results.pairs.group_by(SECTION_KEY, maintain_order=True):
        section = Section(*(str(part) for part in key))
        grouped = _group(section, frame)
        drawn = _draw(grouped, results.tests[section.task], options)
        sections.append((grouped, drawn))
        sizes = {row["model"]: row for row in results.ladder.filter(pl.col("task") == section.task).to_dicts()}
        gaps = {models: _gap(drawn, cells) for models, cells in grouped.gaps.items()}
        before = {name: len(of) for name, of in rows.items()}
        rows["ladder"] += _ladder_rows(grouped, drawn, sizes, one_class)
        rows["rises"] += _rise_rows(grouped, drawn, sizes)
        rows["pairs"] += [_pair_row(pair, drawn, sizes, gaps[pair.gap_key], one_class) for pair in grouped.pairs]
        valid = {models for models, gap in gaps.items() if gap["has_gap"]}
        rows["methods"] += _method_rows(grouped, drawn, valid)
        rows["differences"] += _difference_rows(grouped, drawn, valid, sizes)
        rows["agreement_slopes"] += _slope_rows(grouped, drawn, sizes)
        added = [row for name, of in rows.items() for row in of[before[name] :]]
        if any([_cut_to_range(row) for row in added]):  # a list, so that all are cut
            cut.add(section)
    return Estimates(
        ladder=pl.DataFrame(rows["ladder"], schema=LADDER_SCHEMA).sort(*SECTION_KEY, "rung"),
        rises=pl.DataFrame(rows["rises"], schema=RISES_SCHEMA),
        pairs=in_method_order(pl.DataFrame(rows["pairs"], schema=PAIRS_SCHEMA), "weak_rung", "strong_rung"),
        methods=in_method_order(pl.DataFrame(rows["methods"], schema=METHODS_SCHEMA), "statistic"),
        differences=in_method_order(pl.DataFrame(rows["differences"], schema=DIFFERENCES_SCHEMA), "size_gap"),
        agreement_slopes=in_method_order(pl.DataFrame(rows["agreement_slopes"], schema=SLOPES_SCHEMA), "weak_rung"),
        options=options,
        sections=tuple(sections),
        cut=frozenset(cut),
        settings=results.settings,
    )


def methods_in_order(methods: Iterable[str]) -> list[str]:
    """The reference first, then the others by name, diagnostics that looked at ground truth last.

    The reference is plain naive finetuning, or where a grid has only variants of it, `naive(labels=hard)`, the first.
    """

    def rank(method: str) -> tuple:
        is_variant = method.startswith(f"{REFERENCE_METHOD}(")
        return (method != REFERENCE_METHOD, not is_variant, is_oracle(method), method)

    return sorted(set(methods), key=rank)


def in_method_order(frame: pl.DataFrame, *then: str, first: Sequence[str] = ()) -> pl.DataFrame:
    """Rows by section, `first`, method in the order of `methods_in_order` (none before all), and `then`."""
    rank = {method: index for index, method in enumerate(methods_in_order(frame["method"].drop_nulls()))}
    rows = frame.with_columns(_rank=pl.col("method").replace_strict(rank, default=-1, return_dtype=pl.Int64))
    return rows.sort(*SECTION_KEY, *first, "_rank", *then, nulls_last=False).drop("_rank")


def is_oracle(method: str) -> bool:
    """Whether a label is that of a method that looked at ground truth."""
    return method.endswith(ORACLE_MARK)


def agreements(columns: np.ndarray) -> np.ndarray:
    """(overall, when the supervisor is right, when it is wrong), from right, agree, agree_right in the last axis."""
    right, agree, agree_right = columns[..., 0], columns[..., 1], columns[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([agree, agree_right / right, (agree - agree_right) / (1 - right)], axis=-1)


# --- grouping and drawing --------------------------------------------------------------------------------------------


def _group(section: Section, frame: pl.DataFrame) -> SectionPairs:
    _refuse_ambiguous(section, frame)
    frame = frame.sort("weak", "strong", "method", "seed")
    pairs = []
    for (weak, strong, method), rows in frame.group_by("weak", "strong", "method", maintain_order=True):
        cells = (_cell(rows, "supervisor_id"), _cell(rows, "student_view"), _cell(rows, "ceiling_id"))
        first = rows.row(0, named=True)
        pairs.append(
            Pair(
                str(weak),
                str(strong),
                str(method),
                first["baseline"],
                first["stop"],
                bool(rows["oracle"].any()),
                *cells,
                stop_step=float(np.mean(rows["stop_step"].to_numpy())),
            )
        )
    gaps = {
        (str(weak), str(strong), str(baseline)): (_cell(rows, "supervisor_id"), _cell(rows, "ceiling_id"))
        for (weak, strong, baseline), rows in frame.group_by("weak", "strong", "baseline", maintain_order=True)
    }
    by_weak, by_strong = _by_model(frame, "weak", "supervisor_id"), _by_model(frame, "strong", "ceiling_id")
    return SectionPairs(section, tuple(pairs), gaps, by_weak, by_strong)


def _by_model(frame: pl.DataFrame, side: str, role: str) -> dict[str, Cell]:
    """Each model's run in a role, of the grid's own baseline where that has one."""
    found: dict[str, Cell] = {}
    for (model, _), rows in frame.sort(side, "baseline").group_by(side, "baseline", maintain_order=True):
        cell = _cell(rows, role)
        if len(set(cell.seeds)) == len(cell.seeds):  # else it depends on the other model, so it is not this one's
            found.setdefault(str(model), cell)
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


def _cell(rows: pl.DataFrame, role: str) -> Cell:
    unique = rows.select("seed", role).unique().sort("seed", role)
    return Cell(tuple(unique["seed"]), tuple(unique[role]))


def _draw(grouped: SectionPairs, test: SharedTest, options: Options) -> SectionDraws:
    cells = {cell for pair in grouped.pairs for cell in (pair.supervisor, pair.student, pair.ceiling)}
    cells |= {cell for pair in grouped.gaps.values() for cell in pair}
    cells |= {*grouped.supervisors.values(), *grouped.ceilings.values()}
    seeds = sorted({seed for cell in cells for seed in cell.seeds})
    column: dict[tuple, int] = {}
    values: list[np.ndarray] = []
    by_seed: list[np.ndarray] = []

    def add(key: tuple, cell: Cell, per_run: np.ndarray) -> None:
        """`per_run`: value of each example at each seed of the cell, bool, shape (example, seed)."""
        if key in column:
            return
        column[key] = len(values)
        values.append(per_run.mean(axis=1, dtype=np.float32))
        means = np.full(len(seeds), np.nan)
        means[[seeds.index(seed) for seed in cell.seeds]] = per_run.mean(axis=0)
        by_seed.append(means)

    for cell in sorted(cells):
        add(("right", cell), cell, test.correct(cell.run_ids))
    for pair in grouped.pairs:
        agree = test.predictions(pair.supervisor.run_ids) == test.predictions(pair.student.run_ids)
        right = test.correct(pair.supervisor.run_ids)
        add(("agree", pair.supervisor, pair.student), pair.student, agree)
        add(("agree_right", pair.supervisor, pair.student), pair.student, agree & right)
    majority = test.gold == int(2 * test.gold.mean() >= 1)
    column[MAJORITY] = len(values)
    values.append(majority.astype(np.float32))
    by_seed.append(np.full(len(seeds), majority.mean()))
    draws = joint_draws(
        np.stack(values, axis=1), np.stack(by_seed), n_draws=options.draws, random_seed=options.random_seed
    )
    return SectionDraws(grouped.section, draws, column, test.n_examples, options.level)


# --- rows of the frames ----------------------------------------------------------------------------------------------


def _bounds(name: str, interval: Interval, index: int = 0) -> dict[str, float | None]:
    values = (interval.estimate[index], interval.low[index], interval.high[index])
    return {f"{name}{bound}": float(v) if np.isfinite(v) else None for bound, v in zip(BOUNDS, values, strict=True)}


def _cut_to_range(row: dict[str, Any]) -> bool:
    """Cut the bounds in a row at the ends of what their quantities can be; whether any was beyond."""
    beyond = False
    for name, (smallest, largest) in RANGES.items():
        for key in (f"{name}_low", f"{name}_high"):
            value = row.get(key)
            if value is not None and not smallest <= value <= largest:
                row[key] = min(max(value, smallest), largest)
                beyond |= not smallest - _ROUNDING <= value <= largest + _ROUNDING
    return beyond


_ROUNDING = 1e-9


def _of_one_class(test: SharedTest) -> list[str]:
    """Views that predict the same class on every test example."""
    same = (test.prediction == test.prediction[:1]).all(axis=0)
    return [view for view, index in test.column.items() if same[index]]


def _gap(drawn: SectionDraws, cells: tuple[Cell, Cell]) -> dict[str, Any]:
    interval = drawn.interval(_second_minus_first, [("right", cell) for cell in cells])
    return _bounds("gap", interval) | {"has_gap": bool(interval.low[0] > 0)}


def _ladder_rows(
    grouped: SectionPairs, drawn: SectionDraws, sizes: Mapping[str, dict], one_class: set[str]
) -> list[dict[str, Any]]:
    rows = []
    for model in {name for pair in grouped.pairs for name in (pair.weak, pair.strong)}:
        row = {
            key: sizes[model][key] for key in ("rung", "model", "n_params", "n_matmul", "pretrain_flops", "x", "x_axis")
        }
        seeds = 0
        for role, cells in (("supervisor", grouped.supervisors), ("ceiling", grouped.ceilings)):
            if model in cells:
                key = ("right", cells[model])
                row |= _bounds(f"{role}_acc", drawn.interval(lambda a: a, [key]))
                row |= _bounds(f"{role}_above_majority", drawn.interval(_second_minus_first, [MAJORITY, key]))
                row[f"{role}s_one_class"] = sum(run_id in one_class for run_id in cells[model].run_ids)
                seeds = max(seeds, len(cells[model].seeds))
        rows.append(grouped.section._asdict() | row | {"n_seeds": seeds, "n_test": drawn.n_test})
    return [{name: row.get(name) for name in LADDER_SCHEMA} for row in rows]


def _rise_rows(grouped: SectionPairs, drawn: SectionDraws, sizes: Mapping[str, dict]) -> list[dict[str, Any]]:
    models = sorted(grouped.ceilings, key=lambda model: sizes[model]["rung"])
    steps = [(smaller, larger, True) for smaller, larger in pairwise(models)]
    if len(models) > 2:
        steps.append((models[0], models[-1], False))
    rows = []
    for smaller, larger, neighbours in steps:
        cells = [grouped.ceilings[model] for model in (smaller, larger)]
        rise = drawn.interval(_second_minus_first, [("right", cell) for cell in cells])
        row: dict[str, Any] = {"smaller": smaller, "larger": larger, "neighbours": neighbours}
        row |= {"n_seeds": min(len(cell.seeds) for cell in cells), "n_test": drawn.n_test}
        rows.append(grouped.section._asdict() | row | _bounds("rise", rise))
    return rows


def _second_minus_first(columns: np.ndarray) -> np.ndarray:
    return columns[..., 1:] - columns[..., :1]


def _pair_row(
    pair: Pair, drawn: SectionDraws, sizes: Mapping[str, dict], gap: dict[str, Any], one_class: set[str]
) -> dict[str, Any]:
    weak, strong = sizes[pair.weak], sizes[pair.strong]
    row: dict[str, Any] = drawn.section._asdict() | {
        "method": pair.method,
        "baseline": pair.baseline,
        "stop": pair.stop,
        "oracle": pair.oracle,
        "stop_step": pair.stop_step,
        "students_one_class": sum(view in one_class for view in pair.student.run_ids),
        "weak": pair.weak,
        "strong": pair.strong,
        "weak_rung": weak["rung"],
        "strong_rung": strong["rung"],
        "size_gap": strong["rung"] - weak["rung"],
        "log10_compute_ratio": _log_ratio(weak, strong),
        "weak_x": weak["x"],
        "strong_x": strong["x"],
        "n_seeds": len(pair.student.seeds),
        "n_test": drawn.n_test,
    }
    accuracies = drawn.interval(lambda a: a, pair.accuracy_keys)
    for index, name in enumerate(("weak_acc", "student_acc", "ceiling_acc")):
        row |= _bounds(name, accuracies, index)
    if gap["has_gap"]:
        row |= _bounds("pgr", drawn.interval(lambda a: _pgr(a)[..., None], pair.accuracy_keys))
    agreement = drawn.interval(agreements, pair.agreement_keys)
    for index, name in enumerate(("agreement", "agreement_when_weak_right", "agreement_when_weak_wrong")):
        row |= _bounds(name, agreement, index)
    row |= gap
    return {name: row.get(name) for name in PAIRS_SCHEMA}


def _log_ratio(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> float | None:
    return float(np.log10(strong["x"] / weak["x"])) if weak["x_axis"] == "compute" else None


def _pgr(accuracies: np.ndarray) -> np.ndarray:
    """PGR from weak, student, ceiling in the last axis."""
    return performance_gap_recovered(accuracies[..., 0], accuracies[..., 1], accuracies[..., 2])


def _triples(columns: np.ndarray) -> np.ndarray:
    """(..., 3 pairs) -> (..., pairs, 3): weak, student, ceiling of each pair."""
    return columns.reshape(*columns.shape[:-1], -1, 3)


def _first_order_pgr(drawn: SectionDraws, keys: Sequence[tuple]) -> Callable[[np.ndarray], np.ndarray]:
    """PGR of each pair, expanded around the estimates, as a function of the columns named by `keys`."""
    at = _triples(drawn.draws.estimate[[drawn.column[key] for key in keys]])

    def statistic(columns: np.ndarray) -> np.ndarray:
        a = _triples(columns)
        return pgr_to_first_order(a[..., 0], a[..., 1], a[..., 2], at=(at[..., 0], at[..., 1], at[..., 2]))

    return statistic


def _method_rows(grouped: SectionPairs, drawn: SectionDraws, valid: set[tuple[str, str, str]]) -> list[dict[str, Any]]:
    rows = []
    for method in methods_in_order(pair.method for pair in grouped.pairs):
        pairs = [pair for pair in grouped.pairs if pair.method == method]
        chosen = [pair for pair in pairs if pair.gap_key in valid]
        counts = {"n_no_gap": len(pairs) - len(chosen), "n_test": drawn.n_test}
        counts["n_seeds"] = min(len(pair.student.seeds) for pair in pairs)
        head = grouped.section._asdict() | {"method": method, "baseline": _baselines(pairs)}
        head["oracle"] = any(pair.oracle for pair in pairs)
        every = [key for pair in pairs for key in pair.accuracy_keys]
        of_means = drawn.interval(lambda a: _pgr(_triples(a).mean(axis=-2))[..., None], every)
        of_means_row = head | counts | {"statistic": "of_means", "n_pairs": len(pairs)}
        mean_gap = drawn.interval(lambda a: _mean_gap(_triples(a)), every)
        rows.append(of_means_row | (_bounds("pgr", of_means) if mean_gap.low[0] > 0 else dict.fromkeys(_PGR)))
        if not chosen:
            continue
        keys = [key for pair in chosen for key in pair.accuracy_keys]
        expanded = _first_order_pgr(drawn, keys)
        mean = drawn.interval(lambda a, f=expanded: f(a).mean(axis=-1, keepdims=True), keys)
        median = drawn.interval(lambda a: np.median(_pgr(_triples(a)), axis=-1, keepdims=True), keys)
        for statistic, interval in (("mean", mean), ("median", median)):
            rows.append(head | counts | {"statistic": statistic, "n_pairs": len(chosen)} | _bounds("pgr", interval))
    return rows


_PGR = [f"pgr{bound}" for bound in BOUNDS]


def _mean_gap(accuracies: np.ndarray) -> np.ndarray:
    """Mean of ceiling minus weak over pairs, from shape (..., pair, 3) to (..., 1)."""
    return (accuracies[..., 2] - accuracies[..., 0]).mean(axis=-1, keepdims=True)


def _baselines(pairs: Iterable[Pair]) -> str:
    """What a method is measured against; one in practice."""
    return ", ".join(sorted({pair.baseline for pair in pairs} - {OWN}))


def _difference_rows(
    grouped: SectionPairs, drawn: SectionDraws, valid: set[tuple[str, str, str]], sizes: Mapping[str, dict]
) -> list[dict[str, Any]]:
    methods = methods_in_order(pair.method for pair in grouped.pairs)
    if len(methods) < 2:
        return []
    reference = methods[0]
    of = {method: {(p.weak, p.strong): p for p in grouped.pairs if p.method == method} for method in methods}
    rows = []
    for method in methods[1:]:
        # Paired means the same seeds on both sides; a pair that one method lacks at some seed is left out.
        common = [
            m for m, p in of[method].items() if m in of[reference] and of[reference][m].student.seeds == p.student.seeds
        ]
        gap_of = {models: sizes[models[1]]["rung"] - sizes[models[0]]["rung"] for models in common}
        for size_gap in (None, *sorted(set(gap_of.values()))):
            group = [models for models in common if size_gap in (None, gap_of[models])]
            chosen = [models for models in group if all(of[m][models].gap_key in valid for m in (method, reference))]
            ratios = [_log_ratio(sizes[weak], sizes[strong]) for weak, strong in group]
            row: dict[str, Any] = grouped.section._asdict() | {
                "method": method,
                "reference": reference,
                "size_gap": size_gap,
                "log10_compute_ratio": float(np.mean([r for r in ratios if r is not None]))
                if None not in ratios
                else None,
                "n_pairs": len(chosen),
                "n_no_gap": len(group) - len(chosen),
                "n_test": drawn.n_test,
            }
            if not group:
                continue
            row["n_seeds"] = min(len(of[method][models].student.seeds) for models in group)
            students = [("right", of[m][models].student) for m in (method, reference) for models in group]
            row |= _bounds("accuracy_difference", drawn.interval(_halves_difference, students))
            if chosen:
                keys = [key for m in (method, reference) for models in chosen for key in of[m][models].accuracy_keys]
                expanded = _first_order_pgr(drawn, keys)
                row |= _bounds("pgr_difference", drawn.interval(lambda a, f=expanded: _halves_difference(f(a)), keys))
            rows.append({name: row.get(name) for name in DIFFERENCES_SCHEMA})
    return rows


def _halves_difference(values: np.ndarray) -> np.ndarray:
    """Mean of the first half of the last axis minus mean of the second half."""
    half = values.shape[-1] // 2
    return values[..., :half].mean(axis=-1, keepdims=True) - values[..., half:].mean(axis=-1, keepdims=True)


def _slope_rows(grouped: SectionPairs, drawn: SectionDraws, sizes: Mapping[str, dict]) -> list[dict[str, Any]]:
    lines: dict[tuple[str, str], list[Pair]] = {}
    for pair in grouped.pairs:
        if sizes[pair.strong]["x"] > sizes[pair.weak]["x"]:
            lines.setdefault((pair.method, pair.weak), []).append(pair)
    rows = []
    for (method, weak), pairs in lines.items():
        log_x = np.log10([sizes[pair.strong]["x"] for pair in pairs])
        if len(set(log_x)) < SLOPE_POINTS:
            continue
        keys = [key for pair in pairs for key in pair.agreement_keys]
        row = grouped.section._asdict() | {
            "method": method,
            "weak": weak,
            "weak_rung": sizes[weak]["rung"],
            "x_axis": sizes[weak]["x_axis"],
            "n_students": len(pairs),
            "n_seeds": min(len(pair.student.seeds) for pair in pairs),
            "n_test": drawn.n_test,
        }
        slope = drawn.interval(lambda a, x=log_x: least_squares_slope(x, agreements(_triples(a))[..., 2]), keys)
        rows.append(row | _bounds("slope", slope))
    return rows


def least_squares_slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope of y over x. x: shape (point,); y: shape (..., point); the result's: (..., 1)."""
    centred = x - x.mean()
    return (y @ centred)[..., None] / (centred @ centred)
