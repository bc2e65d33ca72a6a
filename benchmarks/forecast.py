"""The forecast against reality: a small sweep is executed here, another one forecast from it and then executed.

    python benchmarks/forecast.py [--seeds 2]

The first sweep (seed 0 of a cut-down facts.yaml) gives the seconds per FLOP of every kind of run and rung, and what its
wall time has beyond its simulation, which is the start of Ray and of its processes. From these alone the wall time of
the second (other seeds, nothing shared) is simulated, on as many CPUs as there are here.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from overhead import finish_times

from sweep.engine import run_plan
from sweep.forecast_text import measurements_of
from sweep.session import Session
from sweep.simulate import Machines, Schedule, simulate
from sweep.timing import ENGINE_SECONDS, demands, measured_seconds

SPEC = """
name: forecast
seeds: [{seeds}]
ladder:
  seed: per_seed
  pretrain:
    corpus: {{kind: facts}}
  rungs:
    - {{name: d6, hidden_size: 6, layers: 1, heads: 1, tokens: 60_000}}
    - {{name: d16, hidden_size: 16, layers: 1, heads: 4, tokens: 120_000}}
    - {{name: d32, hidden_size: 32, layers: 2, heads: 4, tokens: 120_000}}
tasks: [{{name: facts, source: facts, splits: {{supervise: 900, transfer: 900, validation: 200, test: 1200}}}}]
methods: [naive, confidence]
finetune:
  learning_rate: {{value: 3.0e-4, reference_width: 32, exponent: -0.5}}
  batch_size: 32
  max_length: 8
  eval_every: 75
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="of the sweep that is forecast")
    seeds = parser.parse_args().seeds
    cpus = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        first = session(folder, "first", [0])
        _, wall = execute(first)
        known = measurements_of(first.plan, first.store)
        measured = measured_seconds(first.plan, known, None)
        modelled = forecast(first, measured, cpus, 0.0)
        start = max(0.0, wall - modelled.makespan)
        print(f"first sweep: {len(first.plan.runs)} runs on {cpus} CPUs in {wall:.1f} s")
        print(f"  simulated from its own measurements: {modelled.makespan:.1f} s; the rest, the start, {start:.1f} s")
        second = session(folder, "second", list(range(1, seeds + 1)))
        rates = alike(first, measured)
        seconds = {i: rates[key(run)] * run.work for i, run in second.plan.runs.items()}
        predicted = start + forecast(second, seconds, cpus, 0.0).makespan
        second_begun, actual = execute(second)
        begins = first_begin(second) - second_begun
        own = {i: second.store.read_json(i, "metrics.json")["seconds"] + ENGINE_SECONDS for i in second.plan.runs}
        replayed = begins + forecast(second, own, cpus, 0.0).makespan
        print(f"second sweep: {len(second.plan.runs)} runs: predicted {predicted:.1f} s, took {actual:.1f} s")
        print(f"  predicted / actual {predicted / actual:.2f}; its first run began after {begins:.1f} s")
        print(f"  simulated from what each of its runs took: {replayed:.1f} s, {replayed / actual:.2f}")


def session(folder: str, name: str, seeds: list[int]) -> Session:
    file = Path(folder) / f"{name}.yaml"
    file.write_text(SPEC.format(seeds=", ".join(map(str, seeds))))
    return Session.open(str(file), f"{folder}/{name}")


def execute(session: Session) -> tuple[float, float]:
    """When it began, and seconds until all is done."""
    begun = time.time()
    outcome = run_plan(session.plan, set(session.plan.runs), session.store, session.spec.compute)
    assert len(outcome.done) == len(session.plan.runs), outcome
    return begun, max(finish_times(session.store)) - begun


def first_begin(session: Session) -> float:
    """When the first run began: its end, less what it took."""
    path, store = session.store.path, session.store
    ends = {i: Path(path("runs", i, "DONE")).stat().st_mtime for i in session.plan.runs}
    return min(end - store.read_json(i, "metrics.json")["seconds"] for i, end in ends.items())


def forecast(session: Session, seconds: Mapping[str, float], cpus: int, start: float) -> Schedule:
    return simulate(
        session.plan,
        session.plan.runs,
        seconds=seconds,
        demand=demands(session.spec.compute, 1, None),
        machines=Machines(1, 0, float(cpus)),
        start_seconds=start,
    )


def key(run) -> tuple:  # type: ignore[no-untyped-def]
    return run.kind, run.rung


def alike(session: Session, seconds: Mapping[str, float]) -> dict[tuple, float]:
    """Seconds per FLOP by kind and rung."""
    return {key(run): seconds[i] / run.work for i, run in session.plan.runs.items()}


if __name__ == "__main__":
    main()
