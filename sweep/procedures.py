"""Which runs a method asks for: every method of `w2s.methods`, taken apart into the runs of one pair.

`expand` starts from the `Setting` of a pair and ends with its student. A procedure changes the setting, whose labels
are learned, from which weights, against which baseline, and hands it on to the method that it wraps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import TYPE_CHECKING, NamedTuple

from sweep.errors import SpecError
from sweep.plan import Parent, Run, Stop
from sweep.spec import nearest
from w2s.config import MethodSpec
from w2s.methods import (
    ORACLE_MARK,
    Bootstrap,
    Control,
    EarlyStop,
    EasyToHard,
    Ensemble,
    Filter,
    Generative,
    Imitation,
    LossMethod,
    Method,
    Probe,
    Prompt,
    Relabel,
    build_method,
    method_label,
)

if TYPE_CHECKING:
    from sweep.inputs import TaskInfo
    from sweep.runs import Rung, RunMaker


class NotApplicableError(Exception):
    """A method makes no sense on this pair or task; the text says why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One cell of the grid on its way to a student."""

    task: TaskInfo
    weak: Rung
    strong: Rung
    seed: int
    part: str
    labels: Run
    """Whose predictions the student learns."""
    supervisor: Run
    """What counts as the weak performance."""
    ceiling: Run
    route: str
    """The way of the labels in words: "d6", "d6 -> d8", ..."""
    base: Run | None = None
    """The run whose weights the student starts from, when they are not its rung's own."""
    ceiling_base: Run | None = None
    """The same for the ceiling."""
    baseline: str = ""
    """Names supervisor and ceiling when they are not the grid's own."""
    stop: Stop = "last"
    links: tuple[str, ...] = ()
    states_labels: bool = False
    has_gaps: bool = False
    """Whether some rows of the training part have no label."""


class Student(NamedTuple):
    """The run whose predictions count, and the setting that it was made in."""

    run: Run
    setting: Setting


def expand(method: Method, runs: RunMaker, setting: Setting) -> Student:
    """Add the runs of one pair to the plan.

    Raises:
        NotApplicableError: The method makes no sense here.
        SpecError: The spec lacks what the method needs.
    """
    if setting.task.spec.form not in method.forms:  # asked here, so that it holds for methods inside others, too
        raise NotApplicableError(f"{method.name} is for {' and '.join(method.forms)} only")
    return _expand(method, runs, setting)


@singledispatch
def _expand(method: Method, runs: RunMaker, setting: Setting) -> Student:
    raise NotImplementedError(f"no way to run method {method.name!r} is known")


@_expand.register(LossMethod)
def _loss_method(method: LossMethod, runs: RunMaker, setting: Setting) -> Student:
    if setting.states_labels:
        _refuse_gaps(setting, "imitation")
    return Student(runs.transfer(setting, method), setting)


@_expand.register(Bootstrap)
def _bootstrap(method: Bootstrap, runs: RunMaker, setting: Setting) -> Student:
    chain = _chain(method, runs, setting)
    if method.data == "fresh" and setting.links:
        raise SpecError(f"methods: '{method_label(method)}' is inside another chain, whose rows it would use again")
    if method.data == "fresh" and setting.task.spec.splits.transfer_parts <= len(chain):
        raise SpecError(
            f"methods: '{method_label(method)}' has chains of {len(chain)} links and then the student, each on rows of "
            f"its own; task '{setting.task.spec.name}' needs splits.transfer_parts: {len(chain) + 1} or more"
        )
    here = setting
    for index, rung in enumerate(chain):
        # The student's own part is 0, whatever the length of the chain: the one of its comparators.
        part = f"transfer/{index + 1}" if method.data == "fresh" else setting.part
        how = build_method(method.links[min(index, len(method.links) - 1)])
        link = expand(how, runs, replace(here, strong=rung, part=part, base=None, ceiling_base=None))
        _refuse_chosen_step(link, f"a link of '{method_label(method)}'")
        if link.setting.supervisor.run_id != setting.supervisor.run_id:
            raise SpecError(
                f"methods: '{method_label(method)}': its link '{method_label(how)}' brings a supervisor of its "
                "own, which the pair would not be measured against; put it outside, with the chain as its student"
            )
        here = replace(
            here,
            labels=link.run,
            route=f"{here.route} -> {rung.name}",
            links=(*here.links, link.run.run_id),
            has_gaps=False,
        )
    return expand(build_method(method.student), runs, here)


