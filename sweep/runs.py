"""Every kind of run of a plan: what makes its identity, what it needs, what it costs. Pure functions, no Ray.

`RunMaker` is asked for runs by `sweep.planner` and, on behalf of methods, by `sweep.procedures`; the same run asked for
twice is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from sweep.errors import SpecError
from sweep.inputs import Inputs, ModelInfo, TaskInfo
from sweep.plan import COMPONENTS, FORMAT, LONG_PAIRS, Kind, Parent, Run, digest
from sweep.resources import STEP_WORK, TRAINED_SHARE, Memory, Sizes, micro_batch_that_fits, trained_parameters
from sweep.spec import CheckpointRung, ScratchRung, Sweep
from w2s.config import (
    ActivationsRun,
    FinetuneSettings,
    GenerativeRun,
    LabelsRun,
    Layer,
    MethodSpec,
    ProbeRun,
    PromptRun,
    RungShape,
    TextCorpus,
)
from w2s.methods import LossMethod, Prompt, method_label
from w2s.tasks import has_prompts

if TYPE_CHECKING:
    from sweep.procedures import Setting

Rung = ScratchRung | CheckpointRung
LABELS_WORK = 1e8
"""FLOPs' worth of a run that only computes on tables."""


@dataclass
class RunMaker:
    """Adds runs to a plan, parents first."""

    spec: Sweep
    inputs: Inputs
    runs: dict[str, Run] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Finetuning settings of a method of its own, see `with_settings`."""
    _memo: dict[tuple, Any] = field(default_factory=dict)

    def with_settings(self, overrides: Mapping[str, Any]) -> "RunMaker":
        """One that adds to the same plan, with other finetuning settings; what they do not touch is the same run."""
        return RunMaker(self.spec, self.inputs, self.runs, overrides) if overrides else self

    def _add(self, kind: Kind, identity: Any, **fields: Any) -> Run:
        run_id = f"{kind.replace('_', '-')}-{digest([FORMAT, kind, COMPONENTS[kind], identity])}"
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = Run(run_id=run_id, kind=kind, **fields)
        return run

    def keep_weights(self, run: Run) -> None:
        """Have a run keep its weights, because another one starts from them."""
        self.runs[run.run_id] = replace(self.runs[run.run_id], keep_weights=True)

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

    def base(self, rung: Any, seed: int) -> Run | None:
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
            needs = Memory(
                sizes=_sizes(model),
                does="language_model",
                trained=model.n_params,
                rows=settings.batch_size,  # no micro-batches: documents are short
                batch_rows=settings.batch_size,
                length=per_row,
                precision="fp32",
                reads_checkpoint=False,
            )
            self._memo[key] = self._add(
                "pretrain",
                identity,
                rung=rung.name,
                seed=seed,
                parents=(Parent("tokenizer", tokenizer.run_id, "weights"),) if tokenizer else (),
                work=model.pretrain_flops + STEP_WORK * rung.tokens / tokens,
                memory=needs.on(gpu=True),
                needs=needs,
                model=model,
                pretrain=(shape, settings),
                keep_weights=True,
            )
        return self._memo[key]

    @cached_property
    def settings_id(self) -> str:
        """One id for the sweep's settings with all rungs' overrides: a rung with its own is no other setting."""
        overrides = {rung.name: dict(rung.finetune) for rung in self.spec.ladder.rungs if rung.finetune}
        content = [self.spec.finetune.model_dump(mode="json"), overrides]
        return digest([*content, dict(self.overrides)] if self.overrides else content)[:8]

    def _settings(
        self, rung: Any, task: TaskInfo, *, tune: Literal["full"] | None = None
    ) -> tuple[FinetuneSettings, str, str, float, Memory]:
        """Resolved settings, their id in tables, what of them is identity, work and memory of a training.

        The micro-batch comes from a rule that never changes, as it is identity; the memory is the better estimate.

        `tune` replaces what the settings say is trained.
        """
        key = ("settings", rung.name, task.spec.name, tune)
        if key not in self._memo:
            model = self.inputs.models[rung.name]
            written = self.spec.settings_for(rung, self.overrides)
            if tune is not None:
                written = written.model_copy(update={"tune": tune})
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
            identity |= self._cut(rung, task, written.max_length)
            examples = task.summary.sizes["transfer/0"]
            typical = min(written.max_length, task.summary.mean_characters["transfer/0"] / 4 + 2)
            typical *= 2 if task.spec.form == "compare" else 1
            steps = written.epochs * examples / written.batch_size
            trained = 6.0 * model.n_matmul * typical * examples * written.epochs
            predicted = 2.0 * model.n_matmul * typical * sum(task.summary.sizes.values())
            sizes, per_example = _sizes(model), 2 if task.spec.form == "compare" else 1
            memory = Memory(
                sizes=sizes,
                does="train",
                trained=trained_parameters(sizes, resolved),
                rows=int(resolved.micro_batch_size) * per_example,
                batch_rows=written.batch_size * per_example,
                length=_longest_tokens(task, model, written.max_length),
                evaluated=max(task.summary.sizes.values()) * per_example,
                precision=written.precision,
                checkpointing=written.gradient_checkpointing,
                frozen_body=written.tune == "head",
            )
            if task.spec.form == "generate":
                _refuse_what_does_not_speak(task, rung, model, resolved)
                # The whole language model learns, head included.
                memory = replace(memory, does="language_model", trained=model.n_params, frozen_body=False)
            self._memo[key] = (
                resolved,
                self.settings_id,
                digest(identity),  # once, as writing it out for each of 100,000 runs takes seconds
                trained + predicted + STEP_WORK * steps,
                memory,
            )
        return self._memo[key]

    def _cut(self, rung: Rung, task: TaskInfo, max_length: int) -> dict[str, int]:
        """What identity says of how long pairs are cut; nothing where none can be, so that such runs keep their ids."""
        positions = self.inputs.models[rung.name].max_positions
        if isinstance(rung, ScratchRung):  # few on facts, so that anything may be cut
            pretrain = self.spec.ladder.pretrain
            positions = pretrain.context if isinstance(pretrain.corpus, TextCorpus) else 0
        shown = max_length if positions is None else min(max_length, positions)
        may_be_cut = max(task.summary.max_bytes.values()) + 2 > shown  # a token has a byte or more
        return {"long_pairs": LONG_PAIRS} if may_be_cut and has_prompts(task.spec) else {}

    def settings(self, rung: Rung, task: TaskInfo) -> FinetuneSettings:
        """The resolved finetuning settings of a rung on a task."""
        return self._settings(rung, task)[0]

    def ground_truth(self, rung: Rung, task: TaskInfo, part: str, seed: int, *, base: Run | None = None) -> Run:
        """A supervisor (of part `supervise`) or ceiling; `base` replaces the weights it starts from."""
        key = ("ground_truth", rung.name, task.spec.name, part, seed, base and base.run_id)
        if key not in self._memo:
            self._memo[key] = self._finetuning("ground_truth", rung, task, part, seed, base=base)
        return self._memo[key]

    def transfer(self, setting: "Setting", method: LossMethod) -> Run:
        """The strong model of a setting, finetuned on its labels."""
        spec, label = self._spec_and_label(method)
        identity: dict[str, Any] = {"method": spec, "supervisor": setting.labels.run_id}
        if setting.states_labels:
            identity["states_labels"] = True
        return self._finetuning(
            "transfer",
            setting.strong,
            setting.task,
            setting.part,
            setting.seed,
            base=setting.base,
            identity=identity,
            parents=(Parent("supervisor", setting.labels.run_id, "predictions"),),
            supervisor_rung=setting.route,
            method=MethodSpec(name=method.name, params={k: v for k, v in spec.items() if k != "name"}),
            method_label=label,
            states_labels=setting.states_labels,
        )

    def _spec_and_label(self, method: LossMethod) -> tuple[dict[str, Any], str]:
        key = ("method", method)
        if key not in self._memo:
            self._memo[key] = ({"name": method.name, **method.model_dump(mode="json")}, method_label(method))
        return self._memo[key]

    def _finetuning(
        self,
        kind: Kind,
        rung: Rung,
        task: TaskInfo,
        part: str,
        seed: int,
        *,
        base: Run | None = None,
        identity: Mapping[str, Any] = MappingProxyType({}),
        parents: tuple[Parent, ...] = (),
        **fields: Any,
    ) -> Run:
        start, model = self._start(rung, seed, base)
        settings, settings_id, settings_identity, work, memory = self._settings(rung, task)
        return self._add(
            kind,
            {
                "model": model,
                "task": task.fingerprint,
                "settings": settings_identity,
                "part": part,
                "seed": seed,
                **identity,
            },
            rung=rung.name,
            seed=seed,
            parents=(*start, *parents),
            work=work,
            memory=memory.on(gpu=True),
            needs=memory,
            task=task,
            settings=settings,
            settings_id=settings_id,
            train_part=part,
            model=self.inputs.models[rung.name],
            keep_weights=self.spec.keep_weights == "all",
            **fields,
        )

    def _start(self, rung: Rung, seed: int, base: Run | None) -> tuple[tuple[Parent, ...], str | None]:
        """The parent whose weights a run starts from, if a run makes them, and what stands for them in its identity."""
        base = base or self.base(rung, seed)
        if base is None:
            return (), self.inputs.models[rung.name].fingerprint
        return (Parent("base", base.run_id, "weights"),), base.run_id

    def generative(
        self,
        rung: Rung,
        task: TaskInfo,
        seed: int,
        *,
        parts: tuple[str, ...],
        epochs: int,
        learning_rate_factor: float,
    ) -> Run:
        """A rung finetuned as a language model on a task's texts."""
        start, model = self._start(rung, seed, None)
        settings, settings_id, _, work, memory = self._settings(rung, task, tune="full")
        assert isinstance(settings.learning_rate, float), "resolved"
        settings = settings.model_copy(
            update={
                "epochs": epochs,
                "learning_rate": settings.learning_rate * learning_rate_factor,
                "eval_every": None,
            }
        )
        info = self.inputs.models[rung.name]
        needs = replace(memory, does="language_model", trained=memory.sizes.n_params)
        identity = {
            "model": model,
            "task": task.fingerprint,
            "settings": settings.model_dump(mode="json", exclude={"lora", "eval_every"}),
            "parts": parts,
            "seed": seed,
            **self._cut(rung, task, settings.max_length),
        }
        return self._add(
            "generative",
            identity,
            rung=rung.name,
            seed=seed,
            parents=start,
            work=work * len(parts) / 2,
            memory=needs.on(gpu=True),
            needs=needs,
            task=task,
            settings=settings,
            settings_id=settings_id,
            model=info,
            keep_weights=True,
            title=f"{task.spec.name}: {rung.name} on texts without labels seed {seed}",
            written=GenerativeRun(task=task.spec, model=info.source, settings=settings, parts=parts, seed=seed),
        )

    def activations(self, rung: Rung, task: TaskInfo, seed: int, layer: Layer, *, base: Run | None = None) -> Run:
        """Hidden states of a rung, or of what `base` made of it, on all examples of a task."""
        start, model = self._start(rung, seed, base)
        settings, _, _, work, memory = self._settings(rung, task)
        read = {"max_length", "micro_batch_size", "precision", "cpu_threads"}
        identity = {
            "model": model,
            "task": task.fingerprint,
            "layer": layer,
            "settings": settings.model_dump(mode="json", include=read),
            **self._cut(rung, task, settings.max_length),
        }
        info = self.inputs.models[rung.name]
        needs = replace(memory, does="read", trained=0, all_layers=layer != -1)
        of = f"{rung.name} {'after ' + base.label if base else 'as pretrained'}"
        return self._add(
            "activations",
            identity,
            rung=rung.name,
            seed=seed,
            parents=start,
            work=work / 6,
            memory=needs.on(gpu=True),
            needs=needs,
            task=task,
            settings=settings,
            model=info,
            title=f"{task.spec.name}: layer {layer} of {of} seed {seed}",
            written=ActivationsRun(
                task=task.spec, model=None if start else info.source, layer=layer, settings=settings
            ),
        )

    def probe(
        self, setting: "Setting", activations: Run, *, labels: Literal["weak", "ground_truth"], penalty: float
    ) -> Run:
        """A logistic regression on activations."""
        weak = labels == "weak"
        parents = [Parent("activations", activations.run_id, "activations")]
        if weak:
            parents.append(Parent("supervisor", setting.labels.run_id, "predictions"))
        identity = {
            "activations": activations.run_id,
            "supervisor": setting.labels.run_id if weak else None,
            "part": setting.part,
            "penalty": penalty,
        }
        whose = f"labels of {setting.route}" if weak else "ground truth"
        return self._table_run(
            "probe",
            identity,
            setting,
            tuple(parents),
            title=f"{setting.task.spec.name}: probe on ({activations.label}), {whose}",
            written=ProbeRun(task=setting.task.spec, labels=labels, train_part=setting.part, penalty=penalty),
        )

    def prompt(self, setting: "Setting", method: Prompt) -> Run:
        """The strong model, prompted."""
        start, model = self._start(setting.strong, setting.seed, setting.base)
        settings, settings_id, _, work, memory = self._settings(setting.strong, setting.task)
        weak = method.shots > 0 and method.labels == "weak"
        assert setting.task.spec.prompt is not None, "checked by the procedure"
        # Without examples in the prompt nothing is drawn, and nobody's labels are read.
        seed = setting.seed if method.shots else 0
        identity = {
            "model": model,
            "task": setting.task.fingerprint,
            "prompt": setting.task.spec.prompt.model_dump(mode="json"),
            "shots": method.shots,
            "labels": method.labels if method.shots else None,
            "supervisor": setting.labels.run_id if weak else None,
            "part": setting.part if method.shots else None,
            "max_length": method.max_length,
            "settings": settings.model_dump(
                mode="json", include={"max_length", "micro_batch_size", "precision", "cpu_threads"}
            ),
            "seed": seed,
        }
        supervisor = (Parent("supervisor", setting.labels.run_id, "predictions"),) if weak else ()
        info = self.inputs.models[setting.strong.name]
        shown = memory.length * (1 + method.shots) + 16 * (1 + method.shots)  # and what a template says around a text
        positions = info.max_positions or method.max_length
        needs = replace(
            memory,
            does="prompt",
            trained=0,
            length=min(shown, method.max_length, positions),
            budget_length=settings.max_length,
        )
        return self._add(
            "prompt",
            identity,
            rung=setting.strong.name,
            seed=setting.seed,
            parents=(*start, *supervisor),
            work=work / 6 * (1 + method.shots),
            memory=needs.on(gpu=True),
            needs=needs,
            task=setting.task,
            settings=settings,
            settings_id=settings_id,
            train_part=setting.part,
            method=MethodSpec(name=method.name, params=method.model_dump(mode="json")),
            method_label=method_label(method),
            model=info,
            title=f"{setting.task.spec.name}: {f'{setting.route} -> ' if weak else ''}{setting.strong.name} "
            f"{method_label(method)} seed {setting.seed}",
            written=PromptRun(
                task=setting.task.spec,
                model=None if start else info.source,
                prompt=setting.task.spec.prompt,
                shots=method.shots,
                labels=method.labels,
                train_part=setting.part,
                settings=settings,
                max_length=method.max_length,
                seed=seed,
            ),
        )

    def labels(
        self, setting: "Setting", operation: MethodSpec, parents: tuple[Parent, ...], *, title: str, seed: int
    ) -> Run:
        """Labels made from other runs' predictions by an operation of `w2s.labelling`."""
        identity = {
            "operation": {"name": operation.name, **operation.params},
            "task": setting.task.fingerprint,
            "part": setting.part,
            "parents": [[p.role, p.run_id] for p in parents],
            "seed": seed,
        }
        return self._table_run(
            "labels",
            identity,
            setting,
            parents,
            title=f"{setting.task.spec.name}: {title}",
            written=LabelsRun(task=setting.task.spec, operation=operation, train_part=setting.part, seed=seed),
            rung=setting.weak.name,
        )

    def _table_run(
        self, kind: Kind, identity: Any, setting: "Setting", parents: tuple[Parent, ...], **fields: Any
    ) -> Run:
        fields = {"rung": setting.strong.name} | fields
        return self._add(
            kind,
            identity,
            seed=setting.seed,
            parents=parents,
            work=LABELS_WORK,
            memory=2e8,
            task=setting.task,
            settings_id=self.settings_id,
            train_part=setting.part,
            model=self.inputs.models[fields["rung"]],
            **fields,
        )


def _refuse_what_does_not_speak(task: TaskInfo, rung: Any, model: ModelInfo, settings: FinetuneSettings) -> None:
    of = f"task '{task.spec.name}' is of form generate, which"
    if not model.causal:
        raise SpecError(f"{of} needs causal language models, and '{rung.name}' is an encoder; take it off the ladder")
    if settings.tune != "full":
        raise SpecError(f"{of} trains the whole language model; '{rung.name}' has finetune.tune: {settings.tune}")


def _sizes(model: ModelInfo) -> Sizes:
    assert model.sizes is not None, "planning measures every model"
    return model.sizes


def _longest_tokens(task: TaskInfo, model: ModelInfo, max_length: int) -> float:
    """Tokens of the longest text, about: a trained vocabulary has some 4 bytes a token, on the longest texts fewer."""
    per_token = 2 if model.source is None else 3
    longest = min(max_length, max(task.summary.max_bytes.values()) / per_token + 2)
    return min(longest, model.max_positions or longest)
