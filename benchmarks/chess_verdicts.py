"""What the completions of a finished chess sweep are: to the letter, the same move spelled otherwise, another mate, ...

    python benchmarks/chess_verdicts.py examples/chess.yaml
    python benchmarks/chess_verdicts.py SPEC --storage FOLDER --sweep ID

A table per task, in Markdown: supervisors and ceilings by rung and students by pair, with 95 % intervals over test
puzzles and seeds; and how good the answer is that is most frequent among the puzzles supervisors learn from.
"""

import argparse
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import polars as pl

from analysis.intervals import joint_draws
from analysis.reading import Store, open_store
from analysis.results import Results, load
from sweep.spec import load_spec
from w2s.chess.judging import Verdict, verdict
from w2s.config import ChessTask
from w2s.tasks import load_task

VERDICTS: tuple[str, ...] = get_args(Verdict)
Said = dict[tuple[str, str | None], Verdict]
"""Verdicts by example and completion: replaying games takes time, and models agree."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("--storage", help="instead of the spec's")
    parser.add_argument("--sweep", help="id of the sweep, where several have the spec's name")
    args = parser.parse_args()
    spec = load_spec(args.spec)
    storage = args.storage or spec.storage_path
    results = load(storage, args.sweep or sweep_of(storage, spec.name))
    for task in spec.tasks:
        if isinstance(task, ChessTask):
            print_task(results, task)


def sweep_of(storage: str, name: str) -> str:
    """The only sweep of that name in a storage, which several may share."""
    found = [sweep for sweep in open_store(storage).names("sweeps") if re.fullmatch(rf"{re.escape(name)}-\w+", sweep)]
    if len(found) != 1:
        sys.exit(f"{storage}: sweeps of {name}: {', '.join(found) or 'none'}; choose one with --sweep")
    return found[0]


def print_task(results: Results, task: ChessTask) -> None:
    frame = load_task(task).frame
    test = frame.filter(pl.col("part") == "test").sort("example_id")
    answers = Counter(frame.filter(pl.col("part") == "supervise")["answer"].to_list())
    most, _ = answers.most_common(1)[0]
    print(f"\n{task.name}: {test.height:,} test puzzles; always{most} solves {(test['answer'] == most).mean():.1%}\n")
    print(f"| models | {' | '.join(VERDICTS)} |\n|---|{'---|' * len(VERDICTS)}")
    said: Said = {}
    for name, runs in models(results, task.name).items():
        shares = np.stack([indicators(results, run, test, said) for run in runs])  # [seeds, examples, verdicts]
        drawn = joint_draws(shares.mean(axis=0).astype(np.float32), shares.mean(axis=1).T)
        found = drawn.interval(lambda a: a, list(range(len(VERDICTS))), level=0.95).within(0.0, 1.0)
        cells = (f"{e:.3f} [{low:.3f}, {high:.3f}]" for e, low, high in zip(*_bounds(found), strict=True))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def models(results: Results, task: str) -> Mapping[str, list[str]]:
    """Run ids, one per seed, by what they are called in the table."""
    pairs = results.pairs.filter(pl.col("task") == task).sort("seed")
    found: dict[str, dict[str, None]] = {}
    for rung in results.ladder.filter(pl.col("task") == task).sort("rung")["model"]:
        for role, side in (("supervisor", "weak"), ("ceiling", "strong")):
            for row in pairs.filter(pl.col(side) == rung).iter_rows(named=True):
                found.setdefault(f"{rung}, {role}", {})[row[f"{role}_id"]] = None
    for row in pairs.iter_rows(named=True):
        found.setdefault(f"{row['weak']} -> {row['strong']}, {row['method']}", {})[row["student_id"]] = None
    return {name: list(runs) for name, runs in found.items()}


def indicators(results: Results, run: str, test: pl.DataFrame, said: Said) -> np.ndarray:
    """Which verdict each test puzzle's completion gets, one-hot, shape [examples, verdicts]."""
    predicted = _said(open_store(results.storage), run)
    joined = test.join(predicted.select("example_id", "prediction"), on="example_id", how="left", maintain_order="left")
    one_hot = np.zeros((joined.height, len(VERDICTS)))
    for i, row in enumerate(joined.iter_rows(named=True)):
        key = row["example_id"], row["prediction"]
        if key not in said:
            said[key] = verdict(row["prompt"], row["answer"], row["prediction"] or "")
        one_hot[i, VERDICTS.index(said[key])] = 1.0
    return one_hot


def _said(store: Store, run: str) -> pl.DataFrame:
    """A run's final completions of the test part as texts, where the analysis has numbers for them."""
    attempt = json.loads(store.read(f"runs/{run}/DONE"))["attempt"]
    frame = pl.read_parquet(io.BytesIO(store.read(f"runs/{run}/attempts/{attempt}/predictions.parquet")))
    return frame.filter((pl.col("split") == "test") & (pl.col("step") == pl.col("step").max()))


def _bounds(found: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return found.estimate, found.low, found.high


if __name__ == "__main__":
    main()
