"""Room for runs that ask for much at a time, among many that ask for little. Pure but for `live_nodes`.

Ray places whatever fits. A run that waits for a whole machine, or for eight GPUs at once, would wait for as long as
smaller runs are handed out, which take each CPU or GPU as it becomes free. So while such a run waits, smaller ones are
handed out only if the large one fits beside them *wherever* Ray puts them; otherwise they are held back until it has
begun. What runs meanwhile ends, which makes the room.

Which node a run is on is not known here, so the worst is assumed: that every run spoils as much of the large one's room
as it can. On a cluster with enough free nodes nothing is ever held back.
"""

import time
from collections.abc import Callable, Collection, Mapping

from sweep.execution.shapes import Ask, units_in
from sweep.plan import Run

Nodes = Collection[Mapping[str, float]]


class Room:
    """What was handed out and has not ended, and which large runs of these still wait for their resources."""

    def __init__(self, nodes: Callable[[], Nodes], has_begun: Callable[[str], bool] = lambda run_id: False) -> None:
        """
        Args:
            nodes: Resources of the nodes that are up now.
            has_begun: Whether a run that was handed out has its resources. Asked only while smaller ones are held back.
        """
        self._nodes, self._has_begun = nodes, has_begun
        self._out: dict[str, Ask] = {}
        self._waiting: dict[str, Ask] = {}
        self._seen: list[Ask] = []

    def is_large(self, ask: Ask) -> bool:
        """Whether smaller requests than this one were met so far."""
        return any(ask.exceeds(other) for other in self._seen)

    def allows(self, ask: Ask) -> bool:
        """Whether a run may be handed out now, without a larger one waiting the longer for it."""
        if len(self._seen) < 2 and ask in self._seen:
            return True  # all alike, as nearly always
        for run_id, large in list(self._waiting.items()):
            if not large.exceeds(ask) or self._fits_anyway(run_id, large, ask):
                continue
            if not self._has_begun(run_id):
                return False
            del self._waiting[run_id]
        return True

    def start(self, run_id: str, ask: Ask) -> None:
        """A run is handed out."""
        if ask not in self._seen:
            self._seen.append(ask)
        self._out[run_id] = self._waiting[run_id] = ask

    def lacking(self) -> list[str]:
        """Runs that were handed out and fit no nodes that are up, even if nothing else was there."""
        nodes = self._nodes()
        return [run_id for run_id, ask in self._out.items() if units_in(nodes, ask.bundle) < ask.units]

    def end(self, run_id: str) -> None:
        self._out.pop(run_id, None)
        self._waiting.pop(run_id, None)

    def _fits_anyway(self, run_id: str, large: Ask, ask: Ask) -> bool:
        """Whether the large run has room beside all others and this one, or cannot have any on the nodes there are."""
        nodes = [node for node in self._nodes() if units_in([node], large.bundle)]
        if units_in(nodes, large.bundle) < large.units:
            return True  # it waits for machines that are yet to come; holding others back would not bring them
        others = [other for other_id, other in self._out.items() if other_id != run_id] + [ask]
        for name in large.bundle:
            units = units_in(nodes, {name: large.bundle[name]})
            if units - sum(other.spoils(large.bundle, name) for other in others) < large.units:
                return False
        return True


class Started:
    """Whether a run has begun: its attempt gives a sign of life in the store that was not there before."""

    def __init__(self, signs: Callable[[str], set[str]], clock: Callable[[], float], every: float = 0.5) -> None:
        """
        Args:
            signs: Names of the attempts that have given signs of life, of a run.
            clock: Seconds; `signs` is asked at most once in `every` of them.
        """
        self._signs, self._clock, self._every = signs, clock, every
        self._before: dict[str, set[str]] = {}
        self._asked: dict[str, float] = {}
        self._begun: set[str] = set()

    def handed_out(self, run: Run) -> None:
        """To be told before a run can begin."""
        self._begun.discard(run.run_id)
        self._before[run.run_id] = self._signs(run.run_id)

    def __call__(self, run_id: str) -> bool:
        now = self._clock()
        if run_id not in self._begun and now - self._asked.get(run_id, float("-inf")) >= self._every:
            self._asked[run_id] = now
            if self._signs(run_id) - self._before.get(run_id, set()):
                self._begun.add(run_id)
        return run_id in self._begun


_last: tuple[float, Nodes] = (float("-inf"), ())
NODES_EVERY_SECONDS = 5.0


def live_nodes() -> Nodes:
    """Resources of the nodes of the connected Ray cluster, as of a few seconds ago."""
    global _last
    import ray

    if time.monotonic() - _last[0] > NODES_EVERY_SECONDS:
        _last = (time.monotonic(), [node["Resources"] for node in ray.nodes() if node["Alive"]])
    return _last[1]
