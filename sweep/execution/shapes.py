"""The resources that runs ask Ray for: few different requests, so that warm processes can be reused.

A *shape* is a dictionary of what a run is given. What of it Ray is asked for, `bundle_of` says; the rest is for the
trainable: `use_gpu`, `devices` (a worker group of so many), `threads` (CPUs of each of its workers), `fsdp`.
"""

import contextlib
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweep.errors import SweepError
from sweep.execution.cluster import Cluster, pending_runs
from sweep.execution.frontier import Frontier
from sweep.plan import Plan, Run
from sweep.printing import size
from sweep.resources import SHARES, gpu_share
from sweep.spec import Compute

if TYPE_CHECKING:
    from sweep.execution.measured import Learned

Shape = dict[str, float]

TABLES_ONLY = ("tokenizer", "labels", "probe")
"""Kinds that have no use for a GPU."""
ON_SEVERAL = ("ground_truth", "transfer", "generative")
"""Kinds that can be cut over several devices."""
MAX_DEVICES = 64
"""Most devices that `devices_per_run: auto` gives to a run."""
USABLE = 0.95
"""Share of a device's memory that a run may be estimated at; the rest is the CUDA context and workspaces."""
DOUBT = 1.25
"""How wrong the estimate may be: only what is too large even then is refused before it is tried."""
RAY_MEMORY = 0.7
"""Share of a machine's free memory that Ray counts as its resource `memory`."""
DEFAULT_GPU_MEMORY = 24e9
"""Of a GPU whose type is not known here."""
TYPE = "accelerator_type:"
"""Beginning of the resource by which Ray tells a node's GPUs."""
GPU_MEMORY = {
    name: gigabytes * 1e9
    for name, gigabytes in {
        "P4": 8, "K80": 12, "T4": 16, "P100": 16, "V100": 16, "A10G": 24, "L4": 24, "A100": 40, "A100-40G": 40,
        "L40S": 48, "A100-80G": 80, "H100": 80, "H20": 96, "RTX-PRO-6000": 96, "H200": 141, "B200": 180, "GB200": 186,
        "AMD-Instinct-MI300X-OAM": 192, "AMD-Instinct-MI325X-OAM": 256, "B300": 288, "GB300": 288,
    }.items()
}  # fmt: skip
"""Bytes by Ray's names of accelerators; of a name with several sizes, the smallest."""
CURES = "lower finetune.micro_batch_size or max_length, set finetune.gradient_checkpointing, or tune: lora"
PRETRAIN_CURES = "lower ladder.pretrain.batch_size, or give the rung a smaller hidden_size or fewer layers"
MAX_PENDING = 4
"""Trials that wait for resources at once, at most; each costs Tune some milliseconds."""


def bundle_of(shape: Mapping[str, float]) -> Shape:
    """What of a shape Ray is asked for; the rest is for the trainable."""
    asked = ("CPU", "GPU", "train_slot")
    return {name: amount for name, amount in shape.items() if name in asked or name.startswith((TYPE, "node:"))}


def gpu_memory_of(node: Mapping[str, float]) -> float:
    """Bytes of one GPU of a node, by its type."""
    known = [GPU_MEMORY[name.removeprefix(TYPE)] for name in node if name.removeprefix(TYPE) in GPU_MEMORY]
    return max(known, default=DEFAULT_GPU_MEMORY)


