"""What `w2s plan --nodes 8 --gpu a100-80` prints below the plan: a forecast in words and one small table."""

import argparse
from collections.abc import Collection, Mapping

from rich.table import Table

from sweep.errors import StoreError
from sweep.forecast import ENOUGH, Forecast, Forecaster, enough, forecaster, numbers_of_nodes
from sweep.plan import Plan, Run
from sweep.prices import PRICES_OF, find_gpu, smallest_that_holds
from sweep.printing import console, size
from sweep.progress import duration
from sweep.session import Session
from sweep.simulate import Machines, Schedule
from sweep.store import Store
from sweep.timing import Assumptions, Measurement, likeness, measured_seconds, passes, with_mfu

CPUS_PER_GPU = 12
"""As a p4d.24xlarge has; GPUs that come alone in a machine mostly have 4 to 8."""
CPUS_PER_NODE = 16
GPUS_PER_NODE = 8
LOOKED_AT = 5
"""Finished runs of each kind, rung and task whose measurements are read."""


def print_forecast(args: argparse.Namespace, session: Session, todo: Collection[str]) -> None:
    """Print what the runs of `todo` would take on the cluster that the arguments describe."""
    gpu = find_gpu(args.gpu) if args.gpu else None
    gpus = (args.gpus_per_node or GPUS_PER_NODE) if gpu else 0
    node = Machines(1, gpus, args.cpus_per_node or (CPUS_PER_GPU * gpus or CPUS_PER_NODE))
    assumed = with_mfu(Assumptions(), args.mfu) if args.mfu else Assumptions()
    measured = measured_seconds(session.plan, _measurements(session.plan, session.store), gpu)
    if not todo:
        return
    ask = forecaster(
        session.plan,
        todo,
        session.spec.compute,
        gpu=gpu,
        node=node,
        cpu_threads=session.spec.ladder.pretrain.cpu_threads,
        assumed=assumed,
        measured=measured,
    )
    wanted = max(args.nodes or 1, ask.fewest_nodes)
    forecasts = {n: ask.on(n) for n in numbers_of_nodes(wanted, ask.fewest_nodes, len(todo))}
    price = args.price or (gpu.price if gpu else None)
    console.print()
    if wanted > (args.nodes or 1):
        console.print(f"{args.nodes or 1} x {gpus} devices cannot hold the largest run: {wanted} nodes it must be")
    _print_one(ask, forecasts[wanted], price)
    _print_memory(ask, session)
    console.print()
    console.print(_table(forecasts, price, wanted))
    console.print(_enough(forecasts))
    for line in _basis(ask, assumed, measured, given_price=args.price is not None):
        console.print(line, style="dim")


def _measurements(plan: Plan, store: Store) -> dict[str, Measurement]:
    """A few finished runs of each likeness."""
    alike: dict[tuple, list[str]] = {}
    there = set(store.run_folders())
    for run_id, run in plan.runs.items():
        if run_id in there and len(ids := alike.setdefault(likeness(run), [])) < LOOKED_AT:
            ids.append(run_id)
    found = {}
    for run_id in (run_id for ids in alike.values() for run_id in ids):
        try:
            metrics = store.read_json(run_id, "metrics.json")
        except (StoreError, OSError):  # begun and not done, or damaged: the report names these
            continue
        if metrics.get("seconds") and metrics.get("device"):
            found[run_id] = Measurement(metrics["seconds"], metrics["device"])
    return found


# -- the cluster asked about -------------------------------------------------------------------------------------


def _print_one(ask: Forecaster, forecast: Forecast, price: tuple[float, float] | None) -> None:
    machines, gpu = forecast.machines, ask.gpu
    what = f"{machines.devices} {gpu.name}" if gpu else f"{machines.cpus:g} CPUs"
    together = f" ({machines.nodes * machines.devices} GPUs)" if gpu and machines.nodes > 1 else ""
    console.print(f"on [bold]{machines.nodes} x {what}[/bold]{together}, if nothing fails:")
    device = "GPU" if gpu else "CPU"
    _line("wall time", f"[bold]{_times(forecast.wall)}[/bold]")
    _line(
        f"{device}-hours",
        f"{_numbers(forecast.rented)} rented, {_numbers(forecast.busy)} in use ({_shares(forecast)})",
    )
    if price is not None:
        whose = "GPU" if gpu else "node"
        _line("price", f"{_price(forecast, price)} at ${price[0]:.2f} to ${price[1]:.2f} per {whose}-hour")
    for index, text in enumerate(_bound(ask, forecast.slow)):
        _line("" if index else "bound by", text)


