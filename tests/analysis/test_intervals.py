import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm, t

from analysis.errors import AnalysisError
from analysis.intervals import Draws, _quantiles, interval_of_draws, joint_draws
from analysis.metrics import performance_gap_recovered


def correctness(rng, accuracies, *, n_examples=600, n_seeds=3, seed_sd=0.06):
    """Correctness of columns of known accuracy over new seeds and examples, shape (example, column, seed)."""
    skill = norm.ppf(accuracies) * np.sqrt(1 + seed_sd**2)
    level = skill[:, None] + rng.normal(0, seed_sd, (len(accuracies), n_seeds))
    difficulty = rng.normal(0, np.sqrt(0.5), (n_examples, 1, 1))
    return level > difficulty + rng.normal(0, np.sqrt(0.5), (n_examples, len(accuracies), n_seeds))


def draws_of(correct, **options) -> Draws:
    return joint_draws(correct.mean(axis=2), correct.mean(axis=0), **options)


def pgr(columns):
    return performance_gap_recovered(columns[..., 0], columns[..., 1], columns[..., 2])[..., None]


@pytest.mark.parametrize(
    ("statistic", "truth"),
    [(lambda a: a[..., 1:2] - a[..., :1], 0.12), (pgr, 0.12 / 0.2), (lambda a: a[..., :1], 0.7)],
    ids=["difference of accuracies", "PGR", "one accuracy"],
)
def test_intervals_cover_the_truth_about_as_often_as_they_say_with_three_seeds(statistic, truth):
    hits = []
    for repetition in range(250):
        rng = np.random.default_rng(repetition)
        draws = draws_of(correctness(rng, np.array([0.70, 0.82, 0.90])), n_draws=300, random_seed=repetition)
        interval = draws.interval(statistic, [0, 1, 2])
        hits.append(interval.low[0] <= truth <= interval.high[0])
    # 250 repetitions of a 95 % interval: standard error .014. Too wide is allowed, too narrow is not.
    assert np.mean(hits) >= 0.92


def test_the_spread_of_example_draws_is_that_of_a_mean():
    rng = np.random.default_rng(0)
    values = rng.random((2000, 1))
    draws = joint_draws(values, values.mean(axis=0)[:, None], n_draws=2000)
    assert draws.examples.std() == pytest.approx(values.std() / np.sqrt(2000), rel=0.06)  # 4 standard errors of 2,000
    assert draws.estimate[0] == pytest.approx(values.mean())


def test_the_spread_of_seed_draws_is_the_unbiased_one():
    by_seed = np.array([[0.5, 0.6, 0.7]])
    draws = joint_draws(np.full((10, 1), 0.6), by_seed, n_draws=4000)
    assert draws.seeds.std() == pytest.approx(by_seed.std(ddof=1) / np.sqrt(3), rel=0.05)
    np.testing.assert_allclose(draws.examples, 0, atol=1e-12)


def test_where_only_seeds_vary_the_interval_is_that_of_student():
    by_seed = np.array([[0.5, 0.6, 0.7]])
    draws = joint_draws(np.full((10, 1), 0.6), by_seed, n_draws=20_000)
    interval = draws.interval(lambda a: a, [0])
    half = t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert interval.high[0] - 0.6 == pytest.approx(half, rel=0.05)  # quantile noise of 20,000 draws
    assert 0.6 - interval.low[0] == pytest.approx(half, rel=0.05)


def test_one_seed_leaves_the_interval_of_the_examples():
    rng = np.random.default_rng(1)
    values = (rng.random((1000, 1)) < 0.8).astype(float)
    interval = joint_draws(values, values.mean(axis=0)[:, None], n_draws=4000).interval(lambda a: a, [0])
    standard_error = values.std() / np.sqrt(1000)
    assert interval.high[0] - interval.low[0] == pytest.approx(2 * 1.96 * standard_error, rel=0.06)


def test_equal_columns_differ_by_exactly_nothing_in_every_draw():
    correct = correctness(np.random.default_rng(2), np.array([0.8]))
    draws = draws_of(np.concatenate([correct, correct], axis=1), n_draws=200)
    interval = draws.interval(lambda a: a[..., 1:] - a[..., :1], [0, 1])
    np.testing.assert_allclose([interval.low[0], interval.high[0]], 0, atol=1e-6)  # float32 in the matrix product


def test_a_column_without_some_seeds_uses_those_it_has():
    by_seed = np.array([[0.5, 0.6, 0.7], [0.5, np.nan, 0.7]])
    draws = joint_draws(np.full((10, 2), 0.6), by_seed, n_draws=4000)
    assert draws.n_seeds.tolist() == [3, 2]
    assert draws.seeds[:, 1].std() == pytest.approx(np.sqrt(0.02 / 2), rel=0.05)


