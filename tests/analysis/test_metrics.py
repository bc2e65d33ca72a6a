from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import metrics
from analysis.errors import AnalysisError

GOLD = [1, 0, 1, 0]


def test_accuracy_is_the_share_of_right_predictions():
    assert metrics.accuracy(GOLD, [1, 0, 0, 0]) == 0.75


def test_auroc_counts_a_tie_as_one_half():
    # positives .8 and .5, negatives .5 and .1: of four pairs three are ordered rightly and one is a tie
    assert metrics.auroc(GOLD, [0.8, 0.5, 0.5, 0.1]) == pytest.approx(3.5 / 4)


def test_auroc_of_equal_scores_is_one_half_and_of_one_class_is_undefined():
    assert metrics.auroc(GOLD, [0.3] * 4) == pytest.approx(0.5)
    assert np.isnan(metrics.auroc([1, 1], [0.2, 0.9]))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), min_size=2, max_size=40))
def test_auroc_equals_the_count_over_all_pairs(rows):
    gold, p = np.array([int(g) for g, _ in rows]), np.array([s for _, s in rows])
    positive, negative = p[gold == 1], p[gold == 0]
    if positive.size == 0 or negative.size == 0:
        assert np.isnan(metrics.auroc(gold, p))
        return
    wins = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
    assert metrics.auroc(gold, p) == pytest.approx(wins)


def test_log_loss_is_the_mean_negative_log_likelihood():
    expected = -(np.log(0.8) + np.log(0.9)) / 2
    assert metrics.log_loss([1, 0], [0.8, 0.1]) == pytest.approx(expected)


def test_log_loss_of_a_certain_mistake_is_finite():
    assert metrics.log_loss([1], [0.0]) == pytest.approx(-np.log(1e-7))


def test_calibration_error_averages_bins_by_their_share():
    # bin [.2, .3): mean p .25, share of class 1 is .5; bin [.9, 1]: mean p 1, share 1
    gold, p = [1, 0, 1, 1], [0.25, 0.25, 1.0, 1.0]
    assert metrics.calibration_error(gold, p) == pytest.approx(0.5 * 0.25 + 0.5 * 0.0)


def test_agreement_is_split_by_whether_the_supervisor_is_right():
    gold, weak, student = [1, 1, 1, 0, 0], [1, 1, 0, 0, 1], [1, 0, 0, 0, 0]
    found = metrics.agreement(gold, weak, student)
    assert found.overall == pytest.approx(3 / 5)
    assert found.when_weak_right == pytest.approx(2 / 3)
    assert found.when_weak_wrong == pytest.approx(1 / 2)


def test_agreement_where_the_supervisor_is_never_wrong_is_undefined():
    assert np.isnan(metrics.agreement([1, 0], [1, 0], [1, 1]).when_weak_wrong)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_accuracies_follow_from_agreements_in_binary_tasks(rows):
    """acc_s = acc_w A_c + (1 - acc_w)(1 - A_m)."""
    gold, weak, student = np.array(rows).astype(int).T
    found = metrics.agreement(gold, weak, student)
    acc_w = metrics.accuracy(gold, weak)
    right, wrong = np.nan_to_num([found.when_weak_right, found.when_weak_wrong])
    assert found.overall == pytest.approx(acc_w * right + (1 - acc_w) * wrong)
    recovered = acc_w * right + (1 - acc_w) * (1 - wrong if acc_w < 1 else 0)
    assert metrics.accuracy(gold, student) == pytest.approx(recovered)


@pytest.mark.parametrize("share", [-0.5, 0.0, 0.25, 1.0, 1.1])
def test_pgr_is_the_share_of_the_gap_the_student_was_given(share):
    weak, ceiling = np.array([0.60, 0.62]), np.array([0.90, 0.88])
    pgr = metrics.performance_gap_recovered(weak, weak + share * (ceiling - weak), ceiling)
    np.testing.assert_allclose(pgr, share, atol=1e-12)  # share 0 leaves rounding only


def test_pgr_is_the_same_for_accuracy_and_for_accuracy_above_chance():
    raw = (np.array([0.6]), np.array([0.7]), np.array([0.9]))
    above_chance = (2 * accuracy - 1 for accuracy in raw)
    np.testing.assert_allclose(
        metrics.performance_gap_recovered(*above_chance), metrics.performance_gap_recovered(*raw)
    )


def test_pgr_without_a_gap_is_undefined_and_not_infinite():
    assert np.isnan(metrics.performance_gap_recovered(0.7, 0.8, 0.7))


