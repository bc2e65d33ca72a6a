import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from w2s.losses import confidence_targets, cross_entropy, harden

LOG_ODDS = arrays(np.float64, st.integers(1, 40), elements=st.floats(-20, 20))


def test_cross_entropy_is_the_formula_worked_by_hand():
    z = torch.tensor([0.0, math.log(3.0), -math.log(4.0)])  # f = 1/2, 3/4, 1/5
    target = torch.tensor([1.0, 0.5, 0.0])
    by_hand = [math.log(2), -0.5 * math.log(0.75) - 0.5 * math.log(0.25), -math.log(0.8)]
    torch.testing.assert_close(cross_entropy(z, target), torch.tensor(by_hand))


def test_cross_entropy_agrees_with_torchs_own_on_two_logits():
    logits = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reference = torch.nn.functional.cross_entropy(logits, torch.stack([1 - target, target], 1), reduction="none")
    torch.testing.assert_close(cross_entropy(logits[:, 1] - logits[:, 0], target), reference)


def test_cross_entropy_stays_finite_far_out():
    assert cross_entropy(torch.tensor([1000.0, -1000.0]), torch.tensor([0.0, 1.0])).tolist() == [1000.0, 1000.0]


def test_the_gradient_of_cross_entropy_is_probability_minus_target():
    z = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    target = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, target), z)
    cross_entropy(z, target).sum().backward()
    torch.testing.assert_close(z.grad, torch.sigmoid(z.detach()) - target)


def test_half_of_the_batch_is_hardened_to_class_1():
    assert harden(torch.tensor([0.1, 3.0, -2.0, 0.2]), 0.5).tolist() == [0, 1, 0, 1]


def test_half_of_the_batch_is_hardened_even_when_all_predictions_are_one_sided():
    assert harden(torch.tensor([-3.0, -2.0, -5.0, -4.0]), 0.5).tolist() == [1, 1, 0, 0]


def test_half_of_the_batch_is_hardened_even_when_all_predictions_are_equal():
    assert harden(torch.zeros(6), 0.5).tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(("middle", "side"), [(0.3, 1.0), (-0.3, 0.0)])
def test_the_middle_of_an_odd_batch_keeps_its_own_side(middle, side):
    assert harden(torch.tensor([5.0, middle, -5.0]), 0.5).tolist() == [1.0, side, 0.0]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_a_batch_of_one_keeps_its_own_side(share):
    assert harden(torch.tensor([0.4]), share).tolist() == [1.0]
    assert harden(torch.tensor([-0.4]), share).tolist() == [0.0]


@given(LOG_ODDS, st.floats(0, 1))
def test_the_hardened_share_is_the_share_asked_for_to_within_half_an_example(z, share):
    hardened = harden(torch.from_numpy(z), share)
    if len(z) > 1:
        assert abs(float(hardened.sum()) - share * len(z)) <= 0.5 + 1e-9
    assert set(hardened.tolist()) <= {0.0, 1.0}


@given(LOG_ODDS, st.floats(0, 1))
def test_no_example_hardened_to_0_ranks_above_one_hardened_to_1(z, share):
    hardened = harden(torch.from_numpy(z), share).numpy()
    if len(set(hardened)) == 2:
        assert z[hardened == 1].min() >= z[hardened == 0].max()


def test_the_confidence_loss_is_the_papers_sum_of_two_cross_entropies():
    z = torch.tensor([2.0, -1.0, 0.5, -0.2], dtype=torch.float64)
    weak = torch.tensor([0.9, 0.8, 0.3, 0.1], dtype=torch.float64)
    hardened = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    a = 0.3
    paper = (1 - a) * cross_entropy(z, weak) + a * cross_entropy(z, hardened)
    torch.testing.assert_close(cross_entropy(z, confidence_targets(weak, z, weight=a)), paper)


def test_no_gradient_flows_through_the_hardened_predictions():
    z = torch.tensor([2.0, -1.0, 0.5, -0.2], dtype=torch.float64, requires_grad=True)
    weak = torch.full((4,), 0.5, dtype=torch.float64)
    targets = confidence_targets(weak, z, weight=0.5)
    assert not targets.requires_grad
    cross_entropy(z, targets).sum().backward()
    torch.testing.assert_close(z.grad, torch.sigmoid(z.detach()) - targets)


def test_the_confidence_loss_has_the_gradient_of_its_finite_differences_away_from_the_threshold():
    z = torch.tensor([2.0, -1.0, 0.5, -0.2], dtype=torch.float64, requires_grad=True)
    weak = torch.tensor([0.9, 0.8, 0.3, 0.1], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, confidence_targets(weak, x, weight=0.4)), z)


@pytest.mark.parametrize(
    ("balance", "hardened"),
    [("half", [1, 1, 0, 0]), ("weak_prior", [1, 0, 0, 0]), ("weak_batch", [1, 1, 1, 0])],
)
def test_the_balance_decides_how_many_examples_harden_to_class_1(balance, hardened):
    student = torch.tensor([4.0, 3.0, 2.0, 1.0])
    weak = torch.tensor([0.75, 0.75, 0.75, 0.75])
    targets = confidence_targets(weak, student, weight=1.0, balance=balance, weak_prior=0.25)
    assert targets.tolist() == hardened


def test_weight_zero_leaves_the_weak_labels():
    weak = torch.tensor([0.1, 0.9, 0.4])
    torch.testing.assert_close(confidence_targets(weak, torch.zeros(3), weight=0.0), weak)


def test_weak_labels_of_one_class_keep_their_hardened_share():
    targets = confidence_targets(torch.ones(4), torch.arange(4.0), weight=1.0, balance="weak_batch")
    assert targets.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    z = torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    weak = torch.tensor([0.25, 0.5, 1.0], dtype=dtype)
    loss = cross_entropy(z, confidence_targets(weak, z, weight=0.5))
    expected = cross_entropy(z.float(), confidence_targets(weak.float(), z.float(), weight=0.5))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
