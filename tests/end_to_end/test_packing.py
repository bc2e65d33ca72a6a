"""Placement on real Ray: several runs on a GPU, runs on several devices among small ones, the ladder after running out
of memory. The runs compute nothing, and the GPUs are numbers that Ray was told (`num_gpus`); all else is real."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sweep.cluster import prepare_environment
from sweep.engine import Outcome, run_plan
from sweep.plan import Plan, Run
from sweep.session import Session
from sweep.spec import Compute

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 120.0
"""How long a run waits for another one that should be there beside it."""


@contextmanager
def ray_with(*nodes: dict[str, Any]) -> Iterator[str]:
    """A Ray cluster of such nodes, all of them on this machine; its address."""
    prepare_environment()
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for node in nodes:
            cluster.add_node(include_dashboard=False, object_store_memory=100 * 2**20, **node)
        yield str(cluster.address)
    finally:
        cluster.shutdown()


@dataclass(frozen=True)
class Span:
    """When a run held its resources, and what it was given."""

    run_id: str
    begin: float
    end: float
    devices: int
    divisor: int
    visible: str


def spans_in(folder: Path) -> list[Span]:
    return [Span(**json.loads(path.read_text())) for path in sorted((folder / "ended").iterdir())]


def recording(folder: Path, *, memory: dict[str, float] | None = None, meet: int = 1):  # type: ignore[no-untyped-def]
    """A science that notes when it ran, and where.

    Args:
        memory: What share of a GPU a run needs; half of it does with half the micro-batch.
        meet: No run ends before so many have begun.
    """
    folder.mkdir()
    (folder / "begun").mkdir()
    (folder / "ended").mkdir()
    need, where, patience = memory or {}, str(folder), PATIENCE_SECONDS

    def science(run, store, placement, pulse):  # inside, so that Ray's workers get it by value
        import json
        import os
        import time
        from pathlib import Path
        from types import SimpleNamespace

        import polars as pl
        import ray

        from w2s.errors import OutOfMemoryError

        share = 0.0
        if placement.world == 1:
            group = ray.util.get_current_placement_group()
            share = group.bundle_specs[0].get("GPU", group.bundle_specs[0].get("CPU", 0.0)) if group else 0.0
        begin = time.time()
        if need.get(run.run_id, 0.0) > share * placement.micro_batch_divisor:
            raise OutOfMemoryError(f"out of memory in a share of {share:g}, says the test")
        Path(where, "begun", f"{run.run_id}-{placement.rank}").touch()
        while len(os.listdir(Path(where, "begun"))) < meet and time.time() < begin + patience:
            time.sleep(0.01)
        if placement.rank == 0:
            note = {
                "run_id": run.run_id,
                "begin": begin,
                "end": time.time(),
                "devices": placement.world,
                "divisor": placement.micro_batch_divisor,
                "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            }
            Path(where, "ended", f"{run.run_id}.json").write_text(json.dumps(note))
        return SimpleNamespace(
            metrics={"micro_batch_shrunk": placement.micro_batch_divisor > 1, "share": share},
            history=pl.DataFrame(),
            predictions=pl.DataFrame({"example_id": ["a"], "split": ["test"], "step": [1], "p": [0.5]}),
            save_weights=lambda folder: (folder.mkdir(), (folder / "w").write_text("")),
            save_activations=None,
        )

    return science


def most_at_once(spans: list[Span]) -> int:
    return max(sum(other.begin <= span.begin < other.end for other in spans) for span in spans)


def some_of(runs: Iterable[Run]) -> Plan:
    """A plan of these runs alone."""
    kept = {run.run_id: run for run in runs}
    return Plan(runs=kept, pairs=(), requested=len(kept))


def test_small_runs_share_a_gpu_and_no_more_than_fit_are_on_it(tiny, tmp_path):
    session = Session.open(str(tiny({"seeds: [0]": "seeds: [0, 1]"})), str(tmp_path / "results"))
    plan = some_of([run for run in session.plan.runs.values() if run.kind == "pretrain"])
    science = recording(tmp_path / "spans", meet=2)
    with ray_with({"num_cpus": 4, "num_gpus": 1}) as address:
        outcome = run_plan(
            plan, set(plan.runs), session.store, Compute(gpus_per_run=0.5), address=address, science=science
        )
    spans = spans_in(tmp_path / "spans")
    assert outcome.done == set(plan.runs)
    assert {span.visible for span in spans} == {"0"}
    assert most_at_once(spans) == 2


def test_out_of_memory_gets_a_larger_share_first_then_a_smaller_micro_batch_and_the_next_execution_knows(
    tiny, tmp_path
):
    session = Session.open(str(tiny()), str(tmp_path / "results"))
    store, whole = session.store, session.plan
    hungry = next(i for i, run in whole.runs.items() if run.kind == "ground_truth" and run.rung == "d4")
    chosen = whole.with_ancestors([hungry])
    plan = some_of([run for run in whole.runs.values() if run.run_id in chosen])
    science = recording(tmp_path / "spans", memory={hungry: 2.0})  # a whole GPU and half the micro-batch

    def execute() -> Outcome:
        todo = {i for i in plan.runs if not store.done(i)}
        return run_plan(plan, todo, store, Compute(gpus_per_run=0.5, retries=0), address=address, science=science)

    with ray_with({"num_cpus": 2, "num_gpus": 1}) as address:
        assert execute().done == set(plan.runs)
        metrics = store.read_json(hungry, "metrics.json")
        assert (metrics["share"], metrics["micro_batch_shrunk"]) == (1.0, True)
        assert [failure.kind for failure in store.failures(hungry)] == ["OutOfMemoryError"] * 2

        store.quarantine(hungry)  # as if it had been lost: nothing of the ladder is climbed again
        assert execute().done == {hungry}
    assert len(store.failures(hungry)) == 2


def test_a_run_on_several_devices_is_not_starved_by_small_ones(tiny, tmp_path):
    seeds = ", ".join(map(str, range(6)))
    session = Session.open(str(tiny({"seeds: [0]": f"seeds: [{seeds}]"})), str(tmp_path / "results"))
    runs = session.plan.runs.values()
    large = next(r for r in runs if r.kind == "ground_truth" and r.rung == "d4" and r.seed == 0)
    small = [run for run in runs if run.kind == "pretrain"]
    plan = some_of([*small, replace(large, work=1e18)])  # the critical path is its parent's and its own
    with ray_with({"num_cpus": 2, "resources": {"train_slot": 2}}) as address:
        compute = Compute(devices_per_run=2)
        outcome = run_plan(
            plan, set(plan.runs), session.store, compute, address=address, science=recording(tmp_path / "spans")
        )
    assert outcome.done == set(plan.runs)
    spans = {span.run_id: span for span in spans_in(tmp_path / "spans")}
    mine = spans[large.run_id]
    assert mine.devices == 2
    # A group of workers takes seconds to start, in which all the small ones would be over, one after the other.
    later = [span for span in spans.values() if span.begin > mine.begin]
    assert len(later) >= len(small) / 2
