"""A node that joins while runs are shorter than the start of a process is used. Two real raylets on this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """\
import os, signal, sys, tempfile, threading, time
os.environ |= {"TUNE_MAX_PENDING_TRIALS_PG": "4", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
import ray
from ray import tune
from ray.cluster_utils import Cluster
from sweep.execution.starting import starting_kept

N = 40

class Short(tune.Trainable):
    def setup(self, config):
        time.sleep(1.5)  # as torch takes to import
        self.config = config
    def reset_config(self, config):
        self.config = config
        return True
    def step(self):
        time.sleep(0.3)
        with open(os.path.join(self.config["folder"], str(self.config["number"])), "a") as file:
            file.write(ray.get_runtime_context().get_node_id() + " ")
        return {"done": True}

def join(folder):
    while len(os.listdir(folder)) < 2:
        time.sleep(0.05)
    signal.signal = lambda *args: None  # is for the main thread alone
    cluster.add_node(num_cpus=1)
    threading.Event().wait()  # the node dies with the thread that started it

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(cluster.address, log_to_driver=False)
kept = starting_kept(sys.argv[1] == "kept")
with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as done, kept:
    threading.Thread(target=join, args=(done,), daemon=True).start()
    tune.Tuner(
        Short,
        param_space={"number": tune.grid_search(list(range(N))), "folder": done},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=folder, verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
        ),
    ).fit()
    where = [open(os.path.join(done, str(number))).read().split() for number in range(N)]
print("all once:", all(len(nodes) == 1 for nodes in where), "nodes:", len({node for nodes in where for node in nodes}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_node_that_joins_is_used_though_runs_are_short(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, "kept"], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240
    )
    assert "all once: True nodes: 2" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
