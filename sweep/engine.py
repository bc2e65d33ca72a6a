"""Executing a plan on Ray: one Tuner for the whole graph, warm worker processes, results in the store."""

import contextlib
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweep.cluster import connected, prepare_environment
from sweep.execute import Science
from sweep.frontier import Frontier
from sweep.groups import GroupWatch
from sweep.interrupt import Interrupts
from sweep.plan import Plan, Run
from sweep.progress import Progress, make_progress
from sweep.scratch import remove_leftovers, scratch
from sweep.shapes import Shapes, bundle_of
from sweep.spec import Compute
from sweep.state import POISONED
from sweep.store import Store

if TYPE_CHECKING:
    from sweep.schedule import Feed
    from sweep.worker import Job


RECORDED = {"died": "WorkerDied", "node_lost": "NodeLost"}
"""Ends of which the driver writes the record, since the run could not: outcome to kind of failure."""


@dataclass(frozen=True)
class Outcome:
    """How an execution ended."""

    done: frozenset[str]
    failed: dict[str, str]
    blocked: frozenset[str]
    interrupted: bool


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
) -> Outcome:
    """Execute `todo`, whose other parents are in the store.

    Args:
        cpu_threads: Threads of a pretraining run; finetuning runs bring their own.
        address: A Ray cluster; None for RAY_ADDRESS, or else a Ray of our own on this machine.
        science: What computes a run, for benchmarks of the engine.
        feed: What adds runs to the plan as it goes.

    Raises:
        SweepError: Ray cannot be reached, or no node is large enough for a run.
    """
    prepare_environment()
    from sweep.worker import Job  # imports Ray, which reads the environment

    frontier = Frontier(plan, frozenset(todo), retries=compute.retries)
    if feed is not None:
        feed.attach(frontier)
    remove_leftovers()
    with Interrupts() as interrupts, connected(address) as cluster, scratch("w2s-tune-") as tune_folder:
        shapes = Shapes(compute, cpu_threads, has_gpus=cluster.has_gpus)
        shapes.check(frontier, plan, cluster)
        with make_progress(frontier) as progress:
            job = Job({i: plan.runs[i] for i in frontier.todo}, store, compute.checkpoint_every_seconds, science)

            with GroupWatch() as groups:
                _tune(frontier, job, compute, shapes, progress, tune_folder, feed, interrupts, groups)
            job.stop.withdraw()
    return Outcome(frozenset(frontier.done), frontier.failed, frozenset(frontier.blocked), not frontier.finished)


def _tune(
    frontier: Frontier,
    job: "Job",
    compute: Compute,
    shapes: Shapes,
    progress: Progress,
    tune_folder: str,
    feed: "Feed | None",
    interrupts: Interrupts,
    groups: GroupWatch,
) -> None:
    """Hands out runs until nothing is left that could start, or until it is asked to stop."""
    from ray import tune

    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would abandon what runs
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # of a dead worker, the progress display tells
    from sweep.referee import Referee, StopWhenAsked
    from sweep.schedule import PlanSearcher
    from sweep.worker import RunTrainable

    referee = Referee()

    def on_end(run: Run, outcome: str, message: str, again: bool) -> None:
        if outcome in RECORDED:  # and could not record it itself
            groups.look()
            kind = RECORDED[outcome] if again else POISONED
            with contextlib.suppress(OSError):
                job.store.record_failure(run.run_id, kind, message, referee.last_words)
        progress.ended(run, "retry" if again and outcome != "interrupted" else outcome, message)

    trainable = tune.with_parameters(RunTrainable, job=job)
    searcher = PlanSearcher(
        frontier,
        shape_of=shapes.of,
        on_start=progress.started,
        on_end=on_end,
        feed=feed,
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
            max_concurrent_trials=compute.max_parallel,
        ),
        run_config=tune.RunConfig(
            storage_path=tune_folder,
            name="sweep",
            verbose=0,
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
        progress.say(f"stopping: {which} (short ones finish); Ctrl-C again quits at once")

    interrupts.install(ask_to_stop)
    tuner.fit()
    if searcher.error is not None:
        raise searcher.error
