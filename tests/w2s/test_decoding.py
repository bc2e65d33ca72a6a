"""Greedy decoding against the library's own, on checkpoints of three families, random and slightly trained."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from w2s.config import ModelSource
from w2s.decoding import Step, completion_of, end_token, greedy, next_logits, reading_groups, stop_tokens
from w2s.kv_cache import is_plain
from w2s.models import load_tokenizer
from w2s.prompting import load_causal_lm

FAMILIES = ("gpt2", "llama", "gpt_neox")
NEW = 12
DEVICE = torch.device("cpu")


@pytest.fixture(scope="module", params=[(f, trained) for f in FAMILIES for trained in (False, True)], ids=str)
def lm(request, checkpoints):
    """A model, and the tokens that end its completions: for a random one, a few that it does say."""
    family, trained = request.param
    model = load_causal_lm(ModelSource(path=checkpoints[family]), DEVICE)
    if trained:  # to go on with the next number, and to end now and then
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(40):
            start = torch.randint(5, 40, (8, 1), generator=torch.Generator().manual_seed(step))
            ids = start + torch.arange(9)
            loss = F.cross_entropy(model(input_ids=ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def prompts_of(n: int, seed: int = 0, longest: int = 20) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 280, size=rng.integers(1, longest + 1)).tolist() for _ in range(n)]


def ours(model, prompts, stops, *, budget=10_000, new=NEW, **more):
    with torch.inference_mode():
        return greedy(
            partial(next_logits, model),
            prompts,
            config=model.config,
            device=DEVICE,
            stops=stops,
            max_new_tokens=new,
            budget=budget,
            **more,
        )


def theirs(model, prompt, stops, new=NEW) -> list[int]:
    ids = torch.tensor([prompt])
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=list(stops),
        pad_token_id=0,
    )
    return made[0, len(prompt) :].tolist()


def common_stops(model, prompts) -> list[int]:
    """Tokens that the model says now and then, so that completions end at many places."""
    said = [token for row in ours(model, prompts, [0]).tokens for token in row]
    tokens, counts = np.unique(said, return_counts=True)
    return tokens[np.argsort(-counts)][1:4].tolist()


def test_tokens_are_those_of_the_library_one_by_one(lm):
    prompts = prompts_of(24)
    stops = common_stops(lm, prompts)
    expected = [theirs(lm, prompt, stops) for prompt in prompts]
    assert ours(lm, prompts, stops).tokens == expected
    assert len({len(row) for row in expected}) > 1  # some ended early


def test_tokens_are_those_of_the_library_in_batches_padded_on_the_left(lm):
    prompts = prompts_of(8, seed=1)
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    made = lm.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW, eos_token_id=None, pad_token_id=0)
    assert ours(lm, prompts, []).tokens == made[:, longest:].tolist()


def test_how_prompts_are_cut_into_batches_changes_nothing(lm):
    prompts = prompts_of(20, seed=2)
    stops = common_stops(lm, prompts)
    alone, together = ours(lm, prompts, stops, budget=1), ours(lm, prompts, stops, budget=10_000)
    assert alone.tokens == together.tokens
    np.testing.assert_allclose(alone.log_prob, together.log_prob, atol=1e-4)
    assert alone.work == together.work


@pytest.mark.parametrize("at_once", [1, 25, 60])
def test_prompts_may_be_read_in_groups_and_rows_take_each_others_places(lm, at_once, monkeypatch):
    monkeypatch.setattr("w2s.decoding.READ_AT_ONCE", at_once)
    prompts = prompts_of(24, seed=5)
    stops = common_stops(lm, prompts)
    decoded = ours(lm, prompts, stops)
    expected = [theirs(lm, prompt, stops) for prompt in prompts]
    assert decoded.tokens == expected
    assert len({len(row) for row in expected}) > 2  # rows left at several places


def test_layers_that_see_a_window_of_tokens_keep_the_librarys_cache():
    config = transformers.MistralConfig(
        vocab_size=280, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, sliding_window=6, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert not is_plain(config)
    prompts = prompts_of(16, seed=6)
    stops = common_stops(model, prompts)
    assert ours(model, prompts, stops).tokens == [theirs(model, prompt, stops) for prompt in prompts]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 100))
def test_reading_groups_hold_every_prompt_once_and_no_more_than_fits(lengths, at_once):
    lengths = np.array(sorted(lengths, reverse=True))
    groups = reading_groups(lengths, at_once)
    assert [i for group in groups for i in range(len(lengths))[group]] == list(range(len(lengths)))
    for group in groups:
        rows = lengths[group]
        assert len(rows) == 1 or len(rows) * rows[0] <= at_once


def test_prompts_of_one_length_need_no_mask(lm):
    prompts = [row[:5] for row in prompts_of(40, seed=3) if len(row) >= 5]
    assert ours(lm, prompts, []).tokens == [theirs(lm, prompt, [279]) for prompt in prompts]


def test_log_probabilities_are_those_of_a_forward_pass_over_the_whole_text(lm):
    prompts = prompts_of(6, seed=4)
    decoded = ours(lm, prompts, common_stops(lm, prompts))
    for prompt, said, log_prob in zip(prompts, decoded.tokens, decoded.log_prob, strict=True):
        with torch.inference_mode():
            z = lm(input_ids=torch.tensor([prompt + said])).logits[0].log_softmax(dim=-1)
        each = [z[len(prompt) - 1 + i, token] for i, token in enumerate(said)]
        assert float(torch.stack(each).mean()) == pytest.approx(float(log_prob), abs=1e-4)


class Script:
    """Stands for a model: after the prompt [k, ...] it says k, k-1, ..., 0, and 0 ends."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, step: Step) -> torch.Tensor:
        self.rows.append(len(step.ids))
        last = step.ids[:, -1]
        said = last if step.cache.get_seq_length() == 0 else last - 1  # the prompt ends in k
        keys = torch.zeros(len(step.ids), 1, step.ids.shape[1], 1)
        step.cache.update(keys, keys, 0)
        return F.one_hot(said, 64).float()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=12),
    st.integers(1, 25),
    st.integers(1, 200),
    st.integers(1, 20),
)
def test_every_prompt_gets_its_own_completion_whatever_leaves_the_batch(rows, new, budget, at_once):
    script = Script()
    prompts = [[63] * (length - 1) + [k] for k, length in rows]
    with mock.patch("w2s.decoding.READ_AT_ONCE", at_once):
        decoded = greedy(
            script, prompts, config=None, device=DEVICE, stops=[0], max_new_tokens=new, budget=budget
        )  # fmt: skip
    expected = [list(range(k, -1, -1))[:new] for k, _ in rows]
    assert decoded.tokens == expected
    assert sum(script.rows) == sum(map(len, expected))  # no row is computed after its end
    assert decoded.work.sequences == sum(map(len, expected))
    assert decoded.work.tokens == sum(len(p) + len(e) - 1 for p, e in zip(prompts, expected, strict=True))


def test_completions_end_at_the_end_of_text_or_of_a_line(checkpoints):
    tokenizer = load_tokenizer(ModelSource(path=checkpoints["gpt2"]))
    stops = stop_tokens(tokenizer, "this one")
    assert end_token(tokenizer, stops) == tokenizer.eos_token_id
    assert tokenizer.eos_token_id in stops
    assert all("\n" in tokenizer.decode([token]) for token in stops if token != tokenizer.eos_token_id)
    assert tokenizer("\n", add_special_tokens=False)["input_ids"][0] in stops
    said = tokenizer(" red gold", add_special_tokens=False)["input_ids"]
    assert completion_of(tokenizer, [*said, tokenizer.eos_token_id]) == " red gold"
    assert completion_of(tokenizer, tokenizer(" red \ngold", add_special_tokens=False)["input_ids"]) == " red"
    assert completion_of(tokenizer, []) == ""
