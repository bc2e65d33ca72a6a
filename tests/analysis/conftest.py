"""A store written by the contract of `docs/architecture.md`, with predictions of known true accuracy."""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

COMPUTE = (6.2e9, 2.4e10, 7.2e10, 1.3e11, 3.2e11, 1.1e12)
SUPERVISOR = (0.645, 0.724, 0.790, 0.853, 0.907, 0.957)
CEILING = (0.646, 0.726, 0.790, 0.850, 0.908, 0.959)
NAIVE = "naive"
CONFIDENCE = "confidence(max_weight=0.75)"


def true_pgr(method: str, weak: int, strong: int) -> float:
    """Naive loses with the size gap; confidence gains, as in the offline world's measured table."""
    return 0.72 - 0.08 * (strong - weak - 1) if method == NAIVE else 0.46 + 0.08 * (strong - weak - 1)


@dataclass(frozen=True)
class World:
    """What is true of the runs to write."""

    task: str = "facts"
    form: str = "classify"
    rungs: int = 6
    methods: tuple[str, ...] = (NAIVE, CONFIDENCE)
    seeds: int = 3
    n_test: int = 4800
    n_other: int = 0
    """Rows of each of the splits validation and transfer/0."""
    seed_sd: float = 0.03
    """Spread of a model's skill over seeds, in probit units."""
    supervisor: tuple[float, ...] = SUPERVISOR
    ceiling: tuple[float, ...] = CEILING
    pgr: Callable[[str, int, int], float] = field(default=true_pgr)
    settings: str = "s0"
    shuffled: bool = False
    """Write rows in another order in every run, which readers must bear."""
    with_compute: bool = True
    evaluations: int = 2
    """Steps 10, 20, ... with predictions; of two, the earlier one predicts class 0 throughout."""


def small(**changes: object) -> World:
    """A world of three rungs and few examples, for tests that only need a store."""
    return replace(World(rungs=3, seeds=2, n_test=400), **changes)  # type: ignore[arg-type]


def course(
    final: pl.DataFrame,
    run_id: str,
    skill: float,
    difficulty: np.ndarray,
    own: np.ndarray,
    teacher: np.ndarray | None,
    fraction: float,
) -> pl.DataFrame:
    """A run at some fraction of its training: skill peaks before the end, while likeness to the teacher only grows."""
    rng = np.random.default_rng([zlib.crc32(run_id.encode()), int(1000 * fraction)])
    likeness = 0.6 * fraction
    fresh = 0.9 * own + 0.43 * rng.normal(0, np.sqrt(0.5), own.size)
    noise = fresh if teacher is None else likeness * teacher + np.sqrt(1 - likeness**2) * fresh
    margin = skill * min(1.0, 1.6 * fraction) + 0.5 * fraction * (1 - fraction) - difficulty - noise
    correct, p_right = margin > 0, norm.cdf(1.5 * margin)
    gold = final["gold"].to_numpy()
    return final.with_columns(
        prediction=pl.Series(np.where(correct, gold, 1 - gold).astype(np.int8)),
        correct=pl.Series(correct),
        p=pl.Series(np.where(gold == 1, p_right, 1 - p_right).astype(np.float32)),
    ).filter(~pl.col("split").str.starts_with("transfer"))


