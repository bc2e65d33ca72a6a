"""Learning-rate schedules as pure functions of the step, so that their corners can be tested."""

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def warmup_steps(total_steps: int, fraction: float) -> int:
    """Optimisation steps that a warm-up over `fraction` of all steps takes, rounded to the nearest."""
    return math.floor(total_steps * fraction + 0.5)


def rate_factor(step: int, total_steps: int, *, schedule: Schedule, warmup: int = 0, final: float = 0.0) -> float:
    """Share of the peak learning rate that optimisation step `step` uses.

    The rate rises linearly over the first `warmup` steps, `(step + 1) / warmup`, so that no step is spent at zero.
    Then it falls from 1 towards `final`, which would be reached at `total_steps`, one past the last step: no step is
    wasted at zero on this side either.

    Args:
        step: Index of the step, from 0.
        total_steps: How many steps there are.
        schedule: `cosine`, `linear`, or `constant` (no decay; `final` is not used).
        warmup: Steps of linear warm-up.
        final: Share of the peak at the end of the decay.

    Returns:
        A factor in [0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total_steps - warmup)
    remaining = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0 - progress
    return final + (1 - final) * remaining


def confidence_weight(step_fraction: float, *, warmup: float, peak: float) -> float:
    """Weight of the auxiliary confidence loss: linear from 0 to `peak`, then constant.

    Args:
        step_fraction: Share of training done, in [0, 1].
        warmup: Share of training over which the weight rises; 0 means the peak from the first step on.
        peak: Largest weight, in [0, 1].

    Source: Burns et al. 2023 (arXiv:2312.09390), appendix A.4: "linearly warm up over the first 20 % of training".
    The rise ends exactly at `peak`; code that ramps by `step_fraction` itself instead of `step_fraction / warmup`
    creeps to a tenth of the peak and then jumps.
    """
    if step_fraction >= warmup:
        return peak
    return peak * step_fraction / warmup
