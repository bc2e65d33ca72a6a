"""Synthetic supervisors: as accurate as a real weak model, but wrong on other examples.

If students recover more from some errors than from others of the same number, accuracy alone does not tell how good a
supervisor is. Errors that are random are the easiest to undo; errors that the student finds natural are the hardest.

Source: Burns et al. 2023, Appendix E.2. Labels are hard, and errors fall on either class: nothing balances them. Every
function returns labels with exactly the number of errors asked for; equal rows are taken in their order, and rows come
sorted by example id. Each of these supervisors reads ground truth: they are controls, never methods.
"""

from typing import Literal, TypeVar, get_args

import numpy as np

from w2s.errors import DataError

T = TypeVar("T")

ControlKind = Literal["uniform", "longest", "shortest", "least_confident", "most_confident"]


def control_labels(
    kind: ControlKind,
    *,
    gold: np.ndarray,
    weak_p: np.ndarray,
    lengths: np.ndarray | None = None,
    strong_p: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Labels with as many errors as the weak model makes on the same rows, float32, 0.0 or 1.0, shape [n].

    To be called once per split, so that the accuracies match on each of them.

    Args:
        kind: Which rows are wrong: `uniform` (chance; needs `rng`), `longest` or `shortest` texts (needs `lengths`),
            `least_confident`, where a strong model trained on ground truth is least sure, or `most_confident`, where
            it is right and most sure (both need `strong_p`).
        gold: True labels, 0 or 1, int8, shape [n].
        weak_p: The real weak model's P(class 1), shape [n]; only the number of its errors is used.
        lengths: Length of each example's text, in any unit, shape [n].
        strong_p: P(class 1) by the strong model, which must not have been trained on these rows, shape [n].
        rng: What chooses the rows of `uniform`.

    Raises:
        DataError: A label or probability is missing or outside its range, or there is no such kind.
    """
    if kind not in get_args(ControlKind):
        raise DataError(f"no control supervisor is called {kind!r}; there are: {', '.join(get_args(ControlKind))}")
    n_errors = count_errors(gold, weak_p)
    if kind == "uniform":
        return uniform(gold, n_errors, _needed(rng, "rng", kind))
    if kind == "longest" or kind == "shortest":
        return by_length(gold, n_errors, _needed(lengths, "lengths", kind), which=kind)
    strong_p = _needed(strong_p, "strong_p", kind)
    which = "least_confident" if kind == "least_confident" else "most_confident_correct"
    return by_confidence(gold, n_errors, strong_p, which=which)


def count_errors(gold: np.ndarray, p: np.ndarray) -> int:
    """How many predictions are wrong; class 1 is predicted where p exceeds 1/2.

    Args:
        gold: True labels, 0 or 1, shape [n].
        p: P(class 1), shape [n].

    Raises:
        DataError: A value is no probability.
    """
    _check_aligned(gold, p, "weak labels")
    return int(((_probabilities(p, "weak label") > 0.5) != (gold == 1)).sum())


def uniform(gold: np.ndarray, n_errors: int, rng: np.random.Generator) -> np.ndarray:
    """Labels wrong on rows drawn without replacement, each as likely as any other, float32, shape [n].

    Raises:
        DataError: There are fewer rows than errors, or a true label is neither 0 nor 1.
    """
    return _flip_first(gold, n_errors, rng.permutation(len(gold)))


def by_length(
    gold: np.ndarray, n_errors: int, lengths: np.ndarray, *, which: Literal["longest", "shortest"]
) -> np.ndarray:
    """Labels wrong on the longest or the shortest texts, float32, shape [n].

    Args:
        gold: True labels, 0 or 1, int8, shape [n].
        n_errors: How many labels are to be wrong.
        lengths: Length of each example's text, in any unit, shape [n].
        which: Where the errors are.

    Raises:
        DataError: There are fewer rows than errors, or a true label is neither 0 nor 1.
    """
    _check_aligned(gold, lengths, "lengths")
    signed = lengths.astype(np.int64)  # unsigned numbers have no negative
    return _flip_first(gold, n_errors, np.argsort(-signed if which == "longest" else signed, kind="stable"))


def by_confidence(
    gold: np.ndarray,
    n_errors: int,
    strong_p: np.ndarray,
    *,
    which: Literal["least_confident", "most_confident_correct"],
) -> np.ndarray:
    """Labels wrong where a strong model trained on ground truth is least sure, or most sure and right; float32 [n].

    Confidence is abs(p - 1/2). Where the strong model is right on fewer rows than there are to be errors,
    `most_confident_correct` goes on with the rows where it is wrong, the least confident of them first.

    Args:
        gold: True labels, 0 or 1, int8, shape [n].
        n_errors: How many labels are to be wrong.
        strong_p: The strong model's P(class 1) on rows it was not trained on, shape [n].
        which: Where the errors are.

    Raises:
        DataError: There are fewer rows than errors, a true label is neither 0 nor 1, or a value is no probability.
    """
    _check_aligned(gold, strong_p, "strong_p")
    strong_p = _probabilities(strong_p, "probability of the strong model")
    confidence = np.abs(strong_p - 0.5)
    if which == "least_confident":
        return _flip_first(gold, n_errors, np.argsort(confidence, kind="stable"))
    # One scale from most confidently right to most confidently wrong. An undecided model predicts class 0, so a
    # confidence of 0 may be right or wrong, and being right goes first.
    is_wrong = (strong_p > 0.5) != (gold == 1)
    return _flip_first(gold, n_errors, np.lexsort((np.where(is_wrong, confidence, -confidence), is_wrong)))


def _flip_first(gold: np.ndarray, n_errors: int, order: np.ndarray) -> np.ndarray:
    """Gold labels, wrong on the first `n_errors` rows of `order`."""
    if not 0 <= n_errors <= len(gold):
        raise DataError(
            f"{n_errors} of {len(gold)} labels cannot be wrong: errors are between 0 and the number of rows"
        )
    if (other := gold[(gold != 0) & (gold != 1)]).size:
        raise DataError(f"{other.size} true labels are neither 0 nor 1, the first: {other[0]}")
    labels = gold.astype(np.float32)
    wrong = order[:n_errors]
    labels[wrong] = 1 - labels[wrong]
    return labels


def _probabilities(p: np.ndarray, what: str) -> np.ndarray:
    # Negated, so that NaN counts as outside.
    if (outside := np.flatnonzero(~((p >= 0) & (p <= 1)))).size:
        i = outside[0]
        raise DataError(f"{what} in row {i} is {p[i]:g}, which is no probability in [0, 1]")
    return p.astype(np.float64)


def _check_aligned(gold: np.ndarray, values: np.ndarray, what: str) -> None:
    if gold.shape != values.shape:
        raise ValueError(f"{what} of shape {list(values.shape)} do not belong to labels of shape {list(gold.shape)}")


def _needed(value: T | None, name: str, kind: str) -> T:
    if value is None:
        raise ValueError(f"the control supervisor {kind!r} needs {name}")
    return value
