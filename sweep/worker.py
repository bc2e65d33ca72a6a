"""The Ray Tune trainable: a process that stays warm and takes one run after the other, each through Ray Train."""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray import tune

from sweep.execute import Placement, Science, execute
from sweep.plan import Run
from sweep.schedule import OUTCOME
from sweep.shapes import worker_bundle
from sweep.store import Store
from w2s.errors import OutOfMemoryError, W2SError


@dataclass(frozen=True)
class Job:
    """What all runs of an execution share; sent to the workers once."""

    runs: Mapping[str, Run]
    """Those that were known then; later ones come with their own trial."""
    store: Store
    checkpoint_every_seconds: float
    science: Science | None = None


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
        )
        if job.store.done(run.run_id):  # by another driver in the meantime
            return {"done": True, OUTCOME: "done"}
        try:
            train(run, job, placement, shape)
        except OutOfMemoryError as error:
            return {"done": True, OUTCOME: "out_of_memory", "message": str(error)}
        except Exception as error:  # recorded in the store already; the process is sound and takes the next run
            if _device_is_broken(error):
                raise
            return {"done": True, OUTCOME: "failed", "message": _first_line(error)}
        finally:
            _release_device_memory()
        return {"done": True, OUTCOME: "done"}


def train(run: Run, job: Job, placement: Placement, shape: Mapping[str, float]) -> None:
    """Execute one run through Ray Train: in this process for one device, in a worker group for several."""
    devices, use_gpu = int(shape.get("devices", 1)), bool(shape.get("use_gpu"))
    import ray.train.torch  # brings torch, which the driver does without
    from ray.train.torch import TorchTrainer

    raised: list[Exception] = []

    def loop() -> None:
        context = ray.train.get_context()
        here = replace(
            placement,
            device=str(ray.train.torch.get_device()) if use_gpu else "cpu",
            rank=context.get_world_rank(),
            world=context.get_world_size(),
        )
        try:
            execute(run, job.store, here, job.science)
        except Exception as error:
            if devices > 1:  # in another process: Train brings it here
                raise
            raised.append(error)  # Train would wrap it, and log it as a crash

    with tempfile.TemporaryDirectory(prefix="w2s-train-") as folder:
        workers = devices if devices > 1 else 0  # 0: local mode, this process
        trainer = TorchTrainer(
            loop,
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=use_gpu, resources_per_worker=worker_bundle(shape) if workers else None
            ),
            run_config=ray.train.RunConfig(storage_path=folder, name="run"),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise _own_error(error) from error
    if raised:
        raise raised.pop()  # out of the list, or the error would keep its run's tensors alive in a cycle


def _own_error(error: BaseException) -> Exception:
    """The error of ours inside what Ray Train makes of the failure of a worker group, if there is one."""
    queue, seen = [error], set()
    while queue:
        item = queue.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, W2SError):
            return item
        inner = [*getattr(item, "worker_failures", {}).values(), item.__cause__, getattr(item, "_base_exc", None)]
        queue += [other for other in inner if isinstance(other, BaseException)]
    return error if isinstance(error, Exception) else RuntimeError(str(error))


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
