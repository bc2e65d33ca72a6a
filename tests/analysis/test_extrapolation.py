from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import analysis
from analysis.continuation import Curve, continue_all, inner_tests
from analysis.extrapolation import (
    BEYOND,
    DERIVED,
    DIRECT,
    LEVELS,
    LINE_BETTER,
    MISFIT,
    MULTIPLES,
    NO_GAP,
    NO_SKILL,
    NOT_TESTED,
    PREDICTIONS_SCHEMA,
    REACH,
    SKILL_SCHEMA,
    TESTS_SCHEMA,
    UNDEFINED,
    extrapolate,
    with_status,
)
from analysis.lines import Values
from analysis.results import load as load_results
from analysis.scaling.choice import LAST, STRAIGHT, inner_test
from analysis.trends import trends

OPTIONS = analysis.Options(draws=200)
SEEN_KEY = ["quantity", "method", "weak", "predictor", "strong", "shown", "x"]
BANDS = [f"y_{side}_{level * 100:.0f}" for level in LEVELS for side in ("low", "high")]


def of_world(store_writer, root, world):
    root.mkdir()
    writer = store_writer(root)
    writer.world(world)
    estimates = analysis.estimate(load_results(root), OPTIONS)
    return estimates, extrapolate(estimates)


@pytest.fixture(scope="module")
def six(small_world):
    """Six rungs: the weakest supervisor has five students, so that two models can be hidden."""
    return small_world(rungs=6, seeds=3, n_test=1200, methods=("naive",))


@pytest.fixture(scope="module")
def reference(store_writer, tmp_path_factory, six):
    return of_world(store_writer, tmp_path_factory.mktemp("six") / "store", six)


def worse_top(method: str, weak: int, strong: int) -> float:
    """PGR as in `six` but for the students of the largest model, which learn little."""
    return 0.1 if strong == 5 else 0.72 - 0.08 * (strong - weak - 1)


@pytest.mark.parametrize(
    "change",
    [
        {"pgr": worse_top},
        {"ceiling": (0.646, 0.726, 0.790, 0.850, 0.908, 0.999)},
        {"ceiling": (0.646, 0.726, 0.790, 0.850, 0.908, 0.94), "pgr": worse_top},
    ],
    ids=["students", "ceiling", "both"],
)
def test_results_of_a_hidden_model_change_no_prediction_for_it(reference, six, store_writer, tmp_path, change):
    """All origins hide the largest model: whatever was measured on it, estimates and bands stay the same numbers."""
    _, before = reference
    _, after = of_world(store_writer, tmp_path / "store", replace(six, **change))
    columns = [*SEEN_KEY, "y", *BANDS]
    assert_frame_equal(after.tests.select(columns), before.tests.select(columns), check_exact=True)
    hidden = pl.col("strong") == "rung5"
    changed = before.tests.join(after.tests, on=SEEN_KEY, nulls_equal=True).filter(
        pl.col("observed") != pl.col("observed_right")
    )
    assert changed.height > 0
    assert changed.filter(~hidden).is_empty()


def test_no_result_beyond_an_origin_changes_its_predictions(reference, six, store_writer, tmp_path):
    """The two largest models differ: predictions from three students of the weakest supervisor, which precede both,
    do not. Students, ceilings and PGR name that origin alike: by four rungs shown."""
    _, before = reference
    other = replace(
        six,
        ceiling=(0.646, 0.726, 0.790, 0.850, 0.93, 0.98),
        pgr=lambda method, weak, strong: 0.3 if strong >= 4 else 0.72 - 0.08 * (strong - weak - 1),
    )
    _, after = of_world(store_writer, tmp_path / "store", other)
    columns = [*SEEN_KEY, "y", *BANDS]

    def earliest(found):
        return found.tests.filter((pl.col("shown") == 4) & (pl.col("weak").is_null() | (pl.col("weak") == "rung0")))

    assert set(earliest(before)["quantity"]) == {"student", "ceiling", "pgr"}
    assert_frame_equal(earliest(after).select(columns), earliest(before).select(columns), check_exact=True)


