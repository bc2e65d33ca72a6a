"""Folders of killed processes are removed, those of living ones are not."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from sweep.temporary import remove_leftovers, scratch

OWNER = """
import sys, time
from sweep.temporary import scratch
with scratch("w2s-tune-") as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


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
