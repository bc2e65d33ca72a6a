"""Pruners decide by what candidates scored on the same instances; at every prefix, by hand and against SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from sweep.tuning.block import Tune
from sweep.tuning.pruning import Halving, Never, Wilcoxon, can_stop, pruner_of, signed_rank_p, weakest_p

BEST = [0.50, 0.60, 0.40, 0.70, 0.55, 0.65, 0.45, 0.60]
N = len(BEST)


def prefixes_stopped(pruner, scores, others, n_instances=None) -> list[int]:
    """The lengths at which a candidate would be stopped."""
    n_instances = n_instances or len(scores)
    return [n for n in range(len(scores) + 1) if pruner.stop(scores[:n], others, n_instances=n_instances) is not None]


def test_what_is_worse_everywhere_is_stopped_once_the_test_can_say_so():
    worse = [score - 0.1 - 0.01 * i for i, score in enumerate(BEST)]
    # worse on all of n instances has p = 2^-n: 1/8 at three, 1/16 at four; with all eight there is nothing to save
    assert prefixes_stopped(Wilcoxon(p=0.1), worse, {3: BEST}) == [4, 5, 6, 7]
    assert prefixes_stopped(Wilcoxon(p=0.13), worse, {3: BEST}) == [3, 4, 5, 6, 7]
    assert prefixes_stopped(Wilcoxon(p=0.1, startup=6), worse, {3: BEST}) == [6, 7]
    assert prefixes_stopped(Wilcoxon(p=0.01), worse, {3: BEST}) == [7]


def test_the_reason_names_the_rival_the_instances_and_the_p_value():
    reason = Wilcoxon(p=0.1).stop([0.4, 0.5, 0.3, 0.6], {3: BEST}, n_instances=N)
    assert reason == (
        "worse than candidate 3 on the same 4 instances: 0.45 against 0.55 on average (signed ranks, p = 0.062 < 0.1)"
    )


def test_what_is_better_on_average_is_never_stopped():
    # worse on seven of eight by little, better on one by much: the ranks alone speak against it
    scores = [1.0] + [score - 0.01 for score in BEST[1:]] + [0.0]
    others = {0: [*BEST, 0.5]}
    # seven tied ranks of 4 and one of 8: W+ <= 8 with the 8 alone, or without it and up to two of the seven
    assert signed_rank_p(np.subtract(scores[:8], BEST)) == (1 + 1 + 7 + 21) / 256
    assert prefixes_stopped(Wilcoxon(p=0.2), scores, others, n_instances=9) == []


def test_hard_instances_do_not_count_against_a_candidate():
    """It has scored on the two hardest only, below everybody's mean, but above the best on these."""
    assert Wilcoxon(p=0.3).stop([0.51, 0.61], {0: [0.50, 0.60, 0.95, 0.95, 0.95]}, n_instances=5) is None