def test_accuracies_are_predicted_alike_whether_or_not_a_hidden_pair_has_a_gap(reference, six, store_writer, tmp_path):
    """A ceiling of the largest model at the level of the weakest supervisor takes the gaps away, and PGR with them."""
    _, before = reference
    low = replace(six, ceiling=(0.646, 0.726, 0.790, 0.850, 0.908, 0.65))
    estimates, after = of_world(store_writer, tmp_path / "store", low)
    assert not estimates.pairs.filter(pl.col("strong") == "rung5")["has_gap"].any()
    columns = [*SEEN_KEY, "y", *BANDS]
    accuracies = pl.col("quantity") != "pgr"
    assert_frame_equal(
        after.tests.filter(accuracies).select(columns),
        before.tests.filter(accuracies).select(columns),
        check_exact=True,
    )
    assert "rung5" not in set(after.tests.filter(~accuracies)["strong"])
    assert "pgr" not in set(after.predictions["quantity"])


def test_predictions_beyond_the_data_do_follow_the_largest_model(reference, six, store_writer, tmp_path):
    """Without this, the tests above would pass for predictions that look at nothing."""
    _, before = reference
    _, after = of_world(store_writer, tmp_path / "store", replace(six, pgr=worse_top))

    def last(found):
        return found.predictions.filter((pl.col("quantity") == "student") & (pl.col("reach") > REACH * 0.999))["y"]

    assert np.all(last(after).to_numpy() < last(before).to_numpy())


def test_derived_pgr_at_hidden_models_is_computed_from_predicted_accuracies(reference):
    estimates, found = reference
    by = found.tests.filter(pl.col("predictor") == DERIVED)
    rows = by.filter(pl.col("quantity") == "pgr")
    assert set(rows["weak"]) >= {"rung0", "rung1"}
    weak_acc = dict(estimates.pairs.select("weak", "weak_acc").iter_rows())
    students = by.filter(pl.col("quantity") == "student")
    ceilings = by.filter(pl.col("quantity") == "ceiling")
    for row in rows.to_dicts():
        same = (pl.col("strong") == row["strong"]) & (pl.col("ahead") == row["ahead"])
        student = students.filter(same & (pl.col("weak") == row["weak"]))["y"].item()
        ceiling = ceilings.filter(same)["y"].item()
        weak = weak_acc[row["weak"]]
        assert row["y"] == pytest.approx((student - weak) / (ceiling - weak))


def test_derived_pgr_beyond_the_data_is_computed_from_predicted_accuracies(reference):
    estimates, found = reference
    by = found.predictions.filter((pl.col("predictor") == DERIVED) & (pl.col("quantity") != "ceiling"))
    wide = by.pivot(on="quantity", index=["weak", "x"], values="y").drop_nulls()
    ceiling = found.predictions.filter(pl.col("quantity") == "ceiling").select("x", ceiling="y")
    weak = estimates.pairs.select("weak", "weak_acc").unique()
    wide = wide.join(ceiling, on="x").join(weak, on="weak")
    assert wide.filter(pl.col("weak") == "rung0").height == MULTIPLES.size
    expected = (wide["student"] - wide["weak_acc"]) / (wide["ceiling"] - wide["weak_acc"])
    np.testing.assert_allclose(wide["pgr"], expected)


def test_what_was_observed_is_the_measured_pair(reference):
    estimates, found = reference
    pairs = estimates.pairs.select("weak", "strong", "student_acc", "pgr", "ceiling_acc", "strong_x")
    tests = found.tests.filter(pl.col("quantity").is_in(["student", "pgr"])).join(pairs, on=["weak", "strong"])
    for quantity, column in (("student", "student_acc"), ("pgr", "pgr")):
        rows = tests.filter(pl.col("quantity") == quantity)
        assert rows.height > 0
        np.testing.assert_allclose(rows["observed"], rows[column])
        np.testing.assert_allclose(rows["x"], rows["strong_x"])


def test_the_last_value_baseline_is_the_last_value(reference):
    estimates, found = reference
    rows = found.tests.filter(
        (pl.col("quantity") == "student") & (pl.col("predictor") == LAST) & (pl.col("weak") == "rung0")
    )
    measured = estimates.pairs.filter(pl.col("weak") == "rung0").sort("strong_rung")["student_acc"].to_list()
    assert sorted(rows.select("shown", "strong").iter_rows()) == [(4, "rung4"), (4, "rung5"), (5, "rung5")]
    assert rows["y"].to_list() == pytest.approx([measured[shown - 2] for shown in rows["shown"]])


@pytest.mark.parametrize("frame", ["predictions", "tests"])
def test_bands_are_nested_and_hold_the_estimate(reference, frame):
    _, found = reference
    rows = getattr(found, frame).filter(~pl.col("predictor").is_in([LAST, STRAIGHT]), pl.col("y").is_not_null())
    assert rows.height > 0
    order = ["y_low_95", "y_low_80", "y_low_50", "y", "y_high_50", "y_high_80", "y_high_95"]
    assert np.all(np.diff(rows.select(order).to_numpy(), axis=1) >= -1e-12)
    shares = rows.filter(pl.col("quantity") != "pgr")
    assert shares["y_low_95"].min() >= 0  # type: ignore[operator]
    assert shares["y_high_95"].max() <= 1  # type: ignore[operator]


