"""The plan: a sweep as a graph of runs whose identity is their content. Pure data, no Ray; `sweep.planner` makes it.

A run's id is a hash of everything that can change its result: the model (or the run that made it), the task's
content, the resolved settings, the method, the seed and the parents. So equal work is one node, across pairs, methods
and sweeps, and resuming is planning again and skipping what the store has.
"""

import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

from sweep.inputs import ModelInfo, TaskInfo
from sweep.resources import Memory
from w2s.config import (
    FinetuneRun,
    FinetuneSettings,
    MethodSpec,
    PretrainRun,
    RungShape,
    RunSpec,
    TokenizerRun,
)

Stop = Literal["last", "weak", "oracle", "oracle_test"]
Kind = Literal[
    "tokenizer", "pretrain", "generative", "ground_truth", "activations", "labels", "transfer", "probe", "prompt"
]
KINDS: tuple[Kind, ...] = typing.get_args(Kind)
FORMAT = 1
"""Version of the identity scheme. A change makes every run new."""
COMPONENTS: Mapping[Kind, int] = dict.fromkeys(KINDS, 1)
"""Version of the code behind each kind; bumped when a bug fix changes its results."""
LONG_PAIRS = 2
"""Version of how pairs longer than the context are cut, part of the ids of runs that may have such pairs: 1, which was
never written down, cut each side by itself; since 2 both keep the same of their prompt."""


@dataclass(frozen=True, slots=True)
class Parent:
    """What a run reads of another run."""

    role: str
    """`base`, `tokenizer`, `supervisor` (whose labels are learned), `activations`, `reference`, `member/0`, ..."""
    run_id: str
    artefact: Literal["weights", "predictions", "activations"]


@dataclass(frozen=True, slots=True)
class Run:
    """A node of the plan, one training or evaluation. Its id covers what can change its result, not where it runs."""

    run_id: str
    kind: Kind
    rung: str
    seed: int | None
    parents: tuple[Parent, ...]
    work: float
    """Estimated FLOPs, with the launch overhead of its steps."""
    memory: float
    """Estimated bytes on one GPU."""
    task: TaskInfo | None = None
    settings: FinetuneSettings | None = None
    settings_id: str | None = None
    method: MethodSpec | None = None
    method_label: str | None = None
    train_part: str | None = None
    model: ModelInfo | None = None
    pretrain: tuple[RungShape, Any] | None = None
    """Shape and `PretrainSettings` of a rung to be pretrained."""
    keep_weights: bool = False
    supervisor_rung: str | None = None
    """Of a student: the way of its labels, "d6" or "d6 -> d8"."""
    states_labels: bool = False
    written: RunSpec | None = None
    """The spec of kinds that are few; that of pretraining and finetuning is written when asked for, of 100,000 runs."""
    title: str | None = None
    needs: Memory | None = None
    """The estimate in parts, for other placements; None of runs that only compute on tables."""

    @property
    def label(self) -> str:
        """What a person calls this run."""
        if self.title is not None:
            return self.title
        seed = "" if self.seed is None else f" seed {self.seed}"
        if self.kind == "tokenizer":
            return "tokenizer"
        if self.kind == "pretrain":
            return f"pretrain {self.rung}{seed}"
        task = self.task.spec.name if self.task else ""
        if self.kind == "ground_truth":
            return f"{task}: {self.rung} on ground truth of {self.train_part}{seed}"
        return f"{task}: {self.supervisor_rung} -> {self.rung} {self.method_label}{seed}"

    @property
    def spec(self) -> RunSpec:
        """The run as `w2s.experiment.run_one` takes it."""
        if self.written is not None:
            return self.written
        if self.kind == "tokenizer":
            assert self.pretrain is not None
            return TokenizerRun(corpus=self.pretrain[1].corpus)
        if self.kind == "pretrain":
            assert self.pretrain is not None
            assert self.seed is not None
            return PretrainRun(shape=self.pretrain[0], settings=self.pretrain[1], seed=self.seed)
        assert self.task
        assert self.settings
        assert self.train_part
        assert self.seed is not None
        from_parent = any(parent.role == "base" for parent in self.parents)
        return FinetuneRun(
            kind="ground_truth" if self.kind == "ground_truth" else "transfer",
            task=self.task.spec,
            model=None if from_parent or self.model is None else self.model.source,
            settings=self.settings,
            method=self.method,
            train_part=self.train_part,
            seed=self.seed,
            states_labels=self.states_labels,
        )

    def describe(self) -> dict[str, Any]:
        """The contents of run.json, but for the versions of the packages that made it."""
        parents = dict.fromkeys(("base", "supervisor", "tokenizer")) | {p.role: p.run_id for p in self.parents}
        return {
            "run_id": self.run_id,
            "kind": self.kind,
            "label": self.label,
            "model": self.rung,
            "task": self.task.spec.name if self.task else None,
            "form": self.task.spec.form if self.task else None,
            "seed": self.seed,
            "train_part": self.train_part,
            "method": self.method.name if self.method else None,
            "method_label": self.method_label,
            "settings": self.settings.model_dump(mode="json") if self.settings else None,
            "settings_id": self.settings_id,
            "parents": parents,
            "pretrain_flops": self.model.pretrain_flops if self.model else None,
            "spec": self.spec.model_dump(mode="json"),
        }


