"""How often the intervals of `analysis.intervals` hold the truth, by simulation.

A whole small sweep is simulated many times: every seed has its own ladder, so each model has a skill that varies by
seed; test examples have a difficulty shared by all runs; and each run adds noise of its own. What the intervals are
meant to cover are the accuracies, PGRs and their mean over new seeds and new examples.

Further tasks share the ladder of each seed, and have test examples and PGRs of their own.

    python benchmarks/coverage_pgr.py --sweeps 300 --out coverage.md
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import multivariate_normal, norm

from analysis.estimates import agreements, least_squares_slope
from analysis.intervals import Draws, Interval, Statistic, joint_draws, seed_noise, side_by_side
from analysis.metrics import performance_gap_recovered, pgr_to_first_order

WEAK = np.array([0.645, 0.724, 0.790, 0.853, 0.907])
CEILING = np.array([0.646, 0.726, 0.790, 0.850, 0.908, 0.959])
PGR = {"naive": 0.6, "confidence": 0.55}
PAIRS = [(w, s) for w in range(5) for s in range(w + 1, 6)]
TASKS = ({"naive": 0.5, "confidence": 0.55}, {"naive": 0.7, "confidence": 0.55})
"""PGR in the further tasks."""
N_WEAK, N_CEILING = len(WEAK), len(CEILING)
STUDENTS = list(range(N_WEAK + N_CEILING, N_WEAK + N_CEILING + len(PAIRS)))
"""Columns of the first method's students."""
ALL_STUDENTS = slice(N_WEAK + N_CEILING, N_WEAK + N_CEILING + len(PGR) * len(PAIRS))
LADDER_SHARE = 0.7
"""Of the variance of skill over seeds: what all runs of a rung and seed have in common."""
OURS = "this package"
SLOPE = "slope of agreement with mistakes"
OVER_TASKS = "median over tasks of mean PGR"


def true_accuracies(of: Mapping[str, float] = PGR) -> np.ndarray:
    """Of 5 supervisors, 6 ceilings, then the 15 students of each method, shape (column,)."""
    students = [WEAK[w] + pgr * (CEILING[s] - WEAK[w]) for pgr in of.values() for w, s in PAIRS]
    return np.concatenate([WEAK, CEILING, students])


def simulate(
    rng: np.random.Generator,
    *,
    ladder: np.ndarray,
    n_examples: int,
    n_seeds: int,
    seed_sd: float,
    shared: float,
    pgr: Mapping[str, float] = PGR,
) -> np.ndarray:
    """Correctness of every run on every example, bool, shape (example, column, seed).

    `seed_sd` is the standard deviation of a model's log-odds-like skill (probit units) over seeds; its pretraining
    part, `ladder`, shape (rung, seed), is shared by all runs of a rung and seed. `shared` is the share of an example's
    noise common to all runs.
    """
    accuracy = true_accuracies(pgr)
    base_rung = np.array([*range(N_WEAK), *range(N_CEILING)] + [s for _ in PGR for _, s in PAIRS])
    skill = norm.ppf(accuracy) * np.sqrt(1 + seed_sd**2)  # so that the mean over seeds is the true accuracy
    own = rng.normal(0, seed_sd * np.sqrt(1 - LADDER_SHARE), (accuracy.size, n_seeds))
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
    "student - weak": Measured(lambda a: a[..., ALL_STUDENTS] - a[..., [w for _ in PGR for w, _ in PAIRS]]),
    "PGR of a pair": Measured(pair_pgr),
    "median PGR": Measured(lambda a: np.median(pair_pgr(a), axis=-1, keepdims=True)),
    "PGR of mean accuracies": Measured(pgr_of_means),
    "mean PGR, as reported": Measured(mean_pgr, mean_first_order),
    "mean PGR, ratio per draw": Measured(mean_pgr),
    "method difference": Measured(difference_of_mean_pgr, mean_difference_first_order),
    "method difference, ratio per draw": Measured(difference_of_mean_pgr),
    SLOPE: Measured(lambda a: slope(a)),
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


def with_agreement(correct: np.ndarray) -> np.ndarray:
    """The columns of `simulate`, then for the first method's pairs whether both agree, and agree and are right."""
    weak, student = correct[:, [w for w, _ in PAIRS]], correct[:, STUDENTS]
    return np.concatenate([correct, weak == student, weak & student], axis=1)


