"""Seconds and demands of runs: assumed from FLOPs and launches, or measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.example_plans import plan_without_inputs
from sweep.errors import SweepError
from sweep.execution.measured import measurement_of
from sweep.forecast.forecaster import enough, forecaster, numbers_of_nodes
from sweep.forecast.prices import GPUS
from sweep.forecast.simulate import Demand, Machines
from sweep.forecast.timing import (
    FAST,
    SLOW,
    Assumptions,
    demands,
    devices_needed,
    measured_seconds,
    passes,
    seconds_of,
    with_mfu,
)
from sweep.plan import Plan, Run
from sweep.spec import Compute, Sweep

EXAMPLES = Path(__file__).parents[2] / "examples"
A100 = GPUS["a100-80"]
WHOLE = Demand(eighths=8)


@pytest.fixture(scope="module")
def pythia() -> tuple[Sweep, Plan]:
    return plan_without_inputs(EXAMPLES / "pythia.yaml")


@pytest.fixture(scope="module")
def facts() -> tuple[Sweep, Plan]:
    return plan_without_inputs(EXAMPLES / "facts.yaml")


def student(plan: Plan, rung: str) -> Run:
    return next(run for run in plan.runs.values() if run.kind == "transfer" and run.rung == rung)


def test_a_large_model_takes_its_flops_at_the_assumed_utilisation(pythia):
    """On one GPU the whole of 2.8B is bound by arithmetic at neither end by more than launches add."""
    run = student(pythia[1], "pythia-2.8b")
    generous = replace(Assumptions(), launch=(0.0, 0.0), overhead=(0.0, 0.0), loading=(1e30, 1e30))
    for end, mfu in ((FAST, 0.45), (SLOW, 0.30)):
        seconds = seconds_of(run, A100, WHOLE, generous, end)
        # eval_every: 50 adds evaluations to the plan's FLOPs, 5 of 3,836 examples to 2 epochs of 4,431
        assert 1.0 < seconds / (run.work / (312e12 * mfu)) < 1.8


def test_a_small_model_is_bound_by_launches_and_so_falls_below_that(facts):
    run = student(facts[1], "d64")
    steps, forwards = passes(run)
    assert steps == 2 * 3600 / 32
    seconds = seconds_of(run, A100, WHOLE, Assumptions(), FAST)
    assert seconds == pytest.approx(4 * 1e-3 * (steps + forwards / 3) + 0.5, rel=0.01)
    assert run.work / (seconds * 312e12) < 0.001


def test_the_slow_end_is_slower_and_a_share_of_a_device_is_slower_there_only(pythia):
    run = student(pythia[1], "pythia-410m")
    eighth = Demand(eighths=1)
    assert seconds_of(run, A100, eighth, Assumptions(), FAST) == seconds_of(run, A100, WHOLE, Assumptions(), FAST)
    assert seconds_of(run, A100, eighth, Assumptions(), SLOW) > 2 * seconds_of(run, A100, WHOLE, Assumptions(), SLOW)
    assert seconds_of(run, A100, WHOLE, Assumptions(), SLOW) > seconds_of(run, A100, WHOLE, Assumptions(), FAST)


def test_several_devices_share_the_work_and_cost_a_start(pythia):
    run = student(pythia[1], "pythia-2.8b")
    one, two = (seconds_of(run, A100, demand, Assumptions(), SLOW) for demand in (WHOLE, Demand(devices=2)))
    assert two == pytest.approx((one - 3 - 22.2) / 2 / 0.7 + 3 + 22.2 + 27, rel=0.01)  # 22.2 s: 11 GB at 0.5 GB/s


def test_a_given_utilisation_replaces_the_assumed_one(pythia):
    run = student(pythia[1], "pythia-2.8b")
    half = with_mfu(Assumptions(), (0.15, 0.225))
    for end in (FAST, SLOW):
        assert seconds_of(run, A100, WHOLE, half, end) > 1.5 * seconds_of(run, A100, WHOLE, Assumptions(), end)


def test_tables_and_everything_without_gpus_is_computed_on_cpus(facts):
    run = student(facts[1], "d64")
    assert seconds_of(run, None, Demand(), Assumptions(), SLOW) == pytest.approx(run.work / 1e10 + 0.1)


# -- what runs hold ----------------------------------------------------------------------------------------------


def of_memory(run: Run, memory: float) -> Run:
    """The same run, of which nothing is known but its bytes."""
    return Run(run.run_id, run.kind, run.rung, run.seed, run.parents, run.work, memory, model=run.model)


@pytest.mark.parametrize(
    ("gigabytes", "demand"),
    [
        (2, Demand(eighths=1)),
        (14, Demand(eighths=2)),
        (30, Demand(eighths=4)),
        (70, Demand(eighths=8)),
        (100, Demand(devices=2)),
        (200, Demand(devices=4)),
    ],
)
def test_a_run_holds_a_share_of_a_gpu_or_as_many_as_it_needs(pythia, gigabytes, demand):
    run = of_memory(student(pythia[1], "pythia-2.8b"), gigabytes * 1e9)
    assert demands(Compute(), 1, A100)(run) == demand


def test_devices_per_run_of_the_spec_are_asked_for(pythia):
    run = student(pythia[1], "pythia-410m")
    assert demands(Compute(devices_per_run=4), 1, A100)(run).devices == 4


def test_what_no_number_of_devices_holds_is_refused_and_not_priced(pythia):
    """A run is given 64 devices at most."""
    run = student(pythia[1], "pythia-2.8b")
    assert run.needs is not None
    large = replace(run.needs.sizes, n_params=80_000_000_000, n_matmul=79_000_000_000, layers=80, hidden_size=8192)
    run = replace(run, needs=replace(run.needs, sizes=large, trained=80e9), memory=1.5e12)
    assert demands(Compute(), 1, A100)(run).devices in (32, 64)
    for compute, gpu in ((Compute(), GPUS["t4-16"]), (Compute(parallel="replicate"), A100)):
        with pytest.raises(SweepError, match=r"needs about \d\.\d TB on one GPU"):
            demands(compute, 1, gpu)(run)


def test_devices_needed_is_a_power_of_two():
    assert [devices_needed(gigabytes * 1e9, A100) for gigabytes in (70, 77, 150, 200, 400)] == [1, 2, 2, 4, 8]


# -- measured ----------------------------------------------------------------------------------------------------


def test_measured_seconds_hold_for_runs_alike_on_that_device_only(facts):
    plan = facts[1]
    runs = [run for run in plan.runs.values() if run.kind == "transfer" and run.rung == "d64"]
    seconds = dict(zip([run.run_id for run in runs], (2.0, 3.0, 100.0), strict=False))
    found = {i: measurement_of(plan.runs[i], {"seconds": took, "device": "cpu"}) for i, took in seconds.items()}
    measured = measured_seconds(plan, found, None)
    assert measured.keys() == {run.run_id for run in runs}
    assert all(seconds == pytest.approx(3.02) for seconds in measured.values())
    assert measured_seconds(plan, found, A100) == {}


# -- forecasts ---------------------------------------------------------------------------------------------------


def test_what_was_measured_has_no_range(facts):
    spec, plan = facts
    measured = dict.fromkeys(plan.runs, 10.0)
    ask = forecaster(plan, plan.runs, spec.compute, gpu=None, node=Machines(1, 0, 8.0), measured=measured)
    forecast = ask.on(1)
    assert forecast.fast.makespan == forecast.slow.makespan
    assert forecast.busy == (pytest.approx(len(plan.runs) * 10 / 3600),) * 2


def test_more_nodes_are_enough_when_the_critical_path_is_reached(pythia):
    spec, plan = pythia
    ask = forecaster(plan, plan.runs, spec.compute, gpu=A100, node=Machines(1, 8, 96.0))
    forecasts = {n: ask.on(n) for n in numbers_of_nodes(64, ask.fewest_nodes, len(plan.runs))}
    assert list(forecasts) == [1, 2, 4, 8, 16, 64]
    count = enough(forecasts)
    assert forecasts[count].slow.makespan < 1.25 * forecasts[64].slow.makespan
    assert forecasts[64].slow.bound_by == "path"
    assert forecasts[1].slow.bound_by == "work"


def test_a_run_larger_than_a_node_asks_for_more_nodes(pythia):
    spec, plan = pythia
    plan = replace(plan, runs={i: of_memory(run, 250e9) for i, run in plan.runs.items()})
    ask = forecaster(plan, plan.runs, spec.compute, gpu=A100, node=Machines(1, 1, 12.0))
    assert ask.fewest_nodes == 4
    assert min(numbers_of_nodes(4, ask.fewest_nodes, len(plan.runs))) == 4
    assert ask.on(4).slow.makespan > 0


def test_max_parallel_of_the_spec_is_kept(facts):
    _, plan = facts
    one = forecaster(plan, plan.runs, Compute(max_parallel=1), gpu=None, node=Machines(1, 0, 8.0)).on(1)
    assert one.slow.makespan == pytest.approx(one.slow.busy)
