"""Tuned against default on fresh instances: numbers are those of the estimates, and follow from predictions."""

import numpy as np
import polars as pl
import pytest

from analysis import tuning
from analysis.estimates import Options, compare
from analysis.metrics import performance_gap_recovered
from analysis.tuning.fresh import contenders_of
from analysis.tuning.reading import read_tuning
from analysis.tuning.sentences import fresh_lines
from tests.analysis.tuning_files import made_up, write_search

OPTIONS = Options(draws=300)
PGRS = {"confidence": 0.3, "tuned-weak": 0.55, "tuned-oracle [oracle]": 0.75, "front-3": 0.2}
LABELS = {"weak": "tuned-weak", "oracle": "tuned-oracle [oracle]"}


def fresh_world(small_world, **changes):
    changes = {"methods": tuple(PGRS), "pgr": lambda method, weak, strong: PGRS[method], "seed_sd": 0.005} | changes
    return small_world(**changes)


def with_matched(root, label, sweep="fresh"):
    """Adds the same students measured against another ceiling to the manifest."""
    path = root / "sweeps" / sweep / "manifest.parquet"
    manifest = pl.read_parquet(path)
    if "baseline" not in manifest.columns:
        manifest = manifest.with_columns(baseline=pl.lit(""), oracle=pl.col("method").str.contains("oracle"))
    rows = manifest.filter(pl.col("method") == label).with_columns(
        method=pl.lit(f"{label}, matched"),
        baseline=pl.lit("ceiling with epochs=4"),
        ceiling_id=pl.col("ceiling_id").str.replace("-ceil-", "-sup-"),  # any other run of the strong model
    )
    pl.concat([manifest, rows]).write_parquet(path)
    return f"{label}, matched"


def fresh_block(matched=(), **more):
    tuned = {
        objective: {"matched": f"{label}, matched" if objective in matched else label, "reference": label}
        for objective, label in LABELS.items()
    }
    return {"sweep": "fresh", "seeds": [0, 1], "default": "confidence", "tuned": tuned, "front": {}} | more


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, store_writer, small_world):
    """A storage with both searches and fresh instances at three pairs, of which the search used two."""
    root = tmp_path_factory.mktemp("tuned") / "store"
    root.mkdir()
    store_writer(root).world(fresh_world(small_world, n_test=1500, seeds=4), sweep="fresh")
    with_matched(root, "tuned-weak")
    block = fresh_block(matched=("weak",), front={"weak": {"3": "front-3"}})
    write_search(
        root,
        made_up(front=[1, 3, 4], minimize_flops=True),
        made_up(18, objective="oracle", metric="pgr"),
        fresh=block,
    )
    return tuning.load(str(root), options=OPTIONS)


def row_of(frame, **wanted):
    for column, value in wanted.items():
        frame = frame.filter(pl.col(column).is_null() if value is None else pl.col(column) == value)
    assert frame.height == 1
    return frame.row(0, named=True)


def test_differences_of_one_task_are_those_of_compare(evaluated):
    fresh = evaluated.fresh
    row = row_of(fresh.differences, contender="tuned (weak)", pairs="all", reference="default")
    theirs = compare(fresh.estimates, "tuned-weak", "confidence").filter(pl.col("size_gap").is_null())
    for bound in ("", "_low", "_high"):
        assert row[f"accuracy_difference{bound}"] == pytest.approx(theirs[f"accuracy_difference{bound}"][0])
        assert row[f"mean_pgr_difference{bound}"] == pytest.approx(theirs[f"pgr_difference{bound}"][0])
    assert (row["n_pairs"], row["n_seeds"], row["task"]) == (3, 4, None)


