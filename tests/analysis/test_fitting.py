import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.curves import Family, log_odds, shape, share_of
from analysis.errors import AnalysisError
from analysis.fitting import FitStatus, fit_curve, fit_many, position

COMPUTE = np.array([6.2e9, 2.4e10, 7.2e10, 1.3e11, 3.2e11, 1.1e12])
U = position(COMPUTE, COMPUTE[0], COMPUTE[-1])


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.3, 8))
def test_a_known_saturating_curve_is_found_again(start, rise, rate):
    truth = share_of(start + rise * shape(U, rate))
    fit = fit_curve(COMPUTE, truth, 100_000)
    np.testing.assert_allclose(fit.predict(COMPUTE), truth, atol=5e-4)  # the grid of rates leaves 2.5e-4 at most


def test_the_parameters_of_a_known_curve_are_found_again():
    truth = share_of(0.6 + 2.0 * shape(U, 2.5))
    fit = fit_curve(COMPUTE, truth, 4800)
    assert (fit.status, fit.family, fit.testable, fit.diagnosis) == (FitStatus.CONVERGED, Family.SATURATING, True, "")
    assert fit.start == pytest.approx(0.6, abs=0.01)
    assert fit.rate == pytest.approx(2.5, rel=0.03)
    assert fit.asymptote == pytest.approx(float(share_of(np.array(0.6 + 2.0 / (1 - np.exp(-2.5))))), abs=2e-3)


def test_the_fit_is_the_one_of_greatest_likelihood():
    """No small move of any parameter lowers the deviance."""
    y = np.array([[0.64, 0.75, 0.80, 0.83, 0.86, 0.87]])
    best = fit_many(U, y, 4800, Family.SATURATING)

    def deviance(start, rise, rate):
        mean = share_of(start + rise * shape(U, rate))
        return 2 * 4800 * np.sum(y * np.log(y / mean) + (1 - y) * np.log((1 - y) / (1 - mean)))

    at = [best.start[0], best.rise[0], best.rate[0]]
    assert best.deviance[0] == pytest.approx(deviance(*at))
    for index in range(3):
        for step in (-0.05, 0.05):
            assert deviance(*[v + step * (i == index) for i, v in enumerate(at)]) > best.deviance[0]


def test_a_straight_line_in_log_odds_leaves_the_asymptote_undetermined():
    fit = fit_curve(COMPUTE, share_of(0.5 + 2.0 * U), 4800)
    assert fit.status is FitStatus.AT_BOUND
    assert fit.asymptote is None
    assert "no bend" in fit.diagnosis


def test_a_jump_between_two_points_leaves_the_rate_undetermined():
    fit = fit_curve(COMPUTE, np.array([0.6, 0.9, 0.9, 0.9, 0.9, 0.9]), 4800)
    assert fit.status is FitStatus.AT_BOUND
    assert "between two points" in fit.diagnosis


@pytest.mark.parametrize("n_points", [3, 4])
def test_few_points_get_a_straight_line_that_is_marked_not_testable(n_points):
    fit = fit_curve(COMPUTE[:n_points], np.linspace(0.6, 0.8, n_points), 4800)
    assert (fit.family, fit.testable) == (Family.LINEAR, False)
    assert f"not testable: {n_points} points, the saturating curve needs 5" in fit.diagnosis


def test_two_points_are_refused_with_the_number_that_is_needed():
    with pytest.raises(AnalysisError, match="at least 3 strong models of different compute, there are 2"):
        fit_curve(COMPUTE[:2], np.array([0.6, 0.7]), 100)


@pytest.mark.parametrize(
    ("compute", "share", "words"),
    [
        ([1e9, 1e9, 1e10], [0.5, 0.6, 0.7], "same compute"),
        ([0, 1e9, 1e10], [0.5, 0.6, 0.7], "positive"),
        ([1e8, 1e9, 1e10], [0.5, 0.6, 1.7], r"\[0, 1\]"),
        ([1e8, 1e9], [0.5, 0.6, 0.7], "one share per compute"),
    ],
)
def test_bad_points_are_refused_by_value(compute, share, words):
    with pytest.raises(AnalysisError, match=words):
        fit_curve(np.array(compute), np.array(share), 100)


def test_shares_of_zero_and_one_can_be_fitted():
    fit = fit_curve(COMPUTE, np.array([0.5, 0.7, 0.9, 1.0, 1.0, 1.0]), 200)
    assert np.all(np.isfinite(fit.predict(COMPUTE)))


def test_many_data_sets_are_fitted_as_each_alone():
    rng = np.random.default_rng(0)
    shares = share_of(rng.normal(0.5, 0.3, (4, 1)) + rng.normal(1, 0.3, (4, 1)) * shape(U, 2.0))
    together = fit_many(U, shares, 4800, Family.SATURATING).predict(U)
    alone = np.concatenate([fit_many(U, row[None, :], 4800, Family.SATURATING).predict(U) for row in shares])
    np.testing.assert_allclose(together, alone, atol=1e-9)


def test_the_saturating_curve_becomes_the_straight_line_as_its_rate_vanishes():
    np.testing.assert_allclose(shape(U, 1e-7), shape(U, 0.0), atol=1e-6)
    np.testing.assert_allclose(share_of(log_odds(np.array([0.1, 0.5, 0.99]))), [0.1, 0.5, 0.99])
