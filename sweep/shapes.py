"""The resources that a run asks Ray for."""

from sweep.cluster import Cluster
from sweep.errors import SweepError
from sweep.frontier import Frontier
from sweep.plan import Plan, Run
from sweep.resources import gpu_share
from sweep.spec import Compute

TABLES_ONLY = ("tokenizer", "labels", "probe")
"""Kinds that have no use for a GPU."""


def bundle_of(shape: dict[str, float]) -> dict[str, float]:
    """What of a shape Ray is asked for; the rest is for the trainable."""
    return {name: amount for name, amount in shape.items() if name in ("CPU", "GPU", "train_slot")}


class Shapes:
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

    def check(self, frontier: Frontier, plan: Plan, cluster: Cluster) -> None:
        """Raises SweepError if some run asks for more than any node of the cluster has."""
        if not cluster.is_own:  # it may grow a larger node on demand
            return
        nodes = cluster.kinds
        for run_id in frontier.todo:
            wanted = bundle_of(self.of(plan.runs[run_id]))
            if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
                asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
                largest = max(nodes, key=lambda node: node.get("CPU", 0), default={})
                have = ", ".join(f"{largest.get(name, 0):g} {name}" for name in wanted)
                raise SweepError(
                    f"{plan.runs[run_id].label}: asks for {asked} on one machine; the largest here has {have}. "
                    "Lower finetune.cpu_threads, compute.gpus_per_run or compute.devices_per_run"
                )
