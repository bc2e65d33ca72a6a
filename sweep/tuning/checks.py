"""Checks of a `tune:` block against the rest of its spec, and against what methods and settings say about values.

A method says best itself which values it takes, so it is built with the ends of all ranges and with every choice.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweep.errors import ErrorAt, nearest
from sweep.spec import RATE_FACTOR, check_override
from sweep.tuning.block import Instances, Tune
from sweep.tuning.fields import FINETUNE, METHOD, is_given, method_with, of_finetuning
from sweep.tuning.space import Choice, Range, Space, Subset, same, shown
from w2s.config import FinetuneSettings
from w2s.errors import W2SError
from w2s.methods import METHODS, EarlyStop, Method, build_method

if TYPE_CHECKING:
    from sweep.spec import Sweep

_MOST_TRIED = 2000
"""Candidates that are built to find wrong values; of larger spaces a sample, with every value several times."""
Params = dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """Instances with nothing left out: all combinations of its parts."""

    pairs: tuple[tuple[str, str], ...]
    """(weak, strong) in ladder order."""
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]


def scopes(tune: Tune, spec: "Sweep") -> tuple[Scope, Scope]:
    """What the search is judged on, and what its result is tested on.

    Raises:
        ErrorAt: A pair or task that the spec does not have; the place is within the `tune:` block.
    """
    whole = Scope(tuple(spec.rung_pairs()), tuple(task.name for task in spec.tasks), spec.seeds)
    search = _scope(tune.instances, spec, whole, "instances")
    return search, _scope(tune.fresh, spec, search, "fresh")


def _scope(part: Instances, spec: "Sweep", otherwise: Scope, key: str) -> Scope:
    pairs = otherwise.pairs
    if part.pairs is not None:
        try:
            pairs = tuple(spec.model_copy(update={"pairs": part.pairs}).rung_pairs())
        except ErrorAt as error:
            raise ErrorAt(str(error), key, *error.at) from None
    for index, task in enumerate(part.tasks or ()):
        if task not in (known := [task.name for task in spec.tasks]):
            raise ErrorAt(f"the spec has no task '{task}'{nearest(task, known)}", key, "tasks", index)
    return Scope(pairs, part.tasks or otherwise.tasks, part.seeds or otherwise.seeds)


def check_space(tune: Tune, spec: "Sweep") -> None:
    """Refuse what cannot be searched.

    Raises:
        ErrorAt: The first thing that is wrong, with its place in the spec.
    """
    try:
        for key in tune.space.root:
            _check_key(key, tune)
        search, fresh = scopes(tune, spec)
        both = [seed for seed in fresh.seeds if seed in search.seeds]
        if both:
            index = fresh.seeds.index(both[0])
            message = f"seed {both[0]} is searched on, too (instances take the spec's seeds); fresh seeds are others"
            raise ErrorAt(message, "fresh", "seeds", index)
        _check_chains(tune, spec, {"instances": search, "fresh": fresh})
        _check_values(tune, spec, search)
    except ErrorAt as error:
        raise ErrorAt(str(error), "tune", *error.at) from None


def _check_key(key: str, tune: Tune) -> None:
    settings = [*FinetuneSettings.model_fields, RATE_FACTOR]
    if key.startswith(FINETUNE):
        name = key.removeprefix(FINETUNE).split(".")[0]
        if name not in settings:
            raise ErrorAt(f"there is no finetuning setting '{name}'{nearest(name, settings)}", "space", key)
    elif key.startswith(METHOD):
        if is_given(tune.method, key):
            raise ErrorAt("is given in tune.method as well; keep one of them", "space", key)
    else:
        here = [METHOD + name for name in METHODS[tune.method.name].model_fields]
        there = [FINETUNE + name for name in settings]
        bare = [name for name in (METHOD + key, FINETUNE + key) if name in here + there]
        cure = f"; did you mean '{bare[0]}'?" if bare else nearest(key, here + there)
        raise ErrorAt(f"parameters begin with method. or finetune.{cure}", "space", key)


def _check_chains(tune: Tune, spec: "Sweep", where: Mapping[str, Scope]) -> None:
    """Rungs of a chain lie between weak and strong of every pair, in ladder order, once each."""
    ladder = [rung.name for rung in spec.ladder.rungs]
    for key, parameter in tune.space.root.items():
        if isinstance(parameter, Subset):
            chains = [(parameter.subset, ("subset",))]
        elif isinstance(parameter, Choice):
            whole = enumerate(parameter.choices)
            chains = [(c, (i,)) for i, c in whole if isinstance(c, list) and all(isinstance(r, str) for r in c)]
        else:
            continue
        if key.startswith(METHOD) and key.split(".")[-1] == "chain":
            for chain, at in chains:
                _check_chain(chain, ladder, where, ("space", key, *at))


def _check_chain(
    chain: Sequence[str], ladder: list[str], where: Mapping[str, Scope], at: tuple[str | int, ...]
) -> None:
    for index, rung in enumerate(chain):
        if rung not in ladder:
            raise ErrorAt(f"the ladder has no rung '{rung}'{nearest(rung, ladder)}", *at, index)
        if rung in chain[:index]:
            raise ErrorAt(f"rung '{rung}' is given twice; each is listed once", *at, index)
        if index and ladder.index(rung) < ladder.index(chain[index - 1]):
            inorder = ", ".join(sorted(chain, key=lambda name: ladder.index(name) if name in ladder else len(ladder)))
            raise ErrorAt(f"chains climb the ladder: write [{inorder}]", *at, index)
        for part, scope in where.items():
            for weak, strong in scope.pairs:
                if not ladder.index(weak) < ladder.index(rung) < ladder.index(strong):
                    raise ErrorAt(
                        f"rung '{rung}' does not lie between weak and strong of the pair [{weak}, {strong}] of {part}; "
                        f"leave the rung out, or list other pairs (the ladder goes {' < '.join(ladder)})",
                        *at, index,
                    )  # fmt: skip


def _check_values(tune: Tune, spec: "Sweep", search: Scope) -> None:
    """Every value of a parameter is one that the method and the settings take, whatever the others are."""
    students = [rung for rung in spec.ladder.rungs if rung.name in {strong for _, strong in search.pairs}]

    def wrong(params: Params) -> str | None:
        try:
            method = build_method(method_with(tune.method, {k: v for k, v in params.items() if not _no_chain(k, v)}))
        except W2SError as error:
            return str(error)
        if _stops_by_test(method):
            return "it then chooses a step by test, which no search may look at; take by: weak or by: oracle"
        if method.oracle and "weak" in tune.judges:
            return (
                f"method '{method.name}' then looks at ground truth, and objective: {tune.objective} may not; "
                "take objective: oracle"
            )
        overrides = of_finetuning(params)
        try:
            check_override(overrides, (), "of the candidates' students", rate_factor=True)
        except ErrorAt as error:
            return str(error)
        adapters = next((key for key in params if key.startswith(f"{FINETUNE}lora")), None)
        if adapters and all(spec.settings_for(rung, overrides).tune != "lora" for rung in students):
            return (
                "says nothing where no adapters are trained; set finetune.tune: lora, or search "
                "finetune.tune: [full, lora] and give this one when: {finetune.tune: [lora]}"
            )
        return None

    trouble = wrong({})
    if trouble is not None and not tune.space.root.keys() & {key for key in tune.space.root if key.startswith(METHOD)}:
        raise ErrorAt(trouble, "method")  # no candidate can mend it
    tried = list(_trials(tune.space))
    bad = next((params for params in tried if wrong(params) is not None), None)
    if bad is None:
        return
    good = [params for params in tried if wrong(params) is None]
    if trouble is not None and not good:
        raise ErrorAt(trouble, "method")
    raise _blame(tune.space, bad, good, wrong)


def _stops_by_test(method: Method) -> bool:
    """Whether the method, or one inside it, is stopped by its accuracy on test."""
    if isinstance(method, EarlyStop) and method.by == "oracle_test":
        return True
    inner = [getattr(method, "student", None), *getattr(method, "links", ())]
    return any(_stops_by_test(build_method(spec)) for spec in inner if spec is not None)


def _no_chain(key: str, value: Any) -> bool:
    """An empty chain is none at all, which a bootstrap would refuse."""
    return key.startswith(METHOD) and key.split(".")[-1] == "chain" and value == []


def _blame(space: Space, bad: Params, good: list[Params], wrong: Callable[[Params], str | None]) -> ErrorAt:
    """The error at the parameter whose value is at fault: the one without which there would be none.

    Args:
        bad: A candidate with something wrong.
        good: Candidates with nothing wrong.
    """
    left = dict(bad)
    for key in reversed(space.names):
        rest = {other: value for other, value in left.items() if other != key}
        needed = any(key in _above(space, other) for other in rest)  # without it, the others would be wrong anew
        if key in left and rest and not needed and wrong(rest) is not None:
            left = rest
    key = next(reversed(left))
    message, value = wrong(left) or "", left[key]
    parameter = space.root[key]
    at: tuple[str | int, ...] = ("space", key)
    if isinstance(parameter, Range) and len(parameter.extremes()) == 2:
        ends = dict(zip(("low", "high"), parameter.extremes(), strict=True))
        both = all(wrong({**left, key: end}) is not None for end in ends.values())
        at = at if both else (*at, next(name for name, end in ends.items() if end == value))
    elif isinstance(parameter, Choice) and any(wrong({**left, key: choice}) is None for choice in parameter.choices):
        at = (*at, next(i for i, choice in enumerate(parameter.choices) if same(choice, value)))
    others = {k: v for k, v in left.items() if k != key and k not in _above(space, key)}
    if not others and any(key in params and same(params[key], value) for params in good):
        others = _company(bad, key, good)  # fine in other company
    if others:
        message += f" (with {', '.join(f'{k}: {shown(v)}' for k, v in others.items())}; a `when` can keep them apart)"
    return ErrorAt(message, *at)


def _above(space: Space, key: str) -> set[str]:
    """The parameters that `key` depends on: by a condition, or as a parameter of the method that they name."""
    found = {other for other in space.root if key.startswith(f"{other.removesuffix('.name')}.") and other != key}
    for parent in space.root[key].when:
        found |= {parent} | _above(space, parent)
    return found


def _company(bad: Params, key: str, good: list[Params]) -> Params:
    """The one parameter beside `key` in whose company a value of `key` is never right."""
    same_value = [params for params in good if key in params and same(params[key], bad[key])]
    for other, value in bad.items():
        if other != key and not any(other in params and same(params[other], value) for params in same_value):
            return {other: value}
    return {}


def _trials(space: Space) -> Iterator[Params]:
    """Candidates with the ends of ranges and all choices: every one if they are few, else a fixed sample."""
    values = {key: _worth_trying(space, key) for key in space.names}
    few = list(itertools.islice(_all(space, values, space.names, {}), _MOST_TRIED + 1))
    if len(few) <= _MOST_TRIED:
        yield from few
        return
    rng = random.Random(0)
    for key in space.names:
        for value in values[key]:
            for _ in range(8):
                yield _one(space, values, _needed(space, key, rng) | {key: value}, rng)


def _worth_trying(space: Space, key: str) -> list[Any]:
    found = space.root[key].extremes()
    for parameter in space.root.values():
        found += [v for v in parameter.when.get(key, ()) if not any(same(v, other) for other in found)]
    return found


def _all(space: Space, values: Mapping[str, list[Any]], keys: Sequence[str], params: Params) -> Iterator[Params]:
    if not keys:
        yield params
    elif not space.exists(keys[0], params):
        yield from _all(space, values, keys[1:], params)
    else:
        for value in values[keys[0]]:
            yield from _all(space, values, keys[1:], {**params, keys[0]: value})


def _needed(space: Space, key: str, rng: random.Random) -> Params:
    """Values of those parameters under which `key` exists."""
    found: Params = {}
    for parent, allowed in space.root[key].when.items():
        found |= _needed(space, parent, rng) | {parent: rng.choice(allowed)}
    return found


def _one(space: Space, values: Mapping[str, list[Any]], forced: Params, rng: random.Random) -> Params:
    params: Params = {}
    for key in space.names:
        if space.exists(key, params):
            params[key] = forced[key] if key in forced else rng.choice(values[key])
    return params
