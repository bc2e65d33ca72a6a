"""The frames of `analysis.estimates`: their columns, their order, and what a row of them may hold."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from analysis.gaps import SECTION_KEY
from analysis.intervals import Interval

REFERENCE_METHOD = "naive"
ORACLE_MARK = "[oracle]"
"""Ends the label of a method that looked at ground truth beyond its supervisor's own data."""
OWN = ""
"""The baseline of the grid itself."""
BOUNDS = ("", "_low", "_high")
SHARE, SHARE_DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)
RANGES: dict[Any, tuple[float, float]] = (
    dict.fromkeys(("supervisor_acc", "weak_acc", "student_acc", "ceiling_acc"), SHARE)
    | dict.fromkeys(("agreement", "agreement_when_weak_right", "agreement_when_weak_wrong"), SHARE)
    | dict.fromkeys(("gap", "rise", "accuracy_difference"), SHARE_DIFFERENCE)
    | dict.fromkeys(("supervisor_above_majority", "ceiling_above_majority"), SHARE_DIFFERENCE)
)
"""What a quantity can be at all; intervals are cut there. PGR has no such range."""
_ROUNDING = 1e-9


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
    | {"n_pairs": pl.Int64, "n_no_gap": pl.Int64, "n_higher": pl.Int64, "n_lower": pl.Int64}
    | {"n_seeds": pl.Int64, "n_test": pl.Int64}
)
SLOPES_SCHEMA = (
    _SECTION_SCHEMA
    | {"method": pl.String, "weak": pl.String, "weak_rung": pl.Int64, "x_axis": pl.String}
    | _columns("slope")
    | {"n_supervisors": pl.Int64, "n_students": pl.Int64, "n_seeds": pl.Int64, "n_test": pl.Int64}
)
TASKS_KEY = ("settings", "part")
TASKS_SCHEMA: dict[str, Any] = (
    dict.fromkeys(TASKS_KEY, pl.String)
    | {"method": pl.String, "baseline": pl.String, "oracle": pl.Boolean}
    | {"weak": pl.String, "strong": pl.String, "weak_rung": pl.Int64, "strong_rung": pl.Int64}
    | {"weak_x": pl.Float64, "strong_x": pl.Float64, "statistic": pl.String}
    | _columns("pgr")
    | {"tasks": pl.String, "n_tasks": pl.Int64, "n_no_gap": pl.Int64}
    | {"n_pairs": pl.Int64, "n_pairs_no_gap": pl.Int64, "n_seeds": pl.Int64, "n_test": pl.Int64}
)


def select_section(frame: pl.DataFrame, section: Section) -> pl.DataFrame:
    """Rows of a frame that belong to one section."""
    return frame.filter(pl.all_horizontal(pl.col(key) == value for key, value in section._asdict().items()))


def methods_in_order(methods: Iterable[str]) -> list[str]:
    """The reference first, then the others by name, diagnostics that looked at ground truth last.

    The reference is plain naive finetuning, or where a grid has only variants of it, `naive(labels=hard)`, the first.
    """

    def rank(method: str) -> tuple:
        is_variant = method.startswith(f"{REFERENCE_METHOD}(")
        return (method != REFERENCE_METHOD, not is_variant, is_oracle(method), method)

    return sorted(set(methods), key=rank)


def in_method_order(
    frame: pl.DataFrame, *then: str, first: Sequence[str] = (), section: Sequence[str] = SECTION_KEY
) -> pl.DataFrame:
    """Rows by section, `first`, method in the order of `methods_in_order` (none before all), and `then`."""
    rank = {method: index for index, method in enumerate(methods_in_order(frame["method"].drop_nulls()))}
    rows = frame.with_columns(_rank=pl.col("method").replace_strict(rank, default=-1, return_dtype=pl.Int64))
    return rows.sort(*section, *first, "_rank", *then, nulls_last=False).drop("_rank")


def is_oracle(method: str) -> bool:
    """Whether a label is that of a method that looked at ground truth."""
    return method.endswith(ORACLE_MARK)


def bounds(name: str, interval: Interval, index: int | tuple[int, ...] = 0) -> dict[str, float | None]:
    """One value of an interval as `name`, `name_low`, `name_high`; null where it is undefined."""
    values = (interval.estimate[index], interval.low[index], interval.high[index])
    return {f"{name}{bound}": float(v) if np.isfinite(v) else None for bound, v in zip(BOUNDS, values, strict=True)}


def cut_to_range(row: dict[str, Any]) -> bool:
    """Cut the bounds in a row at the ends of what their quantities can be; whether any was beyond."""
    beyond = False
    for name, (smallest, largest) in RANGES.items():
        for key in (f"{name}_low", f"{name}_high"):
            value = row.get(key)
            if value is not None and not smallest <= value <= largest:
                row[key] = min(max(value, smallest), largest)
                beyond |= not smallest - _ROUNDING <= value <= largest + _ROUNDING
    return beyond


def log_ratio(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> float | None:
    """log10 of the ratio of two models' compute, where the ladder knows compute."""
    return float(np.log10(strong["x"] / weak["x"])) if weak["x_axis"] == "compute" else None
