"""Real scaling data as tables and curves, for the benchmarks beside this file.

    python benchmarks/scaling_data.py --data DIR [--out FILE.md]

prints how many curves there are, by source. DIR holds `scaling/` (digitised and exported losses, accuracies of
over-trained models) and `w2s/` (a weak-to-strong grid on SST-2). Nothing here is a copy of the data; without them there
is nothing to run.
"""

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from analysis.scaling.points import Points, points_of

Array = np.ndarray
SMALLEST_CURVE = 5
"""Different x of the shortest curve worth extrapolating."""
SAME_X = 0.02
"""x closer than this share of each other are one x: digitised positions differ in low digits."""
SAME_SIZE = 1e-3
"""Model sizes closer than this are one model."""
ABOVE_CHANCE = 3.0
"""Standard errors by which the smaller half of an accuracy curve must lie above chance."""
SST2_TEST = 4349
"""Test examples of the SST-2 grid: every accuracy in it is a multiple of 1/4349 (and not of 1/872 or 1/1821, the sizes
of SST-2's own splits), and the jobs behind it say `test_length 4349`. They are phrases out of GLUE's 67,349, so phrases
of one sentence lie in train and test."""
MANY_BUDGETS = ("epochai_chinchilla", "llama_3", "marin_202603", "ml_scalefit")
RAW_RUNS = ("comma", "dclm", "nemotron")


# --- tables ----------------------------------------------------------------------------------------------------------


def chinchilla(data: Path, *, drop_highest: int = 5) -> pl.DataFrame:
    """Points read off a figure of Hoffmann et al. 2022: columns params, tokens, loss; 245 rows less the highest losses.

    The five highest losses are models that saw hardly any tokens; Besiroglu et al. 2024 (arXiv:2404.10102) leave them
    out.
    """
    table = pl.read_csv(data / "scaling" / "epoch_chinchilla_svg_extracted_data.csv")
    frame = table.select(
        params=pl.col("Model Size"), tokens=pl.col("Training FLOP") / (6 * pl.col("Model Size")), loss=pl.col("loss")
    )
    return frame.sort("loss", descending=True)[drop_highest:].sort("params", "tokens")


def chinchilla_subset(data: Path) -> pl.DataFrame:
    """234 of the same measurements as another project filtered them; same columns."""
    table = pl.read_csv(data / "scaling" / "chinchilla_cnd_subset.csv")
    return table.select(params=pl.col("N").cast(pl.Float64), tokens=pl.col("D").cast(pl.Float64), loss=pl.col("loss"))


def isoflops(data: Path, *, drop_flagged: bool = False) -> dict[str, pl.DataFrame]:
    """Experiment -> its runs (columns params, tokens, budget in FLOPs, loss), from four collections.

    Args:
        data: The folder.
        drop_flagged: Leave out what the flags beside the data call outliers; by default every row stays.
    """
    folder = data / "scaling" / "isoflops"
    key = ["experiment", "tokens", "params", "budget", "loss"]
    frames: dict[str, pl.DataFrame] = {}
    flagged = pl.read_csv(folder / "transform_isoflops_outlier_flags.csv").filter(pl.col("outlier")).select(key)
    for name in MANY_BUDGETS:
        table = pl.read_csv(folder / f"{name}.csv").select(key)
        if drop_flagged:
            table = table.join(flagged, on=key, how="anti")
        for (experiment,), part in table.sort("experiment", "budget", "params").group_by(
            "experiment", maintain_order=True
        ):
            frames[str(experiment)] = part.select("params", "tokens", "budget", "loss")
    return frames


