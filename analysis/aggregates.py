"""Rows of one section about methods: PGR of each over the grid, and paired differences of any two."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from analysis.frames import BOUNDS, DIFFERENCES_SCHEMA, OWN, bounds, log_ratio, methods_in_order
from analysis.grouping import Pair, SectionDraws, SectionPairs
from analysis.metrics import pgr_to_first_order
from analysis.rows import Sizes, pgr, triples

Valid = set[tuple[str, str, str]]
"""(weak, strong, baseline) that have a gap."""
NO_PGR = dict.fromkeys(f"pgr{bound}" for bound in BOUNDS)


def method_rows(grouped: SectionPairs, drawn: SectionDraws, valid: Valid) -> list[dict[str, Any]]:
    """Mean, median and PGR of mean accuracies of each method."""
    rows = []
    for method in methods_in_order(pair.method for pair in grouped.pairs):
        pairs = [pair for pair in grouped.pairs if pair.method == method]
        chosen = [pair for pair in pairs if pair.gap_key in valid]
        counts = {"n_no_gap": len(pairs) - len(chosen), "n_test": drawn.n_test}
        counts["n_seeds"] = min(len(pair.student.seeds) for pair in pairs)
        head = grouped.section._asdict() | {"method": method, "baseline": baselines(pairs)}
        head["oracle"] = any(pair.oracle for pair in pairs)
        every = [key for pair in pairs for key in pair.accuracy_keys]
        of_means = drawn.interval(lambda a: pgr(triples(a).mean(axis=-2))[..., None], every)
        of_means_row = head | counts | {"statistic": "of_means", "n_pairs": len(pairs)}
        mean_gap = drawn.interval(lambda a: _mean_gap(triples(a)), every)
        rows.append(of_means_row | (bounds("pgr", of_means) if mean_gap.low[0] > 0 else NO_PGR))
        if not chosen:
            continue
        keys = [key for pair in chosen for key in pair.accuracy_keys]
        expanded = first_order_pgr(drawn.draws.estimate[[drawn.column[key] for key in keys]])
        mean = drawn.interval(lambda a, f=expanded: f(a).mean(axis=-1, keepdims=True), keys)
        median = drawn.interval(lambda a: np.median(pgr(triples(a)), axis=-1, keepdims=True), keys)
        for statistic, interval in (("mean", mean), ("median", median)):
            rows.append(head | counts | {"statistic": statistic, "n_pairs": len(chosen)} | bounds("pgr", interval))
    return rows


def first_order_pgr(estimate: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """PGR of each pair as a function of weak, student, ceiling, weak, ...: (..., 3 pairs) -> (..., pairs).

    Args:
        estimate: These accuracies as estimated, around which PGR is expanded, shape (3 pairs,).
    """
    at = triples(estimate)

    def statistic(columns: np.ndarray) -> np.ndarray:
        a = triples(columns)
        return pgr_to_first_order(a[..., 0], a[..., 1], a[..., 2], at=(at[..., 0], at[..., 1], at[..., 2]))

    return statistic


def baselines(pairs: Iterable[Pair]) -> str:
    """What a method is measured against; one in practice."""
    return ", ".join(sorted({pair.baseline for pair in pairs} - {OWN}))


def _mean_gap(accuracies: np.ndarray) -> np.ndarray:
    """Mean of ceiling minus weak over pairs, from shape (..., pair, 3) to (..., 1)."""
    return (accuracies[..., 2] - accuracies[..., 0]).mean(axis=-1, keepdims=True)


def difference_rows(
    grouped: SectionPairs, drawn: SectionDraws, valid: Valid, sizes: Sizes, methods: Sequence[str], reference: str
) -> list[dict[str, Any]]:
    """Each method minus the reference, over the grid and by rungs from weak to strong.

    Only pairs that both have at the same seeds; PGR where both have a gap. `n_higher` and `n_lower` count pairs by the
    sign of the difference of their estimated PGRs. Pairs share supervisors and ceilings, so these counts describe; no
    sign test follows from them.
    """
    of = {
        method: {pair.models: pair for pair in grouped.pairs if pair.method == method}
        for method in {*methods, reference}
    }
    rows = []
    for method in methods:
        # Paired means the same seeds on both sides; a pair that one method lacks at some seed is left out.
        common = [
            m for m, p in of[method].items() if m in of[reference] and of[reference][m].student.seeds == p.student.seeds
        ]
        gap_of = {models: sizes[models[1]]["rung"] - sizes[models[0]]["rung"] for models in common}
        for size_gap in (None, *sorted(set(gap_of.values()))):
            group = [models for models in common if size_gap in (None, gap_of[models])]
            if not group:
                continue
            both = [(of[method][models], of[reference][models]) for models in group]
            chosen = [(one, other) for one, other in both if one.gap_key in valid and other.gap_key in valid]
            ratios = [ratio for weak, strong in group if (ratio := log_ratio(sizes[weak], sizes[strong])) is not None]
            row: dict[str, Any] = grouped.section._asdict() | {
                "method": method,
                "reference": reference,
                "size_gap": size_gap,
                "log10_compute_ratio": float(np.mean(ratios)) if len(ratios) == len(group) else None,
                "n_pairs": len(chosen),
                "n_no_gap": len(group) - len(chosen),
                "n_seeds": min(len(one.student.seeds) for one, _ in both),
                "n_test": drawn.n_test,
            }
            row |= _differences(drawn, both, chosen)
            rows.append({name: row.get(name) for name in DIFFERENCES_SCHEMA})
    return rows


def _differences(
    drawn: SectionDraws, both: Sequence[tuple[Pair, Pair]], chosen: Sequence[tuple[Pair, Pair]]
) -> dict[str, Any]:
    """Accuracy over all pairs of (method, reference), PGR over those with a gap."""
    students = [("right", pair.student) for side in zip(*both, strict=True) for pair in side]
    row: dict[str, Any] = bounds("accuracy_difference", drawn.interval(_halves_difference, students))
    if not chosen:
        return row | {"n_higher": 0, "n_lower": 0}
    keys = [key for side in zip(*chosen, strict=True) for pair in side for key in pair.accuracy_keys]
    estimate = drawn.draws.estimate[[drawn.column[key] for key in keys]]
    expanded = first_order_pgr(estimate)
    of_pair = expanded(estimate)
    sign = np.sign(np.round(of_pair[: len(chosen)] - of_pair[len(chosen) :], 12))  # equal runs differ by nothing
    row |= {"n_higher": int((sign > 0).sum()), "n_lower": int((sign < 0).sum())}
    return row | bounds("pgr_difference", drawn.interval(lambda a: _halves_difference(expanded(a)), keys))


def _halves_difference(values: np.ndarray) -> np.ndarray:
    """Mean of the first half of the last axis minus mean of the second half."""
    half = values.shape[-1] // 2
    return values[..., :half].mean(axis=-1, keepdims=True) - values[..., half:].mean(axis=-1, keepdims=True)
