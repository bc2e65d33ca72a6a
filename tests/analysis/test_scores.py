"""Scores beside accuracy that a task asks for, other accepted answers, and accuracy by tag, read from a store."""

import numpy as np
import polars as pl
import pytest

import analysis
from analysis import metrics, plots
from analysis.report import report_files
from analysis.scores import score_findings
from analysis.tags import families, in_order, is_numeric, numeric_rows, tag_findings

OPTIONS = analysis.Options(draws=200)
PAIR = ["method", "weak", "strong"]


def ask(root, wanted: str, unsafe_label: int | None) -> None:
    """Put into the manifest what the task asks for, as a sweep does."""
    path = root / "sweeps" / "sweep" / "manifest.parquet"
    said = (pl.lit(wanted).alias("metrics"), pl.lit(unsafe_label, pl.Int8).alias("unsafe_label"))
    pl.read_parquet(path).with_columns(*said).write_parquet(path)


@pytest.fixture(scope="module")
def safety(store_writer, small_world, tmp_path_factory):
    root = tmp_path_factory.mktemp("safety")
    store_writer(root).world(small_world(supervisor=(0.65, 0.75, 0.8), ceiling=(0.65, 0.75, 0.95)))
    ask(root, "macro_f1,unsafe_rate,balanced_accuracy", 0)
    return analysis.load(str(root), options=OPTIONS)


@pytest.fixture(scope="module")
def scores(safety):
    return safety.scores


def test_a_score_is_the_mean_over_seeds_of_each_runs_own(safety, scores):
    test = safety.results.tests["facts"]
    row = scores.filter(weak="rung0", strong="rung2", metric="macro_f1", method="naive").row(0, named=True)
    for column, run in (("weak_score", "sup-0"), ("ceiling_score", "ceil-2"), ("student_score", "student-0-2-0")):
        views = [f"facts-s0-{run}-{seed}" for seed in (0, 1)]
        each = [metrics.macro_f1(metrics.confusion(test.gold, p)) for p in test.predictions(views).T]
        assert row[column] == pytest.approx(np.mean(each))
        assert row[f"{column}_low"] < row[column] < row[f"{column}_high"]


def test_accuracy_beside_the_scores_is_that_of_the_pairs_with_the_same_draws(safety, scores):
    accuracy = scores.filter(pl.col("metric") == "accuracy", pl.col("weak").is_not_null())
    both = accuracy.join(safety.pairs(), on=PAIR, validate="1:1")
    assert both.height == safety.pairs().height == 6
    assert (both["has_gap"] == both["has_gap_right"]).all()
    for bound in ("", "_low", "_high"):
        for role in ("weak", "student", "ceiling"):
            # float32 in one way of resampling, whole numbers in the other
            np.testing.assert_allclose(both[f"{role}_score{bound}"], both[f"{role}_acc{bound}"], atol=1e-5)
        np.testing.assert_allclose(both[f"gap{bound}"], both[f"gap{bound}_right"], atol=1e-5)
        one, other = (both[name].fill_null(np.nan) for name in (f"pgr{bound}", f"pgr{bound}_right"))
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_of_a_score_whose_classes_are_equally_frequent_balanced_accuracy_is_accuracy(scores):
    values = scores.filter(pl.col("weak").is_not_null()).pivot("metric", index=PAIR, values="student_score")
    np.testing.assert_allclose(values["balanced_accuracy"], values["accuracy"])


def test_where_lower_is_better_a_gap_means_that_the_ceiling_is_lower(scores):
    rates = scores.filter(metric="unsafe_rate")
    assert not rates["higher_is_better"].any()
    assert set(rates["n_scored"]) == {200}
    assert set(rates["n_test"]) == {400}
    with_gap = rates.filter("has_gap")
    assert not with_gap.is_empty()
    assert (with_gap["gap_high"] < 0).all()
    recovered = (with_gap["weak_score"] - with_gap["student_score"]) / (
        with_gap["weak_score"] - with_gap["ceiling_score"]
    )
    np.testing.assert_allclose(with_gap["pgr"], recovered)
    without = scores.filter(~pl.col("has_gap"))
    assert without["pgr"].null_count() == without.height


