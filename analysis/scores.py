"""What is scored beside accuracy: the metrics that a task asks for, and answers that count though they are others.

Each score is that of one run; a model's is the mean over its seeds. Its draws resample the same examples and seeds as
those of accuracy (`analysis.intervals`): in a draw of examples every run's score is computed anew from the resampled
shares of its outcomes, and their mean over seeds is the draw; seeds vary as of any other column.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from analysis.aggregates import baselines
from analysis.estimates import Estimates, Options
from analysis.frames import BOUNDS, SECTION_KEY, SHARE, Section, bounds, methods_in_order
from analysis.grouping import Cell, Pair, SectionDraws, SectionPairs
from analysis.intervals import Draws, Interval, joint_draws, seed_noise
from analysis.metrics import DECLARED, Confusion
from analysis.results import Asked, Results, SharedTest
from analysis.rows import pgr, triples
from analysis.wording import counted, estimated, over_all

ACCURACY, ACCEPTED = "accuracy", "accepted"
SCORES = ("weak_score", "student_score", "ceiling_score")
TITLES = {ACCURACY: "accuracy", ACCEPTED: "accuracy, any accepted answer"} | {
    name: declared.title for name, declared in DECLARED.items()
}
EXPLAINED = {ACCEPTED: "the share of examples with the answer asked for, or with another one that the task accepts"} | {
    name: declared.explained for name, declared in DECLARED.items()
}
BY_METRIC_SCHEMA: dict[str, Any] = (
    dict.fromkeys((*SECTION_KEY, "method", "baseline", "weak", "strong", "metric"), pl.String)
    | {"higher_is_better": pl.Boolean}
    | {f"{name}{bound}": pl.Float64 for name in (*SCORES, "gap") for bound in BOUNDS}
    | {"has_gap": pl.Boolean}
    | {f"pgr{bound}": pl.Float64 for bound in BOUNDS}
    | {"n_pairs": pl.Int64, "n_seeds": pl.Int64, "n_test": pl.Int64, "n_scored": pl.Int64}
)


def by_metric(results: Results, estimates: Estimates) -> pl.DataFrame:
    """Scores of supervisor, student and ceiling with joint intervals, of tasks that want more than accuracy.

    A row per section, method, pair of models and score (`BY_METRIC_SCHEMA`), accuracy first; and over the grid (`weak`,
    `strong` null) means over all pairs. `gap` is ceiling minus weak, `has_gap` whether the ceiling is better by an
    interval that excludes zero: decided for all methods of one baseline alike, over the grid from the mean gap. `pgr`
    is null without a gap. `n_scored` counts the examples that a score looks at: of `unsafe_rate`, the unsafe ones. Null
    are scores of answers that nobody judged.
    """
    rows: list[dict[str, Any]] = []
    for grouped, drawn in estimates.sections:
        test = results.tests[grouped.section.task]
        asked = results.asked.get(grouped.section.task, Asked((), None))
        names = [*asked.metrics, *([ACCEPTED] if test.accepted else [])]
        if names:
            rows += _section_rows(grouped, drawn, test, asked, [ACCURACY, *names], estimates.options)
    return pl.DataFrame(rows, schema=BY_METRIC_SCHEMA)


def _section_rows(
    grouped: SectionPairs,
    drawn: SectionDraws,
    test: SharedTest,
    asked: Asked,
    names: Sequence[str],
    options: Options,
) -> list[dict[str, Any]]:
    cells = {cell for pair in grouped.pairs for cell in (pair.supervisor, pair.student, pair.ceiling)}
    cells |= {cell for pair in grouped.gaps.values() for cell in pair}
    scores = score_draws(sorted(cells), test, asked, names, drawn.seeds, options)
    rows: list[dict[str, Any]] = []
    for method in methods_in_order(pair.method for pair in grouped.pairs):
        pairs = [pair for pair in grouped.pairs if pair.method == method]
        for name in names:
            better = name not in DECLARED or DECLARED[name].higher_is_better
            head = {"method": method, "baseline": baselines(pairs), "metric": name, "higher_is_better": better}
            head |= grouped.section._asdict() | {"n_test": test.n_examples, "n_scored": _n_scored(name, test, asked)}
            head["n_seeds"] = min(len(pair.student.seeds) for pair in pairs)
            rows.append(head | {"n_pairs": len(pairs)} | _over_grid(scores, name, pairs, better))
            rows += [
                head
                | {"weak": pair.weak, "strong": pair.strong, "n_pairs": 1, "n_seeds": len(pair.student.seeds)}
                | _of_pair(scores, name, pair, grouped.gaps[pair.gap_key], better)
                for pair in pairs
            ]
    return [{column: row.get(column) for column in BY_METRIC_SCHEMA} for row in rows]


def _of_pair(scores: SectionDraws, name: str, pair: Pair, gap: tuple[Cell, Cell], better: bool) -> dict[str, Any]:
    keys = [(name, cell) for cell in (pair.supervisor, pair.student, pair.ceiling)]
    if not all(key in scores.column for key in keys):
        return _some(scores, keys)
    difference = scores.interval(lambda a: a[..., 1:] - a[..., :1], [(name, cell) for cell in gap])
    return _values(scores.interval(lambda a: a, keys)) | _gap_and_pgr(
        difference, lambda: scores.interval(lambda a: pgr(a)[..., None], keys), better
    )


def _over_grid(scores: SectionDraws, name: str, pairs: Sequence[Pair], better: bool) -> dict[str, Any]:
    """Means over pairs, and the PGR of these."""
    keys = [(name, cell) for pair in pairs for cell in (pair.supervisor, pair.student, pair.ceiling)]
    if not all(key in scores.column for key in keys):
        of_roles = [keys[role::3] for role in range(3)]
        row: dict[str, Any] = {}
        for role, own in zip(SCORES, of_roles, strict=True):
            if all(key in scores.column for key in own):
                row |= bounds(role, scores.interval(_mean, own).within(*SHARE))
        return row
    means = scores.interval(lambda a: triples(a).mean(axis=-2), keys)
    difference = scores.interval(lambda a: _mean_gap(triples(a)), keys)
    return _values(means) | _gap_and_pgr(
        difference, lambda: scores.interval(lambda a: pgr(triples(a).mean(axis=-2))[..., None], keys), better
    )


def _some(scores: SectionDraws, keys: Sequence[tuple[str, Cell]]) -> dict[str, Any]:
    """The roles whose answers were judged."""
    row: dict[str, Any] = {}
    for role, key in zip(SCORES, keys, strict=True):
        if key in scores.column:
            row |= bounds(role, scores.interval(lambda a: a, [key]).within(*SHARE))
    return row


def _values(interval: Interval) -> dict[str, Any]:
    cut = interval.within(*SHARE)
    return {column: value for k, role in enumerate(SCORES) for column, value in bounds(role, cut, k).items()}


def _gap_and_pgr(gap: Interval, recovered: Callable[[], Interval], higher_is_better: bool) -> dict[str, Any]:
    has_gap = bool(gap.low[0] > 0 if higher_is_better else gap.high[0] < 0)
    row = bounds("gap", gap.within(-1.0, 1.0)) | {"has_gap": has_gap}
    return row | (bounds("pgr", recovered()) if has_gap else {})


def _mean(columns: np.ndarray) -> np.ndarray:
    return columns.mean(axis=-1, keepdims=True)


def _mean_gap(scores: np.ndarray) -> np.ndarray:
    return _mean(scores[..., 2] - scores[..., 0])


def _n_scored(name: str, test: SharedTest, asked: Asked) -> int:
    if name not in ("unsafe_rate", "false_alarm_rate"):
        return test.n_examples
    return int(((test.gold == asked.unsafe_label) == (name == "unsafe_rate")).sum())


# --- draws -----------------------------------------------------------------------------------------------------------


def score_draws(
    cells: Sequence[Cell], test: SharedTest, asked: Asked, names: Sequence[str], seeds: Sequence[int], options: Options
) -> SectionDraws:
    """Joint draws of scores; keys are (name, cell). Cells with a run that has no such score have no column."""
    views = list(dict.fromkeys(view for cell in cells for view in cell.run_ids))
    per_run = _per_run(views, test, asked, names, options)
    position = {seed: index for index, seed in enumerate(seeds)}
    column: dict[tuple, int] = {}
    estimates, examples, deviations, n_seeds = [], [], [], []
    for name in names:
        for cell in cells:
            if any((name, view) not in per_run for view in cell.run_ids):
                continue
            column[name, cell] = len(column)
            values = np.array([per_run[name, view][0] for view in cell.run_ids])
            estimates.append(values.mean())
            examples.append(np.mean([per_run[name, view][1] for view in cell.run_ids], axis=0) - values.mean())
            deviation = np.zeros(len(seeds))
            at = [position[seed] for seed in cell.seeds]
            deviation[at] = (values - values.mean()) / np.sqrt(max(values.size * (values.size - 1), 1))
            deviations.append(deviation)
            n_seeds.append(values.size)
    noise = seed_noise(options.draws, len(seeds), options.random_seed)
    spread = np.array(deviations).reshape(len(column), len(seeds))
    draws = Draws(
        np.array(estimates),
        np.array(examples).reshape(len(column), options.draws).T,
        noise @ spread.T,
        np.array(n_seeds, dtype=int),
        spread,
    )
    section = Section(test.task, "", "", "")
    return SectionDraws(section, draws, column, test.n_examples, options.level, tuple(seeds))


def _per_run(
    views: Sequence[str], test: SharedTest, asked: Asked, names: Iterable[str], options: Options
) -> dict[tuple[str, str], tuple[float, np.ndarray]]:
    """By (name, view): a run's score, and its draws with examples varying, shape (draw,)."""
    prediction, gold = test.prediction, test.gold
    indices = [test.column[view] for view in views]
    judged = [view for view in views if view in test.accepted]
    right = (prediction[:, indices] == gold[:, None]).astype(np.float32)
    columns = [right, *(test.accepted[view][:, None].astype(np.float32) for view in judged)]
    of_classes = [name for name in names if name in DECLARED]
    if of_classes:
        positive = (gold == 1).astype(np.float32)[:, None]
        columns += [right * positive, positive]
    values = np.concatenate(columns, axis=1)
    means = values.mean(axis=0, dtype=np.float64)
    drawn = joint_draws(values, means[:, None], n_draws=options.draws, random_seed=options.random_seed)
    # The estimate, then the draws, in examples: whole numbers, so that there is no dust where there is nothing.
    n = test.n_examples
    counts = np.rint(n * np.concatenate([drawn.estimate[None], drawn.estimate + drawn.examples]))
    found = {(ACCURACY, view): counts[:, k] / n for k, view in enumerate(views)}
    found |= {(ACCEPTED, view): counts[:, len(views) + k] / n for k, view in enumerate(judged)}
    for k, view in enumerate(views) if of_classes else ():
        hit, all_right, of_1 = counts[:, len(views) + len(judged) + k], counts[:, k], counts[:, -1]
        rejected = all_right - hit
        outcomes = Confusion(*(count / n for count in (hit, n - of_1 - rejected, rejected, of_1 - hit)))
        for name in of_classes:
            found[name, view] = DECLARED[name].of(outcomes, asked.unsafe_label or 0)
    return {key: (float(values[0]), values[1:]) for key, values in found.items()}


