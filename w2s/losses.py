"""Losses on log-odds, as pure functions of tensors.

Both forms of task end in one number per example, the log-odds z of class 1: `logit_1 - logit_0` for `classify`,
`score(second) - score(first)` for `compare` (Bradley-Terry). So they share every loss. In this file `z` and `weak`
have shape [batch]; f = sigmoid(z) is the student's P(class 1); losses are in nats; inputs of half precision are
computed in float32.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Balance = Literal["half", "weak_prior", "weak_batch"]

MAX_LOG_ODDS = 16.0
"""Largest log-odds that a label is read as: about what float32 resolves below a probability of 1."""


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, in float32 if it was in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cross_entropy(z: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each example in nats, shape [batch].

    `-target log f - (1 - target) log(1 - f)` with f = sigmoid(z), in the form `softplus(z) - target z`, which
    overflows nowhere.

    Args:
        z: Log-odds of class 1, shape [batch].
        target: Probability of class 1 to be learned, in [0, 1], shape [batch]. No gradient flows into it.
    """
    z = at_least_float32(z)
    return F.softplus(z) - target.detach().to(z.dtype) * z


def harden(z: Tensor, share: float | Tensor) -> Tensor:
    """Hard labels of the student's own making: the `share` of the batch with the highest log-odds becomes class 1.

    The threshold of the paper, "exactly half of the batch has f > t", is taken by rank, so that it also holds when
    all f are equal (a zero-initialised head, at the first step): example number r from the top, counted from 0, sits
    at the quantile (r + 1/2) / batch and becomes class 1 where this is below `share`. Equal log-odds are ranked in
    the order of the batch. An example exactly on the quantile, the middle one of an odd batch, keeps its own side of
    f = 1/2, and so does the only example of a batch of one, which has no ranks.

    Args:
        z: Log-odds of the whole optimisation batch, shape [batch]. A part of the batch would give another threshold.
        share: Share of class 1, in [0, 1].

    Returns:
        0. or 1. per example, shape [batch], in float32 or better, without gradient.

    Source: Burns et al. 2023 (arXiv:2312.09390), appendix A.4.
    """
    z = at_least_float32(z.detach())
    n = z.shape[0]
    own_side = (z > 0).to(z.dtype)
    if n == 1:
        return own_side
    quantile = torch.empty_like(z)
    quantile[torch.argsort(z, descending=True, stable=True)] = (
        torch.arange(n, dtype=z.dtype, device=z.device) + 0.5
    ) / n
    return torch.where(quantile == share, own_side, (quantile < share).to(z.dtype))


def confidence_targets(
    weak: Tensor, student: Tensor, *, weight: float, balance: Balance = "half", weak_prior: float = 0.5
) -> Tensor:
    """Targets whose cross-entropy is the auxiliary confidence loss: `(1 - weight) weak + weight hardened`.

    The paper's `(1 - a) CE(f, w) + a CE(f, f_t)` equals `CE(f, (1 - a) w + a f_t)`, because cross-entropy is linear in
    its target. No gradient flows through the hardened predictions f_t.

    Args:
        weak: Weak labels, P(class 1), of the whole optimisation batch, shape [batch].
        student: The student's log-odds on the same examples, shape [batch].
        weight: a, in [0, 1].
        balance: Which share of the batch hardens to class 1: `half` (the paper's choice); `weak_prior`, the mean weak
            label over the training part (the paper's footnote for unbalanced tasks); `weak_batch`, the mean weak label
            of this batch (openai/weak-to-strong).
        weak_prior: That mean over the training part.

    Returns:
        Targets in [0, 1], shape [batch].

    Source: Burns et al. 2023 (arXiv:2312.09390), appendix A.4.
    """
    weak = at_least_float32(weak.detach())
    share = {"half": 0.5, "weak_prior": weak_prior, "weak_batch": weak.mean()}[balance]
    return (1 - weight) * weak + weight * harden(student, share).to(weak.dtype)


def center_log_odds(weak: Tensor) -> Tensor:
    """Labels whose log-odds are shifted to a mean of 0, shape [examples].

    A supervisor that favours one class everywhere no longer passes that on. The log-odds of labels close to 0 and 1
    are clipped to +-`MAX_LOG_ODDS` first, so that no label, certain as it may be, decides the mean alone.

    Args:
        weak: Weak labels, P(class 1), of all examples to be centred together, shape [examples].

    Source: the option `balance_batch` of EleutherAI/w2s, which does this within each batch.
    """
    log_odds = torch.logit(at_least_float32(weak.detach())).clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS)
    return torch.sigmoid(log_odds - log_odds.mean())