def test_over_the_grid_are_means_over_all_pairs(scores):
    naive = scores.filter(method="naive", metric="macro_f1")
    over, each = naive.filter(pl.col("weak").is_null()).row(0, named=True), naive.filter(pl.col("weak").is_not_null())
    assert over["n_pairs"] == each.height == 3
    for column in ("weak_score", "student_score", "ceiling_score", "gap"):
        assert over[column] == pytest.approx(each[column].mean())


def test_the_sentences_say_what_a_score_is_and_its_direction(scores):
    said = score_findings(scores)
    assert len(said) == 3
    assert said[1].startswith(
        "Unsafe rate (share of the unsafe examples taken for safe; 200 of 400 test examples; lower is better), mean"
        " over all 3 pairs: supervisors 0."
    )
    assert "(naive)" in said[1]
    assert "(confidence(max_weight=0.75))" in said[1]


@pytest.fixture
def without_drawing(monkeypatch):
    monkeypatch.setattr(plots, "render", lambda figure, kinds=plots.KINDS: dict.fromkeys(kinds, b"<svg/>"))


def test_the_report_has_the_scores_as_tables_and_sentences(safety, without_drawing):
    files = report_files(safety.results, options=OPTIONS)
    page, said = files["index.html"].decode(), files["summary.txt"].decode()
    assert "Beside accuracy" in page
    assert ">unsafe rate</td>" in page
    assert "Unsafe rate (share" in page
    assert "Unsafe rate (share" in said
    assert "Accuracy by tag" not in page
    assert pl.read_csv(files["tables/by_metric.csv"])["metric"].n_unique() == 4
    assert "The same by pair" in page


def test_a_long_table_of_scores_by_pair_is_in_the_file_only(safety, without_drawing, monkeypatch):
    monkeypatch.setattr("analysis.report.SCORE_PAIR_ROWS", 23)
    page = report_files(safety.results, options=OPTIONS)["index.html"].decode()
    assert "The same by pair" not in page
    assert "tables/by_metric.csv has the same by pair, in 24 rows." in page


def test_a_sweep_that_asks_for_nothing_has_no_such_table(writer, small_world, without_drawing):
    writer.world(small_world())  # whose manifest has no such columns, as older ones
    results = analysis.load(str(writer.root), options=OPTIONS)
    assert results.scores.is_empty()
    assert "Beside accuracy" not in report_files(results.results, options=OPTIONS)["index.html"].decode()


def test_a_score_that_is_not_known_or_lacks_its_class_is_named_and_left_out(writer, small_world):
    writer.world(small_world())
    ask(writer.root, "macro_f1,unsafe_rate,elo", None)
    results = analysis.load(str(writer.root)).results
    assert results.asked["facts"].metrics == ("macro_f1",)
    (problem,) = results.problems
    assert "task facts asks for elo, unsafe_rate, which cannot be scored here" in problem


# --- answers in words ------------------------------------------------------------------------------------------------

N, SEEDS = 240, 5
STUDENTS = [f"student-{seed}" for seed in range(SEEDS)]
BANDS = ("rating:800-999", "rating:1000-1199", "rating:1200-1399")


def answers(rng: np.random.Generator, exact: np.ndarray, other: np.ndarray, *, judged: bool = True) -> pl.DataFrame:
    """Predictions of a task whose answer is "a"; `other` of those that are not exact are acceptable."""
    right = rng.random(N) < exact
    acceptable = ~right & (rng.random(N) < other)
    return pl.DataFrame(
        {
            "example_id": [f"{i:04x}" for i in range(N)],
            "split": ["test"] * N,
            "step": np.full(N, 10),
            "gold": [" a"] * N,
            "prediction": np.where(right, " a", np.where(acceptable, " b", " c")).tolist(),
            "correct": right,
            "p": pl.Series([None] * N, dtype=pl.Float32),
            "log_prob": pl.Series([-1.0] * N, dtype=pl.Float32),
            "accepted": pl.Series((right | acceptable).tolist() if judged else [None] * N, dtype=pl.Boolean),
        }
    )


