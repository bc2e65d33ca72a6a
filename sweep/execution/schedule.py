"""The plan as a Ray Tune search algorithm: Tune asks for a trial, it gets the next run of the graph."""

from collections.abc import Callable
from typing import Any, Protocol

from ray.tune.search import Searcher

from sweep.execution.deaths import Death
from sweep.execution.frontier import Frontier
from sweep.execution.measured import Learned, Measurement
from sweep.execution.room import Room, Started
from sweep.execution.shapes import ask_of
from sweep.plan import Run

OUTCOME = "outcome"
"""Key of a trial's result that says how its run ended: "done", "failed", "out_of_memory", "interrupted" (asked to stop,
its state is saved), "storage" (which failed for minutes), "died" (its process) or "node_lost"."""
TWICE = "twice"
"""Key of a result that says that another driver finished the same run first."""


class Feed(Protocol):
    """Where more runs come from while a plan is executed: a search over settings of a method."""

    def attach(self, frontier: Frontier) -> None:
        """Called once, before anything starts."""

    def refill(self) -> None:
        """Called whenever a run could start; the place to extend the frontier."""

    def ended(self, run_id: str) -> None:
        """Called when a run is done, or has failed for good."""


class Learning:
    """Measures finished runs while others are executed, and orders the rest by what it finds.

    Orders anew after 8 measurements, 16, 32, and so on: each takes a look at the whole plan.
    """

    def __init__(
        self,
        frontier: Frontier,
        learned: Learned,
        *,
        read: Callable[[Run], Measurement | None],
        gpu: Callable[[Run], bool],
    ) -> None:
        self._frontier, self._learned, self._read, self._gpu = frontier, learned, read, gpu
        self._next = 8
        if learned.count:
            self.order()

    def ended(self, run: Run) -> None:
        """A run is done."""
        if not self._learned.wants(run):
            return
        found = self._read(run)
        if found is not None:
            self._learned.add(found)
            if self._learned.count >= self._next:
                self.order()

    def order(self) -> None:
        """By seconds, for all runs: measured ones, or FLOPs at a measured rate."""
        self._next = 2 * self._learned.count
        self._frontier.set_cost(lambda run: self._learned.seconds(run, gpu=self._gpu(run)))


class PlanSearcher(Searcher):
    """Hands out runs, longest remaining path first, as their parents finish."""

    def __init__(
        self,
        frontier: Frontier,
        *,
        shape_of: Callable[[Run], dict[str, float]],
        on_start: Callable[[Run], None],
        on_end: Callable[[Run, str, str, bool], None],
        feed: Feed | None = None,
        room: Room | None = None,
        started: Started | None = None,
        learning: "Learning | None" = None,
        stopping: Callable[[], bool] = lambda: False,
        death_of: Callable[[str], Death] = lambda trial_id: Death(),
    ) -> None:
        """
        Args:
            room: Holds small runs back while a large one waits; without it, Ray's own order is all there is.
            started: Is told of large runs that are handed out; what others ask whether they have begun.
            learning: Is told of finished runs, and may change their order.
        """
        super().__init__()
        self._room, self._started, self._learning = room or Room(tuple), started, learning
        self._stopping = stopping
        self._death_of = death_of
        self._frontier = frontier
        self._shape_of = shape_of
        self._on_start = on_start
        self._on_end = on_end
        self._feed = feed
        self._known = frozenset(frontier.todo)
        self.error: Exception | None = None
        """What the feed raised. Tune would take it for a failure of the run, so it is kept for the caller."""
        self.twice: set[str] = set()
        """Runs that another driver finished first, with an equal result."""
        self._run_of_trial: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        stopping = self._stopping()
        if self._feed is not None and not stopping:
            self._ask(self._feed.refill)
        run_id = None if self.error or stopping else self._frontier.pop(self._has_room)
        if run_id is None:
            # None while nothing runs would make Tune poll for ten minutes before it gives up.
            idle = not self._frontier.running if self.error or stopping else self._frontier.finished
            return Searcher.FINISHED if idle else None
        run = self._frontier.plan.runs[run_id]
        self._run_of_trial[trial_id] = run_id
        self._on_start(run)
        shape = self._shape_of(run)
        self._take_room(run, shape)
        config = {"run_id": run_id, "divisor": self._frontier.divisors.get(run_id, 1), "shape": shape}
        return config if run_id in self._known else config | {"run": run}

    def _has_room(self, run: Run) -> bool:
        """Whether a run may start. Never False while nothing runs: a run that holds others back was handed out."""
        return self._room.allows(ask_of(self._shape_of(run)))

    def _take_room(self, run: Run, shape: dict[str, float]) -> None:
        ask = ask_of(shape)
        if self._started is not None and (ask.units > 1 or self._room.is_large(ask)):
            self._started.handed_out(run)
        self._room.start(run.run_id, ask)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        run = self._frontier.plan.runs[self._run_of_trial.pop(trial_id)]
        if error or result is None or OUTCOME not in result:
            death = self._death_of(trial_id)
            result = {OUTCOME: death.loss, "message": death.message}
        outcome, message = result[OUTCOME], result.get("message", "")
        again = False
        self._room.end(run.run_id)
        if outcome == "done":
            self._frontier.succeed(run.run_id)
            if result.get(TWICE):
                self.twice.add(run.run_id)
            if self._learning is not None:
                self._learning.ended(run)
        elif outcome == "interrupted":
            self._frontier.put_back(run.run_id)
            again = True
        elif outcome == "node_lost":
            again = self._frontier.lose_node(run.run_id, message)
        else:
            again = self._frontier.fail(
                run.run_id, message, out_of_memory=outcome == "out_of_memory", died=outcome in ("died", "storage")
            )
        self._on_end(run, outcome, message, again)
        if self._feed is not None and not again:
            self._ask(self._feed.ended, run.run_id)

    def _ask(self, question: Callable[..., None], *about: str) -> None:
        if self.error is None:
            try:
                question(*about)
            except Exception as error:
                self.error = error

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """A run reports once, at its end."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher with its own files; nobody reads them, and a live display cannot be pickled."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: after a crash the graph is planned again from the store."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("plan again and skip what the store has; a searcher is never restored")
