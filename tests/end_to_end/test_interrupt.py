"""Ctrl-C on a real terminal: the first saves what runs and ends, the second ends at once; nothing is left behind."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import subprocess
import tempfile
import termios
import threading
import time
from pathlib import Path

import psutil
import pytest

from sweep.execution.execute import Placement, execute
from tests.end_to_end.drive import W2S, Results, assert_same_results, environment, until, w2s

pytestmark = pytest.mark.slow
DEADLINE_SECONDS = 120.0
LONG = {
    "- {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 40_000}": (
        "- {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 3_000_000}"
    ),
    "seeds: [0]": "seeds: [0]\ncompute: {checkpoint_every_seconds: 0.2}",
}
"""A rung that is pretrained for seconds, so that there is a middle to be interrupted in."""


class Terminal:
    """`w2s run` as the foreground process of a terminal of its own, as after a login."""

    def __init__(self, *words: object, cwd: Path) -> None:
        self._master, slave = pty.openpty()
        self._read = bytearray()
        self.process = subprocess.Popen(
            [W2S, *map(str, words)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=environment() | {"COLUMNS": "200"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self) -> None:
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # the other end is closed
                return
            self._read += data

    @property
    def text(self) -> str:
        """What the screen was sent, without control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._read.decode(errors="replace"))

    def press_ctrl_c(self) -> None:
        """The terminal sends SIGINT to every process in its foreground group."""
        os.write(self._master, b"\x03")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def until(self, condition) -> None:
        until(condition, self.process, lambda: self.text, DEADLINE_SECONDS)

    def wait(self) -> int:
        code = self.process.wait(timeout=DEADLINE_SECONDS)
        self._reader.join(timeout=10)
        os.close(self._master)
        return code


def still_running(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those of a family that have not ended; what has ended may wait for a parent to take note of it."""
    _, alive = psutil.wait_procs(family, timeout=20)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def long(tiny, tmp_path):
    """A sweep with one long run, its results, the arguments that run it and what follows, and that run's id."""
    spec = tiny(LONG)
    results = Results(spec, tmp_path / "results")
    runs = results.session.plan.runs
    long = next(i for i, run in runs.items() if run.kind == "pretrain" and run.rung == "d8")
    after = next(i for i, run in runs.items() if run.kind == "ground_truth" and run.rung == "d8")
    return results, ("run", spec, "--no-report", "--only", after), long


def state_of(results: Results, run_id: str) -> Path:
    return results.storage / "runs" / run_id / "scratch" / "state.pt"


def test_ctrl_c_saves_the_state_and_the_same_command_goes_on_from_it(long, tmp_path):
    results, words, run_id = long
    terminal = Terminal(*words, "--storage", results.storage, cwd=tmp_path)
    state = state_of(results, run_id)
    terminal.until(state.exists)  # it is training
    family, before = terminal.family(), time.time()
    terminal.press_ctrl_c()
    assert terminal.wait() == 130
    assert "stopping: a run saves its state and ends" in terminal.text
    assert "Ctrl-C again quits at once" in terminal.text
    assert "the same command goes on from the saved states" in terminal.text
    assert "Traceback" not in terminal.text
    assert still_running(family) == []
    assert state.stat().st_mtime >= before - 1  # saved on request, or by chance just before
    assert results.store.failures(run_id) == []
    assert results.store.heartbeats(run_id) == []
    assert results.attempts() == {}

    w2s(*words, "--storage", results.storage, cwd=tmp_path)
    assert "goes on from step" in results.store.read(run_id, "log.txt").decode()
    calm = Results(results.spec, tmp_path / "undisturbed")
    plan = calm.session.plan
    for needed in plan.runs:  # without Ray, whose start takes longer
        if needed in results.attempts():
            execute(plan.runs[needed], calm.store, Placement())
    assert_same_results(calm, results)
    weights = "weights/model.safetensors"
    assert results.store.read(run_id, weights) == calm.store.read(run_id, weights)


@pytest.mark.parametrize("by", ["terminal", "SIGTERM"])
def test_the_second_ctrl_c_ends_at_once_and_leaves_nothing(long, tmp_path, by):
    results, words, run_id = long
    terminal = Terminal(*words, "--storage", results.storage, cwd=tmp_path)
    terminal.until(lambda: results.store.heartbeats(run_id))
    family = terminal.family()
    for process in family:  # what runs cannot obey the first
        if "Trainable" in " ".join(process.cmdline()):
            process.send_signal(signal.SIGSTOP)
    press = terminal.press_ctrl_c if by == "terminal" else terminal.process.terminate
    press()
    terminal.until(lambda: "stopping: " in terminal.text)
    assert set(psutil.pids()) >= {process.pid for process in family}  # the first has killed nobody
    press()
    assert terminal.wait() == 130
    assert "ended at once; the same command goes on" in terminal.text
    assert "Traceback" not in terminal.text
    assert still_running(family) == []
    assert not [
        f for f in Path(tempfile.gettempdir()).glob("w2s-tune-*") if f.stat().st_uid == os.getuid() and owner(f)
    ]


@pytest.mark.parametrize("to", ["group", "all"])
def test_sigterm_to_more_than_the_driver(long, tmp_path, to):
    """`timeout` sends it to the process group, which is as good as Ctrl-C; systemd and Slurm to every process."""
    results, words, run_id = long
    terminal = Terminal(*words, "--storage", results.storage, cwd=tmp_path)
    state = state_of(results, run_id)
    terminal.until(state.exists)
    family = terminal.family()
    if to == "group":
        os.killpg(terminal.process.pid, signal.SIGTERM)
    else:
        for process in [*family, psutil.Process(terminal.process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
    assert terminal.wait() == 130, terminal.text
    assert ("the same command goes on from the saved states" in terminal.text) == (to == "group")
    assert "the same command goes on from the s" in terminal.text
    assert "Traceback" not in terminal.text
    assert still_running(family) == []
    assert state.exists()


def owner(folder: Path) -> bool:
    """Whether nobody holds a folder for temporary files any more; only sweeps of other tests may."""
    try:
        with (folder / ".owner").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False
