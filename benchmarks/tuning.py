"""What a search finds on a response surface whose optimum is known, and what stopping candidates early saves and
costs.

The surface stands in for a confidence loss with a bootstrap chain: maximum weight, learning-rate factor, which rungs
of the chain, hard or soft labels, and a warm-up that exists with soft labels only. An instance, one (pair, task,
seed), adds an effect of its own to every candidate, and noise to each of them. Candidates pass through the study and
the pruners of `w2s tune`; only the training is left out. A search picks the candidate with the best mean score; what
counts is its true value.

    python benchmarks/tuning.py                 about three minutes on one core
    python benchmarks/tuning.py --repeats 5 --trials 20 --out tuning.md
"""

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.stats import t as student_t

from sweep.tuning.block import Tune
from sweep.tuning.pruning import pruner_of
from sweep.tuning.storage import silence
from sweep.tuning.study import Study

SPACE = {
    "method.max_weight": {"low": 0.0, "high": 1.0},
    "finetune.learning_rate_factor": {"low": 0.25, "high": 4.0, "log": True},
    "method.chain": {"subset": ["d8", "d16", "d24"]},
    "method.labels": ["soft", "hard"],
    "method.warmup": {"low": 0.0, "high": 0.6, "when": {"method.labels": ["soft"]}},
}
BEST_WEIGHT, BEST_FACTOR, BEST_WARMUP = 0.7, 1.5, 0.2
CHAIN = {"d8": -0.03, "d16": 0.06, "d24": 0.04}
BOTH_HIGH = -0.02
"""d16 and d24 overlap in what they bring."""
SOFT = 0.05
BEST = 0.5 + SOFT + CHAIN["d16"] + CHAIN["d24"] + BOTH_HIGH
"""The optimum: soft labels with that warm-up, d16 and d24."""


def truth(params: Mapping[str, Any]) -> float:
    """The true value (a PGR, say) of a candidate, averaged over all instances there could be."""
    w = params["method.max_weight"] - BEST_WEIGHT
    octaves = math.log2(params["finetune.learning_rate_factor"] / BEST_FACTOR)
    value = 0.5 - 0.5 * w**2 - 0.06 * octaves**2 - 0.08 * w * octaves  # a ridge; negative definite
    chain = params["method.chain"]
    value += sum(CHAIN[rung] for rung in chain) + BOTH_HIGH * ({"d16", "d24"} <= set(chain))
    if params["method.labels"] == "soft":
        value += SOFT - 0.8 * (params["method.warmup"] - BEST_WARMUP) ** 2
    return value


@dataclass(frozen=True)
class World:
    """Instances in their order, each with its effect on every candidate."""

    effects: np.ndarray
    noise: float
    seed: int

    def score(self, params: Mapping[str, Any], instance: int) -> float:
        """Of the same candidate on the same instance always the same."""
        digest = sha256(json.dumps([self.seed, instance, params], sort_keys=True).encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8]))
        return truth(params) + self.effects[instance] + self.noise * rng.normal()


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    regret: tuple[float, ...]
    """After each candidate, the optimum minus the true value of the one picked so far."""
    run: int
    """Instances run."""
    trials: int
    stopped_best: int
    """Stopped candidates that were truly better than the one picked."""


