from dataclasses import replace

import polars as pl
import pytest

from analysis.extrapolation import (
    BEYOND,
    DERIVED,
    DIRECT,
    LEFT_OUT_SCHEMA,
    LINE_BETTER,
    MISFIT,
    NO_SKILL,
    NOT_TESTED,
    PREDICTIONS_SCHEMA,
    REFUSED_SCHEMA,
    SKILL_SCHEMA,
    TESTS_SCHEMA,
    UNDEFINED,
    Extrapolation,
)
from analysis.frames import Section
from analysis.outlook import outlook

SECTION = Section("facts", "classify", "s0", "transfer/0")
PGR = SECTION._asdict() | {"quantity": "pgr", "method": "naive", "predictor": DERIVED}
BANDS = {"y_low_50": 0.4, "y_high_50": 0.6, "y_low_80": 0.3, "y_high_80": 0.7, "y_low_95": 0.1, "y_high_95": 0.9}
SKILL = PGR | {"rmse": 0.05, "rmse_last": 0.1, "rmse_linear": 0.2, "n": 4, "n_left_out": 0, "inside_95": 0.75}


def of(status, *skill):
    rows = [PGR | {"weak": "rung0", "x": 10.0, "reach": 10.0, "y": 0.5, "status": status} | BANDS]
    return Extrapolation(
        predictions=pl.DataFrame(rows if status else [], schema=PREDICTIONS_SCHEMA),
        tests=pl.DataFrame(schema=TESTS_SCHEMA),
        left_out=pl.DataFrame(schema=LEFT_OUT_SCHEMA),
        skill=pl.DataFrame(list(skill), schema=SKILL_SCHEMA),
        refused=pl.DataFrame(schema=REFUSED_SCHEMA),
    )


def test_tests_come_before_predictions():
    tested, predicted = outlook(of(BEYOND, SKILL), SECTION)
    assert tested == (
        "PGR of the largest strong models, predicted from the smaller ones alone: naive wrong by 0.050 (root mean"
        " square of 4 tests, which share models; the last value by 0.100, a straight line by 0.200), 3 of 4 inside the"
        " 95 % bands."
    )
    assert predicted == (
        "At 10 times the largest measured compute, naive under rung0 is predicted a PGR of 0.50 (50 % band 0.40 to"
        " 0.60, 95 % band 0.10 to 0.90)."
    )


def test_without_skill_nothing_is_predicted():
    _, claimed = outlook(of(NO_SKILL, SKILL | {"rmse": 0.2}), SECTION)
    assert claimed.startswith("Beyond the largest model nothing is claimed for naive")


def test_a_straight_line_that_did_better_is_named():
    _, claimed = outlook(of(LINE_BETTER, SKILL), SECTION)
    assert claimed == (
        "Beyond the largest model nothing is claimed for naive: for hidden models a straight line in log compute was at"
        " least as good a prediction."
    )


def test_curves_that_do_not_fit_are_named_with_their_supervisor():
    _, claimed = outlook(of(MISFIT, SKILL), SECTION)
    assert claimed.startswith("Beyond the largest model nothing is claimed for naive under rung0: the measured")


def with_more(found, **changes):
    row = found.predictions.row(0, named=True) | changes
    return replace(found, predictions=pl.concat([found.predictions, pl.DataFrame([row], schema=PREDICTIONS_SCHEMA)]))


@pytest.mark.parametrize(("direct", "said"), [(0.65, False), (0.75, True), (0.2, True)])
def test_a_direct_continuation_that_contradicts_is_told_beside_the_derived_one(direct, said):
    wide = {"y_low_80": 0.0, "y_high_80": 1.0}
    found = with_more(of(BEYOND, SKILL), predictor=DIRECT, y=direct, **wide)
    text = outlook(found, SECTION)[1]
    assert ("contradict" in text) == said
    assert (f"they give {direct:.2f}" in text) == said


def test_a_derived_prediction_outside_the_direct_band_contradicts_too():
    found = with_more(of(BEYOND, SKILL), predictor=DIRECT, y=0.6, y_low_80=0.55, y_high_80=0.65)
    assert "contradict" in outlook(found, SECTION)[1]


def test_predictions_that_end_early_say_why():
    nothing = dict.fromkeys(("y", *BANDS))
    found = with_more(of(BEYOND, SKILL), **nothing, x=20.0, reach=20.0, status=UNDEFINED)
    assert outlook(found, SECTION)[-1] == (
        "Predictions of PGR end where the ceiling's 95 % band comes down to the supervisor: naive under rung0 at 10"
        " times the largest measured compute."
    )


def test_the_weakest_supervisor_is_spoken_of():
    found = with_more(of(BEYOND, SKILL), weak="a")
    assert "under a is" in outlook(found, SECTION, ["a", "rung0"])[1]
    assert "under rung0 is" in outlook(found, SECTION, ["rung0", "a"])[1]


def test_without_a_straight_line_none_is_mentioned():
    first = outlook(of(BEYOND, SKILL | {"rmse_linear": None}), SECTION)[0]
    assert "the last value by 0.100)" in first


def test_untested_predictions_are_said_to_be_so_also_when_all_tests_were_left_out():
    (line,) = outlook(of(NOT_TESTED), SECTION)
    assert "not tested" in line
    empty = SKILL | dict.fromkeys(("rmse", "rmse_last", "rmse_linear", "inside_95")) | {"n": 0, "n_left_out": 3}
    assert outlook(of(NOT_TESTED, empty), SECTION) == [line]


def test_nothing_to_say_and_other_sections_are_silent():
    assert outlook(of(""), SECTION) == []
    assert outlook(of(BEYOND, SKILL), SECTION._replace(task="other")) == []