def agreement_columns(a: np.ndarray) -> np.ndarray:
    """Supervisor right, agree, agree and right of the first method's pairs, shape (..., 15, 3)."""
    weak, n = a[..., [w for w, _ in PAIRS]], len(PAIRS)
    return np.stack([weak, a[..., -2 * n : -n], a[..., -n:]], axis=-1)


def slope(accuracy: np.ndarray) -> np.ndarray:
    """Of agreement with mistakes over the rung of the student, all supervisors pooled."""
    of = [index for index, (w, _) in enumerate(PAIRS) if w < N_WEAK - 1]  # the last has one student only
    y = agreements(agreement_columns(accuracy))[..., of, 2]
    return least_squares_slope(np.array([PAIRS[i][1] for i in of], float), y, np.array([PAIRS[i][0] for i in of]))


def true_agreement(*, seed_sd: float, shared: float) -> np.ndarray:
    """Expected columns `agree` and `agree and right` of the first method's pairs, shape (30,).

    Margins of two rungs are jointly normal: they share the examples' difficulty, and no luck.
    """
    accuracy, correlation = true_accuracies(), shared / (1 + seed_sd**2)
    covariance: Any = [[1, correlation], [correlation, 1]]
    both_right = np.array(
        [
            multivariate_normal.cdf(norm.ppf([accuracy[w], accuracy[student]]), cov=covariance)
            for (w, _), student in zip(PAIRS, STUDENTS, strict=True)
        ]
    )
    agree = 1 - accuracy[[w for w, _ in PAIRS]] - accuracy[STUDENTS] + 2 * both_right
    return np.concatenate([agree, both_right])


def one_sweep(
    sweep: int, *, n_draws: int, compare: bool, n_examples: int, n_seeds: int, seed_sd: float, shared: float
) -> dict[tuple[str, str], tuple[float, float]]:
    """Share of a simulated sweep's intervals that hold the truth, and their median width, by statistic and method."""
    rng = np.random.default_rng([0, sweep])
    world = {"n_examples": n_examples, "n_seeds": n_seeds, "seed_sd": seed_sd, "shared": shared}
    ladder = rng.normal(0, seed_sd * np.sqrt(LADDER_SHARE), (N_CEILING, n_seeds))
    correct = simulate(rng, ladder=ladder, **world)
    truth = np.concatenate([true_accuracies(), true_agreement(seed_sd=seed_sd, shared=shared)])
    draws = draws_of(with_agreement(correct), n_draws=n_draws, random_seed=sweep)
    found: dict[tuple[str, str], tuple[float, float]] = {}

    def note(name: str, estimator: str, interval: Interval, true: np.ndarray) -> None:
        inside = (interval.low <= true) & (true <= interval.high)
        found[name, estimator] = float(inside.mean()), float(np.median(interval.high - interval.low))

    for name, measured in STATISTICS.items():
        interval = draws.interval(measured.at(draws.estimate), range(truth.size))
        note(name, OURS, interval, measured.exact(truth))
        if compare and name != SLOPE:
            for estimator, inflate in (("seeds resampled", False), ("same, S/(S-1)", True)):
                plain = plain_crossed_bootstrap(correct, measured.exact, rng, inflate=inflate, n_draws=n_draws)
                note(name, estimator, plain, measured.exact(truth[: -2 * len(PAIRS)]))

    others = [
        draws_of(simulate(rng, ladder=ladder, pgr=pgr, **world), n_draws=n_draws, random_seed=sweep) for pgr in TASKS
    ]
    noise, n = seed_noise(n_draws, n_seeds, sweep), true_accuracies().size
    parts = [part.part(range(n), order=rng.permutation(n_draws), noise=noise) for part in (draws, *others)]
    joint = side_by_side(parts)
    expanded = [first_order(part.estimate) for part in parts]
    true_tasks = [pair_pgr(true_accuracies(pgr)).mean() for pgr in (PGR, *TASKS)]
    interval = joint.interval(
        lambda a: np.median(
            [
                f(task).mean(axis=-1, keepdims=True)
                for f, task in zip(expanded, np.split(a, len(parts), -1), strict=True)
            ],
            axis=0,
        ),
        range(joint.estimate.size),
    )
    note(OVER_TASKS, OURS, interval, np.median(true_tasks, keepdims=True))
    return found


