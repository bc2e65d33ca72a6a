"""`w2s tasks`: what tasks there are, whether one loads and what it looks like, and how to begin one's own."""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sweep.errors import SpecError, SweepError
from w2s.errors import W2SError

if TYPE_CHECKING:
    from w2s.config import ModelSource, TaskSpec
    from w2s.tasks.catalogue import Dataset, Place
    from w2s.tasks.check import TaskCheck

SHOWN = 1200
"""Characters of an example that are printed."""
SHOWN_TAGS = 12
DEFAULT_MAX_LENGTH = 512

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)  # pipes do not wrap


def add_commands(add: Any) -> None:
    """Declare the command and its two actions; `add(name, help, run=...)` makes a parser."""
    parser = add(
        "tasks", "list the tasks there are, check one (tasks check), or begin one's own (tasks new)", run=tasks
    )
    parser.add_argument("--markdown", action="store_true", help="the datasets as the table of docs/tasks.md")
    actions = parser.add_subparsers(dest="action", metavar="check|new")
    about = "load a task and show examples, class balance, sizes, token lengths and overlaps"
    check_parser = actions.add_parser("check", help=about, description=about)
    check_parser.set_defaults(run=check)
    check_parser.add_argument("task", metavar="NAME|SPEC", help="a dataset of the catalogue, or a sweep file")
    check_parser.add_argument("--mirror", metavar="DIR", help="folder with local copies of datasets")
    check_parser.add_argument("--model", metavar="M", help="hub id or folder whose tokenizer counts tokens")
    check_parser.add_argument("--max-length", type=int, metavar="N", help="tokens kept of a text (default: the spec's)")
    about = "write a commented template of a task"
    new_parser = actions.add_parser("new", help=about, description=about)
    new_parser.set_defaults(run=new)
    new_parser.add_argument("name", metavar="NAME", help="letters, digits and _; files are called after it")
    new_parser.add_argument("--kind", choices=("files", "python"), default="files", help="default: files")
    new_parser.add_argument("--out", metavar="DIR", default=".", help="folder to write to")


# -- list ------------------------------------------------------------------------------------------------------


def tasks(args: argparse.Namespace) -> int:
    from w2s.tasks import SOURCES
    from w2s.tasks.catalogue import datasets
    from w2s.tasks.python import entry_points

    if args.markdown:
        print(markdown_table(datasets().values()), end="")
        return 0
    table = _list_table("source", "forms", "what it is")
    for source in SOURCES.values():
        table.add_row(source.name, ", ".join(source.forms), source.summary)
    console.print(table)
    print("\ndatasets of the catalogue; * is one of the 22 of Burns et al. 2023; rows are those published\n")
    table = _list_table("dataset", "form", "rows train / test", "hub", "kept together", "what it asks")
    for entry in datasets().values():
        table.add_row(
            entry.key + (" *" if entry.paper else ""),
            entry.form,
            rows_text(entry),
            entry.places[0].id if entry.places else "none",
            entry.group,
            escape(entry.about),
        )
    console.print(table)
    if own := entry_points():
        print("\ntasks of installed packages: " + ", ".join(f"{name} ({value})" for name, value in own.items()))
    print(
        "\ntasks: [boolq, {dataset: sciq, choices: sample}] in a sweep file; w2s tasks check NAME looks at one,"
        " w2s tasks new NAME begins your own"
    )
    return 0


def rows_text(entry: "Dataset") -> str:
    """Published rows, "9,427 / 3,270"; "?" where they are not known, "-" where there is no such split."""
    train, test = ("?" if n is None else f"{n:,}" for n in entry.rows)
    return f"{train} / {'-' if entry.test is None else test}"


