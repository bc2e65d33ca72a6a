"""How often the intervals of `analysis.intervals` hold the truth, by simulation.

A whole small sweep is simulated many times: every seed has its own ladder, so each model has a skill that varies by
seed; test examples have a difficulty shared by all runs; and each run adds noise of its own. What the intervals are
meant to cover are the accuracies, PGRs and their mean over new seeds and new examples.

    python benchmarks/coverage_pgr.py --sweeps 400
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from analysis.intervals import Draws, Interval, Statistic, joint_draws
from analysis.metrics import performance_gap_recovered, pgr_to_first_order

WEAK = np.array([0.645, 0.724, 0.790, 0.853, 0.907])
CEILING = np.array([0.646, 0.726, 0.790, 0.850, 0.908, 0.959])
PGR = {"naive": 0.6, "confidence": 0.55}
PAIRS = [(w, s) for w in range(5) for s in range(w + 1, 6)]
N_WEAK, N_CEILING = len(WEAK), len(CEILING)


def true_accuracies() -> np.ndarray:
    """Of 5 supervisors, 6 ceilings, then the 15 students of each method, shape (column,)."""
    students = [WEAK[w] + pgr * (CEILING[s] - WEAK[w]) for pgr in PGR.values() for w, s in PAIRS]
    return np.concatenate([WEAK, CEILING, students])


def simulate(rng: np.random.Generator, *, n_examples: int, n_seeds: int, seed_sd: float, shared: float) -> np.ndarray:
    """Correctness of every run on every example, bool, shape (example, column, seed).

    `seed_sd` is the standard deviation of a model's log-odds-like skill (probit units) over seeds; its pretraining
    half is shared by all runs of a rung and seed. `shared` is the share of an example's noise common to all runs.
    """
    accuracy = true_accuracies()
    base_rung = np.array([*range(N_WEAK), *range(N_CEILING)] + [s for _ in PGR for _, s in PAIRS])
    skill = norm.ppf(accuracy) * np.sqrt(1 + seed_sd**2)  # so that the mean over seeds is the true accuracy
    ladder = rng.normal(0, seed_sd * np.sqrt(0.7), (6, n_seeds))
    own = rng.normal(0, seed_sd * np.sqrt(0.3), (accuracy.size, n_seeds))
    level = skill[:, None] + ladder[base_rung] + own
    difficulty = rng.normal(0, np.sqrt(shared), (n_examples, 1, 1)).astype(np.float32)
    noise = rng.standard_normal((n_examples, *level.shape), dtype=np.float32) * np.float32(np.sqrt(1 - shared))
    return level > difficulty + noise


def pair_pgr(accuracy: np.ndarray, method: int = 0) -> np.ndarray:
    """PGR of the 15 pairs from column means, shape (..., 15)."""
    first = N_WEAK + N_CEILING + method * len(PAIRS)
    weak = accuracy[..., [w for w, _ in PAIRS]]
    ceiling = accuracy[..., [N_WEAK + s for _, s in PAIRS]]
    return performance_gap_recovered(weak, accuracy[..., first : first + len(PAIRS)], ceiling)


def pgr_of_means(accuracy: np.ndarray) -> np.ndarray:
    """PGR of mean accuracies over the 15 pairs of the first method."""
    columns = (
        [w for w, _ in PAIRS],
        range(N_WEAK + N_CEILING, N_WEAK + N_CEILING + 15),
        [N_WEAK + s for _, s in PAIRS],
    )
    return performance_gap_recovered(*(accuracy[..., list(c)].mean(axis=-1, keepdims=True) for c in columns))


def first_order(at: np.ndarray, method: int = 0) -> Statistic:
    """PGR of the 15 pairs, expanded around the accuracies `at`."""
    first = N_WEAK + N_CEILING + method * len(PAIRS)
    columns = ([w for w, _ in PAIRS], list(range(first, first + len(PAIRS))), [N_WEAK + s for _, s in PAIRS])
    weak, student, ceiling = (at[c] for c in columns)
    return lambda a: pgr_to_first_order(*(a[..., c] for c in columns), at=(weak, student, ceiling))


def mean_first_order(at: np.ndarray) -> Statistic:
    expanded = first_order(at)
    return lambda a: expanded(a).mean(axis=-1, keepdims=True)


def mean_difference_first_order(at: np.ndarray) -> Statistic:
    naive, confidence = first_order(at, 0), first_order(at, 1)
    return lambda a: (confidence(a) - naive(a)).mean(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Measured:
    """A statistic: its exact form, and how the package makes it from the estimates, where that differs."""

    exact: Statistic
    around: Callable[[np.ndarray], Statistic] | None = None

    def at(self, estimate: np.ndarray) -> Statistic:
        return self.around(estimate) if self.around else self.exact


def mean_pgr(accuracy: np.ndarray) -> np.ndarray:
    return pair_pgr(accuracy).mean(axis=-1, keepdims=True)


def difference_of_mean_pgr(accuracy: np.ndarray) -> np.ndarray:
    return (pair_pgr(accuracy, 1) - pair_pgr(accuracy, 0)).mean(axis=-1, keepdims=True)


STATISTICS = {
    "one accuracy": Measured(lambda a: a[..., : N_WEAK + N_CEILING]),
    "gap (ceiling - weak)": Measured(lambda a: a[..., [N_WEAK + s for _, s in PAIRS]] - a[..., [w for w, _ in PAIRS]]),
    "student - weak": Measured(lambda a: a[..., N_WEAK + N_CEILING :] - a[..., [w for _ in PGR for w, _ in PAIRS]]),
    "PGR of a pair": Measured(pair_pgr),
    "median PGR": Measured(lambda a: np.median(pair_pgr(a), axis=-1, keepdims=True)),
    "PGR of mean accuracies": Measured(pgr_of_means),
    "mean PGR, as reported": Measured(mean_pgr, mean_first_order),
    "mean PGR, ratio per draw": Measured(mean_pgr),
    "method difference": Measured(difference_of_mean_pgr, mean_difference_first_order),
    "same, ratio per draw": Measured(difference_of_mean_pgr),
}


def plain_crossed_bootstrap(
    correct: np.ndarray, statistic: Callable, rng: np.random.Generator, *, inflate: bool, n_draws: int
) -> Interval:
    """For comparison: seeds resampled with replacement; `inflate` widens their part by sqrt(S / (S - 1))."""
    n, _, seeds = correct.shape
    counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=n_draws) / seeds
    factor = np.sqrt(seeds / (seeds - 1)) if inflate else 1.0
    weights = 1 / seeds + factor * (counts - 1 / seeds)
    values = correct.reshape(n, -1).astype(np.float32)
    examples = rng.multinomial(n, np.full(n, 1 / n), size=n_draws).astype(np.float32)
    drawn = (examples @ values / n).reshape(n_draws, correct.shape[1], seeds)
    draws = statistic(np.einsum("bcs,bs->bc", drawn, weights))
    low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    return Interval(statistic(correct.mean(axis=(0, 2))), low, high)


def draws_of(correct: np.ndarray, *, n_draws: int, random_seed: int) -> Draws:
    return joint_draws(
        correct.mean(axis=2, dtype=np.float32), correct.mean(axis=0), n_draws=n_draws, random_seed=random_seed
    )


def coverage(
    *, sweeps: int, n_draws: int, compare: bool, n_examples: int, n_seeds: int, seed_sd: float, shared: float
) -> dict[str, dict[str, tuple[float, float]]]:
    """Share of simulated sweeps whose interval holds the truth, and mean width, by statistic and estimator."""
    truth = true_accuracies()
    hits: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in STATISTICS}
    for sweep in range(sweeps):
        rng = np.random.default_rng([0, sweep])
        correct = simulate(rng, n_examples=n_examples, n_seeds=n_seeds, seed_sd=seed_sd, shared=shared)
        draws = draws_of(correct, n_draws=n_draws, random_seed=sweep)
        for name, measured in STATISTICS.items():
            statistic = measured.exact
            found = {"this package": draws.interval(measured.at(draws.estimate), range(truth.size))}
            if compare:
                found["seeds resampled"] = plain_crossed_bootstrap(
                    correct, statistic, rng, inflate=False, n_draws=n_draws
                )
                found["same, S/(S-1)"] = plain_crossed_bootstrap(correct, statistic, rng, inflate=True, n_draws=n_draws)
            for estimator, interval in found.items():
                inside = (interval.low <= statistic(truth)) & (statistic(truth) <= interval.high)
                width = np.median(interval.high - interval.low)
                hits[name].setdefault(estimator, []).append((float(inside.mean()), float(width)))
    return {
        name: {
            estimator: (float(np.mean([h for h, _ in v])), float(np.median([w for _, w in v])))
            for estimator, v in by.items()
        }
        for name, by in hits.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=200, help="simulated sweeps per setting")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=4800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--seed-sd", type=float, nargs="+", default=[0.0, 0.03, 0.1], help="in probit units")
    parser.add_argument("--compare", action="store_true", help="measure plain resampling of seeds as well (slow)")
    args = parser.parse_args()
    for n_seeds in args.seeds:
        for seed_sd in args.seed_sd:
            print(f"\n{n_seeds} seeds, skill varies by {seed_sd} over seeds; nominal 95 %: coverage (median width)")
            measured = coverage(
                sweeps=args.sweeps,
                n_draws=args.draws,
                compare=args.compare,
                n_examples=args.examples,
                n_seeds=n_seeds,
                seed_sd=seed_sd,
                shared=0.5,
            )
            for name, by in measured.items():
                cells = "   ".join(f"{estimator} {c:.3f} ({w:.3f})" for estimator, (c, w) in by.items())
                print(f"  {name:26} {cells}", flush=True)


if __name__ == "__main__":
    main()