def test_bands_widen_with_the_distance(reference):
    _, found = reference
    for _, rows in found.predictions.filter(pl.col("quantity") == "student").group_by("weak"):
        width = (rows.sort("x")["y_high_50"] - rows.sort("x")["y_low_50"]).to_numpy()
        assert width[-1] > width[0]


def test_inside_says_whether_the_observed_is_in_the_band(reference):
    _, found = reference
    rows = found.tests.filter(pl.col("predictor").is_in([DERIVED, DIRECT]))
    for level in ("50", "80", "95"):
        inside = rows["observed"].is_between(rows[f"y_low_{level}"], rows[f"y_high_{level}"])
        assert inside.to_list() == rows[f"inside_{level}"].to_list()


def test_skill_is_the_error_of_the_tests_and_decides_the_status(reference):
    _, found = reference
    assert found.skill.height > 0
    for row in found.skill.filter(pl.col("n") > 0).to_dicts():
        mine = found.tests.filter(
            (pl.col("quantity") == row["quantity"]) & pl.col("method").eq_missing(pl.lit(row["method"]))
        )
        own = mine.filter(pl.col("predictor") == row["predictor"])
        key = ["weak", "strong", "shown"]
        last = mine.filter(pl.col("predictor") == LAST).join(own.select(key), on=key, nulls_equal=True)

        def rmse(rows):
            return float(np.sqrt(np.mean((rows["y"] - rows["observed"]).to_numpy() ** 2)))

        assert row["n"] == own.height == last.height
        assert (row["rmse"], row["rmse_last"]) == pytest.approx((rmse(own), rmse(last)))
        status = found.predictions.filter(
            (pl.col("quantity") == row["quantity"]) & (pl.col("predictor") == row["predictor"])
        )["status"].unique()
        expected = BEYOND if row["rmse"] < row["rmse_linear"] else LINE_BETTER
        expected = expected if row["rmse"] < row["rmse_last"] else NO_SKILL
        assert set(status) - {MISFIT, UNDEFINED} <= {expected}
        assert not set(status) & {BEYOND, LINE_BETTER, NO_SKILL} - {expected}


def test_ahead_counts_rungs_from_the_largest_model_shown(reference):
    _, found = reference
    rungs = found.tests["strong"].str.strip_prefix("rung").cast(pl.Int64) + 1
    assert found.tests["ahead"].to_list() == (rungs - found.tests["shown"]).to_list()


def test_every_test_of_pgr_is_made_or_counted_as_left_out(reference, six, store_writer, tmp_path):
    """Without a gap at the largest model, its tests are left out; with the others they are as many as of students."""
    _, after = of_world(
        store_writer, tmp_path / "store", replace(six, ceiling=(0.646, 0.726, 0.790, 0.850, 0.908, 0.65))
    )
    for found in (reference[1], after):
        key = ["weak", "strong", "shown"]
        students = found.tests.filter((pl.col("quantity") == "student") & (pl.col("predictor") == DERIVED))
        made = found.tests.filter((pl.col("quantity") == "pgr") & (pl.col("predictor") == DERIVED))
        left = found.left_out.filter(pl.col("predictor") == DERIVED)
        assert sorted([*made.select(key).iter_rows(), *left.select(key).iter_rows()]) == sorted(
            students.select(key).iter_rows()
        )
        row = found.skill.filter((pl.col("quantity") == "pgr") & (pl.col("predictor") == DERIVED)).row(0, named=True)
        assert (row["n"], row["n_left_out"]) == (made.height, left.height)
    largest = after.left_out.filter((pl.col("strong") == "rung5") & (pl.col("predictor") == DERIVED))
    assert set(largest["reason"]) == {NO_GAP}
    reasons = dict(after.refused.filter(pl.col("quantity") == "pgr").select("weak", "reason").iter_rows())
    assert "the largest student, rung5, has no gap" in reasons["rung0"]
    assert "1 student is too few" in reasons["rung4"]


