import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s.config import ModelSource
from w2s.data import (
    BatchOrder,
    Examples,
    Tokens,
    attach_weak_labels,
    inference_batches,
    load_tokenised,
    micro_batches,
    shorten,
    tokenise,
)
from w2s.errors import DataError
from w2s.models import load_tokenizer
from w2s.tasks.base import TaskData


def examples_of(lengths, form="classify"):
    per_example = 2 if form == "compare" else 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = Tokens(np.arange(offsets[-1], dtype=np.int32), offsets, np.zeros(len(lengths), dtype=bool))
    n = len(lengths) // per_example
    ids = np.array([f"{i:04d}" for i in range(n)], dtype=object)
    rows = np.arange(len(lengths)).reshape(n, per_example)
    return Examples(form=form, ids=ids, gold=np.zeros(n, dtype=np.int8), tokens=tokens, rows=rows)


def test_a_batch_is_padded_on_the_right_and_knows_its_real_lengths():
    batch = examples_of([2, 3, 1]).batch(np.array([2, 0, 1]))
    assert batch.lengths.tolist() == [1, 2, 3]
    assert [row[:n].tolist() for row, n in zip(batch.ids, batch.lengths, strict=True)] == [[5], [0, 1], [2, 3, 4]]
    assert batch.is_padded


def test_rows_of_equal_length_are_not_padded():
    assert not examples_of([2, 2]).batch(np.array([0, 1])).is_padded


def test_padded_lengths_can_be_rounded_up_for_compilation():
    assert examples_of([5, 3, 9]).batch(np.array([0, 1]), length_multiple=4).ids.shape == (2, 8)


def test_padding_never_goes_beyond_the_longest_text():
    assert examples_of([5, 3, 6]).batch(np.array([0, 1]), length_multiple=4).ids.shape == (2, 6)


def test_a_batch_of_pairs_has_all_first_replies_before_all_second_ones():
    batch = examples_of([1, 2, 3, 4], form="compare").batch(np.array([1, 0]))
    assert batch.lengths.tolist() == [3, 1, 4, 2]


def test_work_counts_real_tokens_and_squared_lengths():
    work = examples_of([2, 3, 1]).work()
    assert (work.tokens, work.squared_lengths, work.sequences) == (6, 14, 3)


@pytest.mark.parametrize(
    ("keep_end", "kept"), [(False, [1, 10, 11, 12, 2]), (True, [1, 12, 13, 14, 2])], ids=["right", "left"]
)
def test_long_texts_lose_tokens_on_one_side_and_keep_their_special_tokens(keep_end, kept):
    row, special = [1, 10, 11, 12, 13, 14, 2], [1, 0, 0, 0, 0, 0, 1]
    assert shorten(row, special, 5, keep_end=keep_end) == kept


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 3), st.integers(0, 2**31))
def test_every_epoch_sees_every_example_once(n, batch_size, epochs, seed):
    order = BatchOrder(n, batch_size, epochs, seed)
    for epoch in range(epochs):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        assert sorted(np.concatenate([order.positions(step) for step in steps])) == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = BatchOrder(50, 50, 2, 0), BatchOrder(50, 50, 2, 1)
    orders = [first.positions(0).tolist(), first.positions(1).tolist(), second.positions(0).tolist()]
    assert len({tuple(order) for order in orders}) == 3


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 12))
def test_micro_batches_cut_a_batch_by_length_and_lose_nobody(lengths, size):
    lengths = np.array(lengths)
    positions = np.random.default_rng(0).permutation(len(lengths))
    pieces = micro_batches(positions, lengths, size)
    assert sorted(np.concatenate(pieces)) == list(range(len(positions)))
    assert all(len(piece) <= size for piece in pieces)
    if len(pieces) > 1:
        longest_first = lengths[positions[np.concatenate(pieces)]]
        assert (np.diff(longest_first) <= 0).all()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 100))
def test_inference_batches_keep_to_their_token_budget_and_lose_nobody(lengths, budget):
    lengths = np.array(lengths)
    batches = list(inference_batches(lengths, budget))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= budget for b in batches)


def labels(**p):
    return pl.DataFrame(
        {"example_id": list(p), "p": list(p.values())}, schema={"example_id": pl.String, "p": pl.Float32}
    )


def test_weak_labels_find_their_example_by_id_whatever_the_row_order():
    weak = pl.DataFrame({"example_id": ["0002", "elsewhere", "0000", "0001"], "p": [0.2, 0.9, 0.0, 0.1]})
    assert attach_weak_labels(examples_of([1, 1, 1]), weak).tolist() == pytest.approx([0.0, 0.1, 0.2])