def _chain(method: Bootstrap, runs: RunMaker, setting: Setting) -> Sequence[Rung]:
    """The rungs between weak and strong that a chain goes through, weakest first."""
    rungs = list(runs.spec.ladder.rungs)
    names = [rung.name for rung in rungs]
    low, high = names.index(setting.weak.name), names.index(setting.strong.name)
    between = rungs[low + 1 : high]
    if isinstance(method.chain, tuple):
        places = []
        for name in method.chain:
            if name not in names:
                raise SpecError(f"methods: bootstrap: the chain names no rung '{name}'{nearest(name, names)}")
            places.append(names.index(name))
        if places != sorted(set(places)):
            raise SpecError(
                f"methods: bootstrap: the chain {', '.join(method.chain)} must climb; the ladder goes "
                f"{' < '.join(names)}"
            )
        if places[0] <= low or places[-1] >= high:
            raise NotApplicableError(f"the chain {' -> '.join(method.chain)} does not lie between weak and strong")
        return [rungs[place] for place in places]
    chain = between if method.chain == "all" else between[method.chain - 1 :: method.chain]
    if not chain:
        raise NotApplicableError("too few rungs lie between weak and strong")
    return chain


@_expand.register(Relabel)
def _relabel(method: Relabel, runs: RunMaker, setting: Setting) -> Student:
    inner, here = build_method(method.student), setting
    for round_ in range(1, method.rounds + 1):
        student = expand(inner, runs, here)
        _refuse_chosen_step(student, f"a round of '{method_label(method)}'")
        here = replace(
            here,
            labels=student.run,
            route=f"{setting.route} -> {setting.strong.name} (round {round_})",
            links=(*here.links, student.run.run_id),
            has_gaps=False,
        )
    return expand(inner, runs, here)


@_expand.register(Generative)
def _generative(method: Generative, runs: RunMaker, setting: Setting) -> Student:
    if setting.base is not None:
        raise SpecError(
            f"methods: '{method_label(method)}' is inside another generative finetuning; take one of the two"
        )
    _need_language_models(runs, setting.strong, setting.weak if method.supervisor == "adjusted" else None)
    if method.supervisor == "adjusted":
        _refuse_lost_labels(method, setting, _of_the_grid(runs, setting))
    halves = {"train": ("supervise", setting.part), "transfer": (setting.part,)}

    def adapted(rung: Rung) -> Run:
        return runs.generative(
            rung,
            setting.task,
            setting.seed,
            parts=halves[method.texts],
            epochs=method.epochs,
            learning_rate_factor=method.learning_rate_factor,
        )

    base = adapted(setting.strong)
    here = replace(setting, base=base, route=f"{setting.route} (texts first)")
    if method.supervisor == "adjusted":
        supervisor = runs.ground_truth(
            setting.weak, setting.task, "supervise", setting.seed, base=adapted(setting.weak)
        )
        here = replace(here, supervisor=supervisor, labels=supervisor)
    if method.ceiling == "adjusted":
        part = setting.ceiling.train_part or setting.part
        ceiling = runs.ground_truth(setting.strong, setting.task, part, setting.seed, base=base)
        here = replace(here, ceiling=ceiling, ceiling_base=base)
    if method.supervisor == "adjusted" or method.ceiling == "adjusted":
        here = replace(here, baseline=_own_baseline(setting, method))
    return expand(build_method(method.student), runs, here)


@_expand.register(EarlyStop)
def _early_stop(method: EarlyStop, runs: RunMaker, setting: Setting) -> Student:
    if runs.settings(setting.strong, setting.task).eval_every is None:
        raise SpecError(
            f"methods: '{method_label(method)}' chooses among evaluations, but there is only one, at the end; set "
            "finetune.eval_every, for instance to a twentieth of the steps"
        )
    student = expand(build_method(method.student), runs, setting)
    if student.run.kind != "transfer":
        raise SpecError(f"methods: '{method_label(method)}': a {student.run.kind} has no steps to stop at")
    _refuse_chosen_step(student, f"the student of '{method_label(method)}'")
    return Student(student.run, replace(student.setting, stop=method.by))


