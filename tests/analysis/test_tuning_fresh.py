"""Tuned against default on fresh instances: numbers are those of the estimates, and follow from predictions."""

import numpy as np
import polars as pl
import pytest

from analysis import tuning
from analysis.estimates import Options, compare
from analysis.metrics import performance_gap_recovered
from analysis.tuning import fresh as evaluation
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


def renamed(root, label, students_of=None, sweep="fresh"):
    """Gives a method of the manifest another name, and the students of another one if asked."""
    path = root / "sweeps" / sweep / "manifest.parquet"
    manifest = pl.read_parquet(path)
    rows = manifest.filter(pl.col("method") == students_of).with_columns(method=pl.lit(label))
    pl.concat([manifest.filter(pl.col("method") != label), rows]).write_parquet(path)


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
    left_out = "left out of the fresh instances: tuned (weak) on facts: 2 pairs left out, no rung between"
    assert left_out in fresh.problems  # not by its name in the manifest
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


def test_winners_are_one_configuration_when_their_students_are_the_same_runs(tmp_path, store_writer, small_world):
    store_writer(tmp_path).world(fresh_world(small_world), sweep="fresh")
    weak, oracle = "tuned (weak) d02b1694#4", "tuned (oracle) d02b1694#3 [oracle]"
    block = fresh_block(winners={"weak": 4, "oracle": 3})
    block["tuned"] = {
        of: dict.fromkeys(("matched", "reference"), name) for of, name in (("weak", weak), ("oracle", oracle))
    }
    studies = made_up(6), made_up(6, objective="oracle", metric="pgr")

    def told(*students):
        for label, students_of in zip((weak, oracle), students, strict=True):
            renamed(tmp_path, label, students_of)
        write_search(tmp_path, *studies, fresh=block)
        search = tuning.load(str(tmp_path), options=OPTIONS)
        return "\n".join(fresh_lines(search.files, search.fresh))

    text = told("tuned-weak", "tuned-weak")
    assert "The oracle helps by nothing: both searches have the same winner." in text
    assert "is the default configuration" not in text
    text = told("confidence", "tuned-oracle [oracle]")
    assert "tuned (weak) (candidate 4) is the default configuration, so they do not differ." in text
    assert "tuned (weak) minus default" not in text
    assert "tuned [oracle] minus default, paired" in text
    assert "The oracle helps" not in text
    assert "its gain over the default" in text.split("Winner's curse, tuned [oracle]")[1]
    assert "its gain over the default" not in text.split("Winner's curse, tuned (weak)")[1].splitlines()[0]
    text = told("confidence", "confidence")
    assert "both searches have the same winner, the default configuration." in text
    assert "d02b1694" not in text


def with_matched_naive(tmp_path, store_writer, small_world):
    """Winners by weak labels change finetuning settings; naive was trained with the same ones."""
    pgrs = PGRS | {"naive": 0.0, "naive, finetuned as tuned-weak": 0.5}
    world = fresh_world(small_world, methods=tuple(pgrs), pgr=lambda method, weak, strong: pgrs[method], n_test=2000)
    store_writer(tmp_path).world(world, sweep="fresh")
    with_matched(tmp_path, "tuned-weak")
    block = fresh_block(matched=("weak",), reference={"weak": "naive, finetuned as tuned-weak"})
    write_search(tmp_path, made_up(6), fresh=block)
    return block


