"""What Ray says of a lost process, and what we make of it; the texts are Ray 2.60's own."""

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from sweep.deaths import KILLED, NODE_LOST, OUT_OF_HOST_MEMORY, Death, death_of, death_within, own_error
from sweep.frontier import DEATHS_FORGIVEN, NODE_LOSSES_FORGIVEN, Frontier
from sweep.plan import Plan, Run
from w2s.errors import TrainingError

ACTOR = "The actor died unexpectedly before finishing this task.\n\tclass_name: A\n"
PROCESS = ACTOR + (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed "
    "unexpectedly due to SIGSEGV or another unexpected error. If the process was killed by the kernel OOM killer "
    "(verifiable by checking for OOM in dmesg of the OOMing node), consider enabling resource isolation via "
    "--enable-resource-isolation to prevent node deaths by resource contention and significant loss of progress by "
    "uninformed kernel OOM killing."
)
NODE = ACTOR + (
    "The actor died because its node has died. Node Id: df12\n\tthe actor's node was terminated unexpectedly: health "
    "check failed due to missing too many heartbeats"
)
MEMORY = ACTOR + "Task was killed due to the node running low on memory."


def actor_died(text: str) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = text
    return error


@pytest.mark.parametrize(
    ("error", "death"),
    [
        (actor_died(PROCESS), Death("died", KILLED)),
        (actor_died(NODE), Death("node_lost", NODE_LOST)),
        (actor_died(MEMORY), Death("died", OUT_OF_HOST_MEMORY)),
        (RayActorError(preempted=True), Death("node_lost", NODE_LOST)),
        (NodeDiedError("The node is dead or unreachable: its node has died"), Death("node_lost", NODE_LOST)),
        (OutOfMemoryError("Task was killed due to the node running low on memory."), Death("died", OUT_OF_HOST_MEMORY)),
        (None, Death("died", KILLED)),
    ],
)
def test_a_lost_machine_is_told_from_a_process_that_died(error, death):
    assert death_of(error) == death


def test_a_worker_of_a_group_that_died_is_found_behind_what_the_others_say():
    gloo = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1234")
    both = WorkerGroupError("rank 0: ... rank 1: ...", {0: gloo, 1: actor_died(NODE)})
    assert death_within(both) == Death("node_lost", NODE_LOST)
    seen_first_by_train = WorkerHealthCheckFailedError("A worker health check failed.", actor_died(PROCESS))
    assert death_within(WorkerGroupError("rank 1: ...", {1: seen_first_by_train})) == Death("died", KILLED)
    assert death_within(WorkerGroupError("rank 0: ...", {0: gloo})) == Death("died", KILLED)
    assert death_within(WorkerGroupError("rank 0: ...", {0: ValueError("a shape is wrong")})) is None


def test_the_error_of_the_run_itself_comes_out_of_the_group():
    own = TrainingError("the loss is NaN")
    assert own_error(WorkerGroupError("rank 0: ...", {0: own})) is own


def test_lost_machines_are_forgiven_far_more_often_than_dying_processes_and_an_interruption_costs_nothing():
    plan = Plan(runs={"r": Run("r", "pretrain", "rung", 0, (), work=1, memory=0)}, pairs=(), requested=0)
    frontier = Frontier(plan, {"r"}, retries=0)
    for _ in range(NODE_LOSSES_FORGIVEN):
        assert frontier.pop() == "r"
        assert frontier.lose_node("r", "away")
        assert frontier.pop() == "r"
        frontier.put_back("r")
    for _ in range(DEATHS_FORGIVEN):
        assert frontier.pop() == "r"
        assert frontier.fail("r", "dead", died=True)
    assert frontier.pop() == "r"
    assert not frontier.fail("r", "dead", died=True)
    again = Frontier(plan, {"r"}, retries=0)
    for _ in range(NODE_LOSSES_FORGIVEN):
        again.pop()
        assert again.lose_node("r", "away")
    again.pop()
    assert not again.lose_node("r", "away")  # but not for ever
    assert again.failed == {"r": "away"}