@dataclass(frozen=True, slots=True)
class Pair:
    """One cell of the grid: a row of the manifest."""

    task: str
    form: str
    seed: int
    weak: str
    strong: str
    method: str
    settings: str
    part: str
    supervisor_id: str
    student_id: str
    ceiling_id: str
    baseline: str = ""
    """Names the supervisor and ceiling of a method that has its own; empty for those of the grid."""
    stop: Stop = "last"
    """Which evaluation of the student counts."""
    oracle: bool = False
    """Whether the method looked at ground truth beyond the supervisor's own data."""
    links: str = ""
    """Ids of the runs between supervisor and student in a chain, weakest first, joined by commas."""


@dataclass(frozen=True)
class Plan:
    """Runs in an order in which parents come first, and the pairs they make."""

    runs: Mapping[str, Run]
    pairs: tuple[Pair, ...]
    requested: int
    """Runs that the grid would train if nothing were shared: three per pair, and a ladder for each."""
    not_applicable: tuple[str, ...] = ()
    """What of the grid was left out because it makes no sense, a line each."""

    @cached_property
    def children(self) -> Mapping[str, tuple[str, ...]]:
        children: dict[str, list[str]] = {run_id: [] for run_id in self.runs}
        for run in self.runs.values():
            for parent in {p.run_id for p in run.parents}:
                children[parent].append(run.run_id)
        return {run_id: tuple(ids) for run_id, ids in children.items()}

    @cached_property
    def path_work(self) -> Mapping[str, float]:
        """Work on the longest path from a run (included) to the end of the plan."""
        path: dict[str, float] = {}
        for run_id in reversed(list(self.runs)):
            path[run_id] = self.runs[run_id].work + max((path[c] for c in self.children[run_id]), default=0.0)
        return path

    def with_ancestors(self, run_ids: Iterable[str]) -> set[str]:
        """The runs and all they need."""
        wanted, stack = set(), list(run_ids)
        while stack:
            run_id = stack.pop()
            if run_id not in wanted:
                wanted.add(run_id)
                stack.extend(p.run_id for p in self.runs[run_id].parents)
        return wanted

    def descendants(self, run_ids: Iterable[str]) -> set[str]:
        """All that needs any of the runs, without themselves."""
        found, stack = set(), list(run_ids)
        while stack:
            for child in self.children[stack.pop()]:
                if child not in found:
                    found.add(child)
                    stack.append(child)
        return found

    @cached_property
    def sweep_hash(self) -> str:
        return digest(
            [[p.task, p.weak, p.strong, p.method, p.student_id, p.supervisor_id, p.ceiling_id] for p in self.pairs]
        )


def digest(value: Any) -> str:
    """16 hex characters of the sha256 of a JSON-able value; refuses what has no stable form (NaN, objects)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()[:16]
