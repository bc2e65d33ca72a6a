"""The Ray Tune trainable: a process that stays warm and takes one run after the other, each through Ray Train."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from ray import tune

from sweep.errors import StorageError
from sweep.execution.deaths import Death, death_within, own_error
from sweep.execution.execute import Placement, Science, execute
from sweep.execution.interrupt import StopRequest
from sweep.execution.schedule import OUTCOME, TWICE
from sweep.execution.shapes import worker_bundle
from sweep.execution.temporary import remove_leftovers, scratch
from sweep.plan import Run
from sweep.storage.store import REFUSED, Store
from w2s.errors import InterruptedRunError, OutOfMemoryError


@dataclass(frozen=True)
class Job:
    """What all runs of an execution share; sent to the workers once."""

    runs: Mapping[str, Run]
    """Those that were known then; later ones come with their own trial."""
    store: Store
    checkpoint_every_seconds: float
    science: Science | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    """What asks the runs to stop."""


class WorkerLostError(Exception):
    """A worker of the group of a run on several devices died; the trial's own process is sound."""

    def __init__(self, death: Death) -> None:
        super().__init__(death.message)
        self.death = death


class RunTrainable(tune.Trainable):
    """One `step` is one run. `setup` and `reset_config` have no effects: Tune may discard an actor that never steps."""

    def setup(self, config: dict, job: "Job | None" = None) -> None:
        assert job is not None
        self._job, self._config = job, config

    def reset_config(self, new_config: dict) -> bool:
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        job, shape = self._job, self._config["shape"]
        run = self._config.get("run") or job.runs[self._config["run_id"]]
        placement = Placement(
            micro_batch_divisor=self._config["divisor"],
            checkpoint_every_seconds=job.checkpoint_every_seconds,
            sharded=bool(shape.get("fsdp")),
            should_stop=job.stop,
        )
        if job.stop():  # handed out just before it was asked
            return {"done": True, OUTCOME: "interrupted"}
        try:
            if job.store.done(run.run_id):  # by another driver in the meantime
                return {"done": True, OUTCOME: "done"}
            won = train(run, job, placement, shape)
        except InterruptedRunError as error:
            return {"done": True, OUTCOME: "interrupted", "message": str(error)}
        except OutOfMemoryError as error:
            return {"done": True, OUTCOME: "out_of_memory", "message": str(error)}
        except WorkerLostError as error:  # of the worker group, not this process
            return {"done": True, OUTCOME: error.death.loss, "message": error.death.message}
        except StorageError as error:
            return {"done": True, OUTCOME: "storage", "message": _first_line(error)}
        except Exception as error:  # recorded in the store already; the process is sound and takes the next run
            if _device_is_broken(error):
                raise
            return {"done": True, OUTCOME: "failed", "message": _first_line(error)}
        finally:
            _release_device_memory()
        return {"done": True, OUTCOME: "done"} if won else {"done": True, OUTCOME: "done", TWICE: True}


def train(run: Run, job: Job, placement: Placement, shape: Mapping[str, float]) -> bool:
    """Execute one run through Ray Train: in this process for one device, in a worker group for several.

    Returns:
        Whether this attempt became the run's result, and not an equal one of another driver.
    """
    devices, use_gpu = int(shape.get("devices", 1)), bool(shape.get("use_gpu"))
    import ray.train.torch  # brings torch, which the driver does without
    from ray.train.torch import TorchTrainer

    class _Trainer(TorchTrainer):
        """Without Train's detached actor that removes placement groups: it waits for ever where there is no dashboard,
        and `sweep.execution.groups` does its work."""

        def _create_default_callbacks(self) -> list:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]

    raised: list[Exception] = []
    refused: list[bool] = []

    def loop() -> None:
        context = ray.train.get_context()
        here = replace(
            placement,
            device=str(ray.train.torch.get_device()) if use_gpu else "cpu",
            rank=context.get_world_rank(),
            world=context.get_world_size(),
        )
        try:
            if not execute(run, job.store, here, job.science):
                refused.append(True)
        except Exception as error:
            if devices > 1:  # in another process: Train brings it here
                raise
            raised.append(error)  # Train would wrap it, and log it as a crash

    _clean_once()
    with scratch("w2s-train-") as folder:
        workers = devices if devices > 1 else 0  # 0: local mode, this process
        refused_before = _refused(run, job.store) if workers else set()
        trainer = _Trainer(
            loop,
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=use_gpu, resources_per_worker=worker_bundle(shape) if workers else None
            ),
            run_config=ray.train.RunConfig(storage_path=folder, name="run"),
        )
        try:
            trainer.fit()
        except Exception as error:
            own = own_error(error)
            if own is error and devices > 1 and (death := death_within(error)):
                raise WorkerLostError(death) from error
            raise own from error
    if raised:
        raise raised.pop()  # out of the list, or the error would keep its run's tensors alive in a cycle
    if workers:  # `refused` was another process's
        return not _refused(run, job.store) - refused_before
    return not refused


def _refused(run: Run, store: Store) -> set[str]:
    """Marks of attempts at a run that ended well when another one was the result already."""
    return {name for name in store.listing("runs", run.run_id, "attempts") if name.endswith(f"/{REFUSED}")}


@cache
def _clean_once() -> None:
    """On every machine, what killed workers left there."""
    remove_leftovers()


def _release_device_memory() -> None:
    """Leave a GPU to the neighbours between runs."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _device_is_broken(error: Exception) -> bool:
    """After a CUDA error other than running out of memory, nothing in this process can be trusted."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
