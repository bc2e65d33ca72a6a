"""The plan: a sweep as a graph of runs whose identity is their content. Pure data and pure functions, no Ray.

A run's id is a hash of everything that can change its result: the model (or the run that made it), the task's
content, the resolved settings, the method, the seed and the parents. So equal work is one node, across pairs, methods
and sweeps, and resuming is planning again and skipping what the store has.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Literal

from sweep.inputs import Inputs, ModelInfo, TaskInfo
from sweep.resources import STEP_WORK, TRAINED_SHARE, micro_batch_that_fits, training_memory
from sweep.spec import ScratchRung, Sweep
from w2s.config import (
    FinetuneRun,
    FinetuneSettings,
    MethodSpec,
    PretrainRun,
    RungShape,
    RunSpec,
    TextCorpus,
    TokenizerRun,
)
from w2s.methods import build_method, method_label

Kind = Literal["tokenizer", "pretrain", "ground_truth", "transfer"]
KINDS: tuple[Kind, ...] = ("tokenizer", "pretrain", "ground_truth", "transfer")
FORMAT = 1
"""Version of the identity scheme. A change makes every run new."""
COMPONENTS: Mapping[Kind, int] = {"tokenizer": 1, "pretrain": 1, "ground_truth": 1, "transfer": 1}
"""Version of the code behind each kind; bumped when a bug fix changes its results."""


@dataclass(frozen=True, slots=True)
class Parent:
    """What a run reads of another run."""

    role: Literal["base", "supervisor", "tokenizer"]
    run_id: str
    artefact: Literal["weights", "predictions"]


@dataclass(frozen=True, slots=True)
class Run:
    """One training: a node of the plan. Its id covers all that is result, and nothing of where it runs."""

    run_id: str
    kind: Kind
    rung: str
    seed: int | None
    parents: tuple[Parent, ...]
    work: float
    """Estimated FLOPs, with the launch overhead of its steps."""
    memory: float
    """Estimated bytes on the device."""
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

    @property
    def label(self) -> str:
        """What a person calls this run."""
        seed = "" if self.seed is None else f" seed {self.seed}"
        if self.kind == "tokenizer":
            return "tokenizer"
        if self.kind == "pretrain":
            return f"pretrain {self.rung}{seed}"
        task = self.task.spec.name if self.task else ""
        if self.kind == "ground_truth":
            return f"{task}: {self.rung} on ground truth of {self.train_part}{seed}"
        return f"{task}: {self.supervisor_rung} -> {self.rung} {self.method_label}{seed}"

    supervisor_rung: str | None = None

    @property
    def spec(self) -> RunSpec:
        """The run as `w2s.experiment.run_one` takes it."""
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
        return FinetuneRun(
            kind=self.kind,
            task=self.task.spec,
            model=self.model.source if self.model else None,
            settings=self.settings,
            method=self.method,
            train_part=self.train_part,
            seed=self.seed,
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


@dataclass(frozen=True)
class Plan:
    """Runs in an order in which parents come first, and the pairs they make."""

    runs: Mapping[str, Run]
    pairs: tuple[Pair, ...]
    requested: int
    """Runs that the grid would train if nothing were shared: three per pair, and a ladder for each."""

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
        return _digest([[p.task, p.weak, p.strong, p.student_id, p.supervisor_id, p.ceiling_id] for p in self.pairs])


def build_plan(spec: Sweep, inputs: Inputs) -> Plan:
    """Expand a sweep into its graph of runs."""
    return _Planner(spec, inputs).plan()


@dataclass
class _Planner:
    spec: Sweep
    inputs: Inputs
    runs: dict[str, Run] = field(default_factory=dict)
    _memo: dict[tuple, Any] = field(default_factory=dict)

    def plan(self) -> Plan:
        rungs = {rung.name: rung for rung in self.spec.ladder.rungs}
        pairs = []
        for seed in self.spec.seeds:
            for _name, rung in rungs.items():  # a ladder is useful without pairs: `w2s ladder`
                if isinstance(rung, ScratchRung):
                    self._base(rung, seed)
        for task in self.inputs.tasks.values():
            part = "transfer/0"
            for seed in self.spec.seeds:
                for weak, strong in self.spec.rung_pairs():
                    supervisor = self._ground_truth(rungs[weak], task, "supervise", seed)
                    half = part if self.spec.ceiling_half == "transfer" else "supervise"
                    ceiling = self._ground_truth(rungs[strong], task, half, seed)
                    for method, label in self._methods:
                        student = self._transfer(rungs[strong], weak, task, part, seed, supervisor, method, label)
                        pairs.append(
                            Pair(
                                task=task.spec.name,
                                form=task.spec.form,
                                seed=seed,
                                weak=weak,
                                strong=strong,
                                method=label,
                                settings=student.settings_id or "",
                                part=part,
                                supervisor_id=supervisor.run_id,
                                student_id=student.run_id,
                                ceiling_id=ceiling.run_id,
                            )
                        )
        return Plan(runs=self.runs, pairs=tuple(pairs), requested=3 * len(pairs))

    @cached_property
    def _methods(self) -> list[tuple[MethodSpec, str]]:
        return [(method, method_label(build_method(method))) for method in self.spec.methods]

    def _add(self, kind: Kind, identity: Any, **fields: Any) -> Run:
        run_id = f"{kind.replace('_', '-')}-{_digest([FORMAT, kind, COMPONENTS[kind], identity])}"
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = Run(run_id=run_id, kind=kind, **fields)
        return run

    def _tokenizer(self) -> Run | None:
        settings = self.spec.ladder.pretrain
        if not isinstance(settings.corpus, TextCorpus):
            return None
        identity = {"corpus": self.inputs.corpus_fingerprint}
        return self._add(
            "tokenizer",
            identity,
            rung="",
            seed=None,
            parents=(),
            work=1e9,
            memory=5e8,
            pretrain=(None, settings),
            keep_weights=True,
        )

    def _base(self, rung: Any, seed: int) -> Run | None:
        """The run that makes a rung's weights; None for a checkpoint that exists already."""
        if not isinstance(rung, ScratchRung):
            return None
        if self.spec.ladder.seed == "fixed":
            seed = 0
        key = ("base", rung.name, seed)
        if key not in self._memo:
            settings = self.spec.ladder.pretrain
            shape = RungShape(**{name: getattr(rung, name) for name in RungShape.model_fields})
            tokenizer = self._tokenizer()
            identity = {
                "shape": shape.model_dump(mode="json"),
                "settings": settings.model_dump(mode="json", exclude={"corpus"}),
                "corpus": self.inputs.corpus_fingerprint,
                "seed": seed,
                "tokenizer": tokenizer.run_id if tokenizer else None,
            }
            model = self.inputs.models[rung.name]
            facts = not isinstance(settings.corpus, TextCorpus)
            per_row = 4 * settings.corpus.statements_per_document if facts else settings.context  # type: ignore[union-attr]
            tokens = settings.batch_size * per_row
            self._memo[key] = self._add(
                "pretrain",
                identity,
                rung=rung.name,
                seed=seed,
                parents=(Parent("tokenizer", tokenizer.run_id, "weights"),) if tokenizer else (),
                work=model.pretrain_flops + STEP_WORK * rung.tokens / tokens,
                memory=training_memory(model.n_params, model.hidden_size, model.layers, tokens),
                model=model,
                pretrain=(shape, settings),
                keep_weights=True,
            )
        return self._memo[key]

    @cached_property
    def _settings_id(self) -> str:
        """One id for the sweep's settings with all rungs' overrides: a rung with its own is no other setting."""
        overrides = {rung.name: dict(rung.finetune) for rung in self.spec.ladder.rungs if rung.finetune}
        return _digest([self.spec.finetune.model_dump(mode="json"), overrides])[:8]

    def _settings(self, rung: Any, task: TaskInfo) -> tuple[FinetuneSettings, str, Any, float, float]:
        """Resolved settings, their id in tables, what of them is identity, work and memory of a training."""
        key = ("settings", rung.name, task.spec.name)
        if key not in self._memo:
            model = self.inputs.models[rung.name]
            written = self.spec.settings_for(rung)
            longest = min(written.max_length, max(task.summary.max_bytes.values()) + 2)
            if task.spec.form == "compare":
                longest *= 2
            micro = written.micro_batch_size
            if micro == "auto":
                micro = micro_batch_that_fits(
                    model.n_params,
                    model.hidden_size,
                    model.layers,
                    tokens_per_example=longest,
                    batch_size=written.batch_size,
                    budget=self.spec.compute.memory_gb * 1e9,
                    trainable=TRAINED_SHARE[written.tune],
                )
            resolved = written.resolve(width=model.hidden_size, micro_batch_size=min(micro, written.batch_size))
            identity = resolved.model_dump(mode="json")
            if resolved.tune != "lora":
                identity.pop("lora")
            examples = task.summary.sizes["transfer/0"]
            typical = min(written.max_length, task.summary.mean_characters["transfer/0"] / 4 + 2)
            typical *= 2 if task.spec.form == "compare" else 1
            steps = written.epochs * examples / written.batch_size
            trained = 6.0 * model.n_matmul * typical * examples * written.epochs
            predicted = 2.0 * model.n_matmul * typical * sum(task.summary.sizes.values())
            memory = training_memory(
                model.n_params,
                model.hidden_size,
                model.layers,
                longest * micro,
                trainable=TRAINED_SHARE[written.tune],
            )
            self._memo[key] = (
                resolved,
                self._settings_id,
                identity,
                trained + predicted + STEP_WORK * steps,
                memory,
            )
        return self._memo[key]

    def _ground_truth(self, rung: Any, task: TaskInfo, part: str, seed: int) -> Run:
        key = ("ground_truth", rung.name, task.spec.name, part, seed)
        if key not in self._memo:
            self._memo[key] = self._finetuning("ground_truth", rung, task, part, seed)
        return self._memo[key]

    def _transfer(
        self,
        rung: Any,
        weak: str,
        task: TaskInfo,
        part: str,
        seed: int,
        supervisor: Run,
        method: MethodSpec,
        label: str,
    ) -> Run:
        return self._finetuning(
            "transfer",
            rung,
            task,
            part,
            seed,
            identity={"method": {"name": method.name, **method.params}, "supervisor": supervisor.run_id},
            parents=(Parent("supervisor", supervisor.run_id, "predictions"),),
            supervisor_rung=weak,
            method=method,
            method_label=label,
        )

    def _finetuning(
        self,
        kind: Kind,
        rung: Any,
        task: TaskInfo,
        part: str,
        seed: int,
        *,
        identity: Mapping[str, Any] = MappingProxyType({}),
        parents: tuple[Parent, ...] = (),
        **fields: Any,
    ) -> Run:
        base = self._base(rung, seed)
        settings, settings_id, settings_identity, work, memory = self._settings(rung, task)
        return self._add(
            kind,
            {
                "model": base.run_id if base else self.inputs.models[rung.name].fingerprint,
                "task": task.fingerprint,
                "settings": settings_identity,
                "part": part,
                "seed": seed,
                **identity,
            },
            rung=rung.name,
            seed=seed,
            parents=(*((Parent("base", base.run_id, "weights"),) if base else ()), *parents),
            work=work,
            memory=memory,
            task=task,
            settings=settings,
            settings_id=settings_id,
            train_part=part,
            model=self.inputs.models[rung.name],
            keep_weights=self.spec.keep_weights == "all",
            **fields,
        )


def _digest(value: Any) -> str:
    """16 hex characters of the sha256 of a JSON-able value; refuses what has no stable form (NaN, objects)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()[:16]
