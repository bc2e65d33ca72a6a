"""The page about a search: whole, self-contained, and valid also where there is little to say."""

import html.parser
import re

import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis import plots, tuning
from analysis.errors import AnalysisError
from analysis.estimates import Options
from analysis.tuning.candidates import best_candidates
from analysis.tuning.report import _with_fresh, report_files
from tests.analysis.tuning_files import SPACE, made_up, study, trial, write_search

OPTIONS = Options(draws=100)
PGRS = {"confidence": 0.2, "tuned-weak": 0.5, "tuned-oracle [oracle]": 0.9}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Collects what a test asks about, and refuses tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.headings, self.ids = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.ids += [attributes["id"]] if "id" in attributes else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture
def without_drawing(monkeypatch):
    """Figures are made but not drawn, which is most of the time of a report."""
    monkeypatch.setattr(plots, "render", lambda figure, kinds=plots.KINDS: dict.fromkeys(kinds, b"<svg/>"))


def laid_out(figure, kinds=plots.KINDS):
    """A figure drawn once, coarsely: three formats of each take most of the time of a report."""
    figure.set_dpi(40)
    FigureCanvasAgg(figure).draw()
    return dict.fromkeys(kinds, b"<svg/>")


def fresh_store(writer, small_world):
    writer.world(
        small_world(methods=tuple(PGRS), pgr=lambda method, weak, strong: PGRS[method], n_test=2000, seed_sd=0.002),
        sweep="fresh",
    )
    tuned = {
        "weak": {"matched": "tuned-weak", "reference": "tuned-weak"},
        "oracle": {"matched": "tuned-oracle [oracle]", "reference": "tuned-oracle [oracle]"},
    }
    return {"sweep": "fresh", "seeds": [0, 1], "default": "confidence", "tuned": tuned, "front": {}}


def pages(storage, **more):
    """(index.html, summary.txt, all files) of the only search."""
    files = report_files(tuning.load(str(storage), options=OPTIONS), **more)
    return files["index.html"].decode(), files["summary.txt"].decode(), files


@pytest.fixture(scope="module")
def whole(tmp_path_factory, store_writer, small_world):
    """The report of two searches with fresh instances, drawn."""
    root = tmp_path_factory.mktemp("report") / "store"
    root.mkdir()
    fresh = fresh_store(store_writer(root), small_world)
    best = made_up(16)[0]["best"]
    weak = made_up(16, minimize_flops=True, front=[best, 0])
    write_search(root, weak, made_up(12, objective="oracle", metric="pgr"), fresh=fresh, space=[SPACE[0], *SPACE[4:]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "render", laid_out)
        return tuning.write_tuning_report(
            str(root), "search", root.parent / "page", spec_text="name: <tune & facts>", options=OPTIONS
        )


def test_the_page_stands_alone_and_its_links_exist(whole):
    text = whole.read_text()
    page = Page(text)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    names = {path.stem for path in (whole.parent / "figures").iterdir()}
    assert names == (
        {"best", "importances", "fresh", "fresh-pairs", "weak-front"}
        | {f"{of}-{kind}" for of in ("weak", "oracle") for kind in ("slices", "contour", "method-chain")}
    )
    assert len(page.sources) == len(names)
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert set(anchors) <= set(page.ids)
    files = [link for link in page.links if not link.startswith("#")]
    assert {"tables/trials.csv", "tables/fresh_pairs.parquet", "figures/weak-front.pdf"} <= set(files)
    assert all((whole.parent / link).stat().st_size for link in files)
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)


def test_the_page_says_what_was_run_and_marks_the_oracle(whole):
    text = whole.read_text()
    for words in (
        "Search tune-facts: confidence tuned",
        "w2s tune facts.yaml",
        "name: &lt;tune &amp; facts&gt;",
        "optuna 5.0",
        "tuned [oracle] minus tuned (weak)",
        "Objective oracle, by pgr [oracle]",
        "journal.log",
        "method.labels is soft",
        "any of rung1; rung2",
    ):
        assert words in text, words
    assert Page(text).headings[:4] == [
        "Tuned against default on fresh instances",
        "How the search went",
        "Objective weak, by agreement",
        "Objective oracle, by pgr [oracle]",
    ]


