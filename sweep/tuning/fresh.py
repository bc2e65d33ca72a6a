"""After a search: its winners against the default, as a sweep of its own on instances that the search never used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sweep.spec import MethodEntry, Sweep, entry_label
from sweep.tuning.block import Tune
from sweep.tuning.candidate import entry_of
from sweep.tuning.checks import Scope
from w2s.methods import as_method_spec


class Winner(NamedTuple):
    """The best candidate of a search."""

    number: int
    params: Mapping[str, Any]


REFERENCE = "naive"
"""Method that is measured beside the default and the tuned one, as the point of comparison of every report."""


@dataclass(frozen=True)
class FreshMethods:
    """What is measured on fresh instances, and what tables call it."""

    entries: tuple[MethodEntry, ...]
    default: str
    tuned: Mapping[str, Mapping[str, str]]
    """Objective -> `matched` and `reference`: labels of the winner measured against a ceiling with its own finetuning
    settings, and against the grid's; equal when it has no settings of its own."""
    front: Mapping[str, Mapping[str, str]]
    """Objective -> number of a candidate of the front -> its label."""
    reference: Mapping[str, str]
    """Objective -> label of the method of comparison with the winner's finetuning settings."""


def fresh_methods(
    tune: Tune, winners: Mapping[str, Winner], fronts: Mapping[str, Mapping[int, Mapping[str, Any]]], *, name: str
) -> FreshMethods:
    """The methods of the sweep over fresh instances.

    Args:
        winners: Objective -> its best candidate.
        fronts: Objective -> number -> parameters of further candidates that are worth a look.
        name: Of the search; with the candidate's number it makes labels that mean one thing in a storage.
    """
    default = entry_of(tune.method, {})
    plain = MethodEntry(**as_method_spec(REFERENCE).model_dump())
    entries = [default] if entry_label(plain) == entry_label(default) else [plain, default]
    tuned: dict[str, dict[str, str]] = {}
    reference: dict[str, str] = {}
    for objective, winner in winners.items():
        label, oracle = f"tuned ({objective}) {name}#{winner.number}", objective == "oracle"
        matched = entry_of(tune.method, winner.params, label=label, oracle=oracle)
        entries.append(matched)
        tuned[objective] = dict.fromkeys(("matched", "reference"), entry_label(matched))
        if matched.finetune:
            against = entry_of(
                tune.method, winner.params, label=f"{label}, grid's ceiling", own_ceiling=False, oracle=oracle
            )
            alike = plain.model_copy(
                update={
                    "finetune": matched.finetune,
                    "own_ceiling": False,
                    "label": f"{REFERENCE}, finetuned as {label}",
                    "oracle": oracle,
                }
            )
            entries += [against, alike]
            tuned[objective]["reference"] = entry_label(against)
            reference[objective] = entry_label(alike)
    front: dict[str, dict[str, str]] = {}
    for objective, candidates in fronts.items():
        for number, params in candidates.items():
            label = f"candidate ({objective}) {name}#{number}, grid's ceiling"
            entry = entry_of(tune.method, params, label=label, own_ceiling=False, oracle=objective == "oracle")
            entries.append(entry)
            front.setdefault(objective, {})[str(number)] = entry_label(entry)
    return FreshMethods(tuple(entries), entry_label(default), tuned, front, reference)


def fresh_spec(spec: Sweep, scope: Scope, methods: FreshMethods) -> Sweep:
    """The sweep that compares the methods on fresh instances."""
    tasks = tuple(task for task in spec.tasks if task.name in scope.tasks)
    return spec.model_copy(
        update={
            "name": f"{spec.name}-tuned",
            "pairs": scope.pairs,
            "tasks": tasks,
            "seeds": scope.seeds,
            "methods": methods.entries,
            "tune": None,
        }
    )


def exported(spec: Sweep, methods: FreshMethods, scope: Scope, storage: str) -> Sweep:
    """The spec with the default and the winners as its methods, for `w2s run`, at the seeds that the search never used.

    Args:
        scope: Fresh instances.
        storage: Of the search, whose runs are used again.
    """
    matched = {labels["matched"] for labels in methods.tuned.values()}
    entries = [e for e in methods.entries if e.label is None or entry_label(e) in matched]
    changes = {"name": f"{spec.name}-tuned", "methods": tuple(entries), "tune": None, "seeds": scope.seeds}
    return spec.model_copy(update=changes | {"storage": storage})


def as_mapping(spec: Sweep) -> dict[str, Any]:
    """A spec as its file would have it."""
    data = spec.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    data["methods"] = [written(entry) for entry in spec.methods]
    return data


def written(entry: MethodEntry) -> Any:
    """A method of the grid as a sweep file has it."""
    given = entry.model_dump(mode="json", include={"finetune", "own_ceiling", "label", "oracle"}, exclude_defaults=True)
    return {"name": entry.name, **entry.params, **given}
