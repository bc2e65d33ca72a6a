"""The order of execution in simulation, against what no schedule can beat; what simulating and the engine cost.

    python benchmarks/scheduling.py [--pending 1] [--no-engine]

Plans of all examples, with public sizes in place of data and models that would have to be downloaded, on 8, 64 and 512
GPUs (a100-80, 8 in a node) and, where the ladder is tiny, on as many CPU cores. Of both ends of what is assumed of
the devices, the worse ratio is shown.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from example_plans import plan_without_inputs
from overhead import measure
from planning import spec_text

from sweep.forecast.forecaster import Forecaster, forecaster
from sweep.forecast.prices import GPUS, Gpu
from sweep.forecast.simulate import Machines, Schedule
from sweep.plan import Plan
from sweep.session import Session
from sweep.spec import Sweep

EXAMPLES = Path(__file__).parents[1] / "examples"
DEVICES = (8, 64, 512)
GPU = GPUS["a100-80"]
NEAR = 1.10
LARGER = ("pythia-6.9b", "pythia-12b")
"""Added to the ladder of pythia.yaml in a row of their own: their runs need 2 and 4 GPUs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-engine", action="store_true", help="leave out what needs Ray")
    parser.add_argument("--pending", type=int, default=1, help="runs that may wait for room at once")
    args = parser.parse_args()
    plans = {file.stem: plan_without_inputs(file) for file in examples()}
    plans["pythia to 12b"] = larger_pythia()
    print("makespan / max(critical path, total work / devices); in brackets / the tighter bound, where over 1.10\n")
    for gpu in (GPU, None):
        unit = "GPUs" if gpu else "cores"
        print("| plan | runs | " + " | ".join(f"{count} {unit}" for count in DEVICES) + " |")
        print("|---|---|" + "---|" * len(DEVICES))
        for name, (spec, plan) in plans.items():
            if gpu is not None or is_tiny(plan):
                cells = [cell(worst(spec, plan, gpu, count, args.pending)) for count in DEVICES]
                print(f"| {name} | {len(plan.runs)} | {' | '.join(cells)} |")
        print()
    print(large())
    if not args.no_engine:
        print(f"engine overhead: {measure(1000)}")


def examples() -> list[Path]:
    return sorted([*EXAMPLES.glob("*.yaml"), *(EXAMPLES / "studies").glob("*.yaml")])


def larger_pythia() -> tuple[Sweep, Plan]:
    text = (EXAMPLES / "pythia.yaml").read_text()
    last = "    - {model: EleutherAI/pythia-2.8b, finetune: {learning_rate: 1.0e-5}}\n"
    assert last in text
    more = "".join(last.replace("pythia-2.8b", name) for name in LARGER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pythia.yaml"
        file.write_text(text.replace(last, last + more))
        return plan_without_inputs(file)


def is_tiny(plan: Plan) -> bool:
    return max(run.memory for run in plan.runs.values()) < 1e9


def asked(spec: Sweep, plan: Plan, gpu: Gpu | None) -> Forecaster:
    node = Machines(1, 8, 96.0) if gpu else Machines(1, 0, 8.0)
    return forecaster(plan, plan.runs, spec.compute, gpu=gpu, node=node)


def worst(spec: Sweep, plan: Plan, gpu: Gpu | None, devices: int, pending: int) -> Schedule:
    """The schedule that is further from its bound, of both ends of what is assumed."""
    forecast = replace(asked(spec, plan, gpu), pending=pending).on(devices // 8)
    return max(forecast.fast, forecast.slow, key=lambda schedule: schedule.makespan / schedule.bounds.classic)


def cell(schedule: Schedule) -> str:
    ratio = schedule.makespan / schedule.bounds.classic
    near = f" ({schedule.makespan / schedule.bounds.best:.3f})" if ratio > NEAR else ""
    return f"{ratio:.3f}{near}, {schedule.bound_by}"


def large() -> str:
    """What simulating about 100,000 runs on 1,000 GPUs takes, and how good the schedule is."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "planning.yaml"
        file.write_text(spec_text(tasks=10, seeds=90, rungs=10))
        session = Session.open(str(file), folder + "/results")
        spec, plan = session.spec, session.plan
    mixed = packed(plan)
    begun, wall = time.process_time(), time.perf_counter()
    forecast = asked(spec, mixed, GPU).on(1000 // 8)
    cpu, wall = time.process_time() - begun, time.perf_counter() - wall
    schedule = forecast.slow
    return (
        f"{len(plan.runs):,} runs on {schedule.machines.capacity:,.0f} GPUs: two simulations, with the seconds of all"
        f" runs and the bounds, in {cpu:.1f} s of one core ({wall:.1f} s by the clock); makespan / bound"
        f" {schedule.makespan / schedule.bounds.classic:.3f}, utilisation {schedule.utilisation:.1%}"
    )


def packed(plan: Plan) -> Plan:
    """The same with memory from 2 to 70 GB by rung, so that runs of all shares, from an eighth to a whole GPU, mix."""
    rungs = sorted({run.rung for run in plan.runs.values()})
    gigabytes = dict(zip(rungs, (2, 4, 6, 8, 12, 16, 24, 30, 50, 70), strict=True))
    runs = {i: replace(run, memory=gigabytes[run.rung] * 1e9, needs=None) for i, run in plan.runs.items()}
    return Plan(runs=runs, pairs=plan.pairs, requested=plan.requested)


if __name__ == "__main__":
    main()
