import hashlib
import json

import numpy as np
import polars as pl
import pytest

import analysis
from analysis import metrics
from analysis.results import load as load_results


def only(folder):
    """The single entry of a folder."""
    (entry,) = folder.iterdir()
    return entry


def attempt_of(store, run_id):
    return only(store / "runs" / run_id / "attempts")


def rewrite_predictions(store, run_id, change):
    """Change a run's predictions and make DONE fit again, as a faulty writer would."""
    path = attempt_of(store, run_id) / "predictions.parquet"
    change(pl.read_parquet(path)).write_parquet(path)
    done_path = store / "runs" / run_id / "DONE"
    done = json.loads(done_path.read_text())
    done["files"]["predictions.parquet"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    done_path.write_text(json.dumps(done))


@pytest.fixture
def store(writer, small_world):
    writer.world(small_world())
    return writer.root


def test_the_tables_hold_every_run_and_pair_in_the_same_order_each_time(store):
    results = load_results(store)
    # 3 rungs x 2 seeds: 6 pretrained, 6 supervisors, 6 ceilings; 3 pairs x 2 methods x 2 seeds
    assert sorted(results.runs["kind"]) == ["ground_truth"] * 12 + ["pretrain"] * 6 + ["transfer"] * 12
    assert results.pairs.height == 12
    assert results.missing.is_empty()
    assert results.problems == ()
    again = load_results(store)
    assert again.runs.equals(results.runs)
    assert again.pairs.equals(results.pairs)


def test_scores_are_those_of_the_test_split_at_the_final_step(store):
    results = load_results(store)
    run = results.runs.filter(pl.col("kind") == "transfer").row(0, named=True)
    test = results.predictions(run["run_id"]).filter(pl.col("split") == "test")
    assert set(test["step"]) == {20}
    assert run["n_test"] == test.height == 400
    assert run["accuracy"] == pytest.approx(test["correct"].mean())
    assert run["auroc"] == pytest.approx(metrics.auroc(test["gold"], test["p"]))
    assert run["log_loss"] == pytest.approx(metrics.log_loss(test["gold"], test["p"]))


def test_a_run_inherits_the_pretraining_compute_of_the_model_it_starts_from(store):
    runs = load_results(store).runs.filter(pl.col("kind") == "transfer")
    assert runs.filter(pl.col("model") == "rung1")["pretrain_flops"].unique().to_list() == [2.4e10]


def test_pair_scores_are_those_of_its_three_runs_joined_by_example(store):
    results = load_results(store)
    pair = results.pairs.filter((pl.col("weak") == "rung0") & (pl.col("strong") == "rung2")).row(0, named=True)
    frames = [results.predictions(pair[f"{role}_id"]) for role in ("supervisor", "student", "ceiling")]
    weak, student, ceiling = (frame.filter(pl.col("split") == "test").sort("example_id") for frame in frames)
    accuracies = [float(frame["correct"].to_numpy().mean()) for frame in (weak, student, ceiling)]
    assert [pair["weak_acc"], pair["student_acc"], pair["ceiling_acc"]] == pytest.approx(accuracies)
    assert pair["pgr"] == pytest.approx((accuracies[1] - accuracies[0]) / (accuracies[2] - accuracies[0]))
    expected = metrics.agreement(weak["gold"], weak["prediction"], student["prediction"])
    assert pair["agreement"] == pytest.approx(expected.overall)
    assert pair["agreement_when_weak_right"] == pytest.approx(expected.when_weak_right)
    assert pair["agreement_when_weak_wrong"] == pytest.approx(expected.when_weak_wrong)
    assert (pair["size_gap"], pair["log10_compute_ratio"]) == (2, pytest.approx(np.log10(7.2e10 / 6.2e9)))


def test_the_order_of_rows_in_a_file_does_not_matter(tmp_path, writer, small_world):
    writer.world(small_world())
    shuffled = type(writer)(tmp_path / "shuffled")
    shuffled.world(small_world(shuffled=True))
    assert load_results(shuffled.root).pairs.equals(load_results(writer.root).pairs)


def test_pairs_are_scored_on_the_examples_that_all_runs_have_and_this_is_said(store):
    rewrite_predictions(store, "facts-s0-sup-0-0", lambda frame: frame.filter(pl.col("example_id") >= f"{100:08x}"))
    results = load_results(store)
    assert results.pairs["n_test"].unique().to_list() == [300]
    assert any("the 300 that all have, of up to 400" in note for note in results.notes)


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "predictions.parquet"])
def test_a_damaged_file_is_named_and_only_its_pairs_are_missing(store, name):
    path = attempt_of(store, "facts-s0-sup-0-0") / name
    path.write_bytes(path.read_bytes()[:-1])
    results = load_results(store)
    assert len(results.problems) == 1
    assert f"runs/facts-s0-sup-0-0/attempts/{path.parent.name}/{name} is damaged" in results.problems[0]
    assert "run the sweep again" in results.problems[0]
    assert results.missing.select("weak", "seed").unique().rows() == [("rung0", 0)]
    assert results.missing["supervisor_state"].unique().to_list() == ["damaged"]
    assert results.pairs.height == 12 - 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"attempt": 3}', "does not name an attempt"),
        ('{"attempt": "../..", "files": {}}', "does not name an attempt"),
        ('{"attempt": "x", "files": {}}', "does not name run.json"),
    ],
)
def test_a_broken_finished_mark_is_a_problem_and_no_traceback(store, content, words):
    (store / "runs" / "facts-s0-ceil-1-0" / "DONE").write_text(content)
    results = load_results(store)
    assert len(results.problems) == 1
    assert words in results.problems[0]
    assert "runs/facts-s0-ceil-1-0" in results.problems[0]


