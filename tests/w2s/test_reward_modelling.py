"""What `compare` promises: rewards of single texts, Bradley-Terry, soft labels, and prompts shared by both sides."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import FAMILIES, make_checkpoint, quick

from w2s.config import FilesTask, FinetuneRun, MethodSpec, ModelSource
from w2s.data import shorten_pair, tokenise
from w2s.experiment import Inputs, run_one
from w2s.models import load_tokenizer
from w2s.tasks import has_prompts, load_task
from w2s.tasks.base import TaskData

TOKENS = st.lists(st.integers(10, 14), max_size=12)
FRONT, BACK = [1], [2, 3]


def wrapped(text, front, back):
    return [*front, *text, *back], [*[1] * len(front), *[0] * len(text), *[1] * len(back)]


@given(TOKENS, TOKENS, TOKENS, st.integers(1, 24), st.booleans())
def test_both_sides_of_a_pair_keep_the_same_prompt_and_replies_stay_whole_as_long_as_they_can(
    prompt, first, second, room, has_specials
):
    front, back = (FRONT, BACK) if has_specials else ([], [])
    rows, special = zip(*(wrapped([*prompt, *reply], front, back) for reply in (first, second)), strict=True)
    cut = shorten_pair(rows, special, prompt, room + len(front) + len(back))
    texts = [row[len(front) : len(row) - len(back)] for row in cut]
    assert all(row == wrapped(text, front, back)[0] for row, text in zip(cut, texts, strict=True))
    kept = min(len(prompt), max(0, room - max(len(first), len(second))))  # the longer reply decides, for both
    for text, reply in zip(texts, (first, second), strict=True):
        assert text == [*prompt[len(prompt) - kept :], *reply[max(0, len(reply) - room) :]]


@given(TOKENS, TOKENS, st.integers(1, 12))
def test_without_a_prompt_each_side_is_cut_by_itself(first, second, room):
    rows, special = zip(*(wrapped(reply, [], []) for reply in (first, second)), strict=True)
    assert shorten_pair(rows, special, [], room) == [reply[max(0, len(reply) - room) :] for reply in (first, second)]


@given(TOKENS, TOKENS, TOKENS, st.integers(1, 24))
def test_the_length_of_a_reply_cannot_be_told_from_the_prompt_beside_the_other(prompt, first, second, room):
    """A side that fits shows as much of the prompt as the other: what is kept does not say which reply is longer."""
    rows, special = zip(*(wrapped([*prompt, *reply], [], []) for reply in (first, second)), strict=True)
    lost = [len(row) - len(text) for row, text in zip(rows, shorten_pair(rows, special, prompt, room), strict=True)]
    of_prompt = [min(n, len(prompt)) for n in lost]
    assert of_prompt[0] == of_prompt[1]


def test_a_token_that_joins_prompt_and_reply_counts_as_the_replys():
    alone, joined, apart = [10, 11, 12], [10, 11, 20, 21, 22], [10, 11, 12, 23]  # 12 and the reply became 20
    rows, special = [joined, apart], [[0] * len(joined), [0] * len(apart)]
    assert shorten_pair(rows, special, alone, 4) == [[11, 20, 21, 22], [11, 12, 23]]
    assert shorten_pair(rows, special, alone, 3) == [[20, 21, 22], [12, 23]]
    assert shorten_pair(rows, special, alone, 2) == [[21, 22], [12, 23]]


def pairs(*rows):
    columns = dict(zip(("prompt", "first", "second"), map(list, zip(*rows, strict=True)), strict=True))
    n = len(rows)
    frame = pl.DataFrame(
        {"example_id": [f"{i:04d}" for i in range(n)], "part": ["test"] * n, "label": [i % 2 for i in range(n)]}
        | columns
    )
    return TaskData("compare", frame, {})


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_are_cut_alike_with_real_tokenizers(family, checkpoints):
    tokenizer = load_tokenizer(ModelSource(path=checkpoints[family]))
    prompt, short, long = "red green blue stone river:", " cloud", " tree bird house road gold iron salt"
    data = pairs((prompt, short, long), (prompt, long, short), ("", short, long), ("say:", short, short + " red"))
    whole = tokenise(data, tokenizer, 10_000)
    reply_lengths = tokenise(data, tokenizer, 10_000).lengths - np.repeat(
        [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in data.frame["prompt"]], 2
    )
    longest = int(reply_lengths[:2].max()) + 3  # three tokens of the first prompt fit
    cut = tokenise(data, tokenizer, longest)

    def row(tokens, i):
        return tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()

    for i in (0, 1):
        mine, other = row(cut, 2 * i), row(cut, 2 * i + 1)
        assert mine[:3] == other[:3]
        for side, kept in ((2 * i, mine), (2 * i + 1, other)):
            assert kept[3:] == row(whole, side)[-reply_lengths[side] :]
            assert len(kept) == 3 + reply_lengths[side]
    for i in (4, 5, 6, 7):  # fit, and are as they were
        assert row(cut, i) == row(whole, i)
    assert cut.cut.tolist() == [True] * 4 + [False] * 4


def test_special_tokens_stay_around_a_cut_pair():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = ["[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    b, c, d, e = range(4, 8)
    tokens = tokenise(pairs(("a b c", " d", " d e")), tokenizer, 6)
    assert np.split(tokens.ids, tokens.offsets[1:-1])[0].tolist() == [1, b, c, d, 2]
    assert np.split(tokens.ids, tokens.offsets[1:-1])[1].tolist() == [1, b, c, d, e, 2]


def test_a_reply_longer_than_the_context_loses_its_beginning_and_the_other_stays(checkpoints):
    tokenizer = load_tokenizer(ModelSource(path=checkpoints["llama"]))
    long = " tree bird house road gold iron salt"
    tokens = tokenise(pairs(("red green:", long, " cloud")), tokenizer, 8)
    first, second = np.split(tokens.ids, tokens.offsets[1:-1])
    front = tokenizer("")["input_ids"]
    assert first.tolist() == [*front, *tokenizer(long, add_special_tokens=False)["input_ids"][-(8 - len(front)) :]]
    assert tokenizer.decode(second, skip_special_tokens=True) == " cloud"  # nothing of the prompt is left there either


def run(task, checkpoint, cache_dir, *, kind="ground_truth", labels=None, **settings):
    spec = FinetuneRun(
        kind=kind,
        task=task,
        model=ModelSource(path=checkpoint),
        settings=quick(**settings),
        method=None if kind == "ground_truth" else MethodSpec(name="naive"),
        train_part="supervise" if kind == "ground_truth" else "transfer/0",
        seed=3,
    )
    predictions = run_one(spec, Inputs(cache_dir=cache_dir, weak_labels=labels)).predictions
    assert predictions is not None
    return predictions.filter(pl.col("step") == pl.col("step").max())


@pytest.fixture(scope="module")
def supervisor(tasks, checkpoints, cache_dir):
    return run(tasks["compare"], checkpoints["llama"], cache_dir, epochs=4)


def test_the_preferred_reply_is_the_one_with_the_higher_reward(supervisor, tasks):
    """p is sigmoid(r(second) - r(first)), so pair accuracy is how often the preferred one's reward is higher."""
    truth = load_task(tasks["compare"]).frame
    joined = supervisor.join(truth, on="example_id", validate="1:1")
    assert joined.height == supervisor.height
    higher = (joined["p"] > 0.5).cast(pl.Int8)
    assert (joined["prediction"] == higher).all()
    assert (joined["correct"] == (higher == joined["label"])).all()
    assert joined["correct"].to_numpy().mean() > 0.8  # it can be learned


