import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, xlogy

import analysis
from analysis.bent import ACCELERATING, BENT
from analysis.errors import AnalysisError
from analysis.results import load as load_results
from analysis.scaling.families import LARGEST_LOG_ODDS, LOG_ODDS_LINEAR, RATE
from analysis.trends import DOES_NOT_FIT, GRID_POINTS, REFUSED, choose_family, misfits, trends

N_TEST = 1200
BENT_WORLD = {
    "supervisor": (0.60, 0.72, 0.78, 0.805, 0.82, 0.825),
    "ceiling": (0.60, 0.74, 0.81, 0.84, 0.86, 0.87),
}

SATURATING_BOUNDS = [(-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS), (None, None), RATE]
"""Of L, A and alpha, as the saturating family has them."""
ACCELERATING_BOUNDS = [(None, None), (None, None), (-5.0, -0.05)]


@pytest.fixture(scope="module")
def bent(store_writer, small_world, tmp_path_factory):
    """Six rungs whose accuracies level off within the range, so that the points determine asymptotes."""
    root = tmp_path_factory.mktemp("bent") / "store"
    root.mkdir()
    world = small_world(
        rungs=6, n_test=N_TEST, seeds=2, seed_sd=0.0, **BENT_WORLD, pgr=lambda method, weak, strong: 0.6
    )
    store_writer(root).world(world)
    estimates = analysis.estimate(load_results(root), analysis.Options(draws=200))
    return estimates, trends(estimates)


@pytest.fixture(scope="module")
def reference(reference_store):
    estimates = analysis.estimate(load_results(reference_store), analysis.Options(draws=200))
    return estimates, trends(estimates)


def divergence(y, mean):
    """Half the binomial deviance."""
    mean = np.clip(mean, 1e-12, 1 - 1e-12)
    return N_TEST * np.sum(xlogy(y, y / mean) + xlogy(1 - y, (1 - y) / (1 - mean)))


def saturating(p, u):
    return expit(p[0] + p[1] * np.exp(-p[2] * u))


def straight(p, u):
    return expit(p[0] + p[1] * u)


def points_of(estimates, row):
    """Compute and accuracies behind the curve of one row of fits."""
    if row["quantity"] == "student":
        same = (pl.col("weak") == row["weak"]) & (pl.col("method") == row["method"])
        rows = estimates.pairs.filter(same).sort("strong_x")
        return rows["strong_x"].to_numpy(), rows["student_acc"].to_numpy()
    column = "supervisor_acc" if row["quantity"] == "weak" else "ceiling_acc"
    rows = estimates.ladder.filter(pl.col(column).is_not_null()).sort("x")
    return rows["x"].to_numpy(), rows[column].to_numpy()


def best_by_scipy(y, u, curve, starts, bounds=None):
    solutions = [
        minimize(
            lambda p: divergence(y, curve(p, u)),
            start,
            method="Nelder-Mead",
            bounds=bounds,
            options={"xatol": 1e-8, "fatol": 1e-9, "maxiter": 2000, "maxfev": 2000},
        )
        for start in starts
    ]
    return min(solutions, key=lambda solution: solution.fun)


@pytest.mark.parametrize("world", ["reference", "bent"])
def test_saturating_fits_are_those_of_a_plain_optimiser(world, request):
    """Binomial likelihood of log-odds L + A exp(-alpha u), u the position on the range of log x."""
    estimates, found = request.getfixturevalue(world)
    rows = found.fits.filter(
        pl.col("quantity").is_in(["weak", "ceiling", "student"]) & (pl.col("family") == "saturating")
    ).to_dicts()
    assert rows
    if world == "bent":
        assert {row["quantity"] for row in rows} == {"weak", "ceiling", "student"}
    converged = 0
    for row in rows:
        x, y = points_of(estimates, row)
        span = np.log(x[-1] / x[0])
        u = np.log(x / x[0]) / span
        starts = [(3.0, -2.0, 0.5), (2.5, -2.0, 2.0), (2.0, -1.5, 5.0)]
        best = best_by_scipy(y, u, saturating, starts, SATURATING_BOUNDS)
        if row["asymptote"] is None:
            # The points do not determine the asymptote; a search that stops early on such a ridge may end higher.
            assert row["objective"] < best.fun + 1e-3
            continue
        converged += 1
        assert row["objective"] == pytest.approx(best.fun, abs=1e-4)
        curve = found.curves.filter(
            (pl.col("quantity") == row["quantity"])
            & pl.col("method").eq_missing(pl.lit(row["method"]))
            & pl.col("weak").eq_missing(pl.lit(row["weak"]))
        )
        grid = np.log(curve["x"].to_numpy() / x[0]) / span
        np.testing.assert_allclose(curve["y"], saturating(best.x, grid), atol=1e-3)
        assert row["asymptote"] == pytest.approx(expit(best.x[0]), abs=5e-3)
        assert row["exponent"] == pytest.approx(best.x[2] / span, rel=0.02)
    assert converged >= (4 if world == "bent" else 1)


