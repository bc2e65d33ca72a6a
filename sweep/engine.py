"""Executing a plan on Ray: one Tuner for the whole graph, warm worker processes, results in the store."""

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweep.errors import SweepError
from sweep.execute import Science
from sweep.frontier import Frontier
from sweep.plan import Plan, Run
from sweep.progress import Progress, make_progress
from sweep.resources import gpu_share
from sweep.spec import Compute
from sweep.store import Store

if TYPE_CHECKING:
    from sweep.schedule import Feed
    from sweep.worker import Job

TABLES_ONLY = ("tokenizer", "labels", "probe")
"""Kinds that have no use for a GPU."""
OBJECT_STORE_BYTES = 200 * 1024 * 1024
"""For Ray's shared memory on a laptop: it holds the plan and little else."""


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
    _environment()
    from sweep.worker import Job  # imports Ray, which reads the environment

    frontier = Frontier(plan, frozenset(todo), retries=compute.retries)
    if feed is not None:
        feed.attach(frontier)
    with _ray(address) as resources, _scratch() as tune_folder:
        shapes = _Shapes(compute, cpu_threads, has_gpus=resources.get("GPU", 0) > 0)
        if address is None and "RAY_ADDRESS" not in os.environ:  # a cluster may grow a larger node on demand
            shapes.check(frontier, plan)
        with make_progress(frontier) as progress:
            job = Job({i: plan.runs[i] for i in frontier.todo}, store, compute.checkpoint_every_seconds, science)
            interrupted = _tune(frontier, job, compute, shapes, progress, tune_folder, feed)
    return Outcome(frozenset(frontier.done), frontier.failed, frozenset(frontier.blocked), interrupted)


def _tune(
    frontier: Frontier,
    job: "Job",
    compute: Compute,
    shapes: "_Shapes",
    progress: Progress,
    tune_folder: str,
    feed: "Feed | None",
) -> bool:
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # of a dead worker, the progress display tells
    from sweep.schedule import PlanSearcher
    from sweep.worker import RunTrainable

    def on_end(run: Run, outcome: str, message: str, again: bool) -> None:
        if outcome == "died":  # and could not record it itself
            with contextlib.suppress(OSError):
                job.store.record_failure(run.run_id, "WorkerDied", message)
        progress.ended(run, "retry" if again else outcome, message)

    trainable = tune.with_parameters(RunTrainable, job=job)
    searcher = PlanSearcher(frontier, shape_of=shapes.of, on_start=progress.started, on_end=on_end, feed=feed)
    tuner = tune.Tuner(
        tune.with_resources(trainable, lambda config: tune.PlacementGroupFactory([_bundle(config["shape"])])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            reuse_actors=True,
            max_concurrent_trials=compute.max_parallel,
        ),
        run_config=tune.RunConfig(
            storage_path=tune_folder,
            name="sweep",
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),  # the frontier counts attempts of all kinds
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    except KeyboardInterrupt:
        return True
    if searcher.error is not None:
        raise searcher.error
    return not frontier.finished


def _bundle(shape: dict[str, float]) -> dict[str, float]:
    """What of a shape Ray is asked for; the rest is for the trainable."""
    return {name: amount for name, amount in shape.items() if name in ("CPU", "GPU", "train_slot")}


class _Shapes:
    """The resources that runs ask Ray for: few different ones, so that warm processes can be reused."""

    def __init__(self, compute: Compute, cpu_threads: int, *, has_gpus: bool) -> None:
        self._compute, self._threads, self._has_gpus = compute, cpu_threads, has_gpus

    def of(self, run: Run) -> dict[str, float]:
        gpus = self._compute.gpus_per_run
        if gpus == "auto":
            share = gpu_share(run.memory, self._compute.gpu_memory_gb * 1e9)
            gpus = share if self._has_gpus and run.kind not in TABLES_ONLY else 0.0
        if run.kind in ("ground_truth", "transfer") and self._compute.devices_per_run > 1:
            # Ray Train's own workers take the CPUs and GPUs; a trial that held them would wait for itself.
            return {"train_slot": 1, "devices": self._compute.devices_per_run, "use_gpu": float(self._has_gpus)}
        threads = float(run.settings.cpu_threads if run.settings else self._threads)
        return {"CPU": 1.0, "GPU": float(gpus), "use_gpu": 1.0} if gpus else {"CPU": threads}

    def check(self, frontier: Frontier, plan: Plan) -> None:
        """Raises SweepError if some run asks for more than any node of the cluster has."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for run_id in frontier.todo:
            wanted = _bundle(self.of(plan.runs[run_id]))
            if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
                asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
                largest = max(nodes, key=lambda node: node.get("CPU", 0), default={})
                have = ", ".join(f"{largest.get(name, 0):g} {name}" for name in wanted)
                raise SweepError(
                    f"{plan.runs[run_id].label}: asks for {asked} on one machine; the largest here has {have}. "
                    "Lower finetune.cpu_threads, compute.gpus_per_run or compute.devices_per_run"
                )


def _environment() -> None:
    """Settings that Ray reads when it is imported or started; a user's own values win."""
    for name, value in {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # runs without a GPU keep CUDA_VISIBLE_DEVICES as it is
        "RAY_DEDUP_LOGS": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a third of the cost per run, for files nobody reads
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def ray_kept() -> Iterator[None]:
    """Within this, the Ray that a `run_plan` started serves the next ones; starting one takes seconds."""
    global _keep
    _keep = True
    try:
        yield
    finally:
        _keep = False
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            ray.shutdown()


_keep = False


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[dict[str, float]]:
    """A connection to a running cluster, or a Ray of our own on this machine for as long as the sweep takes."""
    import ray

    if _keep and ray.is_initialized():
        yield dict(ray.cluster_resources())
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if not address:
        cpus = len(os.sched_getaffinity(0))
        options |= {
            "address": "local",
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "resources": {"train_slot": cpus},
        }
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at '{address}' cannot be reached" if address else "Ray did not start on this machine"
        raise SweepError(f"{where}: {str(error).splitlines()[0]}") from None
    try:
        yield dict(ray.cluster_resources())
    finally:
        if not _keep:
            ray.shutdown()


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder for Ray Tune's own files, which nobody needs afterwards: what is done, the store knows."""
    folder = tempfile.mkdtemp(prefix="w2s-tune-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
