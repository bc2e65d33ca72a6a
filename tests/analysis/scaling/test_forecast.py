"""Choice and forecast: nothing hidden is peeked at, errors and weights by hand, bands and their words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import AnalysisError
from analysis.scaling.choice import (
    InnerTest,
    at_stake,
    candidates,
    inner_test,
    predictions,
    stack,
    straight_line,
    widening,
)
from analysis.scaling.families import CURVES
from analysis.scaling.forecast import _choose, coverage, forecast, held_out, predicted_rows, rmsle_of
from analysis.scaling.losses import Loss, LossName, default_loss
from analysis.scaling.points import Points

SQUARED = Loss(LossName.SQUARED)
N = 9
X = np.geomspace(1e3, 1e7, N)


def values(seed: int = 0, n: int = N) -> Points:
    x = np.geomspace(1e3, 1e7, n)
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.01, n))
    return Points(x[:, None], (0.5 + 20 * x**-0.3) * noise)


def shares(seed: int = 0, n: int = N) -> Points:
    x = np.geomspace(1e3, 1e7, n)
    p = 0.55 + 0.35 * np.linspace(0, 1, n)
    counts = np.full(n, 500.0)
    return Points(x[:, None], np.random.default_rng(seed).binomial(500, p) / 500, counts)


def with_last(points: Points, hidden) -> Points:
    y = points.y.copy()
    y[-len(hidden) :] = hidden
    return Points(points.x, y, points.n)


# --- no peeking ------------------------------------------------------------------------------------------------------

HIDDEN = {values: st.floats(1e-3, 1e3), shares: st.sampled_from(np.arange(0, 501) / 500)}


def no_peeking(points: Points, hidden) -> None:
    for hide in (1, 2):
        shown = len(points) - hide
        before, after = (held_out(p, ahead=hide) for p in (points, with_last(points, hidden[-hide:])))
        before, after = (t.filter(t["shown"] == shown) for t in (before, after))
        assert before.height == 3 * hide
        assert after["observed"].to_list()[:hide] == list(hidden[-hide:])
        assert before["predictor"].to_list() == after["predictor"].to_list()
        assert before["predicted"].to_list() == after["predicted"].to_list()  # to the last bit


@pytest.mark.parametrize("make", [values, shares])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_hidden_values_never_change_what_is_chosen_or_predicted(make, data):
    points = make(data.draw(st.integers(0, 50)), 6)
    no_peeking(points, [data.draw(HIDDEN[make]) for _ in range(2)])


@pytest.mark.parametrize(("make", "hidden"), [(values, (9.0, 0.01)), (shares, (0.0, 1.0))])
def test_hidden_values_never_change_the_choice_among_all_families(make, hidden):
    no_peeking(make(4), hidden)


@pytest.mark.parametrize("make", [values, shares])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_points_set_apart_never_change_the_choice_even_where_they_leave_the_usual_range(make, data):
    points = make(data.draw(st.integers(0, 50)))
    train, test = points.take(np.arange(N) < 7), points.take(np.arange(N) >= 7)
    wild = st.floats(0, 1) if make is shares else st.floats(-1e3, 1e3)
    other = Points(test.x, np.array([data.draw(wild), data.draw(wild)]), test.n)
    first, second = predicted_rows(train, test), predicted_rows(train, other)
    assert first.height == 6
    assert first["predicted"].to_list() == second["predicted"].to_list()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 50), st.integers(4, 7), st.floats(0.5, 3.0))
def test_an_inner_origin_predicts_from_the_levels_it_shows_alone(seed, k, factor):
    points = values(seed)
    y = points.y.copy()
    y[k:] *= factor
    families = [CURVES["power"], CURVES["power_floor"]]
    loss = default_loss(points.y, counts=False)
    first = predictions(points, [k], X, families, loss)
    second = predictions(Points(points.x, y), [k], X, families, loss)
    for name in ("last", "power", "power_floor"):
        assert np.all(np.isfinite(first[name])) or k < 5
        np.testing.assert_array_equal(first[name], second[name])


def test_an_inner_origin_knows_neither_bounds_nor_range_of_what_it_does_not_show():
    # Shown are losses above 1, falling to a floor; hidden are shares, or negative values, of another unit.
    x, y = np.geomspace(1, 1e6, 7), 1.5 + 3 * np.geomspace(1, 1e6, 7) ** -0.3
    families = [CURVES["power_floor"]]
    alone = predictions(Points(x[:5, None], y[:5]), [5], x, families, SQUARED)
    for factor in (1e-3, -1.0):
        changed = np.concatenate([y[:5], factor * y[5:]])
        found = predictions(Points(x[:, None], changed), [5], x, families, SQUARED)
        np.testing.assert_allclose(found["power_floor"], alone["power_floor"], rtol=1e-6)
        np.testing.assert_array_equal(found["linear"], alone["linear"])


def test_what_is_at_stake_is_measured_on_the_scale_of_the_errors():
    # All shown are positive, the last is not: errors are of y itself, so what is at stake must be too.
    x = np.array([1.0, 10.0, 100.0, 1e3])
    points = Points(x[:, None], np.array([4.0, 3.0, 2.0, -1.0]))
    test = inner_test(points, [], SQUARED, horizon=1)
    # Seen range 2 over two decades, one ahead: 1. Bends at the inner levels: 0 and -1; median of sizes 1/2.
    noise = 0.5 / np.sqrt(1.5) / 0.6745
    assert test.errors["last"][0, 3] == pytest.approx((2 - -1) / np.sqrt(1 + 2.5 * noise**2))


def test_what_was_chosen_for_the_points_shown_is_what_held_out_rows_use():
    points = values(3)
    train = points.take(np.arange(N) < N - 1)
    rows = held_out(points, ahead=1)
    own = rows.filter(rows["predictor"] == "auto")
    weights = _choose(train, "auto", default_loss(train.y, counts=False), horizon=1).weights
    assert sum(weights.values()) == pytest.approx(1)
    apart = predicted_rows(train, points.take(np.arange(N) == N - 1))
    assert own["predicted"].to_list() == apart.filter(apart["predictor"] == "auto")["predicted"].to_list()


# --- choice ----------------------------------------------------------------------------------------------------------


def test_errors_at_inner_origins_by_hand():
    # y may be negative, so errors are of y itself. 0, 1, 2 at x = 1, 10, 100, then 2 and 5.
    x = np.array([1.0, 10.0, 100.0, 1e3, 1e4])
    points = Points(x[:, None], np.array([-1.0, 0.0, 1.0, 1.0, 4.0]))
    test = inner_test(points, [], SQUARED, horizon=1)
    assert test.shown.tolist() == [3, 4]
    # Origin 3: seen range 2 over 2 decades, one decade ahead: at stake 2 * 1/2. Origin 4: 2 over 3 decades: 2/3.
    noise = noise_by_hand(points)
    stake3, stake4 = np.sqrt(1 + 2.5 * noise**2), np.sqrt((2 / 3) ** 2 + 2.5 * noise**2)
    assert test.errors["last"][0, 3] == pytest.approx((1 - 1) / stake3)
    assert test.errors["last"][1, 4] == pytest.approx((1 - 4) / stake4)
    assert test.errors["linear"][0, 3] == pytest.approx((2 - 1) / stake3)
    # Line through -1, 0, 1, 1: slope 0.7, mean 0.25 at 1.5, so 0.25 + 0.7 * 2.5 = 2 at 4.
    assert test.errors["linear"][1, 4] == pytest.approx((2 - 4) / stake4)
    assert np.isfinite(test.errors["last"]).sum() == 2  # the horizon hides the rest


def noise_by_hand(points):
    # Bends at the three inner levels: 0, 1/2 and 3/2; each over sqrt(1.5); the median over 0.6745.
    return 0.5 / np.sqrt(1.5) / 0.6745


def test_what_is_at_stake_grows_with_the_distance_beyond_the_points():
    points = Points(np.array([[1.0], [10.0], [100.0]]), np.array([-1.0, 0.0, 3.0]))
    found = at_stake(points, np.array([50.0, 100.0, 1e4, 1e6]), 0.0)
    np.testing.assert_allclose(found, [0, 0, 4, 8], atol=1e-8)


@pytest.mark.parametrize("make", [values, shares])
@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8, 9, 10])
def test_candidates_have_at_most_two_parameters_fewer_than_levels(make, n):
    points = make(0, n)
    assert all(family.n_parameters <= n - 2 for family in candidates(points))
    assert bool(candidates(points)) == (n >= 4)


def test_weights_are_inverse_to_scores_and_sum_to_one():
    points = Points(np.array([[1.0], [10.0], [100.0], [1e3]]), np.array([-1.0, 0.0, 1.0, 2.0]))
    test = InnerTest(np.array([3]), {"last": np.array([[2.0]]), "linear": np.array([[1.0]])})
    # One target and one imagined: last scores 1, the line (1 + 4) / (2 * 4) = 5/8; weights as 1 : 8/5.
    assert stack(test, points, []) == pytest.approx({"last": 5 / 13, "linear": 8 / 13})


def errors_of_two(shares: bool, floor: float) -> InnerTest:
    """Two members with a weight of .9 and .1; at the first origin only the small one stands, and is off by 0.8."""
    nan = np.nan
    errors = {"power_floor": np.array([[nan, nan], [nan, floor]]), "last": np.array([[0.8, nan], [nan, floor]])}
    return InnerTest(np.array([3, 4]), errors, shares)


@pytest.mark.parametrize(
    ("shares", "floor", "squared", "origins"),
    [
        # One origin at which half of the weight stood; .36 counts as three. Below it logarithms are averaged.
        (False, 0.006, (0.36**3 * 0.006**2) ** (1 / 4), 1),
        (False, 1.2, (3 * 0.36 + 1.44) / 4, 1),
        (False, 0.0, (0.36**3 * 1e-6) ** (1 / 4), 1),
        # Shares: every origin, squares.
        (True, 0.006, (3 * 0.36 + 0.64 + 0.006**2) / 5, 2),
    ],
)
def test_width_of_bands_by_hand(shares, floor, squared, origins):
    found = widening(errors_of_two(shares, floor), {"power_floor": 0.9, "last": 0.1})
    assert found.factor == pytest.approx(np.sqrt(squared))
    assert found.origins == origins
    if not shares:
        assert found.seen == pytest.approx(floor)


def test_bands_of_a_curve_that_was_always_predicted_well_are_narrow():
    x = np.geomspace(1e17, 1e20, 12)
    y = (1.7 + 2 * (x / 1e17) ** -0.35) * np.exp(0.003 * np.random.default_rng(0).standard_normal(12))
    made = forecast(Points(x[:, None], y), draws=40)
    band = made.bands([1e21]).row(0, named=True)
    assert band["y_low_95"] < 1.7 + 2 * 1e4**-0.35 < band["y_high_95"]
    assert band["y_high_95"] / band["y_low_95"] < 1.2
    assert band["y_high_80"] < y[-1]  # it falls, and goes on to fall


@pytest.mark.parametrize("make", [values, shares])
@pytest.mark.parametrize("n", [4, 6, 9])
def test_weights_of_real_tests_are_shares(make, n):
    points = make(1, n)
    loss = default_loss(points.y, counts=points.shares)
    weights = stack(inner_test(points, candidates(points), loss, horizon=2), points, candidates(points))
    assert sum(weights.values()) == pytest.approx(1)
    assert all(0 < share <= 1 for share in weights.values())


def test_the_straight_line_matrix_reproduces_lines():
    points = Points(np.array([[1.0], [20.0], [300.0]]), np.zeros(3), np.array([5.0, 50.0, 10.0]))
    y = 0.2 + 0.1 * np.log(points.x[:, 0])
    at = np.array([7.0, 1e5])
    np.testing.assert_allclose(straight_line(points, at) @ y, 0.2 + 0.1 * np.log(at))


# --- forecast --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return {make: forecast(make(2, 7), draws=60) for make in (values, shares)}


@pytest.mark.parametrize("make", [values, shares])
@pytest.mark.parametrize("observed", [False, True])
def test_bands_are_nested_and_name_where_they_lie(made, make, observed):
    own = made[make]
    bands = own.bands(np.geomspace(2e3, 1e9, 15), observed=observed)
    for inner, outer in (("50", "80"), ("80", "95")):
        assert (bands[f"y_low_{outer}"] <= bands[f"y_low_{inner}"]).all()
        assert (bands[f"y_high_{outer}"] >= bands[f"y_high_{inner}"]).all()
    assert ((bands["y_low_95"] <= bands["y"]) & (bands["y"] <= bands["y_high_95"])).all()
    beyond = {None: "beyond, not tested", True: "beyond", False: "beyond, no skill"}[own.skill]
    assert bands["status"].to_list() == ["inside" if x <= own.points.x.max() else beyond for x in bands["x"]]
    np.testing.assert_allclose(bands["reach"], bands["x"] / 1e7)
    if make is shares:
        assert bands["y_low_95"].min() >= 0
        assert bands["y_high_95"].max() <= 1


@pytest.mark.parametrize("make", [values, shares])
def test_curves_and_bands_are_continuous_within_the_data(made, make):
    x = np.geomspace(1e3, 1e7, 400)
    bands = made[make].bands(x)
    for column in ("y", "y_low_95", "y_high_95"):
        jumps = np.abs(np.diff(bands[column].to_numpy()))
        assert jumps.max() < 0.2 * np.ptp(bands[column].to_numpy()) + 1e-3


@pytest.mark.parametrize("make", [values, shares])
@pytest.mark.parametrize("observed", [False, True])
def test_nothing_jumps_at_the_largest_x_and_half_a_level_on_the_mixture_speaks_alone(made, make, observed):
    own = made[make]
    top, step = 1e7, own.points.x[1, 0] / own.points.x[0, 0]
    bands = own.bands([top, top * (1 + 1e-7)], observed=observed)
    for column in ("y", "y_low_50", "y_high_50", "y_low_95", "y_high_95"):
        first, second = bands[column]
        assert second == pytest.approx(first, rel=1e-5), column
    further = top * np.array([step**0.51, step, step**3])
    np.testing.assert_array_equal(own.at(further), own._mixture(further))


def test_bands_widen_beyond_the_data(made):
    bands = made[values].bands([1e7, 1e8, 1e9, 1e10])
    arms = np.log(bands["y_high_95"] / bands["y_low_95"]).to_numpy()
    assert np.all(np.diff(arms) > 0)


def test_few_points_are_not_tested_and_fall_back_to_the_straight_line():
    own = forecast(values(0, 3), draws=20)
    assert own.skill is None
    assert own.chosen.family.name == "power"
    assert sum(own.baselines.values()) + sum(m.weight for m in own.members) == pytest.approx(1)
    assert "not testable" in own.diagnosis
    assert own.bands([1e9])["status"].to_list() == ["beyond, not tested"]


@pytest.mark.parametrize("x", [0.0, -1.0, np.nan, np.inf])
def test_x_that_cannot_be_predicted_at_is_refused(made, x):
    with pytest.raises(AnalysisError, match="positive and finite"):
        made[values].bands([x])


def test_an_unknown_family_is_refused_with_those_there_are():
    with pytest.raises(AnalysisError, match=r"no family 'cubic'.*power_floor"):
        forecast(values(), "cubic")


def test_held_out_scores_by_hand():
    # A noise-free power law, then 10 % too high at the last level: the error of power is log(1 / 1.1).
    y = 5 * X**-0.2
    y[-1] *= 1.1
    tests = held_out(Points(X[:, None], y), "power", ahead=1)
    assert rmsle_of(tests, "power") == pytest.approx(np.log(1.1), rel=1e-6)
    assert rmsle_of(tests, "last") == pytest.approx(np.log(y[-2] / y[-1]), rel=1e-9)
    assert rmsle_of(tests, "absent") is None
    assert coverage(tests, "power", 0.95)[1] == 1


def test_a_known_curve_is_continued_and_has_skill():
    x = X[:7]
    own = forecast(Points(x[:, None], 5 * x**-0.2), draws=0)
    assert own.skill
    assert own.at([2 * x[-1]])[0] == pytest.approx(
        5 * (2 * x[-1]) ** -0.2, rel=0.05
    )  # the last value, 15 % away, has a weight too
