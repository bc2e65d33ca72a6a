from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis
from analysis.estimates import agreements, compare, least_squares_slope
from analysis.results import load as load_results
from analysis.trends import REFUSED

CONFIDENCE = "confidence(max_weight=0.75)"


@pytest.fixture(scope="module")
def reference(reference_store):
    results = load_results(reference_store)
    return results, analysis.estimate(results, analysis.Options(draws=400))


def test_pair_estimates_are_seed_means_and_pgr_is_that_of_the_means(reference):
    results, estimates = reference
    pair = estimates.pairs.filter((pl.col("weak") == "rung1") & (pl.col("strong") == "rung4")).row(0, named=True)
    seeds = results.pairs.filter(
        (pl.col("weak") == "rung1") & (pl.col("strong") == "rung4") & (pl.col("method") == pair["method"])
    )
    weak, student, ceiling = (float(seeds[f"{name}_acc"].mean()) for name in ("weak", "student", "ceiling"))  # type: ignore[arg-type]
    assert [pair["weak_acc"], pair["student_acc"], pair["ceiling_acc"]] == pytest.approx([weak, student, ceiling])
    assert pair["gap"] == pytest.approx(ceiling - weak)
    assert pair["pgr"] == pytest.approx((student - weak) / (ceiling - weak))
    assert pair["agreement"] == pytest.approx(seeds["agreement"].mean())
    assert (pair["n_seeds"], pair["n_test"]) == (3, 1200)


def test_every_estimate_lies_within_its_interval(reference):
    _, estimates = reference
    names = ["weak_acc", "student_acc", "ceiling_acc", "gap", "pgr", "agreement"]
    for name in names:
        rows = estimates.pairs.filter(pl.col(name).is_not_null())
        assert (rows[f"{name}_low"] <= rows[name]).all()
        assert (rows[name] <= rows[f"{name}_high"]).all()


def test_whether_a_pair_has_a_gap_is_the_same_for_every_method(reference):
    _, estimates = reference
    decided = estimates.pairs.group_by("weak", "strong").agg(pl.col("has_gap", "gap", "gap_low").n_unique())
    assert decided.select(pl.col("has_gap", "gap", "gap_low").max()).row(0) == (1, 1, 1)
    assert (estimates.pairs["has_gap"] == (estimates.pairs["gap_low"] > 0)).all()
    assert (estimates.pairs["has_gap"] == estimates.pairs["pgr"].is_not_null()).all()


def test_a_pair_without_a_gap_has_no_pgr_and_is_counted(writer, small_world):
    writer.world(small_world(supervisor=(0.7, 0.7, 0.7), ceiling=(0.7, 0.7, 0.9), seed_sd=0.0, n_test=2000))
    estimates = analysis.estimate(load_results(writer.root))
    flat = estimates.pairs.filter(pl.col("strong") == "rung1")
    assert not flat["has_gap"].any()
    assert flat["pgr"].null_count() == flat.height
    counts = estimates.methods.select("statistic", "n_pairs", "n_no_gap").unique().sort("statistic").rows()
    assert counts == [("mean", 2, 1), ("median", 2, 1), ("of_means", 3, 1)]


def test_grid_statistics_are_what_they_are_called(reference):
    _, estimates = reference
    naive = estimates.pairs.filter(pl.col("method") == "naive")
    by = {r["statistic"]: r for r in estimates.methods.filter(pl.col("method") == "naive").to_dicts()}
    assert by["mean"]["pgr"] == pytest.approx(naive["pgr"].mean())
    assert by["median"]["pgr"] == pytest.approx(naive["pgr"].median())
    weak, student, ceiling = (
        float(np.mean(naive[f"{name}_acc"].to_numpy())) for name in ("weak", "student", "ceiling")
    )
    assert by["of_means"]["pgr"] == pytest.approx((student - weak) / (ceiling - weak))
    assert all(row["pgr_low"] < row["pgr"] < row["pgr_high"] for row in by.values())


def test_method_differences_are_paired_means_by_size_gap(reference):
    _, estimates = reference
    wide = estimates.pairs.filter(pl.col("has_gap")).pivot(
        on="method", index=["weak", "strong", "size_gap"], values=["pgr", "student_acc"]
    )
    difference = wide["pgr_confidence(max_weight=0.75)"] - wide["pgr_naive"]
    for row in estimates.differences.to_dicts():
        group = difference if row["size_gap"] is None else difference.filter(wide["size_gap"] == row["size_gap"])
        assert row["pgr_difference"] == pytest.approx(group.mean())
        assert row["n_pairs"] == len(group)
        assert row["reference"] == "naive"
    assert estimates.differences["size_gap"].to_list() == [None, 1, 2, 3, 4, 5]


