"""Runs that wait for what is not there: it is said, and nobody waits for them when the sweep is to stop."""

from types import SimpleNamespace

from ray.tune.experiment import Trial

from sweep.execution.referee import Referee, StopWhenAsked
from sweep.execution.room import Room
from sweep.execution.shapes import Ask
from sweep.execution.waiting import SAID_AFTER_SECONDS, Waiting

ONE, TWO = Ask(1, {"CPU": 1.0}), Ask(2, {"CPU": 1.0})


def test_what_fits_no_machine_that_is_up_is_said_once_for_each_time_that_it_happens():
    now, nodes, said = [0.0], [{"CPU": 1.0}], []
    room = Room(lambda: nodes)
    waiting = Waiting(room.lacking, said.append, clock=lambda: now[0])

    def later(seconds: float) -> int:
        for _ in range(int(seconds)):
            now[0] += 1.0
            waiting.on_step_end(1, [])
        return len(said)

    room.start("small", ONE)
    room.start("large", TWO)
    assert later(SAID_AFTER_SECONDS) == 0  # a machine may be about to come back
    assert later(60) == 1
    assert "waiting for machines: large would fit none that is up" in said[0]
    nodes.append({"CPU": 1.0})
    assert later(60) == 1
    nodes.clear()
    assert later(60) == 2
    assert "small and 1 more" in said[1]
    room.end("small")
    room.end("large")
    assert later(60) == 2


def test_a_worker_group_that_waits_for_its_devices_is_not_waited_for_when_asked_to_stop():
    trials = [
        SimpleNamespace(status=Trial.RUNNING, config={"run_id": "alone", "shape": {"CPU": 1.0}}),
        SimpleNamespace(status=Trial.RUNNING, config={"run_id": "group", "shape": {"devices": 2.0}}),
        SimpleNamespace(status=Trial.PENDING, config={"run_id": "later", "shape": {"CPU": 1.0}}),
    ]
    begun = set()
    referee = Referee(lambda run_id: run_id in begun)
    stop = StopWhenAsked(lambda: True, referee)
    referee.on_trial_add(SimpleNamespace(get_live_trials=lambda: trials), trials[0])
    assert referee.n_running == 1
    assert not stop.stop_all()
    begun.add("group")
    assert referee.n_running == 2
    begun.clear()
    del trials[0]
    assert stop.stop_all()