def test_accelerating_fits_are_those_of_a_plain_optimiser(reference):
    """Log-odds that rise faster and faster, as those of the reference world do; they have no asymptote."""
    estimates, found = reference
    rows = found.fits.filter(pl.col("family") == ACCELERATING, pl.col("quantity").is_in(["weak", "ceiling"])).to_dicts()
    assert rows
    for row in rows:
        x, y = points_of(estimates, row)
        u = np.log(x / x[0]) / np.log(x[-1] / x[0])
        best = best_by_scipy(y, u, saturating, [(0.0, 0.5, -1.0), (-0.5, 1.0, -0.3)], ACCELERATING_BOUNDS)
        assert row["objective"] == pytest.approx(best.fun, abs=1e-4)
        assert row["asymptote"] is None
        assert row["exponent"] is None


def test_straight_fits_are_those_of_a_plain_optimiser(reference):
    estimates, found = reference
    rows = found.fits.filter((pl.col("quantity") == "student") & (pl.col("family") == "log_odds_linear")).to_dicts()
    rows = [row for row in rows if row["n_points"] < 5]
    assert {row["n_points"] for row in rows} == {3, 4}
    for row in rows:
        x, y = points_of(estimates, row)
        u = np.log(x / x[0]) / np.log(x[-1] / x[0])
        best = best_by_scipy(y, u, straight, [(1.0, 1.0)])
        assert row["objective"] == pytest.approx(best.fun, abs=1e-5)
        if row["status"] == DOES_NOT_FIT:
            continue
        curve = found.curves.filter(
            (pl.col("quantity") == "student") & (pl.col("method") == row["method"]) & (pl.col("weak") == row["weak"])
        )
        np.testing.assert_allclose(curve["y"], straight(best.x, np.linspace(0, 1, GRID_POINTS)), atol=1e-5)


@given(st.integers(3, 40))
def test_a_curve_has_at_most_as_many_parameters_as_points_less_two(n_points):
    family = choose_family(n_points)
    assert family is (BENT if n_points >= 5 else LOG_ODDS_LINEAR)
    assert n_points < 5 or family.n_parameters <= n_points - 2


@pytest.mark.parametrize("n_points", [0, 1, 2])
def test_few_points_are_refused_with_the_number_that_is_needed(n_points):
    with pytest.raises(AnalysisError, match=f"at least 3 strong models of different compute, there are {n_points}"):
        choose_family(n_points)


def test_lines_of_too_few_students_are_refused_and_have_no_curve(reference):
    _, found = reference
    refused = found.fits.filter((pl.col("status") == REFUSED) & (pl.col("quantity") == "student"))
    assert set(refused.select("weak", "n_points").iter_rows()) == {("rung3", 2), ("rung4", 1)}
    for row in refused.to_dicts():
        assert row["diagnosis"].endswith(f"there are {row['n_points']}")
        assert not row["testable"]
        assert row["family"] is None
    drawn = found.curves.filter(pl.col("quantity").is_in(["student", "pgr"]))
    assert set(drawn["weak"]) == {"rung0", "rung1", "rung2"}


def test_a_straight_line_is_marked_as_not_testable(reference):
    """With three or four points the saturating curve could not have been contradicted; nothing is said of its
    asymptote."""
    _, found = reference
    short = found.fits.filter(pl.col("n_points") < 5, pl.col("status") != REFUSED)
    assert set(short["family"]) == {"log_odds_linear"}
    assert short["asymptote"].null_count() == short.height
    assert found.fits.filter(pl.col("family") == "saturating")["testable"].all()


def test_curves_stay_within_the_points(reference):
    _, found = reference
    key = ["quantity", "method", "weak"]
    joined = found.curves.join(found.fits.select(*key, "x_low", "x_high"), on=key, nulls_equal=True)
    assert joined.height > 0
    assert (joined["x"] >= joined["x_low"] * (1 - 1e-9)).all()
    assert (joined["x"] <= joined["x_high"] * (1 + 1e-9)).all()


