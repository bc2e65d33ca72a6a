import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_data import examples_of

from w2s.predict import SCHEMA, Evaluation, mean_cross_entropy, predictions_table, probabilities

FINITE = arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e4, 1e4, width=32))


def test_probabilities_are_the_logistic_function_and_overflow_nowhere():
    z = np.array([0.0, math.log(3), -1e4, 1e4], dtype=np.float32)
    assert probabilities(z).tolist() == pytest.approx([0.5, 0.75, 0.0, 1.0])
    assert probabilities(z).dtype == np.float32


@given(FINITE)
def test_probabilities_keep_the_order_of_log_odds(z):
    order = np.argsort(z, kind="stable")
    assert (np.diff(probabilities(z)[order]) >= 0).all()


@given(FINITE)
def test_swapping_the_classes_leaves_the_cross_entropy(z):
    target = np.linspace(0, 1, len(z))
    assert mean_cross_entropy(z, target) == pytest.approx(mean_cross_entropy(-z, 1 - target), rel=1e-9, abs=1e-9)


def test_the_cross_entropy_of_an_undecided_model_is_one_bit():
    assert mean_cross_entropy(np.zeros(3, dtype=np.float32), np.array([0, 1, 0.3])) == pytest.approx(math.log(2))


def test_the_table_is_sorted_and_calls_class_1_only_above_one_half():
    splits = {"validation": examples_of([1, 1]), "test": examples_of([1, 1, 1])}
    first = Evaluation(3, {"validation": np.array([-1.0, 1.0], np.float32), "test": np.zeros(3, np.float32)})
    last = Evaluation(6, {"test": np.array([0.0, 1e-3, -2.0], np.float32), "validation": np.zeros(2, np.float32)})
    table = predictions_table([last, first], splits)
    assert dict(table.schema) == SCHEMA
    assert table.equals(table.sort("split", "step", "example_id"))
    assert table.height == 10
    final = table.filter(split="test", step=6)
    assert final["prediction"].to_list() == [0, 1, 0]
    assert final["correct"].to_list() == [True, False, True]