def test_what_the_method_adds_is_told_at_equal_finetuning_settings(tmp_path, store_writer, small_world):
    with_matched_naive(tmp_path, store_writer, small_world)
    search = tuning.load(str(tmp_path), options=OPTIONS)
    fresh = search.fresh
    clean = "naive, finetuned as tuned (weak)"
    row = row_of(fresh.differences, reference=clean, pairs="all")
    pairs = fresh.results.pairs
    means = [
        pairs.filter(pl.col("method") == method)["student_acc"].mean()
        for method in ("tuned-weak", "naive, finetuned as tuned-weak")
    ]
    assert row["contender"] == "tuned (weak)"
    assert row["accuracy_difference"] == pytest.approx(means[0] - means[1])
    assert row["pgr_difference"] is not None
    assert row_of(fresh.methods, contender=clean)["ceiling"] == "reference"
    lines = fresh_lines(search.files, fresh)
    at = next(i for i, line in enumerate(lines) if "the clean comparison" in line)
    assert lines[at].startswith("Minus naive with the same finetuning settings, accuracy")
    assert f": tuned (weak) {100 * row['accuracy_difference']:+.2f} [" in lines[at]
    plain = lines[at + 1].split("; ")
    assert plain[0].startswith("Minus naive finetuning on the same weak labels, accuracy: default ")
    assert [part.rstrip(".").endswith("(other finetuning settings, too)") for part in plain] == [False, True, False]
    assert fresh.reference_in_words("tuned (weak)", "naive") == "naive (other finetuning settings, too)"
    assert fresh.reference_in_words("tuned [oracle]", "naive") == "naive"
    assert fresh.reference_in_words("tuned (weak)", "default") == "default"
    search.plot("fresh")
    assert all(not line.startswith(clean) for line in lines)  # it is there for the comparison only


def test_pgrs_against_different_ceilings_are_not_subtracted(tmp_path, store_writer, small_world):
    with_matched_naive(tmp_path, store_writer, small_world)
    path = tmp_path / "sweeps" / "fresh" / "manifest.parquet"
    other = pl.when(pl.col("method").str.starts_with("naive, ")).then(pl.lit("own ceiling")).otherwise("baseline")
    pl.read_parquet(path).with_columns(baseline=other).write_parquet(path)
    fresh = tuning.load(str(tmp_path), options=OPTIONS).fresh
    clean = "naive, finetuned as tuned (weak)"
    row = row_of(fresh.differences, reference=clean, pairs="all")
    assert row["accuracy_difference"] > 0
    assert (row["pgr_difference"], row["mean_pgr_difference"]) == (None, None)
    assert row_of(fresh.methods, contender=clean)["ceiling"] == "matched"


@pytest.mark.parametrize("label", [None, "naive", "tuned-weak"])
def test_no_clean_comparison_where_there_is_none_to_make(tmp_path, label):
    write_search(tmp_path, made_up(6), fresh=fresh_block(reference={"weak": label}))
    names = [contender.name for contender in contenders_of(read_tuning(str(tmp_path)))]
    assert names == ["default", "tuned (weak)", "tuned [oracle]"]


def test_values_of_the_winner_stay_within_what_a_share_can_be(tmp_path, store_writer, small_world, monkeypatch):
    world = fresh_world(small_world, ceiling=(0.98, 0.99, 0.995), pgr=lambda *_: 0.99, seed_sd=0.25)
    store_writer(tmp_path).world(world, sweep="fresh")
    write_search(tmp_path, made_up(6, metric="accuracy"), fresh=fresh_block())
    cut = row_of(tuning.load(str(tmp_path), options=OPTIONS).fresh.search, objective="weak")
    monkeypatch.setattr(evaluation, "_METRIC_LIMITS", {})
    uncut = row_of(tuning.load(str(tmp_path), options=OPTIONS).fresh.search, objective="weak")
    assert uncut["fresh_tuned_high"] > 1
    assert cut["fresh_tuned_high"] == 1
    assert cut["fresh_tuned_low"] == uncut["fresh_tuned_low"]


