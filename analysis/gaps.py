"""Whether a pair of models has a gap to recover: the lower bound of ceiling minus weak, decided once over all seeds.

PGR divides by this gap. At single seeds there is always some number to divide by, also where supervisor and ceiling
cannot be told apart; so the tables of single seeds carry the decision over seeds beside it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analysis.intervals import joint_draws

if TYPE_CHECKING:
    from analysis.results import SharedTest

SECTION_KEY = ("task", "form", "settings", "part")
GAP_KEY = ("weak", "strong", "baseline")
"""What shares a supervisor and a ceiling, and so a gap."""
MIN_EXAMPLES = 2
"""Test examples that resampling needs; of one, every resample is the same."""


def with_has_gap(pairs: pl.DataFrame, tests: Mapping[str, "SharedTest"]) -> pl.DataFrame:
    """Pairs at single seeds with the column `has_gap`, decided with the default options of `analysis.estimate`.

    Null where it cannot be decided: when one (weak, strong, baseline, seed) stands for several runs, as in a storage
    with sweeps that trained equal names differently; or when there is a single test example, which tells no variance.
    """
    frames = [pairs.clear().with_columns(has_gap=pl.lit(None, pl.Boolean))]
    for _, section in pairs.group_by(SECTION_KEY, maintain_order=True):
        decided = _decided(section, tests[section["task"][0]])
        frames.append(section.join(decided, on=list(GAP_KEY), how="left", validate="m:1"))
    return pl.concat(frames)


def _decided(section: pl.DataFrame, test: "SharedTest") -> pl.DataFrame:
    """(weak, strong, baseline, has_gap) of one section."""
    seeds = section["seed"].unique().sort().to_list()
    keys: list[tuple[str, ...]] = []
    columns: dict[tuple[tuple[int, str], ...], int] = {}
    pairs: list[tuple[int, int]] = []
    for key, rows in section.sort(*GAP_KEY, "seed").group_by(GAP_KEY, maintain_order=True):
        cells = [tuple(rows.select("seed", f"{role}_id").unique().sort("seed").iter_rows()) for role in _ROLES]
        if any(len({seed for seed, _ in cell}) < len(cell) for cell in cells):
            continue
        keys.append(tuple(map(str, key)))
        weak, ceiling = (columns.setdefault(cell, len(columns)) for cell in cells)
        pairs.append((weak, ceiling))
    schema = dict.fromkeys(GAP_KEY, pl.String) | {"has_gap": pl.Boolean}
    if not keys or test.n_examples < MIN_EXAMPLES:
        return pl.DataFrame(schema=schema)
    values, by_seed = _columns(test, list(columns), seeds)
    low = joint_draws(values, by_seed).intervals(lambda a: a[..., 1:] - a[..., :1], pairs).low[:, 0]
    flags = (low > 0).tolist()
    return pl.DataFrame([(*key, flag) for key, flag in zip(keys, flags, strict=True)], schema=schema, orient="row")


_ROLES = ("supervisor", "ceiling")


def _columns(
    test: "SharedTest", cells: Sequence[tuple[tuple[int, str], ...]], seeds: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """What `joint_draws` wants of each cell, a model's runs as (seed, run id): shapes (example, cell), (cell, seed)."""
    values = np.empty((test.n_examples, len(cells)), dtype=np.float32)
    by_seed = np.full((len(cells), len(seeds)), np.nan)
    for index, cell in enumerate(cells):
        right = test.correct(run_id for _, run_id in cell)
        values[:, index] = right.mean(axis=1, dtype=np.float32)
        by_seed[index, [seeds.index(seed) for seed, _ in cell]] = right.mean(axis=0)
    return values, by_seed
