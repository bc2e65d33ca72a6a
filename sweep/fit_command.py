"""`w2s fit` and `w2s fit2`: scaling curves and surfaces of any table, printed and written.

The analysis is imported when a command runs, so that other commands start without it; torch and Ray are never needed.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import polars as pl

    from analysis.scaling.surfaces import Surfaces
    from analysis.scaling.tables import Fits

MAX_BLOCKS = 12
"""Curves that are printed with all their parameters; more become a table with a line each."""
MAX_LINES = 200
MAX_UNTOLD = 3
"""Parameters without a finite interval that are printed with a line each."""
TOLD_APART = 2.0
"""Ratio of the widths of two intervals of a parameter from which both are printed."""
SOME_REFUSED = 1
"""Exit code when some curves could not be fitted and others were."""

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)  # pipes do not wrap


def add_commands(add: Any) -> None:
    """Declare both commands; `add(name, help, run=...)` makes a parser."""
    fit_parser = add(
        "fit", "fit scaling curves to a table of (x, y) points, test them on points held out, extrapolate", run=fit
    )
    _add_table(fit_parser)
    fit_parser.add_argument(
        "--x", required=True, metavar="COL", help="what grows: compute, tokens, examples; above zero"
    )
    fit_parser.add_argument("--y", required=True, metavar="COL", help="what is measured: a loss, or a share with --n")
    held = fit_parser.add_mutually_exclusive_group()
    held.add_argument("--train-where", metavar="'COL==1'", help="fit these rows, hold out the others; COL OP VALUE")
    held.add_argument(
        "--holdout-largest", type=_count, default=0, metavar="K", help="hold out the K largest x of each curve"
    )
    fit_parser.add_argument(
        "--family",
        default="auto",
        help="a family of curves; auto: chosen by extrapolating from the smaller fitted points",
    )
    _add_options(fit_parser)
    fit_parser.add_argument("--predict", type=_numbers, default=[], metavar="X,...", help="also predict at these x")
    fit_parser.add_argument(
        "--out", metavar="DIR", help="write tables (CSV, Parquet) and the plot (PNG, SVG, PDF) here"
    )

    surface = add("fit2", "fit a surface over two variables: loss = E + A / N^alpha + B / D^beta", run=fit2)
    _add_table(surface)
    surface.add_argument(
        "--n-col", required=True, metavar="N", help="column of parameters, or of another first variable"
    )
    second = surface.add_mutually_exclusive_group(required=True)
    second.add_argument("--d-col", metavar="D", help="column of training tokens, or of another second variable")
    second.add_argument(
        "--c-col", metavar="C", help="instead of --d-col: column of training FLOPs; tokens are C / (6 N)"
    )
    surface.add_argument("--loss-col", required=True, metavar="L", help="column of what is measured")
    apart = surface.add_mutually_exclusive_group()
    apart.add_argument("--train-where", metavar="'COL<1'", help="fit these rows, hold out the others; COL OP VALUE")
    apart.add_argument(
        "--holdout-largest", type=_count, default=0, metavar="K", help="hold out the rows with the K largest N of each"
    )
    surface.add_argument("--holdout-of", metavar="COL", help="of --holdout-largest: another column, such as FLOPs")
    surface.add_argument("--family", default="additive_power", help="additive_power, plane or log_odds_plane")
    _add_options(surface)
    surface.add_argument(
        "--optimal",
        type=_numbers,
        default=[],
        metavar="FLOPS,...",
        help="the best split of these training FLOPs into N and D",
    )
    surface.add_argument("--out", metavar="DIR", help="write tables (CSV, Parquet) and the plot (PNG, SVG, PDF) here")


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="TABLE", help="a CSV, TSV, Parquet or JSONL file, also .gz")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", default="", metavar="COL,...", help="columns that tell curves apart")
    parser.add_argument("--n", metavar="COL", help="column of counts: y are shares of so many examples")
    parser.add_argument("--seed", metavar="COL", help="column that tells repetitions apart; with --uncertainty seeds")
    parser.add_argument("--loss", default="auto", help="auto, squared, huber_log or binomial")
    parser.add_argument("--delta", type=float, default=1e-3, metavar="D", help="of huber_log, in units of log y (1e-3)")
    parser.add_argument("--draws", type=_count, default=400, metavar="N", help="resamples behind intervals (400)")
    kinds = "what is resampled: residuals, cases or seeds; auto: cases for fit2 and huber_log, else residuals"
    parser.add_argument("--uncertainty", default="auto", help=kinds)
    parser.add_argument("--random-seed", type=int, default=0, metavar="S", help="of the resamples (0)")


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"a number such as 2 is needed, not {text!r}")
    return value


def _numbers(text: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        values = []
    if not values or not all(0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(
            f"positive numbers with commas between them are needed, such as 1e21,1e22, not {text!r}"
        )
    return values


# -- fit -------------------------------------------------------------------------------------------------------


def fit(args: argparse.Namespace) -> int:
    from analysis.errors import AnalysisError
    from analysis.scaling.files import read_table
    from analysis.scaling.tables import fit as fit_table

    _check_out(args.out)
    fits = fit_table(
        read_table(args.table),
        x=args.x,
        y=args.y,
        train_where=args.train_where,
        holdout_largest=args.holdout_largest,
        family=args.family,
        **_shared(args),
    )
    predicted = fits.predict(args.predict) if args.predict else None
    refused = [curve for curve in fits if curve.forecast is None]
    if len(refused) == len(fits):
        raise AnalysisError(_all_refused("curve", [(curve.label, curve.refusal) for curve in refused]))
    _print_fits(fits, predicted)
    if args.out:
        print(f"\nwritten: {_write_fits(args, fits, predicted)}")
    return SOME_REFUSED if refused else 0


def _check_out(out: str | None) -> None:
    """Refuse a folder of others before anything is fitted, which may take long."""
    from pathlib import Path

    from analysis.scaling.files import refuse_foreign

    if out:
        refuse_foreign(Path(out).resolve())


def _shared(args: argparse.Namespace) -> dict[str, Any]:
    names = ("n", "seed", "loss", "delta", "draws", "uncertainty", "random_seed")
    return {name: getattr(args, name) for name in names} | {"by": [column for column in args.by.split(",") if column]}


def _all_refused(what: str, refusals: Sequence[tuple[str, str]]) -> str:
    label, reason = refusals[0]
    if len(refusals) == 1:
        return f"{label}: {reason}" if label else reason
    return f"none of {len(refusals)} {what}s could be fitted:" + "".join(f"\n  {name}: {why}" for name, why in refusals)


def _print_fits(fits: "Fits", predicted: "pl.DataFrame | None") -> None:
    losses = " or ".join(fits.curves["loss"].drop_nulls().unique().sort())
    console.print(
        f"[bold]{_plain(fits.y)}[/bold] against [bold]{_plain(fits.x)}[/bold]: {_count_of(len(fits), 'curve')}; "
        f"minimised: {losses} ({_plain(fits.loss_reason)})"
    )
    if "binomial" not in losses and _all_in_unit_interval(fits):
        console.print(
            "all y lie in [0, 1]: if they are shares of examples, --n COL gives them binomial noise", style="dim"
        )
    if len(fits) <= MAX_BLOCKS:
        for curve, row in zip(fits, fits.curves.iter_rows(named=True), strict=True):
            _print_curve(fits, curve, row, predicted)
        return
    _print_many(fits)
    if predicted is not None:
        console.print("\npredictions")
        _print_frame(predicted.drop("y_low_50", "y_high_50", "y_low_80", "y_high_80"))


def _all_in_unit_interval(fits: "Fits") -> bool:
    values = [curve.points.y for curve in fits if curve.points is not None]
    return bool(values) and all(y.min() >= 0 and y.max() <= 1 for y in values)


def _print_curve(fits: "Fits", curve: Any, row: Mapping[str, Any], predicted: "pl.DataFrame | None") -> None:
    console.print(f"\n[bold]{_plain(curve.label)}[/bold]" if curve.label else "")
    if curve.forecast is None:
        console.print(f"  refused: {_plain(curve.refusal)}")
        return
    console.print(
        f"  {_count_of(row['n_points'], 'point')} at {row['n_levels']} different x "
        f"from {row['x_low']:.4g} to {row['x_high']:.4g}"
    )
    parameters = _rows_of(fits.parameters, fits.by, curve.key)
    if curve.flat:
        console.print(f"  {_plain(row['diagnosis'])}")
        _print_predictions(fits, curve, predicted)
        return
    console.print(f"  family {row['family']}: {_formula(curve.fit)}  ({row['status']})")
    if len(curve.forecast.members) > 1:
        console.print("  the curve is a mixture by how well each family extrapolated; parameters are the first one's")
        console.print(f"    within the points {curve.weights_inside}")
        console.print(f"    beyond them {row['weights']}")
    elif "," in row["weights"]:
        console.print(f"  beyond the points, weighted by how well each extrapolated: {row['weights']}")
    _print_parameters(parameters)
    if row["diagnosis"]:
        console.print(f"  note: {_plain(row['diagnosis'])}")
    _print_tested(row)
    _print_predictions(fits, curve, predicted)


def _formula(fit: Any) -> str:
    return fit.family.formula.replace("[", "(")


def _print_predictions(fits: "Fits", curve: Any, predicted: "pl.DataFrame | None") -> None:
    if predicted is not None:
        own = _rows_of(predicted, fits.by, curve.key)
        for line in own.iter_rows(named=True):
            console.print(
                f"  at {line['x']:.4g}: {_value(line['y'])}  95 % {_interval(line['y_low_95'], line['y_high_95'])}, "
                f"50 % {_interval(line['y_low_50'], line['y_high_50'])}; "
                f"{line['reach']:.3g} times the largest x, {line['status']}"
            )
        beyond = own["reach"].to_numpy() > 1
        if not curve.flat and bool((beyond & own["y_low_95"].is_not_null().to_numpy()).any()):
            console.print(f"  {curve.band_words}", style="dim")


def _print_tested(row: Mapping[str, Any]) -> None:
    if not row["n_tested"]:
        console.print("  not tested: too few different x to hide some", style="dim")
        return
    words = {name: _value(row[name]) for name in ("rmsle", "rmsle_last", "rmsle_linear")}
    console.print(
        f"  {row['tested_on']}, {_count_of(row['n_tested'], 'prediction')}: RMSLE {words['rmsle']}; "
        f"last value {words['rmsle_last']}; linear in log x {words['rmsle_linear']}"
    )
    if row["rmsle"] is None:
        console.print("  errors of the logarithm need values above zero, and some tested here are not", style="dim")
    inside = [
        f"{p} %: {row[f'inside_{p}']} of {row['n_tested']}" for p in (50, 80, 95) if row[f"inside_{p}"] is not None
    ]
    console.print(f"  inside the intervals: {'; '.join(inside) or 'there are none'}")
    if row["skill"] is False:
        console.print("  no skill: hiding its largest x, the last value predicted them as well or better")


def _rows_of(frame: "pl.DataFrame", by: Sequence[str], key: Sequence[Any]) -> "pl.DataFrame":
    import polars as pl

    matches = [pl.col(name).eq_missing(pl.lit(v, frame.schema[name])) for name, v in zip(by, key, strict=True)]
    return frame.filter(*matches) if matches else frame


def _print_parameters(frame: "pl.DataFrame") -> None:
    """The interval to quote of each parameter; those that cannot be told, if many, by name only."""
    rows = [row for row in frame.iter_rows(named=True) if row["preferred"]]
    untold = [row["parameter"] for row in rows if not row["identified"]]
    named_only = set(untold) if len(untold) > MAX_UNTOLD else set()
    width = max((len(row["parameter"]) for row in rows), default=0)
    for row in rows:
        if row["parameter"] in named_only:
            continue
        told = "" if row["identified"] else "  not identified"
        interval = (
            "no interval" if row["low"] is None else f"{_interval(row['low'], row['high'])}  95 %, {row['method']}"
        )
        console.print(f"    {row['parameter']:<{width}}  {_value(row['estimate']):>10}  {_plain(interval)}{told}")
    if named_only:
        console.print(f"    not identified by these points: {', '.join(untold)}; do not quote them")
    for row in rows:
        if row["width_ratio"] is not None and row["width_ratio"] > TOLD_APART:
            other = next(
                r for r in frame.iter_rows(named=True) if r["parameter"] == row["parameter"] and not r["preferred"]
            )
            console.print(
                f"  note: two intervals of {row['parameter']} differ {row['width_ratio']:.1f} times in width; "
                f"{other['method']} gives {_interval(other['low'], other['high'])}. Take the wider one: "
                "a few points, or the shape of the noise, decide this parameter"
            )


def _print_many(fits: "Fits") -> None:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    tested = bool(fits.curves["n_tested"].max())
    for column in fits.by:
        table.add_column(column, overflow="fold")
    columns = [
        "family",
        "points",
        *(["tested", "RMSLE", "last value", "linear", "inside 95 %"] if tested else []),
        "skill",
        "note",
    ]
    for column in columns:
        left = column in ("family", "skill", "note")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in fits.curves.head(MAX_LINES).iter_rows(named=True):
        errors = [_value(row[name]) for name in ("rmsle", "rmsle_last", "rmsle_linear")]
        inside = "·" if row["inside_95"] is None else f"{row['inside_95']} of {row['n_tested']}"
        table.add_row(
            *(_plain(str(row[name])) for name in fits.by),
            row["family"] or row["status"],
            str(row["n_points"]),
            *([str(row["n_tested"]), *errors, inside] if tested else []),
            {True: "yes", False: "no", None: "·"}[row["skill"]],
            _plain(row["diagnosis"] or ""),
        )
    console.print(table)
    # No curve goes unmentioned; a table's columns would take long to lay out for thousands.
    for row in fits.curves.slice(MAX_LINES).iter_rows(named=True):
        name = ", ".join(str(row[column]) for column in fits.by)
        told = f"{row['family'] or row['status']}, {_count_of(row['n_points'], 'point')}"
        if row["n_tested"]:
            told += f", tested on {row['n_tested']}: RMSLE {_value(row['rmsle'])}"
        console.print(_plain(f"  {name}: {told}" + (f"; {row['diagnosis']}" if row["diagnosis"] else "")))
    _print_overall(fits)


def _print_overall(fits: "Fits") -> None:
    import polars as pl

    scored = fits.curves.filter(pl.col("rmsle").is_not_null())
    refused = len(fits) - fits.curves.filter(pl.col("family").is_not_null()).height
    if refused:
        console.print(f"{refused} of {_count_of(len(fits), 'curve')} refused")
    if scored.is_empty():
        return
    medians = {name: scored[name].median() for name in ("rmsle", "rmsle_last", "rmsle_linear")}
    wins = [int((scored["rmsle"] < scored[name]).sum()) for name in ("rmsle_last", "rmsle_linear")]
    how = " and ".join(scored["tested_on"].unique().sort())
    console.print(
        f"{how}: RMSLE, median of {_count_of(scored.height, 'curve')}: {_value(medians['rmsle'])}; last value "
        f"{_value(medians['rmsle_last'])} (the fit is nearer on {wins[0]}); linear in log x "
        f"{_value(medians['rmsle_linear'])} (nearer on {wins[1]})"
    )
    total = int(scored["n_tested"].sum())
    inside = "; ".join(f"{p} %: {int(scored[f'inside_{p}'].sum())} of {total}" for p in (50, 80, 95))
    console.print(f"inside the intervals: {inside}")


def _write_fits(args: argparse.Namespace, fits: "Fits", predicted: "pl.DataFrame | None") -> str:
    from analysis.export import table_bytes
    from analysis.plots.style import render
    from analysis.scaling.files import write_folder

    files = {f"{name}.csv": table_bytes(getattr(fits, name), ".csv") for name in ("parameters", "curves", "tests")}
    files["parameters.parquet"] = table_bytes(fits.parameters, ".parquet")
    if predicted is not None:
        files["predictions.csv"] = table_bytes(predicted, ".csv")
    figure = fits.plot(to=max(args.predict) if args.predict else None)
    files |= {f"plot.{kind}": raw for kind, raw in render(figure).items()}  # type: ignore[arg-type]
    return str(write_folder(args.out, files, _about(args, fits)))


# -- fit2 ------------------------------------------------------------------------------------------------------


def fit2(args: argparse.Namespace) -> int:
    from analysis.errors import AnalysisError
    from analysis.scaling.files import read_table
    from analysis.scaling.surfaces import fit2 as fit_table

    _check_out(args.out)
    table, second = read_table(args.table), args.d_col
    if args.c_col:
        table, second = _with_tokens(table, args.n_col, args.c_col)
    surfaces = fit_table(
        table,
        x=(args.n_col, second),
        y=args.loss_col,
        train_where=args.train_where,
        holdout_largest=args.holdout_largest,
        holdout_of=args.holdout_of,
        family=args.family,
        **_shared(args),
    )
    refused = [surface for surface in surfaces if surface.fitted is None]
    if len(refused) == len(surfaces):
        raise AnalysisError(_all_refused("surface", [(surface.label, surface.refusal) for surface in refused]))
    optimal = surfaces.optimal(args.optimal) if args.optimal else None
    _print_surfaces(surfaces, optimal)
    if args.out:
        from analysis.export import table_bytes
        from analysis.plots.style import render
        from analysis.scaling.files import write_folder

        frames = {"parameters": surfaces.parameters, "surfaces": surfaces.summary, "tests": surfaces.tests}
        if optimal is not None:
            frames["optimal"] = optimal
        files = {f"{name}.csv": table_bytes(frame, ".csv") for name, frame in frames.items()}
        files["parameters.parquet"] = table_bytes(surfaces.parameters, ".parquet")
        files |= {f"plot.{kind}": raw for kind, raw in render(surfaces.plot()).items()}
        print(f"\nwritten: {write_folder(args.out, files, _about(args, surfaces))}")
    return SOME_REFUSED if refused else 0


def _with_tokens(table: "pl.DataFrame", params: str, flops: str) -> "tuple[pl.DataFrame, str]":
    """The table with a column of tokens D = C / (6 N)."""
    import polars as pl

    from analysis.scaling.files import require_columns

    require_columns(table, [params, flops])
    name = f"{flops} / (6 {params})"
    # Cells that are no numbers become empty here; the fit then names the row.
    parameters, compute = (pl.col(column).cast(pl.Float64, strict=False) for column in (params, flops))
    return table.with_columns((compute / (6 * parameters)).alias(name)), name


def _print_surfaces(surfaces: "Surfaces", optimal: "pl.DataFrame | None") -> None:
    losses = " or ".join(surfaces.summary["loss"].drop_nulls().unique().sort())
    first, second = map(_plain, surfaces.x)
    console.print(
        f"[bold]{_plain(surfaces.y)}[/bold] over [bold]{first}[/bold] and [bold]{second}[/bold]; "
        f"minimised: {losses} ({_plain(surfaces.loss_reason)})"
    )
    for surface, row in zip(surfaces, surfaces.summary.iter_rows(named=True), strict=True):
        console.print(f"\n[bold]{_plain(surface.label)}[/bold]" if surface.label else "")
        if surface.fitted is None:
            console.print(f"  refused: {_plain(surface.refusal)}")
            continue
        console.print(
            f"  {_count_of(row['n_points'], 'point')}; {row['family']}: {surface.fit.family.formula}  ({row['status']})"
        )
        _print_parameters(_rows_of(surfaces.parameters, tuple(surfaces.keys), surface.key))
        if row["diagnosis"]:
            console.print(f"  note: {_plain(row['diagnosis'])}")
        console.print(f"  RMSLE of the fitted points {_value(row['rmsle_fitted'])}")
        if row["n_held_out"]:
            console.print(
                f"  held out {_count_of(row['n_held_out'], 'point')}: RMSLE {_value(row['rmsle'])}; nearest point "
                f"{_value(row['rmsle_nearest'])}; plane of logarithms {_value(row['rmsle_plane'])}"
            )
            inside = [
                f"{p} %: {row[f'inside_{p}']} of {row['n_held_out']}"
                for p in (50, 80, 95)
                if row[f"inside_{p}"] is not None
            ]
            console.print(f"  inside the intervals: {'; '.join(inside) or 'there are none'}")
        if optimal is None:
            continue
        own = _rows_of(optimal, tuple(surfaces.keys), surface.key)
        for line in own.iter_rows(named=True):
            told = [
                f"{word} {_value(line[name])} {_interval(line[f'{name}_low'], line[f'{name}_high'])}"
                for word, name in (("N", "params"), ("D", "tokens"), ("D/N", "tokens_per_param"), ("loss", "loss"))
            ]
            console.print(_plain(f"  best split of {line['flops']:.4g} FLOPs: " + "; ".join(told)))
        for line in own.head(1).iter_rows(named=True):
            interval = _interval(line["exponent_low"], line["exponent_high"])
            console.print(_plain(f"  N grows as C^{_value(line['exponent'])} {interval} (Hoffmann et al. 2022, eq. 4)"))
        if own.is_empty():
            console.print("  no best split: a term of the surface is zero")


# -- both ------------------------------------------------------------------------------------------------------


def _about(args: argparse.Namespace, fits: "Fits | Surfaces") -> dict[str, Any]:
    """What made the files, for `fit.json`."""
    from importlib.metadata import version

    asked = {name: value for name, value in vars(args).items() if name not in ("run", "command", "out")}
    return {
        "command": shlex.join(["w2s", *sys.argv[1:]]),
        "kind": args.command,
        "asked": asked,
        "loss_reason": fits.loss_reason,
        "versions": {name: version(name) for name in ("numpy", "scipy", "polars", "matplotlib")},
    }


def _print_frame(frame: "pl.DataFrame") -> None:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in frame.columns:
        table.add_column(column, justify="right" if frame.schema[column].is_numeric() else "left", overflow="fold")
    for row in frame.head(MAX_LINES).iter_rows():
        table.add_row(*(_value(v) if isinstance(v, float) else _plain(str(v)) for v in row))
    console.print(table)


def _count_of(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _value(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
    return "(no interval)" if low is None or high is None else f"({low:.4g} to {high:.4g})"


def _plain(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", "\\[")
