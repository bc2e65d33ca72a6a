"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.frontier import Frontier
from sweep.plan import KINDS, Run

PLAIN_EVERY_SECONDS = 5.0


class Progress(Protocol):
    """Told by the scheduler what happens."""

    def __enter__(self) -> "Progress": ...
    def __exit__(self, *exc: object) -> None: ...
    def started(self, run: Run) -> None: ...
    def ended(self, run: Run, outcome: str, message: str) -> None: ...


class Tally:
    """Counts per kind, the share of the work done, and the time left if the rest goes as fast."""

    def __init__(self, frontier: Frontier) -> None:
        self.frontier = frontier
        self._begun = time.monotonic()

    def counts(self) -> list[tuple[str, dict[str, int]]]:
        rows = []
        for kind in KINDS:
            ids = [run_id for run_id in self.frontier.todo if self.frontier.plan.runs[run_id].kind == kind]
            if ids:
                states = {
                    "done": sum(i in self.frontier.done for i in ids),
                    "running": sum(i in self.frontier.running for i in ids),
                    "failed": sum(i in self.frontier.failed for i in ids),
                    "blocked": sum(i in self.frontier.blocked for i in ids),
                }
                rows.append((kind, {**states, "waiting": len(ids) - sum(states.values())}))
        return rows

    @property
    def fraction(self) -> float:
        """Share of the estimated FLOPs that is done; what failed or is blocked is not."""
        return self._share(self.frontier.done)

    def _share(self, run_ids: Iterable[str]) -> float:
        return self._work(run_ids) / (self._work(self.frontier.todo) or 1.0)

    def _work(self, run_ids: Iterable[str]) -> float:
        return sum(self.frontier.plan.runs[run_id].work for run_id in run_ids)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    @property
    def seconds_left(self) -> float | None:
        done = self.fraction
        lost = self._share(self.frontier.failed) + self._share(self.frontier.blocked)
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
    """A table that is redrawn in place."""

    def __init__(self, frontier: Frontier, console: Console) -> None:
        self._tally = Tally(frontier)
        self._now: dict[str, Run] = {}
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=False)
        self._console = console

    def __enter__(self) -> "LiveProgress":
        self._live.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._live.__exit__(*exc)

    def started(self, run: Run) -> None:
        self._now[run.run_id] = run

    def ended(self, run: Run, outcome: str, message: str) -> None:
        self._now.pop(run.run_id, None)
        if outcome != "done":
            style = "yellow" if outcome == "retry" else "red"
            self._console.print(Text(_trouble(run, outcome, message), style=style))

    def _render(self) -> Group:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("runs", "done", "running", "waiting", "failed", "blocked"):
            table.add_column(column, justify="left" if column == "runs" else "right")
        for kind, states in self._tally.counts():
            cells = [str(states[s]) if states[s] else "·" for s in ("done", "running", "waiting", "failed", "blocked")]
            table.add_row(kind.replace("_", " "), *cells)
        bar = ProgressBar(total=1.0, completed=self._tally.fraction, width=40)
        now = [Text(f"  now: {run.label}", style="dim", no_wrap=True, overflow="ellipsis") for run in self._latest]
        return Group(table, Text(), bar, Text(" " + self._tally.line), *now)

    @property
    def _latest(self) -> list[Run]:
        return list(self._now.values())[:2]


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
        """Nothing: ends are enough for a log file."""

    def ended(self, run: Run, outcome: str, message: str) -> None:
        if outcome != "done":
            print(_trouble(run, outcome, message), flush=True)
        if time.monotonic() - self._last >= PLAIN_EVERY_SECONDS:
            self._say()

    def _say(self) -> None:
        self._last = time.monotonic()
        counts = "  ".join(
            f"{kind.replace('_', ' ')} {states['done']}/{sum(states.values())}" for kind, states in self._tally.counts()
        )
        print(f"{counts}  ({self._tally.line})", flush=True)


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
