"""The user's own files: what can be read, and what is said about what cannot."""

import gzip
import json

import polars as pl
import pytest
from pydantic import ValidationError

from w2s.config import Columns, FilesTask, SplitSpec
from w2s.errors import DataError
from w2s.tasks import load_task

ROWS = [{"text": f"sentence {i}", "label": i % 2} for i in range(40)]


def write(path, text):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


def jsonl(path, rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def task(*train, **settings):
    return FilesTask(name="mine", source="files", train=train, **settings)


def refused(spec, message):
    with pytest.raises(DataError, match=message):
        load_task(spec)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz", "a.parquet"])
def test_every_kind_of_file_gives_the_same_examples(tmp_path, name):
    path = tmp_path / name
    frame = pl.DataFrame(ROWS)
    if "jsonl" in name:
        jsonl(path, ROWS)
    elif "parquet" in name:
        frame.write_parquet(path)
    else:
        write(path, frame.write_csv(separator="\t" if "tsv" in name else ","))
    expected = load_task(task(jsonl(tmp_path / "reference.jsonl", ROWS))).frame
    assert load_task(task(str(path))).frame.equals(expected)


def test_tsv_cells_may_hold_stray_quotes_and_blank_lines_are_skipped(tmp_path):
    lines = ['it is "good\t1', "\"'s fine'\t0", "", "plain, really\t1", "   ", 'a "b" c\t0']
    path = write(tmp_path / "a.tsv", "\n".join(lines * 1) + "\n" + "".join(f"more {i}\t{i % 2}\r\n" for i in range(36)))
    data = load_task(task(path, names=("sentence", "label"), columns=Columns(text="sentence")))
    assert {'it is "good', "\"'s fine'", "plain, really", 'a "b" c', "more 35"} <= set(data.frame["text"])
    assert data.frame.height == 40


def test_csv_cells_may_hold_quotes_commas_and_line_breaks(tmp_path):
    rows = [{"text": 'He said "no",\nthen left', "label": 1}, *ROWS]
    path = write(tmp_path / "a.csv", pl.DataFrame(rows).write_csv())
    assert rows[0]["text"] in load_task(task(path)).frame["text"]


def test_csv_cells_may_be_long(tmp_path):
    long = "word " * 40_000
    path = write(tmp_path / "a.csv", pl.DataFrame([{"text": long, "label": 1}, *ROWS]).write_csv())
    assert long in load_task(task(path)).frame["text"]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + pl.DataFrame(ROWS).write_csv().encode())
    assert load_task(task(str(path))).frame.height == 40


def test_json_lines_are_cut_at_line_breaks_only(tmp_path):
    rows = [{"text": "one\u2028two\x85three", "label": 1}, *ROWS]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert rows[0]["text"] in load_task(task(path)).frame["text"]


