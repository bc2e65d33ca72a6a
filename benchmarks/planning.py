"""Planning time: from a spec to a graph of about 100,000 runs, and its state in an empty store.

python benchmarks/planning.py
"""

import tempfile
import time
from pathlib import Path

from sweep.session import Session
from sweep.state import stand


def spec_text(*, tasks: int, seeds: int, rungs: int) -> str:
    """Rungs of growing width; every pair, two methods."""
    shapes = [f"{{name: r{i}, hidden_size: {8 * (i + 1)}, layers: 1, heads: 2, tokens: 100000}}" for i in range(rungs)]
    sources = [f"{{name: t{i}, source: facts, splits: {{split_seed: {i}}}}}" for i in range(tasks)]
    return (
        f"name: planning\nseeds: [{', '.join(map(str, range(seeds)))}]\nmethods: [naive, confidence]\n"
        f"ladder:\n  seed: per_seed\n  rungs: [{', '.join(shapes)}]\ntasks: [{', '.join(sources)}]\n"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "planning.yaml"
        spec.write_text(spec_text(tasks=10, seeds=90, rungs=10))
        for attempt in ("first", "again, with the fingerprints of the data cached"):
            begun = time.perf_counter()
            session = Session.open(str(spec), folder + "/results")
            planned = time.perf_counter()
            critical = max(session.plan.path_work.values())
            stand(session.plan, session.store)
            end = time.perf_counter()
            print(
                f"{attempt}: {len(session.plan.runs):,} runs, {len(session.plan.pairs):,} pairs planned in "
                f"{planned - begun:.1f} s; longest chain ({critical:.1e} FLOPs) and state in {end - planned:.1f} s"
            )


if __name__ == "__main__":
    main()
