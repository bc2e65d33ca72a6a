"""Rows of one section about single models and pairs: ladder, rises, pairs, and slopes of agreement with mistakes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from analysis.frames import LADDER_SCHEMA, PAIRS_SCHEMA, SLOPES_SCHEMA, bounds, log_ratio
from analysis.grouping import MAJORITY, Pair, SectionDraws, SectionPairs
from analysis.metrics import performance_gap_recovered
from analysis.results import SharedTest

SLOPE_POINTS = 3
"""Students that a slope over compute needs at least."""
AGREEMENTS = ("agreement", "agreement_when_weak_right", "agreement_when_weak_wrong")

Sizes = Mapping[str, Mapping[str, Any]]
"""A task's rows of `Results.ladder` by model."""
Gaps = Mapping[tuple[str, str, str], Mapping[str, Any]]
"""`gap` with its bounds and `has_gap`, by (weak, strong, baseline)."""


def agreements(columns: np.ndarray) -> np.ndarray:
    """(overall, when the supervisor is right, when it is wrong), from right, agree, agree_right in the last axis."""
    right, agree, agree_right = columns[..., 0], columns[..., 1], columns[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([agree, agree_right / right, (agree - agree_right) / (1 - right)], axis=-1)


def pgr(accuracies: np.ndarray) -> np.ndarray:
    """PGR from weak, student, ceiling in the last axis."""
    return performance_gap_recovered(accuracies[..., 0], accuracies[..., 1], accuracies[..., 2])


def triples(columns: np.ndarray) -> np.ndarray:
    """(..., 3 pairs) -> (..., pairs, 3): weak, student, ceiling of each pair."""
    return columns.reshape(*columns.shape[:-1], -1, 3)


def of_one_class(test: SharedTest) -> list[str]:
    """Views that predict the same class on every test example."""
    same = (test.prediction == test.prediction[:1]).all(axis=0)
    return [view for view, index in test.column.items() if same[index]]


def gap_of_each(grouped: SectionPairs, drawn: SectionDraws) -> Gaps:
    """The gap of each pair of models, and whether it can be told from zero: its lower bound decides."""
    cells = grouped.gaps.values()
    interval = drawn.intervals(_second_minus_first, [[("right", weak), ("right", ceiling)] for weak, ceiling in cells])
    return {
        models: bounds("gap", interval, (index, 0)) | {"has_gap": bool(interval.low[index, 0] > 0)}
        for index, models in enumerate(grouped.gaps)
    }


def ladder_rows(grouped: SectionPairs, drawn: SectionDraws, sizes: Sizes, one_class: set[str]) -> list[dict[str, Any]]:
    rows = []
    for model in {name for pair in grouped.pairs for name in pair.models}:
        row: dict[str, Any] = {
            key: sizes[model][key] for key in ("rung", "model", "n_params", "n_matmul", "pretrain_flops", "x", "x_axis")
        }
        seeds = 0
        for role, cells in (("supervisor", grouped.supervisors), ("ceiling", grouped.ceilings)):
            if model in cells:
                key = ("right", cells[model])
                row |= bounds(f"{role}_acc", drawn.interval(lambda a: a, [key]))
                row |= bounds(f"{role}_above_majority", drawn.interval(_second_minus_first, [MAJORITY, key]))
                row[f"{role}s_one_class"] = sum(run_id in one_class for run_id in cells[model].run_ids)
                seeds = max(seeds, len(cells[model].seeds))
        rows.append(grouped.section._asdict() | row | {"n_seeds": seeds, "n_test": drawn.n_test})
    return [{name: row.get(name) for name in LADDER_SCHEMA} for row in rows]


def rise_rows(grouped: SectionPairs, drawn: SectionDraws, sizes: Sizes) -> list[dict[str, Any]]:
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
        rows.append(grouped.section._asdict() | row | bounds("rise", rise))
    return rows


def _second_minus_first(columns: np.ndarray) -> np.ndarray:
    return columns[..., 1:] - columns[..., :1]


def pair_rows(
    grouped: SectionPairs, drawn: SectionDraws, sizes: Sizes, gaps: Gaps, one_class: set[str]
) -> list[dict[str, Any]]:
    pairs = grouped.pairs
    accuracy = drawn.intervals(lambda a: a, [pair.accuracy_keys for pair in pairs])
    agreement = drawn.intervals(agreements, [pair.agreement_keys for pair in pairs])
    with_gap = [index for index, pair in enumerate(pairs) if gaps[pair.gap_key]["has_gap"]]
    recovered = drawn.intervals(lambda a: pgr(a)[..., None], [pairs[index].accuracy_keys for index in with_gap])
    at = {index: place for place, index in enumerate(with_gap)}
    rows = []
    for index, pair in enumerate(pairs):
        row = _pair_head(pair, drawn, sizes, one_class) | dict(gaps[pair.gap_key])
        for value, name in enumerate(("weak_acc", "student_acc", "ceiling_acc")):
            row |= bounds(name, accuracy, (index, value))
        for value, name in enumerate(AGREEMENTS):
            row |= bounds(name, agreement, (index, value))
        if index in at:
            row |= bounds("pgr", recovered, (at[index], 0))
        rows.append({name: row.get(name) for name in PAIRS_SCHEMA})
    return rows


def _pair_head(pair: Pair, drawn: SectionDraws, sizes: Sizes, one_class: set[str]) -> dict[str, Any]:
    weak, strong = sizes[pair.weak], sizes[pair.strong]
    return drawn.section._asdict() | {
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
        "log10_compute_ratio": log_ratio(weak, strong),
        "weak_x": weak["x"],
        "strong_x": strong["x"],
        "n_seeds": len(pair.student.seeds),
        "n_test": drawn.n_test,
    }


def slope_rows(grouped: SectionPairs, drawn: SectionDraws, sizes: Sizes) -> list[dict[str, Any]]:
    """Slopes of agreement with mistakes: of each method and supervisor, and of each method pooled over supervisors."""
    lines: dict[str, dict[str, list[Pair]]] = {}
    for pair in grouped.pairs:
        if sizes[pair.strong]["x"] > sizes[pair.weak]["x"]:
            lines.setdefault(pair.method, {}).setdefault(pair.weak, []).append(pair)
    rows = []
    for method, by_weak in lines.items():
        for weak, pairs in by_weak.items():
            if len({sizes[pair.strong]["x"] for pair in pairs}) >= SLOPE_POINTS:
                rows.append(_slope_row(drawn, sizes, method, {weak: pairs}) | {"weak": weak})
                rows[-1]["weak_rung"] = sizes[weak]["rung"]
        # A supervisor that is never wrong has no mistakes to agree with, and one student makes no line.
        several = {weak: pairs for weak, pairs in by_weak.items() if _bends(drawn, sizes, pairs)}
        if len(several) > 1 and sum(map(len, several.values())) >= SLOPE_POINTS:
            rows.append(_slope_row(drawn, sizes, method, several))
    return [{name: row.get(name) for name in SLOPES_SCHEMA} for row in rows]


def _bends(drawn: SectionDraws, sizes: Sizes, pairs: Sequence[Pair]) -> bool:
    """Whether a supervisor's students tell anything of a slope."""
    right = drawn.draws.estimate[[drawn.column["right", pair.supervisor] for pair in pairs]]
    return len({sizes[pair.strong]["x"] for pair in pairs}) > 1 and bool((right < 1).all())


def _slope_row(drawn: SectionDraws, sizes: Sizes, method: str, lines: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
    pairs = [pair for of_weak in lines.values() for pair in of_weak]
    line = np.repeat(np.arange(len(lines)), [len(of_weak) for of_weak in lines.values()])
    log_x = np.log10([sizes[pair.strong]["x"] for pair in pairs])
    slope = drawn.interval(
        lambda a: least_squares_slope(log_x, agreements(triples(a))[..., 2], line),
        [key for pair in pairs for key in pair.agreement_keys],
    )
    return (
        drawn.section._asdict()
        | {"method": method, "x_axis": sizes[pairs[0].weak]["x_axis"]}
        | {"n_supervisors": len(lines), "n_students": len(pairs)}
        | {"n_seeds": min(len(pair.student.seeds) for pair in pairs), "n_test": drawn.n_test}
        | bounds("slope", slope)
    )


def least_squares_slope(x: np.ndarray, y: np.ndarray, line: np.ndarray | None = None) -> np.ndarray:
    """Slope of y over x, one for all lines, each of which has an intercept of its own.

    Args:
        x: Shape (point,).
        y: Shape (..., point).
        line: Which line each point belongs to, shape (point,); None puts all on one.

    Returns:
        Shape (..., 1).
    """
    line = np.zeros(x.size, dtype=int) if line is None else line
    centred = x - (np.bincount(line, weights=x) / np.bincount(line))[line]
    return (y @ centred)[..., None] / (centred @ centred)
