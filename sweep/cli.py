"""The command line. Exit codes: 0 all done; 1 some runs failed or are blocked; 2 the spec or the usage is wrong;
130 interrupted."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from sweep import commands, fit_command, plan_command, tasks_command
from sweep.errors import SweepError
from sweep.forecast import text as forecast_text
from sweep.plan import KINDS
from sweep.spec import nearest
from w2s.errors import W2SError

Run = Callable[[argparse.Namespace], int]
SPEC = "a sweep file (YAML), see examples/"


class _Parser(argparse.ArgumentParser):
    """Says the nearest command instead of listing the whole usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        print(f"{self.prog}: {message}\nTry '{self.prog} --help'.", file=sys.stderr)
        raise SystemExit(2)


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="w2s", description="Weak-to-strong generalization sweeps over model ladders.")
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, help: str, *, spec: bool = False, run: Run | None = None) -> argparse.ArgumentParser:
        command = sub.add_parser(name, help=help, description=help)
        command.set_defaults(run=run or getattr(commands, name))
        if spec:
            command.add_argument("spec", metavar="SPEC", help=SPEC)
            command.add_argument("--storage", help="results folder or URL instead of the spec's")
        return command

    plan = add(
        "plan",
        "show what a sweep would run, what is done already, and what the rest costs; writes nothing but what it "
        "computed of data and models, into the storage's cache/ folder, which may be deleted",
        spec=True,
        run=plan_command.plan,
    )
    plan.add_argument("--list", action="store_true", help="one line for every run, with its reason")
    forecast_text.add_cluster_arguments(plan)

    run = add("run", "run a sweep, or what is left of it, and write its report", spec=True)
    run.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KIND|ID",
        help="only these runs and what they need; may be given several times. KIND is one of "
        f"{', '.join(KINDS)}; ids (or how they begin) are listed by w2s plan SPEC --list",
    )
    run.add_argument("--retry-failed", action="store_true", help="also runs that failed the same way every time")
    run.add_argument("--address", help="a Ray cluster (auto, or host:port); otherwise RAY_ADDRESS, or this machine")
    run.add_argument("--no-report", action="store_true", help="do not write the report at the end")

    tune = add(
        "tune", "search the settings of a method (tune: in the spec), and test the best on fresh seeds", spec=True
    )
    tune.add_argument("--trials", type=_positive, metavar="N", help="in all, instead of the spec's budget.trials")
    tune.add_argument("--export", metavar="FILE.yaml", help="also write the best settings as a sweep for w2s run")
    tune.add_argument("--retry-failed", action="store_true", help="also runs that failed the same way every time")
    tune.add_argument("--address", help="a Ray cluster (auto, or host:port); otherwise RAY_ADDRESS, or this machine")
    tune.add_argument("--no-report", action="store_true", help="do not write the report at the end")

    submit = add("submit", "send a sweep to a cluster, where it goes on without this machine", spec=True, run=_submit)
    place = submit.add_mutually_exclusive_group(required=True)
    place.add_argument("--cluster", metavar="CLUSTER.yaml", help="the file that ray up started the cluster from")
    place.add_argument("--address", metavar="URL", help="a Ray job server, such as http://127.0.0.1:8265")
    submit.add_argument("--only", action="append", default=[], metavar="KIND|ID", help="as of w2s run")
    submit.add_argument("--retry-failed", action="store_true", help="also runs that failed the same way every time")
    submit.add_argument(
        "--keep-paths", action="store_true", help="send no local files: every node has them at the spec's paths"
    )

    status = add("status", "say how far a sweep is, what fails and what hangs", spec=True)
    status.add_argument("--list", action="store_true", help="one line for every run that is not done")

    ladder = add("ladder", "pretrain the rungs of a sweep's ladder and say where they are", spec=True)
    ladder.add_argument("--retry-failed", action="store_true", help="also rungs that failed the same way every time")
    ladder.add_argument("--address", help="a Ray cluster; otherwise RAY_ADDRESS, or this machine")

    report = add("report", "write the report of a sweep, or of everything in a storage")
    report.add_argument("source", metavar="SPEC|STORAGE", help="a sweep file, or a results folder or URL")
    report.add_argument("--storage", help="results folder or URL instead of the spec's")
    report.add_argument("--out", help="folder or URL for the report")
    report.add_argument(
        "--every-figure",
        action="store_true",
        help="all figures of each task and setting, with PDF, also where there are many of them",
    )

    export = add("export", "write the table of runs or pairs to a file")
    export.add_argument("storage", metavar="STORAGE", help="a results folder or URL")
    export.add_argument("out", metavar="OUT.parquet|OUT.csv")
    export.add_argument("--table", choices=("pairs", "runs"), default="pairs")

    fit_command.add_commands(add)

    show = add("show", "show a run: description, measurements, log, errors")
    show.add_argument("run_id", metavar="RUN_ID", help="the id or how it begins")
    show.add_argument("--storage", help="a results folder or URL; otherwise every folder below results/")

    gc = add("gc", "list what a storage no longer needs, and with --delete remove it")
    gc.add_argument("storage", metavar="STORAGE")
    gc.add_argument("--failed", action="store_true", help="also failed attempts with their error texts")
    gc.add_argument("--cache", action="store_true", help="also the caches")
    gc.add_argument("--delete", action="store_true", help="delete what is listed")

    tasks_command.add_commands(add)
    methods = add("methods", "list the methods: how a student learns from weak labels")
    methods.add_argument("method", nargs="*", metavar="METHOD", help="only these, with their parameters")
    models = add("models", "list model families whose pretraining compute is known, or inspect checkpoints")
    models.add_argument("model", nargs="*", metavar="MODEL", help="folders or hub ids to inspect")
    return parser


def _submit(args: argparse.Namespace) -> int:
    from sweep.submit import submit

    return submit(args)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0 is needed, not {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `w2s` script."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each run sets its own number of threads
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    names = sorted(parser._subparsers._group_actions[0].choices)  # type: ignore[union-attr]
    if words and not words[0].startswith("-") and words[0] not in names:
        print(f"w2s: no command '{words[0]}'{nearest(words[0], names)}", file=sys.stderr)
        return 2
    args = parser.parse_args(words)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return commands.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if not _is_for_people(error):
            raise
        print(f"w2s {args.command}: {error}", file=sys.stderr)
        return 2


def _is_for_people(error: Exception) -> bool:
    """Whether an error was raised on purpose. The analysis is asked only if it is loaded: it brings matplotlib."""
    analysis = sys.modules.get("analysis.errors")
    return isinstance(error, (SweepError, W2SError)) or (
        analysis is not None and isinstance(error, analysis.AnalysisError)
    )


if __name__ == "__main__":
    raise SystemExit(main())
