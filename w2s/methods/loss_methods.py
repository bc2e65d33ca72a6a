"""Methods that are a loss: a new one is one class here, its parameters and its targets or its loss.

All of them work on log-odds, so on two forms of task; for `compare` the log-odds are the margin of the two scores.
Answers in words are learned by `naive` alone.
"""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from w2s.config import Form, Fraction, PositiveFloat
from w2s.methods.base import LossMethod, Moment, register
from w2s.schedules import confidence_weight

if TYPE_CHECKING:
    from torch import Tensor


def _check_radius(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value == "median" or (is_number and 0 < value <= 0.5):
        return value
    raise ValueError("a number above 0 and at most 0.5 (which keeps every example) or 'median' is needed")


NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Exponent = Annotated[float, Field(strict=True, gt=0, le=1)]
Radius = Annotated[float | Literal["median"], BeforeValidator(_check_radius)]


class LabelledMethod(LossMethod):
    """A method that takes the supervisor's probabilities as they are, hardened, or centred."""

    labels: Literal["soft", "hard", "balanced"] = "soft"
    """`soft`: the supervisor's probabilities. `hard`: 1 where they exceed 1/2, else 0. `balanced`: with the mean of
    their log-odds over the training part subtracted; see `w2s.losses.center_log_odds`. EleutherAI/w2s subtracts the
    mean of each batch instead, so that there an example's label depends on the company that it is drawn with."""

    def prepare(self, weak: "Tensor") -> "Tensor":
        if self.labels == "soft":
            return weak
        if self.labels == "hard":
            return (weak > 0.5).to(weak.dtype)
        from w2s.losses import center_log_odds

        return center_log_odds(weak)


@register
class Naive(LabelledMethod):
    """Cross-entropy on the weak labels."""

    name: ClassVar[str] = "naive"
    summary: ClassVar[str] = "cross-entropy on the weak labels; for `generate`, on the supervisor's completions"
    source: ClassVar[str] = "Burns et al. 2023, section 3"
    forms: ClassVar[tuple[Form, ...]] = ("classify", "compare", "generate")


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

        assert student is not None, "needs_student promises it"
        weight = confidence_weight(moment.step_fraction, warmup=self.warmup, peak=self.max_weight)
        return confidence_targets(weak, student, weight=weight, balance=self.balance, weak_prior=moment.weak_prior)


@register
class Product(LabelledMethod):
    """Cross-entropy on the renormalised product of the weak labels and the student's own predictions.

    Hard labels leave nothing to multiply: with them this is `naive` with hard labels.
    """

    name: ClassVar[str] = "product"
    summary: ClassVar[str] = "cross-entropy on the product of weak labels and the student's own predictions"
    source: ClassVar[str] = "Burns et al. 2023, appendix B; openai/weak-to-strong"
    needs_student: ClassVar[bool] = True

    alpha: PositiveFloat = 1.0
    """Exponent of the weak label."""
    beta: NonNegative = 1.0
    """Exponent of the student's prediction."""

    def targets(self, weak: "Tensor", student: "Tensor | None", moment: Moment) -> "Tensor":
        from w2s.losses import product_targets

        assert student is not None, "needs_student promises it"
        return product_targets(weak, student, alpha=self.alpha, beta=self.beta)


@register
class Kl(LabelledMethod):
    """KL divergence from the weak labels: trains exactly as `naive` does, but its loss is 0 at best."""

    name: ClassVar[str] = "kl"
    summary: ClassVar[str] = "KL divergence from the weak labels: naive's gradient, a loss that is 0 at best"
    source: ClassVar[str] = "EleutherAI/w2s"

    def loss(self, z: "Tensor", targets: "Tensor", moment: Moment) -> "Tensor":
        from w2s.losses import kl_divergence

        return kl_divergence(z, targets)


@register
class Entropy(LabelledMethod):
    """Cross-entropy on the weak labels plus a growing weight times the student's own uncertainty.

    The paper prints the added term as `f log f + (1 - f) log(1 - f)`, which is smallest for an undecided student: a
    slip of sign. Added here is the entropy itself. EleutherAI/w2s mixes `(1 - a) w + a f` into a target and stops the
    gradient there; that multiplies the gradient of the cross-entropy on w by `1 - a` and encourages nothing. Here the
    gradient flows through the entropy.
    """

    name: ClassVar[str] = "entropy"
    summary: ClassVar[str] = "cross-entropy on the weak labels, and less and less uncertainty of the student"
    source: ClassVar[str] = "Burns et al. 2023, appendix B, with its sign corrected"

    max_weight: NonNegative = 0.5
    """Weight of the added term after the warm-up."""
    warmup: Fraction = 0.2
    """Share of training over which the weight rises linearly from 0."""
    measure: Literal["entropy", "square"] = "entropy"
    """Uncertainty: `entropy` in nats, or `square`, the paper's l2 version `-(f - 1/2)^2`."""

    def loss(self, z: "Tensor", targets: "Tensor", moment: Moment) -> "Tensor":
        from w2s.losses import cross_entropy, entropy, negative_square

        weight = confidence_weight(moment.step_fraction, warmup=self.warmup, peak=self.max_weight)
        uncertainty = {"entropy": entropy, "square": negative_square}[self.measure]
        return cross_entropy(z, targets) + weight * uncertainty(z)


@register
class Window(LabelledMethod):
    """Cross-entropy on the examples of which the student is not yet sure.

    Examples outside the window count as 0 in the mean over the batch, so that the fewer are inside, the smaller is
    the step.
    """

    name: ClassVar[str] = "window"
    summary: ClassVar[str] = "cross-entropy only on examples where the student is undecided"
    source: ClassVar[str] = "EleutherAI/w2s and its report of June 2024"

    radius: Radius = 0.15
    """An example is in the window while `max(f, 1 - f) < 1/2 + radius`. `median` takes the median of |w - 1/2| over
    the training part: the student may become as sure as its supervisor is in the middle."""

    def loss(self, z: "Tensor", targets: "Tensor", moment: Moment) -> "Tensor":
        from w2s.losses import windowed_cross_entropy

        radius = moment.weak_spread if self.radius == "median" else self.radius
        return windowed_cross_entropy(z, targets, radius=radius)


@register
class GeneralisedCe(LabelledMethod):
    """Generalised cross-entropy, which labels that contradict the student pull at less."""

    name: ClassVar[str] = "generalised_ce"
    summary: ClassVar[str] = "noise-robust loss between cross-entropy (q near 0) and mean absolute error (q = 1)"
    source: ClassVar[str] = "Zhang & Sabuncu 2018; tried by Burns et al. 2023, appendix B"

    q: Exponent = 0.7
    """Where it stands between the two; the authors' choice."""

    def loss(self, z: "Tensor", targets: "Tensor", moment: Moment) -> "Tensor":
        from w2s.losses import generalised_cross_entropy

        return generalised_cross_entropy(z, targets, q=self.q)
