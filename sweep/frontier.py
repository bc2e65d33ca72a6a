"""Which run comes next: the state of a plan's execution, without Ray."""

import heapq
from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, field

from sweep.plan import Plan, Run

DEATHS_FORGIVEN = 2
NODE_LOSSES_FORGIVEN = 50
"""On preemptible machines a run may lose many of them, and it is never the run's fault; but not for ever."""


@dataclass
class Frontier:
    """Runs of a plan move from waiting to ready, running, and done or failed; descendants of a failed run are blocked.

    `todo` are the runs wanted now; parents outside of it count as done. A search grows it while it is executed.
    """

    plan: Plan
    todo: Set[str]
    retries: int = 0
    running: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Run id to the message of its last failure."""
    blocked: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    node_losses: dict[str, int] = field(default_factory=dict)
    """Run id to how many machines went away under it."""
    divisors: dict[str, int] = field(default_factory=dict)
    """Run id to what its micro-batch is divided by, after it ran out of memory."""
    grown: dict[str, int] = field(default_factory=dict)
    """Run id to how often its share of a device was raised, after it ran out of memory."""
    can_grow: Callable[[Run, int], bool] = lambda run, grown: False
    """Whether there is a larger share for a run whose share was raised so often already."""
    grown_alike: dict[tuple, int] = field(default_factory=dict)
    """The same for runs that differ from it in seed and labels only: they start with the share that it needed."""
    cost: Callable[[Run], float] = lambda run: run.work
    """What a run takes, in one unit for all of them; see `set_cost`."""

    def __post_init__(self) -> None:
        wanted, self.todo = self.todo, frozenset()
        self._missing: dict[str, int] = {}
        self._in_turn: set[str] = set()
        self._ready: list[tuple[float, int, str]] = []
        self._queued: set[str] = set()
        self._given: dict[str, int] = {}
        self._path: dict[str, float] | None = None
        self.extend(self.plan, wanted)

    def extend(self, plan: Plan, run_ids: Collection[str], *, in_turn: bool = False) -> None:
        """Want more runs, of a plan that has all runs of the one so far, and in the same order.

        Args:
            in_turn: These come after all others, in the order of the plan, however long the paths behind them are.
        """
        wanted = set(run_ids) - self.todo
        new = [run_id for run_id in plan.runs if run_id in wanted]  # parents first
        self.plan = plan
        self._path = None
        self._rank = {run_id: index for index, run_id in enumerate(plan.runs)}
        self.todo = self.todo | set(new)
        if in_turn:
            self._in_turn |= set(new)
        for run_id in new:
            parents = {p.run_id for p in plan.runs[run_id].parents} & self.todo
            self._missing[run_id] = len(parents - self.done)
            if parents & (self.blocked | self.failed.keys()):
                self.blocked.add(run_id)
            elif self._missing[run_id] == 0:
                self._push(run_id)

    def withdraw(self, run_ids: Collection[str]) -> None:
        """No longer want runs that have not begun; whatever needs them has to be withdrawn with them."""
        idle = {i for i in run_ids if i in self.todo} - self.running - self.done - self.failed.keys()
        self.todo = self.todo - idle
        self.blocked -= idle
        self._queued -= idle
        for run_id in idle:
            del self._missing[run_id]

    def _push(self, run_id: str) -> None:
        self._queued.add(run_id)
        heapq.heappush(self._ready, self._entry(run_id))

    def _entry(self, run_id: str) -> tuple[float, int, str]:
        if self._path is None:
            self._path = longest_paths(self.plan, self.cost)
        urgency = 0.0 if run_id in self._in_turn else -self._path[run_id]
        return urgency, self._rank[run_id], run_id

    def set_cost(self, cost: Callable[[Run], float]) -> None:
        """Order by another estimate of what runs take, such as seconds once some are known."""
        self.cost, self._path = cost, None
        self._ready = [self._entry(run_id) for run_id in self._queued]
        heapq.heapify(self._ready)

    @property
    def n_ready(self) -> int:
        """Runs that could start now."""
        return len(self._queued)

    def pop(self, allowed: Callable[[Run], bool] = lambda run: True) -> str | None:
        """The next ready run, now running. The longest remaining path goes first.

        Returns:
            None if nothing is ready, or what is next is not `allowed` to start now: it stays next.
        """
        while self._ready:
            run_id = self._ready[0][-1]
            if run_id in self._queued:  # neither withdrawn, nor an entry left from before it was
                if not allowed(self.plan.runs[run_id]):
                    return None
                heapq.heappop(self._ready)
                self._queued.remove(run_id)
                self.running.add(run_id)
                self._given[run_id] = self.growth(self.plan.runs[run_id])
                self.attempts[run_id] = self.attempts.get(run_id, 0) + 1
                return run_id
            heapq.heappop(self._ready)
        return None

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing can start."""
        return not self.running and not self._queued

    def succeed(self, run_id: str) -> None:
        self.running.discard(run_id)
        self.done.add(run_id)
        for child in self.plan.children[run_id]:
            if child in self._missing:
                self._missing[child] -= 1
                if self._missing[child] == 0 and child not in self.blocked:
                    self._push(child)

    def put_back(self, run_id: str) -> None:
        """A run that began is ready again, and the attempt does not count."""
        self.running.discard(run_id)
        self.attempts[run_id] -= 1
        self._push(run_id)

    def lose_node(self, run_id: str, message: str) -> bool:
        """The machine of a run went away; returns whether the run will be tried again."""
        self.node_losses[run_id] = self.node_losses.get(run_id, 0) + 1
        if self.node_losses[run_id] > NODE_LOSSES_FORGIVEN:
            return self.fail(run_id, message)
        self.put_back(run_id)
        return True

    def fail(self, run_id: str, message: str, *, out_of_memory: bool = False, died: bool = False) -> bool:
        """Note a failure; returns whether the run will be tried again.

        Out of memory, a run goes up a ladder that does not count as attempts: a larger share of a device (or a machine
        to itself) for as long as there is one, then half the micro-batch, down to one example. A process that died may
        be its machine's fault, so such a run is tried three times at least.
        """
        self.running.discard(run_id)
        if out_of_memory and self.raise_limits(run_id):
            self.attempts[run_id] -= 1
            self._push(run_id)
            return True
        at_its_end = out_of_memory and self.plan.runs[run_id].settings is not None
        if not at_its_end and self.attempts[run_id] <= (max(self.retries, DEATHS_FORGIVEN) if died else self.retries):
            self._push(run_id)
            return True
        self.failed[run_id] = message
        self.blocked |= self.plan.descendants([run_id]) & self.todo
        return False

    def raise_limits(self, run_id: str) -> bool:
        """One step up the ladder of a run that was out of memory; False at its end.

        Steps depend on the cluster and the number of failures alone, so that the next `w2s run` can repeat them.
        """
        run = self.plan.runs[run_id]
        grown = self.growth(run)
        if grown > self._given.get(run_id, 0):  # it had less than what one like it was found to need meanwhile
            return True
        if self.can_grow(run, grown):
            self.grown[run_id] = self.grown_alike[alike(run)] = grown + 1
            return True
        if run.settings is None:
            return False
        divisor = 2 * self.divisors.get(run_id, 1)
        if divisor > int(run.settings.micro_batch_size):
            return False
        self.divisors[run_id] = divisor
        return True

    def repeat_ladder(self, run_id: str, failures: int) -> None:
        """Have a run begin where its earlier failures for want of memory, of another `w2s run`, had brought it."""
        for _ in range(failures):
            self._given[run_id] = self.growth(self.plan.runs[run_id])
            if not self.raise_limits(run_id):
                return

    def growth(self, run: Run) -> int:
        """How often the share of a run was raised: after its own failures, or those of runs like it."""
        return max(self.grown.get(run.run_id, 0), self.grown_alike.get(alike(run), 0))


def alike(run: Run) -> tuple:
    """What runs have in common that need the same memory."""
    return run.kind, run.rung, run.needs


def longest_paths(plan: Plan, cost: Callable[[Run], float]) -> dict[str, float]:
    """Cost of the longest path from each run (included) to the end of the plan."""
    path: dict[str, float] = {}
    for run_id in reversed(list(plan.runs)):
        path[run_id] = cost(plan.runs[run_id]) + max((path[c] for c in plan.children[run_id]), default=0.0)
    return path
