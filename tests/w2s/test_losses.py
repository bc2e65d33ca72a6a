import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from w2s.losses import (
    MAX_LOG_ODDS,
    center_log_odds,
    confidence_targets,
    cross_entropy,
    entropy,
    generalised_cross_entropy,
    harden,
    kl_divergence,
    negative_square,
    product_targets,
    windowed_cross_entropy,
)

LOG_ODDS = arrays(np.float64, st.integers(1, 40), elements=st.floats(-20, 20))
MODEST_LOG_ODDS = arrays(np.float64, st.integers(1, 40), elements=st.floats(-10, 10))
HAND = torch.tensor([0.0, math.log(3.0), -math.log(4.0)], dtype=torch.float64)  # f = 1/2, 3/4, 1/5
TARGETS = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
ROW_LOSSES = {
    "cross_entropy": cross_entropy,
    "kl": kl_divergence,
    "entropy": lambda z, target: cross_entropy(z, target) + 0.5 * entropy(z),
    "square": lambda z, target: cross_entropy(z, target) + 0.5 * negative_square(z),
    "window": lambda z, target: windowed_cross_entropy(z, target, radius=0.3),
    "generalised_ce": lambda z, target: generalised_cross_entropy(z, target, q=0.7),
    "product": lambda z, target: cross_entropy(z, product_targets(target, torch.full_like(z, 0.5))),
}
every_row_loss = pytest.mark.parametrize("loss", ROW_LOSSES.values(), ids=ROW_LOSSES.keys())


def float64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradient(loss, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """d loss / d z of each example."""
    z = z.detach().clone().requires_grad_()
    loss(z, target).sum().backward()
    assert z.grad is not None
    return z.grad


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


@every_row_loss
def test_every_loss_has_the_gradient_of_its_finite_differences(loss):
    # Away from the window's edge, |z| = log 4, where the loss jumps.
    z = torch.linspace(-6, 6, 12, dtype=torch.float64, requires_grad=True)
    target = torch.linspace(0, 1, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), z)


@every_row_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_loss_of_half_precision_is_computed_in_float32(loss, dtype):
    z, target = torch.tensor([1.0, -2.0, 0.5], dtype=dtype), torch.tensor([0.25, 0.5, 1.0], dtype=dtype)
    assert loss(z, target).dtype == torch.float32
    torch.testing.assert_close(loss(z, target), loss(z.float(), target.float()))


