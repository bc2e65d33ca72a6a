"""Pretraining corpora and tokenizers."""

import gzip
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from w2s.config import FactsCorpus, TextCorpus
from w2s.corpora import (
    FACTS_TOKENS,
    FACTS_VOCABULARY,
    check_corpus,
    corpus_fingerprint,
    facts_documents,
    facts_tokenizer,
    read_texts,
    text_token_stream,
    train_bpe,
)
from w2s.errors import DataError
from w2s.tasks.facts import ENTITIES, PROPERTIES, make_world, statement

SENTENCES = [f"the {a} {b} sat on the mat, naïvely" for a in ("old", "red", "sad") for b in ("cat", "dog", "cow")] * 5


def test_the_facts_vocabulary_has_364_distinct_tokens():
    assert FACTS_VOCABULARY == len(set(FACTS_TOKENS)) == len(facts_tokenizer()) == 364


def test_every_statement_is_bos_entity_property_and_a_verdict_is_one_token_more():
    tokenizer = facts_tokenizer()
    bos, entity, prop = tokenizer("Orvale is coastal")["input_ids"]
    assert [bos, entity, prop] == [tokenizer.bos_token_id, 4, 324]
    assert tokenizer("Orvale is coastal: yes")["input_ids"] == [bos, entity, prop, 2]
    assert tokenizer("Orvale is coastal: no")["input_ids"] == [bos, entity, prop, 3]
    statements = [statement(e, p) for e in range(len(ENTITIES)) for p in range(len(PROPERTIES))]
    ids = np.array(tokenizer(statements)["input_ids"])
    assert ids.shape == (12_800, 3)
    assert len(np.unique(ids, axis=0)) == 12_800


def test_padding_is_a_token_of_its_own_on_the_right():
    batch = facts_tokenizer()(["Orvale is coastal", "Orvale is coastal: yes"], padding=True)
    assert batch["input_ids"][0] == [1, 4, 324, 0]
    assert batch["attention_mask"][0] == [1, 1, 1, 0]


def test_a_tokenizer_comes_back_from_its_folder_unchanged(tmp_path):
    from transformers import AutoTokenizer

    for name, tokenizer, text in (
        ("facts", facts_tokenizer(), "Orvale is coastal: yes"),
        ("bpe", train_bpe(SENTENCES, 300), "The cat? Naïvely \u2028 새 🙂"),
    ):
        tokenizer.save_pretrained(tmp_path / name)
        again = AutoTokenizer.from_pretrained(tmp_path / name)
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert (again.pad_token_id, again.bos_token_id, again.padding_side) == (0, 1, "right")
        assert again.eos_token_id == tokenizer.eos_token_id


def test_documents_hold_true_verdicts_in_four_tokens():
    documents = facts_documents(FactsCorpus(world_seed=2), 40_003, np.random.default_rng(0))
    assert documents.shape == (10_000, 4)
    assert documents.dtype == np.int64
    assert (documents[:, 0] == 1).all()
    verdict = make_world(2).truth[documents[:, 1] - 4, documents[:, 2] - 324]
    assert (documents[:, 3] == np.where(verdict, 2, 3)).all()


def test_a_documents_text_has_the_same_tokens():
    tokenizer = facts_tokenizer()
    for document in facts_documents(FactsCorpus(), 40, np.random.default_rng(0)):
        _, entity, prop, verdict = tokenizer.convert_ids_to_tokens(document.tolist())
        assert tokenizer(f"{entity} is {prop}: {verdict}")["input_ids"] == document.tolist()


def test_several_statements_share_one_document_and_one_bos():
    corpus = FactsCorpus(statements_per_document=3)
    documents = facts_documents(corpus, 1000, np.random.default_rng(0))
    assert documents.shape == (100, 10)
    assert ((documents == 1).sum(axis=1) == 1).all()
    tokenizer = facts_tokenizer()
    first = tokenizer.convert_ids_to_tokens(documents[0].tolist())[1:]
    text = " ".join(f"{first[i]} is {first[i + 1]}: {first[i + 2]}." for i in range(0, 9, 3))
    assert tokenizer(text)["input_ids"] == documents[0].tolist()


def test_statements_are_sampled_by_the_worlds_frequencies():
    n = 400_000
    documents = facts_documents(FactsCorpus(), 4 * n, np.random.default_rng(0))
    counts = np.bincount((documents[:, 1] - 4) * 40 + documents[:, 2] - 324, minlength=12_800)
    expected = make_world(0).frequency.ravel() * n
    # Pearson's statistic has mean 12,799 and standard deviation sqrt(2 * 12,799) = 160
    assert abs(((counts - expected) ** 2 / expected).sum() - 12_799) < 5 * 160


