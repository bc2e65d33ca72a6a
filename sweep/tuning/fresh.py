"""After a search: its winners against the default, as a sweep of its own on instances that the search never used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweep.spec import MethodEntry, Sweep, entry_label
from sweep.tuning.block import Tune
from sweep.tuning.candidate import entry_of
from sweep.tuning.checks import Scope
from w2s.methods import as_method_spec

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


def fresh_methods(
    tune: Tune, winners: Mapping[str, Mapping[str, Any]], fronts: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> FreshMethods:
    """The methods of the sweep over fresh instances.

    Args:
        winners: Objective -> parameters of its best candidate.
        fronts: Objective -> number -> parameters of further candidates that are worth a look.
    """
    default = entry_of(tune.method, {})
    entries = [default]
    reference = MethodEntry(**as_method_spec(REFERENCE).model_dump())
    if entry_label(reference) != entry_label(default):
        entries.insert(0, reference)
    tuned: dict[str, dict[str, str]] = {}
    for objective, params in winners.items():
        tuned[objective] = {}
        label = f"tuned ({objective})"
        oracle = objective == "oracle"
        matched = entry_of(tune.method, params, label=label, oracle=oracle)
        entries.append(matched)
        tuned[objective] = dict.fromkeys(("matched", "reference"), entry_label(matched))
        if matched.finetune:
            against = entry_of(tune.method, params, label=f"{label}, grid's ceiling", own_ceiling=False, oracle=oracle)
            entries.append(against)
            tuned[objective]["reference"] = entry_label(against)
    front: dict[str, dict[str, str]] = {}
    for objective, candidates in fronts.items():
        for number, params in candidates.items():
            label = f"candidate {number} ({objective}), grid's ceiling"
            entry = entry_of(tune.method, params, label=label, own_ceiling=False, oracle=objective == "oracle")
            entries.append(entry)
            front.setdefault(objective, {})[str(number)] = entry_label(entry)
    return FreshMethods(tuple(entries), entry_label(default), tuned, front)


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


def exported(spec: Sweep, methods: FreshMethods) -> Sweep:
    """The spec with the default and the winners as its methods, for `w2s run`; instances as in the spec itself."""
    front = {label for labels in methods.front.values() for label in labels.values()}
    entries = tuple(entry for entry in methods.entries if entry.own_ceiling and entry_label(entry) not in front)
    return spec.model_copy(update={"name": f"{spec.name}-tuned", "methods": entries, "tune": None})


def as_mapping(spec: Sweep) -> dict[str, Any]:
    """A spec as its file would have it."""
    data = spec.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    data["methods"] = [written(entry) for entry in spec.methods]
    return data


def written(entry: MethodEntry) -> Any:
    """A method of the grid as a sweep file has it."""
    given = entry.model_dump(mode="json", include={"finetune", "own_ceiling", "label", "oracle"}, exclude_defaults=True)
    return {"name": entry.name, **entry.params, **given}