@_expand.register(Filter)
def _filter(method: Filter, runs: RunMaker, setting: Setting) -> Student:
    _refuse_gaps(setting, method_label(method))
    if setting.task.spec.form == "generate" and method.by not in ("confidence", "random"):
        raise NotApplicableError(f"filter by {method.by} looks at classes, and this task's labels are texts")
    params: dict = {"by": method.by, "relabel": method.relabel}
    if not method.relabel:
        params["keep"] = method.kept
    parents = [Parent("supervisor", setting.labels.run_id, "predictions")]
    if method.by not in ("confidence", "random"):
        activations = runs.activations(setting.strong, setting.task, setting.seed, method.layer, base=setting.base)
        parents.append(Parent("activations", activations.run_id, "activations"))
        params |= {"penalty": method.penalty} if method.by == "probe" else {"k": method.k}
    title = f"labels of {setting.route} filtered by {method.by} for {setting.strong.name} seed {setting.seed}"
    operation = MethodSpec(name=method.name, params=params)
    drawn = setting.seed if method.by == "random" else 0  # nothing is drawn otherwise
    labels = runs.labels(setting, operation, tuple(parents), title=title, seed=drawn)
    route = f"{setting.route} (filtered by {method.by})"
    here = replace(setting, labels=labels, route=route, has_gaps=not method.relabel)
    return expand(build_method(method.student), runs, here)


@_expand.register(Ensemble)
def _ensemble(method: Ensemble, runs: RunMaker, setting: Setting) -> Student:
    _refuse_lost_labels(method, setting, _of_the_grid(runs, setting))
    if setting.task.spec.form == "generate" and method.rule != "vote":
        raise NotApplicableError("answers in words cannot be averaged; write rule: vote")
    rungs = list(runs.spec.ladder.rungs)
    names = [rung.name for rung in rungs]
    low = names.index(setting.weak.name)
    if method.members == "seeds":
        if len(runs.spec.seeds) < 2:
            raise NotApplicableError("an ensemble over seeds needs several")
        members = [(setting.weak, seed) for seed in runs.spec.seeds]
    else:
        chosen = names[: low + 1] if method.members == "smaller" else list(method.members)
        for name in chosen:
            if name not in names:
                raise SpecError(f"methods: ensemble: there is no rung '{name}'{nearest(name, names)}")
        if max(names.index(name) for name in chosen) != low:
            raise NotApplicableError("the ensemble goes with the pairs whose weak rung is its largest member")
        if len(chosen) < 2:
            raise NotApplicableError("no rung lies below the weak one")
        members = [(rungs[names.index(name)], setting.seed) for name in chosen]
    parents = tuple(
        Parent(f"member/{i}", runs.ground_truth(rung, setting.task, "supervise", seed).run_id, "predictions")
        for i, (rung, seed) in enumerate(members)
    )
    who = "seeds" if method.members == "seeds" else "+".join(rung.name for rung, _ in members)
    route = f"{setting.weak.name} ({method.rule} of {who})"
    labels = runs.labels(
        setting, MethodSpec(name=method.name, params={"rule": method.rule}), parents, title=f"labels of {route}", seed=0
    )
    here = replace(setting, labels=labels, supervisor=labels, route=route, baseline=_own_baseline(setting, method))
    return expand(build_method(method.student), runs, here)


@_expand.register(Control)
def _control(method: Control, runs: RunMaker, setting: Setting) -> Student:
    _refuse_lost_labels(method, setting, setting.supervisor)
    parents = [Parent("supervisor", setting.labels.run_id, "predictions")]
    if method.errors in ("least_confident", "most_confident"):
        # Trained on the other half, so that its confidence on these rows is not that of memory.
        reference = runs.ground_truth(setting.strong, setting.task, "supervise", setting.seed)
        parents.append(Parent("reference", reference.run_id, "predictions"))
    route = f"{setting.route} (its errors made {method.errors})"
    operation = MethodSpec(name=method.name, params={"errors": method.errors})
    labels = runs.labels(
        setting, operation, tuple(parents), title=f"labels of {route} seed {setting.seed}", seed=setting.seed
    )
    here = replace(setting, labels=labels, supervisor=labels, route=route, baseline=_own_baseline(setting, method))
    return expand(build_method(method.student), runs, here)


@_expand.register(Imitation)
def _imitation(method: Imitation, runs: RunMaker, setting: Setting) -> Student:
    here = replace(setting, states_labels=True, route=f"{setting.route} (labels stated)")
    student = expand(build_method(method.student), runs, here)
    if student.run.kind != "transfer":
        raise SpecError(f"methods: '{method_label(method)}': a {student.run.kind} does not read the stated labels")
    return student


