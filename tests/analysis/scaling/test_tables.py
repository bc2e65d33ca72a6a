"""Tables to curves: known answers, scores of held-out points by hand, and what is wrong with one curve or with all."""

import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import AnalysisError
from analysis.scaling.files import MADE_BY, read_table, rows_where, write_folder
from analysis.scaling.losses import rmsle
from analysis.scaling.surfaces import fit2
from analysis.scaling.tables import HELD_OUT, HIDDEN_IN_TURN, REFUSED, Fits, fit, loss_of

X = np.geomspace(1e18, 1e21, 8)
DRAWS = 40  # enough for code paths; intervals that must hold the truth ask for more


def table(y, x=X, **columns) -> pl.DataFrame:
    return pl.DataFrame({"x": x, "y": y} | columns)


def power_law(x, a=50.0, alpha=0.08):
    return a * np.asarray(x) ** -alpha


def only(fits: Fits, parameter: str, method: str = "resampled residuals") -> dict:
    rows = fits.parameters.filter((pl.col("parameter") == parameter) & (pl.col("method") == method))
    assert rows.height == 1
    return rows.row(0, named=True)


def test_a_noise_free_power_law_comes_back_and_predicts_what_it_did_not_see():
    fits = fit(table(power_law(X)), x="x", y="y", family="power", holdout_largest=2, draws=DRAWS)
    assert only(fits, "alpha")["estimate"] == pytest.approx(0.08, rel=1e-6)
    assert only(fits, "A")["estimate"] == pytest.approx(50, rel=1e-5)
    row = fits.curves.row(0, named=True)
    assert (row["n_points"], row["n_levels"], row["n_tested"], row["tested_on"]) == (6, 6, 2, HELD_OUT)
    assert row["rmsle"] < 1e-6
    assert fits.tests["observed"].to_list() == pytest.approx(power_law(X[-2:]).tolist())


def test_intervals_of_a_noisy_power_law_hold_the_truth():
    noise = np.exp(np.random.default_rng(1).normal(0, 0.01, 24))
    x = np.tile(X, 3)
    fits = fit(table(power_law(x) * noise, x), x="x", y="y", family="power", draws=200)
    for name, truth in (("alpha", 0.08), ("A", 50.0)):
        row = only(fits, name)
        assert row["low"] < truth < row["high"]
        assert row["identified"]


def test_scores_of_held_out_points_are_those_worked_out_by_hand():
    # Fitted: y = 2 at 1, 3 at 10, 4 at 100, a straight line in log x; held out: 1,000 with 4.5 and 10,000 with 8.
    frame = table([2.0, 3.0, 4.0, 4.5, 8.0], x=[1.0, 10.0, 100.0, 1e3, 1e4], part=[1, 1, 1, 0, 0])
    row = fit(frame, x="x", y="y", family="linear", train_where="part==1", loss="squared", draws=DRAWS).curves.row(
        0, named=True
    )
    # The last value says 4, 4; the line says 5, 6.
    last = math.sqrt((math.log(4.5 / 4) ** 2 + math.log(8 / 4) ** 2) / 2)
    line = math.sqrt((math.log(4.5 / 5) ** 2 + math.log(8 / 6) ** 2) / 2)
    assert row["rmsle_last"] == pytest.approx(last)
    assert row["rmsle_linear"] == pytest.approx(line)
    assert row["rmsle"] == pytest.approx(line, rel=1e-6)


def test_inside_counts_compare_each_held_out_mean_with_its_interval():
    noise = np.exp(np.random.default_rng(2).normal(0, 0.01, 8))
    fits = fit(table(power_law(X) * noise), x="x", y="y", holdout_largest=2, draws=DRAWS)
    tests, row = fits.tests, fits.curves.row(0, named=True)
    for p in (50, 80, 95):
        inside = [
            low <= y <= high
            for y, low, high in zip(tests["observed"], tests[f"y_low_{p}"], tests[f"y_high_{p}"], strict=True)
        ]
        assert tests[f"inside_{p}"].to_list() == inside
        assert (row[f"inside_{p}"], row[f"coverage_{p}"]) == (sum(inside), sum(inside) / 2)


