import polars as pl

from analysis.extrapolation import (
    BEYOND,
    DERIVED,
    LEFT_OUT_SCHEMA,
    NO_SKILL,
    NOT_TESTED,
    PREDICTIONS_SCHEMA,
    REFUSED_SCHEMA,
    SKILL_SCHEMA,
    TESTS_SCHEMA,
    Extrapolation,
)
from analysis.frames import Section
from analysis.outlook import outlook

SECTION = Section("facts", "classify", "s0", "transfer/0")
PGR = SECTION._asdict() | {"quantity": "pgr", "method": "naive", "predictor": DERIVED}
BANDS = {"y_low_50": 0.4, "y_high_50": 0.6, "y_low_95": 0.1, "y_high_95": 0.9}
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
        " square of 4; the last value by 0.100, a straight line by 0.200), 75% inside the 95 % bands."
    )
    assert predicted == (
        "At 10 times the largest measured compute, naive under rung0 is predicted a PGR of 0.50 (50 % band 0.40 to"
        " 0.60, 95 % band 0.10 to 0.90)."
    )


def test_without_skill_nothing_is_predicted():
    _, claimed = outlook(of(NO_SKILL, SKILL | {"rmse": 0.2}), SECTION)
    assert claimed.startswith("Beyond the largest model nothing is claimed for naive")


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
