"""What `w2s status` says of runs that are on their way, lost, or given up."""

import json
import socket
import time

import pytest

from sweep.cli import main
from sweep.execution.execute import Pulse
from sweep.session import Session
from sweep.state import POISONED, State, share_done, stand, stragglers
from sweep.storage.records import Heartbeat


@pytest.fixture
def session(tiny, tmp_path):
    return Session.open(str(tiny({"seeds: [0]": "seeds: [0, 1, 2, 3]"})), str(tmp_path / "results"))


def beat(session, run_id, *, age=0.0, fraction=0.0, elapsed=0.0, from_fraction=0.0):
    now = time.time() - age
    session.store.beat(run_id, Heartbeat("a", "elsewhere", 1, now, fraction, now - elapsed, from_fraction))


def alike(session, kind="pretrain", rung="d8"):
    return [i for i, run in session.plan.runs.items() if (run.kind, run.rung) == (kind, rung)]


def finish(session, run_id, seconds):
    with session.store.writing(run_id) as attempt:
        attempt.write_json("metrics.json", {"seconds": seconds})
        (attempt.folder / "weights").mkdir()
        (attempt.folder / "weights" / "w").write_text("")


def test_a_running_run_is_shown_with_its_rate_and_end_and_counts_from_where_it_went_on(session):
    run_id = alike(session)[0]
    beat(session, run_id, fraction=0.75, elapsed=100.0, from_fraction=0.25)
    standing = stand(session.plan, session.store)[run_id]
    assert standing.state == State.RUNNING
    assert standing.reason.startswith("75% on elsewhere, 30 % a minute, ends in about 50 s, seen 0 s ago")


def test_the_rate_of_a_run_leaves_out_what_it_took_to_start(session):
    run_id, now = alike(session)[0], time.time()
    session.store.beat(run_id, Heartbeat("a", "elsewhere", 1, now, 0.1, now - 300, 0.0, now - 100))
    reason = stand(session.plan, session.store)[run_id].reason
    assert reason.startswith("10% on elsewhere, 6 % a minute, ends in about 15 min, seen")


def test_the_pulse_of_a_run_tells_when_it_went_on(session):
    run_id = alike(session)[0]
    before = time.time()
    pulse = Pulse(session.store, run_id, "a")
    assert pulse.heartbeat().from_time is None
    pulse(0.25)
    begun = pulse.heartbeat().from_time
    pulse(0.5)
    beat = pulse.heartbeat()
    assert (beat.fraction, beat.from_fraction, beat.from_time) == (0.5, 0.25, begun)
    assert begun is not None
    assert begun >= before


def test_the_parts_of_running_runs_count_as_done(session, capsys):
    """One run may be nearly all of a plan."""
    plan = session.plan
    large = max(plan.runs.values(), key=lambda run: run.work)
    share = large.work / sum(run.work for run in plan.runs.values())
    assert share_done(plan, stand(plan, session.store)) == 0.0
    beat(session, large.run_id, fraction=0.86, elapsed=10.0)
    assert share_done(plan, stand(plan, session.store)) == pytest.approx(0.86 * share)
    assert main(["status", str(session.file), "--storage", session.store.root]) == 0
    assert f"{0.86 * share:.0%} of the FLOPs of the plan are done" in capsys.readouterr().out
    beat(session, large.run_id, fraction=0.86, age=700.0)  # dead: the state that it saved may be older
    assert share_done(plan, stand(plan, session.store)) == 0.0


def test_a_run_is_a_straggler_when_it_needs_over_twice_the_seconds_per_flop_of_its_like(session):
    *others, last = alike(session)
    for run_id in others[:2]:
        finish(session, run_id, 100.0)
    beat(session, last, fraction=0.5, elapsed=101.0)
    assert stragglers(session.plan, stand(session.plan, session.store), session.store) == {}  # two are too few
    finish(session, others[2], 100.0)
    slow = stragglers(session.plan, stand(session.plan, session.store), session.store)
    assert slow == {last: "slow: 2.0 x the seconds per FLOP of 3 finished runs like it"}
    beat(session, last, fraction=0.5, elapsed=99.0)
    assert stragglers(session.plan, stand(session.plan, session.store), session.store) == {}
    beat(session, last, fraction=0.9, elapsed=99.0, from_fraction=0.5)  # it did 0.4 of it, not 0.9
    assert last in stragglers(session.plan, stand(session.plan, session.store), session.store)


def test_a_silent_run_is_a_straggler_and_after_long_silence_it_is_dead(session):
    run_id = alike(session)[0]
    beat(session, run_id, age=70.0)
    standings = stand(session.plan, session.store)
    assert standings[run_id].state == State.RUNNING
    assert stragglers(session.plan, standings, session.store)[run_id].startswith("silent for 7")
    beat(session, run_id, age=3600.0)
    assert stand(session.plan, session.store)[run_id].state == State.TO_RUN


def test_a_run_that_always_kills_its_process_is_given_up_across_drivers_and_a_lost_machine_is_not_counted(session):
    poisoned, unlucky, mourned = alike(session)[:3]
    store = session.store
    for _ in range(5):  # more often than one driver forgives deaths, but no driver gave up
        store.record_failure(unlucky, "NodeLost", "away")
        store.record_failure(mourned, "WorkerDied", "dead")
    for kind in ("WorkerDied", "WorkerDied", POISONED):
        store.record_failure(poisoned, kind, "dead")
    standings = stand(session.plan, store)
    assert standings[unlucky].state == State.TO_RUN
    assert standings[mourned].state == State.FAILED  # tried again
    assert standings[poisoned].state == State.GIVEN_UP
    assert standings[poisoned].reason == "dead (3 times)"
    children = session.plan.descendants([poisoned])
    assert {standings[i].state for i in children} == {State.BLOCKED}
    assert all(standings[i].state != State.BLOCKED for i in session.plan.runs if i not in children)


def test_heartbeats_of_an_older_version_are_understood(session):
    run_id = alike(session)[0]
    old = {"attempt": "a", "host": socket.gethostname() + "-other", "pid": 1, "time": time.time(), "fraction": 0.5}
    session.store.write_object(session.store.path("runs", run_id, "alive", "a.json"), json.dumps(old).encode())
    assert stand(session.plan, session.store)[run_id].reason.startswith("50% on")
