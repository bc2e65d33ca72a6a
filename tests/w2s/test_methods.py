import math
import subprocess
import sys
from typing import ClassVar

import pytest
import torch

from w2s.config import MethodSpec
from w2s.methods import (
    METHODS,
    Confidence,
    Entropy,
    GeneralisedCe,
    Kl,
    LossMethod,
    MethodError,
    Moment,
    Naive,
    Product,
    Window,
    build_method,
    method_label,
    register,
)

LOSS_METHODS = sorted(name for name, method in METHODS.items() if issubclass(method, LossMethod))
HAND = torch.tensor([0.0, math.log(3.0), -math.log(4.0)], dtype=torch.float64)  # f = 1/2, 3/4, 1/5
WEAK = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
NAIVE_BY_HAND = [math.log(2), -0.5 * math.log(0.75) - 0.5 * math.log(0.25), -math.log(0.8)]


def at(step_fraction: float, *, weak_prior: float = 0.5, weak_spread: float = 0.5) -> Moment:
    return Moment(step_fraction=step_fraction, weak_prior=weak_prior, weak_spread=weak_spread)


def losses(method: LossMethod, z: torch.Tensor, weak: torch.Tensor, moment: Moment) -> torch.Tensor:
    """The losses of an optimisation batch that is its own training part."""
    targets = method.targets(method.prepare(weak), z.detach() if method.needs_student else None, moment)
    return method.loss(z, targets, moment)


def test_importing_the_registry_does_not_import_torch():
    code = "import sys, w2s.methods; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_method_is_built_from_its_name_and_parameters():
    assert build_method(MethodSpec(name="confidence", params={"max_weight": 0.75})) == Confidence(max_weight=0.75)


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(
        MethodError, match=r"unknown method 'confidense'; did you mean 'confidence'\?; there are: .*naive"
    ):
        build_method(MethodSpec(name="confidense"))


def test_an_unknown_parameter_is_refused_with_the_nearest_name():
    with pytest.raises(MethodError, match=r"no parameter 'max_wieght'; did you mean 'max_weight'\?; it has: labels"):
        build_method(MethodSpec(name="confidence", params={"max_wieght": 0.5}))


def test_a_value_out_of_range_is_refused_with_the_range():
    with pytest.raises(MethodError, match=r"'confidence', parameter 'warmup': .*less than or equal to 1, got 2"):
        build_method(MethodSpec(name="confidence", params={"warmup": 2}))


def test_a_label_names_only_what_differs_from_the_defaults():
    assert method_label(Naive()) == "naive"
    assert method_label(Confidence(max_weight=0.5)) == "confidence"
    assert method_label(Confidence(max_weight=0.75, balance="weak_prior")) == (
        "confidence(max_weight=0.75, balance=weak_prior)"
    )


def test_every_method_says_what_it_is_and_where_it_comes_from():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        assert method.source


