"""`w2s plan --nodes 8 --gpu a100-80`: its arguments, and the forecast in words and one small table."""

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rich.table import Table

from sweep.errors import SweepError
from sweep.execution.measured import Measurement, read_measurements
from sweep.forecast.forecaster import ENOUGH, Forecast, Forecaster, enough, forecaster, numbers_of_nodes
from sweep.forecast.prices import GPUS, PRICES_OF, Gpu, find_gpu, fits, smallest_that_holds
from sweep.forecast.simulate import Machines, Schedule
from sweep.forecast.timing import Assumptions, likeness, measured_seconds, passes, with_mfu
from sweep.plan import Plan, Run
from sweep.printing import console, duration, size
from sweep.session import Session
from sweep.spec import Compute
from sweep.storage.store import Store

CPUS_PER_GPU = 12
"""As a p4d.24xlarge has; GPUs that come alone in a machine mostly have 4 to 8."""
CPUS_PER_NODE = 16
GPUS_PER_NODE = 8
LOOKED_AT = 1024
"""Finished runs whose measurements are read, at most."""


@dataclass(frozen=True)
class Question:
    """The cluster that a person asks about."""

    nodes: int
    node: Machines
    """One of them."""
    gpu: Gpu | None
    price: tuple[float, float] | None
    """US dollars per GPU-hour; of nodes without GPUs, per node-hour."""
    own_price: bool
    """Whether the price was given, and is not of our table."""
    assumed: Assumptions


