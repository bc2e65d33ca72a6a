"""Methods that are a loss: a new one is one class here, its parameters and its targets or its loss."""

from typing import TYPE_CHECKING, ClassVar, Literal

from w2s.config import Fraction
from w2s.methods.base import LossMethod, Moment, register

if TYPE_CHECKING:
    from torch import Tensor


class LabelledMethod(LossMethod):
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
