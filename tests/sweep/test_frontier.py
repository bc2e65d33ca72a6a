"""The order of execution, on random graphs."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sweep.execution import progress
from sweep.execution.frontier import Frontier
from sweep.plan import Parent, Plan, Run
from w2s.config import FinetuneSettings


@st.composite
def plans(draw) -> Plan:
    count = draw(st.integers(1, 14))
    runs = {}
    for index in range(count):
        chosen = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        parents = tuple(Parent("base", f"r{p}", "weights") for p in sorted(chosen))
        work = draw(st.floats(1, 100))
        runs[f"r{index}"] = Run(f"r{index}", "pretrain", "rung", 0, parents, work=work, memory=0)
    return Plan(runs=runs, pairs=(), requested=0)


def parents_of(plan: Plan, run_id: str) -> set[str]:
    return {parent.run_id for parent in plan.runs[run_id].parents}


@given(plans(), st.data())
def test_every_run_is_handed_out_once_after_its_parents_and_failures_block_exactly_their_descendants(plan, data):
    frontier = Frontier(plan, set(plan.runs), retries=0)
    started = []
    while not frontier.finished:
        run_id = frontier.pop()
        if run_id is not None:
            started.append(run_id)
            assert parents_of(plan, run_id) <= frontier.done
        if run_id is None or data.draw(st.booleans()):
            ending = data.draw(st.sampled_from(sorted(frontier.running)))
            if data.draw(st.integers(0, 4)):
                frontier.succeed(ending)
            else:
                assert not frontier.fail(ending, "why")
    assert len(started) == len(set(started))
    assert frontier.blocked == plan.descendants(frontier.failed)
    assert frontier.done | set(frontier.failed) | frontier.blocked == set(plan.runs)


@given(plans())
def test_among_ready_runs_the_longest_path_goes_first(plan):
    frontier = Frontier(plan, set(plan.runs))
    ready = {run_id for run_id in plan.runs if not parents_of(plan, run_id)}
    first = frontier.pop()
    assert first is not None
    assert plan.path_work[first] == max(plan.path_work[run_id] for run_id in ready)


@given(plans(), st.data())
def test_parents_outside_of_what_is_to_do_count_as_done(plan, data):
    done = plan.with_ancestors(data.draw(st.sets(st.sampled_from(sorted(plan.runs)))))
    frontier = Frontier(plan, set(plan.runs) - done)
    while (run_id := frontier.pop()) is not None:
        frontier.succeed(run_id)
    assert frontier.done == set(plan.runs) - done


def one_run() -> Plan:
    run = Run("r", "pretrain", "rung", 0, (), work=1, memory=0)
    return Plan(runs={"r": run}, pairs=(), requested=0)


def test_a_failed_run_is_tried_again_as_often_as_allowed():
    frontier = Frontier(one_run(), {"r"}, retries=2)
    assert [frontier.pop() and frontier.fail("r", "why") for _ in range(3)] == [True, True, False]
    assert frontier.pop() is None
    assert frontier.failed == {"r": "why"}


def test_running_out_of_memory_halves_the_micro_batch_down_to_one_whatever_the_retries():
    plan = one_run()
    settings = FinetuneSettings(micro_batch_size=4)
    plan = Plan(runs={"r": replace(plan.runs["r"], settings=settings)}, pairs=(), requested=0)
    frontier = Frontier(plan, {"r"}, retries=0)
    divisors = []
    while frontier.pop():
        divisors.append(frontier.divisors.get("r", 1))
        frontier.fail("r", "out of memory", out_of_memory=True)
    assert divisors == [1, 2, 4]
    assert frontier.failed == {"r": "out of memory"}


def test_what_failed_or_is_blocked_is_not_counted_as_done(monkeypatch):
    runs = {name: Run(name, "pretrain", "rung", 0, (), work=work, memory=0) for name, work in (("a", 30), ("b", 10))}
    runs["c"] = Run("c", "pretrain", "rung", 0, (Parent("base", "b", "weights"),), work=60, memory=0)
    frontier = Frontier(Plan(runs=runs, pairs=(), requested=0), set(runs))
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tally = progress.Tally(frontier)
    assert {frontier.pop(), frontier.pop()} == {"a", "b"}
    now[0] += 10
    frontier.fail("b", "why")
    tally.ended(runs["b"], "failed")
    assert tally.line == "0% of FLOPs done, 1 failed, 1 blocked, 10 s gone"
    frontier.succeed("a")
    tally.ended(runs["a"], "done")
    assert tally.line == "30% of FLOPs done, 1 failed, 1 blocked, 10 s gone"
    assert tally.seconds_left == 0


def test_the_time_left_is_that_of_what_can_still_run(monkeypatch):
    runs = {name: Run(name, "pretrain", "rung", 0, (), work=10, memory=0) for name in "abcd"}
    frontier = Frontier(Plan(runs=runs, pairs=(), requested=0), set(runs))
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tally = progress.Tally(frontier)
    first, second = frontier.pop(), frontier.pop()
    now[0] = 60
    frontier.succeed(str(first))
    tally.ended(runs[str(first)], "done")
    frontier.fail(str(second), "why")
    tally.ended(runs[str(second)], "failed")
    assert tally.line == "25% of FLOPs done, 1 failed, 1 min 00 s gone, about 2 min left"


@given(plans(), st.data())
def test_a_frontier_that_grows_and_gives_up_runs_still_hands_out_every_wanted_run_once_after_its_parents(plan, data):
    ids = list(plan.runs)
    cut = data.draw(st.integers(1, len(ids)))
    small = Plan(runs={i: plan.runs[i] for i in ids[:cut]}, pairs=(), requested=0)
    frontier = Frontier(small, set(small.runs), retries=0)
    started, withdrawn, grown = [], set(), False
    while not (frontier.finished and grown):
        if not grown and (frontier.finished or data.draw(st.booleans())):
            frontier.extend(plan, [i for i in ids if not {i, *plan.with_ancestors([i])} & withdrawn], in_turn=True)
            grown = True
        if data.draw(st.integers(0, 5)) == 0:
            given_up = data.draw(st.sampled_from(ids))
            family = plan.descendants([given_up]) | {given_up}
            if not family & (frontier.running | frontier.done | set(frontier.failed)):
                frontier.withdraw(family)
                withdrawn |= family
        run_id = frontier.pop()
        if run_id is not None:
            started.append(run_id)
            assert run_id not in withdrawn
            assert parents_of(plan, run_id) <= frontier.done
        elif frontier.running:
            ending = data.draw(st.sampled_from(sorted(frontier.running)))
            if data.draw(st.integers(0, 4)):
                frontier.succeed(ending)
            else:
                frontier.fail(ending, "why")
    assert len(started) == len(set(started))
    assert frontier.done | set(frontier.failed) | frontier.blocked == frontier.todo
    assert not frontier.todo & withdrawn
    assert frontier.blocked == plan.descendants(frontier.failed) & frontier.todo


def test_what_is_wanted_in_turn_comes_in_the_order_of_the_plan_after_all_else():
    runs = {
        name: Run(name, "pretrain", "rung", 0, (), work=work, memory=0)
        for name, work in (("base", 1.0), ("small", 2.0), ("large", 90.0))
    }
    plan = Plan(runs=runs, pairs=(), requested=0)
    frontier = Frontier(plan, frozenset())
    frontier.extend(plan, ["large", "small"], in_turn=True)
    frontier.extend(plan, ["base"])
    assert [frontier.pop() for _ in range(4)] == ["base", "small", "large", None]


def test_a_run_that_was_given_up_can_be_wanted_again():
    frontier = Frontier(one_run(), {"r"})
    frontier.withdraw({"r"})
    assert frontier.finished
    assert frontier.pop() is None
    frontier.extend(frontier.plan, {"r"})
    assert (frontier.pop(), frontier.pop()) == ("r", None)
