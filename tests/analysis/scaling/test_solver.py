"""Losses by hand; bounded least squares and fits against scipy; recovery of every family."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, least_squares, lsq_linear, nnls
from scipy.special import expit

from analysis.scaling.families import CURVES, SURFACES
from analysis.scaling.losses import Loss, LossName, default_loss
from analysis.scaling.solver import bounded_least_squares, polish, search, solve

SQUARED, LOG, BINOMIAL = Loss(LossName.SQUARED), Loss(LossName.HUBER_LOG, np.inf), Loss(LossName.BINOMIAL)
HUBER = Loss(LossName.HUBER_LOG, 0.1)
LOSSES = (SQUARED, LOG, HUBER, BINOMIAL)
U = np.linspace(0, 1, 14)[:, None]
TRUE = {
    "linear": [2.0, -0.7],
    "power": [3.0, 1.2],
    "power_floor": [1.0, 2.0, 3.0],
    "log_odds_linear": [-0.5, 2.0],
    "saturating": [2.0, -3.0, 2.5],
    "logistic": [0.2, 0.9, 8.0, 0.45],
    "bnsl1": [0.5, 1.5, 0.4, 3.0, 0.5, 0.1],
    "m4": [2.0, 0.5, 1.5, 1.0, 6.0],
}


def fit(family, y, w=None, loss=SQUARED, u=U, **more):
    return solve(
        family, u, y, np.ones(u.shape[0]) if w is None else w, loss, bounds=family.bounds(shares=False), **more
    )


# --- losses ----------------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    y, f, w = np.array([0.5, 0.2]), np.array([0.4, 0.25]), np.array([2.0, 3.0])
    assert SQUARED.objective(y, f, w) == pytest.approx((2 * 0.1**2 + 3 * 0.05**2) / 2)
    r = np.log([0.5 / 0.4, 0.25 / 0.2])  # both log 1.25 = 0.223, beyond delta = 0.1
    assert LOG.objective(y, f, w) == pytest.approx((2 * r[0] ** 2 + 3 * r[1] ** 2) / 2)
    assert HUBER.objective(y, f, w) == pytest.approx(0.1 * (2 * (r[0] - 0.05) + 3 * (r[1] - 0.05)))
    kl = [0.5 * np.log(0.5 / 0.4) + 0.5 * np.log(0.5 / 0.6), 0.2 * np.log(0.2 / 0.25) + 0.8 * np.log(0.8 / 0.75)]
    assert BINOMIAL.objective(y, f, w) == pytest.approx(2 * kl[0] + 3 * kl[1])


def test_fits_outside_the_domain_cost_infinitely_much_unless_the_point_is_left_out():
    y, f = np.array([0.5, 0.5]), np.array([0.5, -0.1])
    for loss in (LOG, HUBER, BINOMIAL):
        assert loss.objective(y, f, np.ones(2)) == np.inf
        assert loss.objective(y, f, np.array([1.0, 0.0])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@given(y=st.floats(0.05, 0.95), f=st.floats(0.05, 0.95), w=st.floats(0.1, 100))
def test_scores_are_minus_the_derivatives_of_objectives(loss, y, f, w):
    def at(v):
        return loss.objective(np.array([y]), np.array(v), np.array([w]))

    score, curvature = loss.score(np.array([y]), np.array([f]), np.array([w]))
    numeric = (at([f + 1e-6]) - at([f - 1e-6])) / 2e-6
    assert score[0] == pytest.approx(-numeric, rel=1e-4, abs=1e-4 * w)
    assert curvature[0] > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_shifting_by_residuals_gives_the_values_back(loss):
    y, f = np.array([0.3, 0.6]), np.array([0.4, 0.5])
    np.testing.assert_allclose(loss.shifted(f, loss.residual(y, f)), y)


def test_default_losses():
    assert default_loss(np.array([0.2, 0.9]), counts=True) == BINOMIAL
    assert default_loss(np.array([0.2, 3.0]), counts=False) == LOG
    assert default_loss(np.array([0.0, 3.0]), counts=False) == SQUARED


# --- least squares with bounds ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_bounded_least_squares_agrees_with_scipy(seed, k):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(8, k)), rng.normal(size=8)
    low = np.where(rng.random(k) < 0.3, -np.inf, -rng.random(k) * 0.3)
    high = np.where(rng.random(k) < 0.3, np.inf, rng.random(k) * 0.3)
    c = bounded_least_squares(a.T @ a, a.T @ b, low, high)
    np.testing.assert_allclose(c, lsq_linear(a, b, (low, high), tol=1e-14).x, atol=1e-5)
    unsigned = bounded_least_squares(a.T @ a, a.T @ b, np.zeros(k), np.full(k, np.inf))
    np.testing.assert_allclose(unsigned, nnls(a, b)[0], atol=1e-8)


# --- fits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRUE)
def test_noise_free_curves_are_recovered(name):
    family, true = CURVES[name], np.array(TRUE[name])
    found = fit(family, family.predict(true, U)[None])
    assert found.converged[0]
    np.testing.assert_allclose(found.parameters[0], true, rtol=1e-5)


@pytest.mark.parametrize("true", [[1.7, 2.0, 3.0, 1.5, 2.5], [0.5, 1.0, 1.0, 4.0, 0.8]])
def test_noise_free_chinchilla_surfaces_are_recovered_in_all_five_parameters(true):
    family = SURFACES["additive_power"]
    u = np.array([[a, b] for a in np.linspace(0, 1, 6) for b in np.linspace(0, 1, 6)])
    found = fit(family, family.predict(np.array(true), u)[None], loss=LOG, u=u)
    np.testing.assert_allclose(found.parameters[0], true, rtol=1e-6)


@pytest.mark.parametrize("name", TRUE)
def test_noisy_fits_are_never_worse_than_the_best_of_many_starts_of_scipy(name):
    family, true = CURVES[name], np.array(TRUE[name])
    rng = np.random.default_rng(5)
    clean = family.predict(true, U)
    y = clean + 0.03 * np.ptp(clean) * rng.normal(size=(2, U.size))
    found = fit(family, y)
    low, high = family.bounds(shares=False)
    for own_y, objective in zip(y, found.objective, strict=True):
        best = np.inf
        for scale in (0.02, 0.1, 0.3, 0.3):
            start = np.clip(true * (1 + scale * rng.normal(size=true.size)), low + 1e-3, high - 1e-3)
            own = least_squares(
                lambda p, v=own_y: family.predict(p, U) - v,
                start,
                jac=lambda p, v=own_y: family.predict_with_slope(p, U)[1],
                bounds=(low, high),
                x_scale="jac",
                max_nfev=300,
            )
            best = min(best, own.cost)
        assert objective <= best * (1 + 1e-6)


def test_binomial_line_is_the_glm_of_newton():
    n, u = np.full(14, 200.0), U[:, 0]
    y = np.random.default_rng(3).binomial(200, expit(-0.5 + 2 * u)) / 200
    design, c = np.stack([np.ones(14), u], axis=1), np.zeros(2)
    for _ in range(30):
        p = expit(design @ c)
        c = c + np.linalg.solve(design.T @ (design * (n * p * (1 - p))[:, None]), design.T @ (n * (y - p)))
    found = fit(CURVES["log_odds_linear"], y[None], n, BINOMIAL)
    np.testing.assert_allclose(found.parameters[0], c, rtol=1e-7)


@pytest.mark.parametrize("loss", [SQUARED, LOG, HUBER])
def test_optima_inside_the_bounds_have_no_slope(loss):
    family = CURVES["power_floor"]
    y = family.predict(np.array(TRUE["power_floor"]), U) * np.exp(0.02 * np.random.default_rng(1).normal(size=14))
    found = fit(family, y[None], loss=loss)
    slope = approx_fprime(
        found.parameters[0], lambda p: float(loss.objective(y, family.predict(p, U), np.ones(14))), 1e-7
    )
    np.testing.assert_allclose(slope, 0, atol=1e-4)


def test_points_of_weight_zero_are_left_out_and_double_weight_is_a_duplicate():
    family = CURVES["power_floor"]
    y = family.predict(np.array(TRUE["power_floor"]), U) * np.exp(0.02 * np.random.default_rng(2).normal(size=14))
    w = np.ones(14)
    w[[3, 7]] = 0, 2
    y_wild = y.copy()
    y_wild[3] = 50
    rows = [i for i in range(14) if i != 3] + [7]
    weighted, repeated = fit(family, y_wild[None], w), fit(family, y[None, rows], u=U[rows])
    np.testing.assert_allclose(weighted.parameters, repeated.parameters, rtol=1e-5)


@pytest.mark.parametrize("name", ["power_floor", "saturating", "logistic"])
def test_a_batch_is_fitted_as_its_members_one_by_one(name):
    family = CURVES[name]
    clean = family.predict(np.array(TRUE[name]), U)
    y = clean * np.exp(0.01 * np.random.default_rng(4).normal(size=(5, 14)))
    together = fit(family, y)
    for i in range(5):
        alone = fit(family, y[i : i + 1])
        assert together.objective[i] == pytest.approx(alone.objective[0], rel=1e-7)
        np.testing.assert_allclose(together.parameters[i], alone.parameters[0], rtol=1e-4)


@given(st.floats(1e-3, 1e3))
@settings(max_examples=15, deadline=None)
def test_scaling_y_scales_floor_and_coefficient(factor):
    family = CURVES["power_floor"]
    y = family.predict(np.array(TRUE["power_floor"]), U) * np.exp(0.02 * np.random.default_rng(6).normal(size=14))
    one, scaled = (fit(family, v[None], loss=LOG).parameters[0] for v in (y, factor * y))
    np.testing.assert_allclose(scaled, one * [factor, factor, 1], rtol=1e-4)


def test_held_parameters_stay_and_more_starts_never_hurt():
    family = CURVES["power_floor"]
    y = family.predict(np.array(TRUE["power_floor"]), U)[None]
    held = polish(
        family, U, y, np.ones((1, 14)), SQUARED, family.bounds(shares=False), np.array([[0.5, 2.0, 3.0]]),
        fixed=np.array([True, False, False]),
    )  # fmt: skip
    assert held.parameters[0, 0] == 0.5
    assert held.objective[0] > 1e-6
    assert fit(family, y, starts=np.array([TRUE["power_floor"]])).objective[0] <= fit(family, y).objective[0] + 1e-20


@pytest.mark.parametrize("true", [(0.5, 2.0, 2.0, -1.8, 0.94, 0.03), (1.5, 1.0, 2.0, -1.2, 0.83, 0.02)])
def test_sharp_breaks_at_the_last_points_are_found(true):
    # Of 12 points, one lies beyond the first break and two beyond the second. The optimum that is next to the truth is
    # never missed.
    family, u = CURVES["bnsl1"], np.linspace(0, 1, 12)[:, None]
    y = family.predict(np.array(true), u) * np.exp(0.01 * np.random.default_rng(0).normal(size=(40, 12)))
    truth = np.repeat(np.array(true)[None], 40, axis=0)
    near = polish(family, u, y, np.ones_like(y), LOG, family.bounds(shares=False), truth)
    found = fit(family, y, loss=LOG, u=u)
    assert np.all(found.objective <= near.objective * (1 + 1e-4))


def test_a_flat_optimum_is_told_from_one_that_was_not_reached():
    # A soft break in noise of 1 %: in some of the curves rates before and after it can be traded for its width.
    family, u = CURVES["bnsl1"], np.linspace(0, 1, 12)[:, None]
    clean = family.predict(np.array([0.5, 2.0, 1.0, -0.7, 0.5, 0.1]), u)
    y = clean * np.exp(0.01 * np.random.default_rng(0).normal(size=(60, 12)))
    w, bounds = np.ones_like(y), family.bounds(shares=False)
    start = search(replace(family, n_polished=1), u, y, w, LOG, bounds)[:, 0]
    early = polish(family, u, y, w, LOG, bounds, start, iterations=1)
    assert early.flat is not None
    assert not early.flat.any()  # one step says nothing of the next
    late = polish(family, u, y, w, LOG, bounds, start, iterations=150)
    before = polish(family, u, y, w, LOG, bounds, start, iterations=100)
    assert late.flat is not None
    assert late.flat.any()
    assert not np.any(late.flat & late.converged)
    # What is called flat gained next to nothing in its last 50 steps.
    assert np.all(before.objective[late.flat] <= late.objective[late.flat] * (1 + 2e-4))


def test_many_data_sets_are_fitted_in_lots_as_they_would_be_at_once():
    family = CURVES["power_floor"]
    y = family.predict(np.array(TRUE["power_floor"]), U) * (
        1 + 0.01 * np.random.default_rng(1).normal(size=(1203, U.size))
    )
    found = fit(family, y)
    assert found.parameters.shape == (1203, 3)
    assert found.flat is not None
    assert found.flat.shape == found.converged.shape == (1203,)
    few = [0, 499, 500, 999, 1202]
    np.testing.assert_allclose(found.parameters[few], fit(family, y[few]).parameters, rtol=1e-6)