def test_a_paired_difference_is_known_better_than_its_two_sides(reference):
    _, estimates = reference

    def width(row, name):
        return row[f"{name}_high"] - row[f"{name}_low"]

    difference = estimates.differences.filter(pl.col("size_gap").is_null()).row(0, named=True)
    sides = estimates.methods.filter(pl.col("statistic") == "mean").to_dicts()
    assert width(difference, "pgr_difference") < sum(width(side, "pgr") for side in sides)


def test_the_ladder_has_supervisors_and_ceilings_by_rung(reference):
    _, estimates = reference
    assert estimates.ladder["model"].to_list() == [f"rung{i}" for i in range(6)]
    assert estimates.ladder["supervisor_acc"].is_null().to_list() == [False] * 5 + [True]
    assert estimates.ladder["ceiling_acc"].is_null().to_list() == [True] + [False] * 5
    assert estimates.ladder["pretrain_flops"].is_sorted()


def test_the_same_results_give_the_same_estimates(reference):
    results, estimates = reference
    again = analysis.estimate(results, analysis.Options(draws=400))
    assert again.pairs.equals(estimates.pairs)
    assert again.methods.equals(estimates.methods)


def test_one_seed_and_one_pair_are_enough_for_estimates(writer, small_world):
    writer.world(small_world(rungs=2, seeds=1, methods=("naive",), n_test=2000))
    estimates = analysis.estimate(load_results(writer.root))
    assert estimates.pairs.height == 1
    assert estimates.pairs["n_seeds"].to_list() == [1]
    assert estimates.differences.is_empty()
    assert set(analysis.trends(estimates).fits["status"]) == {REFUSED}


def test_empty_results_give_empty_estimates(tmp_path):
    estimates = analysis.estimate(load_results(tmp_path))
    assert estimates.pairs.is_empty()
    assert estimates.sections == ()
    assert analysis.trends(estimates).curves.is_empty()


def test_two_tasks_are_two_sections(writer, small_world):
    writer.world(small_world(task="a"), sweep="a")
    writer.world(small_world(task="b", form="compare"), sweep="b", random_seed=1)
    estimates = analysis.estimate(load_results(writer.root))
    assert [grouped.section[:2] for grouped, _ in estimates.sections] == [("a", "classify"), ("b", "compare")]
    assert estimates.of(estimates.sections[0][0].section, estimates.pairs)["task"].unique().to_list() == ["a"]


def test_one_name_for_two_different_runs_is_refused(writer, small_world):
    writer.world(small_world(), sweep="first")
    rows = pl.read_parquet(writer.root / "sweeps" / "first" / "manifest.parquet")
    writer.world(small_world(settings="s1"), sweep="second")
    retrained = rows.with_columns(pl.col("supervisor_id").str.replace("-s0-", "-s1-", literal=True))
    writer.manifest("second", retrained.to_dicts())
    results = load_results(writer.root)
    with pytest.raises(analysis.AnalysisError, match=r"weak rung0.* different runs \(supervisor_id\).*name one sweep"):
        analysis.estimate(results)
    assert analysis.estimate(load_results(writer.root, "first")).pairs.height == 6


def test_a_student_that_is_missing_at_one_seed_leaves_the_other_seeds(writer, small_world):
    writer.world(small_world(seeds=3))
    (writer.root / "runs" / "facts-s0-student-0-2-0-1" / "DONE").unlink()
    estimates = analysis.estimate(load_results(writer.root))
    by_method = estimates.pairs.filter((pl.col("weak") == "rung0") & (pl.col("strong") == "rung2")).sort("method")
    assert by_method["n_seeds"].to_list() == [3, 2]
    assert by_method["gap"].n_unique() == 1
    # the methods share no set of seeds at this pair, so it is in no paired difference
    overall = estimates.differences.filter(pl.col("size_gap").is_null()).row(0, named=True)
    assert overall["n_pairs"] + overall["n_no_gap"] == 2


@pytest.mark.parametrize("options", [{"draws": 10}, {"level": 95.0}])
def test_options_out_of_range_are_refused_by_value(options):
    with pytest.raises(analysis.AnalysisError, match=r"10|95\.0"):
        analysis.Options(**options)


def test_agreements_follow_from_their_three_shares():
    # supervisor right .8, agree .7, agree and right .62: .62/.8 and .08/.2
    np.testing.assert_allclose(agreements(np.array([0.8, 0.7, 0.62])), [0.7, 0.775, 0.4])


