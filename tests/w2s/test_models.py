import numpy as np
import pytest
import torch
import transformers
from stand_ins import FAMILIES, make_checkpoint, quick

from w2s.config import LoraSettings, ModelSource
from w2s.data import Batch
from w2s.errors import ModelError
from w2s.models import load_finetuned, load_scorer, load_tokenizer, save_scorer

CPU = torch.device("cpu")


def scorer_of(path, form="classify", *, seed=0, random_head=True, **changes):
    scorer = load_scorer(ModelSource(path=path), form=form, settings=quick(**changes), seed=seed, device=CPU)
    if random_head:
        torch.nn.init.normal_(scorer.head.weight, generator=torch.Generator().manual_seed(1))
    return scorer


def batch_of(rows, pad_to=0, padding=3):
    longest = max(pad_to, *(len(row) for row in rows))
    ids = np.array([row + [padding] * (longest - len(row)) for row in rows])
    return Batch(ids=ids, lengths=np.array([len(row) for row in rows]))


ROWS = [[5, 6, 7], [8, 9, 10, 11, 12], [13], [0, 1, 2, 0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_the_right_does_not_change_what_an_example_scores(family, checkpoints):
    scorer = scorer_of(checkpoints[family])
    with torch.no_grad():
        alone = torch.cat([scorer(batch_of([row])) for row in ROWS])
        together = scorer(batch_of(ROWS))
        far = scorer(batch_of(ROWS, pad_to=12, padding=0))
    assert alone.std() > 0.01  # the comparison below is about different numbers
    # A mask takes another attention kernel; float32 leaves rounding only.
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(far, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_a_causal_model_is_read_at_its_last_real_token(family, checkpoints):
    scorer = scorer_of(checkpoints[family])
    reference = transformers.AutoModelForCausalLM.from_pretrained(checkpoints[family], dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = reference(torch.tensor([ROWS[1]]), output_hidden_states=True).hidden_states[-1]
        outputs = hidden[0, -1] @ scorer.head.weight.T
        got = scorer(batch_of(ROWS))[1]
    torch.testing.assert_close(got, outputs[1] - outputs[0], atol=1e-5, rtol=1e-5)


def test_an_encoder_whose_pooler_was_never_trained_is_read_at_its_first_token(checkpoints):
    scorer = scorer_of(checkpoints["bert"])  # saved with a masked-language-model head, so without pooler
    assert not scorer.pooled
    with torch.no_grad():
        hidden = scorer.body(torch.tensor([ROWS[1]])).last_hidden_state[0, 0]
        outputs = hidden @ scorer.head.weight.T
        torch.testing.assert_close(scorer(batch_of(ROWS))[1], outputs[1] - outputs[0], atol=1e-5, rtol=1e-5)


def test_an_encoder_with_a_trained_pooler_is_read_there(checkpoints, tmp_path):
    config = transformers.AutoConfig.from_pretrained(checkpoints["bert"])
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    scorer = scorer_of(str(tmp_path))
    assert scorer.pooled
    with torch.no_grad():
        outputs = model(torch.tensor([ROWS[1]])).pooler_output[0] @ scorer.head.weight.T
        torch.testing.assert_close(scorer(batch_of([ROWS[1]]))[0], outputs[1] - outputs[0], atol=1e-5, rtol=1e-5)


def test_a_pair_scores_the_second_replys_reward_minus_the_firsts(checkpoints):
    scorer = scorer_of(checkpoints["llama"], form="compare")
    with torch.no_grad():
        margin = scorer(batch_of([ROWS[0], ROWS[1], ROWS[3], ROWS[2]]))
        swapped = scorer(batch_of([ROWS[3], ROWS[2], ROWS[0], ROWS[1]]))
    assert margin.shape == (2,)
    torch.testing.assert_close(swapped, -margin)


def test_a_new_head_is_undecided(checkpoints):
    assert scorer_of(checkpoints["llama"], random_head=False)(batch_of(ROWS)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half_precision_is_finetuned_in_float32(dtype, tmp_path):
    path = make_checkpoint(tmp_path, dtype=dtype)
    assert {p.dtype for p in scorer_of(path).parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_low_rank_adapters_and_the_head_are_all_that_lora_trains(family, checkpoints):
    scorer = scorer_of(checkpoints[family], tune="lora", lora=LoraSettings(rank=2))
    trained = {name for name, p in scorer.named_parameters() if p.requires_grad}
    assert "head.weight" in trained
    assert all("lora_" in name for name in trained - {"head.weight"})
    assert {p.dtype for p in scorer.parameters()} == {torch.float32}
    linear = {name for name, m in scorer.body.named_modules() if hasattr(m, "base_layer")}
    assert len(linear) >= 2 * 4  # attention and MLP of both layers
    assert scorer.adapter_weights() == sum(p.numel() for n, p in scorer.named_parameters() if "lora_" in n)


def test_the_head_is_all_that_a_head_only_run_trains(checkpoints):
    scorer = scorer_of(checkpoints["llama"], tune="head")
    scorer(batch_of(ROWS)).sum().backward()
    assert [name for name, p in scorer.named_parameters() if p.grad is not None] == ["head.weight"]


def test_adapters_start_from_the_runs_seed_alone(checkpoints):
    def weights(seed):
        torch.rand(3)
        scorer = scorer_of(checkpoints["llama"], tune="lora", seed=seed)
        return torch.cat([p.flatten() for n, p in scorer.named_parameters() if "lora_A" in n])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_every_dropout_of_the_model_follows_the_settings(checkpoints):
    for p in (0.0, 0.3):
        modules = scorer_of(checkpoints["gpt2"], dropout=p).modules()
        found = {m.p for m in modules if isinstance(m, torch.nn.Dropout)}
        assert found == {p}


def test_a_second_run_starts_from_the_checkpoint_not_from_the_first_runs_weights(checkpoints):
    first = scorer_of(checkpoints["llama"])
    with torch.no_grad():
        for p in first.body.parameters():
            p.zero_()
    second = scorer_of(checkpoints["llama"])
    assert all(p.abs().sum() > 0 for p in second.body.parameters())


def test_a_folder_that_changed_is_read_again(tmp_path):
    before = scorer_of(make_checkpoint(tmp_path, seed=0))
    after = scorer_of(make_checkpoint(tmp_path, seed=1))
    assert not torch.equal(next(before.body.parameters()), next(after.body.parameters()))


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_a_checkpoint_again_and_scores_the_same(family, tune, checkpoints, tmp_path):
    scorer = scorer_of(checkpoints[family], tune=tune)
    with torch.no_grad():
        for p in scorer.parameters():
            if p.requires_grad:
                p.add_(0.01)
        expected = scorer(batch_of(ROWS))
        save_scorer(scorer, load_tokenizer(ModelSource(path=checkpoints[family])), tmp_path)
        torch.testing.assert_close(scorer(batch_of(ROWS)), expected)
        again = load_finetuned(tmp_path, settings=quick(), device=CPU)
        torch.testing.assert_close(again(batch_of(ROWS)), expected, atol=1e-5, rtol=1e-5)
    original = transformers.AutoConfig.from_pretrained(checkpoints[family])
    saved = transformers.AutoConfig.from_pretrained(tmp_path)
    assert saved.architectures == original.architectures
    assert {k: v for k, v in saved.to_dict().items() if "drop" in k} == {
        k: v for k, v in original.to_dict().items() if "drop" in k
    }
    load_tokenizer(ModelSource(path=str(tmp_path)))


def test_a_checkpoint_that_lacks_weights_is_refused_by_their_names(tmp_path):
    from safetensors.torch import load_file, save_file

    path = make_checkpoint(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "layers.1.mlp" not in k}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 3 of its weights: layers\.1\.mlp\.down_proj\.weight"):
        scorer_of(path)


def test_a_folder_without_a_head_is_not_a_finetuned_model(checkpoints):
    from pathlib import Path

    with pytest.raises(ModelError, match=r"holds no w2s_head\.safetensors"):
        load_finetuned(Path(checkpoints["llama"]), settings=quick(), device=CPU)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_counted_are_those_multiplied(family, checkpoints):
    sizes = scorer_of(checkpoints[family]).sizes()
    # Two layers of width 16: attention 4 x 16 x 16 (Qwen2 has one key-value head of two), MLP 2 or 3 matrices.
    per_layer = {
        "gpt2": 4 * 256 + 2 * 16 * 64,
        "llama": 4 * 256 + 3 * 16 * 32,
        "qwen2": 2 * 256 + 2 * 16 * 8 + 3 * 16 * 32,
        "gpt_neox": 4 * 256 + 2 * 16 * 32,
        "bert": 4 * 256 + 2 * 16 * 32,
    }[family]
    assert sizes.per_token == 2 * per_layer
    assert sizes.per_sequence == 2 * 16
    assert (sizes.layers, sizes.width, sizes.causal) == (2, 16, family != "bert")
