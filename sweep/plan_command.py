"""`w2s plan`: what a sweep would run, why, and what the rest of it costs.

What it would take on a cluster, `sweep.forecast.text` says.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping

from rich.table import Table

from sweep.forecast.text import print_forecast, question_of
from sweep.plan import KINDS, Plan
from sweep.printing import console, duration, size
from sweep.session import Session
from sweep.state import Standing, State, stand
from sweep.storage.store import Store
from w2s.tasks.base import left_out

WILL_RUN = (State.TO_RUN, State.FAILED, State.RUNNING)
NOMINAL_GPU_FLOPS = 1e14
"""FLOP/s that `w2s plan` assumes of a GPU for its hours: 100 TFLOP/s, a tenth of an H100's bf16 peak."""

NOMINAL_CORE_FLOPS = 2e10
"""FLOP/s of one CPU core that `w2s plan` assumes for what a GPU would do in less than a minute: about what the offline
sweep reaches."""


def plan(args: argparse.Namespace) -> int:
    question = question_of(args)
    session = Session.open(args.spec, args.storage)
    standings = stand(session.plan, session.store)
    if args.list:
        for run_id, run in session.plan.runs.items():
            print(f"{run_id}  {run.label:<60}  {standings[run_id].state.value:<8}  {standings[run_id].reason}")
        return 0
    plan = session.plan
    todo = {run_id for run_id, s in standings.items() if s.state in WILL_RUN}
    warn_unwritable(session.store)
    counted = "1 pair" if len(plan.pairs) == 1 else f"{len(plan.pairs):,} pairs"
    console.print(
        f"sweep [bold]{session.sweep_id}[/bold]: {counted} (weak, strong, method, seed) -> {session.store.root}"
    )
    for name, task in session.inputs.tasks.items():
        sizes = ", ".join(f"{part} {n:,}" for part, n in task.summary.sizes.items())
        without = left_out(task.summary.dropped)
        console.print(f"task {name}: {sizes}" + (f"; rows left out: {without}" if without else ""))
    if not session.spec.rung_pairs():
        console.print("no pairs: the ladder has one rung, and a pair needs a weaker and a stronger one")
    console.print(counts_table(plan, standings))
    name_damaged(plan, standings)
    console.print(
        f"sharing: trained one by one, the pairs would ask for {plan.requested:,} supervisors, students and ceilings; "
        f"the plan has {sum(run.task is not None for run in plan.runs.values()):,}"
    )
    for line in plan.not_applicable:
        console.print(f"not applicable: {line}")
    work = sum(plan.runs[run_id].work for run_id in todo)
    path = max((plan.path_work[run_id] for run_id in todo), default=0.0)
    console.print(f"to run: {work:.2e} FLOPs ({_time(work)}), longest chain {path:.2e}" if todo else "nothing to run")
    memory = max((run.memory for run in plan.runs.values()), default=0)
    console.print(f"memory: the largest run needs {size(memory)} where it has one device to itself")
    console.print(f"storage: about {size(_disk(plan))} in all")
    if session.spec.tune is not None:
        from sweep.tuning.session import plan_lines  # brings optuna

        for line in plan_lines(args.spec, args.storage):
            console.print(line)
    if question is not None and todo:
        print_forecast(question, session, todo)
    return 0


def counts_table(plan: Plan, standings: Mapping[str, Standing]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("runs")
    states = [state for state in State if any(s.state == state for s in standings.values())]
    for column in ("in plan", *(state.value for state in states), "FLOPs to run"):
        table.add_column(column, justify="right")
    for kind in KINDS:
        ids = [run_id for run_id, run in plan.runs.items() if run.kind == kind]
        if not ids:
            continue
        count = Counter(standings[run_id].state for run_id in ids)
        flops = sum(plan.runs[run_id].work for run_id in ids if standings[run_id].state in WILL_RUN)
        cells = [f"{count[state]:,}" if count[state] else "·" for state in states]
        table.add_row(kind.replace("_", " "), f"{len(ids):,}", *cells, f"{flops:.1e}" if flops else "·")
    return table


def _time(work: float) -> str:
    """Time for so many FLOPs on a nominal GPU, or on one core where a GPU is not needed."""
    if work / NOMINAL_GPU_FLOPS < 60:
        time = duration(max(1.0, work / NOMINAL_CORE_FLOPS))
        return f"about {time} of one CPU core at {NOMINAL_CORE_FLOPS / 1e9:g} GFLOP/s"
    hours = work / NOMINAL_GPU_FLOPS / 3600
    count = f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
    return f"{count} GPU-hours at {NOMINAL_GPU_FLOPS / 1e12:g} TFLOP/s"


def warn_unwritable(store: Store) -> None:
    if not store.seems_writable():
        print(f"storage '{store.root}' is not writable for this user; w2s run would refuse it", file=sys.stderr)


def name_damaged(plan: Plan, standings: Mapping[str, Standing]) -> None:
    damaged = [(run_id, s.reason) for run_id, s in standings.items() if s.reason.startswith("damaged")]
    for run_id, reason in damaged[:5]:
        print(f"{plan.runs[run_id].label} ({run_id}): {reason}; the next w2s run makes it again")
    if len(damaged) > 5:
        print(f"and {len(damaged) - 5} more damaged runs")


def _disk(plan: Plan) -> float:
    """Bytes the plan's results will take: predictions at about 30 bytes a row, and the weights that are kept."""
    total = 0.0
    for run in plan.runs.values():
        if run.task is not None:
            total += 30.0 * sum(run.task.summary.sizes.values())
        if run.keep_weights and run.model is not None:
            total += 4.0 * run.model.n_params
    return total
