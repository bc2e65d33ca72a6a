"""kill -9 at any moment, then the same command: finished runs are kept, and the end is as if nothing had happened."""

import contextlib
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.drive import W2S, Results, assert_same_results, environment, w2s

pytestmark = pytest.mark.slow
DEADLINE_SECONDS = 120.0


def start(spec: Path, storage: Path, command: str = "run") -> subprocess.Popen:
    return subprocess.Popen(
        [W2S, command, str(spec), "--storage", str(storage), "--no-report"],
        cwd=spec.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )


def until(condition, driver: subprocess.Popen) -> None:
    """Wait until something is there, or the driver ends."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition() and driver.poll() is None:
        assert time.monotonic() < deadline, "the sweep does not get anywhere"
        time.sleep(0.02)  # between looks at a condition; nothing depends on its length


def tree(driver: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(driver.pid).children(recursive=True)


def workers(driver: subprocess.Popen) -> list[psutil.Process]:
    """The processes that train: Ray names them after the trainable."""
    found = []
    for process in tree(driver):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "Trainable" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_after_each_kill_the_same_command_goes_on(undisturbed, tiny, tmp_path):
    """Of one sweep, in turn: the driver at its start, the whole tree in the middle, the driver near the end."""
    spec = tiny()
    results = Results(spec, tmp_path / "results")
    kept: dict[str, str] = {}
    families: list[psutil.Process] = []
    for victim, finished in (("driver", 0), ("everything", 5), ("driver", 9)):
        driver = start(spec, results.storage)
        until(lambda driver=driver, n=finished: workers(driver) and len(results.attempts()) >= n, driver)
        family = tree(driver)
        kill([psutil.Process(driver.pid)] if victim == "driver" else [psutil.Process(driver.pid), *family])
        assert driver.wait() == -9
        # Ray's processes end with their driver, in their own time: what they still write, two at once must not spoil.
        families += family
        before, kept = kept, results.attempts()
        assert finished <= len(kept) < 13
        assert {run_id: kept[run_id] for run_id in before} == before
    w2s("run", spec, "--storage", results.storage, "--no-report", cwd=tmp_path)
    kill(families)
    after = results.attempts()
    assert len(after) == 13
    assert {run_id: after[run_id] for run_id in kept} == kept
    assert_same_results(undisturbed[0], results)


def test_a_killed_worker_is_replaced_within_the_same_command(undisturbed, tiny, tmp_path):
    spec = tiny()
    results = Results(spec, tmp_path / "results")
    driver = start(spec, results.storage)
    until(lambda: workers(driver) and len(results.attempts()) >= 3, driver)
    kill(workers(driver)[:1])
    assert driver.wait(timeout=DEADLINE_SECONDS) == 0
    assert len(results.attempts()) == 13
    assert_same_results(undisturbed[0], results)
