"""What the live table counts, on random executions."""

import contextlib
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sweep.execution import progress
from sweep.execution.frontier import Frontier
from sweep.execution.progress import LiveProgress, PlainProgress
from sweep.plan import KINDS, Plan, Run
from tests.sweep.test_frontier import plans


def counted_anew(frontier: Frontier) -> list[tuple[str, dict[str, int]]]:
    """The same, slowly."""
    rows = []
    for kind in KINDS:
        ids = {i for i in frontier.todo if frontier.plan.runs[i].kind == kind}
        groups = {"done": frontier.done, "running": frontier.running, "failed": set(frontier.failed)}
        states = {name: len(ids & group) for name, group in (groups | {"blocked": frontier.blocked}).items()}
        if ids:
            rows.append((kind, {**states, "waiting": len(ids) - sum(states.values())}))
    return rows


@pytest.mark.parametrize("terminal", [False, True], ids=["plain", "live"])
def test_what_nobody_can_be_told_any_more_raises_nothing(monkeypatch, terminal):
    """Within Tune it would count as a failure of the run."""
    run = Run("a", "pretrain", "a", 0, (), work=1.0, memory=0.0)
    frontier = Frontier(Plan(runs={"a": run}, pairs=(), requested=1), {"a"})
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as closed:
        os.close(reading)  # as after `w2s run ... | head`
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(BrokenPipeError):
            print("it is closed", file=closed, flush=True)
        shown = LiveProgress(frontier, Console(file=closed)) if terminal else PlainProgress(frontier)
        shown.started(run)
        shown.ended(run, "failed", "so it goes")
        shown.say("anything")
        with contextlib.suppress(BrokenPipeError):
            closed.close()


@given(plans(), st.data())
def test_the_tally_agrees_with_a_count_of_everything_whatever_happens(plan, data):
    ids = list(plan.runs)
    cut = data.draw(st.integers(1, len(ids)))
    frontier = Frontier(
        Plan(runs={i: plan.runs[i] for i in ids[:cut]}, pairs=(), requested=0), set(ids[:cut]), retries=1
    )
    tally = progress.Tally(frontier)
    grown = False
    while not (frontier.finished and grown):
        if not grown and (frontier.finished or data.draw(st.integers(0, 5)) == 0):
            frontier.extend(plan, ids)
            grown = True
        run_id = frontier.pop() if not frontier.running or data.draw(st.booleans()) else None
        if run_id is not None:
            tally.started(plan.runs[run_id])
        elif frontier.running:
            ending = data.draw(st.sampled_from(sorted(frontier.running)))
            how = data.draw(st.sampled_from(["done", "done", "failed", "interrupted"]))
            if how == "done":
                frontier.succeed(ending)
            elif how == "interrupted":
                frontier.put_back(ending)
            elif frontier.fail(ending, "why"):
                how = "retry"
            tally.ended(plan.runs[ending], how)
        assert tally.counts() == counted_anew(frontier)
        done = sum(plan.runs[i].work for i in frontier.done) / sum(plan.runs[i].work for i in frontier.todo)
        assert abs(tally.fraction - done) < 1e-9


def test_a_run_that_takes_far_longer_than_its_like_is_named(monkeypatch):
    runs = {name: Run(name, "pretrain", "rung", 0, (), work=1, memory=0) for name in "abcd"}
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tally = progress.Tally(Frontier(Plan(runs=runs, pairs=(), requested=0), set(runs)))
    for run in runs.values():
        tally.started(run)
    now[0] = 20.0
    for name in "abc":
        tally.ended(runs[name], "done")
    now[0] = 40.0
    assert tally.stragglers() == []  # twice as long is not yet more than twice
    now[0] = 41.0
    assert tally.stragglers() == ["pretrain rung seed 0 takes 41 s so far, others like it 20 s"]
    tally.ended(runs["d"], "done")
    assert tally.stragglers() == []