def product_targets(weak: Tensor, student: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """The weak label times the student's own prediction, `f^beta w^alpha` per class, renormalised.

    In log-odds that is `beta z + alpha logit(w)`. A weak label of exactly 0 or 1 stays what it is: certainty times
    anything is certainty. No gradient flows through the student's prediction.

    Args:
        weak: Weak labels, P(class 1), shape [batch].
        student: The student's log-odds on the same examples, shape [batch].
        alpha: Exponent of the weak label, > 0.
        beta: Exponent of the student's prediction, >= 0; 0 leaves the (tempered) weak label.

    Returns:
        Targets in [0, 1], shape [batch].

    Source: Burns et al. 2023 (arXiv:2312.09390), appendix B; openai/weak-to-strong, `product_loss_fn`.
    """
    weak, student = at_least_float32(weak.detach()), at_least_float32(student.detach())
    return torch.sigmoid(beta * student + alpha * torch.logit(weak))


def entropy(z: Tensor) -> Tensor:
    """Entropy of each prediction, `-f log f - (1 - f) log(1 - f)`, in nats, shape [batch]. Gradient flows.

    Its derivative is `-z f (1 - f)`: going downhill raises |z|. In the form `softplus(-|z|) + |z| sigmoid(-|z|)`
    nothing overflows or cancels.
    """
    size = at_least_float32(z).abs()
    return F.softplus(-size) + size * torch.sigmoid(-size)


def negative_square(z: Tensor) -> Tensor:
    """`-(f - 1/2)^2` of each prediction, shape [batch]: 0 for an undecided student, -1/4 for a certain one."""
    return -((torch.sigmoid(at_least_float32(z)) - 0.5) ** 2)


def kl_divergence(z: Tensor, target: Tensor) -> Tensor:
    """KL divergence of the prediction from the target, `CE(f, target) - H(target)`, in nats, shape [batch].

    Its gradient is that of the cross-entropy; its minimum, at f = target, is 0, so that losses on labels of different
    certainty can be compared.

    Args:
        z: Log-odds of class 1, shape [batch].
        target: Probability of class 1 to be learned, in [0, 1], shape [batch]. No gradient flows into it.
    """
    z = at_least_float32(z)
    target = target.detach().to(z.dtype)
    return cross_entropy(z, target) - torch.special.entr(target) - torch.special.entr(1 - target)


def windowed_cross_entropy(z: Tensor, target: Tensor, *, radius: float) -> Tensor:
    """Cross-entropy where the student is undecided, `max(f, 1 - f) < 1/2 + radius`, and 0 elsewhere, shape [batch].

    The caller divides the sum by the number of all examples, in the window or not. Each example is judged by the
    prediction that it is trained on, without gradient, so batches may be cut anywhere. The bound is applied in
    log-odds, `|z| < log((1/2 + radius) / (1/2 - radius))`, where no f rounds to 1.

    Args:
        z: Log-odds of class 1, shape [batch].
        target: Probability of class 1 to be learned, in [0, 1], shape [batch]. No gradient flows into it.
        radius: In [0, 1/2]; 0 leaves no example, 1/2 all of them.

    Source: the confidence window of EleutherAI/w2s and its report of June 2024.
    """
    z = at_least_float32(z)
    bound = math.log((0.5 + radius) / (0.5 - radius)) if radius < 0.5 else math.inf
    outside = z.detach().abs() >= bound  # false for NaN, which must show in the loss
    return torch.where(outside, torch.zeros_like(z), cross_entropy(z, target))


def generalised_cross_entropy(z: Tensor, target: Tensor, *, q: float) -> Tensor:
    """`(1 - f_y^q) / q` with f_y the predicted probability of label y, expected over y, shape [batch].

    Between cross-entropy (q towards 0) and the mean absolute error `1 - f_y` (q = 1), which labels that are wrong
    pull at less: the gradient of cross-entropy is weighted by `f_y^q`. A soft target is an expectation,
    `target L(f_1) + (1 - target) L(f_0)`; the source has hard labels only.

    Args:
        z: Log-odds of class 1, shape [batch].
        target: Probability of class 1 to be learned, in [0, 1], shape [batch]. No gradient flows into it.
        q: In (0, 1].

    Source: Zhang & Sabuncu 2018 (arXiv:1805.07836), equation 6; tried by Burns et al. 2023, appendix B.
    """
    z = at_least_float32(z)
    target = target.detach().to(z.dtype)
    if_1, if_0 = (-torch.expm1(q * F.logsigmoid(side)) / q for side in (z, -z))
    return target * if_1 + (1 - target) * if_0
