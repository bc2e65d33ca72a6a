"""What all candidates of a search share: its instances, their supervisors, and one reference ceiling each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from sweep.errors import SpecError
from sweep.inputs import Inputs
from sweep.plan import Plan, Run
from sweep.planner import grid
from sweep.procedures import Setting, expand
from sweep.runs import RunMaker
from sweep.spec import MethodEntry, Sweep
from sweep.tuning.checks import Scope
from sweep.tuning.objective import Instance
from w2s.methods import build_method


@dataclass(frozen=True)
class Expanded:
    """A candidate as runs."""

    students: tuple[tuple[str, Setting], ...]
    """Per instance the student's run, and the setting that it was made in."""
    own: frozenset[str]
    """Its runs, without those that every candidate needs."""


@dataclass(frozen=True)
class Shared:
    """The part of the plan that does not grow with the candidates.

    Supervisors and ceilings have the spec's own finetuning settings: the search changes the student only, so that all
    candidates are measured on one scale.
    """

    maker: RunMaker
    settings: tuple[Setting, ...]
    instances: tuple[Instance, ...]
    needed: frozenset[str]
    """Runs of supervisors, of ceilings if the metric asks for them, and all that these come from."""

    @classmethod
    def of(cls, spec: Sweep, inputs: Inputs, scope: Scope, *, metric: str) -> "Shared":
        maker = RunMaker(*narrowed(spec, inputs, scope))
        settings = tuple(grid(maker))
        instances = tuple(_instance(maker, setting, metric) for setting in settings)
        wanted = {i.supervisor_id for i in instances} | {other for i in instances for other in i.others}
        if metric == "pgr":
            wanted |= {i.ceiling_id for i in instances}
        bases = {maker.base(s.strong, s.seed) for s in settings} - {None}
        wanted |= {run.run_id for run in bases if run is not None}
        needed = Plan(runs=maker.runs, pairs=(), requested=0).with_ancestors(wanted)
        return cls(maker, settings, instances, frozenset(needed))

    @cached_property
    def plan(self) -> Plan:
        """The shared runs."""
        return Plan(runs={i: run for i, run in self.maker.runs.items() if i in self.needed}, pairs=(), requested=0)

    def runs(self) -> Mapping[str, Run]:
        """All runs that were made so far, parents first."""
        return self.maker.runs

    def expand(self, entry: MethodEntry) -> Expanded:
        """The runs of a candidate on every instance.

        Raises:
            NotApplicableError, SpecError: As `sweep.procedures.expand`.
        """
        maker, method = self.maker.with_settings(entry.finetune), build_method(entry)
        students = [expand(method, maker, setting) for setting in self.settings]
        plan = Plan(runs=self.maker.runs, pairs=(), requested=0)
        own = plan.with_ancestors(student.run.run_id for student in students) - self.needed
        return Expanded(tuple((student.run.run_id, student.setting) for student in students), frozenset(own))


def narrowed(spec: Sweep, inputs: Inputs, scope: Scope) -> tuple[Sweep, Inputs]:
    """Spec and inputs with these pairs, tasks and seeds only."""
    tasks = tuple(task for task in spec.tasks if task.name in scope.tasks)
    spec = spec.model_copy(update={"pairs": scope.pairs, "tasks": tasks, "seeds": scope.seeds})
    return spec, replace(inputs, tasks={task.name: inputs.tasks[task.name] for task in tasks})


def _instance(maker: RunMaker, setting: Setting, metric: str) -> Instance:
    rungs = list(maker.spec.ladder.rungs)
    below = rungs[: [rung.name for rung in rungs].index(setting.strong.name)]
    others = [rung for rung in below if rung.name != setting.weak.name] if metric == "cross_agreement" else []
    if metric == "cross_agreement" and not others:
        raise SpecError(
            f"tune.metric: cross_agreement asks other supervisors than a student's own, and below "
            f"{setting.strong.name} there is only {setting.weak.name}; use agreement, or pairs with more rungs below"
        )
    return Instance(
        task=setting.task.spec.name,
        weak=setting.weak.name,
        strong=setting.strong.name,
        seed=setting.seed,
        supervisor_id=setting.supervisor.run_id,
        ceiling_id=setting.ceiling.run_id,
        others=tuple(maker.ground_truth(rung, setting.task, "supervise", setting.seed).run_id for rung in others),
    )