def test_repetitions_are_all_fitted_and_tested_as_means():
    frame = table(np.repeat(power_law(X), 2) * np.tile([0.9, 1.1], 8), x=np.repeat(X, 2), seed=np.tile([0, 1], 8))
    fits = fit(frame, x="x", y="y", seed="seed", holdout_largest=1, draws=DRAWS)
    row = fits.curves.row(0, named=True)
    assert (row["n_points"], row["n_levels"], row["n_tested"]) == (14, 7, 1)
    assert fits.tests["observed"].item() == pytest.approx(power_law(X[-1]))


def test_without_points_held_out_the_largest_x_are_hidden_in_turn():
    fits = fit(table(power_law(X)), x="x", y="y", family="power", draws=DRAWS)
    row = fits.curves.row(0, named=True)
    assert (row["n_points"], row["tested_on"]) == (8, HIDDEN_IN_TURN)
    # One x behind the first 7, two behind the first 6.
    assert sorted(fits.tests.select("shown", "x").rows()) == [(6, X[6]), (6, X[7]), (7, X[7])]
    hidden = fits.tests.filter(pl.col("shown") == 7).row(0, named=True)
    assert hidden["last"] == pytest.approx(power_law(X[6]))
    assert hidden["reach"] == pytest.approx(X[7] / X[6])


def test_one_bad_curve_is_a_row_with_its_reason_and_the_others_are_fitted():
    good = table(power_law(X), m=["good"] * 8)
    bad = table([1.0, 2.0, 3.0], x=[1e18, -1.0, 1e20], m=["bad"] * 3)
    lone = table([1.0], x=[1e18], m=["lone"])
    fits = fit(pl.concat([good, bad, lone]), x="x", y="y", by="m", draws=DRAWS)
    rows = {row["m"]: row for row in fits.curves.iter_rows(named=True)}
    assert fits.curves["m"].to_list() == ["bad", "good", "lone"]
    assert rows["good"]["status"] == "converged"
    assert rows["bad"]["status"] == rows["lone"]["status"] == REFUSED
    assert "'x' has -1.0 in row 10" in rows["bad"]["diagnosis"]  # of the whole table, the first row being 1
    assert rows["lone"]["family"] is None
    assert set(fits.parameters["m"]) == {"good"} == set(fits.predict([1e22])["m"])
    with pytest.raises(AnalysisError, match="m=bad was not fitted"):
        _ = fits[0].fit
    assert len(fits) == 3
    assert "2 refused" in repr(fits)


def test_when_all_is_refused_the_frames_are_empty_but_valid():
    fits = fit(table([1.0], x=[1e18], m=["a"]), x="x", y="y", by="m", draws=DRAWS)
    assert fits.curves["status"].to_list() == [REFUSED]
    for frame in (fits.parameters, fits.tests, fits.predict(1e20)):
        assert frame.height == 0
        assert frame.schema["m"] == pl.String
    fits.plot()


def test_equal_values_are_fitted_and_said_to_be_flat():
    row = fit(table(np.full(8, 0.5)), x="x", y="y", draws=DRAWS).curves.row(0, named=True)
    assert row["status"] != REFUSED
    assert "flat" in row["diagnosis"]


def test_keys_keep_their_types_and_empty_keys_are_a_group():
    frame = pl.concat([table(power_law(X), k=pl.Series([k] * 8, dtype=pl.Int16)) for k in (7, None)])
    fits = fit(frame, x="x", y="y", by=["k"], family="power", draws=DRAWS)
    assert fits.curves["k"].to_list() == [7, None]
    assert {f.schema["k"] for f in (fits.curves, fits.parameters, fits.tests, fits.predict([1e22]))} == {pl.Int16}


