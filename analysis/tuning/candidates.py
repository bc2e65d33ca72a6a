"""Tables about the candidates of one study: how the search went, the best of them, and chains compared. Pure."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from analysis.tuning.reading import Parameter, StudyFiles, params_of, shown

BEST_SHOWN = 10
PROGRESS_SCHEMA: dict[str, Any] = {
    "place": pl.Int64,
    "number": pl.Int64,
    "state": pl.String,
    "value": pl.Float64,
    "seen": pl.Float64,
    "best": pl.Float64,
    "work": pl.Float64,
}
CHAINS_SCHEMA: dict[str, Any] = {
    "parameter": pl.String,
    "chain": pl.String,
    "length": pl.Int64,
    "mean": pl.Float64,
    "sd": pl.Float64,
    "lowest": pl.Float64,
    "highest": pl.Float64,
    "n": pl.Int64,
}


def progress(study: StudyFiles) -> pl.DataFrame:
    """Candidates that have ended, in the order in which they did.

    Returns:
        `place` 1, 2, ...; `seen`: the value, or what a stopped one had of it; `best`: of complete ones so far (null
        before the first); `work`: estimated FLOPs of all runs first asked for up to here.
    """
    ended = study.trials.filter(pl.col("state") != "running").sort(
        pl.col("order").fill_null(pl.col("number")), "number"
    )
    frame = ended.select(
        pl.int_range(1, pl.len() + 1).alias("place"),
        "number",
        "state",
        "value",
        seen=pl.coalesce("value", "value_so_far"),
        best=pl.col("value").cum_max().forward_fill(),
        work=pl.col("new_work").fill_null(0.0).cum_sum(),
    )
    return frame.cast(PROGRESS_SCHEMA)  # type: ignore[arg-type]


def best_candidates(study: StudyFiles, parameters: tuple[Parameter, ...], n: int | None = BEST_SHOWN) -> pl.DataFrame:
    """The best complete candidates, the winner first: a column per parameter, null where it does not exist.

    `spread` is the standard deviation of the candidate's scores over instances; `minus_default` the mean difference
    of its scores from those of the default on the same instances, `n_better` of `n_common` of which are above zero.
    """
    rows = study.of_state("complete").filter(pl.col("value").is_not_null())
    rows = rows.sort(pl.col("number") != (-1 if study.best is None else study.best), -pl.col("value"), "number")
    rows = rows.head(n) if n is not None else rows
    scores = {number: dict(zip(own["instance"], own["score"], strict=True)) for (number,), own in _by_number(study)}
    default = scores.get(study.default, {}) if study.default is not None else {}
    found = []
    for rank, row in enumerate(rows.iter_rows(named=True), start=1):
        own = {key: score for key, score in scores.get(row["number"], {}).items() if score is not None}
        common = [own[key] - default[key] for key in own if default.get(key) is not None]
        is_default = row["number"] == study.default
        found.append(
            {
                "objective": study.objective,
                "rank": rank,
                "number": row["number"],
                "is_default": is_default,
                "value": row["value"],
                "spread": float(np.std(list(own.values()), ddof=1)) if len(own) > 1 else None,
                "minus_default": float(np.mean(common)) if common and not is_default else None,
                "n_better": sum(d > 0 for d in common) if common and not is_default else None,
                "n_common": len(common) if not is_default else None,
                "flops": row["flops"],
                "n_instances": row["n_instances"],
            }
            | {p.name: _cell(p, params_of(row)) for p in parameters}
        )
    return pl.DataFrame(found, schema=best_schema(parameters))


def best_schema(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Columns of `best_candidates`."""
    return {
        "objective": pl.String,
        "rank": pl.Int64,
        "number": pl.Int64,
        "is_default": pl.Boolean,
        "value": pl.Float64,
        "spread": pl.Float64,
        "minus_default": pl.Float64,
        "n_better": pl.Int64,
        "n_common": pl.Int64,
        "flops": pl.Float64,
        "n_instances": pl.Int64,
    } | {p.name: _dtype(p) for p in parameters}


def _by_number(study: StudyFiles) -> Any:
    return study.scores.group_by("number", maintain_order=True)


def _dtype(parameter: Parameter) -> Any:
    return {"float": pl.Float64, "int": pl.Int64}.get(parameter.kind, pl.String)


