"""Runs in one process that are told to stop, and what they leave to go on from."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from stand_ins import quick

from w2s.config import FactsCorpus, FinetuneRun, GenerativeRun, ModelSource, PretrainRun, PretrainSettings, RungShape
from w2s.distributed import Shard
from w2s.errors import InterruptedRunError
from w2s.experiment import Inputs, run_one
from w2s.resume import STATE_FILE, load_state, save_state


@pytest.fixture
def specs(tasks, checkpoints):
    source, task = ModelSource(path=checkpoints["llama"]), tasks["classify"]
    shape = RungShape(hidden_size=8, layers=1, heads=2, tokens=32 * 4 * 20)
    rung = PretrainSettings(batch_size=32, warmup_steps=5, corpus=FactsCorpus(), learning_rate=1e-3)
    finetune = {"kind": "ground_truth", "task": task, "model": source, "train_part": "supervise", "seed": 0}
    return {
        "finetune": FinetuneRun(**finetune, settings=quick(eval_every=2, dropout=0.1)),
        "texts": GenerativeRun(task=task, model=source, settings=quick(dropout=0.1), parts=("supervise",), seed=0),
        "rung": PretrainRun(shape=shape, settings=rung, seed=0),
    }


def stopped(spec, inputs, after):
    """The message of a run that is told to stop after some steps."""
    asked = iter(range(1, 1000))
    with pytest.raises(InterruptedRunError) as told:
        run_one(spec, replace(inputs, should_stop=lambda: next(asked) == after))
    return str(told.value)


@pytest.mark.parametrize("kind", ["finetune", "texts", "rung"])
def test_a_run_that_is_stopped_twice_ends_with_the_same_bits(specs, cache_dir, tmp_path, kind):
    undisturbed = run_one(specs[kind], Inputs(cache_dir=cache_dir))
    here = Inputs(cache_dir=cache_dir, scratch_dir=tmp_path / "scratch")
    total = undisturbed.metrics["steps"]
    assert total > 4
    saved = "its state is saved, and it goes on from there"
    assert stopped(specs[kind], here, after=1) == f"stopped at step 1 of {total}; {saved}"
    assert stopped(specs[kind], here, after=3) == f"stopped at step 4 of {total}; {saved}"
    resumed = run_one(specs[kind], here)
    assert resumed.history.equals(undisturbed.history)
    if undisturbed.predictions is not None:
        assert resumed.predictions is not None
        assert resumed.predictions.equals(undisturbed.predictions)
    weights = []
    for name, result in (("undisturbed", undisturbed), ("resumed", resumed)):
        assert result.save_weights is not None
        result.save_weights(tmp_path / name)
        weights.append(safetensors.torch.load_file(tmp_path / name / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_run_that_keeps_nothing_says_so(specs, cache_dir):
    told = stopped(specs["finetune"], Inputs(cache_dir=cache_dir), after=2)
    assert told == "stopped at step 2 of 6; it kept no state and will start anew"


def test_a_state_of_another_run_or_a_damaged_one_is_not_used(tmp_path):
    save_state(tmp_path, "this run", {"step": 3, "optimiser": {"flat": torch.ones(2)}})
    loaded = load_state(tmp_path, "this run", Shard())
    assert loaded is not None
    assert loaded["step"] == 3
    assert load_state(tmp_path, "another", Shard()) is None
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:-200])
    assert load_state(tmp_path, "this run", Shard()) is None
    assert load_state(tmp_path / "absent", "this run", Shard()) is None
    assert load_state(None, "this run", Shard()) is None