def test_a_file_that_is_gone_is_a_problem(store):
    (attempt_of(store, "facts-s0-ceil-1-0") / "metrics.json").unlink()
    assert "metrics.json cannot be read" in load_results(store).problems[0]


def repeat_three(frame):
    return pl.concat([frame, frame.filter((pl.col("split") == "test") & (pl.col("step") == 20)).head(3)])


def flip_labels(frame):
    return frame.with_columns(gold=1 - pl.col("gold"), prediction=1 - pl.col("prediction"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.filter(pl.col("split") != "test"), "no rows of split 'test'"),
        (repeat_three, "3 test examples twice"),
        (lambda f: f.with_columns(correct=~pl.col("correct")), "contradicts gold and prediction in 400 test rows"),
        (flip_labels, "gold labels differ"),
        (lambda f: f.drop("p"), "cannot be read as predictions"),
        (lambda f: f.with_columns(gold=pl.lit("yes")), "cannot be read as predictions"),
        (lambda f: f.with_columns(gold=pl.lit(2, pl.Int8)), "labels other than 0 and 1"),
        (lambda f: f.with_columns(p=-pl.col("p") - 0.1), "400 test rows whose p, a probability, is outside"),
    ],
    ids=["no test rows", "repeated ids", "contradiction", "other labels", "no column", "words", "classes", "range"],
)
def test_predictions_that_cannot_be_right_are_left_out(store, change, words):
    rewrite_predictions(store, "facts-s0-sup-1-1", change)
    results = load_results(store)
    assert len(results.problems) == 1
    assert words in results.problems[0]
    assert "facts-s0-sup-1-1" not in results.runs["run_id"]
    assert results.missing.height == 2


def test_unfinished_and_failed_runs_are_told_apart(store):
    (store / "runs" / "facts-s0-student-0-1-0-0" / "DONE").unlink()
    failed = store / "runs" / "facts-s0-ceil-2-1"
    (failed / "DONE").unlink()
    (attempt_of(store, failed.name) / "error.json").write_text("{}")
    results = load_results(store)
    assert results.missing.filter(pl.col("student_state") == "not finished").height == 1
    assert set(results.missing.filter(pl.col("ceiling_state") == "failed")["strong"]) == {"rung2"}
    assert results.missing.filter(pl.col("ceiling_state") == "failed").height == 4
    assert results.problems == ()


def test_an_empty_storage_gives_empty_tables_and_says_so(tmp_path):
    results = load_results(tmp_path)
    assert results.runs.is_empty()
    assert results.pairs.is_empty()
    assert any("holds no finished runs yet" in note for note in results.notes)


def test_a_storage_that_does_not_exist_is_refused_by_name(tmp_path):
    with pytest.raises(analysis.AnalysisError, match=r"no storage at .*nowhere"):
        load_results(tmp_path / "nowhere")


