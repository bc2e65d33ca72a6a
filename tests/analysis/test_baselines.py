"""Methods with a supervisor or ceiling of their own, intermediate runs, and manifests of other ages."""

import numpy as np
import polars as pl
import pytest

import analysis
from analysis.results import load as load_results

ENSEMBLE = "ensemble(members=2)"


def manifest_of(store):
    return store / "sweeps" / "sweep" / "manifest.parquet"


def labels_run(writer, run_id, like, accuracy, **description):
    """A run of derived labels with the test examples of a run, right on a share of them; p is null on some rows."""
    results = load_results(writer.root)
    rows = results.predictions(like)
    right = np.arange(rows.height) % 100 < 100 * accuracy
    frame = rows.with_columns(
        prediction=pl.when(pl.Series(right)).then(pl.col("gold")).otherwise(1 - pl.col("gold")).cast(pl.Int8),
        correct=pl.Series(right),
        p=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("p")),
    )
    parents = {"member/0": like, "member/1": None}
    writer.run(run_id, {"kind": "labels", "model": None, "task": "facts", "parents": parents} | description, {}, frame)


@pytest.fixture
def ensemble_store(writer, small_world):
    """Naive, and an ensemble whose supervisor depends on the strong model: good for rung1, perfect for rung2."""
    accurate = {"supervisor": (0.6, 0.7, 0.8), "ceiling": (0.6, 0.85, 0.95), "seed_sd": 0.0, "n_test": 2000}
    writer.world(small_world(methods=("naive", ENSEMBLE), seeds=1, **accurate))
    supervisor = {"rung1": 0.7, "rung2": 1.0}
    for strong, accuracy in supervisor.items():
        labels_run(writer, f"ensemble-{strong}", "facts-s0-sup-0-0", accuracy)
    path = manifest_of(writer.root)
    own = pl.col("method") == ENSEMBLE
    pl.read_parquet(path).with_columns(
        baseline=pl.when(own).then(pl.lit("ensemble")).otherwise(pl.lit("")),
        supervisor_id=pl.when(own).then(pl.format("ensemble-{}", "strong")).otherwise("supervisor_id"),
    ).write_parquet(path)
    return writer.root


def row(frame, **values):
    return frame.filter(*(pl.col(key) == value for key, value in values.items())).row(0, named=True)


def test_an_old_manifest_means_the_plain_grid(writer, small_world):
    writer.world(small_world(seeds=1))
    pairs = load_results(writer.root).pairs
    assert pairs.select("baseline", "stop", "oracle", "links").unique().rows() == [("", "last", False, "")]
    assert pairs["student_view"].to_list() == pairs["student_id"].to_list()
    assert pairs["stop_step"].unique().to_list() == [20]


def test_a_manifest_with_empty_new_columns_is_that_of_the_plain_grid(writer, small_world):
    writer.world(small_world(seeds=1))
    before = load_results(writer.root).pairs
    path = manifest_of(writer.root)
    empty = {name: pl.lit(None, pl.String) for name in ("baseline", "stop", "links")}
    pl.read_parquet(path).with_columns(**empty, oracle=pl.lit(None, pl.Boolean)).write_parquet(path)
    assert load_results(writer.root).pairs.equals(before)


def test_a_gap_is_decided_for_each_baseline(ensemble_store):
    results = load_results(ensemble_store)
    assert results.problems == ()
    estimates = analysis.estimate(results, analysis.Options(draws=200))
    naive = row(estimates.pairs, weak="rung0", strong="rung2", method="naive")
    ensemble = row(estimates.pairs, weak="rung0", strong="rung2", method=ENSEMBLE)
    assert naive["has_gap"]
    assert (ensemble["has_gap"], ensemble["pgr"]) == (False, None)
    assert ensemble["weak_acc"] == pytest.approx(1.0)
    assert naive["weak_acc"] < 0.65
    other = row(estimates.pairs, weak="rung0", strong="rung1", method=ENSEMBLE)
    assert other["weak_acc"] == pytest.approx(0.7)
    expected = (other["student_acc"] - 0.7) / (other["ceiling_acc"] - 0.7)
    assert other["pgr"] == pytest.approx(expected)


def test_the_ladder_is_the_grids_own(ensemble_store):
    estimates = analysis.estimate(load_results(ensemble_store), analysis.Options(draws=100))
    naive = row(estimates.pairs, weak="rung0", strong="rung2", method="naive")
    assert row(estimates.ladder, model="rung0")["supervisor_acc"] == pytest.approx(naive["weak_acc"])
    assert estimates.ladder["n_matmul"].to_list() == [1700, 6800, 27200]


def test_differences_count_a_pair_only_where_both_baselines_have_a_gap(ensemble_store):
    estimates = analysis.estimate(load_results(ensemble_store), analysis.Options(draws=200))
    gaps = estimates.pairs.pivot(on="method", index=["weak", "strong"], values="has_gap")
    both = gaps.filter(pl.col("naive") & pl.col(ENSEMBLE))
    overall = estimates.differences.filter(pl.col("size_gap").is_null()).row(0, named=True)
    assert (overall["n_pairs"], overall["n_no_gap"]) == (both.height, 3 - both.height)
    assert gaps["naive"].sum() > both.height  # else this test would say nothing
    pgr = estimates.pairs.pivot(on="method", index=["weak", "strong"], values="pgr").drop_nulls()
    assert overall["pgr_difference"] == pytest.approx((pgr[ENSEMBLE] - pgr["naive"]).mean())