def test_methods_have_both_ceilings_and_the_pgr_of_the_estimates(evaluated):
    fresh = evaluated.fresh
    rows = fresh.methods.filter(pl.col("contender") == "tuned (weak)")
    assert dict(rows.select("ceiling", "method").iter_rows()) == {
        "reference": "tuned-weak",
        "matched": "tuned-weak, matched",
    }
    for label in ("tuned-weak", "tuned-weak, matched"):
        of_means = row_of(fresh.estimates.methods, method=label, statistic="of_means")
        mean = row_of(fresh.estimates.methods, method=label, statistic="mean")
        ours = row_of(fresh.methods, method=label)
        for bound in ("", "_low", "_high"):
            assert ours[f"pgr{bound}"] == pytest.approx(of_means[f"pgr{bound}"])
            assert ours[f"mean_pgr{bound}"] == pytest.approx(mean[f"pgr{bound}"])
    # One label for both: the same numbers under both names.
    default = fresh.methods.filter(pl.col("contender") == "default").drop("ceiling")
    assert default.height == 2
    assert default.n_unique() == 1


def test_accuracies_and_groups_of_pairs_follow_from_the_pairs(evaluated):
    fresh = evaluated.fresh
    by_seed = fresh.results.pairs
    for method, contender in (("confidence", "default"), ("tuned-weak", "tuned (weak)")):
        expected = by_seed.filter(pl.col("method") == method)["student_acc"].mean()
        assert row_of(fresh.methods, contender=contender, ceiling="reference")["accuracy"] == pytest.approx(expected)
    own = fresh.pairs.filter((pl.col("contender") == "tuned (weak)") & (pl.col("reference") == "default"))
    assert own.select("weak", "strong", "searched", "largest").rows() == [
        ("rung0", "rung1", True, False),
        ("rung0", "rung2", True, True),
        ("rung1", "rung2", False, True),
    ]
    searched, largest = pl.col("searched"), pl.col("largest")
    for pairs, where in (("searched", searched), ("not searched", ~searched), ("largest", largest)):
        row = row_of(fresh.differences, contender="tuned (weak)", pairs=pairs)
        assert row["accuracy_difference"] == pytest.approx(own.filter(where)["accuracy_difference"].mean())
        assert row["accuracy_difference_low"] < row["accuracy_difference"] < row["accuracy_difference_high"]


def test_the_oracle_is_marked_and_compared_with_the_weak_winner(evaluated):
    row = row_of(evaluated.fresh.differences, reference="tuned (weak)", pairs="all")
    assert (row["contender"], row["oracle"]) == ("tuned [oracle]", True)
    assert row["accuracy_difference_low"] > 0  # 0.75 against 0.55 of the gap
    assert set(evaluated.fresh.methods.filter(pl.col("oracle"))["contender"]) == {"tuned [oracle]"}


def test_the_winner_in_the_search_and_afterwards_at_the_pairs_of_the_search(evaluated):
    fresh = evaluated.fresh
    by_seed = fresh.results.pairs.filter(pl.col("weak") == "rung0")
    weak, oracle = (row_of(fresh.search, objective=objective) for objective in ("weak", "oracle"))
    tuned, default = (by_seed.filter(pl.col("method") == m) for m in ("tuned-weak", "confidence"))
    assert (weak["same_pairs"], weak["n_pairs"], weak["n_seeds"]) == (True, 2, 4)
    assert weak["fresh_tuned"] == pytest.approx(tuned["agreement"].mean())
    assert weak["fresh_gain"] == pytest.approx(tuned["agreement"].mean() - default["agreement"].mean())
    study = evaluated.files.studies[0]
    assert weak["search_tuned"] == study.candidate(study.best)["value"]
    assert weak["search_gain"] == pytest.approx(weak["search_tuned"] - study.candidate(0)["value"])
    winner = by_seed.filter(pl.col("method") == "tuned-oracle [oracle]")
    expected = performance_gap_recovered(*(winner[f"{who}_acc"].mean() for who in ("weak", "student", "ceiling")))
    assert oracle["fresh_tuned"] == pytest.approx(expected)
    assert oracle["fresh_tuned_low"] < expected < oracle["fresh_tuned_high"]


