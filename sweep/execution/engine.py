"""Executing a plan on Ray: one Tuner for the whole graph, warm worker processes, results in the store."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweep.execution.cluster import Cluster, check_places, connected, ended_children, prepare_environment
from sweep.execution.execute import Science
from sweep.execution.frontier import Frontier
from sweep.execution.groups import GroupWatch
from sweep.execution.interrupt import Interrupts
from sweep.execution.measured import learn, out_of_memory_before, read_measurement
from sweep.execution.progress import Progress, make_progress
from sweep.execution.room import Room, Started, live_nodes
from sweep.execution.shapes import Shapes, bundle_of, pending_trials
from sweep.execution.starting import starting_kept
from sweep.execution.temporary import remove_leftovers, scratch
from sweep.plan import Plan, Run
from sweep.spec import Compute
from sweep.state import POISONED
from sweep.storage.store import Store

if TYPE_CHECKING:
    from sweep.execution.schedule import Feed, Learning
    from sweep.execution.trackers import Trackers
    from sweep.execution.tracking import TrackingJob
    from sweep.execution.worker import Job


RECORDED = {"died": "WorkerDied", "node_lost": "NodeLost"}
"""Ends of which the driver writes the record, since the run could not: outcome to kind of failure."""


@dataclass(frozen=True)
class Outcome:
    """How an execution ended."""

    done: frozenset[str]
    failed: dict[str, str]
    blocked: frozenset[str]
    interrupted: bool
    twice: frozenset[str] = frozenset()
    """Runs that another driver finished first, with an equal result."""


@dataclass(frozen=True)
class _Execution:
    """What an execution consists of, beside Ray Tune."""

    frontier: Frontier
    job: "Job"
    shapes: Shapes
    learning: "Learning"
    progress: Progress
    interrupts: Interrupts
    groups: GroupWatch
    feed: "Feed | None"
    trackers: "Trackers | None"


def run_plan(
    plan: Plan,
    todo: Collection[str],
    store: Store,
    compute: Compute,
    *,
    cpu_threads: int = 1,
    address: str | None = None,
    science: Science | None = None,
    feed: "Feed | None" = None,
    tracking: "TrackingJob | None" = None,
) -> Outcome:
    """Execute `todo`, whose other parents are in the store.

    Args:
        cpu_threads: Threads of a pretraining run; finetuning runs bring their own.
        address: A Ray cluster; None for RAY_ADDRESS, or else a Ray of our own on this machine.
        science: What computes a run, for benchmarks of the engine.
        feed: What adds runs to the plan as it goes.
        tracking: The experiment trackers that are told of finished runs.

    Raises:
        SweepError: Ray cannot be reached, or no node is large enough for a run.
    """
    prepare_environment()
    from sweep.execution.worker import Job  # imports Ray, which reads the environment

    frontier = Frontier(plan, frozenset(todo), retries=compute.retries)
    if feed is not None:
        feed.attach(frontier)
    remove_leftovers()
    trackers = tracking.open() if tracking is not None else None
    with Interrupts() as interrupts, connected(address) as cluster, scratch("w2s-tune-") as tune_folder:
        if not cluster.is_own:
            check_places((plan.runs[i] for i in frontier.todo), store)
        shapes, learning = _packing(frontier, store, compute, cpu_threads, cluster)
        shapes.check(frontier, plan, cluster)
        with (
            make_progress(frontier, lambda run_id: next(reversed(store.heartbeats(run_id)), None)) as progress,
            pending_trials(shapes.pending(frontier, plan, cluster)),
            starting_kept(not cluster.is_own),
            GroupWatch() as groups,
        ):
            job = Job({i: plan.runs[i] for i in frontier.todo}, store, compute.checkpoint_every_seconds, science)
            twice = _tune(
                _Execution(frontier, job, shapes, learning, progress, interrupts, groups, feed, trackers),
                max_parallel=compute.max_parallel,
                folder=tune_folder,
            )
            job.stop.withdraw()
    return Outcome(
        frozenset(frontier.done), frontier.failed, frozenset(frontier.blocked), not frontier.finished, frozenset(twice)
    )


def _packing(
    frontier: Frontier, store: Store, compute: Compute, cpu_threads: int, cluster: Cluster
) -> "tuple[Shapes, Learning]":
    """What earlier executions tell of memory and time, and the shapes that follow."""
    from sweep.execution.schedule import Learning

    plan = frontier.plan
    learned = learn(plan, plan.runs.keys() - frontier.todo, store)
    shapes = Shapes(compute, cpu_threads, cluster=cluster, learned=learned)
    frontier.can_grow = shapes.can_grow
    for run_id, failures in out_of_memory_before(frontier.todo, store).items():
        frontier.repeat_ladder(run_id, failures)
    return shapes, Learning(frontier, learned, read=lambda run: read_measurement(run, store), gpu=shapes.uses_gpu)


def _tune(execution: _Execution, *, max_parallel: int | None, folder: str) -> set[str]:
    """Hands out runs until nothing is left that could start, or until it is asked to stop.

    Returns:
        The runs that another driver finished first.
    """
    from ray import tune

    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would abandon what runs
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # of a dead worker, the progress display tells
    from sweep.execution.referee import Referee, StopWhenAsked
    from sweep.execution.schedule import PlanSearcher
    from sweep.execution.waiting import Waiting
    from sweep.execution.worker import RunTrainable

    job, shapes, progress, frontier = execution.job, execution.shapes, execution.progress, execution.frontier
    interrupts, trackers = execution.interrupts, execution.trackers
    started = Started(job.store.signs, time.monotonic)
    referee = Referee(started)

    def on_end(run: Run, outcome: str, message: str, again: bool) -> None:
        if outcome in RECORDED:  # and could not record it itself
            execution.groups.look()
            kind = RECORDED[outcome] if again else POISONED
            with contextlib.suppress(OSError):
                job.store.record_failure(run.run_id, kind, message, referee.last_words)
        progress.ended(run, "retry" if again and outcome != "interrupted" else outcome, message)

    trainable = tune.with_parameters(RunTrainable, job=job)
    room = Room(live_nodes, started)
    waiting = Waiting(lambda: [frontier.plan.runs[run_id].label for run_id in room.lacking()], progress.say)
    searcher = PlanSearcher(
        frontier,
        shape_of=lambda run: shapes.of(run, frontier.growth(run)),
        on_start=progress.started,
        on_end=on_end,
        feed=execution.feed,
        room=room,
        started=started,
        learning=execution.learning,
        stopping=lambda: interrupts.requested,
        death_of=referee.death_of,
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, lambda config: tune.PlacementGroupFactory([bundle_of(config["shape"])])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=referee,
            num_samples=-1,
            reuse_actors=True,
            max_concurrent_trials=max_parallel,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            name="sweep",
            verbose=0,
            callbacks=[waiting, trackers.callback] if trackers is not None else [waiting],
            stop=StopWhenAsked(lambda: interrupts.requested, referee),
            failure_config=tune.FailureConfig(max_failures=0),  # the frontier counts attempts of all kinds
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )

    def ask_to_stop() -> None:
        try:
            job.stop.make()
        except Exception as error:
            progress.say(f"stopping, but Ray does not answer ({error}); Ctrl-C again quits at once")
            return
        n = referee.n_running
        which = "a run saves its state and ends" if n == 1 else f"{n} runs save their state and end"
        what = f"{which} (short ones finish)" if n else "no run has begun that had to save its state"
        progress.say(f"stopping: {what}; Ctrl-C again quits at once")

    fitted, ended = threading.Event(), ended_children()
    interrupts.install(ask_to_stop, is_lost=lambda: not fitted.is_set() and bool(ended_children() - ended))
    try:
        tuner.fit()
    finally:
        fitted.set()
    if searcher.error is not None:
        raise searcher.error
    return searcher.twice
