"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from statistics import median
from typing import Any, Literal, Protocol, get_args

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.execution.frontier import Frontier
from sweep.plan import KINDS, Run
from sweep.printing import about, duration
from sweep.storage.records import Heartbeat

PLAIN_EVERY_SECONDS = 5.0
"""Between lines, at least."""
PLAIN_AT_LEAST_EVERY_SECONDS = 60.0
"""Between lines where nothing ends meanwhile."""
LOOK_EVERY_SECONDS = 10.0
"""Between looks at how far running runs are, on a terminal."""
WORTH_A_LOOK = 0.005
"""Share of all FLOPs from which on a running run is asked how far it is; at most 200 are."""
FEW = 3
"""Finished runs that a straggler is compared with, at least."""
STOP_SECONDS = 1.0
SLOW_FACTOR = 2.0
"""A straggler takes so many times as long as the median of those."""
STRAGGLER_SECONDS = 30.0
"""Nobody is called a straggler before."""


BeatOf = Callable[[str], Heartbeat | None]
"""From the id of a run to its last sign of life."""


class Progress(Protocol):
    """Told by the scheduler what happens."""

    def __enter__(self) -> "Progress": ...
    def __exit__(self, *exc: object) -> None: ...
    def started(self, run: Run) -> None: ...
    def ended(self, run: Run, outcome: str, message: str) -> None:
        """`outcome` is "done", "retry" for what will be handed out again, "interrupted", or a way to fail."""
        ...

    def say(self, text: str) -> None: ...


State = Literal["done", "failed", "blocked", "all"]
STATES: tuple[State, ...] = get_args(State)