def markdown_table(entries: "Sequence[Dataset] | Any") -> str:
    """The catalogue as a table for the documentation."""
    lines = [
        "| dataset | asks; label 1 means | kind | splits: rows published | hub repository | kept together | remarks |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        name = f"`{entry.key}`" + (" *" if entry.paper else "")
        places = "; ".join(map(_place_text, entry.places)) or f"none: {entry.get_it}"
        splits = " + ".join(entry.train) + f" / {entry.test or 'none'}: {rows_text(entry)}"
        cells = (name, f"{entry.about}; {entry.label_1}", entry.kind, splits, places, entry.group, entry.note)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _place_text(place: "Place") -> str:
    inner = place.config or place.data_dir
    text = f"`{place.id}`" + (f" ({inner})" if inner else "")
    if place.form != "native":
        text += f", {'converted branch' if place.form == 'converted' else place.branch}"
    return text + ("" if place.checked else " (unverified)")


# -- check -----------------------------------------------------------------------------------------------------


def check(args: argparse.Namespace) -> int:
    """Exit code 2 if a task does not load."""
    from w2s.tasks.check import check_task, token_lengths

    specs, model, max_length = _asked_for(args)
    failed = 0
    for index, (spec, resolve) in enumerate(specs):
        if index:
            print()
        try:
            found = check_task(resolve(spec))
        except W2SError as error:
            failed += 1
            print(f"task {spec.name}: does not load\n{error}", file=sys.stderr)
            continue
        for line in describe(found):
            print(line)
        if model is None:
            print("tokens: --model M counts them with the tokenizer of M")
            continue
        room = getattr(spec, "max_new_tokens", None)
        for line in _lengths_text(found, token_lengths(found.data, model, max_length, max_new_tokens=room)):
            print(line)
    return 2 if failed else 0


def _asked_for(args: argparse.Namespace) -> "tuple[list[tuple[TaskSpec, Any]], ModelSource | None, int]":
    """Task specs, each with what gives it its commit; a model whose tokenizer is used, if one is named; max_length."""
    from pydantic import TypeAdapter, ValidationError

    from sweep.lockfile import RevisionLock
    from sweep.spec import CheckpointRung, expand_task, load_spec
    from w2s.config import CatalogueTask, ModelSource, TaskSpec
    from w2s.tasks import resolve_task

    max_length = args.max_length or DEFAULT_MAX_LENGTH
    model = ModelSource(path=args.model) if args.model else None
    lock = RevisionLock(None)
    if args.task.endswith((".yaml", ".yml")):
        if not Path(args.task).is_file():
            raise SpecError(f"{args.task}: no such file")
        sweep = load_spec(args.task)
        lock = RevisionLock.beside(Path(args.task))
        specs: list[TaskSpec] = list(sweep.tasks)
        max_length = args.max_length or sweep.finetune.max_length
        rungs = [rung for rung in sweep.ladder.rungs if isinstance(rung, CheckpointRung)]
        if model is None and rungs and Path(rungs[0].model).is_dir():
            model = ModelSource(path=rungs[0].model, allow_pickle=rungs[0].allow_pickle)
    else:
        try:
            specs = [TypeAdapter(TaskSpec).validate_python(expand_task(args.task))]
        except (ValueError, ValidationError) as error:
            raise SweepError(str(error)) from None
    if args.mirror:
        mirror = str(Path(args.mirror).expanduser().absolute())
        specs = [s.model_copy(update={"mirror": mirror}) if isinstance(s, CatalogueTask) else s for s in specs]

    def resolve(spec: "TaskSpec") -> "TaskSpec":
        found = resolve_task(spec, lock.dataset)
        lock.save()
        return found

    return [(spec, resolve) for spec in specs], model, max_length


def describe(found: "TaskCheck") -> Iterator[str]:
    """Lines about a task: where from, rows beside those published, parts, what was left out, overlaps, two examples."""
    from w2s.tasks.base import left_out

    summary, entry = found.summary, found.entry
    named = f" ({entry.key}: {entry.about})" if entry else ""
    yield f"task {found.spec.name}{named}: loads from {found.origin}; form {found.spec.form}"
    for split, n in found.read.items():
        published = entry.rows[0 if split == "train" else 1] if entry else None
        beside = "" if published is None else "; as published" if published == n else f"; published: {published:,}"
        yield f"source, {split}: {n:,} rows{beside}"
    examples = sum(summary.sizes.values())
    yield f"examples: {examples:,}" + (f"; the paper has {found.paper}" if found.paper else "")
    labelled = bool(summary.class_balance)
    yield f"{'part':<14}{'examples':>10}{'label 1' if labelled else '':>10}{'characters':>12}"
    for part, n in summary.sizes.items():
        share = f"{summary.class_balance[part]:.1%}" if labelled else ""
        yield f"{part:<14}{n:>10,}{share:>10}{summary.mean_characters[part]:>12,.0f}"
    if summary.tags:
        most = sorted(summary.tags.items(), key=lambda item: (-item[1], item[0]))
        more = f", and {len(most) - SHOWN_TAGS:,} more" if len(most) > SHOWN_TAGS else ""
        yield f"tags of the test: {', '.join(f'{tag} {n:,}' for tag, n in most[:SHOWN_TAGS])}{more}"
    yield f"rows left out: {left_out(summary.dropped) or 'none'}"
    yield _overlaps_text(found)
    if found.conversations:
        separator = json.dumps(found.conversations.separator)
        yield (
            f"prompts: none; but {found.conversations.share:.0%} of the pairs are conversations that begin alike up to"
            f" {separator}. With prompt_separator: {separator} that beginning is the prompt: pairs that share it lie in"
            " one part, and long ones are cut alike for both replies"
        )
    otherwise = "the first" if found.spec.form == "compare" else f"not '{entry.label_1}'" if entry else ""
    meanings = {1: f"1: {entry.label_1}", 0: f"0: {otherwise}"} if entry else {0: "0", 1: "1"}
    if scores := found.spec.metrics:
        harmful = (
            "" if found.spec.unsafe_label is None else f"; the harmful class is {meanings[found.spec.unsafe_label]}"
        )
        yield f"scored beside accuracy: {', '.join(scores)}{harmful}"
    for label, content in found.examples:
        yield "--- an example" + ("" if label is None else f" with label {meanings[label]}")
        for column, cell in content.items():
            text = ", ".join(cell) if isinstance(cell, list) else str(cell)
            shown = text if len(text) <= SHOWN else f"{text[:SHOWN]} [... {len(text) - SHOWN:,} characters more]"
            yield shown if column == "text" else f"[{column}] {shown}"
    yield "---"


def _overlaps_text(found: "TaskCheck") -> str:
    if found.groups_in_two_parts:  # cannot happen; if it does, it must be seen
        return f"overlaps: {found.groups_in_two_parts:,} GROUPS LIE IN TWO PARTS: please report this"
    if "test" not in found.read:
        return "overlaps: no group lies in two parts; there is no official test"
    shared = ", ".join(f"{n:,} by {kind}" for kind, n in found.shared_with_test.items())
    out = found.summary.dropped.get("related_to_test", 0)
    source = (
        f"rows of train that the source shares with its test: {shared}; left out with what is tied to them: {out:,}"
    )
    return (
        f"overlaps: no group lies in two parts; {source if shared else 'the source shares none between train and test'}"
    )


def _lengths_text(found: "TaskCheck", lengths: Any) -> Iterator[str]:
    names = {0.5: "median", 0.9: "90 %", 0.99: "99 %", 1.0: "longest"}
    form = found.spec.form
    for of, quantiles in lengths.quantiles.items():
        texts = {"compare": ", prompt with a reply", "generate": ", prompt"}.get(form, "")
        what = f"tokens ({lengths.model}){texts}" if of == "texts" else f"  {of}"
        yield f"{what}: " + ", ".join(f"{names[q]} {n:,}" for q, n in quantiles.items())
    limit = f"{lengths.max_length - lengths.room:,} tokens"
    whose = " (as many as the model has positions for)" if lengths.limited_by_model else ""
    if lengths.room:
        limit += f", which {lengths.max_length:,}{whose} less {lengths.room:,} for an answer and its end leave"
        if lengths.room >= lengths.max_length:
            yield (
                f"answers may have {lengths.room:,} tokens, and prompt and answer together only"
                f" {lengths.max_length:,}{whose}: runs will refuse this; set a larger max_length, or max_new_tokens"
            )
            return
    else:
        limit += whose
    what, how = {
        "classify": ("texts", "they are cut on the right"),
        "compare": (
            "pairs",
            "their prompts are cut on the left, as much for one reply as for the other, so that replies stay",
        ),
        "generate": ("prompts", "they are cut on the left, so that their end stays"),
    }[form]
    share = lengths.cut / max(1, lengths.examples)
    yield (
        f"longer than {limit}: {lengths.cut:,} of {lengths.examples:,} {what} ({share:.1%})"
        + (f"; {how}" if lengths.cut else "")
    )
    if lengths.without_prompt:
        yield f"of these, {lengths.without_prompt:,} have a reply that leaves no room for any of the prompt"
    if lengths.cut_replies:
        yield f"of these, {lengths.cut_replies:,} have a reply that is longer by itself, which loses its beginning"


# -- new -------------------------------------------------------------------------------------------------------


def new(args: argparse.Namespace) -> int:
    from w2s.tasks.templates import template

    if not args.name.isidentifier():
        raise SweepError(f"'{args.name}': a name for files and a function is needed: letters, digits and _")
    folder = Path(args.out)
    files = template(args.name, args.kind)
    for name in files:
        if (folder / name).exists():
            raise SweepError(f"{folder / name}: is there already; choose another name, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
        print(f"wrote {folder / name}")
    print(f"w2s tasks check {shlex.quote(str(folder / args.name))}.yaml shows what becomes of it")
    return 0


def _list_table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
