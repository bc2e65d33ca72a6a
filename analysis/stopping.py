"""Which evaluation step of a student counts: early stopping, decided afterwards from stored predictions.

Every run stores its predictions on validation and test at each evaluation, so a rule of stopping needs no run of its
own (Burns et al. 2023, section 5.1.1, figures 7 and 13). Supervisors and ceilings always count at their last step.

Intervals take the chosen step as given: choosing it on other examples would sometimes choose another.
"""

from enum import StrEnum

import polars as pl

from analysis.errors import AnalysisError

HARD_ABOVE = 0.5
"""A weak label is hard 1 where its probability of class 1 is above this."""


class Stop(StrEnum):
    """Rules by which the student's step is chosen; the earliest step wins a tie."""

    LAST = "last"
    """The end of training."""
    WEAK = "weak"
    """Best accuracy against the hardened weak labels on validation: looks at no ground truth."""
    ORACLE = "oracle"
    """Best accuracy against ground truth on validation: a diagnostic, no method."""
    ORACLE_TEST = "oracle_test"
    """Best accuracy against ground truth on test, as the paper has it: overstates slightly, by its own account."""


def available_steps(evaluations: pl.DataFrame) -> list[int]:
    """Steps with rows of both validation and test, ascending."""
    by_split = [set(evaluations.filter(pl.col("split") == split)["step"]) for split in ("validation", "test")]
    return sorted(by_split[0] & by_split[1])


def weak_labels(source: pl.DataFrame) -> pl.DataFrame:
    """Hardened validation labels (`example_id`, `label`) of what a student was labelled by, at its last step.

    Rows without p carry no label, and are left out; where no row has p (labels that were only ever hard), the
    prediction is the label.

    Args:
        source: Predictions with `example_id`, `split`, `step`, `prediction` and `p`, of any steps and splits.
    """
    rows = source.filter(pl.col("step") == pl.col("step").max(), pl.col("split") == "validation")
    rows = rows.with_columns(pl.col("p").fill_nan(None))
    if rows["p"].null_count() == rows.height:
        return rows.select("example_id", label=pl.col("prediction"))
    hard = rows.filter(pl.col("p").is_not_null())
    return hard.select("example_id", label=(pl.col("p") > HARD_ABOVE).cast(pl.Int8))


def stop_step(evaluations: pl.DataFrame, stop: Stop, weak: pl.DataFrame | None = None) -> int:
    """The step of a student that counts.

    Args:
        evaluations: The student's predictions: `example_id`, `split`, `step`, `gold`, `prediction`.
        stop: The rule.
        weak: `weak_labels` of the student's label source, which the rule `weak` asks for.

    Raises:
        AnalysisError: No step has rows of both validation and test, or the rule `weak` has no weak labels on them.
    """
    steps = available_steps(evaluations)
    if stop is Stop.LAST:
        return int(evaluations["step"].max())  # type: ignore[arg-type]
    if not steps:
        raise AnalysisError(f"stop {stop} needs a step with predictions on both validation and test, and there is none")
    split = "test" if stop is Stop.ORACLE_TEST else "validation"
    rows = evaluations.filter(pl.col("split") == split, pl.col("step").is_in(steps))
    if stop is Stop.WEAK:
        if weak is None:
            raise AnalysisError("stop weak needs the labels that the student learned from, and they are not known")
        rows = rows.join(weak, on="example_id", how="inner")
    else:
        rows = rows.with_columns(label=pl.col("gold"))
    scores = rows.group_by("step").agg(score=(pl.col("prediction") == pl.col("label")).mean())
    if scores.height < len(steps):
        raise AnalysisError(f"stop {stop} needs labels on {split} at every evaluation, and some have none")
    best = scores.sort(["score", "step"], descending=[True, False])
    return int(best["step"][0])