def test_a_template_joins_columns(tmp_path):
    rows = [{"premise": f"p{i}", "question": i, "answer": i % 2 == 0} for i in range(40)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    data = load_task(task(path, template="{premise} Q: {question} {{}}", columns=Columns(label="answer")))
    assert set(data.frame["text"]) == {f"p{i} Q: {i} {{}}" for i in range(40)}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{premise", r"template '\{premise': expected '\}'"),
        ("{premise.upper}", "no column 'premise.upper'"),
        ("{premise!r}", r"only plain \{column\} fields"),
        ("{}", r"only plain \{column\} fields"),
        ("premise", "names no column"),
        ("{premis}", "no column 'premis'; did you mean \"premise\""),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(tmp_path, template, message):
    path = jsonl(tmp_path / "a.jsonl", [{"premise": "p", "label": 0}])
    refused(task(path, template=template), message)


def test_label_values_give_labels_their_meaning(tmp_path):
    rows = [{"text": f"t{i}", "label": ["neg", "pos"][i % 2]} for i in range(40)]
    spec = task(jsonl(tmp_path / "a.jsonl", rows), label_values={"neg": 0, "pos": 1})
    assert {(text, label) for text, label in load_task(spec).frame.select("text", "label").iter_rows()} == {
        (f"t{i}", i % 2) for i in range(40)
    }


@pytest.mark.parametrize("labels", [(0, 1), (False, True), (0.0, 1.0), ("0", "1"), ("False", "True"), ("0.0", "1.0")])
def test_plain_labels_need_no_map(tmp_path, labels):
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": labels[i % 2]} for i in range(40)])
    frame = load_task(task(path)).frame
    assert frame.filter(pl.col("text") == "t3")["label"].to_list() == [1]
    assert frame["label"].sum() == 20


def test_numbers_can_be_mapped_too(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": [-1, 1][i % 2]} for i in range(40)])
    assert load_task(task(path, label_values={-1: 0, 1: 1})).frame["label"].sum() == 20


def test_unquoted_yes_and_no_are_caught():
    with pytest.raises(ValidationError, match="quote it"):
        task("a.jsonl", label_values={False: 0, True: 1})


def test_unlabelled_and_blank_rows_are_dropped_and_counted(tmp_path):
    extra = [
        {"text": "a", "label": -1},
        {"text": "b", "label": None},
        {"text": "c", "label": ""},
        {"text": "  ", "label": 1},
    ]
    data = load_task(task(jsonl(tmp_path / "a.jsonl", ROWS + extra)))
    assert data.dropped == {"unlabelled": 3, "blank": 1}


def test_groups_named_by_a_column_stay_together(tmp_path):
    rows = [{"text": f"t{i}", "label": i % 2, "passage": i // 4 if i < 200 else None} for i in range(400)]
    data = load_task(task(jsonl(tmp_path / "a.jsonl", rows), columns=Columns(group=("passage",))))
    part = dict(zip(data.frame["text"], data.frame["part"], strict=True))
    for start in range(0, 200, 4):
        assert len({part.get(f"t{i}") for i in range(start, start + 4)}) == 1
    assert len({part.get(f"t{i}") for i in range(200, 400)}) >= 4


def test_two_group_columns_do_not_mix_their_values(tmp_path):
    rows = [{"text": f"t{i}", "label": i % 2, "a": i, "b": (i + 1) % 40} for i in range(40)]
    spec = task(jsonl(tmp_path / "a.jsonl", rows), columns=Columns(group=("a", "b")))
    assert load_task(spec).frame["part"].n_unique() == 4  # one group of 40 would not fit into any part


def hh(prompt, reply):
    return f"\n\nHuman: {prompt}\n\nAssistant: {reply}"


def test_transcripts_are_cut_behind_the_last_separator(tmp_path):
    first = "Hi\n\nAssistant: Hello\n\nHuman: Why?"
    rows = [{"chosen": hh(f"{first} {i}", f"good {i}"), "rejected": hh(f"{first} {i}", f"bad {i}")} for i in range(40)]
    extra = [
        {"chosen": hh("one", "a"), "rejected": hh("another", "b")},
        {"chosen": "no turn", "rejected": hh("q", "b")},
        {"chosen": hh("same", "a"), "rejected": hh("same", "a")},
        {"chosen": hh("blank", ""), "rejected": hh("blank", "a")},
    ]
    spec = task(jsonl(tmp_path / "a.jsonl", rows + extra), form="compare", prompt_separator="\n\nAssistant:")
    data = load_task(spec)
    assert data.dropped == {"blank": 1, "no_prompt_separator": 1, "prompts_differ": 1, "same_replies": 1}
    for _, _, label, prompt, *replies in data.frame.iter_rows():
        i = prompt.split("Why? ")[1].split("\n")[0]
        assert prompt == f"\n\nHuman: {first} {i}\n\nAssistant:"
        assert replies[label] == f" good {i}"
        assert replies[1 - label] == f" bad {i}"


def test_prompts_can_have_a_column_of_their_own(tmp_path):
    rows = [{"q": f"q{i}", "better": f"a{i}", "worse": f"b{i}"} for i in range(40)]
    columns = Columns(prompt="q", chosen="better", rejected="worse")
    data = load_task(task(jsonl(tmp_path / "a.jsonl", rows), form="compare", columns=columns))
    assert set(data.frame["prompt"]) == {f"q{i}" for i in range(40)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {"chosen": "a"}}, "columns.chosen: only for form compare, but form is classify"),
        ({"form": "compare", "template": "{a}"}, "template: only for form classify or generate, but form is compare"),
        ({"template": "{a}", "columns": {"text": "a"}}, "keep one of them"),
        ({"form": "compare", "prompt_separator": "a", "columns": {"prompt": "a"}}, "keep one of them"),
        ({"form": "compare", "prompt_separator": ""}, "prompt_separator is empty"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        task("a.jsonl", **settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", r"a\.jsonl: the file is empty"),
        ("a.csv", "", r"a\.csv: the file is empty"),
        ("a.csv", "text,label\n", r"a\.csv: the file has no rows"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": \n', r"a\.jsonl, line 3: not valid JSON \(Expecting value"),
        ("a.jsonl", '["text"]\n', r"a\.jsonl, line 1: a list where a JSON object is expected"),
        ("a.jsonl", '{"text": null, "label": 1}\n{"text": "b", "label": 0}\n', r"a\.jsonl, line 1: 'text' is null"),
        ("a.jsonl", '{"text": ["a"], "label": 1}\n{"text": "b", "label": 0}\n', r"a\.jsonl, line 1: 'text' is a list"),
        ("a.csv", "text,label\na,1\n\nb,0,7\n", r"a\.csv, line 4: 3 cells where 2 \(text, label\) are expected"),
        ("a.csv", 'text,label\na,1\n"b,0\n', r"a\.csv, line 3: not valid CSV"),
        ("a.tsv", "text\tlabel\na\n", r"a\.tsv, line 2: 1 cells where 2"),
        ("a.csv", "text,label,text\na,1,b\n", "column 'text' occurs more than once"),
        ("a.csv", "text,lable\na,1\n", r"no column 'label'; did you mean \"lable\"\? \(columns: 'lable', 'text'\)"),
        ("a.jsonl", '{"body": "a", "label": 1}\n', r"no column 'text' \(columns: 'body', 'label'\)"),
        ("a.txt", "a\n", r"a\.txt: unknown kind of file; names end in \.jsonl, \.csv, \.tsv, \.parquet"),
        ("a.parquet", "not parquet", r"a\.parquet: cannot be read"),
        ("a.csv", "text,label\n" + "a,0\nb,1\nc,2\n", r"label column 'label' has 3 values \('0', '1', '2'\)"),
        ("a.csv", "text,label\na,0\nb,1\nc,positive\nd,0\ne,1\n",
         r"The rarest, 'positive', is in 1 of 5 rows, first in .*a\.csv, line 4$"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "cut \\uD83d", "label": 0}\n',
         r"a\.jsonl, line 2: 'text' holds half of an escaped character"),
        ("a.jsonl", '{"text": "a", "label": {"x": ["\\udc00"]}}\n', r"a\.jsonl, line 1: 'label' holds half"),
        ("a.csv", "text,label\na,bad\nb,good\n", r"its values mean, e\.g\. label_values: \{'bad': 0, 'good': 1\}"),
        ("a.csv", "text,label\na,1\nb,1\n", r"a\.csv: every label in column 'label' is '1', and a task needs both"),
        ("a.csv", "text,label\na,1\nb,-1\n", r"both classes; 1 rows with -1, null or blank count as unlabelled unless"),
        ("a.csv", "text,label\na,0\nb,1\n", "would get none of the pool's 2 examples"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_place_and_cure(tmp_path, name, content, message):
    refused(task(write(tmp_path / name, content)), message)


def test_missing_files_are_refused(tmp_path):
    refused(task(str(tmp_path / "a.jsonl")), r"a\.jsonl: no such file")
    refused(task(str(tmp_path / "b" / "a.jsonl")), r"no such file; there is no folder .*b")
    refused(task(str(tmp_path)), "is a folder")


def test_a_damaged_gzip_file_is_refused(tmp_path):
    whole = gzip.compress(b"text,label\n" + b"some words,1\n" * 1000)
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    refused(task(str(tmp_path / "cut.csv.gz")), r"cut\.csv\.gz: cannot be read")
    refused(task(write(tmp_path / "a.txt", "plain").replace("a.txt", "cut.csv.gz")), "cannot be read")


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\ncafé,1\n".encode("latin-1"))
    refused(task(str(tmp_path / "a.csv")), r"a\.csv, line 2: not UTF-8 text .* convert it to UTF-8")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_the_line_of_text_in_another_encoding_is_named_also_far_into_a_file(tmp_path, name):
    line = b'{"text": "some words", "label": 1}\n'
    content = line * 5000 + line.replace(b"some", "café".encode("latin-1")) + line
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    refused(task(str(tmp_path / name)), rf"{name}, line 5001: not UTF-8 text")


def test_escaped_characters_beyond_the_first_plane_are_read(tmp_path):
    rows = [{"text": f"\U0001f600 {i}", "label": i % 2, "cut": "\ud83d"} for i in range(40)]  # `cut` is not read
    data = load_task(task(jsonl(tmp_path / "a.jsonl", rows)))
    assert data.frame["text"].str.starts_with("\U0001f600 ").all()


def test_a_label_without_meaning_is_refused_by_line(tmp_path):
    rows = [{"text": "a", "label": "neg"}, {"text": "b", "label": "poss"}]
    spec = task(jsonl(tmp_path / "a.jsonl", rows), label_values={"neg": 0, "pos": 1})
    refused(
        spec,
        r"a\.jsonl, line 2: label 'poss' .* not in label_values; did you mean \"pos\"\? \(they are: 'neg', 'pos'\)",
    )


def test_pairs_that_all_differ_in_their_prompts_are_refused_with_counts(tmp_path):
    rows = [{"chosen": "a: x", "rejected": "b: y"}] * 3
    refused(
        task(jsonl(tmp_path / "a.jsonl", rows), form="compare", prompt_separator=":"),
        "no usable row; left out: 3 with two prompts",
    )


def test_a_test_file_of_the_users_own_is_the_test_part(tmp_path):
    test = [{"text": f"exam {i}", "label": i % 2} for i in range(10)]
    files = jsonl(tmp_path / "a.jsonl", ROWS), jsonl(tmp_path / "b.jsonl", [*test, ROWS[3]])
    data = load_task(task(files[0], test=(files[1],), splits=SplitSpec(validation=0.1)))
    assert set(data.part("test")["text"]) == {f"exam {i}" for i in range(10)} | {"sentence 3"}
    assert data.dropped == {"related_to_test": 1}
