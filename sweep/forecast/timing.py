"""How long a run takes on a kind of device, and what it holds there: assumed, each with a range, or measured.

A run's seconds are its FLOPs at a share of the device's peak, or the launches of its kernels where these take longer
(what makes small models slow on large GPUs), and the loading of its weights. Every assumption is a field of
`Assumptions`, as (fast, slow).
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from statistics import median

from sweep.execution.measured import Measurement
from sweep.execution.shapes import ON_SEVERAL, USABLE, Shapes
from sweep.forecast.prices import Gpu, fits
from sweep.forecast.simulate import EIGHTHS, Demand
from sweep.plan import Plan, Run
from sweep.resources import STEP_WORK
from sweep.spec import Compute

Range = tuple[float, float]


@dataclass(frozen=True)
class Assumptions:
    """What is not known of machines, from the fast to the slow end."""

    mfu: Range = (0.45, 0.30)
    """Share of the peak that a training reaches (model FLOPs utilisation): what eager PyTorch comes to at a billion
    parameters and more. Smaller models fall below it by `launch`."""
    launch: Range = (1.0e-3, 2.0e-3)
    """Seconds that launching the kernels of one layer takes, forward, backward and optimiser, 100 to 200 kernels of 10
    microseconds; a third of it forward only. Embedding, head and loss count as two more layers."""
    loading: Range = (2.0e9, 0.5e9)
    """Bytes per second at which weights are read and put on the device."""
    overhead: Range = (0.5, 3.0)
    """Seconds of a run that are neither: its data, the store, the engine."""
    devices: Range = (0.9, 0.7)
    """What one of several devices of a run achieves, against one alone."""
    group: Range = (10.0, 27.0)
    """Seconds until a worker group on several devices has started (measured with Ray 2.60 on two CPU cores)."""
    core: Range = (3.0e10, 1.0e10)
    """FLOP/s of a CPU core, where runs use no GPU: around what the offline sweep reaches."""
    core_overhead: Range = (0.02, 0.1)
    """`overhead` of a run that uses no GPU: its models are tiny."""


FAST, SLOW = 0, 1


def seconds_of(run: Run, gpu: Gpu | None, demand: Demand, assumed: Assumptions, end: int) -> float:
    """Seconds of one run at the fast or the slow end of all assumptions.

    At the slow end, a run that shares a device gets no more than its share of what the device reaches. At the fast end
    it is not held up by its neighbours, as their kernels come in between its launches.
    """
    if gpu is None or not (demand.eighths or demand.devices):
        return run.work / (assumed.core[end] * demand.cpus) + assumed.core_overhead[end]
    steps, forwards = passes(run)
    layers = run.model.layers if run.model else 1
    precision = run.settings.precision if run.settings else "fp32"  # rungs are pretrained in float32
    rate = gpu.peak(precision) * assumed.mfu[end]
    if demand.devices > 1:
        rate *= demand.devices * assumed.devices[end]
        steps, forwards = steps / demand.devices, forwards / demand.devices
    elif end == SLOW:
        rate *= demand.eighths / EIGHTHS
    work = max(0.0, run.work - STEP_WORK * steps) + evaluation_flops(run)
    launches = (layers + 2) * assumed.launch[end] * (steps + forwards / 3)
    loading = 4.0 * run.model.n_params / assumed.loading[end] if run.model else 0.0
    group = assumed.group[end] if demand.devices > 1 else 0.0
    return max(work / rate, launches) + loading + assumed.overhead[end] + group


def passes(run: Run) -> tuple[float, float]:
    """Micro-batches of a run: trained on, and only read (predictions and evaluations)."""
    if run.kind == "pretrain":
        assert run.model is not None
        return max(1.0, (run.work - run.model.pretrain_flops) / STEP_WORK), 0.0
    if run.task is None or run.settings is None:
        return 0.0, 0.0
    sizes, settings = run.task.summary.sizes, run.settings
    micro = int(settings.micro_batch_size)
    read = sum(sizes.values()) / micro
    if run.kind in ("activations", "prompt"):
        return 0.0, read
    trained = settings.epochs * sizes.get(run.train_part or "transfer/0", 0) / micro
    if run.kind == "generative":
        return trained, 0.0
    return trained, read + _evaluations(run) * _evaluated(run) / micro


def evaluation_flops(run: Run) -> float:
    """FLOPs of the evaluations during training, which the plan's estimate leaves out."""
    if run.kind not in ("ground_truth", "transfer") or run.task is None or run.settings is None or run.model is None:
        return 0.0
    length = min(run.settings.max_length, run.task.summary.mean_characters["transfer/0"] / 4 + 2)
    length *= 2 if run.task.spec.form == "compare" else 1
    return 2.0 * run.model.n_matmul * length * _evaluations(run) * _evaluated(run)


