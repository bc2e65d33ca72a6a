import subprocess
import sys
from typing import ClassVar

import pytest
import torch

from w2s.config import MethodSpec
from w2s.methods import (
    METHODS,
    Confidence,
    LossMethod,
    MethodError,
    Moment,
    Naive,
    build_method,
    method_label,
    register,
)


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


def test_hard_labels_are_1_where_the_supervisor_is_above_one_half():
    weak = torch.tensor([0.2, 0.5, 0.51])
    assert Naive(labels="hard").prepare(weak).tolist() == [0, 0, 1]
    assert Naive().prepare(weak) is weak


def test_the_confidence_method_ramps_from_weak_labels_to_its_mixture():
    weak, student = torch.tensor([0.8, 0.6]), torch.tensor([-1.0, 1.0])
    method = Confidence(max_weight=0.5, warmup=0.2)
    start = method.targets(weak, student, Moment(step_fraction=0.0, weak_prior=0.7))
    end = method.targets(weak, student, Moment(step_fraction=0.2, weak_prior=0.7))
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
