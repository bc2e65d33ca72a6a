"""Which examples are easy: how large a model must be to get them right, and to go on getting them right.

Source: Burns et al. 2023, Appendix C (easy-to-hard generalization).
"""

import numpy as np

from w2s.errors import DataError


def difficulty(correct: np.ndarray) -> np.ndarray:
    """The smallest rung from which on all ground-truth models are right, int64, shape [n].

    Rungs count from 0, the smallest; the number of rungs says that even the largest model is wrong. A small model that
    is right where a larger one is wrong was lucky, and does not make a row easy.

    Args:
        correct: Whether each rung, smallest first, is right on each row, bool, shape [rungs, n]. The models must not
            have been trained on these rows.

    Raises:
        DataError: There is no rung.
    """
    if correct.ndim != 2:
        raise ValueError(f"correct has shape [rungs, n], got {list(correct.shape)}")
    if len(correct) == 0:
        raise DataError("difficulty is measured by ground-truth models, and there is none: the ladder needs a rung")
    right_from_here_on = np.logical_and.accumulate(correct[::-1].astype(bool), axis=0)
    return len(correct) - right_from_here_on.sum(axis=0, dtype=np.int64)


def easy_rows(difficulty: np.ndarray, *, up_to: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Which rows to train on: `rows` of those with difficulty <= `up_to`, drawn by chance; bool, shape [n].

    With the same `rows` for every cutoff, cutoffs differ in how hard the examples are and not in their number.

    Args:
        difficulty: What `difficulty` returns, shape [n].
        up_to: The hardest rows to use.
        rows: How many rows to use.
        rng: What draws them.

    Raises:
        DataError: `rows` is below 1, or more than there are; the message counts the rows of every difficulty.
    """
    easy = np.flatnonzero(difficulty <= up_to)
    if rows < 1:
        raise DataError(f"{rows} easy rows were asked for; there must be at least 1")
    if len(easy) < rows:
        levels, counts = np.unique(difficulty, return_counts=True)
        per_level = ", ".join(f"{n} of difficulty {level}" for level, n in zip(levels, counts, strict=True)) or "none"
        raise DataError(
            f"{rows} rows of difficulty up to {up_to} were asked for, and there are {len(easy)} ({per_level}): ask for "
            f"fewer rows, for all cutoffs alike, or for a higher cutoff"
        )
    chosen = np.zeros(len(difficulty), dtype=bool)
    chosen[rng.choice(easy, size=rows, replace=False)] = True
    return chosen