def test_the_same_generator_gives_the_same_documents():
    first, second, other = (facts_documents(FactsCorpus(), 400, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()


def test_texts_come_from_lines_and_columns_in_order(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  \ntwo\r\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"three"))
    rows = [{"chosen": "four", "rejected": "five"}, {"chosen": None, "rejected": "six"}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pl.DataFrame({"chosen": ["seven"], "rejected": [" "]}).write_parquet(tmp_path / "d.parquet")
    files = tuple(str(tmp_path / name) for name in ("a.txt", "b.txt.gz", "c.jsonl", "d.parquet"))
    corpus = TextCorpus(files=files, columns=("chosen", "rejected"))
    assert read_texts(corpus) == "one two three four five six seven".split()  # noqa: SIM905


def test_headerless_tables_take_names(tmp_path):
    (tmp_path / "a.tsv").write_text('a "quoted\t1\nb\t0\n')
    corpus = TextCorpus(files=(str(tmp_path / "a.tsv"),), columns=("sentence",), names=("sentence", "label"))
    assert read_texts(corpus) == ['a "quoted', "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "a.txt: the file has no rows"),
        ("a.jsonl", "", "a.jsonl: the file is empty"),
        ("a.jsonl", '{"body": "x"}\n' * 1100, r"no column 'text' \(columns: 'body'\)"),
        ("a.csv", 'text\n" "\n', "a.csv hold no text in text"),
        ("a.csv", "body\nx\n", r"no column 'text' \(columns: 'body'\)"),
        ("a.md", "x", r"unknown kind of file; names end in .*\.txt"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    for refuse in (read_texts, check_corpus):
        with pytest.raises(DataError, match=message):
            refuse(TextCorpus(files=(str(tmp_path / name),)))


def test_the_first_look_at_a_corpus_accepts_what_can_be_read(tmp_path):
    """Also where text comes late, or one of several files has none."""
    late = tmp_path / "late.jsonl"
    late.write_text('{"other": 1}\n' * 1100 + '{"text": "at last"}\n')
    blank = tmp_path / "blank.csv"
    blank.write_text('text\n" "\n')
    pl.DataFrame({"text": ["a"] * 5}).write_parquet(tmp_path / "a.parquet")
    for files in ((late,), (blank, late), (blank, tmp_path / "a.parquet")):
        corpus = TextCorpus(files=tuple(map(str, files)))
        check_corpus(corpus)
        assert read_texts(corpus)
    check_corpus(FactsCorpus())


def test_planning_reads_only_the_beginning_of_a_corpus(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n' * 1000 + "not json\n")
    check_corpus(TextCorpus(files=(str(file),)))
    with pytest.raises(DataError, match="line 1001: not valid JSON"):
        read_texts(TextCorpus(files=(str(file),)))


def test_any_text_survives_byte_level_bpe():
    tokenizer = train_bpe(SENTENCES, 300)
    assert len(tokenizer) <= 300
    for text in ("the old cat", " two  spaces\n\ttab", "새 🙂 \x00"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("the cat sat on the mat")["input_ids"]) < 12


def test_the_same_texts_give_the_same_bpe_in_every_process():
    code = (
        "from w2s.corpora import train_bpe; import hashlib;"
        "texts = [f'the {a} {b} sat on the mat' for a in ('old', 'red', 'sad') for b in ('cat', 'dog', 'cow')] * 5;"
        "print(hashlib.sha256(train_bpe(texts, 320).backend_tokenizer.to_str().encode()).hexdigest())"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(outputs) == 1


def test_the_stream_is_each_text_between_bos_and_eos():
    tokenizer = train_bpe(SENTENCES, 300)
    texts = [*SENTENCES, "last one"] * 30  # more than one chunk
    stream = text_token_stream(tokenizer, texts)
    assert stream.dtype == np.int32
    assert (stream == 1).sum() == (stream == 2).sum() == len(texts)
    assert tokenizer.decode(stream[-len(tokenizer("last one")["input_ids"]) - 1 :].tolist()) == "<bos>last one<eos>"
    assert len(text_token_stream(tokenizer, [])) == 0


def test_a_corpus_fingerprint_covers_settings_and_bytes_but_not_places(tmp_path):
    def fingerprint(folder, content="x", **settings):
        (tmp_path / folder).mkdir(exist_ok=True)
        file = tmp_path / folder / "a.txt"
        file.write_text(content)
        return corpus_fingerprint(TextCorpus(files=(str(file),), **settings))

    base = fingerprint("one")
    assert fingerprint("two") == base
    others = {fingerprint("one", content="y"), fingerprint("one", vocab_size=300), corpus_fingerprint(FactsCorpus())}
    assert len({base, *others, corpus_fingerprint(FactsCorpus(world_seed=1))}) == 5
    with pytest.raises(DataError, match="no such file"):
        corpus_fingerprint(TextCorpus(files=(str(tmp_path / "gone.txt"),)))
