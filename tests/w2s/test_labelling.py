"""Ensembles, control supervisors and difficulty; filters have a file of their own."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s.errors import DataError
from w2s.labelling.controls import ControlKind, by_confidence, by_length, control_labels, count_errors, uniform
from w2s.labelling.difficulty import difficulty, easy_rows
from w2s.labelling.ensembles import average, vote

KINDS = get_args(ControlKind)


def rng(seed=0):
    return np.random.default_rng(seed)


# Ensembles.


def test_the_average_is_the_mean_of_probabilities():
    p = np.array([[0.9, 0.1, 0.5], [0.5, 0.3, 0.0], [0.1, 0.2, 1.0]], dtype=np.float32)
    averaged = average(p)
    assert averaged.dtype == np.float32
    np.testing.assert_allclose(averaged, [0.5, 0.2, 0.5], rtol=1e-6)  # float32


def test_a_vote_counts_predictions_and_not_their_confidence():
    p = np.array([[0.51, 0.99, 0.5], [0.51, 0.4, 0.6], [0.01, 0.4, 0.4], [0.51, 0.4, 0.4]])
    assert vote(p).tolist() == [0.75, 0.25, 0.25]


def test_an_even_vote_stays_undecided():
    assert vote(np.array([[0.9], [0.2]])).tolist() == [0.5]


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 2**31))
def test_an_ensemble_of_equals_is_each_of_them_and_members_have_no_order(members, n, seed):
    p = rng(seed).random((members, n)).astype(np.float32)
    np.testing.assert_allclose(average(np.repeat(p[:1], members, axis=0)), p[0], rtol=1e-6)  # float32
    np.testing.assert_array_equal(vote(np.repeat(p[:1], members, axis=0)), p[0] > 0.5)
    np.testing.assert_allclose(average(p[::-1]), average(p), rtol=1e-6)
    np.testing.assert_array_equal(vote(p[::-1]), vote(p))


@pytest.mark.parametrize("combine", [average, vote])
def test_an_ensemble_refuses_missing_labels_and_missing_members(combine):
    with pytest.raises(DataError, match=r"1 labels .* member 1, row 0, nan"):
        combine(np.array([[0.1, 0.2], [np.nan, 0.3]]))
    with pytest.raises(DataError, match=r"member 0, row 1, 1\.5"):
        combine(np.array([[0.1, 1.5]]))
    with pytest.raises(DataError, match="at least one member"):
        combine(np.empty((0, 3)))
    with pytest.raises(ValueError, match=r"\[members, n\], got \[3\]"):
        combine(np.zeros(3))


# Control supervisors.

GOLD = np.array([1, 0, 1, 0, 1, 0], dtype=np.int8)


def wrong_rows(labels, gold=GOLD):
    assert labels.dtype == np.float32
    assert set(labels.tolist()) <= {0.0, 1.0}
    return np.flatnonzero(labels != gold).tolist()


def test_errors_are_predictions_on_the_wrong_side_of_one_half():
    # An undecided model predicts class 0: an error in row 2, none in row 3.
    assert count_errors(GOLD, np.array([0.9, 0.9, 0.5, 0.5, 0.4, 0.1])) == 3


@pytest.mark.parametrize(
    ("which", "wrong"), [("longest", [1, 2, 4]), ("shortest", [0, 3, 5])], ids=["longest", "shortest"]
)
@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_the_longest_or_shortest_texts_are_wrong(which, wrong, dtype):
    lengths = np.array([5, 9, 7, 0, 200, 2], dtype=dtype)
    assert wrong_rows(by_length(GOLD, 3, lengths, which=which)) == wrong


def test_texts_of_one_length_are_taken_in_their_order():
    for which in ("longest", "shortest"):
        assert wrong_rows(by_length(GOLD, 2, np.full(6, 4), which=which)) == [0, 1]


def test_the_least_confident_rows_are_wrong_on_whichever_side_they_are():
    strong_p = np.array([0.99, 0.45, 0.6, 0.58, 0.02, 0.1])
    assert wrong_rows(by_confidence(GOLD, 2, strong_p, which="least_confident")) == [1, 3]
    assert wrong_rows(by_confidence(GOLD, 3, strong_p, which="least_confident")) == [1, 2, 3]


def test_the_most_confidently_correct_rows_are_wrong_and_then_the_least_confidently_wrong():
    strong_p = np.array([0.99, 0.95, 0.6, 0.2, 0.3, 0.6])  # right on rows 0, 3, 2 by confidence; wrong on 5, 4, 1
    expected = [0, 3, 2, 5, 4, 1]
    for n in range(7):
        assert wrong_rows(by_confidence(GOLD, n, strong_p, which="most_confident_correct")) == sorted(expected[:n])


def test_an_undecided_strong_model_predicts_class_0():
    gold, strong_p = np.array([1, 0], dtype=np.int8), np.array([0.5, 0.5])
    assert wrong_rows(by_confidence(gold, 1, strong_p, which="most_confident_correct"), gold) == [1]


def test_uniform_errors_fall_on_every_row_alike():
    gold, repetitions = np.zeros(8, dtype=np.int8), 2000
    generator = rng()
    hits = sum(uniform(gold, 2, generator) for _ in range(repetitions))
    # Binomial: 2 of 8 rows, standard deviation 19.4; five of them.
    np.testing.assert_allclose(hits, repetitions / 4, atol=97)


@given(st.sampled_from(KINDS), st.integers(0, 40), st.integers(0, 2**31))
def test_every_control_makes_as_many_errors_as_the_weak_model(kind, n, seed):
    generator = rng(seed)
    gold = generator.integers(0, 2, n).astype(np.int8)
    weak_p = generator.random(n).round(1)
    options = {"lengths": generator.integers(1, 5, n), "strong_p": generator.random(n).round(1)}
    labels = control_labels(kind, gold=gold, weak_p=weak_p, rng=rng(seed), **options)
    assert len(wrong_rows(labels, gold)) == int(((weak_p > 0.5) != gold).sum())
    again = control_labels(kind, gold=gold, weak_p=weak_p, rng=rng(seed), **options)
    np.testing.assert_array_equal(labels, again)


def test_controls_of_every_kind_are_wrong_where_their_name_says():
    weak_p = np.array([0.1, 0.9, 0.9, 0.1, 0.9, 0.1])  # two errors
    lengths, strong_p = np.array([3, 1, 4, 1, 5, 9]), np.array([0.9, 0.3, 0.95, 0.45, 0.6, 0.4])
    inputs = {"gold": GOLD, "weak_p": weak_p, "lengths": lengths, "strong_p": strong_p}
    wrong = {kind: wrong_rows(control_labels(kind, rng=rng(), **inputs)) for kind in KINDS}
    assert len(wrong.pop("uniform")) == 2
    assert wrong == {"longest": [4, 5], "shortest": [1, 3], "least_confident": [3, 4], "most_confident": [0, 2]}


@pytest.mark.parametrize(
    ("kind", "absent"),
    [
        ("uniform", "rng"),
        ("longest", "lengths"),
        ("shortest", "lengths"),
        ("least_confident", "strong_p"),
        ("most_confident", "strong_p"),
    ],
)
def test_a_control_needs_what_it_chooses_by(kind, absent):
    inputs = {"lengths": np.ones(6), "strong_p": np.full(6, 0.5), "rng": rng()} | {absent: None}
    with pytest.raises(ValueError, match=f"{kind}.*needs {absent}"):
        control_labels(kind, gold=GOLD, weak_p=np.full(6, 0.2), **inputs)


def test_controls_refuse_what_they_cannot_use():
    with pytest.raises(DataError, match="no control supervisor is called 'random'; there are: uniform, longest"):
        control_labels("random", gold=GOLD, weak_p=np.full(6, 0.2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="7 of 6 labels cannot be wrong"):
        uniform(GOLD, 7, rng())
    with pytest.raises(DataError, match="-1 of 6"):
        uniform(GOLD, -1, rng())
    with pytest.raises(DataError, match="1 true labels are neither 0 nor 1, the first: 2"):
        uniform(np.array([0, 1, 2], dtype=np.int8), 1, rng())
    with pytest.raises(DataError, match="weak label in row 2 is nan"):
        count_errors(GOLD, np.array([0.1, 0.2, np.nan, 0, 0, 0]))
    with pytest.raises(DataError, match=r"strong model in row 0 is 1\.2"):
        by_confidence(GOLD, 1, np.full(6, 1.2), which="least_confident")
    with pytest.raises(ValueError, match=r"lengths of shape \[5\] do not belong"):
        by_length(GOLD, 1, np.ones(5), which="longest")


# Difficulty.


def test_difficulty_is_the_rung_from_which_on_every_model_is_right():
    correct = np.array(
        [  # always  luck  late   never  last lost
            [True, True, False, False, True],
            [True, False, False, False, True],
            [True, True, True, False, False],
        ]
    )
    assert difficulty(correct).tolist() == [0, 2, 2, 3, 3]


@given(st.integers(1, 6), st.integers(0, 30), st.integers(0, 2**31))
def test_difficulty_agrees_with_its_definition(rungs, n, seed):
    correct = rng(seed).random((rungs, n)) < 0.7
    by_definition = [
        min([k for k in range(rungs) if correct[k:, i].all()], default=rungs) for i in range(correct.shape[1])
    ]
    assert difficulty(correct).tolist() == by_definition


def test_difficulty_needs_a_rung():
    with pytest.raises(DataError, match="the ladder needs a rung"):
        difficulty(np.empty((0, 4), dtype=bool))
    with pytest.raises(ValueError, match=r"\[rungs, n\], got \[4\]"):
        difficulty(np.ones(4, dtype=bool))


LEVELS = np.array([0, 3, 1, 0, 2, 1, 0, 3, 1, 0])


def test_easy_rows_are_easy_and_as_many_for_every_cutoff():
    for up_to in (0, 1, 2, 3):
        chosen = easy_rows(LEVELS, up_to=up_to, rows=4, rng=rng(up_to))
        assert (chosen.dtype, chosen.sum()) == (bool, 4)
        assert LEVELS[chosen].max() <= up_to


def test_easy_rows_are_drawn_alike_and_only_by_the_generator():
    generator, repetitions = rng(), 2000
    hits = sum(easy_rows(LEVELS, up_to=1, rows=2, rng=generator).astype(int) for _ in range(repetitions))
    # Binomial: 2 of 7 easy rows, standard deviation 20.2; five of them.
    np.testing.assert_allclose(hits, np.where(LEVELS <= 1, repetitions * 2 / 7, 0), atol=101)
    first, again = (easy_rows(LEVELS, up_to=1, rows=3, rng=rng(5)).tolist() for _ in range(2))
    assert first == again


def test_too_few_easy_rows_are_counted():
    with pytest.raises(DataError, match=r"8 rows .* up to 1 .* there are 7 \(4 of difficulty 0, 3 of difficulty 1, 1 "):
        easy_rows(LEVELS, up_to=1, rows=8, rng=rng())
    with pytest.raises(DataError, match=r"there are 0 \(none\)"):
        easy_rows(np.array([], dtype=np.int64), up_to=1, rows=1, rng=rng())
    with pytest.raises(DataError, match="at least 1"):
        easy_rows(LEVELS, up_to=1, rows=0, rng=rng())
