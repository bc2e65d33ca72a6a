"""Names come from specs and data, and a report is opened in a browser: none of them may become part of the page."""

import html.parser

import analysis
from analysis import plots
from analysis.report import report_files
from analysis.results import load as load_results

EVIL = """<script>alert('task')</script>&"onmouseover=x"""


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.scripts, self.in_script, self.attributes, self.text = [], False, set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.in_script = tag == "script"
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        if self.in_script:
            self.scripts.append(data)
        else:
            self.text += data


def test_a_task_with_markup_in_its_name_is_shown_and_not_obeyed(store_writer, small_world, monkeypatch, tmp_path):
    monkeypatch.setattr(plots, "render", lambda figure, kinds=plots.KINDS: dict.fromkeys(kinds, b"<svg/>"))
    pages = {}
    for task in ("facts", EVIL):
        root = tmp_path / str(len(pages))
        root.mkdir()
        store_writer(root).world(small_world(task=task))
        files = report_files(load_results(root), options=analysis.Options(draws=100))
        pages[task] = Tags(files["index.html"].decode())
    plain, evil = pages["facts"], pages[EVIL]
    assert evil.scripts == plain.scripts  # the page's own
    assert evil.attributes <= plain.attributes
    assert "onmouseover" not in evil.attributes
    assert EVIL in evil.text
