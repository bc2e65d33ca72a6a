"""How the engine answers to runs that misbehave; the runs compute nothing, Ray and the store are real."""

import polars as pl
import pytest

from sweep.deaths import KILLED
from sweep.engine import run_plan
from sweep.session import Session
from sweep.spec import Compute
from sweep.state import POISONED, State, stand
from tests.end_to_end.drive import Results, w2s

pytestmark = pytest.mark.slow


def test_out_of_memory_halves_the_micro_batch_and_a_dying_process_is_reported(tiny, tmp_path):
    session = Session.open(str(tiny()), str(tmp_path / "results"))
    plan, store = session.plan, session.store
    hungry = next(i for i, run in plan.runs.items() if run.kind == "ground_truth" and run.rung == "d4")
    deadly = next(i for i, run in plan.runs.items() if run.kind == "pretrain" and run.rung == "d16")

    def science(run, store, placement, pulse):  # inside, so that Ray's workers get it by value
        import os
        from types import SimpleNamespace

        import polars as pl

        from w2s.errors import OutOfMemoryError

        if run.run_id == deadly:
            os._exit(1)
        if run.run_id == hungry and placement.micro_batch_divisor < 4:
            raise OutOfMemoryError("out of memory, says the test")
        return SimpleNamespace(
            metrics={"divisor": placement.micro_batch_divisor},
            history=pl.DataFrame(),
            predictions=pl.DataFrame({"example_id": ["a"], "split": ["test"], "step": [1], "p": [0.5]}),
            save_weights=lambda folder: (folder.mkdir(), (folder / "w").write_text("")),
            save_activations=None,
        )

    outcome = run_plan(plan, set(plan.runs), store, Compute(retries=2), science=science)
    assert not outcome.interrupted
    assert set(outcome.failed) == {deadly}
    assert outcome.blocked == plan.descendants([deadly])
    assert outcome.done == set(plan.runs) - {deadly} - outcome.blocked
    assert store.read_json(hungry, "metrics.json")["divisor"] == 4
    assert [failure.kind for failure in store.failures(hungry)] == [
        "OutOfMemoryError"
    ] * 3  # the machine to itself, then half the micro-batch, twice
    standings = stand(plan, store, verify=True)
    assert standings[deadly].state == State.GIVEN_UP
    assert standings[deadly].reason == f"{KILLED} (3 times)"
    assert [failure.kind for failure in store.failures(deadly)] == ["WorkerDied", "WorkerDied", POISONED]
    assert "worker process has died" in store.failures(deadly)[0].detail  # Ray's own words
    assert {i for i, s in standings.items() if s.state == State.DONE} == outcome.done


def test_a_run_on_two_devices_equals_the_run_on_one(undisturbed, tiny, tmp_path):
    one, _ = undisturbed
    spec = tiny({"seeds: [0]": "seeds: [0]\ncompute: {devices_per_run: 2}"})
    run_id = next(i for i, run in one.session.plan.runs.items() if run.kind == "ground_truth" and run.rung == "d8")
    w2s("run", spec, "--only", run_id, "--storage", tmp_path / "results", cwd=tmp_path)
    split = Results(spec, tmp_path / "results")
    keys = ["example_id", "split", "step"]
    both = one.predictions()[run_id].join(split.predictions()[run_id], on=keys, validate="1:1")
    assert both.height == one.predictions()[run_id].height
    # another order of summation over the batch, nothing else
    assert both.select((pl.col("p") - pl.col("p_right")).abs().max()).item() < 1e-4
    assert split.store.read_json(run_id, "run.json")["run_id"] == run_id
