"""From a validated sweep to its plan: every pair of the grid with every method. Pure functions, no Ray.

`sweep.runs` knows every kind of run and what makes its identity; `sweep.procedures` which runs a method asks for.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from sweep.errors import SpecError
from sweep.inputs import Inputs
from sweep.plan import Pair, Plan, Run
from sweep.procedures import NotApplicableError, Setting, expand
from sweep.runs import RunMaker
from sweep.spec import MethodEntry, Sweep, entry_label, flattened
from w2s.methods import build_method


def build_plan(spec: Sweep, inputs: Inputs) -> Plan:
    """Expand a sweep into its graph of runs.

    Raises:
        SpecError: A method asks for what the spec does not give, or applies to nothing.
    """
    runs = RunMaker(spec, inputs)
    for seed in spec.seeds:
        for rung in spec.ladder.rungs:  # a ladder is useful without pairs: `w2s ladder`
            runs.base(rung, seed)
    methods = [(runs.with_settings(entry.finetune), entry, entry_label(entry)) for entry in spec.methods]
    pairs: list[Pair] = []
    skipped: Counter[tuple[str, str, str]] = Counter()
    for setting in grid(runs):
        for own_runs, entry, label in methods:
            try:
                pairs.append(
                    _pair(own_runs, with_own_ceiling(own_runs, entry, setting), entry, label, runs.settings_id)
                )
            except NotApplicableError as reason:
                skipped[label, setting.task.spec.name, str(reason)] += 1
    used = {pair.method for pair in pairs}
    for label in dict.fromkeys(label for label, _, _ in skipped):
        if label not in used:
            reasons = "; ".join(dict.fromkeys(why for (name, _, why) in skipped if name == label))
            raise SpecError(f"methods: '{label}' applies to no pair of this sweep: {reasons}")
    left_out = tuple(f"{label} on {task}: {n:,} pairs left out, {why}" for (label, task, why), n in skipped.items())
    plan = Plan(runs=runs.runs, pairs=tuple(pairs), requested=3 * len(pairs), not_applicable=left_out)
    return replace(plan, runs=_needed(plan))


def grid(runs: RunMaker) -> Iterator[Setting]:
    """Every pair of rungs at every seed and task, before a method is chosen."""
    spec = runs.spec
    rungs = {rung.name: rung for rung in spec.ladder.rungs}
    part = "transfer/0"
    half = part if spec.ceiling_half == "transfer" else "supervise"
    for task in runs.inputs.tasks.values():
        for seed in spec.seeds:
            for weak, strong in spec.rung_pairs():
                supervisor = runs.ground_truth(rungs[weak], task, "supervise", seed)
                yield Setting(
                    task=task,
                    weak=rungs[weak],
                    strong=rungs[strong],
                    seed=seed,
                    part=part,
                    labels=supervisor,
                    supervisor=supervisor,
                    ceiling=runs.ground_truth(rungs[strong], task, half, seed),
                    route=weak,
                )


def with_own_ceiling(runs: RunMaker, entry: MethodEntry, setting: Setting) -> Setting:
    """The setting with a ceiling that is finetuned as the entry's student is, where that is another one."""
    if not (entry.finetune and entry.own_ceiling):
        return setting
    part = setting.ceiling.train_part or setting.part
    ceiling = runs.ground_truth(setting.strong, setting.task, part, setting.seed)
    if ceiling.run_id == setting.ceiling.run_id:
        return setting
    changed = ", ".join(f"{key}={value}" for key, value in flattened(entry.finetune).items())
    return replace(setting, ceiling=ceiling, baseline=f"ceiling with {changed}")


def _pair(runs: RunMaker, setting: Setting, entry: MethodEntry, label: str, settings: str) -> Pair:
    method = build_method(entry)
    student = expand(method, runs, setting)
    return Pair(
        task=setting.task.spec.name,
        form=setting.task.spec.form,
        seed=setting.seed,
        weak=setting.weak.name,
        strong=setting.strong.name,
        method=label,
        settings=settings,
        part=setting.part,
        supervisor_id=student.setting.supervisor.run_id,
        student_id=student.run.run_id,
        ceiling_id=student.setting.ceiling.run_id,
        baseline=student.setting.baseline,
        stop=student.setting.stop,
        oracle=method.oracle or entry.oracle,
        links=",".join(student.setting.links),
    )


def _needed(plan: Plan) -> dict[str, Run]:
    """The ladder, and what the pairs need: not what was begun for a method that then did not apply."""
    ends = {run_id for p in plan.pairs for run_id in (p.supervisor_id, p.student_id, p.ceiling_id)}
    ladder = {run.run_id for run in plan.runs.values() if run.kind in ("tokenizer", "pretrain")}
    needed = plan.with_ancestors(ends | ladder)
    return {run_id: run for run_id, run in plan.runs.items() if run_id in needed}