class Shapes:
    """From a run to its shape, for one cluster."""

    def __init__(
        self,
        compute: Compute,
        cpu_threads: int,
        *,
        has_gpus: bool | None = None,
        cluster: Cluster | None = None,
        learned: "Learned | None" = None,
    ) -> None:
        """`has_gpus` stands for a cluster where there is none, as in a forecast; `learned` corrects estimates."""
        self._compute, self._threads, self._learned = compute, cpu_threads, learned
        self._kinds: Sequence[Mapping[str, float]] = cluster.kinds if cluster else ()
        self._has_gpus = bool(has_gpus if cluster is None else cluster.has_gpus)
        self._whole_node = max((math.floor(node.get("CPU", 0)) for node in self._kinds), default=0)
        self._has_slots = not self._kinds or any(node.get("train_slot", 0) for node in self._kinds)
        self._gpus = self._gpu_types()

    def _gpu_types(self) -> list[tuple[float, str | None]]:
        """Bytes and resource name of each type of GPU, smallest first; without a name where there is one size."""
        given = self._compute.gpu_memory_gb
        if given != "auto":
            return [(given * 1e9, None)]
        found: dict[float, str | None] = {}
        for node in self._kinds:
            if node.get("GPU", 0) > 0:
                memory = gpu_memory_of(node)
                found[memory] = next((name for name in node if GPU_MEMORY.get(name.removeprefix(TYPE)) == memory), None)
        if len(found) <= 1:
            return [(memory, None) for memory in found] or [(DEFAULT_GPU_MEMORY, None)]
        return sorted(found.items(), key=lambda item: item[0])

    def uses_gpu(self, run: Run) -> bool:
        return self._has_gpus and run.kind not in TABLES_ONLY and self._compute.gpus_per_run != 0

    def memory(self, run: Run, *, devices: int = 1, sharded: bool = False) -> float:
        """Estimated bytes per device, corrected by what was measured."""
        gpu = self.uses_gpu(run)
        estimate = run.memory if run.needs is None else run.needs.on(gpu=gpu, devices=devices, sharded=sharded)
        return estimate * (self._learned.memory_factor(run, gpu=gpu) if self._learned else 1.0)

    def of(self, run: Run, grown: int = 0) -> Shape:
        """The shape of a run that ran out of memory in `grown` smaller ones."""
        devices, sharded = self._split(run)
        threads = float(run.settings.cpu_threads if run.settings else self._threads)
        gpu = self.uses_gpu(run)
        if devices > 1:
            # Ray Train's own workers take the CPUs and GPUs; a trial that held them would wait for itself.
            shape = {**self._slot(), "devices": float(devices), "use_gpu": float(gpu), "threads": threads}
            return shape | {"fsdp": 1.0} if sharded else shape
        if not gpu:
            alone = grown > 0 and self._whole_node > threads
            return {"CPU": float(self._whole_node) if alone else threads}
        memory = self.memory(run)
        capacity, name = next((gpu for gpu in self._gpus if memory <= USABLE * gpu[0]), self._gpus[-1])
        share = self._compute.gpus_per_run
        share = gpu_share(memory, capacity) if share == "auto" else float(share)
        for _ in range(grown):
            share = next((larger for larger in SHARES if larger > share), share)
        shape = {"CPU": 1.0, "GPU": share, "use_gpu": 1.0}
        return shape | {name: 0.001} if name and capacity > self._gpus[0][0] else shape

    def can_grow(self, run: Run, grown: int) -> bool:
        """Whether a run that ran out of memory could be given a larger share of a device, or a machine to itself."""
        return self.of(run, grown + 1) != self.of(run, grown)

    def _slot(self) -> Shape:
        """What the trial of a worker group holds: something that its workers do not need, but some node has.

        Clusters of ours declare `train_slot`. On another's, the head node stands in, which Ray gives a resource of its
        own; the trial computes nothing, it only waits for its workers.
        """
        return {"train_slot": 1.0} if self._has_slots else {"node:__internal_head__": 0.001}

    def _split(self, run: Run) -> tuple[int, bool]:
        """Over how many devices a run is split, and whether its parameters are cut as well."""
        wanted, parallel, gpu = self._compute.devices_per_run, self._compute.parallel, self.uses_gpu(run)
        if run.kind not in ON_SEVERAL:
            return 1, False
        usable = USABLE * self._gpus[0][0]
        if wanted == "auto":
            if not gpu or run.needs is None or self.memory(run) <= USABLE * self._gpus[-1][0]:
                return 1, False
            wanted = self.fewest_devices(run, usable) or 1
        if wanted == 1:
            return 1, False
        too_large = gpu and run.needs is not None and self.memory(run, devices=wanted) > usable
        return wanted, parallel == "fsdp" or (parallel == "auto" and too_large)

    def fewest_devices(self, run: Run, usable: float) -> int | None:
        """The smallest power of two of devices with so many bytes each that a run fits on; None if none does."""
        sharded = self._compute.parallel != "replicate"
        count = 2
        while count <= MAX_DEVICES:
            if self.memory(run, devices=count, sharded=sharded) <= usable:
                return count
            count *= 2
        return None

    # -- before anything starts ------------------------------------------------------------------------------------

    def check(self, frontier: Frontier, plan: Plan, cluster: Cluster) -> None:
        """Raises SweepError if some run is larger than any node that the cluster has, or may get."""
        looked_at: dict[tuple, Run] = {}
        todo = frontier.todo
        for run_id, run in plan.runs.items():  # in the plan's order: the first that is too large is what others need
            if run_id not in todo:
                continue
            threads = run.settings.cpu_threads if run.settings else 0
            looked_at.setdefault((run.kind, run.rung, threads, run.needs), run)
        for run in looked_at.values():
            self._check_request(run, cluster)
            self._check_memory(run, cluster)

    def _check_request(self, run: Run, cluster: Cluster) -> None:
        nodes, ask = cluster.kinds, ask_of(self.of(run))
        if ask.units > 1:
            have = units_in(cluster.nodes, ask.bundle)
            if have >= ask.units or units_in(cluster.growable, ask.bundle) > 0:
                return
            if self._compute.devices_per_run == "auto":
                raise self._too_large(
                    run, f"; of GPUs like the smallest here it would take {ask.units}, there are {have}"
                )
            what = " and ".join(f"{amount:g} {name}" for name, amount in ask.bundle.items())
            raise SweepError(
                f"{run.label}: asks for {ask.units} devices ({what} each); all machines here together have {have}. "
                f"Lower compute.devices_per_run to {have or 1}, or add machines"
            )
        wanted = bundle_of(self.of(run))
        if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            return
        asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        largest = max(nodes, key=lambda node: tuple(node.get(name, 0) for name in wanted), default={})
        have = ", ".join(f"{largest.get(name, 0):g} {name}" for name in wanted)
        raise SweepError(
            f"{run.label}: asks for {asked} on one machine; the largest here has {have}. "
            "Lower finetune.cpu_threads, compute.gpus_per_run or compute.devices_per_run"
        )

    def _check_memory(self, run: Run, cluster: Cluster) -> None:
        if run.needs is None:
            return
        shape = self.of(run)
        devices = int(shape.get("devices", 1))
        memory = self.memory(run, devices=devices, sharded=bool(shape.get("fsdp")))
        if not shape.get("use_gpu"):
            here = max((node.get("memory", 0.0) / RAY_MEMORY for node in cluster.kinds), default=0.0)
            # Workers of one run may share a machine; that it fits one alone is the least.
            if here and memory / DOUBT > here:
                raise SweepError(
                    f"{run.label}: needs about {_size(memory)} of memory; the largest machine here has {_size(here)}. "
                    f"The smallest that would do has {_size(memory)}; or {_cures(run)}"
                )
            return
        self.check_gpu_memory(run)

    def check_gpu_memory(self, run: Run) -> None:
        """Raises SweepError if a run that uses GPUs does not fit the ones that it asks for, even if the estimate of
        its memory is a quarter too high."""
        shape = self.of(run)
        devices = int(shape.get("devices", 1))
        memory = self.memory(run, devices=devices, sharded=bool(shape.get("fsdp")))
        if memory / DOUBT <= (self._gpus[-1][0] if devices == 1 else self._gpus[0][0]):
            return
        raise self._too_large(run, self._on_several(run))

    def _on_several(self, run: Run) -> str:
        """Whether a run too large for one GPU could be cut over several, in words."""
        if run.kind not in ON_SEVERAL:
            return f", and runs of kind {run.kind} are not cut over several"
        if count := self.fewest_devices(run, USABLE * self._gpus[0][0]):
            return f"; or {count} of those here: compute.devices_per_run: {count}"
        if self._compute.parallel == "replicate":
            return ", and with compute.parallel: replicate each of several holds all of it"
        return f", nor does it fit cut over {MAX_DEVICES} of those here"

    def _too_large(self, run: Run, several: str) -> SweepError:
        memory, here = self.memory(run), self._gpus[-1][0]
        fitting = [(capacity, name) for name, capacity in GPU_MEMORY.items() if memory <= USABLE * capacity]
        smallest = "no GPU known here holds it alone"
        if fitting:
            capacity, name = min(fitting)
            smallest = f"the smallest GPU that would do is {name} ({_size(capacity)})"
        return SweepError(
            f"{run.label}: needs about {_size(memory)} on one GPU; the largest here has {_size(here)}. "
            f"{smallest[0].upper()}{smallest[1:]}{several}. Or {_cures(run)}"
        )

    def pending(self, frontier: Frontier, plan: Plan, cluster: Cluster) -> int | None:
        """How many trials Tune should have waiting for resources at once (`TUNE_MAX_PENDING_TRIALS_PG`).

        None leaves Tune's own choice of one, the cheapest where all runs ask for the same on this machine alone. Where
        requests differ, one that waits would block all behind it; but what was handed out keeps its turn, before longer
        chains that become ready later, so it is a few (`benchmarks/scheduling.py`). A cluster may get more nodes.
        """
        if not cluster.is_own:
            return pending_runs(cluster)
        asks = {_key(self.of(plan.runs[run_id])) for run_id in frontier.todo}
        if len(asks) <= 1:
            return None
        slots = max((units_in(cluster.nodes, ask_of(dict(key)).bundle) for key in asks), default=1)
        return min(MAX_PENDING, max(2, slots))


