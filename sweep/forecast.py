"""What a plan would take on a cluster: wall time and device-hours, and what bounds them.

Pure; `sweep.forecast_text` prints it for `w2s plan --nodes`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from sweep.plan import Plan, Run
from sweep.prices import Gpu
from sweep.simulate import Demand, Machines, Schedule, simulate
from sweep.spec import Compute
from sweep.timing import FAST, SLOW, Assumptions, demands, plan_seconds

ENOUGH = 0.8
"""More nodes are worth it if they take less than this share of the time."""
MANY = 20_000
"""Runs from which on a simulation takes a second or more, and fewer numbers of nodes are compared."""


@dataclass(frozen=True)
class Forecast:
    """A plan on a number of nodes, at both ends of what is assumed."""

    fast: Schedule
    slow: Schedule

    @property
    def machines(self) -> Machines:
        return self.slow.machines

    @property
    def wall(self) -> tuple[float, float]:
        """Seconds."""
        return self.fast.makespan, self.slow.makespan

    @property
    def rented(self) -> tuple[float, float]:
        """Hours of all devices (CPUs of nodes without) from begin to end."""
        return self._hours(self.fast.makespan), self._hours(self.slow.makespan)

    @property
    def busy(self) -> tuple[float, float]:
        """Device-hours that runs hold."""
        return self.fast.busy / 3600, self.slow.busy / 3600

    def _hours(self, seconds: float) -> float:
        return seconds * self.machines.capacity / 3600


@dataclass(frozen=True)
class Forecaster:
    """All that a forecast needs but the number of nodes."""

    plan: Plan
    todo: Collection[str]
    gpu: Gpu | None
    demand: Callable[[Run], Demand]
    seconds: tuple[Mapping[str, float], Mapping[str, float]]
    """Of each run, at the fast and the slow end."""
    node: Machines
    """One of them."""
    parallel: int | None = None
    """`compute.max_parallel`."""
    pending: int = 1
    """Runs that wait for room at once, see `simulate`."""

    def on(self, nodes: int) -> Forecast:
        """Raises SweepError if some run asks for more than so many nodes have."""
        fast, slow = (
            simulate(
                self.plan,
                self.todo,
                seconds=seconds,
                demand=self.demand,
                machines=replace(self.node, nodes=nodes),
                costs=seconds,
                parallel=self.parallel,
                pending=self.pending,
            )
            for seconds in self.seconds
        )
        return Forecast(fast, slow)

    @property
    def fewest_nodes(self) -> int:
        """Nodes that the largest run needs."""
        if not self.node.devices:
            return 1
        most = max((self.demand(self.plan.runs[i]).devices for i in self.todo), default=1)
        return max(1, -(-most // self.node.devices))


def forecaster(
    plan: Plan,
    todo: Collection[str],
    compute: Compute,
    *,
    gpu: Gpu | None,
    node: Machines,
    cpu_threads: int = 1,
    assumed: Assumptions | None = None,
    measured: Mapping[str, float] | None = None,
) -> Forecaster:
    """Seconds and demands of the runs of `todo` on a kind of node.

    Args:
        gpu: None for nodes whose runs compute on CPUs.
        measured: Seconds by run id, for the runs of which they are known on such a device.
    """
    demand = demands(compute, cpu_threads, gpu)
    fast, slow = (
        plan_seconds(plan, todo, gpu, demand, assumed=assumed or Assumptions(), measured=measured or {}, end=end)
        for end in (FAST, SLOW)
    )
    return Forecaster(plan, todo, gpu, demand, (fast, slow), node, compute.max_parallel)


def numbers_of_nodes(wanted: int, fewest: int, runs: int) -> list[int]:
    """Numbers of nodes worth comparing with the one wanted."""
    others = {1, 2, 4, 8, 16} if runs <= MANY else {max(1, wanted // 2), 2 * wanted}
    return sorted({n for n in others if n >= fewest} | {wanted})


def enough(forecasts: Mapping[int, Forecast]) -> int:
    """The fewest nodes that all larger numbers here beat by less than a fifth."""
    counts = sorted(forecasts)
    for count in counts:
        slow = forecasts[count].slow.makespan
        if all(forecasts[more].slow.makespan >= ENOUGH * slow for more in counts if more > count):
            return count
    return counts[-1]