def test_keys_named_like_a_result_are_told_from_it():
    fits = fit(table(power_law(X), family=["gpt2"] * 8), x="x", y="y", by="family", family="power", draws=DRAWS)
    assert fits.curves.select("by family", "family").rows() == [("gpt2", "power")]
    assert fits[0].label == "family=gpt2"


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(16)))
def test_the_order_of_rows_changes_nothing(order):
    rng = np.random.default_rng(3)
    frame = pl.concat([table(power_law(X, a) * np.exp(rng.normal(0, 0.01, 8)), m=[str(a)] * 8) for a in (40.0, 50.0)])
    ask = {"x": "x", "y": "y", "by": "m", "family": "power", "holdout_largest": 1, "draws": 20}
    assert fit(frame[list(order)], **ask).curves.equals(fit(frame, **ask).curves)


def test_counts_make_the_loss_binomial_and_other_values_do_not():
    y = np.linspace(0.6, 0.8, 8)
    counted = fit(table(y, n=[500] * 8), x="x", y="y", n="n", family="log_odds_linear", draws=DRAWS)
    assert counted.curves["loss"].item() == "binomial deviance"
    assert "'n'" in counted.loss_reason
    positive, signed = (fit(table(v), x="x", y="y", family="linear", draws=DRAWS) for v in (y, y - 0.7))
    assert positive.curves["loss"].item() == "squared errors of log y"
    assert signed.curves["loss"].item() == "squared errors of y"
    assert loss_of("huber_log", 0.01, None).delta == 0.01  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"x": "X"}, "no column 'X'; did you mean 'x'"),
        ({"by": ["x", "x"]}, "named twice"),
        ({"family": "powr"}, "did you mean 'power'"),
        ({"loss": "huber"}, "no loss 'huber'"),
        ({"loss": "binomial"}, "name the column of counts"),
        ({"delta": 0.0}, "delta must be above zero"),
        ({"draws": 3}, "too few"),
        ({"uncertainty": "seeds"}, "name it as seed"),
        ({"uncertainty": "points"}, "residuals, cases, seeds"),
        ({"holdout_largest": -1}, "must not be negative"),
        ({"holdout_largest": 1, "train_where": "x<1e20"}, "not both"),
        ({"train_where": "x>1e30"}, "no row satisfies"),
        ({"train_where": "x>0"}, "every row satisfies"),
    ],
)
def test_wrong_options_are_refused(ask, message):
    frame = table(power_law(X))
    with pytest.raises(AnalysisError, match=message):
        fit(frame, **({"x": "x", "y": "y"} | ask))


@pytest.mark.parametrize(
    ("columns", "ask", "message"),
    [
        ({"y": [1.0, None, *[1.0] * 6]}, {}, "None in row 2"),
        ({"y": [1.0, math.nan, *[1.0] * 6]}, {}, "nan in row 2"),
        ({"x": ["70M", *["1e9"] * 7]}, {}, "'70M' in row 1"),
        ({"x": [0.0, *X[1:]]}, {}, "0.0 in row 1"),
        ({"y": [80.0] * 8, "n": [100] * 8}, {"n": "n"}, "are these percent"),
        ({"y": [80.0, *[0.8] * 7], "n": [100] * 8}, {"n": "n"}, "two units seem to be mixed"),
        (
            {"y": [0.8] * 8, "n": [0.8] * 8},
            {"n": "n"},
            "column 'n' has 0.8 in row 1.*n is a number of examples behind each share of 'y', so at least 1",
        ),
        ({}, {"holdout_largest": 7}, "only 8 different x; with the 7 largest held out, 1 would be left"),
        ({"x": [1e18] * 8}, {}, r"all points are at one x \(1e\+18\)"),
        ({}, {"family": "m4", "holdout_largest": 5}, "m4 has 5 parameters"),
    ],
)
def test_bad_cells_and_too_few_points_are_told_in_the_curves_row(columns, ask, message):
    frame = pl.DataFrame({"x": X, "y": power_law(X)} | columns, strict=False)
    row = fit(frame, x="x", y="y", draws=DRAWS, **ask).curves.row(0, named=True)
    assert row["status"] == REFUSED
    assert re.search(message, row["diagnosis"]), row["diagnosis"]


