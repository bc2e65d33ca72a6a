"""A plan's execution on a cluster, simulated event by event: no Ray, no clock, the engine's own order.

Runs leave the `Frontier` that the engine uses, longest remaining path first, when their parents are done. As Ray Tune
does, the simulation holds up to `pending` runs that wait for resources, also when all are taken, and asks for no others
meanwhile. Of these, none that asks for less passes one that waits: room is drained for it. Shares of a device are
eighths. Failures and retries are not simulated.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from sweep.errors import SweepError
from sweep.frontier import Frontier
from sweep.plan import Plan, Run

EIGHTHS = 8
"""A device is shared by eighths."""


@dataclass(frozen=True)
class Machines:
    """Equal machines, and what each has."""

    nodes: int
    devices: int
    """GPUs; 0 for machines whose runs compute on CPUs."""
    cpus: float

    @property
    def capacity(self) -> float:
        """Devices of the cluster; of machines without, CPUs."""
        return self.nodes * (self.devices or self.cpus)


@dataclass(frozen=True)
class Demand:
    """What a run holds while it runs."""

    eighths: int = 0
    """Of one device."""
    devices: int = 0
    """Whole devices, on as few machines as can be, instead of a share of one; each with `cpus`."""
    cpus: float = 1.0

    def exceeds(self, other: "Demand") -> bool:
        """Whether it needs more at a time of something that both need, so that the other could take its room away."""
        whole, others = self.devices * EIGHTHS or self.eighths, other.devices * EIGHTHS or other.eighths
        return (whole > others > 0) or self.cpus * max(1, self.devices) > other.cpus * max(1, other.devices)

    def amount(self, machines: Machines) -> float:
        """How much of `Machines.capacity` it takes."""
        return (self.devices or self.eighths / EIGHTHS) if machines.devices else self.cpus


@dataclass(frozen=True)
class Bounds:
    """What no schedule can beat, in seconds."""

    path: float
    """The longest chain of runs."""
    area: float
    """All work on all devices, evenly; or on all CPUs, where that is more."""
    tail: float
    """The best of the same two together: for the runs that cannot start before h and have chains of at least t behind
    them, h + their work on all devices + t; likewise with whole runs, of which a device has only so many at once."""

    @property
    def classic(self) -> float:
        """max(critical path, total work / devices)."""
        return max(self.path, self.area)

    @property
    def best(self) -> float:
        return max(self.classic, self.tail)


@dataclass(frozen=True)
class Schedule:
    """How a simulated execution went. Times are seconds from its begin."""

    starts: Mapping[str, float]
    ends: Mapping[str, float]
    machines: Machines
    busy: float
    """Device-seconds that runs held (CPU-seconds on machines without devices)."""
    chain: tuple[str, ...]
    """The longest chain of runs by their times, first to last."""
    bounds: Bounds
    timeline: tuple[float, ...] = field(default=())
    """Share of the devices in use in each tenth of the time."""

    @property
    def makespan(self) -> float:
        return max(self.ends.values(), default=0.0)

    @property
    def utilisation(self) -> float:
        return self.busy / (self.makespan * self.machines.capacity) if self.makespan else 0.0

    @property
    def bound_by(self) -> str:
        """`path`, `work`, `tail` (both, or the size of single runs) or, where no bound is near, `packing`."""
        near = 0.9 * self.makespan
        if self.bounds.path >= near and self.bounds.path >= self.bounds.area:
            return "path"
        if self.bounds.area >= near:
            return "work"
        return "tail" if self.bounds.tail >= near else "packing"


def simulate(
    plan: Plan,
    todo: Collection[str],
    *,
    seconds: Mapping[str, float],
    demand: Callable[[Run], Demand],
    machines: Machines,
    costs: Mapping[str, float] | None = None,
    pending: int = 1,
    parallel: int | None = None,
    start_seconds: float = 0.0,
) -> Schedule:
    """Execute `todo`, whose other parents count as done.

    Args:
        seconds: How long each run of `todo` takes.
        demand: What a run holds.
        costs: What the order goes by: the path of the largest sum comes first. None for the plan's own estimate.
        pending: Runs that may wait for resources at the same time.
        parallel: Runs that may be under way or waiting at the same time (`compute.max_parallel`).
        start_seconds: Added to a run for which no process of an earlier one with the same demand is idle.

    Raises:
        SweepError: A run asks for more than the whole cluster has.
    """
    frontier = Frontier(plan if costs is None else _with_costs(plan, costs), frozenset(todo))
    room = _Room(machines)
    demands: dict[str, Demand] = {}
    starts: dict[str, float] = {}
    ends: dict[str, float] = {}
    running: list[tuple[float, int, str]] = []
    held: dict[str, _Held] = {}
    idle: Counter[Demand] = Counter()
    waiting: dict[Demand, deque[tuple[int, str]]] = {}
    handed_out = n_waiting = 0
    most = parallel or len(frontier.todo)
    now = 0.0
    while True:
        while True:  # hand out and place, until nothing more fits
            while n_waiting < pending and n_waiting + len(running) < most and (run_id := frontier.pop()):
                demands[run_id] = demand(plan.runs[run_id])
                waiting.setdefault(demands[run_id], deque()).append((handed_out, run_id))
                handed_out, n_waiting = handed_out + 1, n_waiting + 1
            placed = _first_that_fits(waiting, room)
            if placed is None:
                break
            run_id, held[placed[0]] = placed
            n_waiting -= 1
            starts[run_id] = now
            warm = idle[demands[run_id]] > 0
            idle[demands[run_id]] -= warm
            ends[run_id] = now + seconds[run_id] + (0.0 if warm else start_seconds)
            heapq.heappush(running, (ends[run_id], len(starts), run_id))
        if not running:
            break
        now = running[0][0]
        while running and running[0][0] == now:
            run_id = heapq.heappop(running)[-1]
            room.give(held.pop(run_id))
            idle[demands[run_id]] += 1
            frontier.succeed(run_id)
    if n_waiting:
        run = plan.runs[min(queue[0] for queue in waiting.values() if queue)[1]]
        wanted = demands[run.run_id]
        what = f"{wanted.devices} devices" if wanted.devices else f"{wanted.eighths / EIGHTHS:g} devices"
        raise SweepError(
            f"{run.label}: asks for {what} and {wanted.cpus:g} CPUs; the cluster has {machines.nodes} x"
            f" ({machines.devices} devices, {machines.cpus:g} CPUs)"
        )
    lasted = {run_id: ends[run_id] - starts[run_id] for run_id in ends}
    chain, heads, tails = _paths(plan, lasted)
    return Schedule(
        starts=starts,
        ends=ends,
        machines=machines,
        busy=sum(lasted[i] * demands[i].amount(machines) for i in lasted),
        chain=chain,
        bounds=_bounds(lasted, demands, machines, heads, tails),
        timeline=_timeline(starts, ends, {i: demands[i].amount(machines) for i in lasted}, machines.capacity),
    )


def _first_that_fits(waiting: Mapping[Demand, deque[tuple[int, str]]], room: "_Room") -> "tuple[str, _Held] | None":
    """Take the first run for which there is room, but for those that a larger one before it waits for."""
    without_room: list[Demand] = []
    for demand in sorted((d for d, queue in waiting.items() if queue), key=lambda d: waiting[d][0]):
        if any(larger.exceeds(demand) for larger in without_room):
            continue
        taken = room.take(demand)
        if taken is not None:
            return waiting[demand].popleft()[1], taken
        without_room.append(demand)
    return None


def _with_costs(plan: Plan, costs: Mapping[str, float]) -> Plan:
    return replace(plan, runs={i: replace(run, work=costs.get(i, 0.0)) for i, run in plan.runs.items()})


# -- room --------------------------------------------------------------------------------------------------------

_Held = tuple[np.ndarray, np.ndarray, int, float]
"""Nodes, devices of these (in pairs), eighths of each, CPUs with each."""


class _Room:
    """What is free, device by device. A share goes where the least is left over, as Ray packs."""

    def __init__(self, machines: Machines) -> None:
        self._free = np.full((machines.nodes, max(machines.devices, 1)), EIGHTHS if machines.devices else 0, np.int64)
        self._cpus = np.full(machines.nodes, float(machines.cpus))

    def take(self, demand: Demand) -> _Held | None:
        """Room for a demand, or None."""
        if demand.devices:
            places = self._whole(demand.devices, demand.cpus)
            eighths = EIGHTHS
        elif demand.eighths:
            places = self._share(demand.eighths, demand.cpus)
            eighths = demand.eighths
        else:
            places = self._cpus_only(demand.cpus)
            eighths = 0
        if places is None:
            return None
        nodes, devices = places
        self._free[nodes, devices] -= eighths
        np.subtract.at(self._cpus, nodes, demand.cpus)
        return nodes, devices, eighths, demand.cpus

    def give(self, held: _Held) -> None:
        nodes, devices, eighths, cpus = held
        self._free[nodes, devices] += eighths
        np.add.at(self._cpus, nodes, cpus)

    def _share(self, eighths: int, cpus: float) -> tuple[np.ndarray, np.ndarray] | None:
        fits = (self._free >= eighths) & (self._cpus >= cpus)[:, None]
        left = np.where(fits, self._free, EIGHTHS + 1)
        best = int(left.argmin())
        node, device = divmod(best, left.shape[1])
        return (np.array([node]), np.array([device])) if left[node, device] <= EIGHTHS else None

    def _cpus_only(self, cpus: float) -> tuple[np.ndarray, np.ndarray] | None:
        left = np.where(self._cpus >= cpus, self._cpus, np.inf)
        node = int(left.argmin())
        return (np.array([node]), np.array([0])) if np.isfinite(left[node]) else None

    def _whole(self, count: int, cpus: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Empty devices: of the machine with the fewest that has enough, otherwise of those with the most."""
        empty = self._free == EIGHTHS
        with_cpus = np.floor(self._cpus / cpus) if cpus else np.inf
        usable = np.minimum(empty.sum(1), with_cpus).astype(int)
        if usable.sum() < count:
            return None
        enough = np.flatnonzero(usable >= count)
        order = [enough[usable[enough].argmin()]] if enough.size else np.argsort(-usable, kind="stable")
        nodes, devices = [], []
        for node in order:
            taken = np.flatnonzero(empty[node])[: min(usable[node], count - len(nodes))]
            nodes.extend([node] * len(taken))
            devices.extend(taken)
            if len(nodes) == count:
                break
        return np.array(nodes), np.array(devices)


