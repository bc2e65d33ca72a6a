"""Kills workers, raylets and the driver of a sweep at random, and compares what is left with an undisturbed sweep.

    python benchmarks/chaos.py [--kills 50] [--seeds 8] [--seed 0] [--nodes 2] [--out figures.json]

The cluster is made of several raylets on this machine (`ray.cluster_utils.Cluster`). Every victim gets SIGKILL: a busy
worker, a raylet with its workers (another one is started in its place), or the `w2s run` itself (started again at
once). The next kill comes once the sweep has gone on: a run was finished, or was begun, since the last one. When no run
is left to disturb before the number is reached, that is said, and the exit code is 1; so it is when anything differs.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import polars as pl
import psutil

from sweep.session import Session
from sweep.store import Store

W2S = str(Path(sys.executable).with_name("w2s"))
SPEC = """\
name: chaos
seeds: [{seeds}]
ladder:
  seed: per_seed
  pretrain: {{corpus: {{kind: facts}}}}
  rungs:
    - {{name: d4, hidden_size: 4, layers: 1, heads: 1, tokens: {tokens}}}
    - {{name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: {tokens}}}
    - {{name: d16, hidden_size: 16, layers: 1, heads: 2, tokens: {tokens}}}
tasks:
  - name: facts
    source: facts
    splits: {{supervise: {part}, transfer: {part}, validation: 400, test: 800}}
methods: [naive, confidence]
finetune:
  learning_rate: {{value: 3.0e-4, reference_width: 32, exponent: -0.5}}
  schedule: linear
  max_length: 8
  eval_every: 50
compute: {{checkpoint_every_seconds: 0.3, retries: 50}}
"""
"""13 runs for each seed. `retries`: the killer is not to be mistaken for a run that always dies."""
KINDS = {"worker": 0.74, "raylet": 0.13, "driver": 0.13}
"""How often each kind of victim is drawn."""
HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
"""Ray's defaults take 15 s to miss a machine."""
PATIENCE_SECONDS = 240.0
"""A sweep that has not gone on for so long hangs."""


@dataclass
class Kill:
    kind: str
    time: float
    done: int
    """Runs that were finished then."""


