import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import quick
from torch.utils.flop_counter import FlopCounterMode

from w2s.config import ModelSource
from w2s.flops import MatmulSizes, Work, attention_flops, inference_flops, training_flops
from w2s.models import load_scorer

SIZES = MatmulSizes(per_token=1000, per_sequence=10, layers=3, width=8)
WORK = Work(tokens=50, squared_lengths=900, sequences=4)


def test_inference_is_2_flops_per_weight_and_token_plus_attention_worked_by_hand():
    assert inference_flops(SIZES, WORK) == 2 * 1000 * 50 + 2 * 10 * 4 + 2 * 3 * 8 * 900


def test_full_training_is_three_times_inference():
    assert training_flops(SIZES, WORK) == 3 * inference_flops(SIZES, WORK)


def test_lora_saves_the_weight_gradients_of_the_body_and_pays_for_its_adapters():
    expected = 4 * 1000 * 50 + 6 * 70 * 50 + 6 * 10 * 4 + 3 * 2 * 3 * 8 * 900
    assert training_flops(SIZES, WORK, tune="lora", adapter=70) == expected


def test_head_only_training_runs_the_body_forward():
    assert training_flops(SIZES, WORK, tune="head") == inference_flops(SIZES, WORK) + 4 * 10 * 4


def test_an_encoder_attends_to_twice_as_much_as_a_causal_model():
    encoder = MatmulSizes(per_token=1000, per_sequence=10, layers=3, width=8, causal=False)
    assert attention_flops(encoder, WORK) == 2 * attention_flops(SIZES, WORK)


@given(st.integers(1, 5), st.sampled_from(["full", "lora", "head"]))
def test_work_and_flops_are_additive(times, tune):
    assert training_flops(SIZES, WORK * times, tune=tune, adapter=7) == times * training_flops(
        SIZES, WORK, tune=tune, adapter=7
    )
    assert WORK * 2 == WORK + WORK


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_the_count_agrees_with_torchs_own_counter(family, checkpoints):
    scorer = load_scorer(
        ModelSource(path=checkpoints[family]), form="classify", settings=quick(), seed=0, device=torch.device("cpu")
    )
    ids = torch.zeros(3, 10, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        scorer.body(input_ids=ids)
    sizes, work = scorer.sizes(), Work(tokens=30, squared_lengths=300, sequences=3)
    # Torch counts all of a causal model's attention matrix; we count the half that is used. The head is ours alone.
    attention = attention_flops(sizes, work) * (2 if sizes.causal else 1)
    counted = counter.get_total_flops()
    assert counted in (2 * sizes.per_token * 30 + attention, 2 * sizes.per_token * 30)
