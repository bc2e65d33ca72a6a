import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from w2s.config import FactsCorpus, PretrainSettings, RungShape, WidthRule
from w2s.corpora import facts_tokenizer
from w2s.errors import TrainingError
from w2s.finetune import HERE, Placement
from w2s.ladder import Blocks, language_model_loss, new_llama, peak_rate, pretrain

CPU = torch.device("cpu")
SHAPE = RungShape(hidden_size=8, layers=1, heads=2, tokens=16 * 4 * 30)


def go(tmp_path, *, placement=HERE, **changes):
    settings = PretrainSettings(**{"batch_size": 16, "warmup_steps": 3, "corpus": FactsCorpus()} | changes)
    return pretrain(
        SHAPE,
        settings,
        0,
        tokenizer=facts_tokenizer(),
        cache_dir=tmp_path,
        device=CPU,
        identity="x",
        placement=placement,
    )


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


def test_the_peak_rate_follows_the_width_rule_up_to_its_bound():
    settings = PretrainSettings()
    assert peak_rate(settings, 64) == pytest.approx(0.11 / 64)
    assert peak_rate(settings, 4) == 0.02
    assert peak_rate(PretrainSettings(learning_rate=0.5), 4) == 0.5
    assert peak_rate(PretrainSettings(learning_rate=WidthRule(value=1e-3, reference_width=8, exponent=0)), 4) == 1e-3


def test_the_smallest_rung_of_the_offline_ladder_has_1724_parameters():
    shape = RungShape(hidden_size=4, layers=1, heads=2, tokens=1)
    model = new_llama(shape, vocab_size=364, positions=64, tokenizer=facts_tokenizer(), seed=0)
    assert sum(p.numel() for p in model.parameters()) == 1724


def test_weights_start_with_the_spread_that_small_models_need():
    shape = RungShape(hidden_size=64, layers=1, heads=4, tokens=1)
    model = new_llama(shape, vocab_size=364, positions=64, tokenizer=facts_tokenizer(), seed=0)
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.5 / 8, rel=0.05)


def test_the_loss_is_the_librarys_own_on_every_token_after_the_first():
    shape = RungShape(hidden_size=8, layers=2, heads=2, tokens=1)
    model = new_llama(shape, vocab_size=364, positions=64, tokenizer=facts_tokenizer(), seed=0).eval()
    ids = torch.randint(0, 364, (5, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(ids).logits
        expected = cross_entropy(logits[:, :-1].reshape(-1, 364), ids[:, 1:].reshape(-1), reduction="sum")
        torch.testing.assert_close(language_model_loss(model, ids), expected)


def test_every_pass_over_shuffled_rows_has_its_own_order_and_misses_none():
    blocks = Blocks(np.arange(10)[:, None], batch_size=4, steps=5, seed=0, shuffled=True)
    read = np.concatenate([blocks.batch(step) for step in range(5)]).ravel()
    assert sorted(read[:10]) == sorted(read[10:]) == list(range(10))
    assert read[:10].tolist() != read[10:].tolist()


def test_pretraining_stopped_and_resumed_ends_with_the_same_bits(tmp_path):
    undisturbed = go(tmp_path)

    class Stopped(Exception):
        pass

    calls = itertools.count(1)

    def stop(_fraction):
        if next(calls) == 17:
            raise Stopped

    with pytest.raises(Stopped):
        go(tmp_path, placement=Placement(scratch_dir=tmp_path, checkpoint_every_seconds=0.0, on_progress=stop))
    told = []
    resumed = go(tmp_path, placement=Placement(scratch_dir=tmp_path, on_progress=told.append))
    assert told[0] == pytest.approx(17 / 30)
    assert torch.equal(weights(resumed), weights(undisturbed))
    assert resumed.history == undisturbed.history


def test_a_pretraining_rate_too_high_is_refused_with_the_cure(tmp_path):
    with pytest.raises(TrainingError, match=r"pretraining loss is nan .* hidden_size 8: its peak is 1e\+30; lower"):
        go(tmp_path, learning_rate=1e30, clip_norm=None)