def _line(name: str, text: str) -> None:
    console.print(f"  {name:<12}{text}")


def _bound(ask: Forecaster, schedule: Schedule) -> list[str]:
    """What keeps the slow end from being shorter, in words."""
    bounds = schedule.bounds
    share = f"{schedule.utilisation:.0%} of the devices in use on average"
    if schedule.bound_by == "path":
        steps = [
            f"  {duration(schedule.ends[i] - schedule.starts[i])}  {_short(ask.plan.runs[i])}" for i in schedule.chain
        ]
        return [f"the critical path, {duration(bounds.path)}, however many nodes there are:", *steps]
    if schedule.bound_by == "work":
        return [f"the total work ({share}): more nodes help"]
    late = f"{schedule.timeline[-1]:.0%} of the devices in use in the last tenth" if schedule.timeline else share
    what = f"the critical path alone takes {duration(bounds.path)}, the work alone {duration(bounds.area)}"
    if schedule.bound_by == "tail":
        return [
            f"chains and single long runs together ({late})",
            f"  {what}; together at least {duration(bounds.best)}",
        ]
    return [f"runs waiting for room ({share})", f"  {what}"]


def _short(run: Run) -> str:
    """A label without the name of the task, which the chain shares."""
    return run.label


def _print_memory(ask: Forecaster, session: Session) -> None:
    """Which rungs need several GPUs, and what to write or rent for them; and a spec that packs for another GPU."""
    gpu = ask.gpu
    if gpu is None:
        return
    compute = session.spec.compute
    largest: dict[str, Run] = {}
    for run in (ask.plan.runs[i] for i in ask.todo):
        if ask.demand(run).devices and run.memory > largest.get(run.rung, run).memory * 0.999:
            largest[run.rung] = run
    for rung, run in largest.items():
        count = ask.demand(run).devices
        if count <= 1:
            continue
        one = smallest_that_holds(run.memory)
        other = f"one {one.name} would do" if one else "no single GPU would do"
        told = (
            "" if compute.devices_per_run >= count else f"; compute.devices_per_run: {count} in the spec asks for them"
        )
        _line("memory", f"{rung} needs {size(run.memory)}: {count} {gpu.name} for a run, or {other}{told}")
    if not largest:
        most = max((ask.plan.runs[i] for i in ask.todo), key=lambda run: run.memory)
        _line("memory", f"at most {size(most.memory)} of {size(gpu.memory)} for one run: one GPU holds it")
    if abs(compute.gpu_memory_gb * 1e9 / gpu.memory - 1) > 0.15:
        _line(
            "note",
            f"compute.gpu_memory_gb is {compute.gpu_memory_gb:g} in the spec; this is for {gpu.memory / 1e9:g}: write that, so that"
            " runs share GPUs alike",
        )


# -- other numbers of nodes --------------------------------------------------------------------------------------


def _table(forecasts: Mapping[int, Forecast], price: tuple[float, float] | None, wanted: int) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    gpus = next(iter(forecasts.values())).machines.devices
    columns = ["nodes", "GPUs" if gpus else "CPUs", "wall time", "in use", *(["price"] if price else [])]
    for column in columns:
        table.add_column(column, justify="right")
    for nodes, forecast in forecasts.items():
        cells = [f"{nodes}", f"{forecast.machines.capacity:g}", _times(forecast.wall), _shares(forecast)]
        style = "bold" if nodes == wanted else None
        table.add_row(*cells, *([_price(forecast, price)] if price else []), style=style)
    return table


