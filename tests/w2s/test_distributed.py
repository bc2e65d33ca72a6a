"""Runs on several ranks against the same runs on one, with processes and collectives that are real.

All that needs processes is asked for at once (`many`): starting torch takes longer than training the models here.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import Job, on_ranks
from stand_ins import make_checkpoint, quick

from w2s import models, sharding
from w2s.config import (
    FactsCorpus,
    FinetuneRun,
    GenerativeRun,
    MethodSpec,
    ModelSource,
    PretrainRun,
    PretrainSettings,
    RungShape,
)
from w2s.data import load_tokenised
from w2s.distributed import HERE, Shard, Votes
from w2s.errors import InterruptedRunError, ModelError
from w2s.experiment import Inputs, run_one
from w2s.finetune import _BatchStep
from w2s.methods import Moment, Naive
from w2s.models import load_scorer, load_tokenizer
from w2s.optim import MOMENTS, adamw_for
from w2s.resume import Pace

CPU = torch.device("cpu")
# 15: shares of 8 and 7, cut into micro-batches of 4; 96 examples leave a last batch of 6. The gradient is clipped.
SETTINGS = {"learning_rate": 1e-3, "batch_size": 15, "micro_batch_size": 4, "eval_every": 4, "clip_norm": 0.3}
SETTINGS |= {"weight_decay": 0.1}


@given(st.integers(0, 50), st.integers(1, 9))
def test_the_shares_of_all_ranks_make_the_whole_and_differ_by_at_most_one(n, world):
    shares = [np.arange(n)[Shard(rank, world).slice(n)] for rank in range(world)]
    assert np.concatenate(shares).tolist() == list(range(n))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == Shard(0, world).largest_share(n)


@pytest.fixture(scope="module")
def specs(tasks, checkpoints, tmp_path_factory):
    """Runs by name; `student` needs weak labels, which `inputs` has."""
    incomplete = tmp_path_factory.mktemp("incomplete")
    make_checkpoint(incomplete, "llama")
    weights = safetensors.torch.load_file(incomplete / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(weights, incomplete / "model.safetensors", metadata={"format": "pt"})

    def truth(family, form="classify", path=None, **changes):
        return FinetuneRun(
            kind="ground_truth",
            task=tasks[form],
            model=ModelSource(path=path or checkpoints[family]),
            settings=quick(**SETTINGS | changes),
            train_part="supervise",
            seed=0,
        )

    student = {"kind": "transfer", "train_part": "transfer/0", "method": MethodSpec(name="confidence")}
    shape = RungShape(hidden_size=8, layers=1, heads=2, tokens=31 * 4 * 20)
    rung = PretrainSettings(batch_size=31, warmup_steps=5, corpus=FactsCorpus(), learning_rate=1e-3)
    texts = {"task": tasks["classify"], "parts": ("supervise",), "seed": 0}
    return {
        "gpt2": truth("gpt2"),
        "llama": truth("llama"),
        "gpt_neox": truth("gpt_neox"),
        "bert": truth("bert"),
        "compare": truth("llama", "compare"),
        "student": truth("llama").model_copy(update=student),
        "lora": truth("gpt2", tune="lora"),
        "head": truth("gpt2", tune="head"),
        "recomputed": truth("llama", gradient_checkpointing=True),
        "bf16": truth("llama", precision="bf16", clip_norm=None),
        "incomplete": truth("llama", path=str(incomplete)),
        "answers": truth("llama", "generate", learning_rate=5e-3, epochs=2),
        "answers of gpt2": truth("gpt2", "generate"),
        "texts": GenerativeRun(**texts, model=ModelSource(path=checkpoints["gpt2"]), settings=quick(**SETTINGS)),
        "untied texts": GenerativeRun(
            **texts, model=ModelSource(path=checkpoints["gpt_neox"]), settings=quick(**SETTINGS)
        ),
        "rung": PretrainRun(shape=shape, settings=rung, seed=0),
    }


SHARDED = ("gpt2", "llama", "gpt_neox", "bert", "compare", "student", "lora", "head", "recomputed", "bf16")
SHARDED += ("answers", "answers of gpt2", "texts", "untied texts")
REPLICATED = ("gpt2", "compare", "student", "answers", "texts", "rung")
CASES = [(name, True) for name in SHARDED] + [(name, False) for name in REPLICATED]
STOPPED = [("student", True), ("student", False), ("answers", True), ("texts", True), ("texts", False), ("rung", False)]


@pytest.fixture(scope="module")
def inputs(specs, cache_dir):
    supervisor = run_one(specs["llama"], Inputs(cache_dir=cache_dir)).predictions
    assert supervisor is not None
    labels = supervisor.filter(step=supervisor["step"].max()).select("example_id", "p")
    return Inputs(cache_dir=cache_dir, weak_labels=labels)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def many(specs, inputs, root, tasks, checkpoints):
    """All jobs on two ranks."""
    jobs = {
        (name, sharded): Job(specs[name], inputs, sharded, save_to=root / f"{name}-{sharded}")
        for name, sharded in CASES
    }
    for name, sharded in STOPPED:
        here = replace(inputs, scratch_dir=root / "scratch" / f"{name}-{sharded}")
        jobs["stopped", name, sharded] = Job(specs[name], here, sharded, stop_after=3)
        jobs["resumed", name, sharded] = Job(specs[name], here, sharded)
    for sharded in (True, False):  # to be continued by one process
        here = replace(inputs, scratch_dir=root / "left" / str(sharded))
        jobs["left", sharded] = Job(specs["gpt2"], here, sharded, stop_after=4)
    stop_alone(specs["gpt2"], replace(inputs, scratch_dir=root / "begun"), after=4)
    jobs["continued"] = Job(specs["gpt2"], replace(inputs, scratch_dir=root / "begun"), sharded=True)
    jobs["nothing kept"] = Job(specs["gpt2"], inputs, sharded=True, stop_after=2)
    jobs["not saved"] = Job(specs["gpt2"], replace(inputs, keep_weights=False), sharded=True)
    jobs["incomplete"] = Job(specs["incomplete"], inputs, sharded=True)
    wide = make_checkpoint(root / "wide", "llama", width=64)
    jobs["bytes"] = partial(bytes_held, wide, tasks["classify"], inputs.cache_dir)
    jobs["bf16 gathered"] = partial(with_gpu_policy, Job(specs["bf16"], inputs, sharded=True))
    return on_ranks(jobs, root)


def stop_alone(spec, inputs, after):
    """Stops a run in this process after some steps."""
    asked = iter(range(1, 1000))
    with pytest.raises(InterruptedRunError, match=f"stopped at step {after} of .* its state is saved"):
        run_one(spec, replace(inputs, should_stop=lambda: next(asked) == after))


def assert_as_one(result, one, atol=1e-4):
    """Sums over ranks round differently than over one process."""
    np.testing.assert_allclose(result.history["train_loss"], one.history["train_loss"], atol=atol)
    assert result.history.drop("train_loss", "validation_loss", "validation_weak_loss").equals(
        one.history.drop("train_loss", "validation_loss", "validation_weak_loss")
    )
    if one.predictions is None:
        assert result.predictions is None
        return
    same = ["example_id", "split", "step", "gold"]
    assert result.predictions.select(same).equals(one.predictions.select(same))
    if "log_prob" in one.predictions.columns:
        assert result.predictions["prediction"].equals(one.predictions["prediction"])
    np.testing.assert_allclose(says(result), says(one), atol=atol)


def says(result):
    """How sure a run was of each of its predictions."""
    return result.predictions["log_prob" if "log_prob" in result.predictions.columns else "p"].to_numpy()


@pytest.mark.parametrize(("name", "sharded"), CASES)
def test_two_ranks_train_and_predict_as_one(many, specs, inputs, root, name, sharded):
    one = run_one(specs[name], inputs)
    first, second = many[name, sharded]
    # bfloat16 rounds to 3 digits, and other sums round otherwise.
    assert_as_one(first.result, one, atol=1e-4 if name != "bf16" else 5e-3)
    assert first.result.history.equals(second.result.history)
    if one.predictions is not None:
        assert first.result.predictions.equals(second.result.predictions)
        assert len(np.unique(says(one))) > 20, "a model that says the same of everything would prove nothing"
    sizes = ("n_params", "n_matmul", "train_tokens", "predict_tokens", "finetune_flops", "inference_flops", "steps")
    assert {key: first.result.metrics[key] for key in sizes} == {key: one.metrics[key] for key in sizes}
    assert one.save_weights is not None
    one.save_weights(root / "one" / name)
    theirs, ours = root / f"{name}-{sharded}", root / "one" / name
    assert sorted(p.name for p in theirs.iterdir()) == sorted(p.name for p in ours.iterdir())
    for path in ours.glob("*.safetensors"):
        saved = safetensors.torch.load_file(theirs / path.name)
        for key, value in safetensors.torch.load_file(path).items():
            # Adam divides by the root of the squared gradient: where that is all rounding, so is the step.
            torch.testing.assert_close(saved.pop(key), value, atol=2e-3, rtol=0)
        assert not saved


def test_the_clipping_of_these_runs_is_active(specs, inputs):
    unclipped = specs["gpt2"].model_copy(
        update={"settings": specs["gpt2"].settings.model_copy(update={"clip_norm": None})}
    )
    p = [run_one(spec, inputs).predictions["p"] for spec in (specs["gpt2"], unclipped)]
    assert np.abs(p[0] - p[1]).max() > 1e-3


@pytest.mark.parametrize(("name", "sharded"), STOPPED)
def test_when_one_rank_is_told_to_stop_all_save_and_stop_and_the_run_continues_to_the_same_bits(many, name, sharded):
    for left in many["stopped", name, sharded]:
        assert isinstance(left.error, InterruptedRunError)
        assert str(left.error).startswith("stopped at step 3 of ")
        assert "its state is saved" in str(left.error)
    for resumed, undisturbed in zip(many["resumed", name, sharded], many[name, sharded], strict=True):
        assert resumed.result.history.equals(undisturbed.result.history)
        if undisturbed.result.predictions is not None:
            assert resumed.result.predictions.equals(undisturbed.result.predictions)


@pytest.mark.parametrize("sharded", [True, False])
def test_one_process_continues_what_two_ranks_began(many, specs, inputs, root, sharded):
    assert "stopped at step 4" in str(many["left", sharded][0].error)
    told = []
    here = replace(inputs, scratch_dir=root / "left" / str(sharded), on_progress=told.append)
    assert_as_one(run_one(specs["gpt2"], here), run_one(specs["gpt2"], inputs))
    assert told[0] == pytest.approx(5 / 7)


def test_two_ranks_continue_what_one_process_began(many, specs, inputs):
    assert_as_one(many["continued"][0].result, run_one(specs["gpt2"], inputs))


def test_without_a_scratch_folder_a_run_stops_and_says_that_nothing_is_kept(many):
    for left in many["nothing kept"]:
        assert str(left.error) == "stopped at step 2 of 7; it kept no state and will start anew"


def test_the_weights_are_on_rank_0_alone_and_only_where_somebody_wants_them(many):
    assert [left.made["weights here"] for left in many["gpt2", True]] == [True, False]
    assert [left.made["weights here"] for left in many["gpt2", False]] == [True, True]
    assert [left.made["weights here"] for left in many["not saved"]] == [False, False]


def test_an_error_while_rank_0_reads_the_weights_is_raised_on_every_rank(many):
    for left in many["incomplete"]:
        assert isinstance(left.error, ModelError)
        assert "lacks 1 of its weights" in str(left.error)


def bytes_held(path, task, cache_dir, shard):
    """Bytes of parameters, gradients and moments on this rank, after a step, and of the whole model's."""

    def refuse(*_):
        raise AssertionError("only rank 0 reads the weights")

    if not shard.is_first:
        models._read_body = refuse
    shard = replace(shard, sharded=True)
    source, settings = ModelSource(path=path), quick(**SETTINGS)
    scorer = load_scorer(source, form="classify", settings=settings, seed=0, device=CPU, shard=shard)
    train = load_tokenised(task, load_tokenizer(source), max_length=24, cache_dir=cache_dir).part("supervise")
    optimiser = adamw_for(scorer.parameters(), betas=(0.9, 0.999), weight_decay=0.0, clip_norm=1.0, shard=shard)
    moment = Moment(step_fraction=0.0, weak_prior=0.5, weak_spread=0.5)
    _BatchStep(scorer, train, settings, Naive(), shard)(np.arange(15), torch.zeros(15), moment)
    optimiser.step(1e-3)
    states = optimiser.adam.state
    tensors = [x for p in scorer.parameters() for x in (p, p.grad, *(states[p][name] for name in MOMENTS))]
    # Gradients that were summed together share their storage.
    storages = {x.to_local().untyped_storage().data_ptr(): x.to_local().untyped_storage().nbytes() for x in tensors}
    return sum(storages.values()), sum(4 * 4 * p.numel() for p in scorer.parameters())


