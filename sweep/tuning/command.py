"""What `w2s tune` does: search the settings of a method, then measure the best ones on fresh instances.

Here the search meets the store, Ray and the terminal.
"""

import argparse
import shlex
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from sweep.commands import INTERRUPTED, execute
from sweep.errors import SpecError, SweepError
from sweep.planner import build_plan
from sweep.procedures import NotApplicableError
from sweep.session import Session
from sweep.spec import Sweep, entry_label
from sweep.state import State, stand
from sweep.tracking import tracking_job
from sweep.tuning.block import Judge, Tune
from sweep.tuning.candidate import default_params, entry_of
from sweep.tuning.fresh import FreshMethods, Winner, as_mapping, exported, fresh_methods, fresh_spec
from sweep.tuning.objective import Scorer
from sweep.tuning.pruning import can_stop, pruner_of
from sweep.tuning.search import Search, front_of
from sweep.tuning.session import TuneSession, role_of
from sweep.tuning.shared import Shared, narrowed
from sweep.tuning.study import Study, Trial
from sweep.tuning.tables import Searched, read_summary, space_rows, write_summary, write_tables
from w2s.errors import W2SError

FRONT_EVALUATED = 5
"""Candidates of a Pareto front that are measured on fresh instances, spread over it."""
BEAT_SECONDS = 15.0


def tune(args: argparse.Namespace) -> int:
    from sweep.cluster import ray_kept

    session = TuneSession.open(args.spec, args.storage, args.trials)
    session.store.check_writable()
    before = read_summary(session.store, session.folder)
    with ray_kept():
        found, methods, fresh, code = _search_and_measure(session, args)
    studies = {study["objective"]: study for study in before.get("studies", [])}
    studies |= {one.judge: one.summary for one in found}
    kept = [studies[judge] for judge in session.tune.judges if judge in studies]
    summary = _summary(session, kept) | {"fresh": _fresh_or_before(fresh, before.get("fresh"))}
    write_summary(session.store, session.folder, summary)
    if args.export:
        _export(session, methods, Path(args.export))
    if not args.no_report and code != INTERRUPTED:
        print(f"report: {_report(session)}")
    return code


def _search_and_measure(
    session: TuneSession, args: argparse.Namespace
) -> tuple[list["_Found"], FreshMethods | None, dict[str, Any] | None, int]:
    """What the searches found; the methods measured on fresh instances, what is known of that, and the exit code."""
    found = []
    for judge in session.tune.judges:
        one = _search(session, judge, address=args.address, retry_failed=args.retry_failed)
        found.append(one)
        if one.code:
            return found, None, None, one.code
    methods = _winners(session, found)
    fresh, code = _measure(session, methods, address=args.address, retry_failed=args.retry_failed)
    fresh["winners"] = {one.judge: one.best.number for one in found if one.best}
    return found, methods, fresh, code


