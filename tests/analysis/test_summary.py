import hashlib
import json

import polars as pl
import pytest

import analysis
from analysis.results import load as load_results


def sentences(store):
    results = load_results(store)
    return analysis.summary(results, analysis.estimate(results, analysis.Options(draws=200)))


def find(lines, words):
    found = [line for line in lines if words in line]
    assert found, (words, lines)
    return found[0]


def test_the_reference_sweep_is_told_with_intervals_and_n(reference_store):
    lines = sentences(reference_store)
    assert lines[0] == "All 90 pairs (weak, strong, method, seed) are complete."
    base = find(lines, "15 weak/strong combinations x 2 methods x 3 seeds")
    assert "1,200 test examples" in base
    assert "fewer than 5 seeds" in base
    assert "clearly above zero" in find(lines, "naive: mean PGR")
    by_gap = find(lines, "By rungs between weak and strong")
    assert "5: +" in by_gap  # confidence helps at the largest gap of this world
    assert "1: -" in by_gap  # and hurts at the smallest
    assert "naive -0." in find(lines, "Agreement with the mistakes of rung0 changes per factor of ten")
    assert "naive -0." in find(lines, "The same of all supervisors with several students")
    assert "; higher at " in find(lines, "confidence(max_weight=0.75) minus naive: mean PGR")


def test_missing_runs_are_counted_once_each_by_kind(writer, small_world):
    writer.world(small_world())
    (writer.root / "runs" / "facts-s0-sup-0-0" / "DONE").unlink()
    lines = sentences(writer.root)
    assert lines[0] == "8 of 12 pairs (weak, strong, method, seed) are complete."
    assert lines[1] == "Missing: 1 supervisor not finished."


def test_one_pair_is_the_only_one(writer, small_world):
    writer.world(small_world(seeds=1, rungs=2, methods=("naive",)))
    assert sentences(writer.root)[0] == "The only pair (weak, strong, method, seed) is complete."


def test_a_single_seed_is_told_to_cover_examples_only(writer, small_world):
    writer.world(small_world(seeds=1, rungs=2))
    assert "one seed intervals cover test examples only" in find(sentences(writer.root), "scored on")


def test_ground_truth_that_falls_is_not_called_rising(writer, small_world):
    writer.world(small_world(supervisor=(0.6, 0.7, 0.7), ceiling=(0.6, 0.9, 0.7), seed_sd=0.0))
    line = find(sentences(writer.root), "Ground-truth accuracy")
    assert "(the ceiling) falls from 0." in line
    assert "rises" not in line


def test_neighbours_with_equal_ceilings_are_not_told_apart_though_the_ends_are(writer, small_world):
    writer.world(small_world(rungs=4, seeds=3, supervisor=(0.6,) * 4, ceiling=(0.6, 0.6, 0.6, 0.95), seed_sd=0.0))
    line = find(sentences(writer.root), "Ground-truth accuracy")
    assert "(the ceiling) rises from 0." in line
    assert "cannot be told apart from rung1 to rung2." in line


def test_models_at_chance_are_not_called_better_than_the_more_frequent_class(writer, small_world):
    writer.world(small_world(supervisor=(0.5, 0.5, 0.5), ceiling=(0.5, 0.5, 0.5), seed_sd=0.0))
    lines = sentences(writer.root)
    assert "cannot be told apart" in find(lines, "Ground-truth accuracy")
    assert "both supervisors and both ceilings" in find(lines, "the more frequent class")


def test_only_models_that_may_be_at_chance_are_named(writer, small_world):
    writer.world(small_world(supervisor=(0.5, 0.8, 0.8), ceiling=(0.5, 0.9, 0.9), seed_sd=0.0))
    assert ": the supervisor rung0." in find(sentences(writer.root), "the more frequent class")