def test_fresh_values_of_candidates_by_number(evaluated):
    fresh, study = evaluated.fresh, evaluated.files.studies[0]
    assert fresh.value_of("weak", study.best, 0)["contender"] == "tuned (weak)"
    assert fresh.value_of("weak", 3, 0)["method"] == "front-3"
    assert fresh.value_of("weak", 0, 0)["contender"] == "default"
    assert fresh.value_of("weak", 1, 0) is None
    assert fresh.value_of("weak", None, None) is None


@pytest.mark.parametrize("metric", ["confidence", "weak_log_loss", "log_loss", "accuracy"])
def test_metrics_of_probabilities_are_computed_as_the_search_does(tmp_path, store_writer, small_world, metric):
    store_writer(tmp_path).world(fresh_world(small_world, shuffled=True), sweep="fresh")
    write_search(tmp_path, made_up(6, metric=metric), fresh=fresh_block())
    search = tuning.load(str(tmp_path), options=OPTIONS)
    row = row_of(search.fresh.search, objective="weak")
    expected = []
    results = search.fresh.results
    pairs = results.pairs.filter((pl.col("weak") == "rung0") & (pl.col("method") == "tuned-weak"))
    for student_id, supervisor_id in pairs.select("student_id", "supervisor_id").iter_rows():
        student, supervisor = (
            results.predictions(run_id).filter(pl.col("split") == "test") for run_id in (student_id, supervisor_id)
        )
        p, w = (np.clip(frame["p"].to_numpy().astype(float), 1e-7, 1 - 1e-7) for frame in (student, supervisor))
        gold = student["gold"].to_numpy()
        expected.append(
            {
                "confidence": np.maximum(p, 1 - p),
                "weak_log_loss": w * np.log(p) + (1 - w) * np.log(1 - p),
                "log_loss": np.log(np.where(gold == 1, p, 1 - p)),
                "accuracy": student["correct"].to_numpy(),
            }[metric].mean()
        )
    assert row["note"] is None
    assert row["fresh_tuned"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert row["fresh_gain"] == pytest.approx(row["fresh_tuned"] - row["fresh_default"], abs=1e-6)
    assert row["fresh_gain_low"] < row["fresh_gain"] < row["fresh_gain_high"]


def test_a_metric_that_fresh_runs_do_not_give_is_named(tmp_path, store_writer, small_world):
    store_writer(tmp_path).world(fresh_world(small_world), sweep="fresh")
    write_search(tmp_path, made_up(6, metric="cross_agreement"), fresh=fresh_block())
    row = row_of(tuning.load(str(tmp_path), options=OPTIONS).fresh.search, objective="weak")
    assert (row["fresh_tuned"], row["note"]) == (None, "cross_agreement is not computed on fresh instances")


def test_several_tasks_are_averaged_and_each_is_told(tmp_path, store_writer, small_world):
    writer = store_writer(tmp_path)
    for seed, task in enumerate(("facts", "other")):
        writer.world(fresh_world(small_world, task=task), sweep=task, random_seed=seed)
    frames = [pl.read_parquet(tmp_path / "sweeps" / task / "manifest.parquet") for task in ("facts", "other")]
    (tmp_path / "sweeps" / "fresh").mkdir()
    pl.concat(frames).write_parquet(tmp_path / "sweeps" / "fresh" / "manifest.parquet")
    write_search(tmp_path, made_up(6), fresh=fresh_block())
    fresh = tuning.load(str(tmp_path), options=OPTIONS).fresh
    rows = fresh.differences.filter((pl.col("contender") == "tuned (weak)") & (pl.col("pairs") == "all"))
    assert rows["task"].to_list() == [None, "facts", "other"]
    assert rows["n_pairs"].to_list() == [6, 3, 3]
    both, *each = rows["accuracy_difference"].to_list()
    assert both == pytest.approx(np.mean(each))
    widths = (rows["accuracy_difference_high"] - rows["accuracy_difference_low"]).to_list()
    assert widths[0] < max(widths[1:])  # the tasks' examples are independent
    searched = row_of(fresh.differences, contender="tuned (weak)", pairs="searched")
    assert (searched["n_pairs"], searched["n_tasks"]) == (2, 1)  # the search used one task


def test_what_is_not_complete_is_said(tmp_path, store_writer, small_world):
    store_writer(tmp_path).world(fresh_world(small_world), sweep="fresh")
    for path in (tmp_path / "runs").glob("facts-s0-student-0-1-1-*/DONE"):
        path.unlink()
    block = fresh_block()
    block["tuned"]["oracle"] = {"matched": "nobody", "reference": "nobody"}
    write_search(tmp_path, made_up(6), fresh=block)
    fresh = tuning.load(str(tmp_path), options=OPTIONS).fresh
    assert not fresh.complete
    assert any("2 of 24 pairs" in text for text in fresh.problems)
    assert any("no complete pair of method nobody" in text for text in fresh.problems)
    row = row_of(fresh.differences, contender="tuned (weak)", pairs="all")
    assert row["n_pairs"] == 2  # one pair has no tuned student


def test_a_sweep_that_is_not_there_is_a_problem_in_words(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "sweeps").mkdir()
    write_search(tmp_path, made_up(6), fresh=fresh_block())
    fresh = tuning.load(str(tmp_path), options=OPTIONS).fresh
    assert fresh.is_empty
    assert "has no sweep 'fresh'" in fresh.problems[0]


def test_equal_winners_differ_by_nothing(tmp_path, store_writer, small_world):
    store_writer(tmp_path).world(fresh_world(small_world), sweep="fresh")
    block = fresh_block()
    block["tuned"]["oracle"] = block["tuned"]["weak"]
    write_search(tmp_path, made_up(6), made_up(6, objective="oracle", metric="pgr"), fresh=block)
    fresh = tuning.load(str(tmp_path), options=OPTIONS).fresh
    row = row_of(fresh.differences, reference="tuned (weak)", pairs="all")
    assert [row[f"accuracy_difference{b}"] for b in ("", "_low", "_high")] == [0, 0, 0]


def test_naive_is_measured_beside_them_and_pairs_in_common_are_counted(tmp_path, store_writer, small_world):
    methods = ("naive", *PGRS)
    pgrs = PGRS | {"naive": 0.1}
    store_writer(tmp_path).world(
        fresh_world(small_world, methods=methods, pgr=lambda method, weak, strong: pgrs[method]), sweep="fresh"
    )
    path = tmp_path / "sweeps" / "fresh" / "manifest.parquet"
    neighbours = (pl.col("method") == "tuned-weak") & (pl.col("weak") == "rung1")
    pl.read_parquet(path).filter(~neighbours).write_parquet(path)
    block = fresh_block(not_applicable=["tuned-weak on facts: 2 pairs left out, no rung between"])
    write_search(tmp_path, made_up(6), fresh=block)
    search = tuning.load(str(tmp_path), options=OPTIONS)
    fresh = search.fresh
    against = fresh.differences.filter((pl.col("pairs") == "all") & (pl.col("reference") == "naive"))
    assert dict(against.select("contender", "n_pairs").iter_rows()) == {
        "default": 3,
        "tuned (weak)": 2,
        "tuned [oracle]": 3,
    }
    assert "left out of the fresh instances: tuned-weak on facts: 2 pairs left out, no rung between" in fresh.problems
    lines = fresh_lines(search.files, fresh)
    assert any(
        "tuned (weak) minus default" in line and "over the 2 pairs of 3 that both have" in line for line in lines
    )
    assert sum("Minus naive" in line for line in lines) == 1


def test_candidates_of_a_front_that_are_the_winner_are_not_told_twice(tmp_path):
    study = made_up(6)
    best = study[0]["best"]
    block = fresh_block(front={"weak": {str(best): "tuned-weak", "3": "front-3"}})
    write_search(tmp_path, study, fresh=block)
    names = [contender.name for contender in contenders_of(read_tuning(str(tmp_path)))]
    assert names == ["default", "tuned (weak)", "tuned [oracle]", "front 3 (weak)"]
