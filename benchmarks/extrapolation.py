"""How well curves are continued: every curve of the shared scaling data, its largest levels hidden.

    python benchmarks/extrapolation.py --data DIR [--split judgement] [--out FILE.md]

Of each curve the largest 1, 2 and 3 different x are hidden in turn; every predictor sees the rest alone. `auto` chooses
from tests within the rest (`analysis.scaling.choice`); a family stands where it has at most n - 2 parameters for n
visible x. The constants of that choice were set on the curves of the split `development`; `judgement` was not looked at
before.

RMSLE is the root mean squared error of log y over the hidden x of one curve; tables have means over curves. The paired
difference of `auto` to a baseline is in RMSLE on the same curves, with a 95 % interval from resampling groups of curves
that share their models or cells, since these go up and down together.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl
from scaling_data import NamedCurve, curves, markdown

from analysis.scaling.choice import LAST, STRAIGHT
from analysis.scaling.forecast import AUTO, held_out

HIDDEN = (1, 2, 3)
RESAMPLES = 2000


def scores(named: list[NamedCurve]) -> pl.DataFrame:
    """One row per curve, hidden levels and predictor: RMSLE and the shares inside the bands."""
    frames = []
    for curve in named:
        tests = held_out(curve.points, ahead=max(HIDDEN), every=True)
        levels = curve.points.n_levels
        per = tests.group_by("predictor", "shown", maintain_order=True).agg(
            (pl.col("log_error") ** 2).mean().sqrt().alias("rmsle"),
            *(pl.col(f"inside_{level}").mean() for level in (50, 80, 95)),
        )
        frames.append(
            per.with_columns(
                hidden=levels - pl.col("shown"),
                kind=pl.lit(curve.kind),
                source=pl.lit(curve.source),
                name=pl.lit(curve.name),
                group=pl.lit(curve.group),
            )
        )
    return pl.concat(frames)


def by_predictor(rows: pl.DataFrame, kind: str, hidden: int) -> pl.DataFrame:
    """Means over curves, `auto` first and then the better ones."""
    own = rows.filter((pl.col("kind") == kind) & (pl.col("hidden") == hidden))
    last = own.filter(pl.col("predictor") == LAST).select("name", last="rmsle")
    table = (
        own.join(last, on="name")
        .group_by("predictor")
        .agg(
            curves=pl.len(),
            rmsle=pl.col("rmsle").mean(),
            last_there=pl.col("last").mean(),
            better=(pl.col("rmsle") < pl.col("last")).mean(),
            **{f"inside_{level}": pl.col(f"inside_{level}").mean() for level in (50, 80, 95)},
        )
    )
    return table.sort(pl.col("predictor") != AUTO, pl.col("rmsle") / pl.col("last_there"))


def paired(rows: pl.DataFrame, kind: str, hidden: int, baseline: str) -> tuple[float, float, float, int]:
    """Mean RMSLE of `auto` minus that of a baseline on the same curves, its interval, and the number of groups."""
    own = rows.filter((pl.col("kind") == kind) & (pl.col("hidden") == hidden))
    both = own.filter(pl.col("predictor") == AUTO).join(
        own.filter(pl.col("predictor") == baseline).select("name", other="rmsle"), on="name"
    )
    sums = both.group_by("group").agg(total=(pl.col("rmsle") - pl.col("other")).sum(), n=pl.len()).sort("group")
    total, n = sums["total"].to_numpy(), sums["n"].to_numpy()
    rng = np.random.default_rng(0)
    drawn = rng.integers(total.size, size=(RESAMPLES, total.size))
    means = total[drawn].sum(axis=1) / n[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(total.sum() / n.sum()), float(low), float(high), total.size


def report(named: list[NamedCurve]) -> str:
    """The tables as markdown."""
    rows = scores(named)
    parts = []
    words = {"loss": "Losses", "accuracy": "Accuracies"}
    for kind in ("loss", "accuracy"):
        for hidden in HIDDEN:
            table = by_predictor(rows, kind, hidden)
            if table.is_empty():
                continue
            body = [
                (
                    *(r["predictor"], r["curves"], f"{r['rmsle']:.4f}", f"{r['last_there']:.4f}", f"{r['better']:.0%}"),
                    *(f"{r[f'inside_{level}']:.2f}" for level in (50, 80, 95)),
                )
                for r in table.iter_rows(named=True)
            ]
            head = (
                "predictor",
                "curves",
                "RMSLE",
                "last value's there",
                "better than it",
                "in 50 %",
                "in 80 %",
                "in 95 %",
            )
            parts += [f"{words[kind]}, largest {hidden} hidden", "", markdown(head, body), ""]
    body = []
    for kind in ("loss", "accuracy"):
        for hidden in HIDDEN:
            for baseline in (LAST, STRAIGHT):
                mean, low, high, groups = paired(rows, kind, hidden, baseline)
                body.append((words[kind].lower(), hidden, baseline, f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]", groups))
    head = ("curves of", "hidden", "baseline", "auto minus it, RMSLE", "groups")
    return "\n".join([*parts, markdown(head, body), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("development", "judgement", "all"), default="judgement")
    parser.add_argument("--out", type=Path, help="write the tables here, in markdown")
    options = parser.parse_args()
    started = time.perf_counter()
    named = [curve for curve in curves(options.data) if options.split in ("all", curve.split)]
    text = report(named)
    print(f"{len(named)} curves, {time.perf_counter() - started:.0f} s\n\n{text}", end="")
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
