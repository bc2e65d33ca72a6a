"""What fits say of their own noise, and what resamples and profiles make of it."""

import numpy as np
import polars as pl
import pytest

from analysis.errors import AnalysisError
from analysis.scaling.families import CURVES
from analysis.scaling.fitting import FitStatus, fit_many, fit_points
from analysis.scaling.losses import Loss, LossName
from analysis.scaling.points import Points, points_of
from analysis.scaling.uncertainty import curve_band, profiles, resample

SQUARED = Loss(LossName.SQUARED)


def line_points(n: int, *, seeds: int = 1, spread: float = 0.1) -> Points:
    x = np.repeat(np.geomspace(1e2, 1e6, n), seeds)
    rng = np.random.default_rng(3)
    own = spread * rng.standard_normal(seeds)[np.tile(np.arange(seeds), n)]  # points of one seed err together
    y = 2 + 0.3 * np.log10(x) + own + 0.01 * rng.standard_normal(x.size)
    return Points(x[:, None], y, seed=np.tile(np.arange(seeds), n))


@pytest.mark.parametrize("n", [8, 20])
def test_residual_draws_of_a_line_have_the_variance_of_least_squares(n):
    points = line_points(n)
    fit = resample(fit_points(points, CURVES["linear"], SQUARED), draws=8000)
    v = np.log10(points.x[:, 0])
    design = np.stack([np.ones(n), v], axis=1)
    residual = points.y - design @ np.linalg.lstsq(design, points.y)[0]
    expected = np.sqrt(residual @ residual / (n - 2) * np.linalg.inv(design.T @ design)[1, 1])
    assert fit.draws is not None
    drawn = CURVES["linear"].natural[1].compute(fit.draws, fit.axes)
    assert drawn.std() == pytest.approx(expected, rel=0.05)


def test_seed_draws_have_the_unbiased_variance_over_seeds():
    # The mean of 3 seeds has variance s^2 / 3 with s^2 over S - 1; a plain bootstrap would give two thirds of it.
    points = line_points(6, seeds=3)
    assert points.seed is not None
    fit = resample(fit_points(points, CURVES["linear"], SQUARED), "seeds", draws=8000)
    middle = np.array([1e4])
    per_seed = [
        fit_points(points.take(points.seed == s), CURVES["linear"], SQUARED).at(middle)[0]
        for s in np.unique(points.seed)
    ]
    assert fit.degrees == 2
    assert fit.drawn_at(middle).std() == pytest.approx(np.std(per_seed, ddof=1) / np.sqrt(3), rel=0.05)


def test_profiles_do_not_depend_on_what_was_resampled():
    fit = fit_points(line_points(6, seeds=3), CURVES["linear"], SQUARED)
    before, after = profiles(fit)[0], profiles(resample(fit, "seeds", draws=50))[0]
    assert (after.low, after.high) == (before.low, before.high)


def test_points_must_say_which_seed_they_are_of():
    frame = pl.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0], "seed": ["a", None]})
    with pytest.raises(AnalysisError, match=r"column 'seed' has None in row 2: every point must say which repetition"):
        points_of(frame, ["x"], "y", seed="seed")


def test_shares_that_are_all_one_can_be_resampled():
    points = Points(np.geomspace(1, 1e4, 8)[:, None], np.ones(8), np.full(8, 100.0))
    fit = resample(fit_points(points, CURVES["linear"], Loss(LossName.BINOMIAL)), draws=20)
    band = curve_band(fit, np.array([10.0]))
    assert np.all(np.isfinite([band.low, band.high]))
    assert np.all(band.low <= band.high)


def test_constant_values_are_fitted_and_called_flat():
    points = Points(np.geomspace(1, 1e4, 8)[:, None], np.full(8, 0.7))
    fit = fit_points(points, CURVES["power_floor"])
    assert fit.at(np.array([100.0])) == pytest.approx(0.7)
    assert fit.status is FitStatus.AT_BOUND
    assert "flat" in fit.diagnosis


def test_a_constant_variable_and_values_that_are_no_shares_are_refused():
    with pytest.raises(AnalysisError, match="all points are at one x"):
        fit_points(Points(np.full((5, 1), 3.0), np.arange(1.0, 6.0)), CURVES["power"])
    with pytest.raises(AnalysisError, match=r"goes from -0\.5 up to 0\.5"):
        fit_points(Points(np.geomspace(1, 9, 5)[:, None], np.linspace(-0.5, 0.5, 5)), CURVES["saturating"], SQUARED)


def test_many_data_sets_are_fitted_as_one_by_one():
    points = line_points(8)
    y = np.stack([points.y, points.y[::-1], points.y**2])
    _, many = fit_many(points, y, CURVES["power_floor"], SQUARED)
    for row, values in enumerate(y):
        alone = fit_points(Points(points.x, values), CURVES["power_floor"], SQUARED)
        assert many.objective[row] == pytest.approx(alone.objective, rel=1e-6)
