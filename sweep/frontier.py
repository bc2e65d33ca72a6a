"""Which run comes next: the state of a plan's execution, without Ray."""

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field

from sweep.plan import Plan

DEATHS_FORGIVEN = 2


@dataclass
class Frontier:
    """Runs of a plan move from waiting to ready, running, and done or failed; descendants of a failed run are blocked.

    `todo` are the runs wanted now; parents outside of it count as done.
    """

    plan: Plan
    todo: Collection[str]
    retries: int = 0
    running: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Run id to the message of its last failure."""
    blocked: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    divisors: dict[str, int] = field(default_factory=dict)
    """Run id to what its micro-batch is divided by, after it ran out of memory."""

    def __post_init__(self) -> None:
        self.todo = frozenset(self.todo)
        self._missing = {
            run_id: sum(parent in self.todo for parent in {p.run_id for p in self.plan.runs[run_id].parents})
            for run_id in self.todo
        }
        self._rank = {run_id: index for index, run_id in enumerate(self.plan.runs)}
        self._ready: list[tuple[float, int, str]] = []
        for run_id, missing in self._missing.items():
            if missing == 0:
                self._push(run_id)

    def _push(self, run_id: str) -> None:
        heapq.heappush(self._ready, (-self.plan.path_work[run_id], self._rank[run_id], run_id))

    def pop(self) -> str | None:
        """The ready run with the longest remaining path, now running; None if nothing is ready."""
        if not self._ready:
            return None
        run_id = heapq.heappop(self._ready)[-1]
        self.running.add(run_id)
        self.attempts[run_id] = self.attempts.get(run_id, 0) + 1
        return run_id

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing can start."""
        return not self.running and not self._ready

    def succeed(self, run_id: str) -> None:
        self.running.discard(run_id)
        self.done.add(run_id)
        for child in self.plan.children[run_id]:
            if child in self._missing:
                self._missing[child] -= 1
                if self._missing[child] == 0 and child not in self.blocked:
                    self._push(child)

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
        self.blocked |= self.plan.descendants([run_id]) & frozenset(self.todo)
        return False
