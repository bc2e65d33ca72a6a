"""The ways in: the registry, fingerprints, summaries, the facts world, and real data where it is at hand."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from w2s.config import Columns, FactsTask, FilesTask, SplitSpec
from w2s.errors import DataError
from w2s.tasks import SOURCES, load_task, summarise, task_fingerprint
from w2s.tasks.base import pair_id, text_id
from w2s.tasks.facts import ENTITIES, PROPERTIES, make_world, statement

SHARED = Path(os.environ.get("W2S_SHARED_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()


def facts(**settings):
    return FactsTask(name="facts", source="facts", **settings)


def shared(*names: str) -> tuple[str, ...]:
    files = [SHARED / name for name in names]
    if not all(file.is_file() for file in files):
        pytest.skip(f"real data is not at hand: no {files[0]}; W2S_SHARED_DATA names the folder")
    return tuple(map(str, files))


def test_planning_needs_no_heavy_library():
    code = (
        "import sys, w2s.tasks, w2s.corpora, w2s.checkpoints;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'tokenizers', 'ray') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_source_is_described():
    assert set(SOURCES) == {"facts", "files", "hub", "catalogue", "python"}
    assert all(name == source.name and source.summary and source.forms for name, source in SOURCES.items())


def test_the_world_is_balanced_and_its_names_are_distinct_words():
    assert len(set(ENTITIES)) == 320
    assert len(set(PROPERTIES)) == 40
    assert all(word.isalpha() for word in ENTITIES + PROPERTIES)
    world = make_world(0)
    assert (world.truth.sum(axis=0) == 160).all()
    assert statement(0, 0) == "Orvale is coastal"


def test_statements_are_told_with_zipf_frequencies():
    frequency = np.sort(make_world(0).frequency.ravel())[::-1]
    assert frequency.sum() == pytest.approx(1)
    ranks = np.arange(1, 12_801)
    np.testing.assert_allclose(frequency * ranks**0.5, frequency[0], rtol=1e-9)  # rounding of one division and root


def test_truth_has_low_rank_structure_with_a_main_effect_of_entities():
    # Signs of a matrix with independent entries would need about all 40 directions for half of the variance.
    values = np.linalg.svd(make_world(0).truth - 0.5, compute_uv=False) ** 2
    assert values[:10].sum() / values.sum() > 0.5
    per_entity = make_world(0).truth.mean(axis=1)
    assert per_entity.std() > 2 * 0.5 / 40**0.5  # twice what fair coins would give


def test_a_world_seed_always_gives_the_same_world_and_another_seed_another():
    make_world.cache_clear()
    first = make_world(3)
    make_world.cache_clear()
    assert (first.truth == make_world(3).truth).all()
    assert 0.4 < (first.truth == make_world(4).truth).mean() < 0.6


def test_facts_splits_by_statement_into_the_recipes_sizes():
    summary = summarise(load_task(facts()))
    assert summary.sizes == {"supervise": 3600, "transfer/0": 3600, "validation": 800, "test": 4800}
    assert summary.dropped == {}
    assert load_task(facts()).frame["text"].n_unique() == 12_800


def test_facts_labels_are_the_worlds_truth():
    truth = {statement(e, p): int(value) for (e, p), value in np.ndenumerate(make_world(5).truth)}
    frame = load_task(facts(world_seed=5)).frame
    assert [truth[text] for text in frame["text"]] == frame["label"].to_list()


def test_facts_pairs_show_each_statement_once_and_prefer_the_true_one():
    data = load_task(facts(form="compare"))
    truth = {statement(e, p): value for (e, p), value in np.ndenumerate(make_world(0).truth)}
    assert summarise(data).sizes == {"supervise": 1800, "transfer/0": 1800, "validation": 400, "test": 2400}
    assert len({*data.frame["first"], *data.frame["second"]}) == 12_800
    for _, _, label, prompt, first, second in data.frame.iter_rows():
        assert prompt == ""
        assert (truth[first], truth[second]) == (label == 0, label == 1)


def test_cutting_the_transfer_part_moves_no_other_part():
    whole, cut = load_task(facts()), load_task(facts(splits={"transfer_parts": 3}))
    for part in ("supervise", "validation", "test"):
        assert whole.part(part).equals(cut.part(part))
    pieces = {text for k in range(3) for text in cut.part(f"transfer/{k}")["text"]}
    assert pieces == set(whole.part("transfer/0")["text"])
    assert [len(cut.part(f"transfer/{k}")) for k in range(3)] == [1200] * 3


def test_rows_are_sorted_and_typed_as_promised():
    frame = load_task(facts()).frame
    assert frame.equals(frame.sort("part", "example_id"))
    assert {name: str(kind) for name, kind in frame.schema.items()} == {
        "example_id": "String", "part": "String", "label": "Int8", "text": "String"
    }  # fmt: skip
    assert frame["example_id"].str.contains("^[0-9a-f]{16}$").all()


def test_an_unknown_part_is_refused_by_name():
    with pytest.raises(KeyError, match="no part 'transfer/7'; the parts are supervise, test, transfer/0, validation"):
        load_task(facts()).part("transfer/7")


def test_ids_depend_on_content_only_and_are_the_same_on_every_machine():
    by_hand = hashlib.sha256(b'["classify", "Orvale is coastal"]').hexdigest()[:16]
    assert text_id("Orvale is coastal") == by_hand == "f58a256b1edbb84e"
    assert pair_id("p", "a", "b") == pair_id("p", "b", "a")
    assert len({pair_id("p", "a", "b"), pair_id("", "pa", "b"), pair_id("pa", "", "b"), text_id("p")}) == 4
    text_id("a lone surrogate \ud83d is legal in JSON")


def test_a_summary_is_json():
    summary = summarise(load_task(facts()))
    again = json.loads(json.dumps(dataclasses.asdict(summary)))
    assert type(summary)(**again) == summary
    assert 10 < summary.mean_characters["test"] < 30
    assert 0.45 < summary.class_balance["test"] < 0.55


def test_a_fingerprint_covers_content_and_settings_but_neither_name_nor_place(tmp_path):
    def fingerprint(folder, name="a", content='{"text": "x", "label": 0}\n', **settings):
        (tmp_path / folder).mkdir(exist_ok=True)
        file = tmp_path / folder / f"{folder}.jsonl"
        file.write_text(content)
        return task_fingerprint(FilesTask(name=name, source="files", train=(str(file),), **settings))

    base = fingerprint("one")
    assert fingerprint("two", name="b") == base
    changed = {
        fingerprint("one", content='{"text": "y", "label": 0}\n'),
        fingerprint("one", form="compare"),
        fingerprint("one", splits=SplitSpec(split_seed=1)),
        fingerprint("one", columns=Columns(text="body")),
    }
    assert len({base, *changed}) == 5
    assert task_fingerprint(facts()) != task_fingerprint(facts(world_seed=1))


def test_a_fingerprint_asks_for_each_files_hash_and_reads_no_rows(tmp_path):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.csv.gz"
    train.write_text("not JSON")
    test.write_text("not gzip")
    asked = []

    def hash_file(path):
        asked.append(path)
        return "0"

    task_fingerprint(FilesTask(name="a", source="files", train=(str(train),), test=(str(test),)), hash_file=hash_file)
    assert asked == [train, test]


def test_a_fingerprint_of_a_missing_file_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match=r'trian\.jsonl: no such file; did you mean "train\.jsonl"\?'):
        task_fingerprint(FilesTask(name="a", source="files", train=(str(tmp_path / "trian.jsonl"),)))


def test_real_sentiment_sentences_keep_their_official_test():
    files = shared("nlp/sst2/train.tsv.gz", "nlp/sst2/dev.tsv.gz", "nlp/sst2/test.tsv.gz")
    spec = FilesTask(
        name="sst2", source="files", train=files[:2], test=files[2:], names=("sentence", "label"),
        columns=Columns(text="sentence"),
    )  # fmt: skip
    summary = summarise(load_task(spec))
    assert summary.sizes["test"] == 1821
    # 6,920 + 872 + 1,821 rows in all; a few sentences occur twice
    assert sum(summary.sizes.values()) + sum(summary.dropped.values()) == 9613
    assert 0 < summary.dropped["duplicates"] + summary.dropped["related_to_test"] < 20


def test_real_preference_pairs_share_their_prompt_and_touch_no_test():
    files = shared(
        *(f"preference/hh_harmless_single_turn_{part}.jsonl.gz" for part in ("train_gt", "train_w2s", "test"))
    )
    spec = FilesTask(
        name="hh", source="files", form="compare", train=files[:2], test=files[2:], prompt_separator="\n\nAssistant:"
    )
    data = load_task(spec)
    assert sum(summarise(data).sizes.values()) + sum(data.dropped.values()) == 12_000
    assert data.dropped["prompts_differ"] < 100
    assert data.frame["prompt"].str.starts_with("\n\nHuman:").all()
    assert data.frame["prompt"].str.ends_with("\n\nAssistant:").all()
    official = data.part("test")
    rest = data.frame.filter(data.frame["part"] != "test")
    for column in ("prompt", "first", "second"):
        assert set(official["prompt"]).isdisjoint(rest["prompt"])
        assert {*official["first"], *official["second"]}.isdisjoint(rest[column])