def coverage(sweeps: int, jobs: int, **world) -> dict[tuple[str, str], tuple[float, float]]:
    """Mean coverage and median width over simulated sweeps, by statistic and estimator."""
    with ProcessPoolExecutor(jobs) as pool:
        found = list(pool.map(partial(one_sweep, **world), range(sweeps), chunksize=5))
    return {
        key: (float(np.mean([one[key][0] for one in found])), float(np.median([one[key][1] for one in found])))
        for key in found[0]
    }


def markdown(
    measured: dict[tuple[int, float], dict[tuple[str, str], tuple[float, float]]],
    *,
    sweeps: int,
    examples: int,
    command: str,
) -> str:
    """The coverage of this package's intervals as a table, and what falls outside 92 to 98 %, with the reason."""
    names = [name for name, estimator in next(iter(measured.values())) if estimator == OURS]
    head = [f"{n} seeds, sd {sd:g}" for n, sd in measured]
    error = 1.96 * np.sqrt(0.95 * 0.05 / sweeps)
    lines = [
        f"    {command}",
        "",
        f"Whole sweeps of {len(PAIRS)} pairs, two methods and {1 + len(TASKS)} tasks with {examples:,} test examples"
        f" each are simulated with known truth, {sweeps} for each column; each row says how often nominal 95 %"
        " intervals hold it. Columns: number of seeds, and the standard deviation of skill over seeds (probit units;"
        f" 0.03 is about 1 point of accuracy, 0.1 about 3). {sweeps} sweeps know a coverage of .95 to ± {error:.3f};"
        " rows that are means over accuracies or pairs somewhat better. `ratio per draw` is for comparison, not what"
        " is reported. Bold: outside .92 to .98.",
        "",
        f"| | {' | '.join(head)} |",
        f"|---|{'---|' * len(head)}",
    ]
    narrow, wide = [], []
    for name in names:
        cells = []
        for key in measured:
            share = round(measured[key][name, OURS][0], 3)
            text = f"{share:.3f}".removeprefix("0")
            cells.append(text if 0.92 <= share <= 0.98 else f"**{text}**")
            if share > 0.98:
                wide.append(key)
            elif share < 0.92:
                narrow.append(f"{name} ({key[0]} seeds, sd {key[1]:g}: {text})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    still, moving = (sum(n_sd[1] <= 0.0 for n_sd in wide), sum(n_sd[1] > 0.0 for n_sd in wide))
    lines += [
        "",
        f"Too wide (above .98): {len(wide)} of {len(names) * len(head)} cells, {still} of them where skill does not"
        f" vary over seeds at all and {moving} elsewhere. The noise of a single run is counted twice, in the resampled"
        " examples and in the spread over seeds, and with few seeds Student's t stretches a spread that is hardly"
        " there. The error is on the safe side, and shrinks as seeds matter more. What takes a median or a"
        " ratio anew in each draw stays wide also then: resampled PGRs scatter more than the estimated ones,"
        " most of all where gaps are narrow.",
        "",
        f"Too narrow (below .92): {'; '.join(narrow) or 'none'}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=300, help="simulated sweeps per setting")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=2400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--seed-sd", type=float, nargs="+", default=[0.0, 0.03, 0.1], help="in probit units")
    parser.add_argument("--compare", action="store_true", help="measure plain resampling of seeds as well (slow)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, help="write the table as markdown")
    args = parser.parse_args()
    measured = {}
    begun = time.perf_counter()
    for n_seeds in args.seeds:
        for seed_sd in args.seed_sd:
            print(f"\n{n_seeds} seeds, skill varies by {seed_sd} over seeds; nominal 95 %: coverage (median width)")
            world = {"n_examples": args.examples, "n_seeds": n_seeds, "seed_sd": seed_sd, "shared": 0.5}
            by = coverage(args.sweeps, args.jobs, n_draws=args.draws, compare=args.compare, **world)
            measured[n_seeds, seed_sd] = by
            for name in dict.fromkeys(name for name, _ in by):
                cells = "   ".join(f"{e} {c:.3f} ({w:.3f})" for (other, e), (c, w) in by.items() if other == name)
                print(f"  {name:34} {cells}", flush=True)
    print(f"\n{time.perf_counter() - begun:.0f} s")
    if args.out:
        command = f"python benchmarks/coverage_pgr.py --sweeps {args.sweeps} --examples {args.examples}"
        args.out.write_text(markdown(measured, sweeps=args.sweeps, examples=args.examples, command=command))


if __name__ == "__main__":
    main()