@pytest.mark.parametrize("x", [0, -1.0, math.nan, math.inf])
def test_predictions_at_impossible_x_are_refused(x):
    fits = fit(table(power_law(X)), x="x", y="y", family="power", draws=DRAWS)
    with pytest.raises(AnalysisError, match="positive"):
        fits.predict([x])


def test_predictions_say_how_far_they_reach():
    fits = fit(table(power_law(X)), x="x", y="y", family="power", draws=DRAWS)
    frame = fits.predict([1e20, 1e22])
    assert frame["reach"].to_list() == pytest.approx([0.1, 10])
    assert frame["status"][0] == "inside"
    assert frame["status"][1].startswith("beyond")


def test_root_mean_squared_log_error_at_the_edges():
    assert rmsle(np.array([math.e, 1.0]), np.array([1.0, 1.0])) == pytest.approx(math.sqrt(0.5))
    assert rmsle(np.array([]), np.array([])) is None
    assert rmsle(np.array([0.0]), np.array([1.0])) is None
    assert rmsle(np.array([1.0]), np.array([-1.0])) == math.inf


# --- two variables ---------------------------------------------------------------------------------------------------

TRUTH = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}


def chinchilla(noise: float = 0.0) -> pl.DataFrame:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(1e9, 1e11, 6)))
    y = TRUTH["E"] + TRUTH["A"] * n ** -TRUTH["alpha"] + TRUTH["B"] * d ** -TRUTH["beta"]
    return pl.DataFrame({"N": n, "D": d, "loss": y * np.exp(np.random.default_rng(0).normal(0, noise, y.size))})


def test_a_noise_free_surface_comes_back_with_its_best_split():
    surfaces = fit2(chinchilla(), x=("N", "D"), y="loss", draws=20)
    found = surfaces[0].fit.natural()
    for name, value in TRUTH.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    flops = 1e21
    row = surfaces.optimal([flops]).row(0, named=True)
    assert row["exponent"] == pytest.approx(0.37 / 0.72, rel=1e-4)
    assert 6 * row["params"] * row["tokens"] == pytest.approx(flops)
    # No other split of the same FLOPs does better under the true surface.
    params = row["params"] * np.geomspace(0.2, 5, 401)
    losses = TRUTH["E"] + 480 * params**-0.35 + 2000 * (flops / 6 / params) ** -0.37
    assert params[np.argmin(losses)] == pytest.approx(row["params"], rel=0.02)
    assert row["loss"] == pytest.approx(losses.min(), rel=1e-4)


def test_intervals_of_a_noisy_surface_and_its_split_hold_the_truth():
    surfaces = fit2(chinchilla(0.003), x=("N", "D"), y="loss", loss="squared", draws=100)
    for row in surfaces.parameters.filter(pl.col("method") == "resampled cases").iter_rows(named=True):
        assert row["low"] < TRUTH[row["parameter"]] < row["high"], row
    row = surfaces.optimal(1e21).row(0, named=True)
    assert row["exponent_low"] < 0.37 / 0.72 < row["exponent_high"]
    assert row["params_low"] < row["params"] < row["params_high"]