def test_rewards_are_of_single_texts_so_that_three_replies_are_consistent(checkpoints):
    """Log-odds of a pair are a difference of rewards: those of (a, b) and (b, c) add up to that of (a, c)."""
    import torch

    from w2s.data import TokenisedTask
    from w2s.models import load_scorer

    source = ModelSource(path=checkpoints["llama"])
    data = pairs(("say:", " red", " green"), ("say:", " green", " blue stone"), ("say:", " red", " blue stone"))
    scorer = load_scorer(source, form="compare", settings=quick(), seed=0, device=torch.device("cpu")).eval()
    torch.nn.init.normal_(scorer.head.weight, generator=torch.Generator().manual_seed(0))
    examples = TokenisedTask(data, tokenise(data, load_tokenizer(source), 24)).part("test")
    with torch.no_grad():
        ab, bc, ac = scorer(examples.batch(np.arange(3))).tolist()
    assert ab + bc == pytest.approx(ac, abs=1e-5)
    assert abs(ac) > 1e-3


def test_which_slot_holds_a_reply_changes_nothing_but_the_sign(supervisor, tasks, checkpoints, cache_dir, monkeypatch):
    """With first and second exchanged, and labels with them, the same rewards are learned."""
    from w2s import data

    swapped = load_task(tasks["compare"])
    frame = swapped.frame.with_columns(
        first=pl.col("second"), second=pl.col("first"), label=(1 - pl.col("label")).cast(pl.Int8)
    )
    monkeypatch.setattr(data, "load_task", lambda spec: TaskData("compare", frame, swapped.dropped))
    data.clear_caches()
    (fresh := cache_dir / "swapped").mkdir()
    mirrored = run(tasks["compare"], checkpoints["llama"], fresh, epochs=4)
    data.clear_caches()
    joined = supervisor.join(mirrored, on="example_id", validate="1:1")
    np.testing.assert_allclose(joined["p"] + joined["p_right"], 1, atol=1e-4)