def _cell(parameter: Parameter, params: dict[str, Any]) -> Any:
    value = params.get(parameter.name)
    if parameter.name not in params:
        return None
    return value if parameter.numeric else shown(value)


def chain_values(study: StudyFiles, parameter: Parameter) -> dict[str, list[float]]:
    """Values of the complete candidates with each subset, short ones first, then in the order of the names."""
    values: dict[tuple[str, ...], list[float]] = {}
    for row in study.of_state("complete").iter_rows(named=True):
        params = params_of(row)
        if parameter.name in params and row["value"] is not None:
            values.setdefault(tuple(params[parameter.name]), []).append(row["value"])
    return {shown(list(chain)): values[chain] for chain in _short_first(values, parameter)}


def chains(study: StudyFiles, parameters: tuple[Parameter, ...]) -> pl.DataFrame:
    """Values of complete candidates by the subset they have, for each subset parameter.

    `sd` is the standard deviation over candidates, which differ in their other parameters too; null for one.
    """
    rows = []
    for parameter in parameters:
        for chain, values in chain_values(study, parameter).items() if parameter.kind == "subset" else ():
            of = np.array(values)
            rows.append(
                {
                    "parameter": parameter.name,
                    "chain": chain,
                    "length": 0 if chain == shown([]) else chain.count(", ") + 1,
                    "mean": float(of.mean()),
                    "sd": float(of.std(ddof=1)) if of.size > 1 else None,
                    "lowest": float(of.min()),
                    "highest": float(of.max()),
                    "n": int(of.size),
                }
            )
    return pl.DataFrame(rows, schema=CHAINS_SCHEMA)


def _short_first(subsets: Iterable[Sequence[str]], parameter: Parameter) -> list[Any]:
    places = {name: place for place, name in enumerate(parameter.values)}
    return sorted(subsets, key=lambda subset: (len(subset), [places.get(name, len(places)) for name in subset]))


def most_important(study: StudyFiles, parameters: tuple[Parameter, ...], *, of: str = "value") -> list[Parameter]:
    """Parameters from the most important on; those without an importance after the others, in the space's order."""
    known = {
        name: importance
        for kind, name, importance in study.importances.iter_rows()
        if kind == of and importance is not None
    }
    return sorted(parameters, key=lambda p: -known.get(p.name, -1.0))


def two_to_show(study: StudyFiles, parameters: tuple[Parameter, ...]) -> tuple[Parameter, Parameter] | None:
    """The two most important numbers; where there are fewer, the two most important parameters. None of one."""
    ordered = most_important(study, parameters)
    numbers = [p for p in ordered if p.numeric and (p.low is None or p.low != p.high)]
    chosen = numbers if len(numbers) > 1 else ordered
    return (chosen[0], chosen[1]) if len(chosen) > 1 else None


def axis_values(study: StudyFiles, parameter: Parameter) -> pl.DataFrame:
    """What is drawn of a parameter: number, state, `x` (a number, or a category's place), `text`, and value seen.

    Candidates without the parameter, and those that failed or have not ended, are left out.
    """
    categories = categories_of(study, parameter)
    rows = []
    for row in study.of_state("complete", "pruned").iter_rows(named=True):
        params = params_of(row)
        seen = row["value"] if row["value"] is not None else row["value_so_far"]
        if parameter.name not in params or seen is None:
            continue
        value = params[parameter.name]
        x = float(value) if parameter.numeric else float(categories.index(shown(value)))
        rows.append({"number": row["number"], "state": row["state"], "x": x, "text": shown(value), "y": seen})
    schema = {"number": pl.Int64, "state": pl.String, "x": pl.Float64, "text": pl.String, "y": pl.Float64}
    return pl.DataFrame(rows, schema=schema)


def categories_of(study: StudyFiles, parameter: Parameter) -> list[str]:
    """Texts of a choice in its order; of a subset those that were tried, short ones first."""
    if parameter.numeric:
        return []
    every = [params_of(row) for row in study.trials.iter_rows(named=True)]
    seen = {json.dumps(p[parameter.name]): p[parameter.name] for p in every if parameter.name in p}
    if parameter.kind == "subset":
        return [shown(chain) for chain in _short_first(seen.values(), parameter)]
    tried = sorted(seen.values(), key=lambda v: (isinstance(v, str), v if isinstance(v, int | float) else 0, shown(v)))
    return list(dict.fromkeys([*map(shown, parameter.values), *map(shown, tried)]))
