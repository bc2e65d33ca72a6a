"""The catalogue through `load_task`: mirrors in every form, the hub's arguments, no leaks, balance, real files."""

import contextlib
import dataclasses
import gzip
import json
import random
import re
import weakref
from collections.abc import Mapping

import datasets as hub_datasets
import numpy as np
import polars as pl
import pytest
from catalogue_rows import WORDS, make_rows
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from w2s.config import CatalogueTask, FactsTask, FilesTask, HubTask, SplitSpec, TaskSpec
from w2s.errors import DataError
from w2s.tasks import load_task, resolve_task, task_fingerprint
from w2s.tasks.base import normalise
from w2s.tasks.build import build_task, row_id, row_keys
from w2s.tasks.catalogue import Dataset, LeftOut, Pair, Question, Statement, datasets, find_dataset
from w2s.tasks.choices import rows_from
from w2s.tasks.mirror import MIRROR_VARIABLE, read_split

ALL = list(datasets())


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)


def task(key, mirror=None, **changes):
    return CatalogueTask(dataset=key, mirror=None if mirror is None else str(mirror), **changes)


def write(path, rows):
    """Rows as a file of the kind that its name says; lists and records become JSON where a cell is text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
        return
    if name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        cells = [{k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()} for row in rows]
        frame = pl.DataFrame(cells, infer_schema_length=None)
        text = frame.write_csv()
        if name.endswith(".tsv"):  # as in GLUE: no quotes
            lines = ["\t".join(frame.columns), *("\t".join(map(str, row)) for row in frame.iter_rows())]
            text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())


def mirror_of(key, folder, kind="jsonl", n=100, seed=0):
    entry = datasets()[key]
    for number, split in enumerate((*entry.train, *([entry.test] if entry.test else []))):
        write(folder / key / f"{split}.{kind}", make_rows(key, n, seed=seed + number))
    return folder


# -- mirrors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ALL)
def test_every_kind_of_file_gives_the_same_examples(key, tmp_path):
    reference = load_task(task(key, mirror_of(key, tmp_path / "jsonl"))).frame
    assert reference.height > 40
    assert set(reference["label"]) == {0, 1}
    kinds = ["parquet", "csv.gz"] if key.startswith("anthropic") else ["parquet", "csv.gz", "tsv.gz"]  # no line breaks
    for kind in kinds:
        found = load_task(task(key, mirror_of(key, tmp_path / kind, kind))).frame
        assert found.equals(reference), kind


@pytest.mark.parametrize(
    ("key", "files"),
    [
        ("boolq", {"train": "boolq/train.jsonl", "validation": "boolq/validation.jsonl"}),
        ("boolq", {"train": "train.csv", "validation": "dev.tsv.gz"}),
        ("boolq", {"train": "google/boolq/data/train-00000-of-00001.parquet",
                   "validation": "google/boolq/data/validation-00000-of-00001.parquet"}),
        ("anli-r2", {"train_r2": "anli_r2/train_r2.jsonl.gz", "test_r2": "anli_r2/test_r2.jsonl.gz",
                     "train_r1": "anli_r2/train_r1.jsonl.gz"}),
        ("anli-r2", {"train_r2": "facebook--anli/plain_text/train_r2-00000-of-00001.parquet",
                     "test_r2": "facebook--anli/plain_text/test_r2-00000-of-00001.parquet"}),
        ("piqa", {"train": "ybisk/piqa/plain_text/train/0000.parquet",
                  "validation": "ybisk/piqa/plain_text/validation/0000.parquet"}),
        ("cola", {"train": "glue/cola/train.jsonl", "validation": "glue/cola/val.jsonl",
                  "other": "glue/sst2/train.jsonl"}),
        ("cola", {"train": "cola_train.csv", "validation": "cola_valid.csv"}),
        ("sst2", {"train": "sst2/train.tsv", "validation": "sst2/dev.tsv"}),
        ("wts_safety", {"train": "wts_safety/safety.csv"}),
        ("real_toxicity", {"train": "allenai/real-toxicity-prompts/prompts.jsonl"}),
        ("mc_taco", {"test": "mc_taco/test.jsonl", "validation": "mc_taco/validation.jsonl"}),
        ("ethics-justice", {"train": "hendrycks/ethics/justice/train/0000.parquet",
                            "validation": "hendrycks/ethics/justice/validation/0000.parquet",
                            "test": "hendrycks/ethics/justice/test/0000.parquet"}),
        ("ethics-justice", {"train": "ethics/data/justice/train.csv", "validation": "ethics/data/justice/test.csv",
                            "test": "ethics/data/justice/test_hard.csv", "other": "ethics/data/virtue/train.csv"}),
        ("ethics-justice", {"train": "ethics-justice/justice_train.csv",
                            "validation": "ethics-justice/justice_test.csv",
                            "test": "ethics-justice/justice_test_hard.csv"}),
    ],
)  # fmt: skip
def test_files_are_found_by_the_names_in_use(key, files, tmp_path):
    """Splits that are not read hold rows without usable columns, so that reading one of them would be seen."""
    entry = datasets()[key]
    mirror, reference = tmp_path / "mirror", tmp_path / "reference"
    used = [*entry.train, *([entry.test] if entry.test else [])]
    for split, name in files.items():
        rows = make_rows(key, 60, seed=used.index(split)) if split in used else [{"unusable": 1}]
        if split in used and key == "sst2":  # the headerless form
            (mirror / name).parent.mkdir(parents=True, exist_ok=True)
            (mirror / name).write_text("".join(f"{row['sentence']}\t{row['label']}\n" for row in rows))
        else:
            write(mirror / name, rows)
    for number, split in enumerate(used):
        write(reference / key / f"{split}.jsonl", make_rows(key, 60, seed=number))
    assert load_task(task(key, mirror)).frame.equals(load_task(task(key, reference)).frame)


def test_shards_of_a_split_are_read_together_and_their_order_does_not_matter(tmp_path):
    rows, test = make_rows("boolq", 100), make_rows("boolq", 40, seed=1)
    for root, cuts in {"a": [rows[:30], rows[30:]], "b": [rows[30:], rows[:30]], "c": [rows]}.items():
        for i, part in enumerate(cuts):
            write(tmp_path / root / "boolq" / f"train-{i:05}-of-{len(cuts):05}.parquet", part)
        write(tmp_path / root / "boolq" / "validation.jsonl", test)
    frames = [load_task(task("boolq", tmp_path / root)).frame for root in "abc"]
    assert frames[0].equals(frames[1])
    assert frames[0].equals(frames[2])
    ids = [task_fingerprint(task("boolq", tmp_path / root)) for root in "abc"]
    assert ids[0] == ids[1] != ids[2]  # the same files under other names, and other files


def test_the_subsets_of_hh_make_up_one_dataset_and_each_is_one_of_its_own(tmp_path):
    folder = tmp_path / "Anthropic" / "hh-rlhf"
    for number, subset in enumerate(("harmless-base", "helpful-base", "red-team-attempts")):
        for part, split in enumerate(("train", "test")):
            rows = make_rows("anthropic_hh", 50, seed=2 * number + part)
            write(folder / subset / f"{split}.jsonl.gz", [{"x": 1}] if subset.startswith("red") else rows)
    sizes = {key: load_task(task(key, tmp_path)).frame.height for key in ALL if key.startswith("anthropic")}
    assert 180 < sizes["anthropic_hh"] <= 200  # a few replies occur twice
    assert all(90 < sizes[f"anthropic_hh-{subset}"] <= 100 for subset in ("harmless", "helpful"))


def test_a_text_file_and_a_label_file_are_read_side_by_side_with_their_blank_lines(tmp_path):
    folder = tmp_path / "tweet_eval" / "hate"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        texts = [f"{split} tweet {i}" for i in range(60)]
        texts[7] = ""
        (folder / f"{split}_text.txt.gz").write_bytes(gzip.compress("".join(f"{t}\n" for t in texts).encode()))
        (folder / f"{split}_labels.txt.gz").write_bytes(
            gzip.compress("".join(f"{i % 2}\n" for i in range(60)).encode())
        )
    data = load_task(task("tweet_eval-hate", tmp_path, balance="never"))
    assert data.dropped == {"blank": 2}
    found = dict(data.frame.select("text", "label").iter_rows())
    assert [found[f"train tweet {i}"] for i in (6, 8, 59)] == [0, 0, 1]
    (folder / "test_labels.txt.gz").write_bytes(gzip.compress(b"1\n"))
    with pytest.raises(DataError, match=r"test_text.txt.gz has 60 lines, but test_labels.txt.gz 1"):
        load_task(task("tweet_eval-hate", tmp_path))


def test_the_original_release_of_openbookqa_is_read_as_well(tmp_path):
    rows = make_rows("openbookqa", 120)
    original = [
        {"id": r["id"], "answerKey": r["answerKey"], "question": {"stem": r["question_stem"], "choices": [
            {"text": t, "label": c} for t, c in zip(r["choices"]["text"], r["choices"]["label"], strict=True)]}}
        for r in rows
    ]  # fmt: skip
    for root, shown in (("hub", rows), ("original", original)):
        write(tmp_path / root / "openbookqa" / "train.jsonl", shown[:80])
        write(tmp_path / root / "openbookqa" / "test.jsonl", shown[80:])
    frames = [load_task(task("openbookqa", tmp_path / root)).frame for root in ("hub", "original")]
    assert frames[0].equals(frames[1])


def test_the_environment_names_a_mirror_that_is_used_for_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setenv(MIRROR_VARIABLE, str(mirror_of("boolq", tmp_path)))
    placed = resolve_task(task("boolq"), lambda id, revision: pytest.fail("the hub is asked"))
    assert placed.mirror == str(tmp_path / "boolq")
    monkeypatch.delenv(MIRROR_VARIABLE)  # a worker may have another environment
    assert load_task(placed).frame.equals(load_task(task("boolq", tmp_path)).frame)
    assert task_fingerprint(placed) == task_fingerprint(task("boolq", tmp_path))
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path))
    elsewhere = resolve_task(task("sciq"), lambda id, revision: "c" * 40)
    assert (elsewhere.mirror, elsewhere.id, elsewhere.revision) == (None, "allenai/sciq", "c" * 40)
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(DataError, match=f"{MIRROR_VARIABLE}: there is no folder .*gone"):
        load_task(task("boolq"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"mirror .* has no folder boolq and no data files.*hf download google/boolq --repo-type dataset"),
        ({"boolq/train.jsonl": 40}, r"no file for split validation of boolq, such as validation.jsonl.*\(there: train"),
        ({"boolq/train.jsonl": 40, "boolq/train.csv": 40, "boolq/dev.csv": 9},
         r"several files could be split train of boolq: train.csv, train.jsonl; keep one"),
        ({"sciq/train.jsonl": 40}, r"has no folder boolq and no data files"),
        ({"bolq/x.txt": 0}, r'has no folder boolq and no data files; did you mean "bolq"'),
    ],
)  # fmt: skip
def test_a_mirror_that_lacks_files_says_which_and_how_to_get_them(files, message, tmp_path):
    for name, n in files.items():
        if n:
            write(tmp_path / name, make_rows("boolq", n))
        else:
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=message):
        load_task(task("boolq", tmp_path))


@pytest.mark.parametrize("key", ALL)
def test_a_missing_column_is_named(key, tmp_path):
    column = datasets()[key].columns[0]
    rows = [{k: v for k, v in row.items() if k != column} for row in make_rows(key, 20)]
    for split in ("train", "train_r2", "validation", "test", "test_r2"):
        write(tmp_path / key / f"{split}.jsonl", rows)
    with pytest.raises(DataError, match=f"jsonl: no column '{column}'"):
        load_task(task(key, tmp_path))


def test_a_bad_cell_is_named_with_its_line(tmp_path):
    rows = make_rows("quail", 30)
    rows[6]["correct_answer_id"] = 9
    write(tmp_path / "quail" / "train.jsonl", rows)
    write(tmp_path / "quail" / "validation.jsonl", make_rows("quail", 20, seed=1))
    with pytest.raises(DataError, match=r"train.jsonl, line 7: label 9 in column 'correct_answer_id'.* 0 to 3"):
        load_task(task("quail", tmp_path))


def test_a_test_split_without_labels_is_refused(tmp_path):
    write(tmp_path / "cola" / "train.jsonl", make_rows("cola", 60))
    write(tmp_path / "cola" / "test.jsonl", [{**row, "label": -1} for row in make_rows("cola", 20, seed=1)])
    with pytest.raises(DataError, match=r"test.jsonl: no usable row; left out: 20 without a label"):
        load_task(task("cola", tmp_path, test="test"))


def test_the_hard_test_of_ethics_is_not_taken_for_the_regular_one(tmp_path):
    write(tmp_path / "ethics-justice" / "train.jsonl", make_rows("ethics-justice", 60))
    hard = [{"label": i % 2, "scenario": f"hard {i}"} for i in range(2052)]
    write(tmp_path / "ethics-justice" / "test.jsonl", hard)
    with pytest.raises(DataError, match=r"test.jsonl: is not the split to test on: it has 2,052 rows, as the \*hard\*"):
        load_task(task("ethics-justice", tmp_path))
    assert load_task(task("ethics-justice", tmp_path, test="test")).part("test").height == 2052  # when asked for


def test_other_splits_may_be_chosen_and_a_test_be_split_off(tmp_path):
    write(tmp_path / "cosmos_qa" / "valid.csv.gz", make_rows("cosmos_qa", 200))
    data = load_task(task("cosmos_qa", tmp_path, train=["validation"], test="none"))
    assert set(data.frame["part"]) == {"supervise", "transfer/0", "validation", "test"}


# -- the hub ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in ALL if datasets()[key].places])
def test_the_hub_is_asked_for_the_right_thing(key, monkeypatch):
    """`load_dataset` stands in for the hub, which cannot be reached here: what matters is what it is asked."""
    entry, asked = datasets()[key], []

    def load_dataset(id, config, **arguments):
        asked.append((id, config, arguments))
        names = dict.fromkeys([*entry.train, *([entry.test] if entry.test else []), "test", "other"])
        return {name: hub_datasets.Dataset.from_list(make_rows(key, 80, seed=i)) for i, name in enumerate(names)}

    monkeypatch.setattr(hub_datasets, "load_dataset", load_dataset)
    revisions = []
    for place in entry.places:
        placed = resolve_task(task(key, id=place.id), lambda id, revision: revisions.append((id, revision)) or "a" * 40)
        assert load_task(placed).frame.height > 40
        assert revisions[-1] == (place.id, place.revision)
        id, config, arguments = asked[-1]
        assert (id, config) == (place.id, place.config)
        assert arguments == {"data_dir": place.data_dir, "revision": "a" * 40}  # and no trust_remote_code
        if place.form == "converted":
            assert config is None
            assert place.revision == "refs/convert/parquet"


@pytest.mark.parametrize(
    ("key", "command"),
    [
        ("boolq", r"`hf download google/boolq --repo-type dataset --local-dir MIRROR/google/boolq`, and name MIRROR"),
        ("ethics-virtue", r'--revision refs/convert/parquet --include "virtue/\*" --local-dir MIRROR/hendrycks/ethics`'
                          r" \(also published as EleutherAI/hendrycks_ethics\)"),
        ("wts_safety", r"on no hub. Put safety.csv of the GitHub repository yeruimeng/WTS at MIRROR/wts_safety/train"),
    ],
)  # fmt: skip
def test_without_a_connection_it_is_said_how_to_mirror(key, command, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=command) as error:
        load_task(task(key))
    assert "that folder instead" not in str(error.value)


def test_the_regular_test_of_ethics_is_taken_from_either_repository(monkeypatch):
    """What one calls validation is the other's test; stands in for the hub as above."""
    rows = {name: make_rows("ethics-virtue", 60, seed=i) for i, name in enumerate(("train", "validation", "test"))}
    monkeypatch.setattr(
        hub_datasets, "load_dataset", lambda *_, **__: {n: hub_datasets.Dataset.from_list(r) for n, r in rows.items()}
    )
    for id, split in (("hendrycks/ethics", "validation"), ("EleutherAI/hendrycks_ethics", "test")):
        data = load_task(task("ethics-virtue", id=id, revision="a" * 40, balance="never"))
        scenarios = {row["scenario"].partition(" [SEP]")[0] for row in rows[split]}
        assert set(data.part("test")["text"].str.split("\n").list.first()) == scenarios


