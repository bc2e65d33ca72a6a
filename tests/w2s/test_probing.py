import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

from w2s import probing
from w2s.errors import DataError, TrainingError
from w2s.probing import fit_logistic, knn_labels, nearest


def problem(n=200, width=8, seed=0):
    """Features of different lengths, and soft labels that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) * np.geomspace(0.3, 10, width) + rng.normal(size=width)
    z = (x - x.mean(axis=0)) @ rng.normal(size=width) / 5 + rng.normal(size=n)
    return x.astype(np.float32), 1 / (1 + np.exp(-z))


def gradient_of(probe, x, t, penalty):
    """Gradient of the objective, written out row by row."""
    by_weights, by_bias = 2 * penalty * probe.weights, 0.0
    for row, target in zip(x.astype(np.float64), t, strict=True):
        error = 1 / (1 + np.exp(-(row @ probe.weights + probe.bias))) - target
        by_weights, by_bias = by_weights + error * row / len(x), by_bias + error / len(x)
    return by_weights, by_bias


def scikit(x, y, penalty, *, intercept=True, weight=None, rows=None):
    c = 1 / (2 * penalty * (rows or len(x)))
    model = LogisticRegression(C=c, fit_intercept=intercept, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    return model.fit(x.astype(np.float64), y, sample_weight=weight)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("penalty", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("shape", [(200, 8), (40, 60)], ids=["tall", "wide"])
def test_hard_labels_give_what_scikit_learn_gives(shape, penalty, intercept):
    x, p = problem(*shape)
    y = (p > 0.5).astype(int)
    probe = fit_logistic(x, y, penalty=penalty, intercept=intercept)
    model = scikit(x, y, penalty, intercept=intercept)
    np.testing.assert_allclose(probe.weights, model.coef_[0], atol=1e-6)
    np.testing.assert_allclose(probe.bias, model.intercept_ if intercept else 0, atol=1e-5)
    np.testing.assert_allclose(probe.probabilities(x), model.predict_proba(x)[:, 1], atol=1e-6)


def test_soft_labels_are_rows_of_both_classes_weighted_by_their_share():
    x, p = problem()
    probe = fit_logistic(x, p)
    twice, y = np.concatenate([x, x]), np.repeat([1, 0], len(x))
    model = scikit(twice, y, 1e-3, weight=np.concatenate([p, 1 - p]), rows=len(x))
    np.testing.assert_allclose(probe.weights, model.coef_[0], atol=1e-6)
    np.testing.assert_allclose(probe.probabilities(x), model.predict_proba(x)[:, 1], atol=1e-6)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("shape", [(150, 10), (30, 50)], ids=["tall", "wide"])
@pytest.mark.parametrize("solver", ["direct", "conjugate gradients"])
def test_the_gradient_vanishes_at_the_fit(solver, shape, intercept, monkeypatch):
    if solver != "direct":
        monkeypatch.setattr(probing, "DIRECT_UP_TO", 0)
    x, p = problem(*shape)
    by_weights, by_bias = gradient_of(probe := fit_logistic(x, p, intercept=intercept), x, p, 1e-3)
    scale = np.sqrt((x.astype(np.float64) ** 2).sum(axis=1).mean())
    assert np.abs(by_weights).max() < 1e-10 * scale
    if intercept:
        assert abs(by_bias) < 1e-10 * scale
    else:
        assert probe.bias == 0


def test_both_solvers_agree_where_a_few_dimensions_are_huge(monkeypatch):
    x, p = problem(120, 20)
    x[:, 3] = 3000 + 20 * x[:, 3]
    x[:, 7] *= 500
    direct = fit_logistic(x, p)
    monkeypatch.setattr(probing, "DIRECT_UP_TO", 0)
    iterative = fit_logistic(x, p)
    np.testing.assert_allclose(iterative.log_odds(x), direct.log_odds(x), atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 40), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_no_other_weights_have_a_lower_objective(seed, n, width, penalty):
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(n, width)) * 3, rng.random(n)

    def objective(weights, bias):
        z = x @ weights + bias
        return np.mean(np.logaddexp(0, z) - t * z) + penalty * np.sum(weights**2)

    probe = fit_logistic(x, t, penalty=penalty)
    best = objective(probe.weights, probe.bias)
    for size in (1e-3, 1e-1, 1.0):
        direction = rng.normal(size=width + 1) * size
        assert objective(probe.weights + direction[:-1], probe.bias + direction[-1]) > best


def test_the_bias_is_free_so_that_the_mean_prediction_is_the_mean_label():
    x, p = problem()
    assert fit_logistic(x, p, penalty=100.0).probabilities(x).mean() == pytest.approx(p.mean(), abs=1e-9)


def test_without_an_intercept_swapped_pairs_get_the_opposite_log_odds():
    x, p = problem()
    probe = fit_logistic(x, p, intercept=False)
    np.testing.assert_allclose(probe.log_odds(-x), -probe.log_odds(x))
    np.testing.assert_allclose(fit_logistic(-x, 1 - p, intercept=False).weights, probe.weights, atol=1e-8)


@pytest.mark.parametrize("intercept", [True, False])
def test_standardised_features_have_no_units(intercept):
    x, p = problem()
    x = np.hstack([x, np.zeros((len(x), 1), dtype=np.float32)])  # a feature that never varies
    units = np.geomspace(1e-3, 1e3, x.shape[1])
    probe = fit_logistic(x, p, standardise=True, intercept=intercept)
    other = fit_logistic(x * units, p, standardise=True, intercept=intercept)
    np.testing.assert_allclose(other.log_odds(x * units), probe.log_odds(x), atol=1e-7)
    plain = fit_logistic(x, p, intercept=intercept).log_odds(x)
    assert np.abs(plain - fit_logistic(x * units, p, intercept=intercept).log_odds(x * units)).max() > 0.01


def test_separable_classes_have_a_finite_probe():
    x = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    probe = fit_logistic(x, np.array([0, 0, 1, 1]), penalty=1e-6)
    assert 5 < probe.weights[0] < 50
    assert probe.bias == pytest.approx(0, abs=1e-8)


def test_labels_of_one_class_are_learned_as_that_class():
    x, _ = problem(50)
    assert (fit_logistic(x, np.ones(50)).probabilities(x) > 0.999).all()


def test_equal_labels_need_no_weights():
    x, _ = problem(50)
    probe = fit_logistic(x, np.full(50, 0.25))
    np.testing.assert_allclose(probe.weights, 0, atol=1e-12)
    assert probe.bias == pytest.approx(np.log(1 / 3))


def test_a_fit_that_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr(probing, "MAX_STEPS", 2)
    with pytest.raises(TrainingError, match=r"did not converge in 2 Newton steps.*larger penalty than 0\.001"):
        fit_logistic(*problem())


@pytest.mark.parametrize(
    ("features", "targets", "penalty", "message"),
    [
        (np.array([[1.0], [np.nan]]), np.zeros(2), 1e-3, "1 of 2 rows have features that are not finite.* row 1"),
        (np.ones((2, 1)), np.array([0, 1.5]), 1e-3, r"1 of 2 targets are no probabilities in \[0, 1\].*row 1: 1.5"),
        (np.ones((2, 1)), np.array([0, np.nan]), 1e-3, "row 1: nan"),
        (np.ones((2, 1)), np.zeros(3), 1e-3, r"targets have shape \[3\] and features 2 rows"),
        (np.ones(2), np.zeros(2), 1e-3, r"features have shape \[2\]"),
        (np.ones((0, 4)), np.zeros(0), 1e-3, r"features have shape \[0, 4\]"),
        (np.ones((2, 1)), np.zeros(2), 0.0, "penalty is 0; it must be a positive number"),
    ],
)
def test_what_cannot_be_fitted_is_refused(features, targets, penalty, message):
    with pytest.raises(DataError, match=message):
        fit_logistic(features, targets, penalty=penalty)


def test_a_probe_refuses_features_of_another_width():
    probe = fit_logistic(*problem())
    with pytest.raises(DataError, match="fitted on 8 features per row, these rows have 5"):
        probe.log_odds(np.ones((2, 5)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 4), st.integers(1, 40), st.booleans(), st.booleans())
def test_neighbours_are_those_of_a_complete_sort(seed, n, width, k, skip_self, small_chunks):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, size=(n, width)).astype(np.float32) + 1000  # many ties
    queries = x if skip_self else rng.integers(-2, 3, size=(7, width)) + 1000.0
    k = min(k, n - skip_self)
    distances = cdist(queries, x, "sqeuclidean")
    if skip_self:
        np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :k]
    with pytest.MonkeyPatch.context() as patch:
        if small_chunks:
            patch.setattr(probing, "CHUNK_ENTRIES", 3)
        found = nearest(x, queries, k, skip_self=skip_self)
    np.testing.assert_array_equal(found, expected)


def test_neighbours_are_exact_where_products_of_huge_rows_would_round_them_away():
    x = np.array([[1e6, 0.003], [1e6, 0.001], [1e6, 0.002], [-1e6, 0.0]])
    assert nearest(x, np.array([[1e6, 0.0]]), 3).tolist() == [[1, 2, 0]]


def test_a_neighbour_label_is_the_mean_over_the_nearest_with_ties_to_the_earlier_row():
    train = np.array([[0.0], [1.0], [-1.0], [5.0]])
    labels = np.array([0.0, 1.0, 0.5, 0.9])
    # 0 is nearest to itself, then to rows 1 and 2 alike, of which 1 is first; 4 is nearest to rows 3 and 1.
    got = knn_labels(train, labels, np.array([[0.0], [4.0]]), k=2)
    np.testing.assert_allclose(got, [0.5, 0.95])


def test_with_all_rows_as_neighbours_every_label_is_the_mean():
    x, p = problem(30)
    np.testing.assert_allclose(knn_labels(x, p, x, k=30), p.mean())


def test_one_neighbour_is_the_row_itself():
    x, p = problem(30)
    np.testing.assert_array_equal(knn_labels(x, p, x, k=1), p)


@pytest.mark.parametrize(("k", "skip_self"), [(0, False), (4, False), (3, True)])
def test_more_neighbours_than_rows_are_refused_with_the_number_there_is(k, skip_self):
    with pytest.raises(DataError, match=f"k is {k}, but a row has {3 - skip_self} possible neighbours"):
        nearest(np.ones((3, 2)), np.ones((3, 2)), k, skip_self=skip_self)


def test_queries_of_another_width_are_refused():
    with pytest.raises(DataError, match="rows have 2 features and queries 5"):
        nearest(np.ones((3, 2)), np.ones((3, 5)), 1)


def test_probes_and_filters_need_no_torch():
    code = "import sys, w2s.labelling.filters; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
