import json

import numpy as np
import polars as pl
import pytest
import torch
from stand_ins import quick

from w2s import data, models
from w2s.config import (
    FactsCorpus,
    FinetuneRun,
    MethodSpec,
    ModelSource,
    PretrainRun,
    PretrainSettings,
    RungShape,
    TextCorpus,
    TokenizerRun,
    WidthRule,
)
from w2s.errors import DataError, ModelError, OutOfMemoryError
from w2s.experiment import HISTORY_SCHEMA, METRICS, Inputs, run_one
from w2s.predict import SCHEMA


def ground_truth(tasks, path, *, form="classify", part="supervise", seed=0, **changes):
    source = None if path is None else ModelSource(path=path)
    return FinetuneRun(
        kind="ground_truth", task=tasks[form], model=source, settings=quick(**changes), train_part=part, seed=seed
    )


def transfer(tasks, path, *, form="classify", method="naive", seed=0, **changes):
    return FinetuneRun(
        kind="transfer",
        task=tasks[form],
        model=ModelSource(path=path),
        settings=quick(**changes),
        method=MethodSpec(name=method),
        train_part="transfer/0",
        seed=seed,
    )


@pytest.fixture
def inputs(cache_dir):
    return Inputs(cache_dir=cache_dir)


@pytest.fixture(scope="module")
def weak_labels(tasks, checkpoints, cache_dir):
    result = run_one(ground_truth(tasks, checkpoints["llama"]), Inputs(cache_dir=cache_dir))
    return result.predictions.select("example_id", "p")


@pytest.mark.parametrize("form", ["classify", "compare"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "gpt_neox", "bert"])
def test_a_run_leaves_what_the_contract_says(family, form, tasks, checkpoints, inputs):
    result = run_one(ground_truth(tasks, checkpoints[family], form=form, eval_every=4), inputs)
    assert result.predictions is not None
    assert dict(result.predictions.schema) == SCHEMA
    assert dict(result.history.schema) == HISTORY_SCHEMA
    assert tuple(result.metrics) == METRICS
    json.dumps(result.metrics)
    last = result.predictions.filter(step=result.metrics["steps"])
    assert set(last["split"]) == {"validation", "transfer/0", "test"}
    assert set(result.predictions.filter(step=4)["split"]) == {"validation", "test"}
    frame = data.load_task(tasks[form]).frame.filter(pl.col("part") != "supervise")
    joined = last.join(frame, on="example_id", validate="1:1")
    assert joined.height == frame.height
    assert (joined["gold"] == joined["label"]).all()
    assert (joined["split"] == joined["part"]).all()
    assert result.metrics["n_matmul"] < result.metrics["n_params"]
    assert result.metrics["finetune_flops"] > 6 * result.metrics["train_tokens"] * 1000


def test_the_same_run_gives_the_same_bits_whatever_ran_before_it(tasks, checkpoints, inputs, weak_labels):
    from dataclasses import replace

    inputs = replace(inputs, weak_labels=weak_labels)
    a = transfer(tasks, checkpoints["llama"], method="confidence", micro_batch_size=4, eval_every=3)
    first = run_one(a, inputs)
    torch.manual_seed(12345)
    np.random.seed(1)
    torch.set_num_threads(2)
    run_one(transfer(tasks, checkpoints["llama"], seed=7, dropout=0.1), inputs)
    run_one(ground_truth(tasks, checkpoints["gpt2"], form="compare"), inputs)
    second = run_one(a, inputs)
    assert torch.get_num_threads() == 2  # a run leaves the process as it found it
    models.clear_caches()
    data.clear_caches()
    third = run_one(a, inputs)
    assert first.predictions is not None
    for other in (second, third):
        assert other.predictions.equals(first.predictions)
        assert other.history.equals(first.history)


def test_another_seed_is_another_run(tasks, checkpoints, inputs):
    runs = [run_one(ground_truth(tasks, checkpoints["llama"], seed=seed), inputs).predictions for seed in (0, 1)]
    assert not runs[0].equals(runs[1])


def test_students_also_report_their_loss_against_weak_labels(tasks, checkpoints, cache_dir, weak_labels):
    result = run_one(transfer(tasks, checkpoints["llama"]), Inputs(cache_dir=cache_dir, weak_labels=weak_labels))
    assert result.history["validation_weak_loss"].null_count() == 0
    truth = run_one(ground_truth(tasks, checkpoints["llama"]), Inputs(cache_dir=cache_dir))
    assert truth.history["validation_weak_loss"].null_count() == truth.history.height


def test_the_order_of_weak_labels_does_not_matter(tasks, checkpoints, cache_dir, weak_labels):
    spec = transfer(tasks, checkpoints["llama"])
    straight = run_one(spec, Inputs(cache_dir=cache_dir, weak_labels=weak_labels))
    shuffled = run_one(
        spec, Inputs(cache_dir=cache_dir, weak_labels=weak_labels.sample(fraction=1, shuffle=True, seed=3))
    )
    assert straight.predictions.equals(shuffled.predictions)


def test_weak_labels_of_other_examples_are_refused(tasks, checkpoints, cache_dir):
    foreign = pl.DataFrame({"example_id": ["nobody"], "p": [0.5]})
    with pytest.raises(DataError, match="96 of 96 examples have no weak label"):
        run_one(transfer(tasks, checkpoints["llama"]), Inputs(cache_dir=cache_dir, weak_labels=foreign))


