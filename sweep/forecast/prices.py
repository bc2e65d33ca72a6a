"""GPUs by name: memory, peak rates, and what an hour of one costs to rent.

Peak rates are the vendor's, dense (without sparsity). Prices are APPROXIMATE public list prices of one GPU for an hour,
from the cheapest interruptible offer seen to a large cloud's on-demand price, in US dollars without tax, storage and
traffic. They change weekly and differ several times over between providers; `--price LOW-HIGH` of `w2s plan` replaces
them. Nothing is looked up.
"""

from dataclasses import dataclass

from sweep.errors import SweepError, nearest
from sweep.execution.shapes import USABLE

PRICES_OF = "2026-06"
"""Month that the prices are of, unless their note says otherwise."""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU that can be rented."""

    name: str
    """Model and memory in GB."""
    memory: float
    """Bytes, decimal as vendors count."""
    bf16: float | None
    """Dense peak of bfloat16 matrix products in FLOP/s, accumulated in float32; None where it is only emulated, and at
    best as fast as float32."""
    fp32: float
    """Peak of float32 in FLOP/s, without TF32, which nothing here turns on."""
    price: tuple[float, float]
    """US dollars per GPU-hour, lowest and highest."""
    note: str
    """Where the two prices are from."""

    def peak(self, precision: str) -> float:
        """FLOP/s in a precision of the settings; `auto` is bf16, as on every GPU."""
        return self.fp32 if precision == "fp32" or self.bf16 is None else self.bf16


def _gpu(name: str, bf16: float | None, fp32: float, low: float, high: float, note: str) -> Gpu:
    memory = float(name.rpartition("-")[2]) * 1e9
    return Gpu(name, memory, bf16 and bf16 * 1e12, fp32 * 1e12, (low, high), note)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("t4-16", None, 8.1, 0.15, 0.55, "AWS g4dn.xlarge spot and on-demand, 2025"),
        _gpu("v100-16", None, 15.7, 0.75, 3.06, "GCP spot to AWS p3.2xlarge on-demand, 2025"),
        _gpu("v100-32", None, 15.7, 1.00, 3.90, "AWS p3dn.24xlarge / 8, spot and on-demand, 2025"),
        _gpu("a10g-24", 70, 31.2, 0.40, 1.01, "AWS g5.xlarge spot and on-demand, 2025"),
        _gpu("l4-24", 121, 30.3, 0.28, 0.81, "GCP spot to AWS g6.xlarge on-demand"),
        _gpu("rtx4090-24", 165, 82.6, 0.22, 0.88, "RunPod spot to Vast.ai on-demand"),
        _gpu("l40s-48", 362, 91.6, 0.40, 1.86, "Vast.ai spot to AWS g6e.xlarge on-demand"),
        _gpu("a100-40", 312, 19.5, 0.40, 4.10, "Vast.ai interruptible to AWS p4d.24xlarge / 8 on-demand"),
        _gpu("a100-80", 312, 19.5, 0.78, 4.50, "Vast.ai interruptible to large clouds' on-demand"),
        _gpu("h100-80", 989, 67, 1.50, 7.20, "Vast.ai spot to large clouds' on-demand"),
        _gpu("h200-141", 989, 67, 2.50, 7.00, "marketplaces to large clouds' on-demand"),
    )
}
"""By memory, then by age."""


def find_gpu(name: str) -> Gpu:
    """The GPU of this name; upper case, and a name without memory where there is one such GPU, will do.

    Raises:
        SweepError: There is none; names the nearest and lists all.
    """
    wanted = name.lower().replace("_", "-")
    alike = [gpu for gpu in GPUS.values() if wanted in (gpu.name, gpu.name.rpartition("-")[0])]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise SweepError(f"--gpu {name}: which one, {' or '.join(gpu.name for gpu in alike)}?")
    hint = nearest(wanted, GPUS)
    listed = "" if hint.startswith("; there is") else f" There is {', '.join(GPUS)}."
    raise SweepError(f"--gpu {name}: no GPU of that name is known{hint}{listed}")


def smallest_that_holds(memory: float) -> Gpu | None:
    """The GPU with the least memory that holds a run of so many bytes, the cheapest of these; None if there is none."""
    fitting = [gpu for gpu in GPUS.values() if fits(memory, gpu.memory)]
    return min(fitting, key=lambda gpu: (gpu.memory, gpu.price), default=None)


def fits(memory: float, gpu_memory: float) -> bool:
    """Whether a run of so many bytes may be put on one GPU."""
    return memory <= USABLE * gpu_memory