@pytest.fixture(scope="module")
def chess(store_writer, tmp_path_factory):
    """A weak and a strong model and two methods; one's supervisor is a vote, whose answers nobody judged."""
    root = tmp_path_factory.mktemp("chess")
    writer, rng = store_writer(root), np.random.default_rng(0)
    band = np.arange(N) % 3
    rows = []
    for seed in range(SEEDS):
        of = {"task": "mates", "form": "generate", "seed": seed, "settings_id": "s0"}
        size = {"n_params": 1000, "n_matmul": 900}
        for name, model, exact, judged in (
            ("weak", "small", 0.5 - 0.2 * band, True),
            ("vote", "small", 0.5 - 0.2 * band, False),
            ("ceiling", "large", 0.9 - 0.1 * band, True),
            ("student", "large", 0.6 - 0.1 * band, True),
            ("student-vote", "large", 0.6 - 0.1 * band, True),
        ):
            kind = "transfer" if name.startswith("student") else "ground_truth"
            parents = {"supervisor": f"weak-{seed}"} if kind == "transfer" else {}
            own = {"kind": kind, "model": model, "train_part": "transfer/0", "parents": parents}
            scale = {key: value * (10 if model == "large" else 1) for key, value in size.items()}
            writer.run(f"{name}-{seed}", of | own, scale, answers(rng, exact, np.full(N, 0.5), judged=judged))
        pair = {"task": "mates", "form": "generate", "seed": seed, "weak": "small", "strong": "large"}
        pair |= {"settings": "s0", "part": "transfer/0", "ceiling_id": f"ceiling-{seed}"}
        rows.append(pair | {"method": "naive", "supervisor_id": f"weak-{seed}", "student_id": f"student-{seed}"})
        rows[-1]["baseline"] = ""
        vote = {"method": "vote", "supervisor_id": f"vote-{seed}", "student_id": f"student-vote-{seed}"}
        rows.append(pair | vote | {"baseline": "vote"})
    writer.manifest("sweep", rows)
    folder = root / "sweeps" / "sweep" / "examples"
    folder.mkdir()
    tags = [[BANDS[b], *(["theme:rare"] if i < 5 else []), "theme:mate"] for i, b in enumerate(band)]
    ids = [f"{i:04x}" for i in range(N)]
    pl.DataFrame({"example_id": ids, "tags": tags}).write_parquet(folder / "mates.parquet")
    return analysis.load(str(root), options=OPTIONS)


def test_other_accepted_answers_are_counted_beside_exact_match(chess):
    scores = chess.scores.filter(pl.col("weak").is_not_null())
    assert scores["metric"].unique(maintain_order=True).to_list() == ["accuracy", "accepted"]
    runs = chess.runs.group_by(pl.col("run_id").str.replace(r"-\d$", "")).agg(pl.col("accuracy", "accepted").mean())
    of = {row["run_id"]: row for row in runs.to_dicts()}
    exact, accepted = (
        scores.filter(method="naive", metric=name).row(0, named=True) for name in ("accuracy", "accepted")
    )
    for role, run in (("weak", "weak"), ("student", "student"), ("ceiling", "ceiling")):
        assert exact[f"{role}_score"] == pytest.approx(of[run]["accuracy"])
        assert accepted[f"{role}_score"] == pytest.approx(of[run]["accepted"])
        assert accepted[f"{role}_score"] > exact[f"{role}_score"] + 0.02


def test_answers_that_nobody_judged_have_no_accepted_share(chess):
    scores = chess.scores
    for row in scores.filter(method="vote", metric="accepted").to_dicts():
        assert row["weak_score"] is None
        assert row["has_gap"] is None
        assert row["pgr"] is None
        assert row["student_score"] > 0.5
    assert "supervisors 0." in score_findings(scores)[0]
    assert "supervisors not judged" in score_findings(scores.filter(method="vote"))[0]
    fewer = scores.with_columns(n_pairs=pl.when(pl.col("method") == "vote").then(1).otherwise(3))
    assert "(vote, of 1 pair)" in score_findings(fewer)[0]