def test_an_address_with_a_password_is_refused_and_not_repeated():
    with pytest.raises(
        analysis.AnalysisError, match=r"the address s3://\*\*\*@bucket/x carries credentials"
    ) as refused:
        load_results("s3://AKIA:secret@bucket/x")
    assert "secret" not in str(refused.value)


def test_an_unknown_sweep_is_refused_with_the_known_ones(store):
    with pytest.raises(analysis.AnalysisError, match="no sweep 'swep'; its sweeps: sweep"):
        load_results(store, "swep")


def test_a_manifest_that_cannot_be_read_is_a_problem(store):
    (store / "sweeps" / "sweep" / "manifest.parquet").write_bytes(b"PAR1")
    results = load_results(store)
    assert "sweeps/sweep/manifest.parquet cannot be read as a manifest" in results.problems[0]
    assert results.pairs.is_empty()
    assert results.runs.height == 30


def test_equal_pairs_of_two_sweeps_are_counted_once_and_one_sweep_can_be_chosen(store, writer, small_world):
    writer.world(small_world(), sweep="again")
    writer.world(small_world(task="other", seeds=1), sweep="other")
    assert load_results(store).pairs.height == 12 + 6
    one = load_results(store, "other")
    assert one.pairs["task"].unique().to_list() == ["other"]
    # the pretrained models of its pairs are read too, and nothing of other sweeps
    assert sorted(one.runs["kind"]) == ["ground_truth"] * 4 + ["pretrain"] * 3 + ["transfer"] * 6


def write_renamed(store, sweep, **columns):
    """Another sweep of the same runs, which calls things otherwise: column -> {name: new name}."""
    rows = pl.read_parquet(store / "sweeps" / "sweep" / "manifest.parquet")
    (store / "sweeps" / sweep).mkdir()
    renamed = rows.with_columns(pl.col(column).replace(names) for column, names in columns.items())
    renamed.write_parquet(store / "sweeps" / sweep / "manifest.parquet")


def numbers(frame):
    return frame.select(pl.selectors.numeric())


def test_a_task_that_a_later_sweep_calls_otherwise_bears_that_sweeps_name(store):
    write_renamed(store, "later", task={"facts": "truths"})
    first, later = load_results(store, "sweep"), load_results(store, "later")
    assert later.problems == ()
    assert set(later.tests) == {"truths"}
    assert later.runs["task"].drop_nulls().unique().to_list() == ["truths"]
    for table in ("pairs", "ladder"):
        assert getattr(later, table)["task"].unique().to_list() == ["truths"]
        assert numbers(getattr(later, table)).equals(numbers(getattr(first, table)))
    assert first.runs["task"].drop_nulls().unique().to_list() == ["facts"]


def test_a_rung_that_a_later_sweep_calls_otherwise_keeps_its_size_and_compute(store):
    names = {"rung0": "tiny", "rung2": "rung0"}
    write_renamed(store, "later", weak=names, strong=names)
    first, later = load_results(store, "sweep"), load_results(store, "later")
    assert later.ladder["model"].to_list() == ["tiny", "rung1", "rung0"]
    assert later.ladder["x_axis"].unique().to_list() == ["compute"]
    assert numbers(later.ladder).equals(numbers(first.ladder))
    assert later.pairs["log10_compute_ratio"].null_count() == 0
    model = dict(later.runs.select("run_id", "model").iter_rows())
    assert model["facts-s0-sup-0-1"] == model["base-facts-rung0-1"] == "tiny"
    assert model["facts-s0-student-0-2-1-0"] == model["facts-s0-ceil-2-0"] == model["base-facts-rung2-0"] == "rung0"


def test_runs_in_no_manifest_keep_the_names_they_were_made_under(store, writer, small_world):
    write_renamed(store, "later", task={"facts": "truths"})
    writer.world(small_world(task="other", seeds=1), sweep="other")
    for sweep in ("sweep", "other"):
        (store / "sweeps" / sweep / "manifest.parquet").unlink()
    results = load_results(store)
    task = dict(results.runs.select("run_id", "task").iter_rows())
    assert (task["facts-s0-sup-0-0"], task["other-s0-sup-0-0"]) == ("truths", "other")
    # the largest rung supervises nobody, so no manifest names it in that role
    assert task["facts-s0-sup-2-0"] == "facts"
    assert results.pairs["task"].unique().to_list() == ["truths"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"task": {"facts": "truths"}},
            r"task truths, rung rung0 in sweep later, but task facts, rung rung0 in sweep sweep",
        ),
        (
            {"weak": {"rung0": "tiny"}},
            r"task facts, rung tiny in sweep later, but task facts, rung rung0 in sweep sweep",
        ),
    ],
    ids=["task", "rung"],
)
def test_sweeps_that_call_one_run_by_different_names_are_not_united(store, columns, words):
    write_renamed(store, "later", **columns)
    with pytest.raises(analysis.AnalysisError, match=rf"run facts-s0-sup-0-0 is {words}.*; name one sweep"):
        load_results(store)


