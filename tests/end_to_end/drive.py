"""Running the command line as a user would, and comparing what it leaves."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sweep.session import Session
from sweep.storage.store import Store

W2S = str(Path(sys.executable).with_name("w2s"))


@dataclass(frozen=True)
class Results:
    """A storage, read for comparison."""

    spec: Path
    storage: Path

    @property
    def session(self) -> Session:
        return Session.open(str(self.spec), str(self.storage))

    @property
    def store(self) -> Store:
        return Store(self.storage)

    def attempts(self) -> dict[str, str]:
        """Which attempt made each finished run."""
        return {run_id: done.attempt for run_id in self.store.run_folders() if (done := self.store.done(run_id))}

    def predictions(self) -> dict[str, pl.DataFrame]:
        runs = {i: run for i, run in self.session.plan.runs.items() if run.task is not None}
        return {i: pl.read_parquet(self.store.read(i, "predictions.parquet")) for i in runs if self.store.done(i)}


def w2s(*words: object, check: int | None = 0, cwd: Path) -> str:
    """Run a command as a user would; its output. `check` is the exit code it must have."""
    result = subprocess.run(
        [W2S, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300, env=environment()
    )
    text = result.stdout + result.stderr
    assert check is None or result.returncode == check, text
    assert "Traceback" not in text, text
    return text


def until(condition: Callable[[], Any], process: subprocess.Popen, told: Callable[[], str], seconds: float) -> None:
    """Returns once the condition holds, and fails with what the process told if that ends first or takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, told()
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)  # between looks at a condition; nothing depends on its length


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def assert_same_results(one: Results, other: Results) -> None:
    """Bitwise equal predictions of the same runs."""
    mine, theirs = one.predictions(), other.predictions()
    assert mine.keys() == theirs.keys()
    for run_id, frame in mine.items():
        assert frame.equals(theirs[run_id]), run_id
