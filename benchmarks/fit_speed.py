"""How long it takes to fit one family to 10,000 curves, and how often a better optimum was there to be found.

    python benchmarks/fit_speed.py [--curves 10000] [--points 12] [--families bnsl2,m4] [--out fit_speed.md]

Curves of the family itself with 1 % noise, all fitted in one call, in one process. `missed` is the share of curves
whose objective a much longer search (more starts, all followed to the end) betters by more than 1e-4 of itself; it is
measured on the first few of them.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from coverage_curves import LOG_NOISE, VALUES

from analysis.scaling.families import CURVES, Family, Link
from analysis.scaling.fitting import bounds_of
from analysis.scaling.losses import Loss, default_loss
from analysis.scaling.points import Points
from analysis.scaling.solver import polish, search, solve

MISSED = 1e-4
LONG_STARTS, LONG_ITERATIONS = 20, 600


@dataclass(frozen=True)
class Speed:
    family: str
    seconds: float
    processor_seconds: float
    converged: float
    missed: float


def measure(name: str, *, curves: int, points: int, compared: int) -> Speed:
    family, rng = CURVES[name], np.random.default_rng(0)
    u = np.linspace(0, 1, points)[:, None]
    y = family.predict(np.array(VALUES[name]), u) * np.exp(LOG_NOISE * rng.standard_normal((curves, points)))
    if family.link is Link.LOG_ODDS:
        y = np.minimum(y, 1.0)
    loss = default_loss(y, counts=False)
    bounds = bounds_of(Points(np.exp(u), y[0]), family)
    weights = np.ones_like(y)
    started, worked = time.perf_counter(), time.process_time()
    solution = solve(family, u, y, weights, loss, bounds=bounds)
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - worked
    few = slice(0, min(compared, curves))
    own = solution.objective[few]
    best = np.minimum(own, longest(family, u, y[few], weights[few], loss, bounds))
    missed = float(np.mean(own - best > MISSED * best))
    return Speed(name, seconds, processor_seconds, float(solution.converged.mean()), missed)


def longest(
    family: Family, u: np.ndarray, y: np.ndarray, w: np.ndarray, loss: Loss, bounds: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Objectives of a search with more starts, none given up, shape (curve,)."""
    starts = search(replace(family, n_polished=LONG_STARTS), u, y, w, loss, bounds)
    rows = np.repeat(np.arange(len(y)), starts.shape[1])
    flat = starts.reshape(-1, family.n_parameters)
    found = polish(family, u, y[rows], w[rows], loss, bounds, flat, iterations=LONG_ITERATIONS)
    return np.nanmin(found.objective.reshape(len(y), -1), axis=1)


def table(found: Sequence[Speed], curves: int) -> str:
    lines = [
        f"| family | seconds for {curves:,} | processor seconds | converged | missed |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {s.family} | {s.seconds:.1f} | {s.processor_seconds:.1f} | {s.converged:.1%} | {s.missed:.1%} |"
        for s in found
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=12, help="per curve")
    parser.add_argument("--families", default=",".join(VALUES), help="by name, with commas")
    parser.add_argument("--compared", type=int, default=400, help="curves that are searched again for long")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = []
    for name in args.families.split(","):
        found.append(measure(name, curves=args.curves, points=args.points, compared=args.compared))
        print(found[-1], flush=True)
    text = table(found, args.curves)
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
