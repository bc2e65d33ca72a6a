"""What a run asks of the process it lives in: threads, seeds, memory. All effects on global state are here."""

import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from w2s.errors import OutOfMemoryError

_CPU_OUT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|DefaultCPUAllocator", re.IGNORECASE)


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Runs with `threads` threads, then as before. Another count gives other low bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def typed_out_of_memory(what: str) -> Iterator[None]:
    """Turns every way in which torch says that memory ran out into `w2s.errors.OutOfMemoryError`.

    Args:
        what: What was going on, for the message.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(f"out of memory {what}: {_first_line(error)}") from error
    except RuntimeError as error:
        # The CPU allocator raises a plain RuntimeError; its text is all there is to go by.
        if not _CPU_OUT_OF_MEMORY.search(str(error)):
            raise
        raise OutOfMemoryError(f"out of memory {what}: {_first_line(error)}") from error


class PeakMemory:
    """Largest memory from its construction on: the device's for a GPU, the process's resident set for a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.baseline = torch.cuda.memory_allocated(device) if device.type == "cuda" else _resident("VmRSS")
        """Bytes that were held before, by the libraries or by what earlier runs left."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Linux starts the process's high-water mark anew; elsewhere, the mark of the whole process must do.
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:
                return

    def bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _resident("VmHWM")


def _resident(key: str) -> int:
    """Bytes of the process's resident set: now (`VmRSS`) or at most (`VmHWM`); where the system keeps no such count,
    at most in either case."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    match = re.search(rf"{key}:\s+(\d+) kB", status)
    return int(match[1]) * 1024 if match else 0


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class Progress:
    """Tells a caller the fraction done, about a hundred times a run."""

    def __init__(self, report: "object", total: int) -> None:
        self.report, self.total = report, total
        self.every = max(1, total // 100)

    def __call__(self, done: int) -> None:
        if callable(self.report) and (done % self.every == 0 or done == self.total):
            self.report(done / self.total)


class Timer:
    """Says when `seconds` have passed since the last time it said so; never, for None."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def due(self) -> bool:
        if self.seconds is None or time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