def test_the_commit_is_part_of_the_fingerprint_and_the_loader_is_told_it():
    def fingerprint(**changes):
        return task_fingerprint(task("boolq", **{"id": "google/boolq", "revision": "a" * 40, **changes}))

    same = fingerprint(name="another name")
    assert fingerprint() == same
    others = [
        fingerprint(revision="b" * 40),
        fingerprint(choices="sample"),
        fingerprint(balance="never"),
        fingerprint(max_rows=10),
        fingerprint(splits=SplitSpec(split_seed=1)),
        task_fingerprint(task("sciq", id="allenai/sciq", revision="a" * 40)),
    ]
    assert len({same, *others}) == 7


def test_fingerprints_of_other_tasks_are_what_they_were_before_there_was_a_catalogue(tmp_path):
    """Results are found by them."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "x", "label": 0}\n')
    commit = "0123456789" * 4
    found = [
        task_fingerprint(FactsTask(name="a", source="facts")),
        task_fingerprint(FilesTask(name="a", source="files", train=(str(file),))),
        task_fingerprint(HubTask(name="a", source="hub", id="org/name", revision=commit)),
    ]
    assert [fingerprint[:16] for fingerprint in found] == ["dd2f6338dabd1386", "95ffdf3c6f437ba1", "2e22455a997d6ffd"]
    assert task_fingerprint(FilesTask(name="a", source="files", train=(str(file),), balance="paper")) != found[1]


# -- names -----------------------------------------------------------------------------------------------------


def test_a_dataset_is_found_by_either_dash():
    assert find_dataset("SciQ-with-support") is datasets()["sciq_with_support"]
    assert task("anli_r2").dataset == task("anli-r2").name == "anli-r2"
    assert task("anthropic-hh").form == "compare"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"dataset": "bolq"}, r'there is no dataset \'bolq\'; did you mean "boolq"\? \(w2s tasks lists them\)'),
        ({"dataset": "boolq", "form": "compare"}, "form is 'compare', but dataset 'boolq' is of form classify"),
        (
            {"dataset": "piqa", "id": "x/piqa"},
            "id is 'x/piqa'; hub repositories of 'piqa' known here: baber/piqa or ybisk",
        ),
        ({"dataset": "piqa", "mirror": "m", "revision": "x"}, "mirror says that files are read"),
    ],
)
def test_what_a_task_cannot_be_is_refused(written, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(TaskSpec).validate_python({"source": "catalogue", **written})


# -- no leaks --------------------------------------------------------------------------------------------------


def spread(rows, seed):
    """Rows in another order."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows


def of(entry: Dataset, records, choices):
    made = []
    for record in records:
        with contextlib.suppress(LeftOut):
            made += rows_from(entry.convert(record), choices=choices, seed=0, dataset=entry.key)
    return made


@pytest.mark.parametrize("key", ALL)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    words=st.integers(6, 60),
    choices=st.sampled_from(["expand", "sample"]),
    balance=st.sampled_from(["paper", "always", "never"]),
    parts=st.integers(1, 2),
)
def test_no_example_text_or_group_is_in_two_parts(key, seed, words, choices, balance, parts):
    """Few words make for many rows that share a text, a reply or a group, also between train and test."""
    entry, rng = datasets()[key], np.random.default_rng(seed)
    pool, test = (
        of(
            entry,
            make_rows(key, n, seed + n, words=lambda k=4: f"w{rng.integers(words * 12)} w{rng.integers(words)}"),
            choices,
        )
        for n in (120, 40)
    )
    splits = SplitSpec(supervise=15, transfer=15 * parts, validation=6, test=12, transfer_parts=parts)
    official = test if entry.test else None

    def build(order):
        return build_task(
            entry.form, spread(pool, order), official and spread(official, order), splits, {}, balance=balance
        )

    try:
        data = build(0)
    except DataError as error:  # so few words that all rows belong together, or that a part has one label
        event(re.sub(r"[0-9'].*", "", str(error)))
        return
    part_of = dict(data.frame.select("example_id", "part").iter_rows())
    assert len(part_of) == data.frame.height
    keys: dict[str, set[str]] = {}
    for rows, allowed in (
        (pool, set(part_of.values()) - ({"test"} if official else set())),
        (official or [], {"test"}),
    ):
        for row in rows:
            if part_of.get(row_id(entry.form, row)) in allowed:
                for shared in row_keys(entry.form, row):
                    keys.setdefault(shared, set()).add(part_of[row_id(entry.form, row)])
    assert all(len(parts) == 1 for parts in keys.values())
    if entry.form == "classify":
        texts = [(normalise(text), part) for text, part in data.frame.select("text", "part").iter_rows()]
        assert len({text for text, _ in texts}) == len(set(texts))
        if balance != "never":
            assert data.part("test")["label"].mean() == 0.5
        if balance == "always":
            assert set(data.frame.group_by("part").agg(pl.col("label").mean())["label"]) == {0.5}
    assert build(1).frame.equals(data.frame)  # whatever the order of rows


