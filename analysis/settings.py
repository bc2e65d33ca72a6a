"""What tells the settings of one task apart, in words: digests name them, but mean nothing to a reader."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

MAX_NAMED = 4
"""Settings named in a title; of more, the number is said."""


class RunSettings(NamedTuple):
    """The settings of one finetuning run, as its run.json has them."""

    task: str
    digest: str
    """Of the settings as the spec writes them, before a rule adapts some to the model's width."""
    model: str
    kind: str
    settings: Mapping[str, Any]


def settings_in_words(runs: Iterable[RunSettings]) -> dict[tuple[str, str], str]:
    """(task, digest) -> for instance "learning_rate 0.001, epochs 2"; absent where nothing tells them apart.

    Only equal models and kinds of run are compared, because a rule may adapt settings to a model's width. Where a value
    depends on the model, that of the first model by name is given, with its name.
    """
    by_task: dict[str, dict[str, dict[tuple[str, str], Mapping[str, Any]]]] = {}
    for run in runs:
        by_task.setdefault(run.task, {}).setdefault(run.digest, {})[run.model, run.kind] = _flat(run.settings)
    words: dict[tuple[str, str], str] = {}
    for task, digests in by_task.items():
        if len(digests) < 2:
            continue
        shared = set.intersection(*(set(by_model) for by_model in digests.values()))
        keys = sorted({key for where in shared for key in _differing([of[where] for of in digests.values()])})
        for digest, by_model in digests.items():
            parts = [_value(key, {where: by_model[where].get(key) for where in shared}) for key in keys]
            more = len(parts) - MAX_NAMED
            if parts:
                words[task, digest] = ", ".join(parts[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
    return words


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _differing(settings: list[Mapping[str, Any]]) -> set[str]:
    return {key for one in settings for key in one if any(other.get(key) != one[key] for other in settings)}


def _value(key: str, by_model: Mapping[tuple[str, str], Any]) -> str:
    models = sorted(by_model)
    value = by_model[models[0]]
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    depends = any(other != value for other in by_model.values())
    return f"{key} {text}" + (f" ({models[0][0]})" if depends else "")
