"""Where each run of a plan stands, read from the store, and why the next `w2s run` will or will not run it."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sweep.plan import Plan
from sweep.store import Done, Failure, Heartbeat, Store

STALE_SECONDS = 60.0
"""A heartbeat older than this is a run that died, or a straggler worth a look."""


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
        if beat.age < STALE_SECONDS and not _is_gone(beat):
            return Standing(State.RUNNING, f"{beat.fraction:.0%} on {beat.host}, seen {beat.age:.0f} s ago")
        return Standing(State.TO_RUN, f"was interrupted on {beat.host} at {beat.fraction:.0%}")
    if not failures:
        return Standing(State.TO_RUN, "was interrupted")
    last = failures[-1]
    reason = f"{last.kind}: {_first_line(last.message)}"
    # running out of memory depends on the neighbours; what the storage did, on the storage
    own = [failure for failure in failures if not failure.is_of_storage]
    same_way = len(own) > 1 and last.kind != "OutOfMemoryError" and not last.is_of_storage
    if same_way and len({failure.signature for failure in own}) == 1:
        return Standing(State.GIVEN_UP, f"{reason} ({len(own)} attempts, each time the same)")
    return Standing(State.FAILED, reason)


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
