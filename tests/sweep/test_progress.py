"""What the live table counts, on random executions."""

import contextlib
import io
import itertools
import os
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sweep.errors import StorageError
from sweep.execution import progress
from sweep.execution.frontier import Frontier
from sweep.execution.progress import LiveProgress, PlainProgress
from sweep.plan import KINDS, Plan, Run
from sweep.storage.records import Heartbeat
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


def one_large_run() -> tuple[Run, Run, Frontier]:
    small = Run("small", "pretrain", "d4", 0, (), work=1.0, memory=0)
    large = Run("large", "pretrain", "d64", 0, (), work=99.0, memory=0)
    return (
        small,
        large,
        Frontier(Plan(runs={"small": small, "large": large}, pairs=(), requested=0), {"small", "large"}),
    )


def beat_at(fraction: float, begun: float = 0.0) -> Heartbeat:
    return Heartbeat("a", "host", 1, 0.0, fraction, 0.0, begun)


def test_what_running_runs_have_done_counts_and_the_time_left_by_what_was_done_here(monkeypatch):
    small, large, frontier = one_large_run()
    now, asked = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tally = progress.Tally(frontier, lambda run_id: asked.append(run_id) or beat_at(0.86, begun=0.36))
    tally.started(small)
    tally.ended(small, "done")
    tally.started(large)
    assert tally.fraction == pytest.approx(0.01)
    now[0] = 100.0
    tally.look()
    assert asked == ["large"]
    assert tally.fraction == pytest.approx(0.01 + 0.99 * 0.86)
    # half of the large run and the small one in 100 s; 0.14 of the large one is left
    assert tally.seconds_left == pytest.approx(100 * 0.99 * 0.14 / (0.01 + 0.99 * 0.5))
    assert tally.line.startswith("86% of FLOPs done, 1 min 40 s gone, about 27 s left")
    tally.ended(large, "retry")
    assert tally.fraction == pytest.approx(0.01)
    tally.started(large)
    assert tally.fraction == pytest.approx(0.01)  # until it gives a sign of life itself


def test_a_storage_that_does_not_answer_leaves_the_progress_as_it_was():
    _, large, frontier = one_large_run()

    def fails(run_id: str) -> Heartbeat:
        raise StorageError("storage 's3://b' does not answer")

    tally = progress.Tally(frontier, fails)
    tally.started(large)
    tally.look()
    assert tally.fraction == 0.0


def test_while_nothing_ends_there_is_a_line_a_minute_without_a_terminal(monkeypatch, capsys):
    _, large, frontier = one_large_run()
    now, done = [0.0], [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = PlainProgress(frontier, lambda run_id: beat_at(done[0]))
    shown.started(large)
    lines = []
    for second in range(0, 271, 15):
        now[0], done[0] = float(second), second / 600
        shown.tick()
        lines += [(second, line) for line in capsys.readouterr().out.splitlines()]
    times = [second for second, _ in lines]
    assert max(b - a for a, b in itertools.pairwise(times)) <= 60
    assert len(times) <= 8
    assert lines[-1][1] == "pretrain 0/2  (45% of FLOPs done, 4 min 30 s gone, about 6 min left)"


@pytest.mark.parametrize("terminal", [False, True], ids=["plain", "live"])
def test_runs_are_looked_at_from_a_thread_while_nothing_ends(monkeypatch, terminal):
    _, large, frontier = one_large_run()
    looked = threading.Event()
    monkeypatch.setattr(progress, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(progress, "PLAIN_AT_LEAST_EVERY_SECONDS", 0.01)

    def beat_of(run_id: str) -> Heartbeat:
        looked.set()
        return beat_at(0.5)

    shown = (
        LiveProgress(frontier, Console(file=io.StringIO()), beat_of) if terminal else PlainProgress(frontier, beat_of)
    )
    with shown:
        shown.started(large)
        assert looked.wait(60)


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