def test_the_report_says_that_a_method_has_its_own_baseline(ensemble_store, tmp_path):
    results = load_results(ensemble_store)
    lines = analysis.summary(results, analysis.estimate(results, analysis.Options(draws=100)))
    (line,) = [line for line in lines if line.startswith("Measured against")]
    assert f"{ENSEMBLE} (baseline ensemble)" in line
    assert "only where both have a gap" in line
    analysis.write_report(ensemble_store, tmp_path / "report", options=analysis.Options(draws=100))
    assert (tmp_path / "report" / "figures" / "accuracy.png").is_file()


def test_a_study_of_variants_alone_has_estimates_and_a_report(ensemble_store, tmp_path):
    path = manifest_of(ensemble_store)
    pl.read_parquet(path).filter(pl.col("method") == ENSEMBLE).write_parquet(path)
    estimates = analysis.estimate(load_results(ensemble_store), analysis.Options(draws=100))
    ladder = estimates.ladder.sort("rung")
    assert ladder["model"].to_list() == ["rung0", "rung1", "rung2"]
    # rung0 has two supervisors, one per student, so none of its own
    assert ladder["supervisor_acc"].is_null().to_list() == [True, False, True]
    analysis.write_report(ensemble_store, tmp_path / "report", options=analysis.Options(draws=100))


def test_one_supervisor_of_a_baseline_at_a_pair_cannot_be_two_runs(ensemble_store):
    path = manifest_of(ensemble_store)
    rows = pl.read_parquet(path)
    again = rows.filter(pl.col("method") == ENSEMBLE).with_columns(
        method=pl.lit("other"), supervisor_id=pl.lit("ensemble-rung2")
    )
    pl.concat([rows, again]).write_parquet(path)
    with pytest.raises(analysis.AnalysisError, match=r"weak rung0, strong rung1, baseline ensemble.*supervisor_id"):
        analysis.estimate(load_results(ensemble_store))


def test_a_run_without_test_predictions_cannot_be_compared_and_is_named(ensemble_store, writer):
    writer.run("lm", {"kind": "generative", "model": "rung1", "task": "facts"}, {})
    path = manifest_of(ensemble_store)
    rows = pl.read_parquet(path)
    rows.with_columns(pl.col("supervisor_id").replace("ensemble-rung1", "lm")).write_parquet(path)
    results = load_results(ensemble_store)
    (problem,) = results.problems
    assert "runs/lm, a run of kind generative, has no predictions on the split test" in problem
    assert results.missing.select("supervisor_id", "supervisor_state").rows() == [("lm", "damaged")]


def test_labels_of_training_examples_only_are_no_problem(ensemble_store, writer):
    rows = load_results(ensemble_store).predictions("facts-s0-sup-0-0").with_columns(split=pl.lit("transfer/0"))
    writer.run("filtered", {"kind": "labels", "model": None, "task": "facts"}, {}, rows)
    results = load_results(ensemble_store)
    assert results.problems == ()
    assert row(results.runs, run_id="filtered")["accuracy"] is None


def test_links_and_parents_of_one_sweep_are_in_its_runs(ensemble_store, writer):
    results = load_results(ensemble_store)
    link = results.predictions("facts-s0-sup-1-0")
    writer.run("link", {"kind": "transfer", "model": "rung1", "task": "facts", "method": "naive"}, {}, link)
    writer.run("unrelated", {"kind": "transfer", "model": "rung1", "task": "facts", "method": "naive"}, {}, link)
    path = manifest_of(ensemble_store)
    pl.read_parquet(path).with_columns(links=pl.lit("link,facts-s0-sup-1-0")).write_parquet(path)
    runs = set(load_results(ensemble_store, "sweep").runs["run_id"])
    assert {"link", "facts-s0-sup-0-0", "base-facts-rung0-0"} <= runs
    assert "unrelated" not in runs


def test_compute_of_an_adapted_model_is_that_of_its_pretraining(writer, small_world):
    writer.world(small_world(seeds=1))
    rows = load_results(writer.root).predictions("facts-s0-sup-2-0")
    writer.run("lm", {"kind": "generative", "model": "rung2", "seed": 0, "parents": {"base": "base-facts-rung2-0"}}, {})
    description = {"kind": "transfer", "model": "rung2", "task": "facts", "method": "naive", "parents": {"base": "lm"}}
    writer.run("adapted", description, {"n_matmul": 27200}, rows)
    assert row(load_results(writer.root).runs, run_id="adapted")["pretrain_flops"] == 7.2e10


def test_a_probe_of_a_finetuned_student_starts_from_a_run_that_has_its_name(writer, small_world):
    writer.world(small_world(methods=("naive",), seeds=1))
    student = "facts-s0-student-0-2-0-0"
    rows = load_results(writer.root).predictions(student)
    writer.run("acts", {"kind": "activations", "model": "rung2", "task": "facts", "parents": {"base": student}}, {})
    probe = {"kind": "probe", "model": "rung2", "task": "facts", "parents": {"activations": "acts"}}
    writer.run("probe", probe, {"n_matmul": 10**9}, rows)
    path = manifest_of(writer.root)
    manifest = pl.read_parquet(path)
    naive = manifest.filter(pl.col("student_id") == student)
    probed = naive.with_columns(method=pl.lit("probe"), student_id=pl.lit("probe"))
    pl.concat([manifest, probed]).write_parquet(path)
    results = load_results(writer.root)
    assert results.pairs.height == 4
    assert row(results.runs, run_id="probe")["pretrain_flops"] == 7.2e10
    # the size of a model is that of its finetuned form
    assert results.ladder["n_matmul"].to_list() == [1700, 6800, 27200]


def test_a_stand_in_for_several_rungs_contradicts_no_name(ensemble_store):
    path = manifest_of(ensemble_store)
    rows = pl.read_parquet(path)
    rows.with_columns(pl.col("supervisor_id").replace("ensemble-rung1", "ensemble-rung2")).write_parquet(path)
    results = load_results(ensemble_store)
    assert results.pairs.height == 6
    assert results.problems == ()
