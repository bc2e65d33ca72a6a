"""Folders of killed processes are removed, those of living ones are not."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sweep.execution.temporary import LOCK, remove_leftovers, remove_own, scratch

OWNER = """
import sys, time
from sweep.execution.temporary import scratch
with scratch("w2s-tune-") as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_folder_goes_last(tmp_path, monkeypatch):
    """Killed in between, its owner leaves a folder that can still be told to be one that was left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Killed(BaseException):
        pass

    def die(folder, ignore_errors):
        if Path(folder).name != "inner":
            raise Killed

    with scratch("w2s-tune-") as folder:
        (Path(folder) / "inner").mkdir()
        (Path(folder) / "file").touch()
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", die)
            with pytest.raises(Killed):
                remove_own()
        assert {path.name for path in Path(folder).iterdir()} == {LOCK, "inner"}


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", OWNER]
    owners = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    folders = [Path(owner.stdout.readline().strip()) for owner in owners if owner.stdout]
    (tmp_path / "w2s-tune-of-another-version").mkdir()  # nobody can tell whose it is
    try:
        with scratch("w2s-train-") as mine:
            assert remove_leftovers() == []
            owners[0].send_signal(signal.SIGKILL)
            owners[0].wait()
            assert remove_leftovers() == [str(folders[0])]
            assert not folders[0].exists()
            assert folders[1].exists()
            assert Path(mine).exists()
        assert not Path(mine).exists()
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
            if owner.stdout:
                owner.stdout.close()
