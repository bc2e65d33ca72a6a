"""One supervisor out of several: their soft labels averaged, or their votes counted."""

import numpy as np

from w2s.errors import DataError


def average(p: np.ndarray) -> np.ndarray:
    """Mean of the members' soft labels, float32, shape [n].

    Args:
        p: Each member's P(class 1), shape [members, n], columns in the same order of examples.

    Raises:
        DataError: No member, or a value that is no probability.

    Source: Lang et al. 2025 (arXiv:2501.13124), with four weak models. Probabilities are averaged and not log-odds, so
    that no single very confident member decides.
    """
    return _checked(p).mean(axis=0).astype(np.float32)


def vote(p: np.ndarray) -> np.ndarray:
    """Share of members that predict class 1, float32, shape [n].

    A member's vote is its prediction, class 1 where its p exceeds 1/2. The share stays soft: an even split is 1/2,
    which as a prediction is class 0, like everywhere.

    Args:
        p: Each member's P(class 1), shape [members, n], columns in the same order of examples.

    Raises:
        DataError: No member, or a value that is no probability.
    """
    return (_checked(p) > 0.5).mean(axis=0).astype(np.float32)


def _checked(p: np.ndarray) -> np.ndarray:
    """The labels in double precision."""
    if p.ndim != 2:
        raise ValueError(f"labels of an ensemble have shape [members, n], got {list(p.shape)}")
    if len(p) == 0:
        raise DataError("an ensemble needs at least one member")
    # Negated, so that NaN counts as outside.
    if (outside := np.argwhere(~((p >= 0) & (p <= 1)))).size:
        member, row = outside[0]
        raise DataError(
            f"{len(outside)} labels of the ensemble are no probabilities in [0, 1], the first: member {member}, "
            f"row {row}, {p[member, row]:g}; every member must have labelled every example"
        )
    return p.astype(np.float64)
