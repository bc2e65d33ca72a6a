"""How long estimates with intervals take for a sweep of many pairs, and how much memory.

The sweep is simulated in memory, without a store: a grid of rungs with a supervisor and a ceiling each, several methods
and seeds, every run with predictions of its own.

    python benchmarks/estimates.py --rungs 26 --methods 3 --seeds 5 --examples 5000
"""

import argparse
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from analysis.estimates import Options, estimate
from analysis.gaps import with_has_gap
from analysis.results import MANIFEST_SCHEMA, PAIRS_SCHEMA, RUNS_SCHEMA, Results, SharedTest

LADDER_SCHEMA: dict[str, Any] = {
    "task": pl.String,
    "rung": pl.Int64,
    "model": pl.String,
    "n_params": pl.Int64,
    "n_matmul": pl.Int64,
    "pretrain_flops": pl.Float64,
    "x": pl.Float64,
    "x_axis": pl.String,
}


def grid(rungs: int, methods: int, seeds: int) -> Iterator[tuple[int, int, int, int]]:
    """(weak, strong, method, seed); one method more than asked for between neighbours, so that grids differ."""
    for weak in range(rungs):
        for strong in range(weak + 1, rungs):
            for method in range(methods + (strong == weak + 1)):
                for seed in range(seeds):
                    yield weak, strong, method, seed


def simulated(
    *, rungs: int, methods: int, seeds: int, examples: int, task: str = "simulated", random_seed: int = 0
) -> Results:
    """Results of a finished sweep. Accuracy grows from .6 to .95 along the ladder; students recover about half."""
    rng = np.random.default_rng(random_seed)
    accuracy = np.linspace(0.6, 0.95, rungs)
    gold = rng.integers(2, size=examples).astype(np.int8)
    difficulty = rng.random(examples, dtype=np.float32)
    column: dict[str, int] = {}
    predictions: list[np.ndarray] = []

    def run(name: str, true_accuracy: float) -> str:
        """A run that is right on easy examples, mostly; added once."""
        if name not in column:
            right = 0.7 * difficulty + 0.3 * rng.random(examples, dtype=np.float32) < true_accuracy
            column[name] = len(predictions)
            predictions.append(np.where(right, gold, 1 - gold).astype(np.int8))
        return name

    rows = []
    for weak, strong, method, seed in grid(rungs, methods, seeds):
        student = accuracy[weak] + (0.4 + 0.1 * method) * (accuracy[strong] - accuracy[weak])
        student_id = run(f"student-{weak}-{strong}-{method}-{seed}", student)
        head = {"task": task, "form": "classify", "settings": "s0", "part": "transfer/0", "stop": "last"}
        pair = {"seed": seed, "weak": f"rung{weak}", "strong": f"rung{strong}", "baseline": "", "oracle": False}
        ids = {"student_id": student_id, "student_view": student_id, "stop_step": 100}
        ids["supervisor_id"] = run(f"supervisor-{weak}-{seed}", accuracy[weak])
        ids["ceiling_id"] = run(f"ceiling-{strong}-{seed}", accuracy[strong])
        rows.append(head | pair | ids | {"method": "naive" if method == 0 else f"method{method}"})
    compute = [1e9 * 2.0**rung for rung in range(rungs)]
    ladder = pl.DataFrame(
        [(task, r, f"rung{r}", 1000 * 2**r, 1000 * 2**r, compute[r], compute[r], "compute") for r in range(rungs)],
        schema=LADDER_SCHEMA,
        orient="row",
    )
    ids = pl.Series([f"{i:08x}" for i in range(examples)])
    return Results(
        storage="memory",
        sweep=None,
        runs=pl.DataFrame(schema=RUNS_SCHEMA),
        pairs=pl.DataFrame([{name: row.get(name) for name in PAIRS_SCHEMA} for row in rows], schema=PAIRS_SCHEMA),
        missing=pl.DataFrame(schema=MANIFEST_SCHEMA),
        tests={task: SharedTest(task, ids, gold, np.stack(predictions, axis=1), column)},
        ladder=ladder,
        versions={},
        problems=(),
        notes=(),
        settings={},
        _store=None,  # type: ignore[arg-type]  # nothing is read
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", type=int, default=26)
    parser.add_argument("--methods", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--draws", type=int, default=1000)
    args = parser.parse_args()
    results = simulated(rungs=args.rungs, methods=args.methods, seeds=args.seeds, examples=args.examples)
    n_pairs, n_runs = (
        results.pairs.select("weak", "strong", "method").n_unique(),
        len(next(iter(results.tests.values())).column),
    )
    before = _peak()
    start = time.perf_counter()
    with_has_gap(results.pairs.drop("has_gap"), results.tests)
    print(f"{n_pairs:,} pairs, {n_runs:,} runs, {args.examples:,} test examples, {args.draws:,} resamples")
    print(f"gaps of single seeds   {time.perf_counter() - start:6.2f} s")
    start = time.perf_counter()
    estimates = estimate(results, Options(draws=args.draws))
    print(f"all estimates          {time.perf_counter() - start:6.2f} s; {estimates}")
    print(f"peak memory            {_peak():,.0f} MB ({before:,.0f} MB before)")


def _peak() -> float:
    """Largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