def test_the_summary_has_every_sentence_of_the_page(whole):
    summary = (whole.parent / "summary.txt").read_text()
    page = re.sub(r"<[^>]*>", "", whole.read_text()).replace("&#39;", "'").replace("&gt;", ">")
    for line in summary.splitlines():
        assert line in page, line


def test_a_gain_is_told_overall_at_the_largest_student_and_against_the_oracle(whole):
    summary = (whole.parent / "summary.txt").read_text()
    assert re.search(r"tuned \(weak\) minus default, paired: accuracy \+\d.* over all 3 pairs", summary)
    assert re.search(r"At the largest student \(rung2; 2 pairs, of which the search used some\)", summary)
    assert re.search(r"At the 2 pairs of the search the difference is .* at the 1 pair that it did not use", summary)
    assert re.search(r"tuned \[oracle\] minus tuned \(weak\): accuracy \+", summary)
    assert re.search(r"Winner's curse, tuned \(weak\): the best of 14 candidates", summary)
    assert "against the reference ceiling, which is also the matched one" in summary


def test_writing_again_replaces_and_gives_the_same_bytes(tmp_path, without_drawing):
    write_search(tmp_path / "store", made_up(6))
    out = tmp_path / "page"
    first = tuning.write_tuning_report(str(tmp_path / "store"), "search", out, options=OPTIONS)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert tuning.write_tuning_report(str(tmp_path / "store"), "search", out, options=OPTIONS) == first
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(AnalysisError, match="holds files that are not a report of ours"):
        tuning.write_tuning_report(str(tmp_path / "store"), "search", tmp_path / "mine", options=OPTIONS)


def test_a_search_that_has_not_begun_says_so(tmp_path, without_drawing):
    write_search(tmp_path, study([], ended=""))
    text, summary, files = pages(tmp_path)
    page = Page(text)
    assert page.sources == []
    assert "no candidate has ended yet" in text
    assert "0 candidates yet." in summary
    assert "there is no winner" in summary
    assert "Nothing is known about fresh instances yet: the search has no winner yet" in summary
    assert not any(name.startswith("figures/") for name in files)


def test_a_search_without_studies_is_a_valid_page(tmp_path, without_drawing):
    write_search(tmp_path)
    text, summary, files = pages(tmp_path)
    assert Page(text).sources == []
    assert "Method confidence" in summary
    assert pl.read_csv(files["tables/trials.csv"]).is_empty()


def test_only_failures_are_told_with_their_reason(tmp_path, without_drawing):
    rows = [trial(n, "failed", None, {"method.max_weight": 0.1 * n}, reason="out of memory") for n in range(3)]
    write_search(tmp_path, study(rows))
    text, summary, _ = pages(tmp_path)
    assert len(Page(text).sources) == 1  # when they failed
    assert "3 candidates: 3 failed." in summary
    assert "Why candidates failed: out of memory." in summary


def test_one_candidate_and_one_parameter(tmp_path, without_drawing):
    rows = [trial(0, "complete", 0.8, {"method.max_weight": 0.5})]
    entry = study(rows, [(0, 0, 0.8)], best=0, default=0, importances_note="one candidate tells nothing")
    write_search(tmp_path, entry, space=SPACE[:1])
    text, summary, files = pages(tmp_path)
    assert {name.split("/")[1] for name in files if name.endswith(".png")} == {"best.png", "weak-slices.png"}
    assert "That is the default configuration: the search found nothing better." in summary
    assert "Importances of parameters: one candidate tells nothing." in summary
    assert "1 candidate: 1 complete." in summary
    Page(text)


