"""Losses on log-odds, as pure functions of tensors.

Both forms of task end in one number per example, the log-odds z of class 1: `logit_1 - logit_0` for `classify`,
`score(second) - score(first)` for `compare` (Bradley-Terry). So they share every loss. In this file `z` and `weak`
have shape [batch]; inputs of half precision are computed in float32.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Balance = Literal["half", "weak_prior", "weak_batch"]


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
