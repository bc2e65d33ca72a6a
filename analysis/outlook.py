"""What extrapolations say, in sentences.

First how they did on hidden models; then, only if that went well, what they predict.
"""

from typing import Any

import polars as pl

from analysis.estimates import methods_in_order
from analysis.extrapolation import BEYOND, DERIVED, NO_SKILL, REACH, Extrapolation
from analysis.frames import Section, select_section

_METHODS_IN_A_LINE = 6


def outlook(extrapolation: Extrapolation, section: Section) -> list[str]:
    """Sentences about one section; none where no line has enough students."""
    predictions, skill = (select_section(f, section) for f in (extrapolation.predictions, extrapolation.skill))
    derived = predictions.filter((pl.col("quantity") == "pgr") & (pl.col("predictor") == DERIVED))
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
    unskilled = methods_in_order(derived.filter(pl.col("status") == NO_SKILL)["method"])
    if unskilled:
        lines.append(
            f"Beyond the largest model nothing is claimed for {', '.join(unskilled)}: for hidden models the last"
            " measured PGR was as good a prediction."
        )
    furthest = derived.filter((pl.col("status") == BEYOND) & (pl.col("reach") > REACH * (1 - 1e-9)))
    for method in methods_in_order(furthest["method"])[:_METHODS_IN_A_LINE]:
        row = furthest.filter(pl.col("method") == method).row(0, named=True)
        lines.append(
            f"At {REACH:g} times the largest measured compute, {method} under {row['weak']} is predicted a PGR of"
            f" {row['y']:.2f} (50 % band {row['y_low_50']:.2f} to {row['y_high_50']:.2f}, 95 % band"
            f" {row['y_low_95']:.2f} to {row['y_high_95']:.2f})."
        )
    return lines


def _test(row: dict[str, Any]) -> str:
    line = "" if row["rmse_linear"] is None else f", a straight line by {row['rmse_linear']:.3f}"
    return (
        f"{row['method']} wrong by {row['rmse']:.3f} (root mean square of {row['n']}; the last value by"
        f" {row['rmse_last']:.3f}{line}), {row['inside_95']:.0%} inside the 95 % bands"
    )