def test_a_winner_without_the_default_in_the_space(tmp_path, without_drawing):
    write_search(tmp_path, study([trial(0, "complete", 0.8, {"method.max_weight": 0.5})], best=0))
    _, summary, _ = pages(tmp_path)
    assert "The default configuration is not among the candidates" in summary


SHARED = "no FLOPs of new runs, because all were made by the other search"
STORED = "no FLOPs of new runs, because all were in the storage already"


def without_new_runs(*weights, n=4, state="complete", **more):
    """A study that made no run."""
    rows = [trial(i, state, 0.8, {"method.max_weight": w}, new_work=0.0, n_instances=n) for i, w in enumerate(weights)]
    return study(rows, best=0, spent={"trials": len(rows), "work": 0.0, "seconds": 1.0}, **more)


def test_a_search_without_new_runs_has_no_flops_to_show(tmp_path, without_drawing):
    write_search(tmp_path, without_new_runs(0.5))
    _, summary, _ = pages(tmp_path)
    assert f"Spent: {STORED}, 1 s of wall clock." in summary
    assert "the other search" not in summary
    ax = tuning.load(str(tmp_path)).plot("best", by="flops")
    assert [text.get_text() for text in ax.texts] == ["no new runs: all were\nthere already"]


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (without_new_runs(0.5, 0.7, objective="oracle"), SHARED),
        (without_new_runs(0.5, 0.6, objective="oracle"), STORED),  # one that the other search did not have
        (without_new_runs(0.5, n=6, objective="oracle"), STORED),  # on more instances than there
        (without_new_runs(0.5, state="failed", objective="oracle"), "Spent: no FLOPs of new runs, 1 s"),
    ],
)
def test_runs_are_said_to_be_shared_with_the_other_search_where_they_are(tmp_path, without_drawing, own, told):
    rows = [trial(i, "complete", 0.8, {"method.max_weight": w}) for i, w in enumerate((0.7, 0.5))]
    write_search(tmp_path, study(rows, best=0), own)
    _, summary, _ = pages(tmp_path)
    assert told in summary


def test_candidates_without_runs_share_nothing(tmp_path, without_drawing):
    write_search(tmp_path, made_up(6, candidate_runs=0))
    _, summary, _ = pages(tmp_path)
    assert "candidate run" not in summary


@pytest.mark.parametrize(
    ("gap", "noisy"),
    [
        ({"weak": 0.70, "ceiling": 0.74, "n_examples": 800}, True),  # standard error 0.025
        ({"weak": 0.70, "ceiling": 0.749, "n_examples": 800}, True),
        ({"weak": 0.70, "ceiling": 0.751, "n_examples": 800}, False),
        ({"weak": 0.74, "ceiling": 0.70, "n_examples": 800}, True),
        ({"weak": 0.70, "ceiling": None, "n_examples": 800}, False),
        ({}, False),
        (None, False),
    ],
)
def test_pgr_over_a_gap_that_may_be_noise_is_called_unreliable(tmp_path, without_drawing, gap, noisy):
    write_search(tmp_path, made_up(6, objective="oracle", metric="pgr", gap=gap))
    _, summary, _ = pages(tmp_path)
    assert ("PGR on validation is unreliable here" in summary) == noisy
    assert ("twice its standard error (0.025 with 800 examples)" in summary) == noisy
    write_search(tmp_path, made_up(6, metric="accuracy", gap=gap))  # which has no gap to divide by
    _, summary, _ = pages(tmp_path)
    assert "unreliable" not in summary


def test_the_meaning_of_the_metric_is_printed_as_it_is(tmp_path, without_drawing):
    meaning = "agreement with supervisors of all other rungs, larger ones too: not only the pair's own"
    write_search(tmp_path, made_up(6, metric="cross_agreement", meaning=meaning))
    text, summary, _ = pages(tmp_path)
    assert f"cross_agreement ({meaning});" in summary
    assert f"cross_agreement ({meaning.replace(chr(39), '&#39;')});" in text