@every_row_loss
def test_every_loss_is_finite_with_a_finite_gradient_far_out(loss):
    z, target = torch.tensor([1000.0, -1000.0, 1000.0, -1000.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert loss(z, target).isfinite().all()
    assert gradient(loss, z, target).isfinite().all()


@every_row_loss
def test_a_row_costs_the_same_alone_as_in_a_batch(loss):
    one_by_one = torch.cat([loss(z, target) for z, target in zip(HAND.split(1), TARGETS.split(1), strict=True)])
    torch.testing.assert_close(loss(HAND, TARGETS), one_by_one)


@pytest.mark.parametrize("name", [name for name in ROW_LOSSES if name != "product"])  # its student is on one side here
def test_swapping_the_classes_changes_no_loss(name):
    loss = ROW_LOSSES[name]
    torch.testing.assert_close(loss(-HAND, 1 - TARGETS), loss(HAND, TARGETS))


def test_kl_is_the_formula_worked_by_hand():
    # At f = 3/4, w = 1/2: 1/2 log(1/2 / 3/4) + 1/2 log(1/2 / 1/4). Labels of 0 and 1 have no entropy.
    middle = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    torch.testing.assert_close(kl_divergence(HAND, TARGETS), float64(math.log(2), middle, -math.log(0.8)))


@given(MODEST_LOG_ODDS)
def test_kl_is_zero_where_the_student_equals_its_target_and_positive_elsewhere(z):
    student = torch.from_numpy(z)
    target = torch.sigmoid(student)
    torch.testing.assert_close(kl_divergence(student, target), torch.zeros_like(student), atol=1e-12, rtol=0)
    assert (kl_divergence(student + 1, target) > 0).all()


def test_kl_has_the_gradient_of_cross_entropy():
    torch.testing.assert_close(gradient(kl_divergence, HAND, TARGETS), gradient(cross_entropy, HAND, TARGETS))


def test_product_targets_are_the_formula_worked_by_hand():
    weak = float64(0.8, 0.8, 0.5)  # with f = 1/2, 3/4, 1/5: wf / (wf + (1 - w)(1 - f))
    torch.testing.assert_close(product_targets(weak, HAND), float64(0.8, 0.6 / 0.65, 0.2))


def test_product_targets_with_exponents_are_the_formula_worked_by_hand():
    weak, f, alpha, beta = 0.8, 0.75, 2.0, 0.5
    up, down = f**beta * weak**alpha, (1 - f) ** beta * (1 - weak) ** alpha
    targets = product_targets(float64(weak), float64(math.log(3.0)), alpha=alpha, beta=beta)
    torch.testing.assert_close(targets, float64(up / (up + down)))


def test_an_undecided_student_leaves_the_weak_labels_as_they_are():
    weak = float64(0.0, 0.1, 0.5, 1.0)
    torch.testing.assert_close(product_targets(weak, torch.zeros(4, dtype=torch.float64)), weak)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_no_student_moves_a_certain_weak_label(label):
    weak = torch.full((3,), label)
    assert product_targets(weak, torch.tensor([-1000.0, 0.0, 1000.0])).tolist() == weak.tolist()


def test_no_gradient_flows_through_the_students_part_of_the_product():
    z = HAND.clone().requires_grad_()
    assert not product_targets(float64(0.9, 0.2, 0.4), z).requires_grad


def test_entropy_is_the_formula_worked_by_hand():
    three_quarters = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    one_fifth = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    torch.testing.assert_close(entropy(HAND), float64(math.log(2), three_quarters, one_fifth))


def test_entropy_keeps_its_digits_where_the_student_is_certain():
    # At z = 30, f = 1 - e^-30 and H = (30 + 1) e^-30 to first order; softplus(z) - z f would leave 0 in float32.
    expected = torch.full((2,), 31 * math.exp(-30))
    torch.testing.assert_close(entropy(torch.tensor([30.0, -30.0])), expected, rtol=1e-5, atol=0)
    assert entropy(torch.tensor([-1000.0, 1000.0])).tolist() == [0, 0]


def test_negative_square_is_the_formula_worked_by_hand():
    torch.testing.assert_close(negative_square(HAND), float64(0.0, -(0.25**2), -(0.3**2)))


@pytest.mark.parametrize("measure", [entropy, negative_square])
def test_both_uncertainties_fall_as_the_student_gets_surer(measure):
    # The paper's printed formula, the entropy with its sign lost, would rise.
    z = torch.linspace(0.1, 5, 20, dtype=torch.float64)
    assert (measure(z).diff() < 0).all()
    assert (measure(-z).diff() < 0).all()


def test_a_target_that_stops_the_gradient_of_the_students_own_soft_prediction_only_rescales_it():
    # Why `entropy` does not: the target (1 - a) w + a sg(f) gives (1 - a) times the gradient of CE(f, w).
    a, weak = 0.3, float64(0.9, 0.2, 0.4)
    mixed = gradient(lambda z, w: cross_entropy(z, (1 - a) * w + a * torch.sigmoid(z.detach())), HAND, weak)
    plain = gradient(cross_entropy, HAND, weak)
    torch.testing.assert_close(mixed, (1 - a) * plain)
    ours = gradient(lambda z, w: cross_entropy(z, w) + a * entropy(z), HAND, weak)
    f = torch.sigmoid(HAND)
    torch.testing.assert_close(ours, plain - a * HAND * f * (1 - f))


def test_the_window_keeps_the_undecided_and_costs_the_rest_nothing():
    z = float64(0.0, 1.0, -1.0, 1.2, -3.0)  # log 3 = 1.0986 is where f reaches 1/2 + 1/4
    target = float64(0.3, 0.3, 0.3, 0.3, 0.3)
    loss = windowed_cross_entropy(z, target, radius=0.25)
    torch.testing.assert_close(loss[:3], cross_entropy(z, target)[:3])
    assert loss[3:].tolist() == [0, 0]
    slope = gradient(lambda z, t: windowed_cross_entropy(z, t, radius=0.25), z, target)
    torch.testing.assert_close(slope, float64(*(torch.sigmoid(z) - target)[:3].tolist(), 0, 0))


def test_an_example_exactly_on_the_edge_is_outside_the_window():
    edge = math.log(3.0)
    loss = windowed_cross_entropy(float64(edge, -edge, edge - 1e-9), torch.zeros(3, dtype=torch.float64), radius=0.25)
    assert (loss > 0).tolist() == [False, False, True]


def test_a_student_that_starts_at_zero_is_wholly_inside_the_window():
    loss = windowed_cross_entropy(torch.zeros(4), torch.tensor([0.0, 0.2, 1.0, 0.5]), radius=0.01)
    torch.testing.assert_close(loss, torch.full((4,), math.log(2)))


def test_a_window_of_one_half_keeps_even_predictions_that_round_to_certainty():
    z, target = torch.tensor([50.0, -50.0]), torch.tensor([0.0, 1.0])
    assert torch.equal(windowed_cross_entropy(z, target, radius=0.5), cross_entropy(z, target))


def test_a_window_of_zero_keeps_nothing():
    assert windowed_cross_entropy(torch.zeros(2), torch.ones(2), radius=0.0).tolist() == [0, 0]


def test_the_window_hides_no_nan():
    assert windowed_cross_entropy(torch.tensor([math.nan]), torch.tensor([1.0]), radius=0.15).isnan().all()


def test_generalised_cross_entropy_is_the_formula_worked_by_hand():
    q = 0.7

    def of(p):
        return (1 - p**q) / q

    expected = float64(of(0.5), 0.5 * of(0.75) + 0.5 * of(0.25), of(0.8))
    torch.testing.assert_close(generalised_cross_entropy(HAND, TARGETS, q=q), expected)


def test_generalised_cross_entropy_tends_to_cross_entropy_as_q_tends_to_0():
    # The first neglected term is q (log p)^2 / 2, at most 1e-8 here.
    near = generalised_cross_entropy(HAND, TARGETS, q=1e-8)
    torch.testing.assert_close(near, cross_entropy(HAND, TARGETS), atol=2e-8, rtol=0)


def test_generalised_cross_entropy_at_q_1_is_the_mean_absolute_error():
    f = torch.sigmoid(HAND)
    expected = TARGETS * (1 - f) + (1 - TARGETS) * f
    torch.testing.assert_close(generalised_cross_entropy(HAND, TARGETS, q=1.0), expected)


def test_generalised_cross_entropy_weights_the_gradient_by_the_probability_of_the_label():
    f, q = torch.sigmoid(HAND), 0.7
    ones, zeros = torch.ones_like(HAND), torch.zeros_like(HAND)

    def slope(target):
        return gradient(lambda z, t: generalised_cross_entropy(z, t, q=q), HAND, target)

    torch.testing.assert_close(slope(ones), f**q * gradient(cross_entropy, HAND, ones))
    torch.testing.assert_close(slope(zeros), (1 - f) ** q * gradient(cross_entropy, HAND, zeros))


def test_centred_labels_are_worked_by_hand():
    # Log-odds log 9, log 9 and -log 9 have the mean (log 9) / 3, so that they become +-(2/3, 4/3) log 9.
    centred = center_log_odds(float64(0.9, 0.9, 0.1))
    torch.testing.assert_close(torch.logit(centred), float64(2, 2, -4) * math.log(9) / 3)


@given(MODEST_LOG_ODDS)
def test_centred_labels_have_mean_log_odds_of_zero_and_keep_their_order(z):
    weak = torch.sigmoid(torch.from_numpy(z))
    centred = center_log_odds(weak)
    assert float(torch.logit(centred).mean()) == pytest.approx(0, abs=1e-6)
    order = torch.argsort(weak, stable=True)
    assert (centred[order].diff() >= -1e-12).all()  # torch's sigmoid rounds differently from lane to lane


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
def test_labels_of_one_value_say_nothing_once_centred(label):
    torch.testing.assert_close(center_log_odds(torch.full((3,), label)), torch.full((3,), 0.5))


def test_certain_labels_are_centred_as_if_they_were_nearly_certain():
    centred = center_log_odds(float64(0.0, 0.5))
    torch.testing.assert_close(torch.logit(centred), float64(-MAX_LOG_ODDS / 2, MAX_LOG_ODDS / 2))


def test_the_confidence_loss_on_pairs_is_the_papers_on_the_choice_between_two_scores():
    scores = torch.tensor([[1.0, 3.0], [2.0, 0.5], [0.2, 0.3], [4.0, 1.0]], dtype=torch.float64)  # first, second
    weak = float64(0.9, 0.4, 0.3, 0.6)
    hardened = float64(1, 0, 1, 0)  # margins 2, -1.5, 0.1, -3: the upper half of the batch
    log_f = torch.log_softmax(scores, 1)
    a = 0.75

    def pairwise(label):
        return -(label * log_f[:, 1] + (1 - label) * log_f[:, 0])

    margin = scores[:, 1] - scores[:, 0]
    ours = cross_entropy(margin, confidence_targets(weak, margin, weight=a))
    torch.testing.assert_close(ours, (1 - a) * pairwise(weak) + a * pairwise(hardened))


def test_the_confidence_loss_of_a_batch_of_one_confirms_the_students_side():
    assert confidence_targets(torch.tensor([0.2]), torch.tensor([1.5]), weight=0.5).tolist() == pytest.approx([0.6])


def test_weak_labels_of_one_class_are_half_contradicted_under_the_papers_balance():
    targets = confidence_targets(torch.ones(4), torch.arange(4.0), weight=0.5)
    assert targets.tolist() == [0.5, 0.5, 1.0, 1.0]