def _fresh_or_before(fresh: dict[str, Any] | None, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the summary says of fresh instances; an earlier one is kept until there is a new one, and counted."""
    if fresh is None or before is None:
        return fresh or (before and before | {"stale": True})
    same_instances = before.get("scope") == fresh["scope"]
    winners, looked = before.get("winners"), list(before.get("looked_before", []))
    if winners and winners != fresh["winners"] and winners not in looked:
        looked.append(winners)
    return fresh | {"looked_before": looked if same_instances else []}


# -- search --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    summary: dict[str, Any]
    judge: Judge
    best: Trial | None
    front: list[Trial]
    over: bool
    code: int


def _search(session: TuneSession, judge: Judge, *, address: str | None, retry_failed: bool) -> _Found:
    """Search until the budget is used up, or as far as it goes."""
    block, store = session.tune, session.store
    shared, metric = session.shared(judge), session.tune.metrics[judge]
    directions = ["maximize", "minimize"] if block.minimize_flops else ["maximize"]
    basis = {"instances": [str(instance) for instance in shared.instances]}
    default = default_params(block, session.spec)
    with Study.open(store, session.name_of(judge), block, directions=directions, basis=basis) as study:  # type: ignore[arg-type]
        if default is not None and not _is_the_default(block, shared, default):
            default = None  # a rung has settings of its own, which the space would replace
        if default is not None:
            study.enqueue(default)
        scorer = Scorer(store, metric, shared.instances)
        search = Search(block, study, shared, scorer, store, report=_say, retry_failed=retry_failed)
        before = len(study.trials())
        print(
            f"tune {session.name_of(judge)}: {metric} on {len(shared.instances)} instances, {before} candidates so far"
        )
        if block.pruner.name != "none" and not can_stop(pruner_of(block), len(shared.instances)):
            print(f"pruner {block.pruner.name} cannot stop a candidate that has {len(shared.instances)} instances")
        interrupted = False
        if not search.is_over:
            interrupted = _run(session, shared, study, search, address=address, retry_failed=retry_failed)
        ended = search.problem or search.ended_because or ("interrupted" if interrupted else "")
        print(f"search ended: {ended}" if ended else "search stopped")
        trials = study.trials()
        searched = Searched(
            judge=judge,
            metric=metric,
            folder=f"tuning/{session.name_of(judge)}",
            instances=shared.instances,
            trials=trials,
            default=default,
            shared_runs=Counter(role_of(shared, run_id) for run_id in shared.needed),
            candidate_runs=len(_own_runs(shared, block, trials) & store.run_folders()),
            ended=ended,
            location=study.location,
        )
        summary = write_tables(store, searched, study, minimize_flops=block.minimize_flops)
        if metric == "pgr" and searched.best:
            weak, ceiling = scorer.gap()
            summary["gap"] = {"weak": weak, "ceiling": ceiling, "n_examples": scorer.n_examples}
    if interrupted:
        print("interrupted; the same command goes on where it stopped")
    over = bool(search.ended_because) and not search.problem and not interrupted
    code = INTERRUPTED if interrupted else 0 if over and searched.best else 1
    if search.problem:
        print(f"w2s tune: {search.problem}", file=sys.stderr)
    elif over and not trials:
        raise SpecError(f"tune.budget: too small for one candidate: {ended}")
    elif over and searched.best is None:
        print("w2s tune: no candidate was completed, so there is no best one", file=sys.stderr)
    return _Found(summary, judge, searched.best, front_of(trials), over, code)


def _run(
    session: TuneSession, shared: Shared, study: Study, search: Search, *, address: str | None, retry_failed: bool
) -> bool:
    """Execute the shared runs that are missing, and the candidates'. Returns whether it was interrupted."""
    from sweep.engine import run_plan

    store, plan = session.store, shared.plan
    standings = stand(plan, store, verify=True)
    for run_id, standing in standings.items():
        if standing.set_aside:
            store.quarantine(run_id)
    if not retry_failed:
        for run_id, standing in standings.items():
            if standing.state == State.GIVEN_UP:
                search.problem = (
                    f"every candidate needs '{plan.runs[run_id].label}': {standing.reason}; "
                    f"only --retry-failed tries it again"
                )
                return False
    todo = {run_id for run_id, standing in standings.items() if standing.state != State.DONE}
    threads = session.spec.ladder.pretrain.cpu_threads
    tracking = tracking_job(
        session.spec.tracking,
        store,
        name=session.tune_id,
        title=session.spec.name,
        place=session.folder,
        done=plan.runs.keys() - todo,
    )
    with _heartbeat(study):
        outcome = run_plan(
            plan,
            todo,
            store,
            session.spec.compute,
            cpu_threads=threads,
            address=address,
            feed=search,
            tracking=tracking,
        )
    for run_id, message in outcome.failed.items():
        print(f"failed: {run_id}: {message}\n  w2s show {run_id} --storage {shlex.quote(store.root)}")
    return outcome.interrupted


@contextmanager
def _heartbeat(study: Study) -> Iterator[None]:
    """Signs of life while runs are executed, during which nothing is asked or told for long."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            try:
                study.beat()
            except Exception:  # the search meets the same thing when it next asks or tells, and says it
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _say(line: str) -> None:
    print(line, flush=True)


def _is_the_default(block: Tune, shared: Shared, params: dict[str, Any]) -> bool:
    """Whether these parameters make the very runs of the spec without a search."""
    try:
        return shared.expand(entry_of(block.method, params)).own == shared.expand(entry_of(block.method, {})).own
    except (NotApplicableError, SweepError, W2SError):
        return False


def _own_runs(shared: Shared, block: Tune, trials: list[Trial]) -> set[str]:
    """Runs of all candidates that were begun, without those that they all share."""
    found: set[str] = set()
    for trial in trials:
        with suppress(NotApplicableError, SweepError, W2SError):  # such a candidate failed without a run
            found |= shared.expand(entry_of(block.method, trial.params)).own
    return found


# -- fresh instances, export, report -------------------------------------------------------------------------------


def _winners(session: TuneSession, found: list[_Found]) -> FreshMethods:
    winners = {one.judge: Winner(one.best.number, one.best.params) for one in found if one.best}
    fronts = {}
    for one in found:
        others = [t for t in one.front if one.best and t.number != one.best.number]
        step = max(1, -(-len(others) // (FRONT_EVALUATED - 1)))
        fronts[one.judge] = {t.number: t.params for t in others[::step]}
    return fresh_methods(session.tune, winners, fronts, name=session.tune_id.rpartition("-")[2])


def _measure(
    session: TuneSession, methods: FreshMethods, *, address: str | None, retry_failed: bool
) -> tuple[dict[str, Any], int]:
    """Run the winners and the default on fresh instances. Returns what the summary says of it, and the exit code."""
    scope = session.scopes[1]
    spec, inputs = narrowed(fresh_spec(session.spec, scope, methods), session.inputs, scope)
    plan = build_plan(spec, inputs)
    fresh = Session(session.file, spec, inputs, plan, session.store, made=_as_text(spec))
    print(f"fresh instances: {', '.join(entry_label(entry) for entry in spec.methods)} at seeds {_listed(scope.seeds)}")
    code = execute(fresh, set(plan.runs), retry_failed=retry_failed, address=address)
    summary = {
        "sweep": fresh.sweep_id,
        "seeds": list(scope.seeds),
        "scope": {
            "pairs": [list(pair) for pair in scope.pairs],
            "tasks": list(scope.tasks),
            "seeds": list(scope.seeds),
        },
        "default": methods.default,
        "tuned": methods.tuned,
        "front": methods.front,
        "reference": methods.reference,
        "not_applicable": list(plan.not_applicable),
    }
    return summary, code


def _summary(session: TuneSession, studies: list[dict[str, Any]]) -> dict[str, Any]:
    block = session.tune
    shared = session.shared(block.judges[0])
    return {
        "name": session.spec.name,
        "tune_id": session.tune_id,
        "command": shlex.join(["w2s", *sys.argv[1:]]),
        "versions": {name: version(name) for name in ("w2s-sweep", "optuna", "ray", "torch", "transformers")},
        "method": entry_label(entry_of(block.method, {})),
        "sampler": block.sampler,
        "pruner": block.pruner.name,
        "concurrent": block.concurrent,
        "budget": block.budget.model_dump(exclude_none=True),
        "space": space_rows(block),
        "instances": [{"task": i.task, "weak": i.weak, "strong": i.strong, "seed": i.seed} for i in shared.instances],
        "studies": studies,
    }


def _export(session: TuneSession, methods: FreshMethods | None, out: Path) -> None:
    if methods is None:
        print(f"w2s tune: the search is not over, so {out} is not written", file=sys.stderr)
        return
    searched, fresh = session.scopes
    spec = exported(session.spec, methods, fresh, session.store.root)
    heading = (
        f"# The best settings found by w2s tune {session.file} ({session.tune_id}).\n"
        f"# Found on seeds {_listed(searched.seeds)}, which no longer tell their worth; here are the others.\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(heading.encode() + _as_text(spec))
    print(f"best settings: {out}; w2s run {shlex.quote(str(out))} sweeps with them")


def _as_text(spec: Sweep) -> bytes:
    return yaml.safe_dump(as_mapping(spec), sort_keys=False, allow_unicode=True).encode()


def _listed(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))


def _report(session: TuneSession) -> Path:
    from analysis.tuning import write_tuning_report

    store = session.store
    out = Path(store.path(session.folder, "report")) if store.is_local else Path("reports") / session.tune_id
    command = shlex.join(["w2s", *sys.argv[1:]])
    return Path(
        write_tuning_report(store.root, session.tune_id, out, command=command, spec_text=session.file.read_text())
    )


# -- report again --------------------------------------------------------------------------------------------------


def report_again(file: str, storage: str | None) -> Path | None:
    """Write the report of a spec's search again; None if there was none."""
    session = TuneSession.open(file, storage)
    return _report(session) if read_summary(session.store, session.folder) else None
