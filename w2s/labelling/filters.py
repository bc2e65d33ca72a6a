"""Which weak labels a student learns from: rows dropped, or labels replaced, before training starts.

Every function takes the weak labels of one training part and returns as many, NaN where a row is dropped. Rows come
sorted by example id; ties go by row order. None looks at ground truth.

Shapes: n rows, D features, the student's own activations before training (`w2s.activations`).

Source: Burns et al. 2023, Appendix B (confidence); EleutherAI's w2s (probes); Wu et al. 2020, "A Topological Filter for
Learning with Label Noise" (arXiv:2012.04835).
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from w2s.errors import DataError
from w2s.probing import fit_logistic, knn_labels, nearest


def most_confident(p: np.ndarray, *, keep: float) -> np.ndarray:
    """Keeps, of each predicted class, the share of rows of which the weak model is most sure, float32, shape [n].

    Per class, so that a supervisor that prefers one class does not choose rows of that class only; at least one row of
    each class that is predicted at all.

    Args:
        p: The supervisor's P(class 1), shape [n]; class 1 is predicted where p exceeds 1/2.
        keep: Share to keep, above 0 and at most 1; the paper keeps 5 to 20 %.

    Raises:
        DataError: A label is no probability, or `keep` no such share.
    """
    p = _checked(p)
    if not 0 < keep <= 1:
        raise DataError(f"keep is {keep:g}; it is a share above 0 and at most 1, 0.1 for 10 %")
    confidence = np.abs(p.astype(np.float64) - 0.5)
    kept = np.zeros(len(p), dtype=bool)
    for predicted in (p > 0.5, p <= 0.5):
        rows = np.flatnonzero(predicted)
        if rows.size:
            most = np.argsort(-confidence[rows], kind="stable")
            kept[rows[most[: max(1, round(keep * rows.size))]]] = True
    return _only(p, kept)


def random_rows(p: np.ndarray, *, keep: float, rng: np.random.Generator) -> np.ndarray:
    """Keeps a share of the rows, whichever: what a filter must be better than, float32, shape [n].

    Args:
        p: The supervisor's P(class 1), shape [n].
        keep: Share to keep, above 0 and at most 1; at least one row.
        rng: Draws them.

    Raises:
        DataError: A label is no probability.
    """
    p = _checked(p)
    kept = np.zeros(len(p), dtype=bool)
    kept[rng.permutation(len(p))[: max(1, round(keep * len(p)))]] = True
    return _only(p, kept)


def probe_filter(
    p: np.ndarray,
    features: np.ndarray,
    *,
    drop: float = 0.1,
    penalty: float = 1e-3,
    intercept: bool = True,
    standardise: bool = False,
) -> np.ndarray:
    """Drops the rows whose weak label is furthest from what a linear probe makes of all of them, float32, shape [n].

    Args:
        p: The supervisor's P(class 1), shape [n].
        features: Shape [n, D].
        drop: Share to drop, at least 0 and below 1.
        penalty: Of the probe, as are `intercept` and `standardise`: see `w2s.probing.fit_logistic`.

    Raises:
        DataError: A label is no probability, shapes do not fit, or `drop` is no such share.
        TrainingError: The probe did not converge.
    """
    p = _checked(p)
    probe = _probe_labels(p, features, penalty, intercept, standardise)
    return _without_furthest(p, np.abs(probe - p), _count(drop, len(p)))


def probe_relabel(
    p: np.ndarray,
    features: np.ndarray,
    *,
    penalty: float = 1e-3,
    intercept: bool = True,
    standardise: bool = False,
) -> np.ndarray:
    """Labels become the predictions of a linear probe that was fitted to them, float32, shape [n].

    Arguments and errors as for `probe_filter`.
    """
    return _probe_labels(_checked(p), features, penalty, intercept, standardise).astype(np.float32)


def knn_filter(p: np.ndarray, features: np.ndarray, *, k: int = 50, drop: float = 0.1) -> np.ndarray:
    """Drops the rows whose weak label is furthest from the mean label of their k nearest rows, float32, shape [n].

    A row counts among its own neighbours, as in EleutherAI's code.

    Args:
        p: The supervisor's P(class 1), shape [n].
        features: Shape [n, D].
        k: Neighbours, at most n.
        drop: Share to drop, at least 0 and below 1.

    Raises:
        DataError: A label is no probability, shapes do not fit, k is larger than n, or `drop` is no such share.
    """
    p = _checked(p)
    return _without_furthest(p, np.abs(knn_labels(features, p, features, k=k) - p), _count(drop, len(p)))


def knn_relabel(p: np.ndarray, features: np.ndarray, *, k: int = 50) -> np.ndarray:
    """Labels become the mean label of the k nearest rows, the row itself among them, float32, shape [n].

    Arguments and errors as for `knn_filter`.
    """
    return knn_labels(features, _checked(p), features, k=k).astype(np.float32)


def topological(p: np.ndarray, features: np.ndarray, *, k: int = 50, drop: float = 0.1) -> np.ndarray:
    """TopoFilter: keeps what hangs together with its class, then drops the least typical rows, float32, shape [n].

    1. Each row points to its k nearest other rows; of these edges, those within a predicted class stay. Of each class,
       the largest strongly connected component is kept (of equally large ones, that of the earliest row).
    2. Of what is left, the rows whose label is furthest from the mean label of their k nearest others (among what is
       left; all others where they are fewer than k) are dropped, until the share `drop` of all rows is gone.

    If the first step drops more than that, the second drops nothing, and more than `drop` is gone. Components are
    found within each class, so that a class that nobody predicts keeps no row; EleutherAI's code, which masks one side
    of the edges, then keeps an arbitrary one.

    Args:
        p: The supervisor's P(class 1), shape [n]; class 1 is predicted where p exceeds 1/2.
        features: Shape [n, D].
        k: Neighbours, below n.
        drop: Share to drop, at least 0 and below 1.

    Raises:
        DataError: A label is no probability, shapes do not fit, k is not below n, or `drop` is no such share.
    """
    p = _checked(p)
    _check_rows(p, features)
    to_drop = _count(drop, len(p))
    graph = nearest(features, features, k, skip_self=True)
    kept = np.zeros(len(p), dtype=bool)
    for predicted in (p > 0.5, p <= 0.5):
        rows = np.flatnonzero(predicted)
        if rows.size:
            kept[rows[_largest_component(graph, rows)]] = True
    rows = np.flatnonzero(kept)
    still_to_drop = to_drop - (len(p) - rows.size)
    if still_to_drop > 0 and rows.size > 1:
        labels, inside = p[rows].astype(np.float64), features[rows]
        neighbours = nearest(inside, inside, min(k, rows.size - 1), skip_self=True)
        typical = labels[neighbours].mean(axis=1)
        kept[rows[_furthest(np.abs(typical - labels), still_to_drop)]] = False
    return _only(p, kept)


def _largest_component(graph: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Positions in `rows` of the largest strongly connected component of the graph between these rows.

    Args:
        graph: The rows that each row points to, shape [n, k].
        rows: A subset, ascending, shape [rows].
    """
    position = np.full(len(graph), -1)
    position[rows] = np.arange(rows.size)
    ends = position[graph[rows]]
    inside = ends >= 0
    starts = np.broadcast_to(np.arange(rows.size)[:, None], ends.shape)[inside]
    edges = csr_array((np.ones(starts.size, dtype=np.int8), (starts, ends[inside])), shape=(rows.size, rows.size))
    _, component = connected_components(edges, directed=True, connection="strong")
    sizes = np.bincount(component)
    # Numbers of components are an accident of the search; the earliest row of a largest one is not.
    return np.flatnonzero(component == component[np.argmax(sizes[component])])