def accuracy_of_a_bag_of_words(rows, shuffled_seed=0):
    """Held-out accuracy of logistic regression on all that is no content: words, lengths, line breaks, marks."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    counts = (
        CountVectorizer(token_pattern=r"\w+|[^\w\s]|\n", lowercase=False).fit_transform(r for r, _ in rows).toarray()
    )
    lengths = np.array([[len(text), text.count("\n"), text.count(" ")] for text, _ in rows])
    features = StandardScaler().fit_transform(np.hstack([counts, lengths]))
    labels = np.array([label for _, label in rows])
    order = np.random.default_rng(shuffled_seed).permutation(len(rows))
    train, test = order[: len(rows) // 2], order[len(rows) // 2 :]
    model = LogisticRegression(C=0.1, max_iter=300).fit(features[train], labels[train])
    return model.score(features[test], labels[test]), len(test)


def shows_the_label(entry, choices):
    """Whether the label can be told from the format: contents are words drawn without regard to it.

    The bound is four standard errors of guessing: at 500 rows a leak in about a fifth of them is seen.
    """
    examples = []
    for row in of(entry, make_rows(entry.key, 500, seed=5), choices):
        if entry.form == "classify":
            examples.append((row.text, row.label))
        else:  # either reply behind the prompt: is it the preferred one?
            examples += [(row.prompt + row.chosen, 1), (row.prompt + row.rejected, 0)]
    majority = max(np.mean([label for _, label in examples]), 1 - np.mean([label for _, label in examples]))
    accuracy, n = accuracy_of_a_bag_of_words(examples)
    return accuracy >= majority + 4 * 0.5 / n**0.5


@pytest.mark.parametrize("choices", ["expand", "sample"])
@pytest.mark.parametrize("key", ALL)
def test_no_formatter_shows_the_label(key, choices):
    entry = datasets()[key]
    if entry.kind != "choice" and choices == "sample":
        pytest.skip("has no choices")
    assert not shows_the_label(entry, choices)


@pytest.mark.parametrize("key", ALL)
def test_a_leak_planted_in_a_formatter_is_seen(key):
    """The bugs of public code: the answer at the end of the text; right answers as letters, wrong ones as texts."""
    entry = datasets()[key]

    def leaky(row):
        match made := entry.convert(row):
            case Statement():
                return dataclasses.replace(made, text=f"{made.text}\n{['no', 'yes'][made.label]}")
            case Question():
                options = tuple("B" if i == made.right else option for i, option in enumerate(made.options))
                return dataclasses.replace(made, options=options)
            case Pair():
                return dataclasses.replace(made, chosen=made.chosen.rstrip(), rejected=f"{made.rejected} ")

    assert shows_the_label(dataclasses.replace(entry, convert=leaky), "expand")


@pytest.mark.parametrize("leak", ["letter", "length", "break"])
def test_the_bag_of_words_would_see_a_leak(leak):
    rng = np.random.default_rng(0)
    marks = {"letter": (" A", ""), "length": (" " + WORDS[0], ""), "break": ("\n", "")}[leak]
    rows = [(f"{' '.join(rng.choice(WORDS, 6))}{marks[i % 2]}", i % 2) for i in range(500)]
    assert accuracy_of_a_bag_of_words(rows)[0] > (0.6 if leak == "length" else 0.95)


# -- balance, sizes --------------------------------------------------------------------------------------------


def statements(labels, prefix=""):
    from w2s.tasks.build import Row

    return [Row(text=f"{prefix}statement {i}", label=label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("share", "balance", "balanced"),
    [
        (0.54, "paper", False),
        (0.56, "paper", True),
        (0.80, "paper", True),
        (0.54, "always", True),
        (0.80, "never", False),
    ],
)
def test_the_larger_class_is_cut_as_the_paper_does(share, balance, balanced):
    ones = round(600 * share)
    pool, test = statements([1] * ones + [0] * (600 - ones)), statements([1] * 60 + [0] * 40, "test ")
    data = build_task("classify", pool, test, SplitSpec(), {}, balance=balance)
    parts = {part: data.part(part)["label"].mean() for part in ("supervise", "transfer/0", "validation")}
    assert all(abs(mean - 0.5) < 1e-9 for mean in parts.values()) == balanced
    assert (data.part("test")["label"].mean() == 0.5) == (balance != "never")
    assert data.dropped.get("unbalanced", 0) + data.dropped.get("not_needed", 0) + data.frame.height == 700
    if balance == "never":
        assert data.frame.equals(build_task("classify", pool, test, SplitSpec(), {}).frame)


def test_a_capped_test_is_balanced_too_and_another_seed_leaves_other_rows_out():
    pool, test = statements([1] * 500 + [0] * 100), statements([1] * 300 + [0] * 100, "test ")
    frames = [
        build_task("classify", pool, test, SplitSpec(test=100, split_seed=seed), {}, balance="paper").frame
        for seed in (0, 1)
    ]
    for frame in frames:
        part = frame.filter(pl.col("part") == "test")
        assert (part.height, part["label"].sum()) == (100, 50)
    assert set(frames[0]["example_id"]) != set(frames[1]["example_id"])


def test_one_class_is_refused_when_balancing_leaves_nothing():
    with pytest.raises(DataError, match="all rows to train on that can be used have one label"):
        build_task("classify", statements([1] * 100), None, SplitSpec(), {}, balance="always")


def test_files_may_be_balanced_as_well(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": int(i % 5 > 0)} for i in range(400)])
    spec = FilesTask(name="a", source="files", train=(str(tmp_path / "a.jsonl"),))
    assert load_task(spec).frame["label"].mean() > 0.7
    assert load_task(spec.model_copy(update={"balance": "paper"})).frame["label"].mean() == 0.5


def test_expanded_questions_are_balanced_also_where_a_copy_is_left_out(tmp_path):
    rows = make_rows("sciq", 300)
    rows += [
        {**row, "distractor1": "x", "distractor2": "x", "distractor3": "x"} for row in rows[:80]
    ]  # the right rows twice
    write(tmp_path / "sciq" / "train.jsonl", rows)
    write(tmp_path / "sciq" / "test.jsonl", make_rows("sciq", 40, seed=9))
    frame = load_task(task("sciq", tmp_path)).frame
    assert set(frame.group_by("part").agg(pl.col("label").mean())["label"]) == {0.5}


def test_of_very_many_rows_those_of_smallest_hash_are_used_whatever_their_order(tmp_path):
    rows, test = make_rows("cola", 300), make_rows("cola", 50, seed=1)
    for root, order in (("a", rows), ("b", rows[::-1])):
        write(tmp_path / root / "cola" / "train.jsonl", order)
        write(tmp_path / root / "cola" / "validation.jsonl", test)
    found = [load_task(task("cola", tmp_path / root, max_rows=120, balance="never")) for root in "ab"]
    assert found[0].frame.equals(found[1].frame)
    assert found[0].dropped["beyond_max_rows"] == 180
    assert len(set(found[0].frame["text"])) < 175
    assert load_task(task("cola", tmp_path / "a", max_rows=None)).frame.height > found[0].frame.height


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_large_files_are_read_in_pieces_to_the_same_rows_and_few_are_kept(ending, tmp_path, monkeypatch):
    rows = make_rows("amazon_polarity", 3000)
    write(tmp_path / "amazon_polarity" / f"train{ending}", rows)
    write(tmp_path / "amazon_polarity" / f"test{ending}", make_rows("amazon_polarity", 50, seed=1))
    spec = task("amazon_polarity", tmp_path, max_rows=100)
    whole = load_task(spec).frame
    held = []

    class Watched(Mapping):
        """A table's columns; counts how many tables are held at a time."""

        def __init__(self, columns):
            self.columns = columns
            alive.add(self)
            held.append(len(alive))

        def __getitem__(self, name):
            return self.columns[name]

        def __iter__(self):
            return iter(self.columns)

        def __len__(self):
            return len(self.columns)

        __hash__ = object.__hash__

    def watched(entry, files):
        return (dataclasses.replace(piece, columns=Watched(piece.columns)) for piece in read_split(entry, files))

    alive = weakref.WeakSet()
    for module in ("tables", "catalogued"):
        monkeypatch.setattr(f"w2s.tasks.{module}.PIECE", 60)
    monkeypatch.setattr("w2s.tasks.catalogued.read_split", watched)
    assert load_task(spec).frame.equals(whole)
    assert len(held) >= (3000 + 50) // 60
    assert max(held) <= 3  # the one in hand, the next, and what the interpreter has not let go of yet