def test_intervals_of_surfaces_are_of_cases_and_disagreement_with_profiles_is_told():
    frame = chinchilla(0.003)
    # A few points far off, all at small D: profiles take the noise to be the same everywhere.
    off = pl.when(pl.col("D") == pl.col("D").min()).then(pl.col("loss") * 1.15).otherwise(pl.col("loss"))
    surfaces = fit2(frame.with_columns(loss=off), x=("N", "D"), y="loss", draws=200)
    rows = surfaces.parameters
    quoted = rows.filter("preferred")
    assert quoted["parameter"].to_list() == ["E", "A", "B", "alpha", "beta"]
    assert quoted["method"].unique().to_list() == ["resampled cases"]
    beta = rows.filter(pl.col("parameter") == "beta")
    widths = dict(zip(beta["method"], beta["high"] - beta["low"], strict=True))
    ratio = max(widths.values()) / min(widths.values())
    assert beta["width_ratio"].to_list() == pytest.approx([ratio] * 2)
    asked = fit2(frame, x=("N", "D"), y="loss", draws=20, uncertainty="residuals").parameters
    assert set(asked.filter("preferred")["method"]) == {"resampled residuals"}


def test_what_is_resampled_by_default_follows_the_loss():
    noise = np.exp(np.random.default_rng(1).normal(0, 0.01, 24))
    x = np.tile(X, 3)
    for loss, method in (("huber_log", "resampled cases"), ("auto", "profile")):
        rows = fit(table(power_law(x) * noise, x), x="x", y="y", family="power", loss=loss, draws=DRAWS).parameters
        assert rows.filter(pl.col("preferred") & (pl.col("parameter") == "alpha"))["method"].to_list() == [method]
    # Three different x for two parameters: cases would be exact fits.
    few = fit(table(power_law(X[:3]), X[:3]), x="x", y="y", family="power", loss="huber_log", draws=DRAWS).parameters
    assert "resampled cases" not in few["method"].to_list()


@pytest.mark.parametrize(
    ("y", "asked", "reason"),
    [
        ([3.0, 2.0, 1.5], "auto", "noise is taken to be a share of y"),
        ([3.0, 2.0, -1.0], "auto", "some y are not above zero, so noise is taken to be equally large everywhere"),
        ([3.0, 2.0, 1.5], "squared", "as asked"),
    ],
)
def test_why_a_loss_was_taken_says_what_applies_and_no_more(y, asked, reason):
    family = "linear" if min(y) < 0 else "power"
    assert fit(table(y, X[:3]), x="x", y="y", family=family, loss=asked, draws=DRAWS).loss_reason == reason


def test_equal_values_are_a_value_and_no_curve():
    counts = {"n": [400] * 8}
    for n, told in ((None, False), ("n", True)):
        fits = fit(table([0.8] * 8, **counts), x="x", y="y", n=n, draws=DRAWS)
        assert fits[0].flat
        row = fits.parameters.row(0, named=True)
        assert (fits.parameters.height, row["parameter"], row["estimate"]) == (1, "y", 0.8)
        band = fits.predict(1e22).row(0, named=True)
        assert band["y"] == pytest.approx(0.8)
        assert (band["y_low_95"] is not None) == told
    assert band["y_low_95"] < 0.79 < 0.81 < band["y_high_95"]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("losses.csv", r"got str; read it first, pl\.read_csv\('losses\.csv'\)"),
        ({"x": [1.0], "y": [1.0]}, r"got dict; make one first: pl\.DataFrame"),
        (pl.LazyFrame({"x": [1.0], "y": [1.0]}), r"collect it first"),
    ],
    ids=["path", "dict", "lazy"],
)
def test_other_tables_are_refused_with_how_to_make_one(given, hint):
    with pytest.raises(AnalysisError, match=hint):
        fit(given, x="x", y="y")
    with pytest.raises(AnalysisError, match=hint):
        fit2(given, x=("x", "z"), y="y")


def test_a_pandas_frame_is_told_by_where_its_type_comes_from():
    frame = type("DataFrame", (), {"__module__": "pandas.core.frame"})()
    with pytest.raises(AnalysisError, match=r"pl\.from_pandas\(table\)"):
        fit(frame, x="x", y="y")