def raw_runs(data: Path, name: str) -> tuple[pl.DataFrame, dict[str, int]]:
    """Runs exported from an experiment tracker, and why how many were left out.

    Budgets are `throughput/total_gflops` rounded to two digits: the names of sweep runs state a third of it, those of
    validation runs the whole. Repeated runs (same size, same tokens) are kept once, with their mean loss. Validation
    runs at sizes and budgets of their own are single points of a budget and fall under the last rule.
    """
    table = pl.read_csv(
        data / "scaling" / "isoflops" / "marin_raw" / f"isoflop-{name}.csv",
        infer_schema_length=None,
        null_values=["", "NaN", "nan"],
    )
    frame = table.select(
        name=pl.col("Name"),
        params=pl.col("parameter_count").cast(pl.Float64, strict=False),
        tokens=pl.col("throughput/total_tokens").cast(pl.Float64, strict=False),
        budget=pl.col("throughput/total_gflops").cast(pl.Float64, strict=False) * 1e9,
        loss=pl.col("eval/paloma/macro_loss").cast(pl.Float64, strict=False),
    )
    number = [
        pl.col(column).is_not_null() & pl.col(column).is_finite() & (pl.col(column) > 0) for column in frame.columns[1:]
    ]
    usable = frame.filter(*number)
    usable = usable.with_columns(budget=np.array([float(f"{budget:.1e}") for budget in usable["budget"]]))
    single = usable.group_by("params", "tokens", maintain_order=True).agg(
        pl.col("budget").first(), pl.col("loss").mean()
    )
    small = single.filter(pl.len().over("budget") < SMALLEST_CURVE)
    dropped = {
        "without a number": frame.height - usable.height,
        "repeated": usable.height - single.height,
        f"budget of fewer than {SMALLEST_CURVE} runs": small.height,
    }
    kept = single.filter(pl.len().over("budget") >= SMALLEST_CURVE)
    return kept.select("params", "tokens", "budget", "loss").sort("budget", "params"), dropped