@_expand.register(EasyToHard)
def _easy_to_hard(method: EasyToHard, runs: RunMaker, setting: Setting) -> Student:
    _refuse_lost_labels(method, setting, setting.supervisor)
    rungs = list(runs.spec.ladder.rungs)
    parents = [Parent("supervisor", setting.labels.run_id, "predictions")]
    for i, rung in enumerate(rungs):
        judge = runs.ground_truth(rung, setting.task, "supervise", setting.seed)
        parents.append(Parent(f"member/{i}", judge.run_id, "predictions"))
    low = [rung.name for rung in rungs].index(setting.weak.name)
    operation = MethodSpec(name=method.name, params={"rows": method.rows, "share": method.share, "up_to": low})
    route = f"ground truth of rows {method.rows} for {setting.weak.name}"
    labels = runs.labels(setting, operation, tuple(parents), title=f"{route} seed {setting.seed}", seed=setting.seed)
    return expand(build_method(method.student), runs, replace(setting, labels=labels, route=route, has_gaps=True))


@_expand.register(Probe)
def _probe(method: Probe, runs: RunMaker, setting: Setting) -> Student:
    start = setting.base
    if method.activations == "finetuned":
        student = expand(build_method(method.student), runs, setting)
        if student.run.kind != "transfer":
            raise SpecError(f"methods: '{method_label(method)}': a {student.run.kind} is not a finetuned student")
        _refuse_chosen_step(student, f"the student of '{method_label(method)}'")
        if student.setting.states_labels:
            raise SpecError(f"methods: '{method_label(method)}': a probe does not read the stated labels")
        runs.keep_weights(student.run)
        # What the student's own methods brought, labels, supervisor, ceiling, is the probe's as well.
        start, setting = student.run, student.setting
    activations = runs.activations(setting.strong, setting.task, setting.seed, method.layer, base=start)
    run = runs.probe(setting, activations, labels=method.labels, penalty=method.penalty)
    if method.ceiling == "finetuned":
        return Student(run, setting)
    start = setting.ceiling_base
    pretrained = runs.activations(setting.strong, setting.task, setting.seed, method.layer, base=start)
    ceiling = runs.probe(setting, pretrained, labels="ground_truth", penalty=method.penalty)
    baseline = _own_baseline(setting, Probe(layer=method.layer, penalty=method.penalty))  # whatever its own labels are
    return Student(run, replace(setting, ceiling=ceiling, baseline=baseline))


@_expand.register(Prompt)
def _prompt(method: Prompt, runs: RunMaker, setting: Setting) -> Student:
    if setting.task.spec.prompt is None:
        raise NotApplicableError("the task has no prompt (give it prompt: {template: ..., answers: [...]})")
    _need_language_models(runs, setting.strong)
    return Student(runs.prompt(setting, method), setting)


def _own_baseline(setting: Setting, method: Method) -> str:
    """The name of a supervisor or ceiling that a method brings, whatever its student's loss is.

    Behind those of the methods around it: what generative finetuning is measured against is another thing for an
    ensemble's student.
    """
    plain = method.model_copy(update={"student": type(method).model_fields["student"].default})
    own = method_label(plain).removesuffix(ORACLE_MARK)
    return f"{setting.baseline} + {own}" if setting.baseline else own


def _of_the_grid(runs: RunMaker, setting: Setting) -> Run:
    """The supervisor that a pair has without any method."""
    return runs.ground_truth(setting.weak, setting.task, "supervise", setting.seed)


def _refuse_lost_labels(method: Method, setting: Setting, start: Run) -> None:
    """Some methods make labels from the supervisor's; inside a method that made others, those would go unused."""
    if setting.labels.run_id != start.run_id:
        raise SpecError(
            f"methods: '{method_label(method)}' makes labels of its own and would drop those of {setting.route}; put "
            "it outside, with the other method as its student"
        )


def _refuse_gaps(setting: Setting, what: str) -> None:
    if setting.has_gaps:
        raise SpecError(
            f"methods: '{what}' needs a label for every row, and {setting.route} leaves rows out; take one of the two"
        )


def _need_language_models(runs: RunMaker, *rungs: Rung | None) -> None:
    for rung in rungs:
        if rung is not None and not runs.inputs.models[rung.name].causal:
            raise NotApplicableError(f"{rung.name} is no causal language model")


def _refuse_chosen_step(student: Student, what: str) -> None:
    if student.setting.stop != "last":
        raise SpecError(
            f"methods: {what} is stopped early, but only the last step labels every part; put early_stop outside"
        )
