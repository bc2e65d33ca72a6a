"""From pairs at single seeds to estimates with intervals: per model, per pair, per method, between methods, over tasks.

Everything of one *section* (a task in one form, one settings digest, one training part) is computed from the same
joint draws (`analysis.intervals`), because pairs share supervisors, ceilings and test examples. PGR is always that of
seed-mean accuracies. A pair of models has a gap, or has none, for all methods alike: the lower bound of its interval
of ceiling minus weak decides, once, from all seeds.

A method may be measured against a supervisor and ceiling other than the grid's own (a probe against probes, an ensemble
against the ensemble); the manifest's `baseline` names these. Gaps are then decided per (weak, strong, baseline): alike
for all methods of one baseline. Such a method is still compared with the reference at equal weak, strong and seeds,
each PGR with the supervisor and ceiling of its own, and a pair counts only where both baselines have a gap.

Of several tasks trained alike there are aggregates over tasks, see `analysis.across_tasks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.across_tasks import TaskSection, task_rows
from analysis.aggregates import Valid, difference_rows, method_rows
from analysis.errors import AnalysisError
from analysis.frames import (
    BOUNDS,
    DIFFERENCES_SCHEMA,
    LADDER_SCHEMA,
    METHODS_SCHEMA,
    ORACLE_MARK,
    OWN,
    PAIRS_SCHEMA,
    REFERENCE_METHOD,
    RISES_SCHEMA,
    SHARE,
    SHARE_DIFFERENCE,
    SLOPES_SCHEMA,
    TASKS_KEY,
    TASKS_SCHEMA,
    Section,
    cut_to_range,
    in_method_order,
    is_oracle,
    methods_in_order,
    select_section,
)
from analysis.gaps import SECTION_KEY
from analysis.grouping import Cell, Pair, SectionDraws, SectionPairs, draw, group
from analysis.intervals import DEFAULT_DRAWS, DEFAULT_LEVEL
from analysis.results import Results
from analysis.rows import (
    agreements,
    gap_of_each,
    ladder_rows,
    least_squares_slope,
    of_one_class,
    pair_rows,
    rise_rows,
    slope_rows,
)

__all__ = [
    "BOUNDS",
    "ORACLE_MARK",
    "OWN",
    "REFERENCE_METHOD",
    "SECTION_KEY",
    "SHARE",
    "SHARE_DIFFERENCE",
    "Cell",
    "Estimates",
    "Options",
    "Pair",
    "Section",
    "SectionDraws",
    "SectionPairs",
    "agreements",
    "compare",
    "estimate",
    "in_method_order",
    "is_oracle",
    "least_squares_slope",
    "methods_in_order",
    "select_section",
]
_FRAMES = ("ladder", "rises", "pairs", "methods", "differences", "agreement_slopes", "tasks")


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
    PGR on each side has its own baseline; `n_pairs` counts pairs at which both have a gap. `n_higher`, `n_lower`: at
    how many of these the method's PGR is higher or lower; pairs are not independent, so this describes, no more."""
    agreement_slopes: pl.DataFrame
    """Inverse scaling (Burns et al. 2023, figure 8): least-squares slope, per factor of ten in the student's compute,
    of agreement where the supervisor is wrong; a row per method and supervisor with at least three larger students. A
    row with `weak` null is the common slope of all supervisors of a method, each with its own intercept."""
    tasks: pl.DataFrame
    """PGR over tasks that were trained alike (`analysis.across_tasks`), empty where there is only one: per method over
    the grid (`weak`, `strong` null) and per pair. `statistic`: `median`, over tasks of a task's PGR, which over the
    grid is its mean over pairs with a gap; and `of_means`, the PGR of accuracies averaged over each task's pairs and
    then over tasks. `n_tasks` counts and `tasks` names those that stand behind it; `n_no_gap` and `n_pairs_no_gap`,
    tasks and pairs in them that are without a gap, which the median leaves out."""
    options: Options
    sections: tuple[tuple[SectionPairs, SectionDraws], ...]
    cut: frozenset[Section]
    """Sections where some interval reached beyond what its quantity can be, and was cut there (`RANGES`)."""
    settings: Mapping[tuple[str, str], str]
    """What tells settings apart, see `Results.settings`."""

    def __repr__(self) -> str:
        rows = ", ".join(f"{name} {getattr(self, name).height}" for name in _FRAMES)
        return f"Estimates(rows: {rows}; {len(self.sections)} sections)"

    def of(self, section: Section, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows of one section."""
        return select_section(frame, section)


def estimate(results: Results, options: Options | None = None) -> Estimates:
    """All estimates of some results; frames without rows where there are no complete pairs.

    Raises:
        AnalysisError: One (weak, strong, method, seed) stands for several different runs, as when two sweeps of one
            storage pretrain different ladders under the same names; or runs share only one test example.
    """
    options = options or Options()
    sections: list[TaskSection] = []
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _FRAMES}
    cut: set[Section] = set()
    one_class = {view for test in results.tests.values() for view in of_one_class(test)}
    for key, frame in results.pairs.group_by(SECTION_KEY, maintain_order=True):
        section = Section(*(str(part) for part in key))
        test = results.tests[section.task]
        sizes = {row["model"]: row for row in results.ladder.filter(pl.col("task") == section.task).to_dicts()}
        grouped = group(section, frame)
        drawn = draw(grouped, test, n_draws=options.draws, random_seed=options.random_seed, level=options.level)
        gaps = gap_of_each(grouped, drawn)
        valid = {models for models, gap in gaps.items() if gap["has_gap"]}
        methods = methods_in_order(pair.method for pair in grouped.pairs)
        made = {
            "ladder": ladder_rows(grouped, drawn, sizes, one_class),
            "rises": rise_rows(grouped, drawn, sizes),
            "pairs": pair_rows(grouped, drawn, sizes, gaps, one_class),
            "methods": method_rows(grouped, drawn, valid),
            "differences": difference_rows(grouped, drawn, valid, sizes, methods[1:], methods[0]),
            "agreement_slopes": slope_rows(grouped, drawn, sizes),
        }
        if any([cut_to_range(row) for of in made.values() for row in of]):  # a list, so that all are cut
            cut.add(section)
        for name, of in made.items():
            rows[name] += of
        sections.append(TaskSection(grouped, drawn, valid, sizes, test))
    rows["tasks"] = task_rows(sections, results.settings, random_seed=options.random_seed)
    return Estimates(
        ladder=pl.DataFrame(rows["ladder"], schema=LADDER_SCHEMA).sort(*SECTION_KEY, "rung"),
        rises=pl.DataFrame(rows["rises"], schema=RISES_SCHEMA),
        pairs=in_method_order(pl.DataFrame(rows["pairs"], schema=PAIRS_SCHEMA), "weak_rung", "strong_rung"),
        methods=in_method_order(pl.DataFrame(rows["methods"], schema=METHODS_SCHEMA), "statistic"),
        differences=in_method_order(pl.DataFrame(rows["differences"], schema=DIFFERENCES_SCHEMA), "size_gap"),
        agreement_slopes=in_method_order(pl.DataFrame(rows["agreement_slopes"], schema=SLOPES_SCHEMA), "weak_rung"),
        tasks=in_method_order(
            pl.DataFrame(rows["tasks"], schema=TASKS_SCHEMA),
            *("weak_rung", "strong_rung", "weak", "strong", "statistic"),
            section=TASKS_KEY,
        ),
        options=options,
        sections=tuple((section.grouped, section.drawn) for section in sections),
        cut=frozenset(cut),
        settings=results.settings,
    )


def compare(estimates: Estimates, method: str, reference: str = REFERENCE_METHOD) -> pl.DataFrame:
    """Paired differences of any two methods, method minus reference, in the columns of `Estimates.differences`.

    In every section that has both; over the grid (`size_gap` null) and by rungs from weak to strong. Both sides are
    computed from the same joint draws, at equal weak, strong and seeds.

    Raises:
        AnalysisError: A method that is not there, no section that has both, or a method compared with itself.
    """
    known = methods_in_order({pair.method for grouped, _ in estimates.sections for pair in grouped.pairs})
    for name in (method, reference):
        if name not in known:
            raise AnalysisError(f"there is no method {name!r}; there are: {', '.join(known) or 'none'}")
    if method == reference:
        raise AnalysisError(f"{method!r} differs from itself by nothing; name two methods of: {', '.join(known)}")
    rows: list[dict[str, Any]] = []
    for grouped, drawn in estimates.sections:
        if {method, reference} <= {pair.method for pair in grouped.pairs}:
            valid, sizes = _known_of(estimates, grouped.section)
            rows += difference_rows(grouped, drawn, valid, sizes, [method], reference)
    if not rows:
        raise AnalysisError(f"no pair was trained with both {method!r} and {reference!r} at the same seeds")
    for row in rows:
        cut_to_range(row)
    return in_method_order(pl.DataFrame(rows, schema=DIFFERENCES_SCHEMA), "size_gap")


def _known_of(estimates: Estimates, section: Section) -> tuple[Valid, dict[str, dict[str, Any]]]:
    """Which pairs of models have a gap, and the models' sizes, as the frames of a section have them."""
    with_gap = estimates.of(section, estimates.pairs).filter(pl.col("has_gap"))
    sizes = {row["model"]: row for row in estimates.of(section, estimates.ladder).to_dicts()}
    return set(with_gap.select("weak", "strong", "baseline").iter_rows()), sizes