def test_students_learn_how_sure_the_supervisor_is(supervisor, tasks, checkpoints, cache_dir):
    """Labels are soft: halving every log-odds of the supervisor keeps the preferred side and changes the student."""
    halved = supervisor.with_columns(p=(1 / (1 + ((1 - pl.col("p")) / pl.col("p")).sqrt())).cast(pl.Float32))
    assert ((halved["p"] > 0.5) == (supervisor["p"] > 0.5)).all()

    def sureness(labels):
        student = run(tasks["compare"], checkpoints["gpt2"], cache_dir, kind="transfer", labels=labels, epochs=8)
        return np.abs(student.filter(pl.col("split") == "transfer/0")["p"].to_numpy() - 0.5).mean()

    assert sureness(halved) < 0.9 * sureness(supervisor)


def test_prompts_of_whole_conversations_are_known_by_their_separator(tasks):
    whole = tasks["compare"].model_copy(
        update={"columns": tasks["compare"].columns.model_copy(update={"prompt": None})}
    )
    assert has_prompts(tasks["compare"])
    assert not has_prompts(whole)
    assert has_prompts(FilesTask.model_validate(whole.model_dump() | {"prompt_separator": "\n\nAssistant:"}))
    assert not has_prompts(tasks["classify"])


def test_real_preference_pairs_are_cut_alike(shared_data, tmp_path):
    file = shared_data / "preference" / "hh_harmless_single_turn_test.jsonl.gz"
    task = FilesTask(name="hh", source="files", form="compare", train=(str(file),), prompt_separator="\n\nAssistant:")
    data = load_task(task)
    data = TaskData(data.form, data.frame.head(200), data.dropped)
    tokenizer = load_tokenizer(ModelSource(path=make_checkpoint(tmp_path)))
    front = len(tokenizer("")["input_ids"])
    whole = tokenise(data, tokenizer, 1_000_000).lengths.reshape(-1, 2) - front
    prompts = np.array([len(ids) - front for ids in tokenizer(data.frame["prompt"].to_list())["input_ids"]])
    replies = whole - prompts[:, None]
    room = int(np.quantile(replies.max(axis=1), 0.5))  # of half of the pairs a reply is cut as well
    cut = tokenise(data, tokenizer, front + room)
    kept = np.clip(room - replies.max(axis=1), 0, prompts)
    assert (cut.lengths.reshape(-1, 2) - front == np.minimum(kept[:, None] + replies, room)).all()
    shown = np.split(cut.ids, cut.offsets[1:-1])
    assert all(
        first[: front + n].tolist() == second[: front + n].tolist()
        for first, second, n in zip(shown[::2], shown[1::2], kept, strict=True)
    )
    assert (kept == 0).any()
    assert ((kept > 0) & (kept < prompts)).any()
