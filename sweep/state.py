"""Where each run of a plan stands, read from the store, and why the next `w2s run` will or will not run it."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from sweep.errors import StoreError
from sweep.plan import Plan, Run
from sweep.printing import about
from sweep.storage.records import Done, Failure, Heartbeat
from sweep.storage.store import Store

STALE_SECONDS = 60.0
"""A run that was not heard of for longer hangs, or died."""
DEAD_SECONDS = 600.0
"""One that was not heard of for longer is dead."""


POISONED = "GaveUp"
"""Kind of failure of a run whose process, or machine, was lost more often than one `w2s run` forgives."""
LOST = ("WorkerDied", "NodeLost")
"""Kinds of failure that say little about the run."""
SLOW_FACTOR = 2.0
"""A straggler needs so many times the seconds per FLOP that the median finished run of its kind and model took."""
SETTLED_SECONDS = 30.0
"""Before, what a run has taken is mostly its start."""
COMPARED_WITH = range(3, 31)
"""How many finished runs it takes to call another one slow, and how many are looked at."""


class State(StrEnum):
    DONE = "done"
    RUNNING = "running"
    TO_RUN = "to run"
    FAILED = "failed"
    """Failed before; the next `w2s run` tries it again."""
    GIVEN_UP = "given up"
    """Failed the same way in every attempt; only `--retry-failed` tries it again."""
    BLOCKED = "blocked"
    """Needs a run that was given up."""


@dataclass(frozen=True)
class Standing:
    state: State
    reason: str
    done: Done | None = None
    beat: Heartbeat | None = None
    """Of a running one, its last sign of life."""
    set_aside: bool = False
    """There is a DONE mark that must not count: damaged, or without weights that are wanted now."""


def stand(plan: Plan, store: Store, *, verify: bool = False) -> Mapping[str, Standing]:
    """The standing of every run of the plan.

    Args:
        verify: Also read what finished runs left and compare it with its checksums.
    """
    done, damaged = store.survey(plan.runs, verify=verify)
    touched = store.run_folders()
    traces = store.traces(i for i in plan.runs if i in touched and i not in done and i not in damaged)
    standings: dict[str, Standing] = {}
    for run_id, run in plan.runs.items():
        blockers = [p.run_id for p in run.parents if standings[p.run_id].state in (State.GIVEN_UP, State.BLOCKED)]
        if run_id in done and run.keep_weights and not _has_weights(done[run_id]):
            standings[run_id] = Standing(State.TO_RUN, "run again: weights not kept", set_aside=True)
        elif run_id in done:
            standings[run_id] = Standing(State.DONE, "in the store", done[run_id])
        elif run_id in damaged:
            standings[run_id] = Standing(State.TO_RUN, f"damaged: {damaged[run_id]}", set_aside=True)
        elif blockers:
            standings[run_id] = Standing(State.BLOCKED, f"needs {plan.runs[blockers[0]].label}")
        elif run_id in touched:
            standings[run_id] = _started_before(*traces[run_id])
        else:
            waits = [p.run_id for p in run.parents if p.run_id not in done]
            reason = f"after {plan.runs[waits[0]].label}" if waits else "not in the store"
            standings[run_id] = Standing(State.TO_RUN, reason)
    return standings


def _has_weights(done: Done) -> bool:
    return any(name.startswith("weights/") for name in done.files)


def _started_before(beats: Sequence[Heartbeat], failures: Sequence[Failure]) -> Standing:
    beat = beats[-1] if beats else None
    if beat and not (failures and failures[-1].time > beat.time):
        if beat.age < DEAD_SECONDS and not _is_gone(beat):
            return Standing(State.RUNNING, _on_its_way(beat), beat=beat)
        return Standing(State.TO_RUN, f"was interrupted on {beat.host} at {beat.fraction:.0%}")
    if not failures:
        return Standing(State.TO_RUN, "was interrupted")
    last = failures[-1]
    if last.kind == "NodeLost":
        return Standing(State.TO_RUN, f"was interrupted: {_first_line(last.message)}")
    reason = f"{last.kind}: {_first_line(last.message)}"
    if last.kind == POISONED:
        lost = sum(failure.kind in LOST for failure in failures) + 1
        return Standing(State.GIVEN_UP, f"{_first_line(last.message)} ({lost} times)")
    if last.kind in LOST:
        return Standing(State.FAILED, reason)
    # running out of memory depends on the neighbours; what the storage did, on the storage
    own = [failure for failure in failures if not failure.is_of_storage]
    same_way = len(own) > 1 and last.kind != "OutOfMemoryError" and not last.is_of_storage
    if same_way and len({failure.signature for failure in own}) == 1:
        return Standing(State.GIVEN_UP, f"{reason} ({len(own)} attempts, each time the same)")
    return Standing(State.FAILED, reason)


def _on_its_way(beat: Heartbeat) -> str:
    """How far a run is, how fast, and when it will end if it goes on like this."""
    told = [f"{beat.fraction:.0%} on {beat.host}"]
    begun = beat.started if beat.from_time is None else beat.from_time
    done, elapsed = beat.fraction - beat.from_fraction, 0.0 if begun is None else beat.time - begun
    if done > 0 and elapsed > 0:
        rate = done / elapsed
        told.append(f"{6000 * rate:.2g} % a minute" if rate < 0.01 else f"{100 * rate:.2g} % a second")
        told.append(f"ends in about {about((1 - beat.fraction) / rate)}")
    told.append(f"seen {beat.age:.0f} s ago")
    return ", ".join(told)


def share_done(plan: Plan, standings: Mapping[str, Standing]) -> float:
    """Share of the plan's FLOPs that is done, with the parts of running runs that are; 1 for a plan without any."""
    done = 0.0
    for run_id, run in plan.runs.items():
        standing = standings[run_id]
        if standing.state == State.DONE:
            done += run.work
        elif standing.state == State.RUNNING and standing.beat is not None:
            done += run.work * standing.beat.fraction
    return done / (sum(run.work for run in plan.runs.values()) or 1.0)