def test_the_pgr_of_a_search_over_tasks_is_that_of_accuracies_averaged_over_them(tmp_path, store_writer, small_world):
    writer = store_writer(tmp_path)
    gaps = {"facts": (0.7, 0.8, 0.9), "other": (0.85, 0.9, 0.95)}
    for seed, (task, ceiling) in enumerate(gaps.items()):
        pgr = {"facts": 0.2, "other": 0.9}[task]
        writer.world(
            fresh_world(small_world, task=task, ceiling=ceiling, pgr=lambda *_, p=pgr: p), sweep=task, random_seed=seed
        )
    frames = [pl.read_parquet(tmp_path / "sweeps" / task / "manifest.parquet") for task in gaps]
    (tmp_path / "sweeps" / "fresh").mkdir()
    pl.concat(frames).write_parquet(tmp_path / "sweeps" / "fresh" / "manifest.parquet")
    instances = [{"task": t, "weak": "rung0", "strong": "rung2", "seed": 9} for t in gaps]
    write_search(tmp_path, made_up(6, objective="oracle", metric="pgr"), fresh=fresh_block(), instances=instances)
    fresh = tuning.load(str(tmp_path), options=OPTIONS).fresh
    row = row_of(fresh.search, objective="oracle")
    own = fresh.results.pairs.filter(
        (pl.col("method") == "tuned-oracle [oracle]") & (pl.col("weak") == "rung0") & (pl.col("strong") == "rung2")
    )
    assert sorted(own["task"].unique()) == ["facts", "other"]  # equally many pairs and seeds of each
    expected = performance_gap_recovered(*(own[f"{who}_acc"].mean() for who in ("weak", "student", "ceiling")))
    assert row["fresh_tuned"] == pytest.approx(expected)


def lines_of(tmp_path, store_writer, small_world, **more):
    """Sentences about fresh instances of a search whose winner is candidate 4."""
    if not (tmp_path / "sweeps").exists():
        store_writer(tmp_path).world(fresh_world(small_world), sweep="fresh")
    write_search(tmp_path, made_up(6, best=4), fresh=fresh_block(**more))
    search = tuning.load(str(tmp_path), options=OPTIONS)
    return "\n".join(fresh_lines(search.files, search.fresh)), search.fresh


def test_fresh_instances_of_an_earlier_session_are_of_its_own_winner(tmp_path, store_writer, small_world):
    world = (tmp_path, store_writer, small_world)
    text, fresh = lines_of(*world, winners={"weak": 3}, stale=True)
    assert (
        "These fresh instances are of an earlier session; its winners are not the present best: tuned (weak) is" in text
    )
    assert "tuned (weak) is candidate 3 there, while the winner is candidate 4 now" in text
    assert fresh.value_of("weak", 3, 0)["contender"] == "tuned (weak)"
    assert fresh.value_of("weak", 4, 0) is None
    files = read_tuning(str(tmp_path))
    assert row_of(fresh.search, objective="weak")["search_tuned"] == files.studies[0].candidate(3)["value"]
    text, fresh = lines_of(*world, stale=True)  # of a summary without numbers
    assert "tuned (weak) is a winner of that time there, while the winner is candidate 4 now" in text
    assert fresh.value_of("weak", 4, 0) is None
    text, _ = lines_of(*world, winners={"weak": 3})
    assert "not the present best" in text
    for same in ({"winners": {"weak": 4, "oracle": 2}}, {}):
        text, fresh = lines_of(*world, **same)
        assert "earlier session" not in text
        assert fresh.value_of("weak", 4, 0)["contender"] == "tuned (weak)"


def test_earlier_looks_at_the_same_instances_are_counted(tmp_path, store_writer, small_world):
    def told(**more):
        text, _ = lines_of(tmp_path, store_writer, small_world, winners={"weak": 4, "oracle": 2}, **more)
        return [line for line in text.splitlines() if "looked at" in line]

    assert told() == told(looked_before=[]) == told(looked_before=[{"weak": 4}, {}, None]) == []
    looked = [{"weak": 10, "oracle": 2}, {"weak": 7, "oracle": 3}, {"weak": 10, "oracle": None}]
    assert told(looked_before=looked) == [
        "These fresh instances have been looked at for 3 other winners before (weak: candidates 7 and 10; oracle:"
        " candidate 3); a choice among them is no longer blind."
    ]
    assert "for 1 other winner before (weak: candidate 7)" in told(looked_before=[{"weak": 7}])[0]