def test_a_statement_of_the_catalogue_is_the_one_that_users_write():
    from w2s import tasks

    assert tasks.Statement is Statement


# -- real files ------------------------------------------------------------------------------------------------


def linked(folder, key, **files):
    (folder / key).mkdir(parents=True)
    for split, file in files.items():
        if not file.is_file():
            pytest.skip(f"no {file}")
        (folder / key / (split + file.name[file.name.index(".") :])).symlink_to(file)
    return folder


def test_real_science_questions(shared_data, tmp_path):
    data = load_task(task("openbookqa", shared_data / "nlp" / "openbookqa"))
    assert data.part("test").height == 1000  # 500 questions, a right and a wrong answer each
    assert data.part("test")["label"].mean() == 0.5
    sampled = load_task(task("openbookqa", shared_data / "nlp" / "openbookqa", choices="sample"))
    assert 440 < sampled.part("test").height <= 500


def test_real_film_reviews(shared_data, tmp_path):
    folder = linked(
        tmp_path, "sst2", train=shared_data / "nlp/sst2/train.tsv.gz", dev=shared_data / "nlp/sst2/dev.tsv.gz"
    )
    data = load_task(task("sst2", folder))
    assert data.part("test").height == 2 * min((data.part("test")["label"] == y).sum() for y in (0, 1)) > 840