def _evaluations(run: Run) -> int:
    """Before the one at the end, which is the run's predictions."""
    assert run.settings is not None
    assert run.task is not None
    if run.settings.eval_every is None:
        return 0
    examples = run.task.summary.sizes.get(run.train_part or "transfer/0", 0)
    steps = run.settings.epochs * examples // run.settings.batch_size
    return max(0, (steps - 1) // run.settings.eval_every)


def _evaluated(run: Run) -> int:
    """Examples of one evaluation."""
    assert run.task is not None
    return sum(run.task.summary.sizes.get(part, 0) for part in ("validation", "test"))


# -- what runs hold ----------------------------------------------------------------------------------------------


def demands(compute: Compute, cpu_threads: int, gpu: Gpu | None) -> Callable[[Run], Demand]:
    """What a run holds, as the engine asks Ray for it on machines with such GPUs.

    A run too large for one of them is given the devices that it needs, also where the spec fixes one device and the
    engine would refuse it. What returns a run's demand raises SweepError for one that no number of them holds: kinds
    that are not cut over several, such as pretraining, and what does not fit the most that there may be.
    """
    memory_gb = gpu.memory / 1e9 if gpu else compute.gpu_memory_gb
    shapes = Shapes(compute.model_copy(update={"gpu_memory_gb": memory_gb}), cpu_threads, has_gpus=gpu is not None)

    def demand(run: Run) -> Demand:
        shape = shapes.of(run)
        asked = _demand_of(shape)
        if gpu is None or not shape.get("use_gpu"):
            return asked
        devices = int(shape.get("devices", 1))
        if devices == 1 and asked.devices > 1:  # several whole GPUs for one process: the spec says so
            return asked
        if fits(shapes.memory(run, devices=devices, sharded=bool(shape.get("fsdp"))), gpu.memory):
            return asked
        if run.needs is None:
            return Demand(devices=devices_needed(run.memory, gpu))
        fewest = shapes.fewest_devices(run, USABLE * gpu.memory) if run.kind in ON_SEVERAL else None
        if fewest is not None:
            return Demand(devices=fewest)
        shapes.check_gpu_memory(run)
        return asked  # a little too large by an estimate that may be wrong: the engine would try it

    return demand


def _demand_of(shape: Mapping[str, float]) -> Demand:
    if shape.get("devices", 0) > 1:
        count = int(shape["devices"])
        return Demand(devices=count) if shape.get("use_gpu") else Demand(cpus=float(count))
    share = shape.get("GPU", 0.0)
    if share > 1:
        return Demand(devices=round(share), cpus=shape.get("CPU", 1.0) / share)
    return Demand(eighths=round(share * EIGHTHS), cpus=float(shape.get("CPU", 1.0)))


def devices_needed(memory: float, gpu: Gpu) -> int:
    """GPUs over which a run of so many bytes is cut: a power of two."""
    count = 1
    while not fits(memory / count, gpu.memory):
        count *= 2
    return count


# -- seconds of a whole plan -------------------------------------------------------------------------------------


def plan_seconds(
    plan: Plan,
    run_ids: Collection[str],
    gpu: Gpu | None,
    demand: Callable[[Run], Demand],
    *,
    assumed: Assumptions,
    measured: Mapping[str, float],
    end: int,
) -> dict[str, float]:
    """Seconds of each run: measured where it was, assumed elsewhere. In the order of the plan."""
    seconds, wanted = {}, frozenset(run_ids)
    for run_id, run in plan.runs.items():
        if run_id not in wanted:
            continue
        known = measured.get(run_id)
        seconds[run_id] = known if known is not None else seconds_of(run, gpu, demand(run), assumed, end)
    return seconds


def with_mfu(assumed: Assumptions, mfu: Range) -> Assumptions:
    """The same with another utilisation, (low, high)."""
    return replace(assumed, mfu=(mfu[1], mfu[0]))


ENGINE_SECONDS = 0.02
"""What the engine adds to a run whose own seconds were measured: `benchmarks/overhead.py`, rounded up."""


def measured_seconds(plan: Plan, measurements: Mapping[str, Measurement], gpu: Gpu | None) -> dict[str, float]:
    """Seconds of the runs of a plan of whose like (kind, rung and task) some were measured on that kind of device.

    The median seconds per FLOP of the like, times a run's own FLOPs.
    """
    rates: dict[tuple, list[float]] = {}
    for run_id, found in measurements.items():
        run = plan.runs.get(run_id)
        if run is not None and run.work > 0 and is_device(found.device, gpu):
            rates.setdefault(likeness(run), []).append(found.seconds / run.work)
    typical = {like: median(rate) for like, rate in rates.items()}
    return {
        run_id: typical[like] * run.work + ENGINE_SECONDS
        for run_id, run in plan.runs.items()
        if (like := likeness(run)) in typical
    }


def likeness(run: Run) -> tuple:
    """What two runs have in common whose seconds per FLOP are taken to be the same."""
    return run.kind, run.rung, run.task.spec.name if run.task else ""


def is_device(name: str, gpu: Gpu | None) -> bool:
    """Whether the driver's name of a device, such as "NVIDIA A100-SXM4-80GB", is that of this kind of GPU."""
    if gpu is None:
        return name == "cpu"
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).replace("rtx ", "rtx").split()
    family, _, memory = gpu.name.rpartition("-")
    sizes = [word for word in words if re.fullmatch(r"\d+gb", word)]
    return family in words and (not sizes or sizes == [f"{memory}gb"])