# --- sentences -------------------------------------------------------------------------------------------------------


def score_findings(scores: pl.DataFrame) -> list[str]:
    """A sentence per score beside accuracy, from rows of `by_metric` of one section."""
    rows = {(row["method"], row["metric"]): row for row in scores.filter(pl.col("weak").is_null()).to_dicts()}
    methods = list(dict.fromkeys(method for method, _ in rows))
    lines = []
    for name in dict.fromkeys(metric for _, metric in rows if metric != ACCURACY):
        first = rows[methods[0], name]
        exact = rows if name == ACCEPTED else {}
        students = [
            _said(rows[m, name], "student_score", exact.get((m, ACCURACY)))
            + f" ({m}{_other_pairs(rows[m, name], first)})"
            for m in methods[:_SAID]
        ]
        more = f" and {counted(len(methods) - _SAID, 'more method')} in the table" if len(methods) > _SAID else ""
        ends = [_said(first, f"{role}_score", exact.get((methods[0], ACCURACY))) for role in ("weak", "ceiling")]
        lines.append(
            f"{_opening(first)}, {_mean_over(first)}: supervisors {ends[0]}, students {', '.join(students)}{more},"
            f" ceilings {ends[1]}."
        )
    return lines


_SAID = 3
"""Methods in a sentence."""


def _opening(row: dict[str, Any]) -> str:
    name = row["metric"]
    if name == ACCEPTED:
        return "Any accepted answer counted (in parentheses: exact match)"
    title = TITLES[name][0].upper() + TITLES[name][1:]
    of = "" if row["n_scored"] == row["n_test"] else f"; {row['n_scored']:,} of {row['n_test']:,} test examples"
    return f"{title} ({EXPLAINED[name]}{of}; {'higher' if row['higher_is_better'] else 'lower'} is better)"


def _mean_over(row: dict[str, Any]) -> str:
    return "of the only pair" if row["n_pairs"] == 1 else f"mean {over_all(row['n_pairs'], 'pair')}"


def _other_pairs(row: dict[str, Any], first: dict[str, Any]) -> str:
    """Said of a method that has not as many pairs as the first, and so other supervisors and ceilings."""
    return "" if row["n_pairs"] == first["n_pairs"] else f", of {counted(row['n_pairs'], 'pair')}"


def _said(row: dict[str, Any], name: str, exact: dict[str, Any] | None) -> str:
    if row[name] is None:
        return "not judged"
    return estimated(row, name) + (f" ({exact[name]:.3f})" if exact else "")