def _enough(forecasts: Mapping[int, Forecast]) -> str:
    count, most = enough(forecasts), max(forecasts)
    gain = f"{1 - ENOUGH:.0%}"
    if count == most:
        return f"up to {most} nodes, more of them still save over {gain} of the time"
    nodes = "1 node is enough" if count == 1 else f"{count} nodes are enough"
    return f"{nodes}: {most} would save less than {gain} of the time"


def _basis(ask: Forecaster, assumed: Assumptions, measured: Mapping[str, float], *, given_price: bool) -> list[str]:
    """What is assumed, what is measured."""
    known = sum(run_id in measured for run_id in ask.todo)
    on = f"on {ask.gpu.name}" if ask.gpu else "on a CPU"
    lines = [f"measured: seconds of {known:,} of {len(ask.todo):,} runs, from finished ones like them {on}"]
    if not known:
        lines = [f"measured: nothing, as no run of this plan is finished {on} in the store"]
    if ask.gpu and known < len(ask.todo):
        peak = ask.gpu.peak("auto") / 1e12
        lines.append(
            f"assumed: {assumed.mfu[1]:.0%} to {assumed.mfu[0]:.0%} of {peak:g} TFLOP/s, unless {assumed.launch[0] * 1e3:g} to"
            f" {assumed.launch[1] * 1e3:g} ms per layer and micro-batch take longer{_reached(ask)}; {assumed.overhead[0]:g} to"
            f" {assumed.overhead[1]:g} s around each run"
        )
    elif known < len(ask.todo):
        lines.append(f"assumed: {assumed.core[1] / 1e9:g} to {assumed.core[0] / 1e9:g} GFLOP/s on a CPU core")
    if ask.gpu and not given_price:
        lines.append(
            f"prices: approximate public list prices, {PRICES_OF} ({ask.gpu.note}); --price LOW-HIGH sets yours"
        )
    return lines


def _reached(ask: Forecaster) -> str:
    """The share of the peak that training the smallest and the largest rung comes to."""
    assert ask.gpu is not None
    shares: dict[str, tuple[float, float]] = {}
    sizes: dict[str, int] = {}
    for run_id in ask.todo:
        run = ask.plan.runs[run_id]
        if run.kind in ("ground_truth", "transfer") and run.rung not in shares and run.model and passes(run)[0]:
            count = max(1, ask.demand(run).devices)
            peak = ask.gpu.peak(run.settings.precision if run.settings else "auto") * count
            shares[run.rung] = tuple(run.work / (peak * seconds[run_id]) for seconds in reversed(ask.seconds))  # type: ignore[assignment]
            sizes[run.rung] = run.model.n_params
    if not sizes:
        return ""
    ends = dict.fromkeys((min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)))
    return " (in all " + ", ".join(f"{rung} {_percent(shares[rung])}" for rung in ends) + ")"


# -- figures -----------------------------------------------------------------------------------------------------


def _percent(ends: tuple[float, float]) -> str:
    low, high = (f"{100 * end:.2g}" for end in sorted(ends))
    return f"{high} %" if low == high else f"{low} to {high} %"


def _shares(forecast: Forecast) -> str:
    low, high = sorted((forecast.fast.utilisation, forecast.slow.utilisation))
    return f"{high:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low * 100:.0f} to {high:.0%}"


def _times(ends: tuple[float, float]) -> str:
    low, high = duration(ends[0]), duration(ends[1])
    return high if low == high else f"{low} to {high}"


def _numbers(ends: tuple[float, float]) -> str:
    low, high = (f"{end:,.0f}" if end >= 100 else f"{end:.2g}" for end in ends)
    return high if low == high else f"{low} to {high}"


def _price(forecast: Forecast, price: tuple[float, float]) -> str:
    """Rented hours at the lower and the upper price."""
    hours = [wall * forecast.machines.nodes * (forecast.machines.devices or 1) / 3600 for wall in forecast.wall]
    low, high = (
        f"${cost:,.2f}" if cost < 10 else f"${cost:,.0f}" for cost in (hours[0] * price[0], hours[1] * price[1])
    )
    return high if low == high else f"{low} to {high}"