def test_examples_without_a_weak_label_are_refused_by_name():
    weak = pl.DataFrame({"example_id": ["0001"], "p": [0.2]})
    with pytest.raises(DataError, match=r"2 of 3 examples have no weak label, the first: 0000, 0002; .* same task"):
        attach_weak_labels(examples_of([1, 1, 1]), weak)


def test_two_different_weak_labels_of_one_example_are_refused_by_name():
    weak = pl.DataFrame({"example_id": ["0000", "0000", "0001"], "p": [0.2, 0.3, 0.4]})
    with pytest.raises(DataError, match="1 examples have several weak labels, the first: 0000"):
        attach_weak_labels(examples_of([1, 1]), weak)


def test_a_weak_label_that_is_no_probability_is_refused():
    weak = pl.DataFrame({"example_id": ["0000"], "p": [1.5]})
    with pytest.raises(DataError, match=r"example 0000 is 1\.5, which is no probability"):
        attach_weak_labels(examples_of([1]), weak)


@pytest.mark.parametrize("form", ["classify", "compare"])
def test_tokens_come_back_from_the_disk_as_they_were_made(form, tasks, checkpoints, tmp_path, no_caches):
    from w2s import data

    tokenizer = load_tokenizer(ModelSource(path=checkpoints["llama"]))
    made = load_tokenised(tasks[form], tokenizer, max_length=16, cache_dir=tmp_path)
    data.clear_caches()
    read = load_tokenised(tasks[form], tokenizer, max_length=16, cache_dir=tmp_path)
    assert read.tokens is not made.tokens
    np.testing.assert_array_equal(read.tokens.ids, made.tokens.ids)
    np.testing.assert_array_equal(read.tokens.offsets, made.tokens.offsets)
    data.clear_caches()
    (file,) = (tmp_path / "tokens").iterdir()
    file.write_bytes(b"damaged")
    again = load_tokenised(tasks[form], tokenizer, max_length=16, cache_dir=tmp_path)
    np.testing.assert_array_equal(again.tokens.ids, made.tokens.ids)


def test_pairs_are_tokenised_as_prompt_and_reply_and_cut_on_the_left(tasks, checkpoints, cache_dir):
    tokenizer = load_tokenizer(ModelSource(path=checkpoints["llama"]))
    task = load_tokenised(tasks["compare"], tokenizer, max_length=12, cache_dir=cache_dir)
    row = task.data.frame.row(3, named=True)
    for i, reply in ((6, row["first"]), (7, row["second"])):
        whole = tokenizer(row["prompt"] + reply)["input_ids"]
        got = task.tokens.ids[task.tokens.offsets[i] : task.tokens.offsets[i + 1]].tolist()
        assert len(got) == min(12, len(whole))
        assert got[-5:] == whole[-5:]
        assert task.tokens.cut[i] == (len(whole) > 12)


def test_an_empty_text_is_read_as_one_token(checkpoints):
    from w2s.tasks.base import TaskData

    frame = pl.DataFrame({"example_id": ["a"], "part": ["test"], "label": [0], "text": [""]})
    tokens = tokenise(TaskData("classify", frame, {}), load_tokenizer(ModelSource(path=checkpoints["gpt2"])), 8)
    assert tokens.lengths.tolist() == [1]


def test_a_missing_part_is_refused_with_those_there_are(tasks, checkpoints, cache_dir):
    tokenizer = load_tokenizer(ModelSource(path=checkpoints["llama"]))
    task = load_tokenised(tasks["classify"], tokenizer, max_length=12, cache_dir=cache_dir)
    with pytest.raises(DataError, match=r"no part 'transfer/7'; its parts are supervise, test, transfer/0, validation"):
        task.part("transfer/7")


def test_a_tokenizer_without_words_is_refused():
    """As transformers makes one up for a GPT-2 folder that has none; a WordLevel one knows only its own words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def data(*texts):
        frame = pl.DataFrame({"example_id": list(map(str, range(len(texts)))), "text": texts})
        return TaskData(form="classify", frame=frame, dropped={})

    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>")
    with pytest.raises(DataError, match=r"2 of 3 texts become no token.*'some words'.*\(1 tokens\)"):
        tokenise(data("some words", "more", " "), empty, 8)
    word = Tokenizer(models.WordLevel({"<unk>": 0, "some": 1}, unk_token="<unk>"))
    word.pre_tokenizer = pre_tokenizers.Whitespace()
    known = PreTrainedTokenizerFast(tokenizer_object=word, unk_token="<unk>")
    assert tokenise(data("some", "some more", "nothing"), known, 8).ids.tolist() == [1, 1, 0, 0]
    with pytest.raises(DataError, match="2 of 3 texts become no token, or only unknown ones, such as 'no'"):
        tokenise(data("some", "no", "nothing"), known, 8)
