"""How a student learns from weak labels. A new method is one class here: its parameters, its targets or its loss.

The loop that calls a method guarantees that `targets` sees the whole optimisation batch, however it is cut into
micro-batches or spread over devices, so that thresholds and means over the batch are what the paper says they are.

Torch is imported only when a method computes: planning a sweep reads this registry without it.
"""

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ValidationError

from w2s.config import Config, Form, Fraction, MethodSpec
from w2s.errors import W2SError

if TYPE_CHECKING:
    from torch import Tensor


class MethodError(W2SError):
    """A method's name or parameters are wrong."""


@dataclass(frozen=True)
class Moment:
    """Where training stands."""

    step_fraction: float
    """Share of the optimisation steps done, in [0, 1): 0 at the first step."""
    weak_prior: float
    """Mean label over the training part, after `Method.prepare`."""


class Method(Config):
    """A way to use weak labels; the fields of a subclass are its parameters.

    Training calls `prepare` once. Then, per optimisation batch, it calls `targets` once on the whole batch, and `loss`
    on every micro-batch. The batch's loss is the sum of `loss` over its examples, divided by their number.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `w2s methods`."""
    source: ClassVar[str]
    forms: ClassVar[tuple[Form, ...]] = ("classify", "compare")
    needs_student: ClassVar[bool] = False
    """Whether `targets` reads the student's log-odds; if so, a batch that does not fit into one forward pass is first
    run without gradient."""

    def prepare(self, weak: "Tensor") -> "Tensor":
        """The supervisor's P(class 1) for the whole training part as this method wants to see it, shape [examples]."""
        return weak

    def targets(self, weak: "Tensor", student: "Tensor | None", moment: Moment) -> "Tensor":
        """What each example of a whole optimisation batch is to learn, shape [batch].

        Args:
            weak: Labels after `prepare`, shape [batch].
            student: The student's log-odds, without gradient, shape [batch]; None unless `needs_student`.
            moment: Where training stands.
        """
        return weak

    def loss(self, z: "Tensor", targets: "Tensor", moment: Moment) -> "Tensor":
        """Loss of each example, shape [examples], from its log-odds `z` and its target."""
        from w2s.losses import cross_entropy

        return cross_entropy(z, targets)


METHODS: dict[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Class decorator that makes a method known under its `name`."""
    if method.name in METHODS:
        raise ValueError(f"two methods are called {method.name!r}: {METHODS[method.name]} and {method}")
    METHODS[method.name] = method
    return method


class LabelledMethod(Method):
    """A method that takes the supervisor's probabilities as they are, or hardened."""

    labels: Literal["soft", "hard"] = "soft"
    """`soft`: the supervisor's probabilities. `hard`: 1 where they exceed 1/2, else 0."""

    def prepare(self, weak: "Tensor") -> "Tensor":
        return weak if self.labels == "soft" else (weak > 0.5).to(weak.dtype)


@register
class Naive(LabelledMethod):
    """Cross-entropy on the weak labels."""

    name: ClassVar[str] = "naive"
    summary: ClassVar[str] = "cross-entropy on the weak labels"
    source: ClassVar[str] = "Burns et al. 2023, section 3"


@register
class Confidence(LabelledMethod):
    """Cross-entropy on a growing mixture of the weak labels and the student's own hardened predictions."""

    name: ClassVar[str] = "confidence"
    summary: ClassVar[str] = "auxiliary confidence loss: trust the student's own hardened predictions more and more"
    source: ClassVar[str] = "Burns et al. 2023, appendix A.4"
    needs_student: ClassVar[bool] = True

    max_weight: Fraction = 0.5
    """Weight of the student's own predictions after the warm-up; the paper uses 0.75 for its largest students."""
    warmup: Fraction = 0.2
    """Share of training over which the weight rises linearly from 0."""
    balance: Literal["half", "weak_prior", "weak_batch"] = "half"
    """Share of each batch that hardens to class 1; see `w2s.losses.confidence_targets`."""

    def targets(self, weak: "Tensor", student: "Tensor | None", moment: Moment) -> "Tensor":
        from w2s.losses import confidence_targets
        from w2s.schedules import confidence_weight

        assert student is not None, "needs_student promises it"
        weight = confidence_weight(moment.step_fraction, warmup=self.warmup, peak=self.max_weight)
        return confidence_targets(weak, student, weight=weight, balance=self.balance, weak_prior=moment.weak_prior)


def build_method(spec: MethodSpec) -> Method:
    """The method that a spec names, with its parameters checked.

    Raises:
        MethodError: Unknown name or parameter (the nearest right one is named), or a value out of range.
    """
    if spec.name not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise MethodError(f"unknown method {spec.name!r}{_nearest(spec.name, METHODS)}; there are: {known}")
    method = METHODS[spec.name]
    try:
        return method.model_validate(dict(spec.params))
    except ValidationError as error:
        raise MethodError("; ".join(_explain(method, problem) for problem in error.errors())) from None


def method_label(method: Method) -> str:
    """Name and the parameters that differ from their defaults: `confidence(max_weight=0.75)`."""
    fields = type(method).model_fields
    changed = {key: getattr(method, key) for key in fields if getattr(method, key) != fields[key].default}
    return f"{method.name}({', '.join(f'{key}={value}' for key, value in changed.items())})" if changed else method.name


def _explain(method: type[Method], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        fields = method.model_fields
        known = ", ".join(fields) or "none"
        return f"method {method.name!r} has no parameter {key!r}{_nearest(key, fields)}; it has: {known}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"method {method.name!r}, parameter {key!r}: {message}, got {problem['input']!r}"


def _nearest(word: str, known: Any) -> str:
    match = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""
