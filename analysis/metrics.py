"""Scores of predictions, from arrays alone. All values are fractions or nats, never percent.

Predictions of two runs that are compared must be in the same order of examples; `analysis.results` joins them by
`example_id` before they come here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from analysis.errors import AnalysisError

LOG_LOSS_CLIP = 1e-7  # float32 probabilities can be exactly 0 or 1; the loss of one example is at most 16.1 nats
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Agreement:
    """Share of examples on which the student predicts what its supervisor predicts (Burns et al. 2023, 5.1.3)."""

    overall: float
    when_weak_right: float
    """Among examples that the supervisor gets right; NaN when there are none."""
    when_weak_wrong: float
    """Among examples that the supervisor gets wrong; NaN when there are none."""


def accuracy(gold: ArrayLike, prediction: ArrayLike) -> float:
    """Share of examples whose hard prediction is the gold label. Both shape (example,)."""
    gold, prediction = _same_length(gold=gold, prediction=prediction)
    return float(np.mean(gold == prediction))


def auroc(gold: ArrayLike, p: ArrayLike) -> float:
    """Area under the ROC curve: P(p of a positive > p of a negative), ties counting one half.

    Args:
        gold: Labels 0 or 1, shape (example,).
        p: Probability (or any score) of class 1, shape (example,).

    Returns:
        The area in [0, 1]; NaN when only one class is present.

    Raises:
        AnalysisError: A score is NaN, which has no rank.
    """
    gold, p = _same_length(gold=gold, p=p)
    if undefined := int(np.isnan(p.astype(np.float64)).sum()):
        raise AnalysisError(f"{undefined} of {p.size} scores are NaN, so they have no order; leave these examples out")
    positives = int(np.sum(gold == 1))
    negatives = gold.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = rankdata(p)  # average ranks, which is what makes a tie count one half
    return float((ranks[gold == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(gold: ArrayLike, p: ArrayLike) -> float:
    """Mean negative log-likelihood in nats; `p` is P(class 1), clipped to [1e-7, 1 - 1e-7]."""
    gold, p = _same_length(gold=gold, p=p)
    p = np.clip(_probabilities(p), LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
    return float(-np.mean(np.where(gold == 1, np.log(p), np.log1p(-p))))


def calibration_error(gold: ArrayLike, p: ArrayLike, *, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error of P(class 1), over `bins` equally wide bins [0, 1/bins), ..., [1 - 1/bins, 1].

    In each bin, the distance between the mean of p and the share of class 1; averaged with the bins' shares of the
    examples as weights (Naeini et al. 2015, for the probability of one class).
    """
    gold, p = _same_length(gold=gold, p=p)
    p = _probabilities(p)
    index = np.minimum((p * bins).astype(int), bins - 1)
    excess = np.bincount(index, weights=p - gold, minlength=bins)
    return float(np.abs(excess).sum() / gold.size)


def agreement(gold: ArrayLike, weak: ArrayLike, student: ArrayLike) -> Agreement:
    """Agreement of hard predictions, overall and split by whether the supervisor is right. All shape (example,)."""
    gold, weak, student = _same_length(gold=gold, weak=weak, student=student)
    agree, right = weak == student, weak == gold
    return Agreement(float(agree.mean()), _mean(agree[right]), _mean(agree[~right]))


def performance_gap_recovered(weak: ArrayLike, student: ArrayLike, ceiling: ArrayLike) -> np.ndarray:
    """Share of the weak-to-ceiling gap that the weakly supervised student closes: (student - weak) / (ceiling - weak).

    Args:
        weak: Test accuracy of the supervisor, any shape.
        student: Same, for the strong model trained on the supervisor's labels.
        ceiling: Same, for the strong model trained on ground truth.

    Returns:
        PGR in the shape the arguments broadcast to; NaN where the gap is 0. Values below 0 (worse than the
        supervisor) and above 1 are findings, so nothing is clipped. Whether a gap is large enough to divide by is the
        caller's decision (`analysis.estimates`).

    Source: Burns et al. 2023 (arXiv:2312.09390), section 3.
    """
    weak, student, ceiling = (np.asarray(a, dtype=np.float64) for a in (weak, student, ceiling))
    gap = ceiling - weak
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap == 0, np.nan, (student - weak) / gap)


def pgr_to_first_order(
    weak: np.ndarray, student: np.ndarray, ceiling: np.ndarray, *, at: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """PGR of accuracies near `at` = (weak, student, ceiling), expanded to first order around there.

    A mean of PGRs over pairs inherits the wildest denominator of all of them; in resampled accuracies some pair's gap
    always comes out narrow. The expansion keeps the denominators where they were estimated, and covers as nominal with
    intervals two to three times narrower (`benchmarks/coverage_pgr.py`).
    """
    weak_at, student_at, ceiling_at = at
    gap = ceiling_at - weak_at
    pgr = (student_at - weak_at) / gap
    recovered_shift = (student - weak) - (student_at - weak_at)
    gap_shift = (ceiling - weak) - gap
    return pgr + (recovered_shift - pgr * gap_shift) / gap


def _probabilities(p: np.ndarray) -> np.ndarray:
    p = p.astype(np.float64)
    wrong = ~((p >= 0) & (p <= 1))  # NaN is neither
    if wrong.any():
        raise AnalysisError(
            f"{int(wrong.sum())} of {p.size} probabilities are not in [0, 1], the first is {p[wrong][0]}"
        )
    return p


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _same_length(**arrays: ArrayLike) -> tuple[np.ndarray, ...]:
    checked = {name: np.asarray(array) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in checked.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise AnalysisError(f"scores need vectors of one length, got shapes {shapes}; join predictions by example_id")
    if next(iter(checked.values())).size == 0:
        raise AnalysisError("scores need at least one example, got none")
    return tuple(checked.values())
