"""Diagnoses of fits, and bootstrap and profile intervals against the exact ones of linear models."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

from analysis.errors import AnalysisError
from analysis.scaling.families import CURVES
from analysis.scaling.fitting import FitStatus, fit_points
from analysis.scaling.losses import Loss, LossName
from analysis.scaling.points import Points
from analysis.scaling.uncertainty import curve_band, parameter_intervals, profiles, resample, stretched

SQUARED, BINOMIAL = Loss(LossName.SQUARED), Loss(LossName.BINOMIAL)
X = np.geomspace(1e2, 1e6, 10)


def points(y, x=X, **more):
    return Points(np.asarray(x, dtype=float)[:, None], np.asarray(y, dtype=float), **more)


def noisy(y, spread=0.02, seed=0):
    return y * np.exp(spread * np.random.default_rng(seed).normal(size=y.size))


@pytest.fixture(scope="module")
def line():
    y = 3 + 0.5 * np.log10(X) + 0.1 * np.random.default_rng(7).normal(size=X.size)
    return fit_points(points(y), CURVES["linear"], SQUARED)


@pytest.fixture(scope="module")
def floor():
    return fit_points(points(noisy(1 + 20 * X**-0.5)), CURVES["power_floor"])


def exact_slope(fit):
    """Slope per decade and half width of its 95 % t interval."""
    v, y = np.log10(fit.points.x[:, 0]), fit.points.y
    slope, start = np.polyfit(v, y, 1)
    s = np.sqrt(np.sum((y - start - slope * v) ** 2) / (y.size - 2))
    return slope, t.ppf(0.975, y.size - 2) * s / np.sqrt(np.sum((v - v.mean()) ** 2))


# --- fits and what they could not tell -------------------------------------------------------------------------------


def test_natural_parameters_do_not_depend_on_the_unit_of_x():
    y = noisy(1 + 20 * X**-0.5)
    one, other = (fit_points(points(y, x), CURVES["power_floor"]).natural() for x in (X, 1000 * X))
    assert other["alpha"] == pytest.approx(one["alpha"], rel=1e-5)
    assert other["A"] == pytest.approx(one["A"] * 1000 ** one["alpha"], rel=1e-4)


def test_a_good_fit_has_nothing_to_say(floor):
    assert (floor.status, floor.testable, floor.diagnosis, floor.degrees) == (FitStatus.CONVERGED, True, "", 7)
    assert floor.dispersion == pytest.approx(np.sqrt(2 * floor.objective / 7))
    np.testing.assert_allclose(floor.residuals, np.log(floor.points.y / floor.fitted))


def test_flat_points_and_missing_bends_and_few_points_are_diagnosed():
    flat = fit_points(points(np.full(10, 2.0)), CURVES["power_floor"])
    assert (flat.status, flat.diagnosis) == (
        FitStatus.AT_BOUND,
        "flat: all y are 2, so no exponent, floor or break can be told, nor how noisy y is",
    )
    straight = fit_points(points(1 + 0.5 * np.log10(X)), CURVES["power_floor"], SQUARED)
    assert straight.status is FitStatus.AT_BOUND
    assert "no bend to be seen" in straight.diagnosis
    few = fit_points(points(1 + X[:4] ** -0.5, X[:4]), CURVES["power_floor"])
    assert not few.testable
    assert few.diagnosis.startswith("not testable: 4 different x, power_floor needs 5")


def test_what_cannot_be_fitted_is_refused():
    family = CURVES["power_floor"]
    with pytest.raises(AnalysisError, match="3 parameters; there are only 2 different x"):
        fit_points(points([1.0, 2.0], [1, 2]), family)
    with pytest.raises(AnalysisError, match="must be above zero; use squared"):
        fit_points(points(np.linspace(-1, 1, 10)), family, Loss(LossName.HUBER_LOG))
    with pytest.raises(AnalysisError, match="number of examples"):
        fit_points(points(np.linspace(0.1, 0.9, 10)), family, BINOMIAL)
    with pytest.raises(AnalysisError, match=r"curve of shares.*up to 2"):
        fit_points(points(np.linspace(1, 2, 10)), CURVES["saturating"])
    with pytest.raises(AnalysisError, match="function of 1 variable"):
        fit_points(Points(np.stack([X, X], axis=1), X), family)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_profile_of_a_straight_line_is_the_exact_t_interval(line):
    (slope,) = [p for p in profiles(line) if p.name == "b"]
    estimate, half = exact_slope(line)
    assert slope.identified
    assert slope.estimate == pytest.approx(estimate, rel=1e-8)
    assert (slope.low, slope.high) == (
        pytest.approx(estimate - half, rel=1e-4),
        pytest.approx(estimate + half, rel=1e-4),
    )


def test_residual_bootstrap_of_a_straight_line_comes_near_the_exact_t_interval(line):
    estimate, low, high = parameter_intervals(resample(line, draws=4000))["b"]
    exact, half = exact_slope(line)
    assert estimate == pytest.approx(exact, rel=1e-8)
    assert (exact - low) / half == pytest.approx(1, abs=0.1)
    assert (high - exact) / half == pytest.approx(1, abs=0.1)


def test_profile_and_bootstrap_of_an_exponent_agree_roughly(floor):
    (profile,) = [p for p in profiles(floor) if p.name == "alpha"]
    _, low, high = parameter_intervals(resample(floor, draws=300))["alpha"]
    assert profile.identified
    assert profile.low < profile.estimate < profile.high
    assert (high - low) / (profile.high - profile.low) == pytest.approx(1, abs=0.35)


def test_profiles_are_open_where_the_points_do_not_tell():
    straight = fit_points(points(noisy(3 - 0.1 * np.log10(X))), CURVES["power_floor"])
    found = {p.name: p for p in profiles(straight)}
    assert found["E"].open_low
    assert not found["E"].identified


def test_stretching_by_hand():
    draws = np.linspace(-1, 1, 2001)[:, None]
    band = stretched(np.array([0.0]), draws, 5, 0.8)
    assert band.high[0] == pytest.approx(0.8 * t.ppf(0.9, 5) / norm.ppf(0.9))
    assert stretched(np.array([0.0]), draws, np.inf, 0.8).low[0] == pytest.approx(-0.8)


def test_bands_hold_the_curve_and_are_nested(floor):
    drawn = resample(floor, draws=200)
    narrow, wide = (curve_band(drawn, X, level) for level in (0.5, 0.95))
    assert np.all((wide.low <= narrow.low) & (narrow.high <= wide.high))
    assert np.all((wide.low < floor.fitted) & (floor.fitted < wide.high))


def test_draws_repeat_with_their_seed_and_differ_between_seeds(floor):
    one, again, other = (resample(floor, draws=20, random_seed=s).draws for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.fixture(scope="module")
def seeded():
    rng = np.random.default_rng(3)
    effect = np.repeat(rng.normal(0, 0.2, 5), X.size)  # points of one seed err together
    x, seed = np.tile(X, 5), np.repeat(np.arange(5), X.size)
    y = 3 + 0.5 * np.log10(x) + effect + 0.01 * rng.normal(size=x.size)
    return fit_points(points(y, x, seed=seed), CURVES["linear"], SQUARED)


def test_resampling_seeds_sees_that_points_of_one_seed_err_together(seeded):
    by_seed, by_case = (resample(seeded, kind, draws=400) for kind in ("seeds", "cases"))
    assert by_seed.degrees == 4
    assert by_case.degrees == 48
    middle = np.array([1e4])
    widths = [float(np.std(fit.drawn_at(middle))) for fit in (by_seed, by_case)]
    assert widths[0] > 1.5 * widths[1]
    means = seeded.points.y.reshape(5, -1).mean(axis=1)
    assert widths[0] == pytest.approx(np.std(means) / np.sqrt(5), rel=0.15)


def test_what_cannot_be_resampled_is_refused(line, seeded):
    with pytest.raises(AnalysisError, match="tells repetitions apart"):
        resample(line, "seeds")
    with pytest.raises(AnalysisError, match="at least two"):
        resample(replace(line, points=Points(line.points.x, line.points.y, seed=np.zeros(10))), "seeds")
    exact = fit_points(points([1.0, 2.5], [1, 10]), CURVES["linear"], SQUARED)
    with pytest.raises(AnalysisError, match="passes through its 2 points exactly"):
        resample(exact)
    for made in (curve_band, lambda fit, x: parameter_intervals(fit)):
        with pytest.raises(AnalysisError, match="no draws"):
            made(line, X)


def test_counts_say_what_the_noise_is_unless_points_scatter_more():
    p = 0.5 + 0.05 * np.log10(X)
    n = np.full(10, 1000.0)
    calm = fit_points(points(np.round(1000 * p) / 1000, n=n), CURVES["log_odds_linear"], BINOMIAL)
    assert (calm.dispersion, calm.degrees) == (1.0, np.inf)
    wild = fit_points(points(p + 0.1 * (-1.0) ** np.arange(10), n=n), CURVES["log_odds_linear"], BINOMIAL)
    chi2 = np.sum(n * (wild.points.y - wild.fitted) ** 2 / (wild.fitted * (1 - wild.fitted)))
    assert (wild.dispersion, wild.degrees) == (pytest.approx(chi2 / 8), 8)
    middle = np.array([1e4])
    widths = [np.ptp([b.low, b.high]) for b in (curve_band(resample(f, draws=300), middle) for f in (calm, wild))]
    assert widths[1] > 2 * widths[0]