def _elapsed(beat: Heartbeat) -> float:
    """Seconds from the start of an attempt to its last sign of life."""
    return beat.time - beat.started if beat.started is not None else 0.0


def stragglers(plan: Plan, standings: Mapping[str, Standing], store: Store) -> dict[str, str]:
    """Running runs worth a look, and why.

    Slow is a run that needs over `SLOW_FACTOR` times the seconds per estimated FLOP of the median finished run of its
    kind and model (at least three of them): what it has taken so far is set in relation to the share of its FLOPs that
    it has done in this attempt, or, if it has done nothing yet, to all of them. Silent is one that was not heard of for
    `STALE_SECONDS`.
    """
    running = {i: s.beat for i, s in standings.items() if s.state == State.RUNNING and s.beat is not None}
    paces: dict[tuple[str, str], list[float]] = {}
    for run in {(plan.runs[i].kind, plan.runs[i].rung): plan.runs[i] for i in running}.values():
        paces[run.kind, run.rung] = _paces(plan, standings, store, like=run)
    found = {}
    for run_id, beat in running.items():
        run = plan.runs[run_id]
        if beat.age > STALE_SECONDS:
            found[run_id] = f"silent for {time.time() - beat.time:.0f} s"
            continue
        others = paces[run.kind, run.rung]
        if len(others) < COMPARED_WITH.start or not run.work:
            continue
        share = max(beat.fraction - beat.from_fraction, 0.0)
        pace, usual = _elapsed(beat) / (run.work * (share or 1.0)), median(others)
        if pace > SLOW_FACTOR * usual and _elapsed(beat) > SETTLED_SECONDS:
            found[run_id] = f"slow: {pace / usual:.1f} x the seconds per FLOP of {len(others)} finished runs like it"
    return found


def _paces(plan: Plan, standings: Mapping[str, Standing], store: Store, *, like: Run) -> list[float]:
    """Seconds per estimated FLOP of finished runs of the same kind and model."""
    found = []
    for run_id, run in plan.runs.items():
        if (run.kind, run.rung) == (like.kind, like.rung) and run.work and standings[run_id].state == State.DONE:
            try:
                seconds = store.read_json(run_id, "metrics.json").get("seconds")
            except StoreError:  # others name what is damaged
                continue
            if seconds:
                found.append(seconds / run.work)
            if len(found) == COMPARED_WITH.stop - 1:
                break
    return found


def _is_gone(beat: Heartbeat) -> bool:
    """Whether it came from a process of this machine that has ended, without a last word if it was killed."""
    if beat.host != socket.gethostname():
        return False
    try:
        os.kill(beat.pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]
