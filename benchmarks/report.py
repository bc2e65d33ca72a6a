"""Time of a whole report, from a store of finished runs to the page: about 1,000 pairs by default.

The store is synthetic and written by the contract of docs/architecture.md, with checksums. A pair is one (weak, strong,
method, seed), as in the manifest.

python benchmarks/report.py                             one task, 10 rungs, 11 methods, 2 seeds: 990 pairs
python benchmarks/report.py --tasks 22 --methods 1 --seeds 1        the same number over 22 tasks
python benchmarks/report.py --profile
"""

import argparse
import cProfile
import hashlib
import json
import pstats
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import norm

from analysis import load, write_report


class Store:
    """Writes runs of a synthetic sweep into a folder."""

    def __init__(self, root: Path, *, n_test: int, evaluations: int) -> None:
        self.root = root
        self.evaluations = evaluations
        n_validation = n_test // 4
        self.n = n_test + n_validation
        rng = np.random.default_rng(0)
        self.difficulty = rng.normal(0, np.sqrt(0.5), self.n)
        self.gold = rng.permutation(np.arange(self.n) % 2).astype(np.int8)
        self.head = pl.DataFrame(
            {
                "example_id": [f"{i:08x}" for i in range(self.n)],
                "split": ["test"] * n_test + ["validation"] * n_validation,
            }
        )

    def run(self, run_id: str, description: dict, measures: dict, predictions: pl.DataFrame | None = None) -> None:
        folder = self.root / "runs" / run_id / "attempts" / "a"
        folder.mkdir(parents=True)
        parents = {"base": None, "supervisor": None, "tokenizer": None} | description.pop("parents", {})
        keys = dict.fromkeys(("task", "form", "seed", "train_part", "method", "method_label", "settings_id"))
        document = keys | description | {"run_id": run_id, "parents": parents, "versions": {"torch": "2.13.0"}}
        (folder / "run.json").write_text(json.dumps(document))
        (folder / "metrics.json").write_text(json.dumps({"seconds": 1.0, "micro_batch_shrunk": False} | measures))
        if predictions is not None:
            predictions.write_parquet(folder / "predictions.parquet")
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sorted(folder.iterdir())
        }
        (folder.parents[1] / "DONE").write_text(json.dumps({"attempt": "a", "files": files}))

    def finetuned(
        self, run_id: str, description: dict, rung: int, accuracy: float, teacher: np.ndarray | None = None
    ) -> np.ndarray:
        """One finetuned run with all its evaluations; returns its latent noise, which its students take after."""
        rng = np.random.default_rng(zlib.crc32(run_id.encode()))
        own = rng.normal(0, np.sqrt(0.5), self.n)
        frames, noise = [], own
        for k in range(1, self.evaluations + 1):
            likeness = 0.6 * k / self.evaluations
            noise = own if teacher is None else likeness * teacher + np.sqrt(1 - likeness**2) * own
            margin = norm.ppf(accuracy) + 0.3 * (1 - k / self.evaluations) - self.difficulty - noise
            correct, p_right = margin > 0, norm.cdf(1.5 * margin)
            frames.append(
                self.head.with_columns(
                    step=pl.lit(10 * k, pl.Int64),
                    gold=pl.Series(self.gold),
                    prediction=pl.Series(np.where(correct, self.gold, 1 - self.gold).astype(np.int8)),
                    correct=pl.Series(correct),
                    p=pl.Series(np.where(self.gold == 1, p_right, 1 - p_right).astype(np.float32)),
                )
            )
        measures = {"n_params": 2000 * 4**rung, "n_matmul": 1700 * 4**rung, "finetune_flops": 1e9 * 4**rung}
        self.run(run_id, description, measures, pl.concat(frames).sort("split", "step", "example_id"))
        return noise

    def sweep(self, name: str, *, tasks: int, rungs: int, methods: Sequence[str], seeds: int) -> int:
        """All pairs weak < strong; returns how many."""
        rows = []
        models = [f"rung{i}" for i in range(rungs)]
        accuracy = np.linspace(0.62, 0.95, rungs)
        for seed in range(seeds):
            for rung, model in enumerate(models):
                flops = {"n_params": 2000 * 4**rung, "n_matmul": 1700 * 4**rung, "pretrain_flops": 6e9 * 3.0**rung}
                self.run(f"base-{model}-{seed}", {"kind": "pretrain", "model": model, "seed": seed}, flops)
            for task in (f"task{i}" for i in range(tasks)):
                part = {"task": task, "form": "classify", "seed": seed, "settings_id": "s0"}
                noise = {}
                for rung, model in enumerate(models):
                    own = part | {"kind": "ground_truth", "model": model, "parents": {"base": f"base-{model}-{seed}"}}
                    supervisor, ceiling = f"{task}-sup-{model}-{seed}", f"{task}-ceil-{model}-{seed}"
                    noise[rung] = self.finetuned(supervisor, own | {"train_part": "supervise"}, rung, accuracy[rung])
                    self.finetuned(ceiling, own | {"train_part": "transfer/0"}, rung, accuracy[rung])
                for weak in range(rungs):
                    for strong in range(weak + 1, rungs):
                        for index, method in enumerate(methods):
                            student = f"{task}-student-{weak}-{strong}-{index}-{seed}"
                            parents = {"base": f"base-{models[strong]}-{seed}"}
                            parents["supervisor"] = f"{task}-sup-{models[weak]}-{seed}"
                            described = part | {"kind": "transfer", "model": models[strong], "parents": parents}
                            described |= {"train_part": "transfer/0", "method": method, "method_label": method}
                            pgr = 0.7 - 0.05 * (strong - weak) + 0.01 * index
                            reached = accuracy[weak] + pgr * (accuracy[strong] - accuracy[weak])
                            self.finetuned(student, described, strong, float(reached), noise[weak])
                            rows.append(
                                {"task": task, "form": "classify", "seed": seed, "settings": "s0", "method": method}
                                | {"weak": models[weak], "strong": models[strong], "part": "transfer/0"}
                                | {"supervisor_id": parents["supervisor"], "student_id": student}
                                | {"ceiling_id": f"{task}-ceil-{models[strong]}-{seed}"}
                            )
        folder = self.root / "sweeps" / name
        folder.mkdir(parents=True)
        pl.DataFrame(rows).write_parquet(folder / "manifest.parquet")
        (folder / "spec.yaml").write_text(f"name: {name}\n")
        return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tasks", 1), ("rungs", 10), ("methods", 11), ("seeds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--test", type=int, default=2000, help="test examples")
    parser.add_argument("--evaluations", type=int, default=6, help="of each run, with predictions")
    parser.add_argument("--keep", type=Path, help="an empty folder for the store and the report; else a temporary one")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep or Path(temporary)
        store = Store(root / "store", n_test=args.test, evaluations=args.evaluations)
        methods = ["naive", *(f"method{i:02}" for i in range(1, args.methods))]
        begun = time.perf_counter()
        n = store.sweep("synthetic", tasks=args.tasks, rungs=args.rungs, methods=methods, seeds=args.seeds)
        print(f"store of {n:,} pairs written in {time.perf_counter() - begun:.1f} s", flush=True)
        begun = time.perf_counter()
        load(str(store.root), "synthetic")
        loaded = time.perf_counter() - begun
        profile = cProfile.Profile()
        begun = time.perf_counter()
        if args.profile:
            profile.enable()
        page = write_report(str(store.root), root / "report", "synthetic", command="python benchmarks/report.py")
        profile.disable()
        seconds = time.perf_counter() - begun
        size = Path(page).stat().st_size / 1e6
        print(f"report of {n:,} pairs: {seconds:.1f} s, {loaded:.1f} s of them to read; index.html has {size:.1f} MB")
        if args.profile:
            pstats.Stats(profile).sort_stats("cumtime").print_stats(60)


if __name__ == "__main__":
    main()