def test_seeds_of_a_hidden_model_do_not_widen_what_is_shown():
    """At an origin the few-seed correction knows only the models shown: here the largest has two seeds, others nine."""
    draws = np.linspace(-0.02, 0.02, 40)[:, None] * np.ones(5)
    estimate = np.array([0.6, 0.7, 0.76, 0.8, 0.82])
    values = Values(estimate, estimate + draws, estimate + 0 * draws, estimate + draws, np.array([9, 9, 9, 9, 2]))
    key = {"quantity": "student"}
    curve = Curve(key, tuple("abcde"), 10.0 ** np.arange(5), values, 1000)
    assert curve.first(4).values.fewest_seeds == 9
    assert curve.values.fewest_seeds == 2
    shown, same = curve.first(4), replace(values.only(slice(4)), n_seeds=9)
    expected = continue_all([Curve(key, tuple("abcd"), shown.x, same, 1000)])[0]
    at = np.array([1e4])
    for level in LEVELS:
        own, other = (c.at(at, with_noise=True).interval(level) for c in (continue_all([shown])[0], expected))
        assert (own.low, own.high) == (other.low, other.high)


@pytest.mark.parametrize("n_test", [1000, None], ids=["shares", "PGR"])
def test_inner_tests_of_many_curves_are_those_of_each(n_test):
    rng = np.random.default_rng(0)
    x = 10.0 ** np.arange(7)
    curves = []
    for _ in range(3):
        y = 0.9 - 0.4 * x ** -rng.uniform(0.05, 0.4) + rng.normal(0, 0.005, 7)
        values = Values(y, *(np.tile(y, (2, 1)) for _ in range(3)), 3)
        curves.append(Curve({"quantity": "student"}, tuple("abcdefg"), x, values, n_test))
    for curve, found in zip(curves, inner_tests(curves), strict=True):
        expected = inner_test(curve.points, curve.standing, curve.loss, horizon=2)
        assert found.shown.tolist() == expected.shown.tolist()
        assert set(found.errors) == set(expected.errors) >= {"last", "linear", "power_floor"}
        for name, errors in found.errors.items():
            np.testing.assert_allclose(errors, expected.errors[name], rtol=1e-3, atol=1e-4)


def test_predictions_reach_ten_times_the_largest_compute(reference):
    estimates, found = reference
    largest = estimates.ladder["pretrain_flops"].max()
    for (quantity, _, predictor), rows in found.predictions.group_by("quantity", "weak", "predictor"):
        assert rows["reach"].is_sorted()
        if quantity == "pgr" and predictor == "derived":  # only where the predicted gap is clear
            assert rows["x"].min() >= largest * (1 - 1e-9)
            assert rows["x"].max() <= 10 * largest * (1 + 1e-9)
        else:
            assert (rows["x"].min(), rows["x"].max()) == pytest.approx((largest, 10 * largest))


def test_the_same_estimates_are_continued_to_the_same_numbers(reference):
    estimates, found = reference
    again = extrapolate(estimates)
    assert_frame_equal(again.predictions, found.predictions, check_exact=True)
    assert_frame_equal(again.tests, found.tests, check_exact=True)


def test_three_students_are_continued_but_not_tested(store_writer, small_world, tmp_path):
    _, found = of_world(store_writer, tmp_path / "store", small_world(rungs=4, methods=("naive",), n_test=800))
    assert found.tests.is_empty()
    assert set(found.predictions["status"]) == {NOT_TESTED}
    assert set(found.predictions["weak"].drop_nulls()) == {"rung0"}


def test_two_rungs_give_frames_without_rows(store_writer, small_world, tmp_path):
    _, found = of_world(store_writer, tmp_path / "store", small_world(rungs=2))
    for frame, schema in (
        (found.predictions, PREDICTIONS_SCHEMA),
        (found.tests, TESTS_SCHEMA),
        (found.skill, SKILL_SCHEMA),
    ):
        assert frame.is_empty()
        assert dict(frame.schema) == schema


def test_without_a_gap_accuracies_are_continued_and_pgr_is_not(store_writer, small_world, tmp_path):
    flat = (0.7,) * 6
    world = small_world(rungs=5, supervisor=flat, ceiling=flat, seed_sd=0.0, methods=("naive",))
    estimates, found = of_world(store_writer, tmp_path / "store", world)
    assert not estimates.pairs["has_gap"].any()
    assert set(found.predictions["quantity"]) == {"student", "ceiling"}
    assert set(found.tests["quantity"]) == {"student", "ceiling"}


def test_one_seed_is_enough(store_writer, small_world, tmp_path):
    _, found = of_world(store_writer, tmp_path / "store", small_world(rungs=5, seeds=1, methods=("naive",)))
    numbers = found.predictions.select("y", *BANDS).to_numpy()
    assert numbers.size > 0
    assert np.all(np.isfinite(numbers))


