"""The plan as a Ray Tune search algorithm: Tune asks for a trial, it gets the next run of the graph."""

from collections.abc import Callable
from typing import Any, Protocol

from ray.tune.search import Searcher

from sweep.deaths import Death
from sweep.frontier import Frontier
from sweep.plan import Run

OUTCOME = "outcome"
"""Key of a trial's result that says how its run ended: "done", "failed", "out_of_memory", "interrupted" (asked to stop,
its state is saved), "died" (its process) or "node_lost"."""


class Feed(Protocol):
    """Where more runs come from while a plan is executed: a search over settings of a method."""

    def attach(self, frontier: Frontier) -> None:
        """Called once, before anything starts."""

    def refill(self) -> None:
        """Called whenever a run could start; the place to extend the frontier."""

    def ended(self, run_id: str) -> None:
        """Called when a run is done, or has failed for good."""


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
        stopping: Callable[[], bool] = lambda: False,
        death_of: Callable[[str], Death] = lambda trial_id: Death(),
    ) -> None:
        super().__init__()
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
        self._run_of_trial: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        stopping = self._stopping()
        if self._feed is not None and not stopping:
            self._ask(self._feed.refill)
        run_id = None if self.error or stopping else self._frontier.pop()
        if run_id is None:
            # None while nothing runs would make Tune poll for ten minutes before it gives up.
            idle = not self._frontier.running if self.error or stopping else self._frontier.finished
            return Searcher.FINISHED if idle else None
        run = self._frontier.plan.runs[run_id]
        self._run_of_trial[trial_id] = run_id
        self._on_start(run)
        config = {"run_id": run_id, "divisor": self._frontier.divisors.get(run_id, 1), "shape": self._shape_of(run)}
        return config if run_id in self._known else config | {"run": run}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        run = self._frontier.plan.runs[self._run_of_trial.pop(trial_id)]
        if error or result is None or OUTCOME not in result:
            death = self._death_of(trial_id)
            result = {OUTCOME: death.loss, "message": death.message}
        outcome, message = result[OUTCOME], result.get("message", "")
        again = False
        if outcome == "done":
            self._frontier.succeed(run.run_id)
        elif outcome == "interrupted":
            self._frontier.put_back(run.run_id)
            again = True
        elif outcome == "node_lost":
            again = self._frontier.lose_node(run.run_id, message)
        else:
            again = self._frontier.fail(
                run.run_id, message, out_of_memory=outcome == "out_of_memory", died=outcome == "died"
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
