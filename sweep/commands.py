"""What each command of `w2s` does. Returns exit codes; raises the packages' own errors for a person to read."""

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

from rich.table import Table

from sweep.errors import SpecError, StoreError, SweepError
from sweep.plan_command import counts_table, name_damaged, warn_unwritable
from sweep.printing import console, size
from sweep.session import Session
from sweep.spec import nearest
from sweep.state import STALE_SECONDS, State, share_done, stand, stragglers
from sweep.storage.gc import delete, find_garbage
from sweep.storage.manifest import write_manifest
from sweep.storage.secrets import STORAGE_CURE, refuse_credentials
from sweep.storage.store import CorruptEntryError, Store
from w2s.config import MethodSpec
from w2s.errors import ModelError

LOOKED_AT = 300
"""Runs whose measurements are read, at most, to say how many texts were cut."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


# -- run, ladder -----------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    session = Session.open(args.spec, args.storage)
    chosen = session.select(args.only)
    code = execute(session, chosen, retry_failed=args.retry_failed, address=args.address)
    if not args.no_report and session.plan.pairs and not args.only and code != INTERRUPTED:
        try:
            page = _report(session.store, session.sweep_id, _report_folder(session.store, session.sweep_id))
        except Exception as error:
            from analysis.errors import AnalysisError  # loaded by now; before, nothing to do must stay quick

            if not isinstance(error, AnalysisError):
                raise
            print(f"w2s run: {error}; w2s report {shlex.quote(args.spec)} tries again", file=sys.stderr)
            return code or 1
        print(f"\n{Path(page).with_name('summary.txt').read_text()}\nreport: {page}")
    return code


def ladder(args: argparse.Namespace) -> int:
    session = Session.open(args.spec, args.storage)
    rungs = [run_id for run_id, run in session.plan.runs.items() if run.kind == "pretrain"]
    code = execute(session, set(rungs), retry_failed=args.retry_failed, address=args.address) if rungs else 0
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("rung", "seed", "parameters", "matrix parameters", "pretraining FLOPs", "where"):
        table.add_column(column, justify="left" if column in ("rung", "where") else "right", overflow="fold")
    for run_id in rungs:
        run, model = session.plan.runs[run_id], session.plan.runs[run_id].model
        assert model is not None
        done = session.store.done(run_id)
        where = str(session.store.path("runs", run_id, "attempts", done.attempt, "weights")) if done else "failed"
        table.add_row(
            run.rung, str(run.seed), f"{model.n_params:,}", f"{model.n_matmul:,}", f"{model.pretrain_flops:.2e}", where
        )
    for rung in session.spec.ladder.rungs:
        if not any(session.plan.runs[run_id].rung == rung.name for run_id in rungs):
            model = session.inputs.models[rung.name]
            sizes = (f"{model.n_params:,}", f"{model.n_matmul:,}", f"{model.pretrain_flops:.2e}")
            table.add_row(rung.name, "·", *sizes, getattr(rung, "model", ""))
    console.print(table)
    return code


def execute(session: Session, chosen: set[str], *, retry_failed: bool, address: str | None) -> int:
    """Run what is missing of `chosen` and its ancestors; says what failed. Returns the exit code."""
    plan, store = session.plan, session.store
    standings = stand(plan, store, verify=True)
    wanted = plan.with_ancestors(chosen)
    store.check_writable()
    alive = [i for i in wanted if (beat := standings[i].beat) and beat.age < STALE_SECONDS]
    if alive:
        hosts = sorted({beat.host for i in alive for beat in store.heartbeats(i)[-1:]})
        print(
            f"another w2s run is at work here ({_count(len(alive), 'run')} alive on {', '.join(hosts)}); equal work"
            " may be done twice",
            file=sys.stderr,
        )
    if plan.pairs:
        write_manifest(store, session.spec, plan, session.text)
    for run_id in wanted:
        if standings[run_id].set_aside:
            print(f"{plan.runs[run_id].label}: {standings[run_id].reason}; running it again", file=sys.stderr)
            store.quarantine(run_id)
    given_up = {i: standings[i].reason for i in wanted if standings[i].state == State.GIVEN_UP}
    if retry_failed:
        given_up = {}
    done = {i for i in wanted if standings[i].state == State.DONE}
    blocked = (plan.descendants(given_up) & wanted) - done
    todo = wanted - done - blocked - set(given_up)
    failed = dict(given_up)
    interrupted, waiting = False, 0
    tracking = session.tracking(done)
    if todo:
        from sweep.execution.engine import run_plan

        threads = session.spec.ladder.pretrain.cpu_threads
        outcome = run_plan(
            plan, todo, store, session.spec.compute, cpu_threads=threads, address=address, tracking=tracking
        )
        failed |= outcome.failed
        blocked |= outcome.blocked
        interrupted = outcome.interrupted
        waiting = len(todo - outcome.done - outcome.blocked - outcome.failed.keys())
        print(f"{len(outcome.done)} of {len(todo)} runs done now, {len(done)} were in {store.root} already")
        if outcome.twice:
            print(f"{_count(len(outcome.twice), 'run')} were also finished by another driver, whose results count")
        done |= outcome.done
    else:
        print(f"nothing to run: {len(done)} of {len(wanted)} runs are in {store.root}")
        if tracking is not None:
            tracking.catch_up(address)
    for run_id, message in failed.items():
        again = "; only --retry-failed tries it again" if run_id in given_up else ""
        print(
            f"failed: {plan.runs[run_id].label}: {message}{again}\n"
            f"  w2s show {run_id} --storage {shlex.quote(store.root)}"
        )
    if blocked:
        print(f"blocked by these: {_count(len(blocked), 'run')}, such as {plan.runs[sorted(blocked)[0]].label}")
    for line in _truncated(session, done):
        print(line)
    if interrupted:
        print(f"interrupted with {_count(waiting, 'run')} to go; the same command goes on from the saved states")
        return INTERRUPTED
    return 1 if failed or blocked else 0


def _truncated(session: Session, done: Collection[str]) -> list[str]:
    """A line for each task some of whose texts were cut. One run tells for all of its task, rung and part."""
    alike: dict[tuple, str] = {}
    for run_id, run in session.plan.runs.items():
        if run_id in done and run.task is not None and run.settings is not None:
            alike.setdefault((run.task.spec.name, run.rung, run.train_part, run.states_labels), run_id)
    forms = {task.spec.name: task.spec.form for task in session.inputs.tasks.values()}
    most: dict[str, tuple[int, int]] = {}
    for (task, rung, *_), run_id in list(alike.items())[:LOOKED_AT]:
        settings = session.plan.runs[run_id].settings
        assert settings is not None
        try:
            count = session.store.read_json(run_id, "metrics.json").get("truncated") or 0
        except StoreError:  # the report names what is damaged
            continue
        bound = min(settings.max_length, session.inputs.models[rung].max_positions or settings.max_length)
        most[task] = max(most.get(task, (0, 0)), (count, bound))
    return [
        f"task {task}: up to {_count(count, 'pair' if forms[task] == 'compare' else 'text')} cut at {bound} tokens"
        " (finetune.max_length, or a model's limit)"
        + (": on the left, of the prompt as much for one reply as for the other" if forms[task] == "compare" else "")
        for task, (count, bound) in most.items()
        if count
    ]


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def tune(args: argparse.Namespace) -> int:
    from sweep.tuning.command import tune as search  # brings optuna

    return search(args)


# -- status ----------------------------------------------------------------------------------------------------


def status(args: argparse.Namespace) -> int:
    session = Session.open(args.spec, args.storage)
    plan, standings = session.plan, stand(session.plan, session.store)
    warn_unwritable(session.store)
    console.print(f"sweep [bold]{session.sweep_id}[/bold] in {session.store.root}")
    console.print(counts_table(plan, standings))
    name_damaged(plan, standings)
    if session.spec.tune is not None:
        from sweep.tuning.session import status_lines  # brings optuna

        for line in status_lines(args.spec, args.storage):
            console.print(line)
    console.print(f"{share_done(plan, standings):.0%} of the FLOPs of the plan are done")
    slow = stragglers(plan, standings, session.store)
    for run_id, standing in standings.items():
        notable = standing.state in (State.RUNNING, State.FAILED, State.GIVEN_UP) or "interrupted" in standing.reason
        if standing.state != State.DONE and (notable or (args.list and not standing.reason.startswith("damaged"))):
            mark = f"  STRAGGLER, {slow[run_id]}" if run_id in slow else ""
            print(f"{standing.state.value}: {plan.runs[run_id].label} ({run_id}): {standing.reason}{mark}")
    return 1 if any(s.state in (State.FAILED, State.GIVEN_UP, State.BLOCKED) for s in standings.values()) else 0


# -- report, export --------------------------------------------------------------------------------------------


def report(args: argparse.Namespace) -> int:
    session = None
    if Path(args.source).is_file():
        session = Session.open(args.source, args.storage)
        store, sweep = session.store, session.sweep_id
        if session.spec.tune is not None:
            from sweep.tuning.command import report_again  # brings optuna

            if page := report_again(args.source, args.storage):
                print(f"report of the search: {page}")
                if not store.fs.exists(store.path("sweeps", sweep, "manifest.parquet")):
                    return 0
        if not store.fs.exists(store.path("sweeps", sweep, "manifest.parquet")):
            raise SpecError(
                f"{args.source}: nothing was run of this sweep in {store.root}; w2s run {args.source} starts it"
            )
    else:
        if args.source.endswith((".yaml", ".yml")):
            raise SpecError(f"{args.source}: no such file")
        store, sweep = Store(args.source), None
        _require_storage(store)
    out = _out(args.out) if args.out else _report_folder(store, sweep)
    print(f"report: {_report(store, sweep, out, every_figure=True if args.every_figure else None)}")
    if session is not None:
        for line in _missing(session, args.source):
            print(line)
    return 0


def _missing(session: Session, source: str) -> list[str]:
    """What of a sweep is not in its report yet, in words; nothing if all of it is."""
    standings = stand(session.plan, session.store)
    missing = Counter(s.state for s in standings.values() if s.state != State.DONE)
    if not missing:
        return []
    n = sum(missing.values())
    states = ", ".join(f"{missing[state]:,} {state.value}" for state in State if missing[state])
    verb = "is" if n == 1 else "are"
    return [
        f"{_count(n, 'run')} of {len(standings):,} {verb} missing in it ({states}): w2s status {shlex.quote(source)} "
        "names what runs or failed, and w2s run goes on"
    ]


def _report_folder(store: Store, sweep: str | None) -> Path:
    if not store.is_local:
        return Path("reports") / (sweep or "all")
    return Path(store.path("sweeps", sweep, "report") if sweep else store.path("report"))


def _out(out: str) -> Path | str:
    """Where a report is to be written: a folder, or a URL. Raises SweepError if it carries credentials."""
    if "://" not in out:
        return Path(out)
    try:
        refuse_credentials(out, STORAGE_CURE)
    except ValueError as error:
        raise SweepError(f"--out: {error}") from None
    return out


def _report(store: Store, sweep: str | None, out: Path | str, *, every_figure: bool | None = None) -> Path | str:
    """Write the report, unless it is in a folder and was made from the same results by the same code.

    Returns:
        Where its index.html is.
    """
    inputs = _report_inputs(store, sweep) + (" every figure" if every_figure else "")
    mark = out / ".inputs" if isinstance(out, Path) else None
    if mark and mark.exists() and mark.read_text() == inputs and (page := mark.with_name("index.html")).exists():
        return page
    from analysis.report import write_report

    spec = None
    if sweep:
        spec = store.fs.cat_file(store.path("sweeps", sweep, "spec.yaml")).decode()
    command = shlex.join(["w2s", *sys.argv[1:]])
    page = write_report(store.root, out, sweep=sweep, command=command, spec_text=spec, every_figure=every_figure)
    if mark:
        mark.write_text(inputs)
    return page


def _report_inputs(store: Store, sweep: str | None) -> str:
    """A digest of all that a report is made from: manifests, DONE marks, failures, and the code."""
    content = sha256()
    sweeps = {name: info for name, info in store.listing("sweeps").items() if name.endswith("/manifest.parquet")}
    files = {f"sweeps/{name}": info for name, info in sweeps.items() if not sweep or name.startswith(f"{sweep}/")}
    for name, info in store.listing("runs").items():
        if name.split("/")[1].startswith("DONE") or name.endswith("/error.json"):
            files[f"runs/{name}"] = info
    for name, info in sorted(files.items()):
        content.update(name.encode())
        if not name.endswith("/error.json"):
            content.update(info.etag.encode() or store.fs.cat_file(store.path(name)))
    for source in sorted((Path(__file__).parents[1] / "analysis").rglob("*")):
        if source.suffix in (".py", ".html", ".css", ".js"):
            content.update(source.read_bytes())
    return content.hexdigest()


def export(args: argparse.Namespace) -> int:
    from analysis.export import export as write_table

    _require_storage(Store(args.storage))
    print(f"{args.table}: {write_table(args.storage, args.out, table=args.table)}")
    return 0


def _require_storage(store: Store) -> None:
    if not store.fs.exists(store.path("runs")):
        raise SweepError(
            f"{store.root}: holds no results (no 'runs' in it); a storage is what a spec's `storage` names"
        )


# -- show, gc --------------------------------------------------------------------------------------------------


def show(args: argparse.Namespace) -> int:
    places = [args.storage] if args.storage else sorted(str(p.parent) for p in Path("results").glob("*/runs"))
    found = [(Store(p), i) for p in places for i in Store(p).run_folders() if i.startswith(args.run_id)]
    if not found:
        raise SweepError(f"no run '{args.run_id}' in {', '.join(places) or 'results/'}; --storage names another place")
    ids = sorted({run_id for _, run_id in found})
    if len(ids) > 1:
        more = f", and {len(ids) - 8} more" if len(ids) > 8 else ""
        raise SweepError(f"'{args.run_id}' begins several ids: {', '.join(ids[:8])}{more}")
    found.sort(key=lambda item: not item[0].fs.exists(item[0].path("runs", item[1], "DONE")))  # finished ones first
    store, run_id = found[0]
    if len(found) > 1:
        others = ", ".join(other.root for other, _ in found[1:])
        print(
            f"{run_id} is in {len(found)} storages: this is the one in {store.root}; --storage shows that in {others}"
        )
    done, damage = None, ""
    try:
        done = store.done(run_id)
        store.verify(run_id)
    except CorruptEntryError as error:
        damage = f"damaged: {error}; the next w2s run makes it again"
    if done:
        state = "damaged" if damage else "done"
        console.print(f"[bold]{run_id}[/bold] {state}, attempt {done.attempt} in {store.path('runs', run_id)}")
        print("\nfiles\n" + "\n".join(f"  {name}  {size(entry['bytes'])}" for name, entry in done.files.items()))
        for name in ("run.json", "metrics.json", "log.txt"):
            try:
                text = store.read(run_id, name).decode()
            except StoreError as error:
                text = f"cannot be shown: {error}"
            print(f"\n{name}\n{text}")
    elif not damage:
        console.print(f"[bold]{run_id}[/bold] is not done in {store.root}")
    if damage:
        print(f"{run_id} is {damage}", file=sys.stderr)
    for beat in store.heartbeats(run_id):
        print(f"last sign of life {beat.age:.0f} s ago from {beat.host}, process {beat.pid}, at {beat.fraction:.0%}")
    for failure in store.failures(run_id):
        print(f"\nattempt {failure.attempt} failed: {failure.kind}: {failure.message}\n{failure.detail}".rstrip())
    return 1 if damage else 0


def gc(args: argparse.Namespace) -> int:
    store = Store(args.storage)
    _require_storage(store)
    garbage = find_garbage(store, failed=args.failed, cache=args.cache)
    for item in garbage:
        print(f"{size(item.bytes):>10}  {item.why}  {item.path}")
    total = size(sum(item.bytes for item in garbage))
    if args.delete:
        delete(store, garbage)
        print(f"deleted {_count(len(garbage), 'item')}, {total}")
    else:
        print(f"{_count(len(garbage), 'item')}, {total}" + ("; --delete removes what is listed" if garbage else ""))
    return 0


# -- lists -----------------------------------------------------------------------------------------------------


def methods(args: argparse.Namespace) -> int:
    from w2s.methods import METHODS

    for name in args.method:
        if name not in METHODS:
            raise SweepError(f"there is no method '{name}'{nearest(name, METHODS)}")
    shown = args.method or list(METHODS)
    width = max(map(len, shown)) + 2
    for name in shown:
        method = METHODS[name]
        only = f" (form {', '.join(method.forms)} only)" if len(method.forms) == 1 else ""
        print(f"{name:<{width}}{method.summary}{only}\n{'':<{width}}  {method.source}")
        if args.method:
            for key, field in method.model_fields.items():
                explained = " ".join((field.description or "").split())
                default = "required" if field.is_required() else json.dumps(field.get_default(), default=_method_name)
                print(f"{'':<{width}}  {key}: {default}  {explained}".rstrip())
    if not args.method:
        print("\nw2s methods METHOD shows its parameters with their defaults")
    return 0


def _method_name(value: object) -> str:
    return value.name if isinstance(value, MethodSpec) else str(value)


def models(args: argparse.Namespace) -> int:
    from w2s.checkpoints import inspect_checkpoint
    from w2s.known_models import families

    if not args.model:
        table = _list_table("hub ids", "pretraining tokens", "source")
        for prefix, tokens, source in families():
            table.add_row(f"{prefix}*", f"{tokens:.3g}", source)
        console.print("Any causal LM or encoder works; for these the spec needs no pretrain_tokens:")
        console.print(table)
        return 0
    table = _list_table("model", "type", "parameters", "matrix parameters", "width", "layers", "positions")
    errors = []
    for name in args.model:
        try:
            found = inspect_checkpoint(name)
        except ModelError as error:
            errors.append(str(error))
            continue
        table.add_row(
            name,
            f"{found.model_type} ({found.kind})",
            f"{found.n_params:,}",
            f"{found.n_matmul:,}",
            str(found.hidden_size),
            str(found.layers),
            str(found.max_positions or "any"),
        )
    if table.row_count:
        console.print(table)
    for error in errors:
        print(error, file=sys.stderr)
    return 2 if errors else 0


def _list_table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
