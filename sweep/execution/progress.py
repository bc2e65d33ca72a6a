"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Collection
from statistics import median
from typing import Any, Literal, Protocol, get_args

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.execution.frontier import Frontier
from sweep.plan import KINDS, Run

PLAIN_EVERY_SECONDS = 5.0
FEW = 3
"""Finished runs that a straggler is compared with, at least."""
SLOW_FACTOR = 2.0
"""A straggler takes so many times as long as the median of those."""
STRAGGLER_SECONDS = 30.0
"""Nobody is called a straggler before."""


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

    def __init__(self, frontier: Frontier) -> None:
        self.frontier = frontier
        self._begun = time.monotonic()
        self._running: dict[str, tuple[Run, float]] = {}
        self._n: dict[State, Counter[str]] = {state: Counter() for state in STATES}
        self._work: dict[State, float] = dict.fromkeys(STATES, 0.0)
        self._counted: tuple[object, int] = (None, -1)
        """The set of wanted runs, which is replaced when it changes, and the number of blocked ones."""
        self._seconds: dict[tuple[str, str], list[float]] = {}
        """Of runs that are done, by kind and rung."""

    def started(self, run: Run) -> None:
        self._running[run.run_id] = (run, time.monotonic())

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
        """Share of the estimated FLOPs that is done; what failed or is blocked is not."""
        return self._share("done")

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
        done = self.fraction
        lost = self._share("failed") + self._share("blocked")
        return self.elapsed * max(0.0, 1 - done - lost) / done if done > 0.02 else None

    @property
    def line(self) -> str:
        left = self.seconds_left
        when = "" if left is None or self.frontier.finished else f", about {duration(left)} left"
        lost = [
            f"{len(runs)} {what}"
            for what, runs in (("failed", self.frontier.failed), ("blocked", self.frontier.blocked))
            if runs
        ]
        return ", ".join([f"{self.fraction:.0%} of FLOPs done", *lost, f"{duration(self.elapsed)} gone"]) + when


class LiveProgress:
    """A table that is redrawn in place. Like `PlainProgress` it never raises when nobody reads it any more: it is told
    from within Ray Tune, which would take that for a failure of the run."""

    def __init__(self, frontier: Frontier, console: Console) -> None:
        self._tally = Tally(frontier)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=False)
        self._console = console

    def __enter__(self) -> "LiveProgress":
        self._live.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
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
    """A line when something fails, and otherwise one every few seconds."""

    def __init__(self, frontier: Frontier) -> None:
        self._tally = Tally(frontier)
        self._last = float("-inf")

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *exc: Any) -> None:
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


def make_progress(frontier: Frontier) -> Progress:
    if sys.stdout.isatty():
        return LiveProgress(frontier, Console())
    return PlainProgress(frontier)


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _trouble(run: Run, outcome: str, message: str) -> str:
    verdict = "failed, trying again" if outcome == "retry" else "failed"
    return f"{verdict}: {run.label} ({run.run_id}): {message}"