def test_surfaces_by_group_refuse_the_bad_one_alone():
    frame = pl.concat([chinchilla().with_columns(k=pl.lit("a")), chinchilla().head(3).with_columns(k=pl.lit("b"))])
    surfaces = fit2(frame, x=("N", "D"), y="loss", by="k", train_where="D<9e10", draws=20)
    rows = surfaces.summary.rows(named=True)
    assert [row["k"] for row in rows] == ["a", "b"]
    assert rows[0]["n_held_out"] == 6
    assert rows[0]["rmsle"] < 1e-4
    assert rows[1]["status"] == REFUSED
    assert surfaces.optimal([1e21, 1e22])["k"].to_list() == ["a", "a"]
    at = surfaces.predict([(1e9, 1e10)]).row(0, named=True)
    assert at["y"] == pytest.approx(1.8 + 480 * 1e9**-0.35 + 2000 * 1e10**-0.37, rel=1e-4)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"x": ("N", "N")}, "needs two"),
        ({"x": ("N", "d")}, "did you mean 'D'"),
        ({"family": "power"}, "additive_power, plane|plane, log_odds_plane"),
        ({"train_where": "D<0"}, "nothing to fit"),
    ],
)
def test_wrong_options_of_surfaces_are_refused(ask, message):
    with pytest.raises(AnalysisError, match=message):
        fit2(chinchilla(), **({"x": ("N", "D"), "y": "loss", "draws": 20} | ask))


def test_held_out_rows_of_a_surface_are_scored_beside_baselines():
    frame = chinchilla(0.002)
    surfaces = fit2(frame, x=("N", "D"), y="loss", loss="squared", holdout_largest=1, draws=40)
    row = surfaces.summary.row(0, named=True)
    assert (row["n_points"], row["n_held_out"]) == (30, 6)
    assert set(surfaces.tests["x1"]) == {frame["N"].max()}
    # The nearest fitted point has the same D and the next smaller N.
    below = frame.filter(pl.col("N") == frame["N"].unique().sort()[-2]).sort("D")["loss"].to_numpy()
    tests = surfaces.tests.sort("x2")
    np.testing.assert_allclose(tests["nearest"], below)
    assert row["rmsle_nearest"] == pytest.approx(np.sqrt(np.mean(np.log(below / tests["observed"].to_numpy()) ** 2)))
    assert row["rmsle"] < row["rmsle_nearest"] < row["rmsle_plane"]
    inside = (tests["observed"] >= tests["y_low_95"]) & (tests["observed"] <= tests["y_high_95"])
    assert tests["inside_95"].to_list() == inside.to_list()
    assert (row["inside_95"], row["coverage_95"]) == (inside.sum(), inside.sum() / 6)
    assert row["inside_50"] <= row["inside_80"] <= row["inside_95"]


def test_the_plane_baseline_is_exact_on_a_plane_and_other_columns_can_be_held_out():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 4), np.geomspace(1e9, 1e11, 4)))
    frame = pl.DataFrame({"N": n, "D": d, "C": 6 * n * d, "y": 9 - 0.3 * np.log10(n) - 0.2 * np.log10(d)})
    surfaces = fit2(frame, x=("N", "D"), y="y", holdout_largest=2, holdout_of="D", draws=20)
    assert surfaces.tests.height == 8
    np.testing.assert_allclose(surfaces.tests["plane"], surfaces.tests["observed"], rtol=1e-9)
    assert fit2(frame, x=("N", "D"), y="y", family="plane", draws=20).tests.height == 0
    few = fit2(frame, x=("N", "D"), y="y", holdout_largest=4, draws=20)
    assert "has only 4 different values; with 4 of them held out none is left" in few.summary["diagnosis"].item()
    with pytest.raises(AnalysisError, match="not both"):
        fit2(frame, x=("N", "D"), y="y", holdout_largest=1, train_where="D<1e10")


