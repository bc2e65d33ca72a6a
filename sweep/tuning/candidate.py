"""What a candidate is: a method of the grid, with the parameters that a search gave it. Pure functions."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sweep.spec import RATE_FACTOR, MethodEntry, Sweep
from sweep.tuning.block import Tune
from sweep.tuning.fields import method_with, of_finetuning
from sweep.tuning.space import Choice, Subset
from w2s.config import MethodSpec
from w2s.errors import W2SError
from w2s.methods import as_method_spec


def entry_of(method: MethodSpec, params: Mapping[str, Any], **given: Any) -> MethodEntry:
    """The method of the grid that a candidate is.

    A chain of no rungs is no chain: `bootstrap` with it is the method of its student.

    Args:
        method: As the `tune:` block has it; what `params` do not name stays.
        params: Name in the space -> value, such as {"method.max_weight": 0.5, "finetune.epochs": 3}.
        given: Other fields of the entry: `label`, `own_ceiling`.

    Raises:
        MethodError: A value that the method refuses.
    """
    written = method_with(method, params)
    spec = as_method_spec(_without_empty_chains({"name": written.name, **written.params}))
    return MethodEntry(name=spec.name, params=spec.params, finetune=of_finetuning(params), **given)


def default_params(tune: Tune, spec: Sweep) -> dict[str, Any] | None:
    """The parameters that come closest to the spec without a search, if the space has them.

    They may be those of another configuration, where a rung has finetuning settings of its own; whoever needs to know
    compares the runs.
    """
    method = as_method_spec({"name": tune.method.name, **tune.method.params})
    written = {
        "method": {"name": method.name, **method.params},
        "finetune": {**spec.finetune.model_dump(mode="json"), RATE_FACTOR: 1.0},
    }
    found: dict[str, Any] = {}
    for name in tune.space.names:
        if tune.space.exists(name, found):
            value: Any = written
            for key in name.split("."):
                if isinstance(value, Mapping) and key in value:
                    value = value[key]
                elif isinstance(value, list | tuple) and key.isdigit() and int(key) < len(value):
                    value = value[int(key)]
                else:
                    return None
            found[name] = _as_in(tune.space.root[name], value)
    return found if tune.space.contains(found) else None


def _as_in(parameter: Any, value: Any) -> Any:
    """A value as the space writes it: a method by its name, all rungs of a chain as a list."""
    if isinstance(parameter, Subset) and value == "all":
        return list(parameter.subset)
    if isinstance(parameter, Choice) and isinstance(value, Mapping) and "name" in value:
        with suppress(W2SError):
            return next((c for c in parameter.choices if as_method_spec(c) == as_method_spec(value)), value)
    return list(value) if isinstance(value, tuple) else value


def _without_empty_chains(method: Any) -> Any:
    if not isinstance(method, Mapping):
        return method
    inner = dict(method)
    if "student" in inner:
        inner["student"] = _without_empty_chains(inner["student"])
    if inner.get("name") == "bootstrap" and isinstance(inner.get("chain"), list | tuple) and not inner["chain"]:
        return inner.get("student", "naive")
    return inner