def test_own_baselines_and_oracles_are_continued_by_themselves(store_writer, small_world, tmp_path):
    """A method that is measured against ceilings of its own has them continued, and its PGR derived from them."""
    root, oracle = tmp_path / "store", "stopped [oracle]"
    root.mkdir()
    writer = store_writer(root)
    writer.world(small_world(rungs=6, n_test=1200, methods=("naive", oracle)))
    path = root / "sweeps" / "sweep" / "manifest.parquet"
    ours = pl.col("method") == oracle
    pl.read_parquet(path).with_columns(
        oracle=ours, baseline=pl.when(ours).then(pl.lit("equal compute")).otherwise(pl.lit(""))
    ).write_parquet(path)
    estimates = analysis.estimate(load_results(root), OPTIONS)
    found = extrapolate(estimates)
    ceilings = found.predictions.filter(pl.col("quantity") == "ceiling")
    assert set(ceilings["method"]) == {None, oracle}
    own = found.predictions.filter((pl.col("method") == oracle) & (pl.col("weak") == "rung0"))
    assert own.filter(pl.col("quantity") == "pgr").height > 0, found.refused.select("weak", "method", "reason").rows()
    wide = own.filter(pl.col("predictor") == DERIVED).pivot(on="quantity", index="x", values="y").drop_nulls()
    assert wide.height > 0
    measured = estimates.pairs.filter((pl.col("method") == oracle) & (pl.col("weak") == "rung0"))
    weak = measured["weak_acc"][0]
    np.testing.assert_allclose(wide["pgr"], (wide["student"] - weak) / (wide["ceiling"] - weak))


def test_predictions_start_where_the_line_within_the_data_ends(reference):
    """At the fitted curve, or at the last point where none fits; PGR follows from both."""
    estimates, found = reference
    fitted = trends(estimates)
    key = ["quantity", "method", "weak"]
    first = found.predictions.filter(pl.col("reach") == 1, pl.col("quantity").is_in(["student", "ceiling"]))
    ends = fitted.curves.sort("x").group_by(key).last().select(*key, "x", end="y")
    joined = first.join(ends, on=key, how="left", nulls_equal=True)
    drawn = joined.filter(pl.col("end").is_not_null())
    assert drawn.height > 0
    np.testing.assert_allclose(drawn["y"], drawn["end"], atol=1e-9)
    measured = estimates.pairs.filter(pl.col("strong") == "rung5").select("weak", "student_acc")
    without = joined.filter(pl.col("end").is_null(), pl.col("quantity") == "student").join(measured, on="weak")
    np.testing.assert_allclose(without["y"], without["student_acc"], atol=1e-9)


def test_what_continues_a_curve_that_does_not_fit_is_flagged(store_writer, small_world, tmp_path):
    ceiling = (0.646, 0.82, 0.74, 0.90, 0.80, 0.959)
    settings = {"rungs": 6, "seeds": 3, "n_test": 1200, "seed_sd": 0.01, "methods": ("naive",)}
    world = small_world(**settings, ceiling=ceiling, pgr=lambda method, weak, strong: 0.5)
    _, found = of_world(store_writer, tmp_path / "store", world)
    derived = found.predictions.filter(pl.col("predictor") == DERIVED, pl.col("y").is_not_null())
    assert set(derived.filter(pl.col("quantity") == "ceiling")["status"]) == {MISFIT}
    pgr = derived.filter(pl.col("quantity") == "pgr")
    assert pgr.height > 0
    assert set(pgr["status"]) == {MISFIT}


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((0.1, 0.2, 0.3), BEYOND),
        ((0.2, 0.1, 0.3), NO_SKILL),
        ((0.2, 0.3, 0.1), LINE_BETTER),
        ((0.2, 0.3, None), BEYOND),
    ],
)
def test_a_predictor_has_to_beat_both_baselines(errors, expected):
    key = dict.fromkeys(("task", "form", "settings", "part"), "x") | {"quantity": "student", "method": "naive"}
    names = ("rmse", "rmse_last", "rmse_linear")
    skill = pl.DataFrame([key | {"predictor": DERIVED, "n": 2} | dict(zip(names, errors, strict=True))], SKILL_SCHEMA)
    rows = [key | {"weak": "w", "predictor": DERIVED, "status": status} for status in (None, MISFIT, UNDEFINED)]
    predictions = with_status(pl.DataFrame(rows, PREDICTIONS_SCHEMA), skill)
    assert predictions["status"].to_list() == [expected, MISFIT, UNDEFINED]