def test_only_the_additive_power_law_has_a_best_split():
    surfaces = fit2(chinchilla(), x=("N", "D"), y="loss", family="plane", draws=20)
    with pytest.raises(AnalysisError, match="this is plane"):
        surfaces.optimal(1e21)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.jsonl", "t.csv.gz", "t.jsonl.gz", "semicolons.csv"])
def test_every_kind_of_file_gives_the_same_table(tmp_path, name):
    frame, path = pl.DataFrame({"x": [1.5, 2.0], "m": ["a", "b"]}), tmp_path / name
    text = {"t": frame.write_csv(), "s": frame.write_csv(separator=";")}[name[0]]
    if ".tsv" in name:
        text = frame.write_csv(separator="\t")
    if "jsonl" in name:
        text = frame.write_ndjson()
    if name.endswith(".parquet"):
        frame.write_parquet(path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert read_table(path).equals(frame)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", None, "no such file"),
        ("t.xlsx", b"", "ending must be one of"),
        ("t.csv", b"", "cannot be read as csv|has no rows"),
        ("t.csv", b"x,y\n", "has no rows"),
        ("t.parquet", b"x,y\n1,2\n", "cannot be read as parquet"),
        ("t.csv.gz", b"x,y\n1,2\n", "cannot be read"),
        ("t.jsonl", b"x,y\n", "cannot be read as jsonl"),
    ],
)
def test_unreadable_files_are_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AnalysisError, match=message):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("k==1", [True, False, False]),
        ("k != 1", [False, True, True]),
        ("k<=2", [True, True, False]),
        ("k < 2", [True, False, False]),
        ("k>=2", [False, True, True]),
        ("k>2e0", [False, False, True]),
        ("m==b", [False, True, False]),
        ("m == 'b'", [False, True, False]),
        ("a col==true", [True, False, True]),
        ("'a col'!=1", [False, True, False]),
    ],
)
def test_one_comparison_chooses_rows(condition, rows):
    frame = pl.DataFrame({"k": [1, 2, 3], "m": ["a", "b", "c"], "a col": [True, False, True]})
    assert rows_where(frame, condition).to_list() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("k", "is not a comparison"),
        ("k==", "is not a comparison"),
        ("k=1", "two signs, k==1"),
        ("q==1", "no column 'q'"),
        ("k==one", "'one' is not one"),
        ("b==maybe", "true and false"),
        ("e==1", "empty in row 2"),
    ],
)
def test_other_conditions_are_refused(condition, message):
    frame = pl.DataFrame({"k": [1, 2], "b": [True, False], "e": [1, None]})
    with pytest.raises(AnalysisError, match=message):
        rows_where(frame, condition)


def test_a_folder_of_ours_is_replaced_whole_and_one_of_others_left_alone(tmp_path):
    ours = tmp_path / "new" / "out"
    write_folder(ours, {"a.csv": b"1"}, {"kind": "fit"})
    write_folder(ours, {"b.csv": b"2"}, {"kind": "fit"})
    assert sorted(p.name for p in ours.iterdir()) == ["b.csv", "fit.json"]
    assert json.loads((ours / "fit.json").read_text())["made_by"] == MADE_BY
    assert [p.name for p in ours.parent.iterdir()] == ["out"]  # nothing is left beside it
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "fit.json").write_text("{}")
    with pytest.raises(AnalysisError, match="is not replaced"):
        write_folder(tmp_path / "theirs", {"a.csv": b"1"}, {})
    with pytest.raises(AnalysisError, match="is a file"):
        write_folder(ours / "b.csv", {"a.csv": b"1"}, {})


def test_a_disk_that_refuses_leaves_the_old_results(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_folder(out, {"a.csv": b"old"}, {})

    def full(self, raw):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(AnalysisError, match=r"out cannot be written: No space left"):
        write_folder(out, {"a.csv": b"new"}, {})
    assert (out / "a.csv").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