def test_pgr_on_the_curve_is_that_of_the_curves_it_is_derived_from(reference):
    """The weakest supervisor's students and the ceilings are the same models: their grids are equal."""
    estimates, found = reference
    weak = estimates.pairs.filter(pl.col("weak") == "rung0")["weak_acc"][0]
    own = found.curves.filter((pl.col("weak") == "rung0") & (pl.col("method") == "naive"))
    student, pgr = (own.filter(pl.col("quantity") == quantity).select("x", "y") for quantity in ("student", "pgr"))
    ceiling = found.curves.filter(pl.col("quantity") == "ceiling").select("x", ceiling="y")
    assert pgr.height > GRID_POINTS // 2
    row = pgr.sort("x")
    at = [int(np.argmin(np.abs(student["x"].to_numpy() / x - 1))) for x in row["x"]]
    s, c = student["y"].to_numpy()[at], ceiling["ceiling"].to_numpy()[at]
    np.testing.assert_allclose(row["y"], (s - weak) / (c - weak), rtol=1e-6)
    assert not (found.fits["quantity"] == "pgr").any()


@pytest.fixture(scope="module")
def zigzag(store_writer, small_world, tmp_path_factory):
    """Ceilings that go up and down, far beyond their noise; students of one line do too, supervisors do not."""
    root = tmp_path_factory.mktemp("zigzag") / "store"
    root.mkdir()
    ceiling = (0.60, 0.80, 0.72, 0.88, 0.78, 0.92)
    world = small_world(
        rungs=6, n_test=N_TEST, seeds=3, seed_sd=0.01, supervisor=BENT_WORLD["supervisor"], ceiling=ceiling,
        methods=("naive",), pgr=lambda method, weak, strong: 0.6,
    )  # fmt: skip
    store_writer(root).world(world)
    estimates = analysis.estimate(load_results(root), analysis.Options(draws=200))
    return estimates, trends(estimates)


def test_a_curve_that_its_points_contradict_is_not_drawn_and_gives_no_pgr(zigzag):
    _, found = zigzag
    ceiling = found.fits.filter(pl.col("quantity") == "ceiling").row(0, named=True)
    assert ceiling["status"] == DOES_NOT_FIT
    assert ceiling["fit_p"] < 0.05
    assert "scatter about the curve" in ceiling["diagnosis"]
    assert ceiling["asymptote"] is None
    assert not {"ceiling", "pgr"} & set(found.curves["quantity"])
    assert "weak" in set(found.curves["quantity"])


def test_curves_that_do_not_fit_are_told(zigzag, bent):
    (text,) = misfits(zigzag[1].fits)
    assert "curves that could be tested do not fit" in text
    assert "accuracy of ceilings" in text
    assert "naive under rung0" in text
    assert misfits(bent[1].fits.filter(pl.col("status") != DOES_NOT_FIT)) == []


def test_a_true_curve_is_drawn(bent):
    fits = bent[1].fits.filter(pl.col("fit_p").is_not_null())
    assert (fits["status"] == DOES_NOT_FIT).mean() < 0.1  # type: ignore[operator]
    assert fits.filter(pl.col("quantity") == "ceiling")["fit_p"][0] > 0.05


def test_one_seed_leaves_curves_untested(store_writer, small_world, tmp_path):
    store_writer(tmp_path).world(small_world(rungs=5, seeds=1, methods=("naive",)))
    found = trends(analysis.estimate(load_results(tmp_path), analysis.Options(draws=100)))
    fitted = found.fits.filter(pl.col("status") != REFUSED)
    assert fitted.height > 0
    assert fitted["fit_p"].null_count() == fitted.height
    assert fitted["diagnosis"].str.contains("one seed").all()


def test_bands_hold_their_curves(reference):
    _, found = reference
    assert (found.curves["y_low"] <= found.curves["y"]).all()
    assert (found.curves["y"] <= found.curves["y_high"]).all()
    assert (found.curves["y_low"] < found.curves["y_high"]).any()


def test_curves_fitted_in_one_go_are_those_fitted_alone(store_writer, small_world, tmp_path):
    """A second task, whose curves are fitted along with those of the first, changes nothing of it."""
    writer = store_writer(tmp_path)
    found = []
    for task in ("facts", "sums"):
        writer.world(small_world(rungs=5, seeds=1, methods=("naive",), task=task), sweep=task)
        found.append(trends(analysis.estimate(load_results(tmp_path), analysis.Options(draws=100))))
    alone, both = found
    assert set(both.fits["task"]) == {"facts", "sums"}
    key = ["quantity", "weak", "x"]
    first = both.curves.filter(pl.col("task") == "facts").sort(key)
    assert first.height == alone.curves.height > 0
    for column in ("y", "y_low", "y_high"):
        np.testing.assert_allclose(first[column], alone.curves.sort(key)[column], atol=1e-5)