def test_the_rival_is_the_best_finished_one_and_else_the_leader_on_these_instances():
    good, bad = [0.9, 0.9, 0.9, 0.9, 0.9, 0.9], [0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    mine = [0.4, 0.5, 0.6, 0.5, 0.4]
    pruner = Wilcoxon(p=0.1)
    assert pruner.stop(mine, {0: bad, 1: good[:5]}, n_instances=6) is None  # only candidate 0 has finished
    assert "candidate 1 " in (pruner.stop(mine, {0: bad, 1: good}, n_instances=6) or "")
    assert "candidate 1 " in (pruner.stop(mine, {0: bad[:5], 1: good[:5]}, n_instances=6) or "")
    assert pruner.stop(mine, {1: good[:4]}, n_instances=6) is None  # it has not got as far
    assert "candidate 2 " in (pruner.stop(mine, {7: good, 2: good}, n_instances=6) or "")  # a tie: the earlier


@pytest.mark.parametrize("pruner", [Wilcoxon(p=0.5), Halving(factor=2, first=1), Never()])
def test_without_rivals_or_without_numbers_nothing_is_stopped(pruner):
    scores = [0.1] * 8
    assert prefixes_stopped(pruner, scores, {}) == []
    assert prefixes_stopped(pruner, [], {0: BEST}) == []
    assert prefixes_stopped(pruner, scores, {0: [float("nan")] * 8}) == []
    assert pruner.stop([float("nan"), 0.1, 0.1, 0.1], {0: BEST}, n_instances=N) is None


@pytest.mark.parametrize("pruner", [Wilcoxon(p=0.9), Halving(factor=2, first=1)])
def test_a_candidate_that_has_all_instances_is_not_stopped(pruner):
    assert pruner.stop([0.1] * 8, {0: BEST, 1: BEST}, n_instances=8) is None
    assert pruner.stop([0.1] * 8, {0: [*BEST, 0.5], 1: [*BEST, 0.5]}, n_instances=9) is not None


def test_halving_decides_at_its_rungs_only():
    pruner = Halving(factor=3, first=2)
    assert pruner.decisions(19) == [2, 6, 18]
    assert pruner.decisions(18) == [2, 6]
    rivals = {number: [0.5 + 0.01 * number] * 20 for number in range(5)}
    assert prefixes_stopped(pruner, [0.1] * 20, rivals) == [2, 6, 18]


def test_halving_keeps_the_best_third_of_those_that_got_this_far():
    rivals = {0: [0.1, 0.1], 1: [0.2, 0.2], 2: [0.3, 0.3, 0.9], 3: [0.9], 4: [0.4, 0.4]}
    pruner = Halving(factor=3, first=2)
    # five reached two instances, the candidate included: one goes on, the best
    assert pruner.stop([0.5, 0.4], rivals, n_instances=10) is None
    assert pruner.stop([0.4, 0.4], rivals, n_instances=10) is None  # level with the best
    assert pruner.stop([0.4, 0.3], rivals, n_instances=10) == (
        "2. of 5 that reached 2 instances, with 0.35 on average; the best 1 go on (successive halving by 3)"
    )
    # with a sixth two go on
    assert pruner.stop([0.4, 0.3], rivals | {5: [0.0, 0.0]}, n_instances=10) is None


def test_weakest_p_is_that_of_a_candidate_worse_everywhere():
    for n in range(1, 12):
        assert weakest_p(n) == pytest.approx(signed_rank_p([-1.0 - i for i in range(n)]), abs=1e-15)


@pytest.mark.parametrize(
    ("pruner", "n_instances", "can"),
    [
        (Wilcoxon(p=0.1), 4, False),  # three are tested at most, and 1/8 is not below 0.1
        (Wilcoxon(p=0.1), 5, True),
        (Wilcoxon(p=0.1, startup=5), 5, False),
        (Wilcoxon(p=0.6), 2, False),  # one difference is no test
        (Halving(first=2), 2, False),
        (Halving(first=2), 3, True),
        (Never(), 99, False),
    ],
)
def test_whether_a_pruner_can_ever_act_is_known_beforehand(pruner, n_instances, can):
    assert can_stop(pruner, n_instances) is can
    worst = [-1.0 - i for i in range(n_instances)]
    assert bool(prefixes_stopped(pruner, worst, {0: [0.0] * n_instances})) is can


def test_ties_and_zeros_by_hand():
    # |d| = 0, 1, 1: ranks 1, 2.5, 2.5; W+ without the zero is 0, 2.5, 2.5 or 5, each as likely
    assert signed_rank_p([0.0, -1.0, -1.0]) == 0.25
    assert signed_rank_p([0.0, -1.0, 1.0]) == 0.75
    assert signed_rank_p([0.0, 0.0]) == 1.0
    assert signed_rank_p([0.2 - 0.3, 0.2 - 0.1]) == 0.75  # a tie but for rounding


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-5000, 5000).filter(bool).map(lambda n: n / 5000), min_size=2, max_size=20, unique_by=abs))
def test_the_p_value_is_scipys_exact_one_where_there_are_no_ties(differences):
    expected = wilcoxon(differences, alternative="less", method="exact").pvalue
    assert signed_rank_p(differences) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_the_p_value_is_that_of_all_sign_patterns(differences):
    """With ties and zeros too, by going through all of them."""
    sizes = np.abs(differences)
    ranks = np.array([np.sum(sizes < size) + (np.sum(sizes == size) + 1) / 2 for size in sizes])
    moving = ranks[np.array(differences) != 0]
    observed = ranks[np.array(differences) > 0].sum()
    patterns = (np.arange(2 ** len(moving))[:, None] >> np.arange(len(moving))) & 1
    assert signed_rank_p(differences) == pytest.approx(np.mean(patterns @ moving <= observed + 1e-9))


scores_lists = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=6, max_size=6)


@settings(deadline=None, max_examples=60)
@given(scores_lists, st.dictionaries(st.integers(0, 9), scores_lists, max_size=5))
def test_the_order_in_which_others_are_given_decides_nothing(mine, others):
    for pruner in (Wilcoxon(p=0.2), Halving(factor=2, first=1)):
        backwards = dict(reversed(others.items()))
        assert prefixes_stopped(pruner, mine, backwards) == prefixes_stopped(pruner, mine, others)


@settings(deadline=None, max_examples=60)
@given(scores_lists, scores_lists, st.lists(st.integers(-9, 9), min_size=6, max_size=6))
def test_how_hard_an_instance_is_decides_nothing(mine, best, ease):
    pruner = Wilcoxon(p=0.2)
    easier, best_easier = (list(np.add(row, ease)) for row in (mine, best))
    assert prefixes_stopped(pruner, easier, {0: best_easier}) == prefixes_stopped(pruner, mine, {0: best})


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"name": "wilcoxon", "p": 0.05, "startup": 4}, Wilcoxon(0.05, 4)),
        ({"name": "halving", "factor": 2, "first": 3}, Halving(2, 3)),
        ("none", Never()),
        ("wilcoxon", Wilcoxon()),
    ],
)
def test_the_block_names_the_pruner(spec, expected):
    block = {"method": "naive", "space": {"finetune.epochs": [1, 2]}, "fresh": {"seeds": [7]}, "budget": {"trials": 9}}
    assert pruner_of(Tune.model_validate({**block, "pruner": spec})) == expected