def test_pgr_to_first_order_has_the_value_and_the_slope_of_pgr():
    at = (np.array([0.6]), np.array([0.75]), np.array([0.9]))
    np.testing.assert_allclose(metrics.pgr_to_first_order(*at, at=at), 0.5)
    step = 1e-6
    for index in range(3):
        moved = [a + step * (i == index) for i, a in enumerate(at)]
        exact = metrics.performance_gap_recovered(*moved)
        np.testing.assert_allclose(metrics.pgr_to_first_order(*moved, at=at), exact, atol=1e-10)  # second order in step


def test_scores_refuse_vectors_of_different_length_by_name():
    with pytest.raises(AnalysisError, match=r"'gold': \(2,\), 'prediction': \(3,\).*by example_id"):
        metrics.accuracy([1, 0], [1, 0, 1])
    with pytest.raises(AnalysisError, match="at least one example"):
        metrics.auroc([], [])


@pytest.mark.parametrize("p", [[0.5, float("nan")], [0.5, 1.5], [-0.1, 0.5]])
@pytest.mark.parametrize("score", [metrics.log_loss, metrics.calibration_error])
def test_what_is_no_probability_is_refused_by_value(score, p):
    with pytest.raises(AnalysisError, match=r"1 of 2 probabilities.*(nan|1\.5|-0\.1)"):
        score([0, 1], p)


def test_scores_without_an_order_have_no_auroc():
    with pytest.raises(AnalysisError, match="1 of 2 scores are NaN"):
        metrics.auroc([0, 1], [0.5, float("nan")])


# Of class 1: 4 examples, 3 found. Of class 0: 6, of which 2 are taken for class 1.
OUTCOMES = ([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0, 0, 0])


def test_scores_of_two_classes_by_hand():
    of = metrics.confusion(*OUTCOMES)
    assert [float(share) for share in of] == pytest.approx([0.3, 0.2, 0.4, 0.1])
    f1_of_1, f1_of_0 = 2 * 3 / (2 * 3 + 2 + 1), 2 * 4 / (2 * 4 + 1 + 2)
    assert metrics.macro_f1(of) == pytest.approx((f1_of_1 + f1_of_0) / 2)
    assert metrics.weighted_f1(of) == pytest.approx(0.4 * f1_of_1 + 0.6 * f1_of_0)
    assert metrics.balanced_accuracy(of) == pytest.approx((3 / 4 + 4 / 6) / 2)


def test_the_unsafe_rate_is_the_share_of_harmful_examples_taken_for_harmless():
    of = metrics.confusion(*OUTCOMES)
    assert metrics.unsafe_rate(of, 1) == pytest.approx(1 / 4)  # of four harmful ones, one passes
    assert metrics.unsafe_rate(of, 0) == pytest.approx(2 / 6)
    assert metrics.false_alarm_rate(of, 1) == pytest.approx(2 / 6)
    assert metrics.false_alarm_rate(of, 0) == pytest.approx(1 / 4)


def test_scores_of_one_class_only():
    of = metrics.confusion([0, 0, 0], [0, 0, 0])
    assert metrics.macro_f1(of) == 0.5  # the class that is nowhere has an F1 of 0
    assert metrics.weighted_f1(of) == 1
    assert np.isnan(metrics.unsafe_rate(of, 1))
    assert metrics.false_alarm_rate(of, 1) == 0
    assert np.isnan(metrics.balanced_accuracy(of))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_scores_of_two_classes_equal_those_of_scikit_learn(rows):
    scores = pytest.importorskip("sklearn.metrics")
    gold, prediction = zip(*rows, strict=True)
    of = metrics.confusion(gold, prediction)

    def f1(average):
        return scores.f1_score(gold, prediction, labels=[0, 1], average=average, zero_division=0)

    assert metrics.macro_f1(of) == pytest.approx(f1("macro"))
    assert metrics.weighted_f1(of) == pytest.approx(f1("weighted"))
    if len(set(gold)) == 2:
        assert metrics.balanced_accuracy(of) == pytest.approx(scores.balanced_accuracy_score(gold, prediction))
        for unsafe in (0, 1):
            found = scores.recall_score(gold, prediction, pos_label=unsafe)
            assert metrics.unsafe_rate(of, unsafe) == pytest.approx(1 - found)


def test_every_score_that_a_task_may_ask_for_is_computed_here():
    from w2s import config

    assert set(metrics.DECLARED) == set(get_args(config.Metric))
    assert set(metrics.OF_HARM) == set(config.OF_HARM)
