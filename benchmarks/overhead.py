"""Engine overhead per run: Ray Tune, Ray Train, the store and the scheduler around runs that compute nothing.

    python benchmarks/overhead.py [--runs 1000]

Prints the seconds between the first and the last run's end, per run, with as many workers as there are CPUs, and the
whole wall time with Ray's start. Nothing is trained; every run writes a complete, checksummed store entry.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl

from sweep.engine import run_plan
from sweep.plan import Plan
from sweep.session import Session
from sweep.spec import Compute
from sweep.store import Store

SPEC = """
name: overhead
seeds: [{seeds}]
ladder:
  rungs:
    - {{name: a, hidden_size: 4, layers: 1, heads: 2, tokens: 1000}}
    - {{name: b, hidden_size: 8, layers: 1, heads: 2, tokens: 1000}}
tasks: [{{name: facts, source: facts, splits: {{supervise: 3600, transfer: 3600, validation: 800, test: 4800}}}}]
"""


def no_science(run, store, placement, pulse):  # type: ignore[no-untyped-def]
    """What a run leaves, without computing it: 9,200 predictions."""
    history = pl.DataFrame({"step": [1], "train_loss": [0.0]})
    predictions = pl.DataFrame({"step": [1] * 9200, "p": [0.5] * 9200})
    return SimpleNamespace(
        metrics={},
        history=history,
        predictions=predictions,
        save_weights=lambda path: path.mkdir(),
        save_activations=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    print(measure(parser.parse_args().runs))


def measure(runs: int) -> str:
    """Execute so many runs on a Ray of our own; returns what it took, in words."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "overhead.yaml"
        spec.write_text(SPEC.format(seeds=", ".join(map(str, range(runs)))))
        session = Session.open(str(spec), folder + "/results")
        plan = first_runs(session.plan, runs)
        begun = time.perf_counter()
        outcome = run_plan(plan, set(plan.runs), session.store, Compute(), science=no_science)
        wall = time.perf_counter() - begun
        assert len(outcome.done) == len(plan.runs), outcome
        ends = finish_times(session.store)
    steady = ends[len(ends) // 10 :]  # worker processes are up by then
    per_run = (steady[-1] - steady[0]) / (len(steady) - 1)
    return f"{len(plan.runs):,} runs, {os.cpu_count()} CPUs: {per_run:.4f} s per run once warm, {wall:.1f} s in all"


def first_runs(plan: Plan, count: int) -> Plan:
    """The first runs of a plan, in an order in which parents come first."""
    kept = dict(list(plan.runs.items())[:count])
    return Plan(runs=kept, pairs=(), requested=count)


def finish_times(store: Store) -> list[float]:
    return sorted(Path(str(mark)).stat().st_mtime for mark in store.fs.glob(store.path("runs", "*", "DONE")))


if __name__ == "__main__":
    main()