def test_a_rank_holds_its_part_of_parameters_gradients_and_moments(many):
    for here, whole in many["bytes"]:
        assert whole > 1_000_000
        assert 0.49 * whole < here < 0.51 * whole


def with_gpu_policy(job, shard):
    """The same on a CPU as a GPU would do it: weights of blocks gathered in bfloat16."""
    from ranks import do

    policy = sharding.block_policy
    sharding.block_policy = lambda device, autocast: policy(torch.device("cuda"), autocast)
    try:
        return do(job, shard)
    finally:
        sharding.block_policy = policy


def test_weights_gathered_in_bfloat16_train_as_autocast_does(many, specs, inputs):
    one = run_one(specs["bf16"], inputs)
    assert_as_one(many["bf16 gathered"][0].result, one, atol=5e-3)


def test_three_ranks_whose_shares_of_a_parameter_are_uneven_or_empty(specs, inputs, tmp_path):
    left = on_ranks({"run": Job(specs["student"], inputs, sharded=True)}, tmp_path, world=3)["run"]
    assert left[0].result.predictions.equals(left[2].result.predictions)
    assert_as_one(left[2].result, run_one(specs["student"], inputs))


def test_alone_every_vote_is_followed_at_once_and_the_loss_is_as_it_was():
    loss = torch.tensor(0.5)
    total, decided = Votes(Shard(), CPU)(loss, True, False)
    assert total is loss
    assert decided == [True, False]


def test_a_gpus_votes_are_read_late_and_after_the_same_number_of_steps_everywhere(monkeypatch):
    class Pair(Shard):
        """Two ranks that always vote the same; there is no GPU here, so only the delay is its own."""

        def sum(self, x):
            return x.mul_(2)

    votes = Votes(Pair(0, 2), CPU)
    monkeypatch.setattr(votes, "_late", 3)
    decided = [votes(torch.tensor(1.0), step == 2, False) for step in range(8)]
    assert [total.item() for total, _ in decided] == [2.0] * 8
    assert [answers for _, answers in decided] == [[step == 2 + 3, False] for step in range(8)]


def test_the_last_step_is_not_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pace = Pace(replace(HERE, scratch_dir=tmp_path, should_stop=lambda: True), "x", 2, CPU)
    pace.sum(torch.zeros(()))
    pace.after(2, dict)
    assert not list(tmp_path.iterdir())
    pace.sum(torch.zeros(()))
    with pytest.raises(InterruptedRunError, match="stopped at step 1 of 2"):
        pace.after(1, lambda: {"step": 1})
    with caplog.at_level("INFO", logger="w2s"):
        assert pace.load() == {"step": 1}
    assert "goes on from step 1 of 2" in caplog.text