def test_names_of_the_manifest_stay_in_the_tables(tmp_path, store_writer, small_world, without_drawing):
    fresh = fresh_store(store_writer(tmp_path), small_world)
    path = tmp_path / "sweeps" / "fresh" / "manifest.parquet"
    long = "tuned (weak) d02b1694#9"
    names = pl.col("method").str.replace("tuned-weak", long, literal=True)
    pl.read_parquet(path).with_columns(method=names).write_parquet(path)
    fresh["tuned"]["weak"] = {"matched": long, "reference": long}
    fresh["not_applicable"] = [f"{long} on facts: 1 pair left out"]
    write_search(tmp_path, made_up(12), fresh=fresh)
    text, summary, files = pages(tmp_path)
    assert "tuned (weak) minus default, paired" in summary
    assert "instances: tuned (weak) on facts: 1 pair left out" in summary
    assert "d02b1694" not in text + summary
    assert long in files["tables/fresh_methods.csv"].decode()


def test_searches_that_both_chose_the_default_say_so(tmp_path, without_drawing):
    write_search(tmp_path, made_up(8, best=0), made_up(8, objective="oracle", metric="pgr", best=0))
    _, summary, _ = pages(tmp_path)
    assert "Both searches chose the default configuration" in summary


def test_both_searches_with_one_winner_say_so(tmp_path, store_writer, small_world, without_drawing):
    fresh = fresh_store(store_writer(tmp_path), small_world)
    fresh["tuned"]["oracle"] = fresh["tuned"]["weak"]
    write_search(tmp_path, made_up(8, best=4), made_up(8, objective="oracle", metric="pgr", best=4), fresh=fresh)
    _, summary, _ = pages(tmp_path)
    assert "Both searches chose the same configuration" in summary
    assert "The oracle helps by nothing: both searches have the same winner." in summary


def test_what_cannot_be_read_stands_before_the_numbers(tmp_path, without_drawing):
    (tmp_path / "runs").mkdir()
    (tmp_path / "sweeps").mkdir()
    write_search(tmp_path, made_up(6), fresh={"sweep": "gone", "seeds": [3], "default": "confidence", "tuned": {}})
    text, summary, _ = pages(tmp_path)
    assert text.index("Before you trust the numbers") < text.index("has no sweep &#39;gone&#39;")
    assert "The fresh instances cannot be read" in summary


def test_names_from_outside_are_escaped(tmp_path, without_drawing):
    space = [{"name": "method.labels", "kind": "choice", "values": ["<b>", "hard"]}]
    rows = [trial(0, "complete", 0.8, {"method.labels": "<b>"}), trial(1, "failed", None, {}, reason="<script>x")]
    write_search(tmp_path, study(rows, best=0), space=space)
    text, _, _ = pages(tmp_path, command="w2s tune <a>")
    assert "<b>" not in text
    assert "<script>x" not in text
    assert "w2s tune &lt;a&gt;" in text
    Page(text)


def test_the_best_table_has_fresh_values_of_those_that_were_evaluated(tmp_path, store_writer, small_world):
    fresh = fresh_store(store_writer(tmp_path), small_world)
    write_search(tmp_path, made_up(16), fresh=fresh)
    search = tuning.load(str(tmp_path), options=OPTIONS)
    own = search.files.studies[0]
    frame = _with_fresh(best_candidates(own, search.files.parameters), own, search.fresh)
    known = frame.filter(pl.col("fresh_accuracy").is_not_null())
    assert set(known["number"]) == {own.best, 0} & set(frame["number"])
    assert frame["note"][0] == "winner"
    accuracy = search.fresh.methods.filter(pl.col("contender") == "tuned (weak)")["accuracy"][0]
    assert frame["fresh_accuracy"][0] == pytest.approx(accuracy, abs=1e-9)