class Tally:
    """Counts per kind, the share of the work done, and the time left if the rest goes as fast.

    Kept up to date by what it is told, so that a look costs the same for ten runs and for 100,000. Only what a search
    adds or withdraws, and what a failure blocks, is counted anew, when their number has changed.
    """

    def __init__(self, frontier: Frontier, beat_of: BeatOf | None = None) -> None:
        """`beat_of` gives the last sign of life of a run that is under way; without it, only finished runs count."""
        self.frontier = frontier
        self._beat_of = beat_of
        self._parts: dict[str, tuple[float, float]] = {}
        """Of running runs: the fraction done, and where they went on from."""
        self._begun = time.monotonic()
        self._running: dict[str, tuple[Run, float]] = {}
        self._n: dict[State, Counter[str]] = {state: Counter() for state in STATES}
        self._work: dict[State, float] = dict.fromkeys(STATES, 0.0)
        self._counted: tuple[object, int] = (None, -1)
        """The set of wanted runs, which is replaced when it changes, and the number of blocked ones."""
        self._seconds: dict[tuple[str, str], list[float]] = {}
        """Of runs that are done, by kind and rung."""

    def started(self, run: Run) -> None:
        self._parts.pop(run.run_id, None)
        self._running[run.run_id] = (run, time.monotonic())

    def look(self) -> None:
        """Ask those of the running runs that make a difference how far they are. Never raises."""
        self._recount()
        for run, _ in list(self._running.values()):
            if self._beat_of is not None and run.work >= WORTH_A_LOOK * self._work["all"]:
                with contextlib.suppress(Exception):  # it is only for people, and asked again
                    if beat := self._beat_of(run.run_id):
                        self._parts[run.run_id] = (beat.fraction, beat.from_fraction)

    def _under_way(self) -> tuple[float, float]:
        """Share of all FLOPs that running runs have done, and how much of it since this began."""
        parts = [(run.work, *self._parts.get(run.run_id, (0.0, 0.0))) for run, _ in list(self._running.values())]
        done, here = sum(w * f for w, f, _ in parts), sum(w * max(0.0, f - begun) for w, f, begun in parts)
        return done / (self._work["all"] or 1.0), here / (self._work["all"] or 1.0)

    def ended(self, run: Run, outcome: str) -> None:
        _, begun = self._running.pop(run.run_id, (run, time.monotonic()))
        if outcome == "done":
            self._seconds.setdefault((run.kind, run.rung), []).append(time.monotonic() - begun)
        if outcome not in ("retry", "interrupted"):
            state: State = "done" if outcome == "done" else "failed"
            self._n[state][run.kind] += 1
            self._work[state] += run.work

    def counts(self) -> list[tuple[str, dict[str, int]]]:
        """For each kind that is wanted, how many of its runs are in which state."""
        self._recount()
        running = Counter(run.kind for run, _ in list(self._running.values()))  # a copy: the scheduler's thread adds
        rows = []
        for kind in KINDS:
            if self._n["all"][kind]:
                states = {
                    "done": self._n["done"][kind],
                    "running": running[kind],
                    "failed": self._n["failed"][kind],
                    "blocked": self._n["blocked"][kind],
                }
                rows.append((kind, {**states, "waiting": self._n["all"][kind] - sum(states.values())}))
        return rows

    def _recount(self) -> None:
        now = (self.frontier.todo, len(self.frontier.blocked))
        if self._counted[0] is not now[0]:
            self._count("all", self.frontier.todo)
        if self._counted[0] is not now[0] or self._counted[1] != now[1]:
            self._count("blocked", self.frontier.blocked)
        self._counted = now

    def _count(self, state: State, run_ids: Collection[str]) -> None:
        runs = [self.frontier.plan.runs[run_id] for run_id in list(run_ids)]
        self._n[state] = Counter(run.kind for run in runs)
        self._work[state] = sum(run.work for run in runs)

    def stragglers(self) -> list[str]:
        """Runs that take much longer than those of their kind and rung that are done, in words."""
        found = []
        for run, begun in list(self._running.values()):
            others = self._seconds.get((run.kind, run.rung), ())
            taken = time.monotonic() - begun
            if len(others) >= FEW and taken > max(STRAGGLER_SECONDS, SLOW_FACTOR * median(others)):
                found.append(f"{run.label} takes {duration(taken)} so far, others like it {duration(median(others))}")
        return found

    @property
    def fraction(self) -> float:
        """Share of the estimated FLOPs that is done, running runs' parts included; what failed or is blocked is not."""
        return self._share("done") + self._under_way()[0]

    def _share(self, state: State) -> float:
        self._recount()
        return self._work[state] / (self._work["all"] or 1.0)

    @property
    def now(self) -> list[str]:
        """Two of the runs that are under way."""
        return [run.label for run, _ in list(self._running.values())[:2]]

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    @property
    def seconds_left(self) -> float | None:
        finished = self._share("done")
        under_way, here = self._under_way()
        lost = self._share("failed") + self._share("blocked")
        done = finished + here
        return self.elapsed * max(0.0, 1 - finished - under_way - lost) / done if done > 0.02 else None

    @property
    def line(self) -> str:
        left = self.seconds_left
        when = "" if left is None or self.frontier.finished else f", about {about(left)} left"
        lost = [
            f"{len(runs)} {what}"
            for what, runs in (("failed", self.frontier.failed), ("blocked", self.frontier.blocked))
            if runs
        ]
        return ", ".join([f"{self.fraction:.0%} of FLOPs done", *lost, f"{duration(self.elapsed)} gone"]) + when


class _Ticker:
    """Calls a function now and then, from a thread of its own, until it is stopped."""

    def __init__(self, tick: Callable[[], None], every: float) -> None:
        self._tick, self._every, self._stopped = tick, every, threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True, name="progress")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """It is not waited for, beyond a moment: a storage that does not answer must not hold up the end."""
        self._stopped.set()
        self._thread.join(STOP_SECONDS)

    def _go(self) -> None:
        while not self._stopped.wait(self._every):
            self._tick()


