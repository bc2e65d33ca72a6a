"""The simulated schedule on random graphs: what any schedule must satisfy, and what this one promises."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.errors import SweepError
from sweep.plan import Parent, Plan, Run
from sweep.simulate import EIGHTHS, Demand, Machines, Schedule, simulate

ROUNDING = 1e-9  # sums of a few dozen floats of ordinary size


def plan_of(parents: list[set[int]], work: list[float]) -> Plan:
    runs = {}
    for index, (above, amount) in enumerate(zip(parents, work, strict=True)):
        links = tuple(Parent("base", f"r{p}", "weights") for p in sorted(above))
        runs[f"r{index}"] = Run(f"r{index}", "pretrain", "rung", 0, links, work=amount, memory=0)
    return Plan(runs=runs, pairs=(), requested=0)


@st.composite
def plans(draw, most: int = 14) -> Plan:
    count = draw(st.integers(1, most))
    parents = [draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set() for index in range(count)]
    return plan_of(parents, draw(st.lists(st.floats(0.5, 20), min_size=count, max_size=count)))


def seconds_of(plan: Plan) -> dict[str, float]:
    return {run_id: run.work for run_id, run in plan.runs.items()}


MACHINES = st.builds(Machines, nodes=st.integers(1, 3), devices=st.integers(1, 4), cpus=st.integers(4, 12).map(float))


@st.composite
def cases(draw) -> tuple[Plan, Machines, dict[str, Demand]]:
    """A plan, machines that can hold each of its runs, and what each holds."""
    plan, machines = draw(plans()), draw(MACHINES)
    total = machines.nodes * machines.devices
    kinds = st.one_of(
        st.builds(Demand, eighths=st.sampled_from([1, 2, 4, 8]), cpus=st.sampled_from([0.5, 1.0, 2.0])),
        st.builds(Demand, devices=st.integers(1, total)),
        st.builds(Demand, cpus=st.sampled_from([1.0, 2.0, 4.0])),
    )
    return plan, machines, {run_id: draw(kinds) for run_id in plan.runs}


def run(plan: Plan, machines: Machines, demand: dict[str, Demand], **options) -> Schedule:
    seconds = seconds_of(plan)
    return simulate(plan, plan.runs, seconds=seconds, demand=lambda r: demand[r.run_id], machines=machines, **options)


@settings(max_examples=60, deadline=None)  # a busy machine is no failure
@given(cases(), st.integers(1, 4))
def test_every_run_is_executed_once_after_its_parents(case, pending):
    plan, machines, demand = case
    schedule = run(plan, machines, demand, pending=pending)
    assert schedule.starts.keys() == schedule.ends.keys() == plan.runs.keys()
    for run_id, node in plan.runs.items():
        assert schedule.ends[run_id] == pytest.approx(schedule.starts[run_id] + node.work)
        assert all(schedule.ends[p.run_id] <= schedule.starts[run_id] for p in node.parents)


@settings(max_examples=60, deadline=None)  # a busy machine is no failure
@given(cases(), st.integers(1, 4))
def test_no_more_is_in_use_than_there_is(case, pending):
    plan, machines, demand = case
    schedule = run(plan, machines, demand, pending=pending)
    for moment in schedule.starts.values():
        now = [demand[i] for i in plan.runs if schedule.starts[i] <= moment < schedule.ends[i]]
        eighths = sum(d.devices * EIGHTHS or d.eighths for d in now)
        assert eighths <= machines.nodes * machines.devices * EIGHTHS
        assert sum(d.cpus * max(1, d.devices) for d in now) <= machines.nodes * machines.cpus
        # Whole devices and shares over a half cannot lie on one device.
        assert sum(d.devices or d.eighths > EIGHTHS // 2 for d in now) <= machines.nodes * machines.devices


@settings(max_examples=60, deadline=None)  # a busy machine is no failure
@given(cases(), st.integers(1, 4))
def test_no_schedule_beats_the_bounds(case, pending):
    plan, machines, demand = case
    schedule = run(plan, machines, demand, pending=pending)
    assert schedule.makespan >= schedule.bounds.best - ROUNDING
    assert schedule.bounds.best >= schedule.bounds.classic
    assert 0 < schedule.utilisation <= 1 + ROUNDING or not any(d.devices or d.eighths for d in demand.values())


@settings(max_examples=60, deadline=None)  # a busy machine is no failure
@given(cases())
def test_the_chain_is_a_path_of_the_graph_as_long_as_the_bound(case):
    plan, machines, demand = case
    schedule = run(plan, machines, demand)
    for above, below in itertools.pairwise(schedule.chain):
        assert above in {p.run_id for p in plan.runs[below].parents}
    assert sum(plan.runs[i].work for i in schedule.chain) == pytest.approx(schedule.bounds.path)
    assert schedule.bounds.path == pytest.approx(max(plan.path_work.values()))


@settings(max_examples=60, deadline=None)  # a busy machine is no failure
@given(cases())
def test_the_timeline_adds_up_to_the_busy_time(case):
    plan, machines, demand = case
    schedule = run(plan, machines, demand)
    tenth = schedule.makespan / 10 * machines.capacity
    assert sum(share * tenth for share in schedule.timeline) == pytest.approx(schedule.busy, abs=ROUNDING)


@settings(max_examples=60, deadline=None)  # a busy machine is no failure
@given(plans(), MACHINES)
def test_the_longest_path_of_those_ready_starts_first_but_for_one_that_is_handed_out_ahead(plan, machines):
    """When a run starts, Tune takes the next one, which waits for room; what becomes ready later comes after it."""
    schedule = run(plan, machines, dict.fromkeys(plan.runs, Demand(eighths=8)))
    ready = {i: max((schedule.ends[p.run_id] for p in r.parents), default=0.0) for i, r in plan.runs.items()}
    for before, after in itertools.pairwise(schedule.starts):  # in the order of their starts
        handed_out = schedule.starts[before]
        for other in plan.runs:
            if ready[other] <= handed_out and plan.path_work[other] > plan.path_work[after]:
                assert schedule.starts[other] <= schedule.starts[after]


def shortest_possible(plan: Plan, devices: int) -> float:
    """The optimum. Some order in which each run begins as early as it can gives it: that of an optimal schedule."""
    best = float("inf")
    for order in itertools.permutations(plan.runs):
        free, ends = [0.0] * devices, {}
        for run_id in order:
            parents = [p.run_id for p in plan.runs[run_id].parents]
            if any(p not in ends for p in parents):
                break
            begin = max([min(free), *(ends[p] for p in parents)])
            free[free.index(min(free))] = ends[run_id] = begin + plan.runs[run_id].work
        else:
            best = min(best, max(free))
    return best


@settings(max_examples=60, deadline=None)  # a busy machine is no failure
@given(plans(most=6), st.integers(1, 3))
def test_whole_devices_are_scheduled_within_grahams_guarantee_of_the_optimum(plan, devices):
    """List scheduling takes at most 2 - 1/m times the optimum (Graham 1969), and the bounds are none above it."""
    schedule = run(plan, Machines(1, devices, 100.0), dict.fromkeys(plan.runs, Demand(eighths=8)))
    optimum = shortest_possible(plan, devices)
    assert schedule.makespan <= (2 - 1 / devices) * optimum + ROUNDING
    assert schedule.bounds.best <= optimum + ROUNDING


@settings(max_examples=60, deadline=None)  # a busy machine is no failure
@given(plans(), MACHINES)
def test_only_what_is_to_do_takes_time(plan, machines):
    todo = set(itertools.islice(plan.runs, len(plan.runs) // 2, None))  # parents in the first half count as done
    schedule = simulate(plan, todo, seconds=seconds_of(plan), demand=lambda r: Demand(eighths=8), machines=machines)
    assert schedule.starts.keys() == todo


def test_a_long_chain_goes_first_even_where_its_work_comes_late():
    plan = plan_of([set(), set(), set(), {2}], [4, 4, 1, 8])
    schedule = run(plan, Machines(1, 1, 8.0), dict.fromkeys(plan.runs, Demand(eighths=8)))
    assert list(schedule.starts) == ["r2", "r0", "r3", "r1"]  # r0 was waiting for room when r3 became ready


def test_costs_replace_the_order_of_the_plan():
    plan = plan_of([set(), set()], [4, 1])
    schedule = run(plan, Machines(1, 1, 8.0), dict.fromkeys(plan.runs, Demand(eighths=8)), costs={"r0": 1, "r1": 2})
    assert schedule.starts == {"r1": 0, "r0": 1}


def test_shares_are_packed_onto_the_device_with_the_least_left():
    plan = plan_of([set()] * 5, [9, 8, 7, 6, 5])
    demand = dict(zip(plan.runs, map(Demand, [4, 2, 2, 8, 1]), strict=True))
    schedule = run(plan, Machines(1, 2, 16.0), demand)
    assert {i: schedule.starts[i] for i in plan.runs} == {"r0": 0, "r1": 0, "r2": 0, "r3": 0, "r4": 6}


def test_room_is_drained_for_a_run_on_several_devices():
    """It is next by its path, so nothing small starts before it although a device is free."""
    plan = plan_of([set(), set(), set(), set()], [5, 3, 20, 1])
    demand = {"r0": Demand(8), "r1": Demand(8), "r2": Demand(devices=2), "r3": Demand(8)}
    costs = {"r0": 30, "r1": 29, "r2": 28, "r3": 1}
    for pending in (1, 4):
        schedule = run(plan, Machines(1, 2, 16.0), demand, pending=pending, costs=costs)
        assert schedule.starts == {"r0": 0, "r1": 0, "r2": 5, "r3": 25}


def test_cpus_bound_how_many_runs_share_the_devices_of_a_machine():
    plan = plan_of([set()] * 8, [1] * 8)
    schedule = run(plan, Machines(1, 1, 4.0), dict.fromkeys(plan.runs, Demand(eighths=1)))
    assert schedule.makespan == 2
    assert schedule.bounds.area == 2


def test_where_several_may_wait_only_those_pass_that_take_no_room_away():
    plan = plan_of([set(), set(), set()], [5, 4, 1])
    for third, start in [(Demand(2), 9), (Demand(cpus=1), 0)]:
        demand = {"r0": Demand(4), "r1": Demand(8), "r2": third}
        assert run(plan, Machines(1, 1, 8.0), demand).starts["r2"] == (9 if third.eighths else 5)
        assert run(plan, Machines(1, 1, 8.0), demand, pending=2).starts["r2"] == start


def test_max_parallel_and_starts_of_processes_count():
    plan = plan_of([set()] * 4, [1] * 4)
    options = {"parallel": 2, "start_seconds": 10.0}
    schedule = run(plan, Machines(1, 4, 8.0), dict.fromkeys(plan.runs, Demand(eighths=8)), **options)
    assert sorted(schedule.ends.values()) == [11, 11, 12, 12]  # two processes start, and are used again


def test_nodes_without_gpus_count_cpus():
    plan = plan_of([set()] * 4, [1] * 4)
    schedule = run(plan, Machines(2, 0, 1.0), dict.fromkeys(plan.runs, Demand()))
    assert (schedule.makespan, schedule.utilisation, schedule.bounds.area) == (2, 1.0, 2)


def test_a_run_that_the_cluster_cannot_hold_is_named():
    plan = plan_of([set()], [1])
    with pytest.raises(SweepError, match=r"pretrain rung seed 0: asks for 9 devices .* 2 x \(4 devices, 8 CPUs\)"):
        run(plan, Machines(2, 4, 8.0), {"r0": Demand(devices=9)})


@pytest.mark.parametrize(
    ("parents", "work", "devices", "bound_by"),
    [
        ([set(), {0}], [5, 5], 4, "path"),
        ([set()] * 20, [1] * 20, 4, "work"),
        ([set()] * 5, [1] * 5, 4, "tail"),  # one more than there are devices
        ([set(), {0}, {0}, {0}], [4, 2, 2, 2], 2, "tail"),  # all wait for the first, then three on two
    ],
)
def test_what_bounds_a_schedule_is_named(parents, work, devices, bound_by):
    plan = plan_of(parents, work)
    schedule = run(plan, Machines(1, devices, 8.0), dict.fromkeys(plan.runs, Demand(eighths=8)))
    assert schedule.bound_by == bound_by
    assert schedule.makespan == schedule.bounds.best


def test_nothing_to_do_takes_no_time():
    plan = plan_of([set()], [1])
    schedule = simulate(plan, (), seconds={}, demand=lambda r: Demand(8), machines=Machines(1, 1, 1.0))
    assert (schedule.makespan, schedule.busy, schedule.chain) == (0, 0, ())