def test_the_same_random_seed_gives_the_same_draws_and_another_gives_others():
    correct = correctness(np.random.default_rng(3), np.array([0.7, 0.9]))
    first, again, other = (draws_of(correct, n_draws=100, random_seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.examples, again.examples)
    np.testing.assert_array_equal(first.seeds, again.seeds)
    assert not np.array_equal(first.examples, other.examples)


def test_draws_do_not_depend_on_the_size_of_the_blocks_they_are_made_in(monkeypatch):
    correct = correctness(np.random.default_rng(4), np.array([0.7]), n_examples=50)
    whole = draws_of(correct, n_draws=120)
    monkeypatch.setattr("analysis.intervals._CHUNK_CELLS", 500)
    np.testing.assert_allclose(draws_of(correct, n_draws=120).examples, whole.examples, atol=1e-7)  # float32 sums


def test_the_first_draws_are_the_first_draws():
    draws = draws_of(correctness(np.random.default_rng(5), np.array([0.7])), n_draws=120)
    np.testing.assert_array_equal(draws.first(7).examples, draws.examples[:7])
    np.testing.assert_array_equal(draws.first(7).seeds, draws.seeds[:7])


def test_a_statistic_that_never_varies_has_a_point_as_interval():
    zeros = np.zeros((100, 1))
    interval = interval_of_draws(np.zeros(1), both=zeros, examples=zeros, seeds=zeros, n_seeds=3)
    assert interval.low[0] == interval.high[0] == 0


@pytest.mark.filterwarnings("error")
def test_a_statistic_that_is_nowhere_defined_has_no_interval_and_the_others_keep_theirs():
    rng = np.random.default_rng(6)
    values = rng.normal(size=(200, 2))
    some = values.copy()
    some[:, 0] = np.nan
    both = interval_of_draws(np.array([np.nan, 0.0]), both=some, examples=some, seeds=some, n_seeds=3)
    plain = interval_of_draws(np.zeros(2), both=values, examples=values, seeds=values, n_seeds=3)
    assert np.isnan(both.low[0])
    assert both.low[1] == plain.low[1]


def test_intervals_of_many_groups_are_those_of_each():
    draws = draws_of(correctness(np.random.default_rng(7), np.array([0.7, 0.8, 0.9, 0.95])), n_draws=200)
    groups = [[0, 1, 2], [0, 1, 3], [2, 3, 3]]  # the last has no gap, so its PGR is undefined
    many = draws.intervals(pgr, groups)
    for index, columns in enumerate(groups):
        one = draws.interval(pgr, columns)
        for name in ("estimate", "low", "high"):
            np.testing.assert_allclose(getattr(many, name)[index], getattr(one, name), rtol=1e-12)


def test_intervals_of_groups_do_not_depend_on_how_many_are_computed_at_once(monkeypatch):
    draws = draws_of(correctness(np.random.default_rng(8), np.array([0.7, 0.8, 0.9])), n_draws=120)
    groups = [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    whole = draws.intervals(pgr, groups)
    monkeypatch.setattr("analysis.intervals._CHUNK_CELLS", 1)
    np.testing.assert_array_equal(draws.intervals(pgr, groups).low, whole.low)


def test_groups_with_other_numbers_of_seeds_are_stretched_each_by_its_own():
    by_seed = np.array([[0.5, 0.6, 0.7], [0.5, np.nan, 0.7]])
    draws = joint_draws(np.full((10, 2), 0.6), by_seed, n_draws=400)
    many = draws.intervals(lambda a: a, [[0], [1]])
    for index in (0, 1):
        assert many.high[index, 0] == pytest.approx(draws.interval(lambda a: a, [index]).high[0])


def test_no_groups_have_no_intervals():
    draws = joint_draws(np.full((10, 1), 0.6), np.array([[0.6]]), n_draws=100)
    assert draws.intervals(lambda a: a, np.empty((0, 3))).low.size == 0


@given(
    arrays(float, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.floats(-9, 9) | st.just(np.nan)),
    st.floats(0.01, 0.4),
)
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_quantiles_are_numpys_with_undefined_draws_passed_over(draws, tail):
    low, high = _quantiles(draws, tail)
    expected = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    np.testing.assert_allclose([low, high], expected, atol=1e-12)


def test_values_without_examples_or_seeds_are_refused():
    with pytest.raises(AnalysisError, match="need test examples"):
        joint_draws(np.empty((0, 1)), np.array([[0.5]]))
    with pytest.raises(AnalysisError, match="column 1 has a value at no seed"):
        joint_draws(np.full((5, 2), 0.5), np.array([[0.5], [np.nan]]))
