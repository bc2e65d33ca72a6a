"""Accuracy by tag of the examples, such as a puzzle's theme or rating, where a task has any.

A tag is "family:value", `rating:1400-1599`; what stands before the first colon tells tags of one kind.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.estimates import BOUNDS, SECTION_KEY, Estimates, Options
from analysis.frames import SHARE, bounds, methods_in_order
from analysis.gaps import MIN_EXAMPLES
from analysis.grouping import Cell, Pair, SectionDraws, SectionPairs
from analysis.intervals import Draws, Interval, joint_draws
from analysis.results import Results, SharedTest
from analysis.rows import pgr
from analysis.wording import counted, estimated

SHOWN_EXAMPLES = 30
"""Tags with fewer test examples are in the table of files only, not on the page."""
_ROLES = {"weak": "supervisor", "student": "student", "ceiling": "ceiling"}
BY_TAG_SCHEMA: dict[str, Any] = (
    dict.fromkeys((*SECTION_KEY, "method", "tag", "family", "value"), pl.String)
    | {"n_test": pl.Int64, "n_pairs": pl.Int64, "n_seeds": pl.Int64}
    | {f"{role}_acc{bound}": pl.Float64 for role in _ROLES for bound in BOUNDS}
    | {f"gap{bound}": pl.Float64 for bound in BOUNDS}
    | {"has_gap": pl.Boolean}
    | {f"pgr{bound}": pl.Float64 for bound in BOUNDS}
    | {f"{role}_accepted{bound}": pl.Float64 for role in _ROLES for bound in BOUNDS}
)


def by_tag(results: Results, estimates: Estimates) -> pl.DataFrame:
    """Accuracy on the test examples of each tag, by method: means over its pairs and seeds, with joint intervals.

    A row per section, tag and method with at least `MIN_EXAMPLES` test examples (`BY_TAG_SCHEMA`), tags by family and
    within it in the order of their numbers; none for tasks without tags. An example may have several tags. `pgr` is
    that of the mean accuracies, null where the mean gap cannot be told from zero. `..._accepted` counts other answers
    that the task accepts too, and is null where nobody judged them.
    """
    rows: list[dict[str, Any]] = []
    for grouped, drawn in estimates.sections:
        test = results.tests[grouped.section.task]
        if tags := _tags(results, test):
            rows += _section_rows(grouped, drawn, test, tags, estimates.options)
    return pl.DataFrame(rows, schema=BY_TAG_SCHEMA)


def family_of(tag: str) -> tuple[str, str]:
    """What stands before the first colon of a tag, empty if there is none, and the rest."""
    family, colon, value = tag.partition(":")
    return (family, value) if colon else ("", tag)


def in_order(tag: str) -> tuple:
    """Sorts tags by family and, within it, texts by the numbers in them: "rating:800-999" before "rating:1000-1199"."""
    family, value = family_of(tag)
    parts = re.split(r"(\d+)", value)
    return family, [(1, "", int(part)) if part.isdecimal() else (0 if part == "" else 2, part, 0) for part in parts]


def is_numeric(values: Sequence[str]) -> bool:
    """Whether values are numbers or bands of numbers throughout, so that they lie on a line."""
    return all(re.fullmatch(r"-?\d+(\.\d+)?(\s*(-|\.\.|to)\s*-?\d+(\.\d+)?)?[+]?", value) for value in values)


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mean:
    """The mean over some cells of a value of each example."""

    of_example: np.ndarray
    """Mean over seeds as well, shape (example,)."""
    at_seed: np.ndarray
    """Of the cells that have the seed; NaN where none has; shape (example, seed)."""


def _section_rows(
    grouped: SectionPairs, drawn: SectionDraws, test: SharedTest, tags: dict[str, np.ndarray], options: Options
) -> list[dict[str, Any]]:
    kinds: dict[str, Callable[[Cell], np.ndarray | None]] = {
        "acc": lambda cell: test.correct(cell.run_ids),
        "accepted": lambda cell: _accepted(test, cell),
    }
    of_method: dict[str, list[Pair]] = {}
    for pair in grouped.pairs:
        of_method.setdefault(pair.method, []).append(pair)
    means: dict[tuple[str, tuple[Cell, ...]], _Mean] = {}
    columns: dict[tuple[str, str, str], int] = {}  # (method, role, kind); methods share supervisors and ceilings
    for method, pairs in of_method.items():
        for role, attribute in _ROLES.items():
            cells = tuple(getattr(pair, attribute) for pair in pairs)
            for kind, value in kinds.items():
                key = (kind, cells)
                if key not in means and (mean := _mean(cells, value, drawn.seeds)) is not None:
                    means[key] = mean
                if key in means:
                    columns[method, role, kind] = list(means).index(key)
    values = np.stack([mean.of_example for mean in means.values()], axis=1)
    at_seed = np.stack([mean.at_seed for mean in means.values()], axis=1)
    rows = []
    for tag, examples in tags.items():
        draws = joint_draws(
            values[examples],
            at_seed[examples].mean(axis=0),
            n_draws=options.draws,
            random_seed=options.random_seed,
        )
        family, value = family_of(tag)
        head = grouped.section._asdict() | {"tag": tag, "family": family, "value": value, "n_test": len(examples)}
        for method in methods_in_order(of_method):
            pairs = of_method[method]
            row: dict[str, Any] = head | {"method": method, "n_pairs": len(pairs)}
            row["n_seeds"] = len({seed for pair in pairs for seed in pair.student.seeds})
            for role in _ROLES:
                for kind in kinds:
                    if (at := columns.get((method, role, kind))) is not None:
                        found = draws.interval(lambda a: a, [at], level=options.level).within(*SHARE)
                        row |= bounds(f"{role}_{kind}", found)
            row |= _gap_and_pgr(draws, [columns[method, role, "acc"] for role in _ROLES], options)
            rows.append({name: row.get(name) for name in BY_TAG_SCHEMA})
    return rows


def _mean(cells: Sequence[Cell], value: Callable[[Cell], np.ndarray | None], seeds: Sequence[int]) -> _Mean | None:
    """None where some cell has no such value."""
    found = {cell: value(cell) for cell in dict.fromkeys(cells)}
    if any(each is None for each in found.values()):
        return None
    right: dict[Cell, Any] = {cell: np.asarray(each, dtype=np.float32) for cell, each in found.items()}
    at_seed = []
    for seed in seeds:
        own = [right[cell][:, cell.seeds.index(seed)] for cell in cells if seed in cell.seeds]
        at_seed.append(np.mean(own, axis=0) if own else np.full(len(next(iter(right.values()))), np.nan))
    return _Mean(np.mean([right[cell].mean(axis=1) for cell in cells], axis=0), np.stack(at_seed, axis=1))


def _accepted(test: SharedTest, cell: Cell) -> np.ndarray | None:
    if not all(view in test.accepted for view in cell.run_ids):
        return None
    return np.stack([test.accepted[view] for view in cell.run_ids], axis=1)


def _gap_and_pgr(draws: Draws, roles: Sequence[int], options: Options) -> dict[str, Any]:
    """Of mean accuracies of weak, student and ceiling."""
    gap: Interval = draws.interval(lambda a: a[..., 1:] - a[..., :1], [roles[0], roles[2]], level=options.level)
    has_gap = bool(gap.low[0] > 0)
    row: dict[str, Any] = bounds("gap", gap.within(-1.0, 1.0)) | {"has_gap": has_gap}
    if has_gap:
        row |= bounds("pgr", draws.interval(lambda a: pgr(a)[..., None], list(roles), level=options.level))
    return row


def _tags(results: Results, test: SharedTest) -> dict[str, np.ndarray]:
    """Positions of the test examples of each tag, in the order of tags."""
    tagged = results.tags(test.task)
    if tagged is None:
        return {}
    position = pl.DataFrame({"example_id": test.example_ids}).with_row_index("at")
    found = position.join(tagged, on="example_id", how="inner").explode("tags").drop_nulls("tags").unique()
    by = dict(found.group_by("tags").agg(pl.col("at").sort()).iter_rows())
    return {tag: np.array(by[tag]) for tag in sorted(by, key=in_order) if len(by[tag]) >= MIN_EXAMPLES}


# --- for the page ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """Tags of one kind, as they are shown."""

    name: str
    rows: pl.DataFrame
    """Those with `SHOWN_EXAMPLES` test examples, of `by_tag`."""
    left_out: str
    """What is said of the others; empty if there are none."""


def families(tags: pl.DataFrame) -> list[Family]:
    """The rows of one section by family; bands of numbers first."""
    found = []
    for name in tags["family"].unique(maintain_order=True):
        rows = tags.filter(pl.col("family") == name)
        rare = rows.filter(pl.col("n_test") < SHOWN_EXAMPLES).select("tag", "n_test").unique()
        said = ""
        if not rare.is_empty():
            one = rare.height == 1
            said = (
                f"{counted(rare.height, 'rarer tag')} with fewer than {SHOWN_EXAMPLES} test examples"
                f" {'is' if one else 'are'} left out here ({rare['n_test'].sum()} in all); tables/by_tag.csv has"
                f" {'it' if one else 'them'}."
            )
        found.append(Family(name, rows.filter(pl.col("n_test") >= SHOWN_EXAMPLES), said))
    return sorted(found, key=lambda family: not is_numeric(family.rows["value"].to_list()))


def numeric_rows(tags: pl.DataFrame) -> pl.DataFrame:
    """The rows that make a line: of families of numbers with several tags that are shown."""
    lines = [f.rows for f in families(tags) if f.rows["value"].n_unique() > 1 and is_numeric(f.rows["value"].to_list())]
    return pl.concat([tags.clear(), *lines])


def tag_findings(tags: pl.DataFrame) -> list[str]:
    """From the first to the last tag of each family of numbers, from rows of `by_tag` of one section."""
    rows = numeric_rows(tags)
    lines = []
    for name in rows["family"].unique(maintain_order=True):
        own = rows.filter(pl.col("family") == name)
        first, last = own.filter(pl.col("method") == own["method"][0]).to_dicts()[:: own["value"].n_unique() - 1]
        parts = [
            f"{role} {estimated(first, f'{column}_acc')} to {estimated(last, f'{column}_acc')}"
            for role, column in (("supervisors", "weak"), (f"students ({own['method'][0]})", "student"))
        ]
        parts.append(f"ceilings {estimated(first, 'ceiling_acc')} to {estimated(last, 'ceiling_acc')}")
        lines.append(
            f"Accuracy by {name or 'tag'}, from {first['value']} (n={first['n_test']:,}) to {last['value']}"
            f" (n={last['n_test']:,}), mean over pairs: {', '.join(parts)}."
        )
    return lines