def rewrite(run, name, change):
    """Change one file of a run, and its digest in DONE."""
    done = json.loads((run / "DONE").read_text())
    path = run / "attempts" / done["attempt"] / name
    change(path)
    done["files"][name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (run / "DONE").write_text(json.dumps(done))


def test_students_that_predict_one_class_are_counted(writer, small_world):
    writer.world(small_world(rungs=2, seeds=2))

    def constant(path):
        frame = pl.read_parquet(path).with_columns(prediction=pl.lit(1, pl.Int8), correct=pl.col("gold") == 1)
        frame.write_parquet(path)

    assert not any("one class only" in line for line in sentences(writer.root))
    rewrite(writer.root / "runs" / "facts-s0-student-0-1-0-1", "predictions.parquet", constant)
    rewrite(writer.root / "runs" / "facts-s0-sup-0-0", "predictions.parquet", constant)
    line = find(sentences(writer.root), "one class only")
    assert "1 supervisor (rung0) and 1 of 2 students (naive)." in line


def test_two_seeds_are_told_to_say_nothing_of_seeds_and_bounds_stay_in_range(writer, small_world):
    writer.world(small_world(seeds=2, n_test=60, supervisor=(0.9, 0.9, 0.9), ceiling=(0.97, 0.97, 0.97), seed_sd=0.9))
    estimates = analysis.estimate(load_results(writer.root), analysis.Options(draws=200))
    assert estimates.cut
    for frame, names in (
        (estimates.ladder, ("supervisor_acc", "ceiling_acc")),
        (estimates.pairs, ("weak_acc", "student_acc", "ceiling_acc", "agreement", "agreement_when_weak_wrong")),
    ):
        for name in names:
            bounds = [v for bound in ("_low", "_high") for v in frame[name + bound] if v is not None]
            assert all(0 <= v <= 1 for v in bounds), name
            assert 1.0 in bounds or name == "agreement_when_weak_wrong"
    assert all(-1 <= v <= 1 for v in [*estimates.pairs["gap_low"], *estimates.pairs["gap_high"]])
    assert "Two seeds say next to nothing" in find(sentences(writer.root), "scored on")


@pytest.mark.parametrize(("form", "noun"), [("classify", "text"), ("compare", "pair")])
def test_cut_texts_are_counted_by_task(writer, small_world, form, noun):
    writer.world(small_world(rungs=2, seeds=1, methods=("naive",), form=form))
    assert not any("max_length" in line for line in sentences(writer.root))

    def add(**values):
        return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values))

    for name, cut in (("sup-0-0", 5), ("ceil-1-0", 17)):
        run = writer.root / "runs" / f"facts-s0-{name}"
        rewrite(run, "metrics.json", add(truncated=cut))
        rewrite(run, "run.json", add(settings={"max_length": 8}))
    rewrite(writer.root / "runs" / "facts-s0-student-0-1-0-0", "metrics.json", add(truncated=0))
    line = find(sentences(writer.root), "were cut")
    assert line == (
        f"Task facts: {noun}s longer than max_length (8 tokens) were cut, 5 to 17 {noun}s in each of 2 of 2 runs."
    )


def test_settings_of_one_task_are_told_apart_in_words(writer, small_world):
    for settings, rate in (("s0", 0.001), ("s1", 0.01)):
        world = small_world(rungs=2, seeds=1, methods=("naive",), settings=settings)
        writer.world(world, sweep=settings)
        for name in ("sup-0-0", "ceil-1-0", "student-0-1-0-0"):
            values = {"settings": {"epochs": 2, "learning_rate": rate}}
            rewrite(
                writer.root / "runs" / f"facts-{settings}-{name}",
                "run.json",
                lambda path, v=values: path.write_text(json.dumps(json.loads(path.read_text()) | v)),
            )
    lines = sentences(writer.root)
    assert "facts (classify), learning_rate 0.001 (settings s0):" in lines
    assert "facts (classify), learning_rate 0.01 (settings s1):" in lines


def test_a_single_pair_is_told_in_the_singular(writer, small_world):
    writer.world(small_world(rungs=2, seeds=3, supervisor=(0.6, 0.6), ceiling=(0.9, 0.9)))
    lines = sentences(writer.root)
    assert "over the only pair" in find(lines, "confidence(max_weight=0.75) minus naive")
    assert not any("all 1 " in line or "of 1 " in line for line in lines)


def test_a_grid_without_any_gap_has_no_pgr(writer, small_world):
    writer.world(small_world(supervisor=(0.9, 0.9, 0.9), ceiling=(0.6, 0.6, 0.6)))
    lines = sentences(writer.root)
    assert "none of 3 combinations has a gap" in find(lines, "naive, confidence(max_weight=0.75): ")
    assert not any("mean PGR" in line for line in lines)


def test_mean_accuracies_have_no_pgr_where_the_mean_gap_is_not_above_zero(writer, small_world):
    # one pair has a gap, two have it the other way round
    world = small_world(supervisor=(0.6, 0.9, 0.9), ceiling=(0.6, 0.5, 0.75), methods=("naive",), seeds=3, n_test=1200)
    writer.world(world)
    estimates = analysis.estimate(load_results(writer.root), analysis.Options(draws=200))
    by = {row["statistic"]: row for row in estimates.methods.to_dicts()}
    assert by["mean"]["pgr"] is not None
    assert by["of_means"]["pgr"] is by["of_means"]["pgr_low"] is None
    assert "The mean gap over all 3 pairs cannot be told from zero" in find(sentences(writer.root), "naive: mean PGR")


def test_a_shrunk_micro_batch_is_mentioned_with_its_run(writer, small_world):
    writer.world(small_world(rungs=2, seeds=1))
    run = writer.root / "runs" / "facts-s0-ceil-1-0"
    rewrite(
        run,
        "metrics.json",
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"micro_batch_shrunk": True})),
    )
    assert "1 run ran out of memory" in find(sentences(writer.root), "facts-s0-ceil-1-0")


def test_an_empty_storage_is_told_in_one_sentence(tmp_path):
    (line,) = sentences(tmp_path)
    assert "holds no finished runs yet" in line
