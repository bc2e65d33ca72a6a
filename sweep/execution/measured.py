"""What finished runs took, and what follows for those to come: corrections of memory, and seconds.

Used to place and to order runs, and to forecast (`sweep.forecast.timing`), never for what a run is (decision 9):
nothing here can change an id. A run tells in its metrics.json how long it took and what it held; of a store with many,
a bounded number is read.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

from sweep.errors import StoreError
from sweep.plan import Plan, Run
from sweep.storage.store import Store

PER_GROUP = 8
"""Measurements of runs that are alike; more would say no more."""
READ_AT_MOST = 256
"""Entries of the store, when a sweep is taken up again."""
QUANTILE = 0.9
"""Of measured over estimated memory: a placement has to hold for nearly all runs."""
SMALLEST_MEMORY = 64e6
"""Bytes below which a measured growth says nothing: allocators and libraries move as much."""
LARGEST_CORRECTION = 4.0
NOMINAL_RATE = {"cpu": 2e10, "gpu": 1e13}
"""FLOP/s assumed as long as nothing was measured; only its size against another device matters."""


@dataclass(frozen=True)
class Measurement:
    """What one finished run took."""

    kind: str
    rung: str
    family: str
    """Architecture; empty of runs without a model."""
    device: str
    """As metrics.json names it: `cpu`, or what the driver calls the GPU; empty if it does not say."""
    work: float
    """Estimated FLOPs."""
    seconds: float
    estimated: float | None
    """Bytes, uncorrected; None where there is nothing to compare."""
    grown: float | None
    """Bytes by which the process (CPU) or the allocated memory (GPU) grew."""

    @property
    def gpu(self) -> bool:
        return self.device not in ("", "cpu")


def measurement_of(run: Run, metrics: Mapping[str, Any]) -> Measurement | None:
    """What a run's metrics.json says; None if it lacks the seconds, as of benchmarks that compute nothing."""
    seconds = metrics.get("seconds")
    if not isinstance(seconds, int | float) or seconds <= 0:
        return None
    device = str(metrics.get("device") or "")
    gpu = device not in ("", "cpu")
    peak, baseline = metrics.get("peak_memory_bytes"), metrics.get("baseline_memory_bytes")
    estimated = grown = None
    # Of a shrunk micro-batch the estimate is another one.
    if run.needs is not None and peak and baseline is not None and not metrics.get("micro_batch_shrunk"):
        devices, sharded = int(metrics.get("devices") or 1), bool(metrics.get("sharded"))
        estimated, grown = run.needs.on(gpu=gpu, devices=devices, sharded=sharded), float(peak - baseline)
        if max(estimated, grown) < SMALLEST_MEMORY:
            estimated = grown = None
    family = run.needs.sizes.family if run.needs else ""
    return Measurement(run.kind, run.rung, family, device, run.work, float(seconds), estimated, grown)


class Learned:
    """Corrections from measurements so far. Groups are by kind and rung, then coarser where little is known."""

    def __init__(self, measurements: Iterable[Measurement] = ()) -> None:
        self._memory: dict[tuple, list[float]] = defaultdict(list)
        self._rates: dict[tuple, list[float]] = defaultdict(list)
        self.count = 0
        for measurement in measurements:
            self.add(measurement)

    def wants(self, run: Run) -> bool:
        """Whether another measurement of such a run would tell anything."""
        return len(self._rates[run.kind, run.rung]) < PER_GROUP

    def add(self, found: Measurement) -> None:
        self.count += 1
        for group in ((found.kind, found.rung), (found.kind,), (found.gpu,)):
            self._rates[group].append(found.seconds / max(found.work, 1.0))
        if found.estimated is not None and found.grown is not None:
            ratio = found.grown / found.estimated
            for group in ((found.kind, found.rung), (found.kind, found.family)):
                self._memory[(found.gpu, *group)].append(ratio)

    def memory_factor(self, run: Run, *, gpu: bool) -> float:
        """What the estimate of a run's memory is to be multiplied with; 1 as long as nothing is known.

        On a CPU only upwards: a process that is warm grows less than the run holds, as memory that an earlier run gave
        back to the allocator is used again.
        """
        family = run.needs.sizes.family if run.needs else ""
        ratios = self._memory.get((gpu, run.kind, run.rung)) or self._memory.get((gpu, run.kind, family))
        if not ratios:
            return 1.0
        ordered = sorted(ratios)
        factor = ordered[min(len(ordered) - 1, int(QUANTILE * len(ordered)))]
        return min(LARGEST_CORRECTION, max(factor, 1 / LARGEST_CORRECTION if gpu else 1.0))

    def seconds(self, run: Run, *, gpu: bool = False) -> float:
        """Seconds that a run will take: its FLOPs at the rate of runs like it, or of any, or at a nominal one."""
        for group in ((run.kind, run.rung), (run.kind,), (gpu,)):
            if rates := self._rates.get(group):
                return run.work * median(rates)
        return run.work / NOMINAL_RATE["gpu" if gpu else "cpu"]


def learn(plan: Plan, done: Collection[str], store: Store) -> Learned:
    """What the finished runs of a plan took, from a bounded number of them."""
    return Learned(read_measurements(plan, done, store, alike=lambda run: (run.kind, run.rung)).values())


def read_measurements(
    plan: Plan, done: Collection[str], store: Store, *, alike: Callable[[Run], tuple], at_most: int = READ_AT_MOST
) -> dict[str, Measurement]:
    """Of a few finished runs of every group; by run id.

    Args:
        done: Runs that are finished; of one that is not, nothing is found.
        alike: The group of a run.
        at_most: Runs that are looked at.
    """
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run_id, run in plan.runs.items():
        if run_id in done and len(group := groups[alike(run)]) < PER_GROUP:
            group.append(run)
    # In turn from every group, so that a bound leaves none out.
    turns = (runs[turn] for turn in range(PER_GROUP) for runs in groups.values() if turn < len(runs))
    wanted = [run for run, _ in zip(turns, range(at_most), strict=False)]
    if not wanted:
        return {}
    with ThreadPoolExecutor(16) as pool:
        found = zip(wanted, pool.map(lambda run: read_measurement(run, store), wanted), strict=True)
        return {run.run_id: measurement for run, measurement in found if measurement is not None}


def read_measurement(run: Run, store: Store) -> Measurement | None:
    """Of one finished run; None where it cannot be read, which never matters here."""
    with suppress(StoreError, OSError, ValueError, TypeError, AttributeError):
        return measurement_of(run, store.read_json(run.run_id, "metrics.json"))
    return None


def out_of_memory_before(run_ids: Collection[str], store: Store) -> dict[str, int]:
    """How often each run failed for want of memory in earlier executions; of those that did."""
    touched = [run_id for run_id in store.run_folders() if run_id in run_ids]

    def count(run_id: str) -> int:
        with suppress(StoreError, OSError):
            return sum(failure.kind == "OutOfMemoryError" for failure in store.failures(run_id))
        return 0

    if not touched:
        return {}
    with ThreadPoolExecutor(16) as pool:
        return {run_id: n for run_id, n in zip(touched, pool.map(count, touched), strict=True) if n}