@contextlib.contextmanager
def pending_trials(count: int | None) -> Iterator[None]:
    """Within this, a new Tuner has at most so many trials wait for resources; a user's own setting stays."""
    name = "TUNE_MAX_PENDING_TRIALS_PG"
    if count is None or name in os.environ:
        yield
        return
    os.environ[name] = str(count)
    try:
        yield
    finally:
        os.environ.pop(name, None)


# -- what a shape takes of a cluster -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """What a shape takes: `units` bundles, each on one node."""

    units: int
    bundle: Mapping[str, float]

    def exceeds(self, other: "Ask") -> bool:
        """Whether it needs more of something at a time, so that others could take its room bit by bit."""
        if self.units > other.units:
            return True
        return any(amount > other.bundle.get(name, 0) for name, amount in self.bundle.items() if name in other.bundle)

    def spoils(self, bundle: Mapping[str, float], name: str) -> int:
        """Of how many bundles it can take the resource `name`, wherever it is placed."""
        return self.units * math.ceil(self.bundle.get(name, 0) / bundle[name])


def ask_of(shape: Mapping[str, float]) -> Ask:
    devices = int(shape.get("devices", 1))
    if devices == 1:
        return Ask(1, {name: amount for name, amount in shape.items() if name in ("CPU", "GPU") and amount > 0})
    return Ask(devices, worker_bundle(shape))


def worker_bundle(shape: Mapping[str, float]) -> Shape:
    """What each worker of a group holds."""
    return {"CPU": 1.0, "GPU": 1.0} if shape.get("use_gpu") else {"CPU": shape.get("threads", 1.0)}


def units_in(nodes: Collection[Mapping[str, float]], bundle: Mapping[str, float]) -> int:
    """How many bundles fit on some nodes when nothing else is there."""
    return sum(
        min((math.floor(node.get(name, 0) / amount + 1e-9) for name, amount in bundle.items()), default=0)
        for node in nodes
    )


def _key(shape: Shape) -> tuple:
    return tuple(sorted(shape.items()))


def _cures(run: Run) -> str:
    """What makes a run smaller."""
    return PRETRAIN_CURES if run.kind == "pretrain" else CURES


def _size(count: float) -> str:
    return size(count).replace(".0 ", " ")