def _probe_labels(
    p: np.ndarray, features: np.ndarray, penalty: float, intercept: bool, standardise: bool
) -> np.ndarray:
    """The probe's P(class 1) on the rows it was fitted to, float64, shape [n]."""
    probe = fit_logistic(features, p, penalty=penalty, intercept=intercept, standardise=standardise)
    return probe.probabilities(features)


def _without_furthest(p: np.ndarray, distance: np.ndarray, count: int) -> np.ndarray:
    kept = np.ones(len(p), dtype=bool)
    kept[_furthest(distance, count)] = False
    return _only(p, kept)


def _furthest(distance: np.ndarray, count: int) -> np.ndarray:
    """The `count` rows with the largest distance, of equal ones the earlier."""
    return np.argsort(-distance, kind="stable")[:count]


def _only(p: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.where(kept, p, np.float32(np.nan)).astype(np.float32)


def _count(drop: float, rows: int) -> int:
    """How many rows a share is; at least one row stays."""
    if not 0 <= drop < 1:
        raise DataError(f"drop is {drop:g}; it is a share of at least 0 and below 1, 0.1 for 10 %")
    return min(round(drop * rows), rows - 1)


def _check_rows(p: np.ndarray, features: np.ndarray) -> None:
    if len(p) != len(features):
        raise DataError(f"there are {len(p)} weak labels and activations of {len(features)} rows; both are per example")


def _checked(p: np.ndarray) -> np.ndarray:
    """Weak labels as float32, shape [n]."""
    p = np.asarray(p, dtype=np.float32)
    if p.ndim != 1 or p.size == 0:
        raise DataError(f"weak labels have shape {list(p.shape)}; a filter needs at least one, [n]")
    # Negated, so that NaN counts as outside.
    if (outside := np.flatnonzero(~((p >= 0) & (p <= 1)))).size:
        raise DataError(
            f"{outside.size} of {p.size} weak labels are no probabilities in [0, 1], the first is row {outside[0]}: "
            f"{p[outside[0]]:g}; a filter needs a label for every row"
        )
    return p