def add_cluster_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments that ask `w2s plan` what a cluster would make of it."""
    cluster = command.add_argument_group("what it would take on a cluster")
    cluster.add_argument("--nodes", type=_positive, metavar="N", help="machines (default 1)")
    cluster.add_argument("--gpu", metavar="NAME", help=f"kind of GPU: {', '.join(GPUS)}; without, runs use CPUs")
    cluster.add_argument("--gpus-per-node", type=_positive, metavar="N", help="default 8")
    cluster.add_argument(
        "--cpus-per-node",
        type=_positive,
        metavar="N",
        help=f"default {CPUS_PER_GPU} for each GPU, {CPUS_PER_NODE} without",
    )
    cluster.add_argument(
        "--price",
        type=_range,
        metavar="LOW-HIGH",
        help="US dollars an hour of a GPU (without: of a node) costs, such as 1.2-3.5",
    )
    cluster.add_argument(
        "--mfu",
        type=_share_range,
        metavar="LOW-HIGH",
        help="share of the GPU's peak that large models reach (default 0.3-0.45)",
    )


def question_of(args: argparse.Namespace) -> Question | None:
    """What the arguments ask; None if nothing about a cluster.

    Raises:
        SweepError: There is no such GPU, or an option says nothing without another one.
    """
    given = [name for name in ("gpus_per_node", "cpus_per_node", "price", "mfu") if getattr(args, name)]
    if args.nodes is None and args.gpu is None:
        if given:
            raise SweepError(f"--{given[0].replace('_', '-')} needs --nodes or --gpu beside it: what the cluster is")
        return None
    for name in ("gpus_per_node", "mfu"):
        if name in given and args.gpu is None:
            raise SweepError(f"--{name.replace('_', '-')} needs --gpu: nodes without it have no GPUs")
    gpu = find_gpu(args.gpu) if args.gpu is not None else None
    gpus = (args.gpus_per_node or GPUS_PER_NODE) if gpu else 0
    return Question(
        nodes=args.nodes or 1,
        node=Machines(1, gpus, args.cpus_per_node or (CPUS_PER_GPU * gpus or CPUS_PER_NODE)),
        gpu=gpu,
        price=args.price or (gpu.price if gpu else None),
        own_price=args.price is not None,
        assumed=with_mfu(Assumptions(), args.mfu) if args.mfu else Assumptions(),
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0 is needed, not {text!r}")
    return int(text)


def _range(text: str) -> tuple[float, float]:
    try:
        ends = [float(part) for part in text.split("-")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or not 0 < ends[0] <= ends[-1] < float("inf"):
        raise argparse.ArgumentTypeError(
            f"a number or a range from low to high is needed, such as 1.2-3.5, not {text!r}"
        )
    return ends[0], ends[-1]


def _share_range(text: str) -> tuple[float, float]:
    low, high = _range(text)
    if high > 1:
        raise argparse.ArgumentTypeError(f"a share of the peak is at most 1, as in 0.3-0.45, not {text!r}")
    return low, high


# -- the answer --------------------------------------------------------------------------------------------------


def print_forecast(question: Question, session: Session, todo: Collection[str]) -> None:
    """Print what the runs of `todo` would take on a cluster."""
    gpu, node, price = question.gpu, question.node, question.price
    measured = measured_seconds(session.plan, measurements_of(session.plan, session.store), gpu)
    ask = forecaster(
        session.plan,
        todo,
        session.spec.compute,
        gpu=gpu,
        node=node,
        cpu_threads=session.spec.ladder.pretrain.cpu_threads,
        assumed=question.assumed,
        measured=measured,
    )
    wanted = max(question.nodes, ask.fewest_nodes)
    forecasts = {n: ask.on(n) for n in numbers_of_nodes(wanted, ask.fewest_nodes, len(todo))}
    console.print()
    if wanted > question.nodes:
        held = f"{question.nodes} x {node.devices} GPUs"
        console.print(f"{held} cannot hold the largest run; here is what {wanted} nodes would do")
    _print_one(ask, forecasts[wanted], price)
    _print_memory(ask, session.spec.compute)
    console.print()
    console.print(_table(forecasts, price, wanted))
    console.print(_enough(forecasts))
    for line in _basis(ask, question, measured):
        console.print(line, style="dim", soft_wrap=False)


def measurements_of(plan: Plan, store: Store) -> dict[str, Measurement]:
    """Of a few finished runs of each likeness."""
    return read_measurements(plan, store.run_folders(), store, alike=likeness, at_most=LOOKED_AT)


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
        took = {run_id: duration(schedule.ends[run_id] - schedule.starts[run_id]) for run_id in schedule.chain}
        steps = [f"  {time}  {ask.plan.runs[run_id].label}" for run_id, time in took.items()]
        return [f"the critical path, {duration(bounds.path)}, however many nodes there are:", *steps]
    if schedule.bound_by == "work":
        return [f"the total work ({share}): more nodes help"]
    late = f"{schedule.timeline[-1]:.0%} of the devices in use in the last tenth" if schedule.timeline else share
    what = f"the critical path alone takes {duration(bounds.path)}, the work alone {duration(bounds.area)}"
    if schedule.bound_by == "tail":
        lines = [f"chains and single long runs together ({late})", f"  {what};"]
        return [*lines, f"  no order of the runs takes less than {duration(bounds.best)}"]
    return [f"runs waiting for room ({share})", f"  {what}"]


def _print_memory(ask: Forecaster, compute: Compute) -> None:
    """Which rungs need several GPUs, and what to write or rent for them; and a spec that packs for another GPU."""
    gpu = ask.gpu
    if gpu is None:
        return
    largest: dict[str, Run] = {}
    for run in (ask.plan.runs[run_id] for run_id in ask.todo):
        if run.rung not in largest or run.memory > largest[run.rung].memory:
            largest[run.rung] = run
    many = {rung: run for rung, run in largest.items() if ask.demand(run).devices and not fits(run.memory, gpu.memory)}
    for rung, run in many.items():
        one = smallest_that_holds(run.memory)
        other = f"one {one.name} would do" if one else "no single GPU would do"
        _line("memory", f"{rung} needs {size(run.memory)}: {ask.demand(run).devices} {gpu.name} for one run; {other}")
    if most := max((ask.demand(run).devices for run in many.values()), default=0):
        if isinstance(compute.devices_per_run, int) and compute.devices_per_run < most:
            _line("", f"(compute.devices_per_run: {most} in the spec asks for so many)")
    else:
        run = max(largest.values(), key=lambda run: run.memory)
        _line("memory", f"at most {size(run.memory)} of {size(gpu.memory)} for one run: one GPU holds it")
    assumed, real = compute.gpu_memory_gb, gpu.memory / 1e9
    if isinstance(assumed, int | float) and abs(assumed / real - 1) > 0.15:
        _line("note", f"runs share GPUs of {real:g} GB here; the spec's compute.gpu_memory_gb is {assumed:g}")
    settings = [run.settings for run in largest.values() if run.settings is not None]
    micro, whole = min(((int(s.micro_batch_size), s.batch_size) for s in settings), default=(1, 1))
    if micro < whole and compute.memory_gb < 0.7 * real:
        default = "" if "memory_gb" in compute.model_fields_set else " (the default)"
        cuts = f"{compute.memory_gb:g}{default} cuts batches of {whole} down to {micro}"
        _line("note", f"compute.memory_gb: {cuts}; more is faster")


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


def _basis(ask: Forecaster, question: Question, measured: Mapping[str, float]) -> list[str]:
    """What is assumed, what is measured."""
    assumed = question.assumed
    known = sum(run_id in measured for run_id in ask.todo)
    on = f"on {ask.gpu.name}" if ask.gpu else "on a CPU"
    lines = [f"measured: seconds of {known:,} of {len(ask.todo):,} runs, from finished ones like them {on}"]
    if not known:
        lines = [f"measured: nothing, as no run of this plan is finished {on} in the store"]
    if ask.gpu and known < len(ask.todo):
        peak = ask.gpu.peak("auto") / 1e12
        lines.append(
            f"assumed: {_percent((100 * assumed.mfu[0], 100 * assumed.mfu[1]))} of {peak:g} TFLOP/s, or"
            f" {assumed.launch[0] * 1e3:g} to {assumed.launch[1] * 1e3:g} ms per layer and micro-batch where that is"
            f" longer{_reached(ask)}; {assumed.overhead[0]:g} to {assumed.overhead[1]:g} s around each run"
        )
    elif known < len(ask.todo):
        lines.append(f"assumed: {assumed.core[1] / 1e9:g} to {assumed.core[0] / 1e9:g} GFLOP/s on a CPU core")
    most = max((ask.demand(ask.plan.runs[run_id]).devices for run_id in ask.todo), default=0)
    if ask.gpu and most > 1:
        across = f", {ask.gpu.name}s of several machines among them" if most > ask.node.devices else ""
        lines.append(
            f"assumed: k GPUs of one run are k times as fast, times {assumed.devices[1]:g} to {assumed.devices[0]:g}"
            f"{across}; no other term stands for traffic between them, however slow their network is"
        )
    if ask.gpu and not question.own_price:
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
            fast, slow = (100 * run.work / (peak * seconds[run_id]) for seconds in ask.seconds)
            shares[run.rung] = slow, fast
            sizes[run.rung] = run.model.n_params
    if not sizes:
        return ""
    ends = dict.fromkeys((min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)))
    return " (in all " + ", ".join(f"{rung} {_percent(shares[rung])}" for rung in ends) + ")"


# -- figures -----------------------------------------------------------------------------------------------------


def _percent(ends: tuple[float, float]) -> str:
    """Of two shares in per cent."""
    low, high = (f"{end:.2g}" if end >= 0.1 else "below 0.1" for end in sorted(ends))
    return f"{high}%" if low == high else f"{low} to {high}%"


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
    costs = (hours[0] * price[0], hours[1] * price[1])
    low, high = (_dollars(cost) for cost in costs)
    return high if low == high else f"{low} to {high}"


def _dollars(cost: float) -> str:
    if 0 < cost < 0.01:
        return "under $0.01"
    return f"${cost:,.2f}" if cost < 10 else f"${cost:,.0f}"