def test_one_sweep_with_two_names_for_a_run_is_refused_with_a_remedy(store):
    path = store / "sweeps" / "sweep" / "manifest.parquet"
    rows = pl.read_parquet(path)
    pl.concat([rows, rows.with_columns(task=pl.lit("truths"))]).write_parquet(path)
    with pytest.raises(analysis.AnalysisError, match=r"task facts.*but task truths.*list it once in the spec"):
        load_results(store, "sweep")


def test_a_pretrained_model_that_two_sweeps_call_otherwise_is_refused_too(store, writer, small_world):
    writer.world(small_world(settings="s1"), sweep="other")
    path = store / "sweeps" / "other" / "manifest.parquet"
    rows = pl.read_parquet(path)
    rows.with_columns(pl.col("weak", "strong").replace({"rung1": "middle"})).write_parquet(path)
    with pytest.raises(
        analysis.AnalysisError, match=r"base-facts-rung1-0 is rung middle in sweep other, but rung rung1"
    ):
        load_results(store)
    assert load_results(store, "other").ladder["model"].to_list() == ["rung0", "middle", "rung2"]


def test_results_are_read_through_any_file_system(store):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/w2s-test", recursive=True)
    try:
        assert load_results("memory://w2s-test").pairs.equals(load_results(store).pairs)
    finally:
        memory.rm("/w2s-test", recursive=True)


def test_without_compute_models_are_ordered_by_parameters(writer, small_world):
    writer.world(small_world(with_compute=False))
    results = load_results(writer.root)
    assert results.ladder["model"].to_list() == ["rung0", "rung1", "rung2"]
    assert results.ladder["x_axis"].unique().to_list() == ["parameters"]
    assert results.pairs["log10_compute_ratio"].null_count() == results.pairs.height


def test_predictions_of_an_unfinished_run_are_refused_with_a_remedy(store):
    with pytest.raises(analysis.AnalysisError, match=r"runs/nothing is not finished.*run the sweep again"):
        load_results(store).predictions("nothing")


def test_a_folder_of_storages_is_refused_with_their_names(tmp_path, store_writer, small_world):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        store_writer(tmp_path / name).world(small_world(rungs=2, seeds=1, methods=("naive",)))
    (tmp_path / "notes").mkdir()
    with pytest.raises(analysis.AnalysisError, match=rf"no storage: .* below it: {tmp_path}/one, {tmp_path}/two$"):
        load_results(str(tmp_path))
    assert load_results(str(tmp_path / "notes")).runs.is_empty()


def test_results_in_a_notebook_cell_are_one_line(writer, small_world):
    writer.world(small_world(rungs=2, seeds=1, methods=("naive",)))
    (writer.root / "runs" / "facts-s0-student-0-1-0-0" / "DONE").unlink()
    results = load_results(str(writer.root), "sweep")
    assert repr(results) == f"Results({writer.root}, sweep sweep: 4 runs, 0 pairs, 1 missing pairs, 0 problems)"
    assert "\n" not in repr(analysis.estimate(results))


def test_probabilities_that_are_not_numbers_leave_the_accuracy(store):
    rewrite_predictions(store, "facts-s0-sup-1-1", lambda f: f.with_columns(p=pl.lit(float("nan"), pl.Float32)))
    results = load_results(store)
    assert results.problems == ()
    run = results.runs.filter(pl.col("run_id") == "facts-s0-sup-1-1").row(0, named=True)
    assert run["accuracy"] is not None
    assert run["auroc"] is run["log_loss"] is run["calibration_error"] is None
    assert analysis.estimate(results, analysis.Options(draws=100)).pairs.height == 6