def overtraining(data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """69 models of Gadre et al. 2024 (arXiv:2403.08540), and their tasks: columns task, n, chance (a share)."""
    models = pl.read_csv(data / "scaling" / "overtraining_models_c4_rpj.csv.gz")
    models = models.with_columns(compute=6.0 * pl.col("params") * pl.col("tokens"))
    tasks = pl.read_csv(data / "scaling" / "overtraining_eval_metadata.csv").select(
        task=pl.col("Eval Task"),
        n=pl.col("#datapoints").cast(pl.Float64),
        chance=pl.col("Random baseline").cast(pl.Float64).fill_null(0) / 100,
    )
    return models, tasks


TEACHERS = ("bert-tiny", "bert-mini", "bert-small", "bert-medium")
LABELLED = (4000, 6000, 7000, 8000, 9000, 10000, 12000, 13000, 15000)
TRANSFER = (8000, 15000, 20000, 25000, 30000, 35000, 40000)
TRANSFER_AS_PUBLISHED = (8000, 15000, 20000, 25000, 30000, 40000)


@dataclass(frozen=True)
class Grid:
    """The SST-2 weak-to-strong grid, final epochs: one row per run, column `accuracy`."""

    teachers: pl.DataFrame
    """weak, n_labelled, seed."""
    students: pl.DataFrame
    """weak, n_labelled, n_transfer, seed."""
    ceilings: pl.DataFrame
    """n_labelled, n_transfer; one seed. Trained on ground truth of both parts, n_labelled + n_transfer examples."""


def sst2(data: Path, *, as_published: bool = False) -> Grid:
    """bert-tiny, -mini, -small and -medium teach electra-base; teachers have 2 epochs, students 3, ceilings 5.

    Students and ceilings are given the cell they belong to, which is not the one they are published under. The jobs
    behind the files (`st.sh`, `ceil.sh` in MarCO-COrle0NE/weak-to-strong, arrays of 4 x 9 x 7 and 9 x 7) ran over seven
    transfer sizes; the files number them as if there had been six, without 35,000, so all results but the first five
    stand in the wrong cell, late ones under the wrong teacher. In the files it shows as a sawtooth of period seven:
    `benchmarks/w2s_grid.py` prints how much of the variance either labelling explains. The files end where six sizes
    would, so most cells of bert-medium are absent.

    Args:
        data: The folder.
        as_published: Keep the labels of the files.
    """

    def final(name: str) -> pl.DataFrame:
        table = pl.read_csv(data / "w2s" / name).rename({"eval_test_accuracy": "accuracy"})
        table = table.filter(pl.col("epoch") == pl.col("epoch").max())
        if "weak_model" in table.columns:
            table = table.with_columns(weak=pl.col("weak_model").str.split("/").list.last())
        if "n_transfer" in table.columns and not as_published:
            table = table.with_columns(*true_cell(table))
        columns = [c for c in ("weak", "n_labelled", "n_transfer", "seed") if c in table.columns]
        return table.select(*columns, "accuracy").sort(columns)

    return Grid(final("sst2_weak_teacher.csv"), final("sst2_w2s_student.csv.gz"), final("sst2_strong_ceiling.csv"))


def true_cell(table: pl.DataFrame) -> list[pl.Series]:
    """Columns n_labelled, n_transfer and, of students, weak: job numbers read with seven transfer sizes."""
    labelled = np.searchsorted(LABELLED, table["n_labelled"].to_numpy())
    job = labelled * len(TRANSFER_AS_PUBLISHED) + np.searchsorted(TRANSFER_AS_PUBLISHED, table["n_transfer"].to_numpy())
    if "weak" in table.columns:
        teacher = np.array([TEACHERS.index(weak) for weak in table["weak"]])
        job = job + teacher * len(LABELLED) * len(TRANSFER_AS_PUBLISHED)
    rest, transfer = np.divmod(job, len(TRANSFER))
    teacher, labelled = np.divmod(rest, len(LABELLED))
    cells = [pl.Series("n_labelled", np.take(LABELLED, labelled)), pl.Series("n_transfer", np.take(TRANSFER, transfer))]
    return [*cells, pl.Series("weak", np.take(TEACHERS, teacher))] if "weak" in table.columns else cells


# --- curves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedCurve:
    """A curve of one variable."""

    name: str
    source: str
    """Whose measurements; results are split by it."""
    kind: Literal["loss", "accuracy"]
    x: str
    """What grows: tokens, compute (FLOPs), n_labelled or n_transfer (examples)."""
    points: Points
    group: str
    """Runs behind the curve. Curves of one group measure the same models and are not independent."""

    @property
    def split(self) -> Literal["development", "judgement"]:
        """Half of the curves, by a stable hash of source and name: choices are made on one, judged on the other."""
        digest = hashlib.sha256(f"{self.source}/{self.name}".encode()).digest()
        return "development" if digest[0] % 2 == 0 else "judgement"


def curves(data: Path) -> list[NamedCurve]:
    """Every curve with at least five different x in the data, sorted by source and name."""
    found = [*_chinchilla_curves(data), *_isoflop_curves(data), *_overtraining_curves(data), *_sst2_curves(data)]
    return sorted((c for c in found if c.points.n_levels >= SMALLEST_CURVE), key=lambda c: (c.source, c.name))


def merged(x: Array, y: Array) -> Points:
    """Points with x that are the same but for `SAME_X` made one: geometric mean of x, mean of y."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    label = np.concatenate([[0], np.cumsum(np.diff(np.log(x)) > SAME_X)])
    count = np.bincount(label)
    return Points(np.exp(np.bincount(label, np.log(x)) / count)[:, None], np.bincount(label, y) / count)


def _chinchilla_curves(data: Path) -> Iterator[NamedCurve]:
    """Loss against tokens of one model size."""
    frame = chinchilla(data, drop_highest=0).sort("params")
    model = np.concatenate([[0], np.cumsum(np.diff(np.log(frame["params"].to_numpy())) > SAME_SIZE)])
    for _, part in frame.with_columns(model=model).group_by("model", maintain_order=True):
        size = f"N={part['params'].to_numpy().mean():.3e}"
        points = merged(part["tokens"].to_numpy(), part["loss"].to_numpy())
        yield NamedCurve(f"loss, {size}", "chinchilla", "loss", "tokens", points, f"chinchilla {size}")


def _isoflop_curves(data: Path) -> Iterator[NamedCurve]:
    """Smallest loss of each budget; and loss against tokens where sizes recur exactly (marin).

    `ml_scalefit` digitises the runs of `epochai_chinchilla` a second time, and llama_3's second condition rescales the
    loss of the same runs: both are left out.
    """
    for experiment, frame in isoflops(data).items():
        if experiment.startswith("ml_scalefit") or experiment == "llama_3__exp_loss":
            continue
        source, short = experiment.split("__")[0], "/".join(experiment.split("__")[1:])
        best = frame.group_by("budget").agg(pl.col("loss").min()).sort("budget")
        points = merged(best["budget"].to_numpy(), best["loss"].to_numpy())
        yield NamedCurve(f"smallest loss per budget, {short}", source, "loss", "compute", points, experiment)
        if source != "marin_202603":
            continue
        for (size,), part in frame.group_by("params", maintain_order=True):
            points = merged(part["tokens"].to_numpy(), part["loss"].to_numpy())
            yield NamedCurve(f"loss, {short}, N={size:.3e}", source, "loss", "tokens", points, experiment)


def _overtraining_curves(data: Path) -> Iterator[NamedCurve]:
    """Losses and accuracies against tokens of one model, and against compute at one ratio of tokens to parameters."""
    models, tasks = overtraining(data)
    task_of = {row["task"]: row for row in tasks.iter_rows(named=True)}
    for by, x in ((("dataset", "model"), "tokens"), (("dataset", "token_multiplier"), "compute")):
        for key, part in models.sort(x).group_by(*by, maintain_order=True):
            if part[x].n_unique() < SMALLEST_CURVE:
                continue
            group = f"{key[0]}, {key[1]}" if x == "tokens" else f"{key[0]}, {key[1]:g} x tokens"
            for column in part.columns:
                if column.startswith("loss_"):
                    yield NamedCurve(
                        f"{column}, {group}", "overtraining", "loss", x, points_of(part, [x], column), group
                    )
                if not column.startswith("acc_"):
                    continue
                task = task_of[column.removeprefix("acc_")]
                if not above_chance(part[column].to_numpy(), task["n"], task["chance"]):
                    continue
                points = points_of(part.with_columns(n=pl.lit(task["n"])), [x], column, n="n")
                yield NamedCurve(f"{column}, {group}", "overtraining", "accuracy", x, points, group)


def above_chance(accuracy: Array, n: float, chance: float) -> bool:
    """Whether the smaller half of a curve, by x, says that it leaves chance; the larger half is never looked at.

    The mean accuracy of those points has to be more than `ABOVE_CHANCE` binomial standard errors of one point above
    chance (they share their n examples, so their mean is hardly surer than one).
    """
    mean = float(accuracy[: accuracy.size // 2].mean())
    spread = np.sqrt(max(chance * (1 - chance), mean * (1 - mean)) / n)
    return mean - chance > ABOVE_CHANCE * spread


def _sst2_curves(data: Path) -> Iterator[NamedCurve]:
    grid = sst2(data)

    def curve(frame: pl.DataFrame, x: str, name: str, group: str) -> NamedCurve:
        part = frame.with_columns(n=pl.lit(float(SST2_TEST)))
        seed = "seed" if part["seed"].n_unique() > 1 else None
        return NamedCurve(name, "sst2_w2s", "accuracy", x, points_of(part, [x], "accuracy", n="n", seed=seed), group)

    for (weak,), part in grid.teachers.group_by("weak", maintain_order=True):
        yield curve(part, "n_labelled", f"teacher {weak}", f"teacher {weak}")
    for (weak, labelled), part in grid.students.group_by("weak", "n_labelled", maintain_order=True):
        yield curve(
            _whole_seeds(part), "n_transfer", f"student of {weak}, {labelled:,} labelled", f"students of {weak}"
        )
    for (weak, transfer), part in grid.students.group_by("weak", "n_transfer", maintain_order=True):
        yield curve(
            _whole_seeds(part), "n_labelled", f"student of {weak}, {transfer:,} to transfer", f"students of {weak}"
        )
    for (labelled,), part in grid.ceilings.group_by("n_labelled", maintain_order=True):
        yield curve(part, "n_transfer", f"ceiling, {labelled:,} labelled", "ceilings")
    for (transfer,), part in grid.ceilings.group_by("n_transfer", maintain_order=True):
        yield curve(part, "n_labelled", f"ceiling, {transfer:,} to transfer", "ceilings")


def _whole_seeds(part: pl.DataFrame) -> pl.DataFrame:
    """Without seeds that miss points others have, so that means over seeds are over the same ones everywhere."""
    return part.filter(pl.len().over("seed") == part.group_by("seed").len()["len"].max())


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in markdown; what is not text is written as it prints."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="write the table here, in markdown")
    options = parser.parse_args()
    rows = [
        {"source": c.source, "kind": c.kind, "x": c.x, "levels": c.points.n_levels, "split": c.split, "group": c.group}
        for c in curves(options.data)
    ]
    table = (
        pl.DataFrame(rows)
        .group_by("source", "kind", "x")
        .agg(
            curves=pl.len(),
            groups=pl.col("group").n_unique(),
            levels=pl.format("{} to {}", pl.col("levels").min(), pl.col("levels").max()),
            development=(pl.col("split") == "development").sum(),
            judgement=(pl.col("split") == "judgement").sum(),
        )
        .sort("source", "kind", "x")
    )
    text = markdown(table.columns, table.rows())
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
