"""Accuracy by tag of the examples, such as a puzzle's theme or rating, where a task has any."""

from typing import Any

import numpy as np
import polars as pl

from analysis.estimates import BOUNDS, SECTION_KEY, Estimates
from analysis.gaps import MIN_EXAMPLES
from analysis.grouping import Cell
from analysis.intervals import joint_draws
from analysis.results import Results, SharedTest

_ROLES = ("weak", "student", "ceiling")
BY_TAG_SCHEMA: dict[str, Any] = (
    dict.fromkeys((*SECTION_KEY, "method", "tag"), pl.String)
    | {"n_test": pl.Int64, "n_pairs": pl.Int64, "n_seeds": pl.Int64}
    | {f"{role}_acc{bound}": pl.Float64 for role in _ROLES for bound in BOUNDS}
)


def by_tag(results: Results, estimates: Estimates) -> pl.DataFrame:
    """Accuracy on the test examples of each tag, by method: means over its pairs and seeds, with joint intervals.

    A row per section, method and tag with at least `MIN_EXAMPLES` test examples (`BY_TAG_SCHEMA`); none for tasks
    without tags. An example may have several tags.
    """
    rows: list[dict[str, Any]] = []
    options = estimates.options
    for grouped, _ in estimates.sections:
        test = results.tests[grouped.section.task]
        tags = _tags(results, test)
        for method in dict.fromkeys(pair.method for pair in grouped.pairs):
            pairs = [pair for pair in grouped.pairs if pair.method == method]
            seeds = sorted({seed for pair in pairs for seed in pair.student.seeds})
            for tag, examples in tags.items():
                values, means = [], []
                for role in ("supervisor", "student", "ceiling"):
                    cells: list[Cell] = [getattr(pair, role) for pair in pairs]
                    right = {cell: test.correct(cell.run_ids)[examples] for cell in cells}
                    values.append(np.mean([right[cell].mean(axis=1) for cell in cells], axis=0))
                    means.append([_at_seed(cells, right, seed) for seed in seeds])
                drawn = joint_draws(
                    np.stack(values, axis=1).astype(np.float32),
                    np.array(means),
                    n_draws=options.draws,
                    random_seed=options.random_seed,
                )
                interval = drawn.interval(lambda a: a, [0, 1, 2], level=options.level).within(0.0, 1.0)
                row = dict(grouped.section._asdict()) | {"method": method, "tag": tag, "n_test": len(examples)}
                row |= {"n_pairs": len(pairs), "n_seeds": len(seeds)}
                for bound, found in zip(BOUNDS, (interval.estimate, interval.low, interval.high), strict=True):
                    row |= {f"{role}_acc{bound}": float(found[k]) for k, role in enumerate(_ROLES)}
                rows.append(row)
    return pl.DataFrame(rows, schema=BY_TAG_SCHEMA)


def _at_seed(cells: list[Cell], right: dict[Cell, np.ndarray], seed: int) -> float:
    """Mean accuracy of the cells that have the seed; NaN where none has."""
    found = [right[cell][:, cell.seeds.index(seed)].mean() for cell in cells if seed in cell.seeds]
    return float(np.mean(found)) if found else float("nan")


def _tags(results: Results, test: SharedTest) -> dict[str, np.ndarray]:
    """Positions of the test examples of each tag, tags sorted."""
    tagged = results.tags(test.task)
    if tagged is None:
        return {}
    position = pl.DataFrame({"example_id": test.example_ids}).with_row_index("at")
    found = position.join(tagged, on="example_id", how="inner").explode("tags").drop_nulls("tags").unique()
    by = found.group_by("tags").agg(pl.col("at").sort()).sort("tags")
    return {tag: np.array(at) for tag, at in by.iter_rows() if len(at) >= MIN_EXAMPLES}