@pytest.mark.parametrize("name", LOSS_METHODS)
@pytest.mark.parametrize(
    "batch",
    [
        ([0.0, 0.0, 0.0], [0.1, 0.9, 0.5]),
        ([2.0, -1.0, 0.5], [1.0, 1.0, 1.0]),
        ([2.0, -1.0, 0.5], [0.0, 0.0, 0.0]),
        ([0.7], [0.4]),
    ],
    ids=["zero_head", "all_of_class_1", "all_of_class_0", "batch_of_1"],
)
@pytest.mark.parametrize("labels", ["soft", "hard", "balanced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_method_gives_a_number_and_a_gradient_per_example(name, batch, labels, dtype):
    method = build_method(MethodSpec(name=name, params={"labels": labels}))
    z, weak = (torch.tensor(values, dtype=dtype) for values in batch)
    z.requires_grad_()
    loss = losses(method, z, weak, at(0.5))
    assert loss.shape == z.shape
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert loss.isfinite().all()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSS_METHODS)
def test_every_method_survives_being_written_down(name):
    method = build_method(MethodSpec(name=name))
    assert build_method(MethodSpec(name=name, params=method.model_dump(mode="json"))) == method
    assert method_label(method) == name


def test_hard_labels_are_1_where_the_supervisor_is_above_one_half():
    weak = torch.tensor([0.2, 0.5, 0.51])
    assert Naive(labels="hard").prepare(weak).tolist() == [0, 0, 1]
    assert Naive().prepare(weak) is weak


def test_the_confidence_method_ramps_from_weak_labels_to_its_mixture():
    weak, student = torch.tensor([0.8, 0.6]), torch.tensor([-1.0, 1.0])
    method = Confidence(max_weight=0.5, warmup=0.2)
    start = method.targets(weak, student, at(0.0))
    end = method.targets(weak, student, at(0.2))
    torch.testing.assert_close(start, weak)
    torch.testing.assert_close(end, torch.tensor([0.4, 0.8]))


def test_two_methods_cannot_share_a_name():
    class Impostor(LossMethod):
        name: ClassVar[str] = "naive"
        summary: ClassVar[str] = "another"
        source: ClassVar[str] = "none"

    with pytest.raises(ValueError, match="two methods are called 'naive'"):
        register(Impostor)
    assert METHODS["naive"] is Naive


def test_balanced_labels_have_the_mean_log_odds_of_the_training_part_subtracted():
    labels = Naive(labels="balanced").prepare(torch.tensor([0.9, 0.9, 0.1]))
    torch.testing.assert_close(torch.logit(labels), torch.tensor([2.0, 2.0, -4.0]) * math.log(9) / 3)


def test_naive_is_cross_entropy_worked_by_hand():
    assert losses(Naive(), HAND, WEAK, at(0.5)).tolist() == pytest.approx(NAIVE_BY_HAND)


def test_kl_subtracts_the_entropy_of_the_labels():
    by_hand = [NAIVE_BY_HAND[0], NAIVE_BY_HAND[1] - math.log(2), NAIVE_BY_HAND[2]]
    assert losses(Kl(), HAND, WEAK, at(0.5)).tolist() == pytest.approx(by_hand)


def test_kl_of_a_student_that_agrees_is_zero():
    assert losses(Kl(), HAND, torch.sigmoid(HAND), at(0.5)).tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_product_learns_the_renormalised_product():
    weak = torch.tensor([0.8, 0.8, 0.5], dtype=torch.float64)
    targets = Product().targets(weak, HAND, at(0.0))
    assert targets.tolist() == pytest.approx([0.8, 0.6 / 0.65, 0.2])


def test_product_without_the_student_is_naive():
    weak = torch.tensor([0.8, 0.3, 0.5], dtype=torch.float64)
    torch.testing.assert_close(losses(Product(beta=0), HAND, weak, at(0.0)), losses(Naive(), HAND, weak, at(0.0)))


@pytest.mark.parametrize(
    ("measure", "uncertainty"),
    [
        ("entropy", [math.log(2), -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]),
        ("square", [0.0, -(0.25**2)]),
    ],
)
@pytest.mark.parametrize(("step_fraction", "weight"), [(0.0, 0.0), (0.1, 0.2), (0.2, 0.4), (0.9, 0.4)])
def test_entropy_adds_a_growing_weight_times_the_uncertainty(measure, uncertainty, step_fraction, weight):
    method = Entropy(max_weight=0.4, warmup=0.2, measure=measure)
    by_hand = [n + weight * u for n, u in zip(NAIVE_BY_HAND, uncertainty, strict=False)]
    assert losses(method, HAND[:2], WEAK[:2], at(step_fraction)).tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("method", [Confidence, Entropy])
def test_without_warmup_the_first_step_has_the_full_weight(method):
    first = losses(method(warmup=0.0), HAND, WEAK, at(0.0))
    torch.testing.assert_close(first, losses(method(warmup=0.2), HAND, WEAK, at(0.2)))
    assert not torch.allclose(first, losses(Naive(), HAND, WEAK, at(0.0)))


@pytest.mark.parametrize("method", [Confidence(), Entropy(), Entropy(measure="square")])
def test_the_warmup_starts_at_naive_and_ends_without_a_jump(method):
    torch.testing.assert_close(losses(method, HAND, WEAK, at(0.0)), losses(Naive(), HAND, WEAK, at(0.0)))
    before, after = losses(method, HAND, WEAK, at(0.2 - 1e-9)), losses(method, HAND, WEAK, at(0.2))
    torch.testing.assert_close(before, after, atol=1e-7, rtol=0)
    half_way = (losses(method, HAND, WEAK, at(0.0)) + after) / 2
    torch.testing.assert_close(losses(method, HAND, WEAK, at(0.1)), half_way)


def test_the_window_leaves_out_whom_the_student_is_sure_of():
    loss = losses(Window(radius=0.25), HAND, WEAK, at(0.5))  # f = 1/2 is in, 3/4 is on the edge, 1/5 is out
    assert loss.tolist() == pytest.approx([math.log(2), 0, 0])


def test_the_window_can_be_as_wide_as_the_weak_labels_are_sure():
    loss = losses(Window(radius="median"), HAND, WEAK, at(0.5, weak_spread=0.26))
    assert loss.tolist() == pytest.approx([NAIVE_BY_HAND[0], NAIVE_BY_HAND[1], 0])


@pytest.mark.parametrize("radius", [0, 0.51, -0.1, "mean", True, None])
def test_a_window_of_no_meaning_is_refused_with_what_is_possible(radius):
    with pytest.raises(MethodError, match=r"'window', parameter 'radius': .*above 0 and at most 0\.5 .* or 'median'"):
        build_method(MethodSpec(name="window", params={"radius": radius}))


def test_generalised_cross_entropy_is_worked_by_hand():
    f1 = [0.5, 0.75, 0.2]
    by_hand = [
        sum(w * (1 - p**0.7) / 0.7 for w, p in ((w, f), (1 - w, 1 - f))) for f, w in zip(f1, [1, 0.5, 0], strict=True)
    ]
    assert losses(GeneralisedCe(), HAND, WEAK, at(0.5)).tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("generalised_ce", {"q": 0}, "'q': .*greater than 0"),
        ("generalised_ce", {"q": 1.1}, "'q': .*less than or equal to 1"),
        ("product", {"alpha": 0}, "'alpha': .*greater than 0"),
        ("product", {"beta": -1}, "'beta': .*greater than or equal to 0"),
        ("entropy", {"max_weight": float("inf")}, "'max_weight': .*finite"),
        ("entropy", {"max_weight": True}, "'max_weight': .*number"),
        ("entropy", {"measure": "l2"}, "'measure': .*'entropy' or 'square'"),
        ("naive", {"labels": "balance"}, "'labels': .*'soft', 'hard' or 'balanced'"),
    ],
)
def test_parameters_out_of_range_are_refused(name, params, message):
    with pytest.raises(MethodError, match=f"method '{name}', parameter {message}"):
        build_method(MethodSpec(name=name, params=params))
