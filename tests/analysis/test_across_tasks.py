"""PGR over several tasks."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import analysis
from analysis.across_tasks import ONLY_SETTINGS
from analysis.results import load as load_results

SHAPE = {"rungs": 3, "seeds": 2, "n_test": 1500, "seed_sd": 0.0}
ACCURATE = {"supervisor": (0.6, 0.75, 0.85), "ceiling": (0.6, 0.75, 0.95)}


def estimates_of(results, draws=300):
    return analysis.estimate(results, analysis.Options(draws=draws))


def over_grid(estimates, method="naive"):
    """Rows of a method over all pairs, by statistic."""
    rows = estimates.tasks.filter(pl.col("weak").is_null(), pl.col("method") == method)
    return {row["statistic"]: row for row in rows.to_dicts()}


def width(row, name="pgr"):
    return row[f"{name}_high"] - row[f"{name}_low"]


def with_own_examples(results, task):
    """The same results, as if a task were tested on other examples than the others."""
    test = results.tests[task]
    other = replace(test, example_ids=pl.Series([f"{task}-{i}" for i in test.example_ids]))
    return replace(results, tests={**results.tests, task: other})


@pytest.fixture
def three_tasks(writer, small_world):
    """Three tasks; in `c` no pair has a gap."""
    writer.world(small_world(task="a", **SHAPE, **ACCURATE), sweep="a")
    writer.world(small_world(task="b", **SHAPE, **ACCURATE), sweep="b", random_seed=1)
    flat = {"supervisor": (0.7,) * 3, "ceiling": (0.6,) * 3}
    writer.world(small_world(task="c", **SHAPE, **flat), sweep="c", random_seed=2)
    return load_results(writer.root)


def test_the_median_is_that_of_the_tasks_means_over_pairs_with_a_gap(three_tasks):
    estimates = estimates_of(three_tasks)
    means = estimates.methods.filter(pl.col("statistic") == "mean", pl.col("method") == "naive")
    assert means["task"].to_list() == ["a", "b"]
    row = over_grid(estimates)["median"]
    assert row["pgr"] == pytest.approx(means["pgr"].median())
    assert row["pgr_low"] < row["pgr"] < row["pgr_high"]
    assert (row["tasks"], row["n_tasks"], row["n_no_gap"]) == ("a, b", 2, 1)
    with_gap = estimates.pairs.filter(pl.col("method") == "naive")["has_gap"].sum()
    assert (row["n_pairs"], row["n_pairs_no_gap"]) == (with_gap, 9 - with_gap)
    assert (row["n_seeds"], row["n_test"]) == (2, 3000)


def test_pgr_of_mean_accuracies_leaves_out_nothing(three_tasks):
    estimates = estimates_of(three_tasks)
    naive = estimates.pairs.filter(pl.col("method") == "naive")
    weak, student, ceiling = (
        float(np.mean(naive[name].to_numpy())) for name in ("weak_acc", "student_acc", "ceiling_acc")
    )
    row = over_grid(estimates)["of_means"]
    assert (row["tasks"], row["n_tasks"], row["n_no_gap"]) == ("a, b, c", 3, 1)
    assert (row["n_pairs"], row["n_test"]) == (9, 4500)
    if row["pgr"] is None:
        pytest.fail(f"the mean gap {ceiling - weak:.3f} should be told from zero")
    assert row["pgr"] == pytest.approx((student - weak) / (ceiling - weak))


def test_a_pair_of_models_has_its_median_over_the_tasks_where_it_has_a_gap(three_tasks):
    estimates = estimates_of(three_tasks)
    rows = estimates.tasks.filter(pl.col("weak") == "rung0", pl.col("strong") == "rung2", pl.col("method") == "naive")
    by = {row["statistic"]: row for row in rows.to_dicts()}
    own = estimates.pairs.filter(pl.col("weak") == "rung0", pl.col("strong") == "rung2", pl.col("method") == "naive")
    assert own["has_gap"].to_list() == [True, True, False]
    assert by["median"]["pgr"] == pytest.approx(own["pgr"].median())
    assert (by["median"]["n_tasks"], by["median"]["n_no_gap"]) == (2, 1)
    assert (by["median"]["weak_rung"], by["median"]["strong_rung"]) == (0, 2)
    assert by["median"]["strong_x"] == own["strong_x"][0]
    means = own.select(pl.col("weak_acc", "student_acc", "ceiling_acc").mean()).row(0)
    assert by["of_means"]["pgr"] == pytest.approx((means[1] - means[0]) / (means[2] - means[0]))
    assert by["of_means"]["n_tasks"] == 3


def test_tasks_without_any_gap_have_no_median_and_no_pgr(writer, small_world):
    flat = {"supervisor": (0.9,) * 3, "ceiling": (0.6,) * 3}
    for task in ("a", "b"):
        writer.world(small_world(task=task, **SHAPE, **flat), sweep=task)
    results = load_results(writer.root)
    by = over_grid(estimates_of(results))
    assert set(by) == {"of_means"}
    assert by["of_means"]["pgr"] is by["of_means"]["pgr_low"] is None
    line = next(line for line in analysis.summary(results, estimates_of(results)) if "of any task" in line)
    assert line.startswith("naive: no pair of any task has a gap")


@pytest.fixture
def twins(writer, small_world):
    """Two tasks with the very same predictions on the very same examples, one seed."""
    for task in ("a", "b"):
        writer.world(small_world(task=task, **SHAPE | {"seeds": 1}, **ACCURATE, methods=("naive",)), sweep=task)
    return load_results(writer.root)


def test_tasks_with_the_same_test_examples_are_resampled_alike(twins):
    estimates = estimates_of(twins)
    one = estimates.methods.filter(pl.col("statistic") == "mean").row(0, named=True)
    row = over_grid(estimates)["median"]
    assert row["pgr"] == pytest.approx(one["pgr"])
    assert (row["pgr_low"], row["pgr_high"]) == pytest.approx((one["pgr_low"], one["pgr_high"]))


def test_tasks_with_test_examples_of_their_own_are_resampled_independently(twins):
    estimates = estimates_of(with_own_examples(twins, "b"), draws=2000)
    one = estimates.methods.filter(pl.col("statistic") == "mean").row(0, named=True)
    # the median of two is their mean; quantiles of 2,000 draws are good to some per cent
    assert width(over_grid(estimates)["median"]) == pytest.approx(width(one) / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("renumbered", [False, True])
def test_seeds_are_drawn_once_for_all_tasks(writer, small_world, renumbered):
    # the luck of a seed is the same in both tasks, so averaging over tasks does not take it away
    world = SHAPE | ACCURATE | {"seeds": 5, "seed_sd": 0.4, "methods": ("naive",)}
    for task in ("a", "b"):
        writer.world(small_world(task=task, **world), sweep=task)
    results = with_own_examples(load_results(writer.root), "b")
    if renumbered:  # where seeds are others, they share no luck that could be known
        moved = pl.when(pl.col("task") == "b").then(pl.col("seed") + 5).otherwise(pl.col("seed"))
        results = replace(results, pairs=results.pairs.with_columns(seed=moved))
    estimates = estimates_of(results, draws=2000)
    pair = (pl.col("weak") == "rung0") & (pl.col("strong") == "rung2")
    one = estimates.pairs.filter(pair).row(0, named=True)
    both = estimates.tasks.filter(pair, pl.col("statistic") == "median").row(0, named=True)
    ratio = width(both) / width(one)
    assert (0.6 < ratio < 0.8) if renumbered else (0.85 < ratio < 1.05)


def test_tasks_with_other_seeds_are_joined_by_the_number_of_the_seed(writer, small_world):
    world = SHAPE | ACCURATE | {"seeds": 3, "seed_sd": 0.3}
    for task in ("a", "b"):
        writer.world(small_world(task=task, **world), sweep=task)
    results = load_results(writer.root)
    fewer = results.pairs.filter((pl.col("task") == "a") | (pl.col("seed") != 0))
    row = over_grid(estimates_of(replace(results, pairs=fewer)))["median"]
    assert row["n_seeds"] == 2
    assert row["pgr_low"] < row["pgr"] < row["pgr_high"]


def test_one_task_has_nothing_over_tasks(writer, small_world):
    writer.world(small_world(seeds=1))
    results = load_results(writer.root)
    estimates = estimates_of(results)
    assert estimates.tasks.is_empty()
    assert not any("Over tasks" in line for line in analysis.summary(results, estimates))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"a": ["s0"], "b": ["s0"]}, ["s0"]),
        ({"a": ["s0"], "b": ["s1"]}, [ONLY_SETTINGS]),  # each task's only settings
        ({"a": ["s0", "s1"], "b": ["s0", "s1"]}, ["s0", "s1"]),
        ({"a": ["s0", "s1"], "b": ["s2"]}, []),  # two of one task, and nothing tells which is like the other's
    ],
)
def test_only_tasks_with_the_same_settings_are_taken_together(writer, small_world, settings, expected):
    for task, digests in settings.items():
        for digest in digests:
            world = small_world(task=task, settings=digest, rungs=2, seeds=1, methods=("naive",))
            writer.world(world, sweep=f"{task}-{digest}")
    estimates = estimates_of(load_results(writer.root), draws=100)
    assert estimates.tasks["settings"].unique().sort().to_list() == expected


def test_the_summary_tells_what_holds_over_tasks_and_what_was_left_out(three_tasks):
    lines = analysis.summary(three_tasks, estimates_of(three_tasks))
    start = lines.index("Over tasks (a, b, c):")
    naive = lines[start + 1]
    assert naive.startswith("naive: median PGR ")
    assert "over 2 tasks" in naive
    assert "1 task and" in naive
    assert "PGR of mean accuracies over all 9 pairs of 3 tasks" in naive
