import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import f as f_distribution

from analysis.bent import BENT, asymptote, exponent, levels_off, sense
from analysis.lines import Values
from analysis.misfit import ALPHA, Goodness, discrepancy_at, goodness
from analysis.scaling.families import LOG_ODDS_LINEAR, Axis
from analysis.scaling.fitting import fit_points
from analysis.scaling.losses import Loss, LossName
from analysis.scaling.points import Points

N_TEST = 1000
BINOMIAL = Loss(LossName.BINOMIAL)
SATURATING = expit(2.5 - 2.1 * np.exp(-2 * np.linspace(0, 1, 5)))
ZIGZAG = np.array([0.65, 0.76, 0.70, 0.84, 0.80])


def fitted(y, family):
    x = np.geomspace(1e9, 1e12, y.size)
    return fit_points(Points(x[:, None], y, np.full(y.size, float(N_TEST))), family, BINOMIAL)


def measured(rng, truth, seeds, *, by_seed=0.01, shared=0.01, draws=200):
    """Values as the joint bootstrap makes them: examples paired over models, seeds with noise of their own and some
    that all models of a seed share."""
    examples = rng.normal(0, 0.6 * np.sqrt(truth * (1 - truth) / N_TEST), truth.size) + rng.normal(0, 0.008)
    runs = truth + examples + rng.normal(0, by_seed, (seeds, truth.size)) + rng.normal(0, shared, (seeds, 1))
    estimate = np.clip(runs.mean(axis=0), 0.01, 0.99)
    spread = np.diag(0.36 * truth * (1 - truth) / N_TEST) + 0.008**2
    moved = rng.multivariate_normal(np.zeros(truth.size), spread, draws)
    deviations = (runs - runs.mean(axis=0)) / np.sqrt(max(seeds * (seeds - 1), 1))
    noise = rng.standard_normal((draws, seeds)) @ deviations
    return Values(estimate, estimate + moved + noise, estimate + moved, estimate + noise, seeds)


def refused(truth, seeds, family, worlds=200):
    rng = np.random.default_rng(0)
    found = [measured(rng, truth, seeds) for _ in range(worlds)]
    return np.mean([goodness(fitted(values.estimate, family), values).refused for values in found])


@pytest.mark.parametrize("seeds", [2, 4])
def test_a_true_curve_is_refused_about_as_rarely_as_it_should(seeds):
    assert refused(SATURATING, seeds, BENT) <= 2 * ALPHA
    assert refused(expit(np.linspace(0.3, 1.8, 3)), seeds, LOG_ODDS_LINEAR) <= 2 * ALPHA


def test_a_curve_that_goes_up_and_down_is_refused():
    assert refused(ZIGZAG, 4, BENT, worlds=60) > 0.95


def test_with_one_direction_and_known_noise_it_is_the_square_of_a_normal_test():
    """Three points, a straight line, and noise of examples alone: chi-squared with one degree of freedom. Two seeds
    that are equal say that seeds do not matter."""
    y = np.array([0.6, 0.75, 0.7])
    rng = np.random.default_rng(1)
    moved = rng.normal(0, 0.04, (20_000, 3))
    values = Values(y, y + moved, y + moved, np.tile(y, (20_000, 1)), 2)
    fit = fitted(y, LOG_ODDS_LINEAR)
    # On the log-odds scale and with equal distances, residuals point along (1, -2, 1) over the weights.
    weight = N_TEST / (fit.fitted * (1 - fit.fitted))
    direction = np.array([1.0, -2.0, 1.0]) / (fit.fitted * (1 - fit.fitted))
    direction /= np.sqrt(np.sum(direction**2 / weight))
    squared = (direction @ (y - fit.fitted)) ** 2
    variance = np.sum(direction**2) * 0.04**2
    expected = f_distribution.sf(squared / variance, 1, 1e9)
    assert goodness(fit, values).p == pytest.approx(expected, rel=0.05)
    assert goodness(fit, values).discrepancy == pytest.approx(np.sqrt(max(0.0, squared - variance)), rel=0.05)


def test_one_seed_is_not_tested_but_its_discrepancy_is_known():
    values = measured(np.random.default_rng(2), ZIGZAG, 1)
    found = goodness(fitted(values.estimate, BENT), values)
    assert found.p is None
    assert not found.refused
    assert found.discrepancy > 1


def test_bands_are_not_widened_where_residuals_are_noise():
    fit = fitted(SATURATING, BENT)
    assert np.all(discrepancy_at(fit, Goodness(0.8, 0.0), fit.points.x[:, 0]) == 0)


def test_a_discrepancy_is_as_large_as_residuals():
    """Its standard deviation at the points is of the size of the residuals that it was estimated from."""
    values = measured(np.random.default_rng(3), ZIGZAG, 4)
    fit = fitted(values.estimate, BENT)
    off = discrepancy_at(fit, goodness(fit, values), fit.points.x[:, 0])
    residuals = np.sqrt(np.mean((fit.points.y - fit.fitted) ** 2))
    assert 0.5 * residuals < np.sqrt(np.mean(off**2)) < 3 * residuals


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-5, 20))
def test_a_bent_curve_goes_from_its_first_to_its_last_value(first, last, bend):
    ends = BENT.predict(np.array([first, last, bend]), np.array([[0.0], [1.0]]))
    np.testing.assert_allclose(ends, expit([first, last]), atol=1e-9)


@given(st.floats(-1, 0.5), st.floats(0.6, 2), st.floats(-4.9, 19.9))
def test_slopes_are_those_of_differences(first, last, bend):
    p, u, step = np.array([first, last, bend]), np.linspace(0, 1, 7)[:, None], 1e-5
    _, slope = BENT.predict_with_slope(p, u)
    for i in range(3):
        move = step * np.eye(3)[i]
        difference = (BENT.predict(p + move, u) - BENT.predict(p - move, u)) / (2 * step)
        np.testing.assert_allclose(slope[:, i], difference, atol=1e-5)


@pytest.mark.parametrize(("bend", "word"), [(1.0, "saturating"), (0.0, "log_odds_linear"), (-1.0, "accelerating")])
def test_bends_have_names(bend, word):
    assert sense(np.array([0.0, 1.0, bend])) == word


def test_the_asymptote_is_the_limit_and_the_exponent_that_of_compute():
    p = np.array([0.4, 1.9, 2.0])
    far = BENT.predict(p, np.array([[40.0]]))[0]
    assert asymptote(p) == pytest.approx(far)
    assert levels_off(p)
    assert exponent(p, Axis(1.0, np.exp(4.0))) == pytest.approx(0.5)
    assert not levels_off(np.array([0.4, 1.9, -2.0]))
