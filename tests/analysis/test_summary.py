import json

import analysis


def sentences(store):
    results = analysis.load(store)
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


def test_missing_runs_are_counted_once_each_by_kind(writer, small_world):
    writer.world(small_world())
    (writer.root / "runs" / "facts-s0-sup-0-0" / "DONE").unlink()
    lines = sentences(writer.root)
    assert lines[0] == "8 of 12 pairs (weak, strong, method, seed) are complete."
    assert lines[1] == "Missing: 1 supervisor not finished."


def test_a_single_seed_is_told_to_cover_examples_only(writer, small_world):
    writer.world(small_world(seeds=1, rungs=2))
    assert "one seed intervals cover test examples only" in find(sentences(writer.root), "scored on")


def test_ground_truth_that_falls_is_not_called_rising(writer, small_world):
    writer.world(small_world(supervisor=(0.6, 0.7, 0.7), ceiling=(0.6, 0.9, 0.7), seed_sd=0.0))
    assert "not from rung1 to rung2" in find(sentences(writer.root), "Ground-truth accuracy")


def test_a_grid_without_any_gap_has_no_pgr(writer, small_world):
    writer.world(small_world(supervisor=(0.9, 0.9, 0.9), ceiling=(0.6, 0.6, 0.6)))
    lines = sentences(writer.root)
    assert "none of 3 combinations has a gap" in find(lines, "naive")
    assert not any("mean PGR" in line for line in lines)


def test_a_shrunk_micro_batch_is_mentioned_with_its_run(writer, small_world):
    import hashlib

    writer.world(small_world(rungs=2, seeds=1))
    run = writer.root / "runs" / "facts-s0-ceil-1-0"
    (attempt,) = (run / "attempts").iterdir()
    metrics = json.loads((attempt / "metrics.json").read_text()) | {"micro_batch_shrunk": True}
    (attempt / "metrics.json").write_text(json.dumps(metrics))
    done = json.loads((run / "DONE").read_text())
    done["files"]["metrics.json"]["sha256"] = hashlib.sha256((attempt / "metrics.json").read_bytes()).hexdigest()
    (run / "DONE").write_text(json.dumps(done))
    assert "1 runs ran out of memory" in find(sentences(writer.root), "facts-s0-ceil-1-0")


def test_an_empty_storage_is_told_in_one_sentence(tmp_path):
    (line,) = sentences(tmp_path)
    assert "holds no finished runs yet" in line
