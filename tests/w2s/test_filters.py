import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from w2s.errors import DataError
from w2s.labelling.filters import knn_filter, knn_relabel, most_confident, probe_filter, probe_relabel, topological
from w2s.probing import fit_logistic

N = np.float32(np.nan)
PROBABILITIES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60)


def same(got, expected):
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.array(expected, dtype=np.float32))


def clusters(n=60, seed=0):
    """Two clusters, one per class, and weak labels of which a few are wrong."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2
    x = rng.normal(size=(n, 3)) + 8 * truth[:, None]
    p = np.where(truth == 1, 0.9, 0.1) + rng.uniform(-0.05, 0.05, n)
    wrong = np.array([3, 10, 25, 40])
    p[wrong] = 1 - p[wrong]
    return p.astype(np.float32), x.astype(np.float32), wrong


def dropped(labels):
    return np.flatnonzero(np.isnan(labels))


def test_the_most_confident_of_each_class_stay_as_they_are():
    p = [0.9, 0.6, 0.99, 0.7, 0.4, 0.1, 0.45]
    same(most_confident(np.array(p), keep=0.5), [0.9, N, 0.99, N, 0.4, 0.1, N])


def test_at_least_one_row_of_a_predicted_class_stays():
    same(most_confident(np.array([0.9, 0.95, 0.8, 0.3]), keep=0.05), [N, 0.95, N, 0.3])


def test_rows_as_confident_as_each_other_stay_in_their_order():
    same(most_confident(np.array([0.9, 0.9, 0.9, 0.9]), keep=0.5), [0.9, 0.9, N, N])


def test_one_half_is_the_least_confident_prediction_of_class_0():
    same(most_confident(np.array([0.5, 0.25, 1.0]), keep=0.5), [N, 0.25, 1.0])


@given(PROBABILITIES, st.sampled_from([0.05, 0.1, 0.2, 0.5, 1.0]))
def test_each_class_keeps_its_share_and_nothing_less_confident_than_what_it_drops(p, keep):
    p = np.array(p, dtype=np.float32)
    got = most_confident(p, keep=keep)
    for rows in (p > 0.5, p <= 0.5):
        kept = rows & ~np.isnan(got)
        assert kept.sum() == (max(1, round(keep * rows.sum())) if rows.any() else 0)
        if (rows & ~kept).any():
            assert np.abs(p[kept] - 0.5).min() >= np.abs(p[rows & ~kept] - 0.5).max()
    same(got[~np.isnan(got)], p[~np.isnan(got)])


@pytest.mark.parametrize("method", [probe_filter, knn_filter])
def test_filters_find_the_labels_that_do_not_fit_their_cluster(method):
    p, x, wrong = clusters()
    options = {"k": 9} if method is knn_filter else {}
    got = method(p, x, drop=4 / 60, **options)
    assert dropped(got).tolist() == wrong.tolist()
    kept = ~np.isnan(got)
    same(got[kept], p[kept])


def test_relabelling_puts_right_the_labels_that_do_not_fit_their_cluster():
    p, x, wrong = clusters()
    truth = np.arange(60) % 2
    assert ((p > 0.5) != truth).sum() == len(wrong)
    for got in (probe_relabel(p, x), knn_relabel(p, x, k=9)):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got > 0.5, truth == 1)


def test_the_probe_filter_drops_what_is_furthest_from_the_probe():
    rng = np.random.default_rng(1)
    p, x = rng.random(40).astype(np.float32), rng.normal(size=(40, 5))
    distance = np.abs(fit_logistic(x, p, penalty=0.01).probabilities(x) - p)
    got = probe_filter(p, x, drop=0.25, penalty=0.01)
    assert dropped(got).tolist() == sorted(np.argsort(-distance)[:10])
    np.testing.assert_allclose(probe_relabel(p, x, penalty=0.01), fit_logistic(x, p, penalty=0.01).probabilities(x))


def test_the_probe_of_pairs_has_no_bias():
    p, x, _ = clusters()
    same(
        probe_relabel(p, x, intercept=False),
        fit_logistic(x, p, intercept=False).probabilities(x),
    )


def test_of_equally_distant_rows_the_earlier_are_dropped():
    p = np.array([1.0, 0.0, 1.0, 0.0])
    same(knn_filter(p, np.zeros((4, 2)), k=4, drop=0.5), [N, N, 1.0, 0.0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(3, 40), st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.99]))
def test_filters_drop_exactly_their_share_and_never_all(seed, n, drop):
    rng = np.random.default_rng(seed)
    p, x = rng.random(n).astype(np.float32), rng.normal(size=(n, 2))
    expected = min(round(drop * n), n - 1)
    assert len(dropped(probe_filter(p, x, drop=drop))) == expected
    assert len(dropped(knn_filter(p, x, k=2, drop=drop))) == expected


def brute_force_topological(p, x, k, drop):
    """TopoFilter with reachability by repeated multiplication and sorts of all distances."""
    n = len(p)

    def neighbours(rows, k):
        d = cdist(x[rows], x[rows], "sqeuclidean")
        np.fill_diagonal(d, np.inf)
        return np.argsort(d, axis=1, kind="stable")[:, :k]

    adjacency = np.zeros((n, n), dtype=bool)
    for i, row in enumerate(neighbours(np.arange(n), k)):
        adjacency[i, row] = True
    adjacency &= (p > 0.5)[:, None] == (p > 0.5)[None]
    reach = adjacency | np.eye(n, dtype=bool)
    for _ in range(n):
        reach = reach | (reach.astype(int) @ reach.astype(int) > 0)
    mutual = reach & reach.T
    kept = []
    for members in (np.flatnonzero(p > 0.5), np.flatnonzero(p <= 0.5)):
        if len(members):
            biggest = max(members, key=lambda i: (mutual[i].sum(), -i))
            kept += np.flatnonzero(mutual[biggest]).tolist()
    kept = np.array(sorted(kept))
    more = min(round(drop * n), n - 1) - (n - len(kept))
    if more > 0 and len(kept) > 1:
        labels = p[kept].astype(np.float64)
        distance = np.abs(labels[neighbours(kept, min(k, len(kept) - 1))].mean(axis=1) - labels)
        kept = np.delete(kept, np.argsort(-distance, kind="stable")[:more])
    result = np.full(n, N)
    result[kept] = p[kept]
    return result


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 10_000), st.integers(4, 30), st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.4, 0.8]), st.booleans()
)
def test_topofilter_is_what_its_definition_says(seed, n, k, drop, agree):
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, size=(n, 2)).astype(np.float32)
    # With labels that follow the features, components are large and the second step has something to do.
    p = (1 / (1 + np.exp(-x[:, 0])) if agree else rng.random(n)).astype(np.float32)
    k = min(k, n - 1)
    same(topological(p, x, k=k, drop=drop), brute_force_topological(p, x, k, drop))


def test_topofilter_cuts_off_a_wrong_label_in_the_middle_of_a_cluster():
    p, x, wrong = clusters()
    # Rows with wrong labels point to nothing of their predicted class, whose rows are in the other cluster.
    assert dropped(topological(p, x, k=15, drop=0.0)).tolist() == wrong.tolist()


def test_topofilter_stops_when_the_components_have_dropped_more_than_asked():
    x = np.array([[0.0], [1.0], [2.0], [100.0], [101.0], [102.0], [200.0], [201.0]])
    p = np.array([0.9] * 8)
    # k = 1 makes pairs and chains; the largest component is the pair of the earliest row.
    got = topological(p, x, k=1, drop=0.1)
    same(got, [0.9, 0.9, N, N, N, N, N, N])


def test_topofilter_goes_on_with_the_rows_that_differ_most_from_their_neighbours():
    x = np.arange(6, dtype=float)[:, None]
    p = np.array([0.9, 0.9, 0.6, 0.9, 0.9, 0.9])
    # All of one class and connected, so that one row (round(0.2 * 6)) is dropped by its label.
    same(topological(p, x, k=2, drop=0.2), [0.9, 0.9, N, 0.9, 0.9, 0.9])


def test_a_class_that_is_not_predicted_keeps_no_row_and_does_no_harm():
    _, x, _ = clusters()
    same(topological(np.full(60, 0.7), x, k=59, drop=0.0), np.full(60, 0.7))


def test_filters_do_not_change_what_they_are_given():
    p, x, _ = clusters()
    before, features = p.copy(), x.copy()
    for got in (most_confident(p, keep=0.1), knn_filter(p, x, k=5), topological(p, x, k=5), probe_filter(p, x)):
        assert not np.shares_memory(got, p)
    np.testing.assert_array_equal(p, before)
    np.testing.assert_array_equal(x, features)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: most_confident(p, keep=0.0), "keep is 0; it is a share above 0"),
        (lambda p, x: most_confident(p, keep=5), "keep is 5"),
        (lambda p, x: probe_filter(p, x, drop=1.0), "drop is 1; .* 0.1 for 10 %"),
        (lambda p, x: knn_filter(p, x, k=5, drop=-0.1), "drop is -0.1"),
        (lambda p, x: topological(p, x, k=60), "k is 60, but a row has 59 possible neighbours"),
        (lambda p, x: knn_relabel(p, x, k=61), "k is 61, but a row has 60 possible neighbours"),
        (lambda p, x: topological(p, x[:50], k=5), "60 weak labels and activations of 50 rows"),
        (lambda p, x: knn_filter(p, x[:50], k=5), "labels have shape .60. and features 50 rows"),
        (lambda p, x: most_confident(p * np.nan, keep=0.1), "60 of 60 weak labels are no probabilities.*row 0: nan"),
        (lambda p, x: most_confident(p[:0], keep=0.1), "at least one"),
    ],
)
def test_what_cannot_be_filtered_is_refused(call, message):
    p, x, _ = clusters()
    with pytest.raises(DataError, match=message):
        call(p, x)