def test_accuracy_by_tag_is_that_of_its_examples_in_the_order_of_numbers(chess):
    tags = chess.tags
    assert tags["tag"].unique(maintain_order=True).to_list() == [*BANDS, "theme:mate", "theme:rare"]
    test = chess.results.tests["mates"]
    right = test.correct(STUDENTS)
    for band, tag in enumerate(BANDS):
        row = tags.filter(tag=tag, method="naive").row(0, named=True)
        own = np.arange(N) % 3 == band
        assert row["n_test"] == own.sum() == 80
        assert row["student_acc"] == pytest.approx(right[own].mean())
        accepted = [test.accepted[view][own].mean() for view in STUDENTS]
        assert row["student_accepted"] == pytest.approx(np.mean(accepted))
        recovered = (row["student_acc"] - row["weak_acc"]) / (row["ceiling_acc"] - row["weak_acc"])
        assert row["has_gap"]
        assert row["pgr"] == pytest.approx(recovered)
        assert row["pgr_low"] < row["pgr"] < row["pgr_high"]
    vote = tags.filter(method="vote")
    assert vote["weak_accepted"].null_count() == vote.height
    assert vote["student_accepted"].null_count() == 0


def test_all_examples_have_the_interval_that_they_have_as_a_whole(chess):
    everything = chess.tags.filter(tag="theme:mate", method="naive").row(0, named=True)
    whole = chess.pairs(method="naive").row(0, named=True)
    for name in ("weak_acc", "student_acc", "ceiling_acc", "gap", "pgr"):
        for bound in ("", "_low", "_high"):
            assert everything[name + bound] == pytest.approx(whole[name + bound], rel=1e-3), name + bound


def test_rare_tags_are_left_out_of_the_page_and_said(chess, without_drawing):
    files = report_files(chess.results, options=OPTIONS)
    page = files["index.html"].decode()
    assert "1 rarer tag with fewer than 30 test examples is left out here (5 in all)" in page
    assert "By rating (3 tags)" in page
    assert "By theme (1 tag)" in page
    assert ">rare</td>" not in page
    assert ">1000-1199</td>" in page
    assert "Exact match and other accepted answers" in page
    assert "theme:rare" in files["tables/by_tag.csv"].decode()
    assert {"figures/tags.svg", "figures/tags.png"} <= set(files)
    assert "Accuracy by rating, from 800-999 (n=80) to 1200-1399 (n=80)" in files["summary.txt"].decode()


def test_the_figure_of_tags_has_a_line_for_each_role(chess):
    rows = numeric_rows(chess.tags)
    figure = plots.plot_tags(rows, ["naive"], "caption")
    (ax,) = (ax for ax in figure.axes if ax.axison)
    assert [label.get_text().split("\n")[0] for label in ax.get_xticklabels()] == [b.split(":")[1] for b in BANDS]
    drawn = {tuple(np.round(np.asarray(line.get_ydata(), dtype=float), 6)) for line in ax.get_lines()}
    for name in ("weak_acc", "student_acc", "ceiling_acc"):
        assert tuple(np.round(rows.filter(method="naive")[name], 6)) in drawn


def test_families_of_numbers_come_first_and_tags_without_a_family_are_one(chess):
    tags = chess.tags
    assert [family.name for family in families(tags)] == ["rating", "theme"]
    assert is_numeric(["800-999", "7", "10-19", "-1.5"])
    assert not is_numeric(["2", "of 2"])
    wanted = ["plain", "length:2", "length:10", "length:of 2", "theme:mateIn2", "theme:mateIn10"]
    assert sorted(reversed(wanted), key=in_order) == wanted
    assert tag_findings(tags.filter(family="theme")) == []
