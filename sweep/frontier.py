"""Which run comes next: the state of a plan's execution, without Ray."""

import heapq
from collections.abc import Collection, Set
from dataclasses import dataclass, field

from sweep.plan import Plan

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

    def __post_init__(self) -> None:
        wanted, self.todo = self.todo, frozenset()
        self._missing: dict[str, int] = {}
        self._in_turn: set[str] = set()
        self._ready: list[tuple[float, int, str]] = []
        self._queued: set[str] = set()
        self.extend(self.plan, wanted)

    def extend(self, plan: Plan, run_ids: Collection[str], *, in_turn: bool = False) -> None:
        """Want more runs, of a plan that has all runs of the one so far, and in the same order.

        Args:
            in_turn: These come after all others, in the order of the plan, however long the paths behind them are.
        """
        wanted = set(run_ids) - self.todo
        new = [run_id for run_id in plan.runs if run_id in wanted]  # parents first
        self.plan = plan
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
        urgency = 0.0 if run_id in self._in_turn else -self.plan.path_work[run_id]
        self._queued.add(run_id)
        heapq.heappush(self._ready, (urgency, self._rank[run_id], run_id))

    @property
    def n_ready(self) -> int:
        """Runs that could start now."""
        return len(self._queued)

    def pop(self) -> str | None:
        """The next ready run, now running; None if nothing is ready. The longest remaining path goes first."""
        while self._ready:
            run_id = heapq.heappop(self._ready)[-1]
            if run_id in self._queued:  # neither withdrawn, nor an entry left from before it was
                self._queued.remove(run_id)
                self.running.add(run_id)
                self.attempts[run_id] = self.attempts.get(run_id, 0) + 1
                return run_id
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

        A finetuning run that was out of memory goes on with half the micro-batch, down to one example. A process that
        died may be its machine's fault, so such a run is tried three times at least.
        """
        self.running.discard(run_id)
        settings = self.plan.runs[run_id].settings
        if out_of_memory and settings is not None:
            divisor = 2 * self.divisors.get(run_id, 1)
            if divisor <= int(settings.micro_batch_size):
                self.divisors[run_id] = divisor
                self._push(run_id)
                return True
        elif self.attempts[run_id] <= (max(self.retries, DEATHS_FORGIVEN) if died else self.retries):
            self._push(run_id)
            return True
        self.failed[run_id] = message
        self.blocked |= self.plan.descendants([run_id]) & self.todo
        return False