def test_real_reading_questions(shared_data, tmp_path):
    folder = linked(tmp_path, "cosmos_qa", validation=shared_data / "nlp/cosmosqa/valid.csv.gz")
    data = load_task(task("cosmos_qa", folder, train=["validation"], test="none"))
    assert 100 < data.dropped["no_right_choice"] < 500
    assert not data.frame["text"].str.to_lowercase().str.contains("none of the above choices").any()
    assert data.frame["label"].mean() == 0.5
    contexts = data.frame.with_columns(context=pl.col("text").str.split("\nQuestion: ").list.first())
    assert (contexts.group_by("context").agg(pl.col("part").n_unique())["part"] == 1).all()


@pytest.mark.parametrize(("name", "sizes"), [("hate", (9000, 2970)), ("offensive", (11_916, 860))])
def test_real_tweets(shared_data, name, sizes):
    from w2s.tasks import read_rows

    spec = task(f"tweet_eval-{name}", shared_data / "nlp" / "tweet_eval")
    rows = read_rows(spec)
    assert tuple(rows.read.values()) == sizes == datasets()[f"tweet_eval-{name}"].rows
    data = load_task(spec)
    assert all(data.part(part)["label"].mean() == 0.5 for part in data.frame["part"].unique())


def test_real_preference_pairs(shared_data, tmp_path):
    folder = shared_data / "preference"
    files = {
        "train": folder / "hh_harmless_single_turn_train_gt.jsonl.gz",
        "test": folder / "hh_harmless_single_turn_test.jsonl.gz",
    }
    data = load_task(task("anthropic_hh", linked(tmp_path, "anthropic_hh", **files)))
    assert data.form == "compare"
    assert data.frame["prompt"].str.ends_with("\n\nAssistant:").all()
    assert abs(data.frame["label"].mean() - 0.5) < 4 * 0.5 / data.frame.height**0.5  # a coin says which comes first
    test, rest = data.part("test"), data.frame.filter(pl.col("part") != "test")
    assert not set(test["prompt"]) & set(rest["prompt"])
    assert not {*test["first"], *test["second"]} & {*rest["first"], *rest["second"]}