class LiveProgress:
    """A table that is redrawn in place. Like `PlainProgress` it never raises when nobody reads it any more: it is told
    from within Ray Tune, which would take that for a failure of the run."""

    def __init__(self, frontier: Frontier, console: Console, beat_of: BeatOf | None = None) -> None:
        self._tally = Tally(frontier, beat_of)
        self._ticker = _Ticker(self._tally.look, LOOK_EVERY_SECONDS)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=False)
        self._console = console

    def __enter__(self) -> "LiveProgress":
        self._live.__enter__()
        self._ticker.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._ticker.stop()
        self._live.__exit__(*exc)

    def started(self, run: Run) -> None:
        self._tally.started(run)

    def ended(self, run: Run, outcome: str, message: str) -> None:
        self._tally.ended(run, outcome)
        if outcome not in ("done", "interrupted"):
            self._print(_trouble(run, outcome, message), "yellow" if outcome == "retry" else "red")

    def say(self, text: str) -> None:
        self._print(text, "bold")

    def _print(self, text: str, style: str) -> None:
        with contextlib.suppress(OSError, SystemExit):  # rich makes one of a pipe that was closed
            self._console.print(Text(text, style=style))

    def _render(self) -> Group:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("runs", "done", "running", "waiting", "failed", "blocked"):
            table.add_column(column, justify="left" if column == "runs" else "right")
        for kind, states in self._tally.counts():
            cells = [str(states[s]) if states[s] else "·" for s in ("done", "running", "waiting", "failed", "blocked")]
            table.add_row(kind.replace("_", " "), *cells)
        bar = ProgressBar(total=1.0, completed=self._tally.fraction, width=40)
        slow = [Text(f"  slow: {line}", style="yellow") for line in self._tally.stragglers()[:2]]
        now = [Text(f"  now: {label}", style="dim", no_wrap=True, overflow="ellipsis") for label in self._tally.now]
        return Group(table, Text(), bar, Text(" " + self._tally.line), *slow, *now)


class PlainProgress:
    """A line when something fails, one every few seconds while runs end, and one a minute while none does."""

    def __init__(self, frontier: Frontier, beat_of: BeatOf | None = None) -> None:
        self._tally = Tally(frontier, beat_of)
        self._last = float("-inf")
        self._ticker = _Ticker(self.tick, PLAIN_AT_LEAST_EVERY_SECONDS / 4)

    def __enter__(self) -> "PlainProgress":
        self._ticker.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._ticker.stop()
        self._say()

    def tick(self) -> None:
        """Look how far the runs are, and say so if nothing was said for a while."""
        self._tally.look()
        if time.monotonic() - self._last >= 0.75 * PLAIN_AT_LEAST_EVERY_SECONDS:
            self._say()

    def started(self, run: Run) -> None:
        """Not said: ends are enough for a log file."""
        self._tally.started(run)

    def ended(self, run: Run, outcome: str, message: str) -> None:
        self._tally.ended(run, outcome)
        if outcome not in ("done", "interrupted"):
            self.say(_trouble(run, outcome, message))
        if time.monotonic() - self._last >= PLAIN_EVERY_SECONDS:
            self._say()

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a pipe that was closed, a log on a full disk
            print(text, flush=True)

    def _say(self) -> None:
        self._last = time.monotonic()
        counts = "  ".join(
            f"{kind.replace('_', ' ')} {states['done']}/{sum(states.values())}" for kind, states in self._tally.counts()
        )
        self.say(f"{counts}  ({self._tally.line})")


def make_progress(frontier: Frontier, beat_of: BeatOf | None = None) -> Progress:
    if sys.stdout.isatty():
        return LiveProgress(frontier, Console(), beat_of)
    return PlainProgress(frontier, beat_of)


def _trouble(run: Run, outcome: str, message: str) -> str:
    verdict = "failed, trying again" if outcome == "retry" else "failed"
    return f"{verdict}: {run.label} ({run.run_id}): {message}"