def test_a_smaller_micro_batch_after_running_out_of_memory_is_marked(tasks, checkpoints, cache_dir):
    spec = ground_truth(tasks, checkpoints["llama"], micro_batch_size=8)
    result = run_one(spec, Inputs(cache_dir=cache_dir, micro_batch_divisor=4))
    assert (result.metrics["micro_batch_size"], result.metrics["micro_batch_shrunk"]) == (2, True)


def test_running_out_of_memory_is_told_from_other_failures(tasks, checkpoints, inputs, monkeypatch):
    def exhausted(*_args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1e12 bytes")

    monkeypatch.setattr(models.Scorer, "forward", exhausted)
    with pytest.raises(OutOfMemoryError, match="out of memory in a ground_truth run on cpu"):
        run_one(ground_truth(tasks, checkpoints["llama"]), inputs)


def test_a_run_without_any_model_is_refused(tasks, inputs):
    with pytest.raises(ModelError, match="names no model, and no parent's weights were given"):
        run_one(ground_truth(tasks, None), inputs)


def test_the_width_rule_is_resolved_from_the_checkpoint(tasks, checkpoints, inputs):
    rule = WidthRule(value=4e-3, reference_width=64, exponent=-0.5)  # width 16: twice the value
    result = run_one(ground_truth(tasks, checkpoints["llama"], learning_rate=rule, schedule="constant"), inputs)
    assert result.history["learning_rate"][-1] == pytest.approx(8e-3)


def test_long_texts_are_cut_to_what_the_model_can_read_and_counted(tasks, checkpoints, inputs):
    result = run_one(ground_truth(tasks, checkpoints["llama"], max_length=6), inputs)
    assert result.metrics["truncated"] > 0
    assert result.metrics["train_tokens"] <= 6 * 96


PRETRAIN = PretrainSettings(batch_size=32, warmup_steps=5, corpus=FactsCorpus(world_seed=3))
SHAPE = RungShape(hidden_size=8, layers=1, heads=2, tokens=32 * 4 * 40)


def test_a_rung_pretrained_on_facts_is_a_checkpoint_like_any_other(inputs, tmp_path, cache_dir):
    import transformers

    from w2s.config import FactsTask

    result = run_one(PretrainRun(shape=SHAPE, settings=PRETRAIN, seed=1), inputs)
    assert result.save_weights is not None
    result.save_weights(tmp_path)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    sizes = models.load_checkpoint_sizes(ModelSource(path=str(tmp_path)))
    assert (result.metrics["n_params"], result.metrics["n_matmul"]) == (sizes.n_params, sizes.n_matmul)
    assert result.metrics["train_tokens"] == SHAPE.tokens
    assert tuple(result.metrics) == METRICS
    losses = result.history["train_loss"]
    assert losses[-1] < losses[0] - 0.5
    task = FactsTask(name="facts", source="facts", world_seed=3)
    spec = FinetuneRun(kind="ground_truth", task=task, model=None, settings=quick(), train_part="supervise", seed=0)
    tuned = run_one(spec, Inputs(cache_dir=cache_dir, model_path=str(tmp_path)))
    assert tuned.predictions is not None
    assert tuned.predictions.height == 3600 + 800 + 4800


def test_the_same_rung_has_the_same_weights_twice_and_others_with_another_seed(inputs, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(5)
        run_one(PretrainRun(shape=SHAPE, settings=PRETRAIN, seed=seed), inputs).save_weights(tmp_path / name)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_ladder_on_text_trains_its_tokenizer_and_its_rungs(cache_dir, tmp_path, checkpoints, tasks):
    from stand_ins import sentences

    text = tmp_path / "corpus.txt"
    text.write_text("\n".join(sentences(400, seed=9)))
    corpus = TextCorpus(files=(str(text),), vocab_size=300)
    run_one(TokenizerRun(corpus=corpus), Inputs(cache_dir=cache_dir)).save_weights(tmp_path / "tokenizer")
    settings = PretrainSettings(corpus=corpus, batch_size=8, context=16, warmup_steps=5)
    shape = RungShape(hidden_size=8, layers=1, heads=2, tokens=8 * 16 * 60)
    spec = PretrainRun(shape=shape, settings=settings, seed=0)
    with pytest.raises(ModelError, match="needs the tokenizer that a tokenizer run trained"):
        run_one(spec, Inputs(cache_dir=cache_dir))
    result = run_one(spec, Inputs(cache_dir=cache_dir, tokenizer_path=str(tmp_path / "tokenizer")))
    assert result.metrics["steps"] == 60
    assert result.history["train_loss"][-1] < result.history["train_loss"][0]
    result.save_weights(tmp_path / "rung")
    tuned = run_one(ground_truth(tasks, str(tmp_path / "rung"), max_length=512), Inputs(cache_dir=cache_dir))
    assert tuned.metrics["truncated"] > 0  # the rung never saw more than 16 tokens, so it is not shown more


def test_too_little_text_for_one_window_is_refused(cache_dir, tmp_path):
    text = tmp_path / "corpus.txt"
    text.write_text("red stone\n")
    corpus = TextCorpus(files=(str(text),), vocab_size=260)
    run_one(TokenizerRun(corpus=corpus), Inputs(cache_dir=cache_dir)).save_weights(tmp_path / "tokenizer")
    spec = PretrainRun(shape=SHAPE, settings=PretrainSettings(corpus=corpus), seed=0)
    with pytest.raises(DataError, match=r"corpus\.txt has \d+ tokens, less than one window of context: 128"):
        run_one(spec, Inputs(cache_dir=cache_dir, tokenizer_path=str(tmp_path / "tokenizer")))