@dataclass
class Chaos:
    """A sweep on a cluster of raylets, and its killer."""

    spec: Path
    storage: Path
    nodes: int
    rng: random.Random
    kills: list[Kill] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    """Run to the attempt that DONE named when it was first seen."""
    changed: set[str] = field(default_factory=set)
    """Runs whose DONE named another attempt later; there must be none."""

    def __post_init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._folder = tempfile.mkdtemp(prefix="chaos-")  # short: Ray makes sockets in it
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH, "temp_dir": self._folder}
        self.cluster = Cluster(initialize_head=True, head_node_args=head | {"object_store_memory": 80_000_000})
        self.workers = [self._add_node() for _ in range(self.nodes)]
        self.driver = self._start_driver()

    def _add_node(self):  # type: ignore[no-untyped-def]
        return self.cluster.add_node(num_cpus=1, object_store_memory=80_000_000, resources={"train_slot": 1})

    def _start_driver(self) -> subprocess.Popen:
        with (self.storage.parent / "driver.log").open("ab") as log:
            command = [W2S, "run", str(self.spec), "--storage", str(self.storage), "--no-report"]
            return subprocess.Popen(
                [*command, "--address", str(self.cluster.address)], stdout=log, stderr=log, cwd=self.spec.parent
            )

    def finished(self) -> int:
        """How many runs are done; notes which attempt made them."""
        store = Store(self.storage)
        for run_id in store.run_folders():
            if (done := store.done(run_id)) and self.named.setdefault(run_id, done.attempt) != done.attempt:
                self.changed.add(run_id)
        return len(self.named)

    def begun(self) -> int:
        return len(list(self.storage.glob("runs/*/attempts/*")))

    def busy(self) -> list[psutil.Process]:
        """Workers that are in the middle of a run."""
        found = []
        for node in self.workers:
            for raylet in node.all_processes.get("raylet", []):
                with contextlib.suppress(psutil.Error):
                    for process in psutil.Process(raylet.process.pid).children(recursive=True):
                        with contextlib.suppress(psutil.Error):
                            if "Trainable.train" in " ".join(process.cmdline()):
                                found.append(process)
        return found

    def strike(self) -> bool:
        """Kills something; False if there was nothing of the kind that was drawn."""
        kind = self.rng.choices(list(KINDS), weights=list(KINDS.values()))[0]
        if kind == "worker":
            if not (busy := self.busy()):
                return False
            with contextlib.suppress(psutil.Error):
                self.rng.choice(busy).kill()
        elif kind == "raylet":
            node = self.workers.pop(self.rng.randrange(len(self.workers)))
            for raylet in node.all_processes["raylet"]:
                raylet.process.kill()
            with contextlib.suppress(Exception):
                self.cluster.remove_node(node, allow_graceful=False)
            self.workers.append(self._add_node())
        else:
            self.driver.kill()
            self.driver.wait()
            self.driver = self._start_driver()
        self.kills.append(Kill(kind, time.time(), self.finished()))
        return True

    def run(self, wanted: int, runs: int) -> int:
        """Disturbs the sweep until it has ended. Returns the exit code of its last driver."""
        since, moved = (-1, -1), time.monotonic()
        while self.driver.poll() is None:
            state = (self.finished(), self.begun())
            if state != since:
                since, moved = state, time.monotonic()
                # Spread over the sweep: so many kills as there should have been by now.
                if self.busy() and len(self.kills) < wanted and len(self.kills) <= wanted * 1.1 * (state[0] + 1) / runs:
                    time.sleep(self.rng.uniform(0.0, 1.0))  # anywhere within a run; drawn, not waited for
                    self.strike()
            if time.monotonic() - moved > PATIENCE_SECONDS:
                raise SystemExit(f"the sweep has not gone on for {PATIENCE_SECONDS:.0f} s: {state}")
            time.sleep(0.2)
        self.finished()
        return self.driver.returncode

    def close(self) -> None:
        if self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        self.cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=8, help="seeds of the sweep; 13 runs each")
    parser.add_argument("--nodes", type=int, default=2, help="raylets of one CPU each")
    parser.add_argument("--seed", type=int, default=0, help="of the killer")
    parser.add_argument("--tokens", type=int, default=400_000, help="that a rung is pretrained on")
    parser.add_argument("--part", type=int, default=3000, help="examples to finetune on")
    parser.add_argument("--folder", help="where to work; otherwise a temporary folder")
    parser.add_argument("--out", help="also write the figures here, as JSON")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("RAY_ADDRESS", None)
    folder = Path(args.folder or tempfile.mkdtemp(prefix="w2s-chaos-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "chaos.yaml"
    spec.write_text(SPEC.format(seeds=", ".join(map(str, range(args.seeds))), tokens=args.tokens, part=args.part))

    calm = folder / "undisturbed"
    begun = time.time()
    command = [W2S, "run", str(spec), "--storage", str(calm), "--no-report"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    calm_seconds = time.time() - begun
    plan = Session.open(str(spec), str(calm)).plan
    print(f"undisturbed: {len(plan.runs)} runs in {calm_seconds:.0f} s", flush=True)

    begun = time.time()
    chaos = Chaos(spec, folder / "disturbed", args.nodes, random.Random(args.seed))
    try:
        code = chaos.run(args.kills, len(plan.runs))
    finally:
        chaos.close()
    figures = {
        "runs": len(plan.runs),
        "undisturbed_seconds": round(calm_seconds, 1),
        "disturbed_seconds": round(time.time() - begun, 1),
        "kills": dict(Counter(kill.kind for kill in chaos.kills)),
        "exit_code": code,
        **compare(spec, calm, chaos.storage),
        **attempts(chaos),
    }
    print(json.dumps(figures, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(figures, indent=1) + "\n")
    bad = code or figures["different"] or figures["missing"] or figures["repeated_after_done"] or chaos.changed
    if len(chaos.kills) < args.kills:
        print(f"only {len(chaos.kills)} of {args.kills} kills before the end; give more --seeds", file=sys.stderr)
    return 1 if bad or not figures["same_manifest"] or len(chaos.kills) < args.kills else 0


def compare(spec: Path, calm: Path, disturbed: Path) -> dict[str, object]:
    """Predictions bit by bit, and the table of pairs."""
    session, other = Session.open(str(spec), str(calm)), Store(disturbed)
    different, missing = [], []
    for run_id, run in session.plan.runs.items():
        if other.done(run_id) is None:
            missing.append(run_id)
        elif run.task is not None and session.store.read(run_id, "predictions.parquet") != other.read(
            run_id, "predictions.parquet"
        ):
            frames = [pl.read_parquet(s.read(run_id, "predictions.parquet")) for s in (session.store, other)]
            if not frames[0].equals(frames[1]):
                different.append(run_id)
        elif run.kind == "pretrain":
            weights = [s.read(run_id, "weights/model.safetensors") for s in (session.store, other)]
            if weights[0] != weights[1]:
                different.append(run_id)
    manifest = f"sweeps/{session.sweep_id}/manifest.parquet"
    tables = [pl.read_parquet(root / manifest) for root in (calm, disturbed)]
    return {"different": different, "missing": missing, "same_manifest": tables[0].equals(tables[1])}


def attempts(chaos: Chaos) -> dict[str, object]:
    """What the kills cost: attempts that came to nothing, and runs that were done twice."""
    unfinished, again, twice, lost = 0, [], [], 0.0
    resumed = 0
    for folder in chaos.storage.glob("runs/*/attempts/*"):
        run_id = folder.parents[1].name
        log = folder / "log.txt"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        if not lines:  # killed, or failed, before its first word
            unfinished += not (folder / "error.json").exists()
            continue
        began = datetime.strptime(lines[0][:19], "%Y-%m-%d %H:%M:%S").timestamp()
        mark = chaos.storage / "runs" / run_id / "DONE"
        if began > mark.stat().st_mtime + 1.0:  # a log has whole seconds
            again.append(run_id)
        if folder.name != chaos.named.get(run_id):
            if (folder / "predictions.parquet").exists() or (folder / "weights").exists():
                twice.append(run_id)
            unfinished += 1
            lost += min((kill.time for kill in chaos.kills if kill.time > began), default=began) - began
        at = [float(line.split("training is at ")[1].split(" %")[0]) for line in lines if "training is at " in line]
        resumed += bool(at) and at[0] > 5.0  # the first step of a fresh run is under 5 % of it
    return {
        "attempts_without_result": unfinished,
        "resumed_attempts": resumed,
        "seconds_in_attempts_without_result": round(lost, 1),
        "done_changed": sorted(chaos.changed),
        "repeated_after_done": again,
        "done_twice_at_once": twice,
    }


if __name__ == "__main__":
    sys.exit(main())