# -- what no schedule can beat -----------------------------------------------------------------------------------


def _paths(plan: Plan, seconds: Mapping[str, float]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """The longest chain; and in the order of `seconds`, the longest chain before each run and behind it."""
    runs = [run_id for run_id in plan.runs if run_id in seconds]  # parents first
    head: dict[str, float] = {}
    tail: dict[str, float] = dict.fromkeys(runs, 0.0)
    for run_id in runs:
        parents = [p.run_id for p in plan.runs[run_id].parents if p.run_id in seconds]
        head[run_id] = max((head[p] + seconds[p] for p in parents), default=0.0)
    after: dict[str, str] = {}
    for run_id in reversed(runs):
        behind = seconds[run_id] + tail[run_id]
        for parent in plan.runs[run_id].parents:
            if parent.run_id in seconds and (behind > tail[parent.run_id] or parent.run_id not in after):
                tail[parent.run_id], after[parent.run_id] = behind, run_id
    chain: list[str] = []
    at = max(runs, key=lambda i: seconds[i] + tail[i], default=None) if runs else None
    while at is not None:
        chain.append(at)
        at = after.get(at)
    return tuple(chain), np.array([head[i] for i in seconds]), np.array([tail[i] for i in seconds])


MOST_CUTS = 48
"""Values of h, and of t where single runs are looked at, that are tried for `Bounds.tail`."""


def _bounds(
    lasted: Mapping[str, float],
    demands: Mapping[str, Demand],
    machines: Machines,
    heads: np.ndarray,
    tails: np.ndarray,
) -> Bounds:
    if not lasted:
        return Bounds(0.0, 0.0, 0.0)
    seconds = np.array(list(lasted.values()))
    eighths = np.array([demands[i].eighths for i in lasted])
    devices = np.array([demands[i].devices for i in lasted])
    cpus = np.array([demands[i].cpus * max(1, demands[i].devices) for i in lasted])
    loads = [(seconds * cpus, machines.nodes * machines.cpus)]
    if machines.devices:
        total = machines.nodes * machines.devices
        loads.append((seconds * (devices + np.where(devices, 0, eighths / EIGHTHS)), float(total)))
    area = max(float(load.sum()) / capacity for load, capacity in loads)
    tail = max(_cut(load, capacity, heads, tails) for load, capacity in loads)
    classes = []
    if machines.devices:
        whole = np.where(devices, EIGHTHS, eighths)
        classes = [(whole >= k, machines.nodes * machines.devices * (EIGHTHS // k)) for k in (8, 4, 2, 1)]
        crowded = devices > 1  # k of them at once is less than the whole cluster has, so they never run together
        for k in np.unique(devices[crowded]):
            classes.append((devices >= k, machines.nodes * machines.devices // int(k)))
    least = float(cpus[cpus > 0].min(initial=np.inf))
    if np.isfinite(least):
        at_once = machines.nodes * int(machines.cpus // least) if machines.cpus >= least else 0
        classes.append((cpus >= least, at_once))
    cuts = MOST_CUTS if len(seconds) <= 20_000 else 6
    single = max(
        (_granular(seconds[c], heads[c], tails[c], slots, cuts) for c, slots in classes if slots and c.any()),
        default=0.0,
    )
    return Bounds(float((heads + seconds + tails).max()), area, max(tail, single))


def _few(values: np.ndarray, most: int) -> np.ndarray:
    """All different values, or some spread evenly over them."""
    different = np.unique(values)
    if len(different) <= most:
        return different
    return different[np.unique(np.linspace(0, len(different) - 1, most).round().astype(int))]


def _cut(load: np.ndarray, capacity: float, heads: np.ndarray, tails: np.ndarray) -> float:
    """max over h and t of h + load of {head >= h, tail >= t} / capacity + t.

    Before h and in the last t nothing of that set can run.
    """
    order = np.argsort(-tails, kind="stable")
    load, heads, tails = load[order], heads[order], tails[order]
    best = 0.0
    for h in _few(heads, MOST_CUTS):
        late = (heads >= h) & (load > 0)
        if late.any():
            best = max(best, float((h + np.cumsum(load[late]) / capacity + tails[late]).max()))
    return best


def _granular(seconds: np.ndarray, heads: np.ndarray, tails: np.ndarray, slots: int, cuts: int) -> float:
    """The same for whole runs of which at most `slots` are under way at once.

    Of any k * slots + 1 of them one slot has k + 1, which take at least as long as the k + 1 shortest. The longest such
    set says most.
    """
    best = 0.0
    for h in _few(heads, cuts):
        for t in _few(tails, cuts):
            chosen = np.sort(seconds[(heads >= h) & (tails >= t)])[::-1]
            if not chosen.size:
                break
            ks = np.arange((chosen.size - 1) // slots + 1)
            sums = np.concatenate([[0.0], np.cumsum(chosen)])
            last = ks * slots + 1
            best = max(best, h + t + float((sums[last] - sums[last - ks - 1]).max()))
    return best


def _timeline(
    starts: Mapping[str, float], ends: Mapping[str, float], amounts: Mapping[str, float], capacity: float
) -> tuple[float, ...]:
    """Share of the capacity in use in each tenth of the time."""
    if not ends:
        return ()
    begin, end = np.array([starts[i] for i in ends]), np.array(list(ends.values()))
    amount = np.array([amounts[i] for i in ends])
    edges = np.linspace(0.0, float(end.max()), 11)
    if edges[-1] == 0.0:
        return (0.0,) * 10
    return tuple(
        float((np.clip(np.minimum(end, b) - np.maximum(begin, a), 0.0, None) * amount).sum() / ((b - a) * capacity))
        for a, b in pairwise(edges)
    )