class StoreWriter:
    """Writes runs and manifests under one storage folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, run_id: str, description: dict, measures: dict, predictions: pl.DataFrame | None = None) -> None:
        attempt = hashlib.sha256(run_id.encode()).hexdigest()[:8]
        folder = self.root / "runs" / run_id / "attempts" / attempt
        folder.mkdir(parents=True, exist_ok=True)
        parents = {"base": None, "supervisor": None, "tokenizer": None} | description.pop("parents", {})
        keys = dict.fromkeys(("task", "form", "seed", "train_part", "method", "method_label", "settings_id"))
        document = keys | description | {"run_id": run_id, "parents": parents, "versions": {"torch": "2.13.0"}}
        (folder / "run.json").write_text(json.dumps(document))
        (folder / "metrics.json").write_text(json.dumps({"seconds": 1.5, "micro_batch_shrunk": False} | measures))
        if predictions is not None:
            predictions.write_parquet(folder / "predictions.parquet")
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sorted(folder.iterdir())
        }
        (self.root / "runs" / run_id / "DONE").write_text(json.dumps({"attempt": attempt, "files": files}))

    def manifest(self, sweep: str, rows: list[dict]) -> None:
        folder = self.root / "sweeps" / sweep
        folder.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows).write_parquet(folder / "manifest.parquet")
        (folder / "spec.yaml").write_text("name: synthetic\n")

    def world(self, world: World, sweep: str = "sweep", random_seed: int = 0) -> None:
        """A whole sweep: ladder, supervisors, ceilings, students of all weak < strong pairs."""
        rng = np.random.default_rng(random_seed)
        n = world.n_test + 2 * world.n_other
        difficulty = rng.normal(0, np.sqrt(0.5), n)
        gold = rng.permutation(np.arange(n) % 2)
        ladder_skill = rng.normal(0, world.seed_sd, (world.rungs, world.seeds))
        names = [f"rung{i}" for i in range(world.rungs)]
        rows: list[dict] = []

        def finetune(
            run_id: str, kind: str, rung: int, seed: int, accuracy: float, teacher: np.ndarray | None, **more: object
        ) -> np.ndarray:
            """Writes a run; returns its latent noise, by which a student resembles its supervisor."""
            own = rng.normal(0, np.sqrt(0.5), n)
            noise = own if teacher is None else 0.6 * teacher + 0.8 * own
            skill = norm.ppf(accuracy) * np.sqrt(1 + world.seed_sd**2) + ladder_skill[rung, seed]
            margin = skill - difficulty - noise
            correct = margin > 0
            p_right = norm.cdf(1.5 * margin)
            frame = pl.DataFrame(
                {
                    "example_id": [f"{i:08x}" for i in range(n)],
                    "split": ["test"] * world.n_test + ["transfer/0"] * world.n_other + ["validation"] * world.n_other,
                    "step": np.full(n, 10 * world.evaluations),
                    "gold": gold.astype(np.int8),
                    "prediction": np.where(correct, gold, 1 - gold).astype(np.int8),
                    "correct": correct,
                    "p": np.where(gold == 1, p_right, 1 - p_right).astype(np.float32),
                }
            )
            # An earlier evaluation, which the analysis must not mistake for the final one.
            early = frame.filter(pl.col("split") != "transfer/0").with_columns(
                step=pl.lit(10, pl.Int64), prediction=pl.lit(0, pl.Int8), correct=pl.col("gold") == 0
            )
            if world.evaluations == 1:
                early = early.clear()
            elif world.evaluations > 2:
                early = pl.concat(
                    course(frame, run_id, skill, difficulty, own, teacher, k / world.evaluations).with_columns(
                        step=pl.lit(10 * k, pl.Int64)
                    )
                    for k in range(1, world.evaluations)
                )
            both = pl.concat([frame, early]).sort("split", "step", "example_id")
            if world.shuffled:
                both = both.sample(fraction=1.0, shuffle=True, seed=len(rows) + rung + seed)
            base = f"base-{world.task}-{names[rung]}-{seed}"
            description = {
                "kind": kind,
                "model": names[rung],
                "task": world.task,
                "form": world.form,
                "seed": seed,
                "settings_id": world.settings,
                "parents": {"base": base} | {k: v for k, v in more.items() if k == "supervisor"},
            } | {k: v for k, v in more.items() if k != "supervisor"}
            self.run(
                run_id,
                description,
                {"n_params": 2000 * 4**rung, "n_matmul": 1700 * 4**rung, "finetune_flops": 1e9 * 4**rung},
                both,
            )
            return noise

        for seed in range(world.seeds):
            noise = {}
            for rung in range(world.rungs):
                flops = COMPUTE[rung] if world.with_compute else None
                self.run(
                    f"base-{world.task}-{names[rung]}-{seed}",
                    {"kind": "pretrain", "model": names[rung], "seed": seed},
                    {"n_params": 2000 * 4**rung, "n_matmul": 1700 * 4**rung, "pretrain_flops": flops},
                )
                head = f"{world.task}-{world.settings}"
                noise[rung] = finetune(
                    f"{head}-sup-{rung}-{seed}",
                    "ground_truth",
                    rung,
                    seed,
                    world.supervisor[rung],
                    None,
                    train_part="supervise",
                )
                finetune(
                    f"{head}-ceil-{rung}-{seed}",
                    "ground_truth",
                    rung,
                    seed,
                    world.ceiling[rung],
                    None,
                    train_part="transfer/0",
                )
            for weak in range(world.rungs):
                for strong in range(weak + 1, world.rungs):
                    for index, method in enumerate(world.methods):
                        floor = world.supervisor[weak]
                        accuracy = floor + world.pgr(method, weak, strong) * (world.ceiling[strong] - floor)
                        run_id = f"{head}-student-{weak}-{strong}-{index}-{seed}"
                        finetune(
                            run_id,
                            "transfer",
                            strong,
                            seed,
                            accuracy,
                            noise[weak],
                            train_part="transfer/0",
                            method=method.split("(")[0],
                            method_label=method,
                            supervisor=f"{head}-sup-{weak}-{seed}",
                        )
                        rows.append(
                            {
                                "task": world.task,
                                "form": world.form,
                                "seed": seed,
                                "weak": names[weak],
                                "strong": names[strong],
                                "method": method,
                                "settings": world.settings,
                                "part": "transfer/0",
                                "supervisor_id": f"{head}-sup-{weak}-{seed}",
                                "student_id": run_id,
                                "ceiling_id": f"{head}-ceil-{strong}-{seed}",
                            }
                        )
        self.manifest(sweep, rows)


@pytest.fixture
def writer(tmp_path: Path) -> StoreWriter:
    """Writes into an empty storage folder of this test."""
    root = tmp_path / "store"
    root.mkdir()
    return StoreWriter(root)


@pytest.fixture(scope="session")
def store_writer() -> type[StoreWriter]:
    """Makes writers into a given folder, for stores that several tests read."""
    return StoreWriter


@pytest.fixture(scope="session")
def small_world() -> Callable[..., World]:
    """Makes worlds of three rungs and few examples; keyword arguments change what a test is about."""
    return small


@pytest.fixture(scope="session")
def reference_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rungs, 15 pairs, 2 methods, 3 seeds; for reading only."""
    root = tmp_path_factory.mktemp("reference") / "store"
    root.mkdir()
    StoreWriter(root).world(World(n_test=1200, n_other=50))
    return root
