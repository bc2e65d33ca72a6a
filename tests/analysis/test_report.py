import html.parser
import re

import polars as pl
import pytest

import analysis
from analysis import plots
from analysis.page import Column, html_table
from analysis.report import report_files
from analysis.results import load as load_results

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Collects what a test asks about, and refuses tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.headings, self.rows = [], [], [], [], 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.rows += tag == "tr"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture
def without_drawing(monkeypatch):
    """Figures are made but not drawn, which is most of the time of a report."""
    monkeypatch.setattr(plots, "render", lambda figure, kinds=plots.KINDS: dict.fromkeys(kinds, b"<svg/>"))


@pytest.fixture(scope="module")
def reference_report(reference_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report"
    options = analysis.Options(draws=200)
    analysis.write_report(reference_store, out, "sweep", command="w2s report facts.yaml", options=options)
    return out


def test_the_page_stands_alone_and_its_links_exist(reference_report):
    text = (reference_report / "index.html").read_text()
    page = Page(text)
    assert len(page.sources) == 8  # the world has two evaluations, too few for courses of training
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert page.links
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors == {"figures", "words", "made"}
    assert all(f'id="{anchor}"' in text for anchor in anchors)
    files = [link for link in page.links if not link.startswith("#")]
    assert {"tables/pairs.csv", "figures/overview.pdf", "figures/overview.svg"} <= set(files)
    assert all((reference_report / link).is_file() for link in files)
    without_figures = re.sub(r'src="data:[^"]*"', "", text)
    assert "http" not in without_figures


def test_the_page_says_what_was_run_and_found(reference_report):
    text = (reference_report / "index.html").read_text()
    for words in (
        "All 90 pairs",
        "w2s report facts.yaml",
        "name: synthetic",
        "torch 2.13.0",
        "naive: mean PGR 0.",
        "confidence(max_weight=0.75) minus naive",
        "Ground-truth accuracy (the ceiling) rises from 0.",
        "fewer than 5 seeds",
        "1,200",
    ):
        assert words in text


def test_a_report_are_the_same_bytes_each_time(writer, small_world):
    writer.world(small_world(rungs=2, seeds=1, methods=("naive",)))
    results = load_results(writer.root)
    first, again = (report_files(results, options=analysis.Options(draws=100)) for _ in range(2))
    assert first == again
    assert sum(name.startswith("tables/") for name in first) == 40


def test_tables_can_be_read_back(reference_report):
    pairs = pl.read_parquet(reference_report / "tables" / "pairs.parquet")
    assert pairs.height == 30
    assert pl.read_csv(reference_report / "tables" / "pairs.csv").columns == pairs.columns


def test_a_sweep_without_any_gap_has_no_figures_of_pgr_and_no_number_for_it(without_drawing, writer, small_world):
    writer.world(small_world(supervisor=(0.9, 0.9, 0.9), ceiling=(0.6, 0.6, 0.6)))
    files = report_files(load_results(writer.root), options=analysis.Options(draws=100))
    figures = {name for name in files if name.endswith(".png")}
    assert figures == {f"figures/{n}.png" for n in ("overview", "accuracy", "methods", "differences", "agreement")}
    methods = pl.read_parquet(files["tables/methods.parquet"])
    assert methods["pgr"].null_count() == methods.height


def test_the_page_explains_its_words_and_the_oracle_mark_where_it_is_used(
    without_drawing, writer, small_world, reference_report
):
    text = (reference_report / "index.html").read_text()
    for words in ("Weak supervisor", "(student &minus; weak) / (ceiling &minus; weak)", "The 95 % interval"):
        assert words in text
    assert "<dt>[oracle]</dt>" not in text
    writer.world(small_world(rungs=2, seeds=1, methods=("naive", "stopped [oracle]")))
    path = writer.root / "sweeps" / "sweep" / "manifest.parquet"
    pl.read_parquet(path).with_columns(oracle=pl.col("method").str.ends_with("[oracle]")).write_parquet(path)
    files = report_files(load_results(writer.root), options=analysis.Options(draws=100))
    assert b"<dt>[oracle]</dt>" in files["index.html"]


def test_an_empty_storage_gives_a_page_that_says_so(tmp_path):
    storage = tmp_path / "store"
    storage.mkdir()
    analysis.write_report(storage, tmp_path / "report")
    text = (tmp_path / "report" / "index.html").read_text()
    assert Page(text).sources == []
    assert "no finished runs yet" in text
    assert "There are no figures" in text


def test_problems_and_missing_runs_are_on_the_page(without_drawing, writer, small_world, tmp_path):
    writer.world(small_world())
    (writer.root / "runs" / "facts-s0-sup-0-0" / "DONE").write_text("{")
    (writer.root / "runs" / "facts-s0-student-1-2-0-1" / "DONE").unlink()
    analysis.write_report(writer.root, tmp_path / "report", options=analysis.Options(draws=100))
    text = (tmp_path / "report" / "index.html").read_text()
    page = Page(text)
    assert "7 of 12 pairs" in text
    assert "1 supervisor damaged; 1 student not finished" in text
    assert "runs/facts-s0-sup-0-0/DONE is not JSON" in text
    assert "Pairs that are not complete" in page.headings


def test_text_from_the_store_cannot_become_markup(without_drawing, writer, small_world, tmp_path):
    writer.world(small_world(rungs=2, seeds=1, methods=("<script>alert(1)</script>",)))
    analysis.write_report(writer.root, tmp_path / "report", options=analysis.Options(draws=100))
    text = (tmp_path / "report" / "index.html").read_text()
    Page(text)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_each_task_has_its_section_and_its_folder(without_drawing, writer, small_world, tmp_path):
    for number, task in enumerate(("a", "b")):
        writer.world(small_world(task=task, rungs=2, seeds=1, methods=("naive",)), sweep=task, random_seed=number)
    analysis.write_report(writer.root, tmp_path / "report", options=analysis.Options(draws=100))
    page = Page((tmp_path / "report" / "index.html").read_text())
    assert [heading for heading in page.headings if "(" in heading] == ["a (classify)", "b (classify)"]
    assert (tmp_path / "report" / "figures" / "2-b" / "methods.png").is_file()
    assert "All tasks" in page.headings
    for name in ("tasks-1.png", "tasks-pgr.pdf"):
        assert (tmp_path / "report" / "figures" / name).is_file()


def test_many_tasks_have_their_main_figures_only_unless_all_are_asked_for(without_drawing, writer, small_world):
    for number, task in enumerate("abcde"):
        writer.world(small_world(task=task, rungs=2, seeds=1, methods=("naive",)), sweep=task, random_seed=number)
    results, options = load_results(writer.root), analysis.Options(draws=100)
    files = report_files(results, options=options)
    assert {name for name in files if name.startswith("figures/3-c")} == {
        f"figures/3-c/overview.{kind}" for kind in ("png", "svg")
    }
    assert b"3-c/overview.svg" in files["index.html"]
    assert b"3-c/overview.pdf" not in files["index.html"]
    assert b"each has its main figures only" in files["index.html"]
    every = report_files(results, options=options, every_figure=True)
    assert {f"figures/3-c/{name}.pdf" for name in ("overview", "accuracy", "methods", "agreement")} <= set(every)
    assert b"each has its main figures only" not in every["index.html"]


def test_a_sweep_of_which_every_student_failed_has_a_page_that_says_so(writer, small_world, tmp_path):
    writer.world(small_world(rungs=2, methods=("naive",)))
    for folder in (writer.root / "runs").glob("*"):
        (folder / "DONE").unlink()
        attempt = next((folder / "attempts").iterdir())
        (attempt / "error.json").write_text('{"type": "ValueError", "message": "loss is NaN"}')
    analysis.write_report(writer.root, tmp_path / "report", "sweep")
    text = (tmp_path / "report" / "index.html").read_text()
    page = Page(text)
    assert page.sources == []
    assert "0 of 2 pairs" in text
    assert "2 students failed" in text
    assert page.rows == 1 + 2  # the table of missing pairs
    assert "There are no figures" in text


@pytest.mark.parametrize("gap", [True, False], ids=["with a gap", "without a gap"])
def test_one_pair_of_one_seed_has_all_figures_that_make_sense(writer, small_world, gap):
    skill = (0.6, 0.9) if gap else (0.7, 0.7)
    writer.world(small_world(rungs=2, seeds=1, methods=("naive",), supervisor=skill, ceiling=skill))
    files = report_files(load_results(writer.root), options=analysis.Options(draws=100))
    figures = {name.removeprefix("figures/") for name in files if name.endswith(".svg")}
    always = {"overview.svg", "accuracy.svg", "methods.svg", "agreement.svg"}
    assert figures == always | ({"pgr.svg", "pgr_map.svg"} if gap else set())
    Page(files["index.html"].decode())


def test_cells_carry_what_they_are_sorted_by():
    frame = pl.DataFrame({"a": ['<b>"x"', None], "n": [1234, 5], "s": [0.12345, None]})
    frame = frame.with_columns(s_low=pl.Series([0.1, None]), s_high=pl.Series([0.2, None]))
    columns = (Column("A", "a", "text"), Column("N", "n", "count"), Column("S", "s", "share"))
    first, second = str(html_table(frame, columns)["body"]).splitlines()
    assert '<td class="text" data-sort="&lt;b&gt;&#34;x&#34;">&lt;b&gt;&#34;x&#34;</td>' in first
    assert '<td class="count" data-sort="1234">1,234</td>' in first
    assert '<td class="share" data-sort="0.12345">0.123<small>[0.100, 0.200]</small></td>' in first
    assert '<td class="text" data-sort="">\u2013</td>' in second


def test_long_summaries_fold_away_after_a_dozen_sentences(without_drawing, writer, small_world):
    methods = ("naive", *(f"m{i}" for i in range(8)))
    writer.world(small_world(rungs=2, seeds=1, methods=methods))
    text = report_files(load_results(writer.root), options=analysis.Options(draws=100))["index.html"].decode()
    assert re.search(r"<summary>\d+ more sentences</summary>", text)


def test_an_earlier_report_is_replaced_whole(tmp_path):
    storage, out = tmp_path / "store", tmp_path / "report"
    storage.mkdir()
    analysis.write_report(storage, out)
    (out / "left-over").write_text("")
    analysis.write_report(storage, out)
    assert not (out / "left-over").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "store"]


def test_a_folder_that_is_no_report_is_left_alone(tmp_path):
    storage, out = tmp_path / "store", tmp_path / "precious"
    storage.mkdir()
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(analysis.AnalysisError, match=r"precious holds files that are not a report"):
        analysis.write_report(storage, out)
    assert (out / "thesis.tex").read_text() == "years of work"


def test_a_report_can_be_written_to_an_object_store(tmp_path):
    import fsspec

    storage = tmp_path / "store"
    storage.mkdir()
    try:
        assert analysis.write_report(storage, "memory://w2s-report") == "memory://w2s-report/index.html"
        assert b"no finished runs yet" in fsspec.filesystem("memory").cat_file("/w2s-report/index.html")
    finally:
        fsspec.filesystem("memory").rm("/w2s-report", recursive=True)