def test_pgr_curves_follow_from_the_fitted_curves(reference):
    _, estimates = reference
    fitted = analysis.trends(estimates)

    def curve(quantity, method=None, weak=None):
        rows = fitted.curves.filter(
            (pl.col("quantity") == quantity) & pl.col("method").eq_missing(method) & pl.col("weak").eq_missing(weak)
        )
        return rows.sort("x")

    pgr, student = curve("pgr", "naive", "rung0"), curve("student", "naive", "rung0")
    joined = pgr.join(student, on="x", suffix="_student")
    weak = estimates.ladder.row(0, named=True)["supervisor_acc"]
    ceiling = np.interp(np.log(joined["x"]), np.log(curve("ceiling")["x"]), curve("ceiling")["y"])
    expected = (joined["y_student"].to_numpy() - weak) / (ceiling - weak)
    np.testing.assert_allclose(joined["y"], expected, atol=2e-3)  # interpolation on the grid
    assert (pgr["y_low"] <= pgr["y"]).all()
    assert (pgr["y"] <= pgr["y_high"]).all()


def test_curves_with_too_few_points_say_why(reference):
    fits = analysis.trends(reference[1]).fits
    assert set(fits.filter(pl.col("quantity") == "student", pl.col("weak") == "rung4")["status"]) == {REFUSED}
    reasons = fits.filter(pl.col("status") == REFUSED)["diagnosis"]
    assert reasons.str.contains("at least 3 strong models").all()
    weak2 = fits.filter(pl.col("quantity") == "student", pl.col("weak") == "rung2")
    assert not weak2["testable"].any()
    assert weak2["diagnosis"].str.contains("not testable").all()


def test_slopes_of_agreement_with_mistakes_are_least_squares(reference):
    _, estimates = reference
    slopes = estimates.agreement_slopes.filter(pl.col("weak").is_not_null())
    # the five larger students of rung0 down to the three of rung2; two are no line
    assert slopes.select("weak", "n_students").unique().sort("weak").rows() == [
        ("rung0", 5),
        ("rung1", 4),
        ("rung2", 3),
    ]
    for row in slopes.to_dicts():
        points = estimates.pairs.filter(method=row["method"], weak=row["weak"])
        expected = np.polyfit(np.log10(points["strong_x"]), points["agreement_when_weak_wrong"], 1)[0]
        assert row["slope"] == pytest.approx(expected)
        assert row["slope_low"] < row["slope"] < row["slope_high"]
        assert (row["x_axis"], row["n_seeds"]) == ("compute", 3)


def test_the_slope_of_a_line_is_its_own():
    x = np.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(least_squares_slope(x, np.stack([2 * x + 1, -x])), [[2.0], [-1.0]])


@given(
    st.floats(-3, 3),
    st.lists(st.tuples(st.floats(-5, 5), st.integers(2, 5)), min_size=1, max_size=4),
)
def test_lines_with_levels_of_their_own_share_a_slope(slope, lines):
    line = np.repeat(np.arange(len(lines)), [n for _, n in lines])
    x = np.concatenate([np.arange(n) + 0.5 * index for index, (_, n) in enumerate(lines)])
    y = slope * x + np.array([level for level, _ in lines])[line]
    np.testing.assert_allclose(least_squares_slope(x, y, line), [slope], atol=1e-9)


def test_the_pooled_slope_is_that_of_deviations_from_each_supervisors_mean(reference):
    _, estimates = reference
    pooled = estimates.agreement_slopes.filter(pl.col("weak").is_null())
    assert pooled.select("n_supervisors", "n_students").rows() == [(4, 14)] * 2  # rung4 has one student: no line
    for row in pooled.to_dicts():
        centred = (
            estimates.pairs.filter(method=row["method"])
            .with_columns(x=pl.col("strong_x").log10(), y=pl.col("agreement_when_weak_wrong"))
            .with_columns(pl.col("x", "y") - pl.col("x", "y").mean().over("weak"))
        )
        expected = (centred["x"] * centred["y"]).sum() / (centred["x"] ** 2).sum()
        assert row["slope"] == pytest.approx(expected)
        assert row["slope_low"] < row["slope"] < row["slope_high"]


def test_signs_over_pairs_count_where_a_method_is_ahead(reference):
    _, estimates = reference
    wide = estimates.pairs.filter(pl.col("has_gap")).pivot(
        on="method", index=["weak", "strong", "size_gap"], values="pgr"
    )
    ahead = wide[CONFIDENCE] > wide["naive"]
    overall = estimates.differences.filter(pl.col("size_gap").is_null()).row(0, named=True)
    assert (overall["n_higher"], overall["n_lower"]) == (ahead.sum(), (~ahead).sum())
    assert 0 < overall["n_higher"] < overall["n_pairs"]  # else this test would say little
    by_gap = estimates.differences.filter(pl.col("size_gap").is_not_null())
    assert by_gap["n_higher"].sum() == overall["n_higher"]


