"""When a candidate is stopped: by what it scored on the instances that others scored on too. Pure.

An instance is one (task, weak, strong, seed). All candidates meet the instances in one fixed order, and `scores` are
those of the longest finished prefix of that order, larger is better. So two candidates are always compared on the
same instances, and how hard an instance is cancels. Ask after every instance: a pruner judges the prefix it is given,
not the shorter ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from sweep.tuning.block import Tune


class Pruner(Protocol):
    """Says after each instance whether a candidate is worth another one."""

    def stop(self, scores: Sequence[float], others: Mapping[int, Sequence[float]], *, n_instances: int) -> str | None:
        """Why to stop, as a sentence, or None to go on.

        Args:
            scores: Of the candidate, on the first len(scores) instances; larger is better.
            others: Number of a candidate -> its scores, in the same order of instances: finished, stopped and running
                ones. With costs as a second objective, only those that cost no more: a worse but cheaper one may be
                on the front.
            n_instances: How many there are in all; a candidate that has them all is never stopped.
        """
        ...


@dataclass(frozen=True)
class Never:
    """Every candidate gets all instances."""

    def stop(self, scores: Sequence[float], others: Mapping[int, Sequence[float]], *, n_instances: int) -> str | None:
        return None


@dataclass(frozen=True)
class Wilcoxon:
    """Stops what a one-sided test of signed ranks says is worse than the best candidate on the same instances.

    As `optuna.pruners.WilcoxonPruner`, with three differences: the best is that of the finished candidates, and of
    all while none is finished; it is spared who is no worse than the best on average over the *same* instances; and
    the p-value is exact with ties as well. As there, a test after each instance errs more often than once in 1/p.

    Args:
        p: Stops below this.
        startup: Instances that every candidate gets; two at least.
    """

    p: float = 0.1
    startup: int = 2

    def stop(self, scores: Sequence[float], others: Mapping[int, Sequence[float]], *, n_instances: int) -> str | None:
        n = len(scores)
        if n >= n_instances or n < max(2, self.startup):
            return None
        best = _best(others, n, n_instances)
        if best is None or not np.isfinite(scores).all():
            return None
        theirs = np.asarray(others[best][:n], dtype=float)
        mine = np.asarray(scores, dtype=float)
        if np.mean(mine - theirs) > -1e-12:  # no worse on average, but for rounding
            return None
        p = signed_rank_p(mine - theirs)
        if p >= self.p:
            return None
        return (
            f"worse than candidate {best} on the same {n} instances: {mine.mean():.4g} against {theirs.mean():.4g} "
            f"on average (signed ranks, p = {p:.2g} < {self.p:g})"
        )


@dataclass(frozen=True)
class Halving:
    """Successive halving over instances, asynchronously (Li et al. 2020, ASHA).

    A candidate with exactly first · factor^k instances, k = 0, 1, ..., goes on if it is among the best 1/factor
    (rounded down, one at least) of all that reached this many, by the mean over these first instances. Nobody waits:
    who comes early meets few rivals.

    Args:
        factor: 2 or more; the share that goes on is 1/factor.
        first: Instances before the first decision.
    """

    factor: int = 3
    first: int = 2

    def stop(self, scores: Sequence[float], others: Mapping[int, Sequence[float]], *, n_instances: int) -> str | None:
        n = len(scores)
        if n >= n_instances or n not in self.decisions(n_instances) or not np.isfinite(scores).all():
            return None
        rivals = [float(np.mean(row[:n])) for row in others.values() if _reached(row, n)]
        mine = float(np.mean(scores))
        better = sum(rival > mine for rival in rivals)
        keep = max(1, (len(rivals) + 1) // self.factor)
        if better < keep:
            return None
        return (
            f"{better + 1}. of {len(rivals) + 1} that reached {n} instances, with {mine:.4g} on average; "
            f"the best {keep} go on (successive halving by {self.factor})"
        )

    def decisions(self, n_instances: int) -> list[int]:
        """The numbers of instances at which it decides."""
        found = []
        n = self.first
        while n < n_instances:
            found.append(n)
            n *= self.factor
        return found


def pruner_of(tune: "Tune") -> Pruner:
    """The pruner that a `tune:` block asks for."""
    spec = tune.pruner
    match spec.name:
        case "wilcoxon":
            return Wilcoxon(p=spec.p, startup=spec.startup)
        case "halving":
            return Halving(factor=spec.factor, first=spec.first)
        case _:
            return Never()


def weakest_p(n: int) -> float:
    """The smallest p-value that `n` instances can give: 2^-n, when the candidate is worse on every one of them.

    No candidate is tested on all instances, since then there is nothing to save: with N instances a Wilcoxon pruner
    never acts if `weakest_p(N - 1)` is not below its p. For p = 0.1 that takes N = 5.
    """
    return 0.5**n


def can_stop(pruner: Pruner, n_instances: int) -> bool:
    """Whether a pruner could ever stop a candidate that has this many instances before it."""
    match pruner:
        case Wilcoxon(p=p, startup=startup):
            n = n_instances - 1
            return n >= max(2, startup) and weakest_p(n) < p
        case Halving():
            return bool(pruner.decisions(n_instances))
        case _:
            return False


def signed_rank_p(differences: Sequence[float] | np.ndarray) -> float:
    """The exact p-value of Wilcoxon's signed ranks against "not less than zero", given the sizes of the differences.

    Every sign pattern is equally likely if there is no difference; ties share their mean rank, and the ranks of zeros
    count half on both sides (`zero_method="zsplit"` of SciPy, which resorts to a normal approximation there).

    Args:
        differences: Shape (instance,), finite; negative ones speak for "less".

    Returns:
        P(W+ <= the observed sum of ranks of positive differences), between 2^-n and 1.
    """
    d = np.round(np.asarray(differences, dtype=float), 12)  # 0.3 - 0.2 and 0.2 - 0.1 are a tie
    doubled = np.rint(2 * rankdata(np.abs(d))).astype(int)  # whole numbers, as mean ranks may end in .5
    observed = int(doubled[d > 0].sum())
    chances = np.ones(1)  # of each sum of the doubled ranks of positive signs; zeros add the same to both sides
    for rank in doubled[d != 0]:
        longer = np.zeros(len(chances) + rank)
        longer[: len(chances)] += 0.5 * chances
        longer[rank:] += 0.5 * chances
        chances = longer
    return float(min(1.0, chances[: observed + 1].sum()))


def _reached(row: Sequence[float], n: int) -> bool:
    return len(row) >= n and bool(np.isfinite(row[:n]).all())


def _best(others: Mapping[int, Sequence[float]], n: int, n_instances: int) -> int | None:
    """The best finished candidate; while none is finished, the one that leads on the first n instances."""
    finished = {number: row for number, row in others.items() if _reached(row, n_instances)}
    rows = finished or {number: row[:n] for number, row in others.items() if _reached(row, n)}
    return max(sorted(rows), key=lambda number: float(np.mean(rows[number])), default=None)
