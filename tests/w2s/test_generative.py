import itertools
import json

import numpy as np
import pytest
import torch
from stand_ins import quick
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from w2s import generative
from w2s.config import ModelSource
from w2s.data import Examples, TokenisedTask, Tokens, load_tokenised
from w2s.distributed import HERE, Placement, Shard
from w2s.errors import DataError, ModelError, TrainingError
from w2s.experiment import HISTORY_SCHEMA
from w2s.flops import Work
from w2s.generative import finetune_language_model, next_token_loss, save, texts_of
from w2s.models import load_scorer, load_tokenizer
from w2s.prompting import load_causal_lm

CPU = torch.device("cpu")
CAUSAL = ("gpt2", "llama", "qwen2", "gpt_neox")


@pytest.fixture
def tokenised(checkpoints, tasks, cache_dir):
    def go(family="llama", form="classify") -> TokenisedTask:
        tokenizer = load_tokenizer(ModelSource(path=checkpoints[family]))
        return load_tokenised(tasks[form], tokenizer, max_length=24, cache_dir=cache_dir)

    return go


@pytest.fixture
def run(checkpoints, tokenised):
    """Finetunes a tiny language model on two parts; keyword arguments change the settings."""

    def go(*, family="llama", form="classify", task=None, parts=("supervise", "transfer/0"), placement=HERE, **changes):
        return finetune_language_model(
            ModelSource(path=checkpoints[family]),
            task or tokenised(family, form),
            parts,
            settings=quick(**{"epochs": 1, "micro_batch_size": 16} | changes),
            seed=5,
            device=CPU,
            identity="x",
            placement=placement,
        )

    return go


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


@pytest.mark.parametrize("form", ["classify", "compare"])
@pytest.mark.parametrize("family", CAUSAL)
def test_the_loss_is_the_librarys_own_mean_over_real_tokens(checkpoints, tokenised, family, form):
    model = load_causal_lm(ModelSource(path=checkpoints[family]), CPU)
    batch = tokenised(family, form).part("transfer/0").batch(np.arange(10))
    real = torch.arange(batch.ids.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
    ids = torch.from_numpy(batch.ids)
    with torch.no_grad():
        loss = next_token_loss(model, batch) / int((batch.lengths - 1).sum())
        expected = model(input_ids=ids, attention_mask=real.long(), labels=ids.masked_fill(~real, -100)).loss
    assert batch.is_padded
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)


def test_rows_of_equal_length_and_single_tokens_are_counted_right(checkpoints):
    model = load_causal_lm(ModelSource(path=checkpoints["llama"]), CPU)
    tokens = Tokens(np.array([1, 70, 71, 1, 80, 81, 90], dtype=np.int32), np.array([0, 3, 6, 7]), np.zeros(3, bool))
    ids = np.array(["a", "b", "c"], dtype=object)
    examples = Examples("classify", ids, np.zeros(3, np.int8), tokens, np.arange(3)[:, None])
    with torch.no_grad():
        equal = next_token_loss(model, examples.batch(np.array([0, 1])))
        with_single = next_token_loss(model, examples.batch(np.array([2, 0, 1])))
        z = model(torch.tensor([[1, 70, 71], [1, 80, 81]])).logits.log_softmax(dim=-1)
    expected = -(z[0, 0, 70] + z[0, 1, 71] + z[1, 0, 80] + z[1, 1, 81])
    torch.testing.assert_close(equal, expected)
    torch.testing.assert_close(with_single, expected)


@pytest.mark.parametrize("form", ["classify", "compare"])
@pytest.mark.parametrize("micro_batch_size", [1, 5])
def test_the_cut_into_micro_batches_does_not_change_the_gradient(checkpoints, tokenised, form, micro_batch_size):
    model = generative.LanguageModel(load_causal_lm(ModelSource(path=checkpoints["llama"]), CPU))
    train = tokenised("llama", form).part("transfer/0")
    gradients, losses = [], []
    for size, shards in ((16, [Shard()]), (micro_batch_size, [Shard()]), (4, [Shard(0, 3), Shard(1, 3), Shard(2, 3)])):
        model.zero_grad()
        settings = quick(micro_batch_size=size)
        parts = [generative._batch_gradient(model, train, np.arange(16), settings, shard) for shard in shards]
        losses.append(float(sum(parts)))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert loss == pytest.approx(losses[0], abs=1e-6)
        torch.testing.assert_close(gradient, gradients[0], atol=1e-6, rtol=0)


def test_micro_batches_give_the_same_training(run):
    whole, cut = run(learning_rate=1e-4), run(learning_rate=1e-4, micro_batch_size=3)
    assert [row["train_loss"] for row in cut.history] == pytest.approx(
        [row["train_loss"] for row in whole.history], abs=1e-5
    )
    assert (whole.micro_batch_size, cut.micro_batch_size) == (16, 3)


def test_the_loss_on_the_texts_falls(run):
    history = run(epochs=5).history
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]


def test_the_same_run_gives_the_same_bits_whatever_the_order_of_parts(run):
    first = run(dropout=0.1)
    again = run(dropout=0.1, parts=("transfer/0", "supervise", "transfer/0"))
    assert torch.equal(weights(first), weights(again))
    assert first.history == again.history


def test_labels_are_never_read(run, tokenised):
    task = tokenised()
    frame = task.data.frame.with_columns(label=1 - task.data.frame["label"])
    flipped = TokenisedTask(type(task.data)(**{**vars(task.data), "frame": frame}), task.tokens)
    assert torch.equal(weights(run(task=flipped)), weights(run()))