def test_any_two_methods_can_be_compared_and_the_other_way_round_is_the_opposite(reference):
    _, estimates = reference
    one = compare(estimates, CONFIDENCE)
    assert one.equals(estimates.differences)
    other = compare(estimates, "naive", CONFIDENCE)
    for name in ("pgr_difference", "accuracy_difference"):
        np.testing.assert_allclose(other[name], -one[name])
        np.testing.assert_allclose(other[f"{name}_low"], -one[f"{name}_high"])
    assert other["n_higher"].to_list() == one["n_lower"].to_list()


def test_two_methods_that_are_not_the_reference_are_compared_with_each_other(writer, small_world):
    writer.world(small_world(methods=("naive", "one", "two"), pgr=lambda method, *_: 0.8 if method == "two" else 0.3))
    estimates = analysis.estimate(load_results(writer.root), analysis.Options(draws=200))
    overall = compare(estimates, "two", "one").row(0, named=True)
    means = {r["method"]: r["pgr"] for r in estimates.methods.filter(pl.col("statistic") == "mean").to_dicts()}
    assert overall["pgr_difference"] == pytest.approx(means["two"] - means["one"])
    assert overall["n_higher"] + overall["n_lower"] == overall["n_pairs"]


@pytest.mark.parametrize(
    ("methods", "words"),
    [(("boosting", "naive"), "no method 'boosting'.*naive"), (("naive", "naive"), "differs from itself")],
)
def test_a_comparison_that_cannot_be_made_says_why(reference, methods, words):
    with pytest.raises(analysis.AnalysisError, match=words):
        compare(reference[1], *methods)


def test_methods_that_no_section_shares_cannot_be_compared(writer, small_world):
    writer.world(small_world(task="a", methods=("naive",)), sweep="a")
    writer.world(small_world(task="b", methods=("other",)), sweep="b")
    estimates = analysis.estimate(load_results(writer.root), analysis.Options(draws=100))
    with pytest.raises(analysis.AnalysisError, match="no pair was trained with both 'other' and 'naive'"):
        compare(estimates, "other", "naive")


def test_empty_estimates_compare_nothing(tmp_path):
    estimates = analysis.estimate(load_results(tmp_path))
    assert estimates.tasks.is_empty()
    with pytest.raises(analysis.AnalysisError, match="no method 'confidence'; there are: none"):
        compare(estimates, "confidence")


def test_one_test_example_is_refused_since_it_cannot_be_resampled(writer, small_world):
    writer.world(small_world(n_test=1, seeds=1, rungs=2))
    results = load_results(writer.root)
    assert results.pairs["has_gap"].null_count() == results.pairs.height
    with pytest.raises(analysis.AnalysisError, match=r"task facts share 1 test example.*larger test part"):
        analysis.estimate(results)


def test_two_test_examples_are_a_valid_if_useless_result(writer, small_world):
    writer.world(small_world(n_test=2, seeds=1, rungs=2))
    results = load_results(writer.root)
    estimates = analysis.estimate(results, analysis.Options(draws=100))
    assert estimates.pairs.height == 2
    assert (estimates.pairs["student_acc_low"] >= 0).all()
    assert (estimates.pairs["student_acc_high"] <= 1).all()


def test_runs_that_all_predict_the_same_have_no_gap_and_agree_throughout(writer, small_world):
    writer.world(small_world())
    results = load_results(writer.root)
    test = results.tests["facts"]
    constant = replace(test, prediction=np.ones_like(test.prediction))
    estimates = analysis.estimate(replace(results, tests={"facts": constant}), analysis.Options(draws=100))
    assert not estimates.pairs["has_gap"].any()
    assert estimates.pairs["pgr"].null_count() == estimates.pairs.height
    assert set(estimates.pairs["agreement_when_weak_wrong"]) == {1.0}
    assert set(estimates.methods["pgr"]) == {None}
    assert set(estimates.pairs["students_one_class"]) == {2}


def test_supervisors_that_are_never_wrong_have_no_agreement_with_mistakes(writer, small_world):
    writer.world(small_world(rungs=5))
    results = load_results(writer.root)
    test = results.tests["facts"]
    perfect = replace(test, prediction=np.repeat(test.gold[:, None], test.prediction.shape[1], axis=1))
    estimates = analysis.estimate(replace(results, tests={"facts": perfect}), analysis.Options(draws=100))
    assert estimates.pairs["agreement_when_weak_wrong"].null_count() == estimates.pairs.height
    assert estimates.agreement_slopes["slope"].null_count() == estimates.agreement_slopes.height > 0
    assert analysis.summary(results, estimates)
