"""Searches written by the contract of `w2s tune`, for tests of their reports."""

import json
from pathlib import Path

import numpy as np
import polars as pl

from analysis.tuning.reading import TRIALS_SCHEMA

SPACE = [
    {"name": "method.max_weight", "kind": "float", "low": 0.0, "high": 1.0, "log": False, "values": None},
    {"name": "finetune.learning_rate_factor", "kind": "float", "low": 0.25, "high": 4.0, "log": True, "values": None},
    {"name": "finetune.epochs", "kind": "int", "low": 1, "high": 4, "log": False, "values": None},
    {"name": "method.labels", "kind": "choice", "values": ["soft", "hard"]},
    {"name": "method.warmup", "kind": "float", "low": 0.0, "high": 0.6, "when": {"method.labels": ["soft"]}},
    {"name": "method.chain", "kind": "subset", "values": ["rung1", "rung2"]},
]
INSTANCES = [
    {"task": "facts", "weak": weak, "strong": strong, "seed": seed}
    for weak, strong in (("rung0", "rung1"), ("rung0", "rung2"))
    for seed in (10, 11)
]


def trial(number, state="complete", value=None, params=None, **more):
    row = dict.fromkeys(TRIALS_SCHEMA) | {"number": number, "state": state, "value": value, "order": number}
    row |= {"value_so_far": value, "flops": 1e9 * (number + 1) if state == "complete" else None, "new_work": 1e10}
    row |= {"n_instances": 4, "params": json.dumps(params or {}), "started": 1000.0, "ended": 1010.0}
    return row | more


def study(trials, scores=(), importances=(), **more):
    """(entry of the summary, its three tables)."""
    entry = {"objective": "weak", "metric": "agreement", "meaning": "share of equal predictions"}
    entry |= {"minimize_flops": False, "best": None, "front": [], "default": None, "ended": "40 trials were reached"}
    entry |= {"spent": {"trials": len(trials), "work": 1e12, "seconds": 600.0}, "importances_note": ""}
    entry |= {"shared_runs": {"supervisors": 2, "ceilings": 4}, "candidate_runs": 12, "location": "journal.log"}
    entry |= more
    entry.setdefault("folder", f"tuning/search/{entry['objective']}-{entry['metric']}")
    tables = {
        "trials": pl.DataFrame(list(trials), schema=TRIALS_SCHEMA),
        "scores": pl.DataFrame(
            [(n, i, *INSTANCES[i % 4].values(), score) for n, i, score in scores],
            schema=["number", "instance", "task", "weak", "strong", "seed", "score"],
            orient="row",
        )
        if scores
        else pl.DataFrame(schema={"number": pl.Int64, "score": pl.Float64}),
        "importances": pl.DataFrame(
            list(importances), schema={"of": pl.String, "parameter": pl.String, "importance": pl.Float64}, orient="row"
        ),
    }
    return entry, tables


def write_search(root, *studies, space=SPACE, fresh=None, instances=INSTANCES, tune_id="search"):
    folder = Path(root) / "tuning" / tune_id
    folder.mkdir(parents=True, exist_ok=True)
    summary = {"name": "tune-facts", "tune_id": tune_id, "command": "w2s tune facts.yaml", "method": "confidence"}
    summary |= {"versions": {"optuna": "5.0"}, "sampler": "tpe", "pruner": "wilcoxon", "concurrent": 2}
    summary |= {"budget": {"trials": 40}, "space": space, "instances": instances, "fresh": fresh}
    summary["studies"] = [entry for entry, _ in studies]
    (folder / "summary.json").write_text(json.dumps(summary))
    for entry, tables in studies:
        (Path(root) / entry["folder"]).mkdir(parents=True, exist_ok=True)
        for name, frame in tables.items():
            frame.write_parquet(Path(root) / entry["folder"] / f"{name}.parquet")
    return root


def made_up(n=24, objective="weak", metric="agreement", **more):
    """A study with a known optimum: weight 0.6, rate factor 1, soft labels; pruned and failed candidates in between."""
    rng = np.random.default_rng(5)
    trials, scores = [], []
    for number in range(n):
        labels = "soft" if number % 3 else "hard"
        params = {
            "method.max_weight": 0.5 if number == 0 else float(rng.uniform()),
            "finetune.learning_rate_factor": 1.0 if number == 0 else float(np.exp(rng.uniform(-1.38, 1.38))),
            "finetune.epochs": int(rng.integers(1, 5)),
            "method.labels": labels,
            "method.chain": [["rung1"], [], ["rung1", "rung2"], ["rung2"]][number % 4],
        }
        if labels == "soft":
            params["method.warmup"] = float(rng.uniform(0, 0.6))
        value = 0.9 - 0.3 * (params["method.max_weight"] - 0.6) ** 2 + 0.01 * (labels == "soft")
        value -= 0.05 * np.log(params["finetune.learning_rate_factor"]) ** 2
        flops = 1e9 * params["finetune.epochs"] * (1 + len(params["method.chain"]))
        if number % 7 == 5:
            trials.append(trial(number, "pruned", None, params, value_so_far=value, n_instances=2, reason="worse"))
        elif number == 8:
            trials.append(trial(number, "failed", None, params, reason="out of memory", value_so_far=None))
        elif number == n - 1:
            trials.append(trial(number, "running", None, params, order=None, value_so_far=value, ended=None))
        else:
            trials.append(trial(number, "complete", value, params, flops=flops))
        count = 4 if trials[-1]["state"] == "complete" else 2
        scores += [(number, i, value + 0.01 * (i - 1.5)) for i in range(count)]
    complete = [row for row in trials if row["state"] == "complete"]
    best = max(complete, key=lambda row: row["value"])["number"]
    shares = [("value", "method.max_weight", 0.5), ("value", "finetune.learning_rate_factor", 0.3)]
    shares += [("value", "method.labels", 0.2)]
    more = {"best": best, "default": 0} | more
    return study(trials, scores, shares, objective=objective, metric=metric, **more)