def test_both_texts_of_every_pair_are_read(tokenised):
    task = tokenised("llama", "compare")
    train = texts_of(task, ["transfer/0", "supervise"])
    assert sorted(train.rows.ravel()) == sorted(
        row for part in ("supervise", "transfer/0") for row in task.part(part).rows.ravel()
    )
    assert list(train.ids) == sorted(train.ids)
    assert len(train) == len(task.part("supervise")) + len(task.part("transfer/0"))


def test_history_and_work(run, tokenised):
    result = run(epochs=5, batch_size=8)
    train = texts_of(tokenised(), ["supervise", "transfer/0"])
    assert all(set(row) == set(HISTORY_SCHEMA) for row in result.history)
    assert result.steps == 5 * 24  # 192 examples in batches of 8
    assert [row["step"] for row in result.history] == list(range(6, 121, 6))
    assert result.history[-1]["step_fraction"] == 1.0
    lengths = train.tokens.lengths[train.rows.ravel()]
    assert result.trained == Work(5 * int(lengths.sum()), 5 * int((lengths**2).sum()), 5 * 192)
    assert result.history[-1]["tokens"] == result.trained.tokens
    assert result.precision == "fp32"


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2}], ids=["plain", "dropout"])
def test_a_run_stopped_and_resumed_ends_with_the_same_bits(run, tmp_path, changes):
    undisturbed = run(family="gpt2", epochs=4, **changes)

    class Stopped(Exception):
        pass

    calls = itertools.count(1)

    def stop(_fraction):
        if next(calls) == 30:
            raise Stopped

    with pytest.raises(Stopped):
        run(
            family="gpt2",
            epochs=4,
            placement=Placement(scratch_dir=tmp_path, checkpoint_every_seconds=0.0, on_progress=stop),
            **changes,
        )
    told = []
    resumed = run(
        family="gpt2", epochs=4, placement=Placement(scratch_dir=tmp_path, on_progress=told.append), **changes
    )
    assert told[0] == pytest.approx(30 / 48)  # it was stopped at step 30, after the state of step 29
    assert resumed.history == undisturbed.history
    assert torch.equal(weights(resumed), weights(undisturbed))


@pytest.mark.parametrize("family", CAUSAL)
def test_what_is_saved_is_loaded_as_it_was(run, checkpoints, tmp_path, family):
    result = run(family=family, dropout=0.1)
    source = ModelSource(path=checkpoints[family])
    save(result.model, load_tokenizer(source), tmp_path)
    ids = torch.tensor([[5, 70, 80, 90]])
    with torch.no_grad():
        expected = result.model(ids).logits
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits, expected)
        hidden = AutoModel.from_pretrained(tmp_path).eval()(ids).last_hidden_state
        assert torch.equal(result.model.get_output_embeddings()(hidden), expected)
        untrained = load_causal_lm(source, CPU)(ids).logits
    assert not torch.equal(untrained, expected)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(load_tokenizer(source))
    dropouts = {k: v for k, v in json.loads((tmp_path / "config.json").read_text()).items() if "drop" in k}
    published = AutoModelForCausalLM.from_pretrained(checkpoints[family]).config.to_dict()
    assert dropouts == {k: published[k] for k in dropouts}
    load_scorer(ModelSource(path=str(tmp_path)), form="compare", settings=quick(), seed=0, device=CPU)


def test_gradient_checkpointing_changes_memory_and_not_the_result(run):
    plain, thrifty = run(learning_rate=1e-4), run(learning_rate=1e-4, gradient_checkpointing=True)
    assert thrifty.history[-1]["train_loss"] == pytest.approx(plain.history[-1]["train_loss"], abs=1e-6)


def test_bf16_stays_close(run):
    fine, coarse = run(learning_rate=1e-3), run(learning_rate=1e-3, precision="bf16")
    assert coarse.precision == "bf16"
    assert coarse.history[-1]["train_loss"] == pytest.approx(fine.history[-1]["train_loss"], abs=0.05)
    assert all(p.dtype == torch.float32 for p in coarse.model.parameters())


def test_what_cannot_be_trained_so_is_refused(run):
    with pytest.raises(ModelError, match=r"is an encoder \(bert\): .*language-model finetuning need a causal"):
        run(family="bert")
    for tune in ("lora", "head"):
        with pytest.raises(ModelError, match=f"settings say tune: {tune}; set tune: full"):
            run(tune=tune)
    with pytest.raises(DataError, match="no part 'transfer/7'"):
        run(parts=("transfer/7",))
    with pytest.raises(DataError, match="was given no part"):
        run(parts=())


def test_texts_of_single_tokens_are_refused(run, tokenised):
    task = tokenised()
    n = len(task.tokens.lengths)
    single = Tokens(np.full(n, 70, dtype=np.int32), np.arange(n + 1), np.zeros(n, dtype=bool))
    with pytest.raises(DataError, match="every text of supervise is a single token"):
        run(task=TokenisedTask(task.data, single), parts=("supervise",))


def test_a_rate_too_high_is_refused_with_step_and_cure(run):
    with pytest.raises(TrainingError, match=r"loss is nan by step 2 of 12 .* step 1\).* it is 1e\+30; try a third"):
        run(learning_rate=1e30, clip_norm=None)
