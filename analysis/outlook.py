"""What extrapolations say, in sentences.

First how they did on hidden models; then, only if that went well, what they predict.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from analysis.estimates import methods_in_order
from analysis.extrapolation import (
    BEYOND,
    DERIVED,
    DIRECT,
    LINE_BETTER,
    MISFIT,
    NO_SKILL,
    REACH,
    UNDEFINED,
    Extrapolation,
)
from analysis.frames import Section, select_section

_METHODS_IN_A_LINE = 6
_UNCLAIMED = {
    NO_SKILL: "for hidden models the last measured PGR was at least as good a prediction",
    LINE_BETTER: "for hidden models a straight line in log compute was at least as good a prediction",
    MISFIT: "the measured accuracies contradict the curve that would be continued",
}


def outlook(extrapolation: Extrapolation, section: Section, supervisors: Sequence[str] = ()) -> list[str]:
    """Sentences about one section; none where no line has enough students.

    Args:
        extrapolation: Of one or more sections.
        section: The one to speak of.
        supervisors: Weakest first, which is spoken of first.
    """
    predictions, skill = (select_section(f, section) for f in (extrapolation.predictions, extrapolation.skill))
    order = {name: rank for rank, name in enumerate(supervisors)}
    pgr = predictions.filter(pl.col("quantity") == "pgr")
    pgr = pgr.sort(pl.col("weak").replace_strict(order, default=len(order)), maintain_order=True)
    derived, direct = (pgr.filter(pl.col("predictor") == name) for name in (DERIVED, DIRECT))
    tested = skill.filter((pl.col("quantity") == "pgr") & (pl.col("predictor") == DERIVED) & (pl.col("n") > 0))
    lines = []
    if not tested.is_empty():
        methods = methods_in_order(tested["method"])[:_METHODS_IN_A_LINE]
        parts = [_test(tested.filter(pl.col("method") == method).row(0, named=True)) for method in methods]
        lines.append(f"PGR of the largest strong models, predicted from the smaller ones alone: {'; '.join(parts)}.")
    elif not derived.is_empty():
        lines.append(
            f"PGR up to {REACH:g} times the compute of the largest model is in the tables but not tested: there"
            " are too few rungs to hide one."
        )
    for status, why in _UNCLAIMED.items():
        unclaimed = methods_in_order(derived.filter(pl.col("status") == status)["method"])
        if status == MISFIT:  # a matter of single lines
            unclaimed = [f"{method} under {_supervisors(derived, method, status)}" for method in unclaimed]
        if unclaimed:
            lines.append(f"Beyond the largest model nothing is claimed for {', '.join(unclaimed)}: {why}.")
    return lines + _predictions(derived, direct) + _ends(derived)


def _supervisors(derived: pl.DataFrame, method: str, status: str) -> str:
    own = derived.filter((pl.col("method") == method) & (pl.col("status") == status))
    return " and ".join(own["weak"].unique(maintain_order=True))


def _predictions(derived: pl.DataFrame, direct: pl.DataFrame) -> list[str]:
    """At the farthest, of the first line of each method; with the direct continuation where the two contradict."""
    lines = []
    furthest = derived.filter((pl.col("status") == BEYOND) & (pl.col("reach") > REACH * (1 - 1e-9)))
    for method in methods_in_order(furthest["method"])[:_METHODS_IN_A_LINE]:
        row = furthest.filter(pl.col("method") == method).row(0, named=True)
        text = (
            f"At {REACH:g} times the largest measured compute, {method} under {row['weak']} is predicted a PGR of"
            f" {row['y']:.2f} ({_bands(row)})"
        )
        same = (pl.col("method") == method) & (pl.col("weak") == row["weak"]) & (pl.col("reach") == row["reach"])
        other = direct.filter(same & pl.col("y").is_not_null())
        if not other.is_empty() and _contradict(row, other.row(0, named=True)):
            second = other.row(0, named=True)
            text += (
                "; the measured PGRs, continued by themselves, contradict that: they give"
                f" {second['y']:.2f} ({_bands(second)}), so neither is to be relied on"
            )
        lines.append(f"{text}.")
    return lines


def _ends(derived: pl.DataFrame) -> list[str]:
    """Where predictions end before the farthest, and why."""
    parts = []
    key = ["method", "weak"]
    for (method, weak), rows in derived.group_by(key, maintain_order=True):
        defined = rows.filter(pl.col("status") != UNDEFINED)
        if 0 < defined.height < rows.height and set(defined["status"]) == {BEYOND}:
            parts.append(f"{method} under {weak} at {defined['reach'].max():.2g} times")
    if not parts:
        return []
    shown = parts[:_METHODS_IN_A_LINE]
    more = f", and {len(parts) - len(shown)} more" if len(parts) > len(shown) else ""
    return [
        f"Predictions of PGR end where the ceiling's 95 % band comes down to the supervisor: {', '.join(shown)} the"
        f" largest measured compute{more}."
    ]


def _contradict(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether the estimate of one is outside the 80 % band of the other."""
    return not (
        first["y_low_80"] <= second["y"] <= first["y_high_80"]
        and second["y_low_80"] <= first["y"] <= second["y_high_80"]
    )


def _bands(row: dict[str, Any]) -> str:
    return ", ".join(f"{p} % band {row[f'y_low_{p}']:.2f} to {row[f'y_high_{p}']:.2f}" for p in (50, 95))


def _test(row: dict[str, Any]) -> str:
    line = "" if row["rmse_linear"] is None else f", a straight line by {row['rmse_linear']:.3f}"
    n = row["n"]
    tests = "1 test" if n == 1 else f"{n} tests, which share models"
    return (
        f"{row['method']} wrong by {row['rmse']:.3f} (root mean square of {tests}; the last value by"
        f" {row['rmse_last']:.3f}{line}), {round(n * row['inside_95'])} of {n} inside the 95 % bands"
    )