def search(world: World, *, sampler: str, pruner: str | Mapping[str, Any], max_trials: int, max_run: int) -> Found:
    """One search, one candidate at a time, until it has asked `max_trials` or run `max_run` instances."""
    tune = Tune.model_validate(
        {
            "method": "confidence",
            "space": SPACE,
            "fresh": {"seeds": [9]},
            "budget": {"trials": max_trials},
            "sampler": sampler,
            "pruner": pruner,
            "seed": world.seed,
        }
    )
    study = Study(optuna.create_study(direction="maximize"), tune)
    judge = pruner_of(tune)
    n = len(world.effects)
    scores: dict[int, list[float]] = {}
    stopped: list[float] = []
    regret: list[float] = []
    best, picked, run = -math.inf, math.nan, 0
    while len(scores) < max_trials and run < max_run:
        asked = study.ask()
        assert asked is not None
        mine: list[float] = []
        reason = None
        while len(mine) < n and reason is None:
            mine.append(world.score(asked.params, len(mine)))
            run += 1
            reason = judge.stop(mine, scores, n_instances=n)
        scores[asked.number] = mine
        mean = float(np.mean(mine))
        if reason is None:
            study.tell(asked.number, [mean], "complete")
            if mean > best:
                best, picked = mean, truth(asked.params)
        else:
            study.tell(asked.number, [mean], "pruned", step=len(mine))
            stopped.append(truth(asked.params))
        regret.append(BEST - picked)
    return Found(tuple(regret), run, len(scores), sum(value > picked for value in stopped))


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t."""
    x = np.asarray(values, dtype=float)
    half = student_t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def shown(values: Sequence[float] | np.ndarray, digits: int = 4) -> str:
    mean, low, high = interval(values)
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def compare_samplers(worlds: Sequence[World], trials: int) -> tuple[str, list[Found]]:
    """Regrets of TPE and random search after the same number of candidates."""
    limits = {"max_trials": trials, "max_run": 10**9}
    by = {
        name: [search(world, sampler=name, pruner="none", **limits) for world in worlds] for name in ("random", "tpe")
    }
    rows = []
    for at in sorted({max(1, trials // 4), trials // 2, trials}):
        random, tpe = (np.array([found.regret[at - 1] for found in by[name]]) for name in ("random", "tpe"))
        wins = f"{np.mean(tpe < random):.0%}"
        rows.append([str(at), f"{random.mean():.4f}", f"{tpe.mean():.4f}", shown(random - tpe), wins])
    head = ["candidates", "regret, random", "regret, TPE", "random - TPE [95 %]", "TPE better"]
    return table(head, rows), by["tpe"]


PRUNERS: dict[str, str | Mapping[str, Any]] = {
    "wilcoxon, p 0.1": {"name": "wilcoxon", "p": 0.1},
    "wilcoxon, p 0.02": {"name": "wilcoxon", "p": 0.02},
    "halving by 3 from 2": {"name": "halving"},
}


def compare_pruners(worlds: Sequence[World], trials: int, without: Sequence[Found]) -> str:
    """What they save at equal candidates, and what they find at equal work; always with TPE."""
    n = len(worlds[0].effects)
    everything = trials * n
    base = np.array([found.regret[-1] for found in without])
    rows = [["none", "0 %", f"{base.mean():.4f}", "", "0", str(trials), f"{base.mean():.4f}", ""]]
    for label, pruner in PRUNERS.items():
        equal = [search(w, sampler="tpe", pruner=pruner, max_trials=trials, max_run=10**9) for w in worlds]
        longer = [search(w, sampler="tpe", pruner=pruner, max_trials=10**9, max_run=everything) for w in worlds]
        regret, regret_longer = (np.array([found.regret[-1] for found in some]) for some in (equal, longer))
        rows.append(
            [
                label,
                f"{1 - np.mean([found.run for found in equal]) / everything:.0%}",
                f"{regret.mean():.4f}",
                shown(regret - base),
                f"{np.mean([found.stopped_best for found in equal]):.1f}",
                f"{np.mean([found.trials for found in longer]):.0f}",
                f"{regret_longer.mean():.4f}",
                shown(regret_longer - base),
            ]
        )
    head = [
        "pruner",
        "instances saved",
        "regret",
        "more than none [95 %]",
        "stopped though better than the pick",
        "candidates at equal work",
        "regret at equal work",
        "more than none [95 %]",
    ]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--instances", type=int, default=12)
    parser.add_argument("--effect", type=float, default=0.15, help="standard deviation of instance effects")
    parser.add_argument("--noise", type=float, default=0.05, help="of a candidate's score on one instance")
    parser.add_argument("--out", type=Path, help="write the tables here too")
    args = parser.parse_args()
    started = time.perf_counter()
    silence()
    worlds = [
        World(np.random.default_rng(seed).normal(0, args.effect, args.instances), args.noise, seed)
        for seed in range(args.repeats)
    ]
    samplers, without = compare_samplers(worlds, args.trials)
    pruners = compare_pruners(worlds, args.trials, without)
    text = (
        f"{args.repeats} repeats; {args.instances} instances with effects of sd {args.effect:g} and noise of sd "
        f"{args.noise:g}; the optimum is {BEST:.2f}, the default (weight 0.5, factor 1, hard labels, no chain) has "
        f"regret {BEST - truth(DEFAULT):.3f}.\n\n{samplers}\n{pruners}\n{time.perf_counter() - started:.0f} s\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text)


DEFAULT = {
    "method.max_weight": 0.5,
    "finetune.learning_rate_factor": 1.0,
    "method.chain": [],
    "method.labels": "hard",
}


if __name__ == "__main__":
    main()
