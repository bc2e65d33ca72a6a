"""Families: derivatives against differences, limits, and natural parameters put into the printed formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from analysis.scaling.families import CURVES, SURFACES, Axis, Link

EVERY = CURVES | SURFACES
AXES = (Axis(3e4, 7e8), Axis(2e2, 5e6))
U = np.array([[0.0, 0.3], [0.2, 1.0], [0.55, 0.0], [0.8, 0.7], [1.0, 0.4]])


def theta_range(name, low, high):
    """Well inside the bounds, where differences are accurate."""
    if name.startswith("d") and name[1:].isdigit():
        return 0.05, 0.95
    if name.startswith("f") and name[1:].isdigit():
        return 0.1, 0.9
    if name == "x_mid":
        return -0.5, 1.5
    return max(low + 0.05, -4.0), min(high - 0.05, 4.0)


@st.composite
def parameters(draw, family):
    ranges = [(0.2, 3.0)] * family.n_coefficients
    for name, (low, high) in zip(family.thetas, family.theta_bounds, strict=True):
        ranges.append(theta_range(name, low, high))
    return np.array([draw(st.floats(low, high)) for low, high in ranges])


def natural(family, p):
    return {n.name: float(n.compute(p, AXES)) for n in family.natural}


def values_of_x():
    return np.stack([axis.value(U[:, i]) for i, axis in enumerate(AXES)], axis=1)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_slopes_equal_central_differences(name, data):
    family = EVERY[name]
    p = data.draw(parameters(family))
    value, slope = family.predict_with_slope(p, U)
    np.testing.assert_allclose(value, family.predict(p, U), rtol=1e-12)
    step = 1e-5
    for i in range(family.n_parameters):
        ahead, behind = p.copy(), p.copy()
        ahead[i] += step
        behind[i] -= step
        differences = (family.predict(ahead, U) - family.predict(behind, U)) / (2 * step)
        np.testing.assert_allclose(slope[:, i], differences, rtol=2e-4, atol=1e-6 * (1 + np.abs(value).max()))


@settings(max_examples=40, deadline=None)
@given(alpha=st.floats(0, 8), offset=st.floats(-15, 15), rate=st.floats(0.1, 15), y_inf=st.floats(0, 1))
def test_m4_satisfies_its_implicit_equation(alpha, offset, rate, y_inf):
    y_0 = y_inf + 1.7
    p = np.array([y_0, y_inf, alpha, offset, rate])
    y = CURVES["m4"].predict(p, U)
    share = (y - y_inf) / (y_0 - y_inf)
    keep = (share > 1e-6) & (share < 1 - 1e-6)  # beyond, differences of y lose their digits
    left = np.log(share[keep]) - alpha * np.log1p(-share[keep])
    np.testing.assert_allclose(left, (offset - rate * U[:, 0])[keep], atol=1e-6)


@given(rate=st.floats(0.1, 10), offset=st.floats(-8, -0.01))
def test_m4_without_alpha_is_a_power_law_with_floor(rate, offset):
    y = CURVES["m4"].predict(np.array([2.0, 0.5, 0.0, offset, rate]), U)
    np.testing.assert_allclose(y, 0.5 + 1.5 * np.exp(offset - rate * U[:, 0]), rtol=1e-8)


@given(rate=st.floats(0.5, 10), offset=st.floats(-8, 8))
def test_m4_with_alpha_one_is_a_logistic_curve(rate, offset):
    y = CURVES["m4"].predict(np.array([2.0, 0.5, 1.0, offset, rate]), U)
    np.testing.assert_allclose(y, 0.5 + 1.5 * expit(offset - rate * U[:, 0]), rtol=1e-8)
    falling = CURVES["logistic"].predict(np.array([2.0, 0.5, rate, offset / rate]), U)
    np.testing.assert_allclose(y, falling, rtol=1e-8)


@given(st.floats(0.1, 8))
def test_a_broken_law_whose_break_does_nothing_is_a_power_law_with_floor(rate):
    broken = CURVES["bnsl1"].predict(np.array([0.3, 1.2, rate, 0.0, 0.5, 0.1]), U)
    np.testing.assert_allclose(broken, CURVES["power_floor"].predict(np.array([0.3, 1.2, rate]), U), rtol=1e-12)


def printed(name, p, x):
    """The formulas of the module's table, in the table's own units."""
    x1, x2 = x[:, 0], x[:, 1]
    if name in ("linear", "log_odds_linear"):
        return p["a"] + p["b"] * np.log10(x1)
    if name in ("plane", "log_odds_plane"):
        return p["a"] + p["b"] * np.log10(x1) + p["c"] * np.log10(x2)
    if name == "power":
        return p["A"] * x1 ** -p["alpha"]
    if name == "power_floor":
        return p["E"] + p["A"] * x1 ** -p["alpha"]
    if name == "saturating":
        return logit(p["asymptote"]) + p["A"] * x1 ** -p["alpha"]
    if name == "logistic":
        return p["low"] + (p["high"] - p["low"]) / (1 + (x1 / p["x_mid"]) ** -p["k"])
    if name == "additive_power":
        return p["E"] + p["A"] * x1 ** -p["alpha"] + p["B"] * x2 ** -p["beta"]
    falling = p["b"] * x1 ** -p["c0"]
    for i in range(1, int(name[-1]) + 1):
        falling = falling * (1 + (x1 / p[f"d{i}"]) ** (1 / p[f"f{i}"])) ** (-p[f"c{i}"] * p[f"f{i}"])
    return p["a"] + falling


@pytest.mark.parametrize("name", [name for name in EVERY if name != "m4"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_natural_parameters_give_the_curve_in_the_printed_formula(name, data):
    family = EVERY[name]
    p = data.draw(parameters(family))
    expected = printed(name, natural(family, p), values_of_x())
    found = family.predict(p, U)
    np.testing.assert_allclose(found, expit(expected) if family.link is Link.LOG_ODDS else expected, rtol=1e-7)


@pytest.mark.parametrize("name", [name for name, family in EVERY.items() if family.link is Link.LOG_ODDS])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_log_odds_families_stay_strictly_between_0_and_1(name, data):
    y = EVERY[name].predict(data.draw(parameters(EVERY[name])), U)
    assert np.all((y > 0) & (y < 1))


@given(st.floats(-1, 2))
def test_positions_and_values_are_inverse(u):
    assert AXES[0].position(AXES[0].value(u)) == pytest.approx(u, abs=1e-12)
    assert (AXES[0].position(3e4), AXES[0].position(7e8)) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize("name", EVERY)
def test_every_start_lies_within_the_bounds(name):
    family = EVERY[name]
    low, high = family.bounds(shares=False)
    starts = family.starts()
    k = family.n_coefficients
    assert starts.shape[1] == len(family.thetas)
    assert np.all((starts >= low[k:] - 1e-12) & (starts <= high[k:] + 1e-12))


def test_where_the_broken_law_is_clipped_its_slope_is_zero_and_elsewhere_it_is_not():
    # Break at 0 and width 1 with c1 = 0: the logarithm of the term is -20 u, clipped at -60 from u = 3 on.
    family, theta = CURVES["bnsl1"], np.array([20.0, 0.0, 0.0, 1.0])
    u = np.array([[4.0], [1.0]])
    slope = family.slope(theta[None], u)
    assert np.all(slope[0] == 0)
    assert slope[1, 1, 0] == pytest.approx(-np.exp(-20))
    assert slope[1, 1, 1] == pytest.approx(-np.log(1 + np.e) * np.exp(-20))
    assert family.basis(theta[None], u)[0, 1] == pytest.approx(np.exp(-60))
    rising = family.slope(np.array([-20.0, 0.0, 0.0, 1.0])[None], u)
    assert np.all(rising[0] == 0)
    assert rising[1, 1, 0] == pytest.approx(-np.exp(20))
