import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from stand_ins import sentences
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from w2s import prompting
from w2s.config import FactsCorpus, FactsTask, ModelSource, PretrainSettings, PromptFormat, RungShape
from w2s.corpora import facts_tokenizer
from w2s.errors import DataError, ModelError
from w2s.flops import Work
from w2s.ladder import pretrain
from w2s.models import load_tokenizer
from w2s.prompting import Shot, build_prompt, causal_sizes, choose_shots, load_causal_lm, score
from w2s.tasks import load_task

CPU = torch.device("cpu")
FACTS = PromptFormat(template="{text}:", answers=(" no", " yes"), separator=". ")
CAUSAL = ("gpt2", "llama", "qwen2", "gpt_neox")


@pytest.fixture(params=CAUSAL)
def folder(request, checkpoints):
    return checkpoints[request.param]


def loaded(folder):
    source = ModelSource(path=str(folder))
    return load_causal_lm(source, CPU), load_tokenizer(source)


def answer_log_probability(folder, prompt_ids, answer_ids):
    """By the library's own model, one token after another, one row at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    row, total = list(prompt_ids), 0.0
    with torch.no_grad():
        for token in answer_ids:
            total += float(model(torch.tensor([row])).logits[0, -1].double().log_softmax(dim=-1)[token])
            row.append(token)
    return total


def test_a_prompt_is_instruction_solved_examples_and_the_question():
    format = PromptFormat(instruction="True?", template="Q: {text}\nA:", answers=(" no", " yes"))
    shots = [Shot("ice is hot", 0), Shot("ice is cold", 1)]
    assert build_prompt(format, shots, "fire is hot") == (
        "True?\n\nQ: ice is hot\nA: no\n\nQ: ice is cold\nA: yes\n\nQ: fire is hot\nA:"
    )
    assert build_prompt(FACTS, [], "Orvale is coastal") == "Orvale is coastal:"


def test_braces_in_texts_and_templates_stand_for_themselves():
    format = PromptFormat(template='{"in": {text}} ->', answers=(" {}", " {0}"))
    prompt = build_prompt(format, [Shot("{text} {x}", 1)], "{0}")
    assert prompt == '{"in": {text} {x}} -> {0}\n\n{"in": {0}} ->'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "Q:"}, 'shows no text; write {text} where it belongs, e.g. "{text}:"'),
        ({"answers": (" yes", " yes")}, "two different texts are needed"),
        ({"answers": (" ", " yes")}, "two different texts are needed"),
    ],
)
def test_a_format_without_text_or_answers_is_refused(changes, message):
    with pytest.raises(ValidationError) as error:
        PromptFormat(**{"template": "{text}:", "answers": (" no", " yes")} | changes)
    assert message in str(error.value)


LABELS = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(labels=LABELS, seed=st.integers(0, 5), data=st.data())
def test_shots_are_balanced_different_and_independent_of_row_order(labels, seed, data):
    labels = np.array(labels)
    ids = np.array([f"{i:03d}" for i in range(len(labels))], dtype=object)
    k = data.draw(st.integers(0, len(labels)))
    chosen = choose_shots(ids, labels, k, seed)
    assert len(set(chosen)) == k
    ones, all_ones = int((labels[chosen] > 0.5).sum()), int((labels > 0.5).sum())
    if min(all_ones, len(labels) - all_ones) >= (k + 1) // 2:
        assert abs(2 * ones - k) <= 1
        assert all(a != b for a, b in zip(labels[chosen][:-1] > 0.5, labels[chosen][1:] > 0.5, strict=True))
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    assert list(ids[order][choose_shots(ids[order], labels[order], k, seed)]) == list(ids[chosen])
    if k:
        assert list(choose_shots(ids, labels, k - 1, seed)) == list(chosen[:-1])


def test_shots_follow_the_seed_and_show_each_class_first_for_some():
    ids, labels = np.arange(100).astype(str).astype(object), np.arange(100) % 2
    chosen = [choose_shots(ids, labels, 5, seed) for seed in range(20)]
    assert len({tuple(c) for c in chosen}) == 20
    assert {int(labels[c[0]]) for c in chosen} == {0, 1}


def test_a_class_that_runs_out_is_filled_up_by_the_other():
    labels = np.array([0.9, 0.1, 0.2, 0.3])
    chosen = choose_shots(np.array(list("abcd"), dtype=object), labels, 4, 0)
    assert sorted(chosen) == [0, 1, 2, 3]
    assert 0 in chosen[:2]


def test_more_shots_than_examples_are_refused():
    with pytest.raises(DataError, match=r"5 shots are wanted, .* has only 2 examples"):
        choose_shots(np.array(["a", "b"], dtype=object), np.array([0, 1]), 5, 0)
    with pytest.raises(DataError, match="not numbers"):
        choose_shots(np.array(["a", "b"], dtype=object), np.array([0, np.nan]), 1, 0)


@pytest.mark.parametrize(
    "answers", [("b", "g"), (" no", " yes"), (" wind fire", " stone")], ids=["one token", "several", "uneven"]
)
def test_scores_are_the_librarys_own_log_probabilities_token_by_token(folder, answers):
    model, tokenizer = loaded(folder)
    prompts = sentences(6)
    encoded = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    assert (max(map(len, encoded)) == 1) == (answers == ("b", "g"))
    expected = [
        answer_log_probability(folder, ids, encoded[1]) - answer_log_probability(folder, ids, encoded[0])
        for ids in (tokenizer(prompt)["input_ids"] for prompt in prompts)
    ]
    scored = score(model, tokenizer, prompts, answers, max_length=64)
    np.testing.assert_allclose(scored.log_odds, expected, atol=2e-5)
    assert np.std(expected) > 0.05
    assert scored.truncated == 0


@pytest.mark.parametrize("answers", [("b", "g"), (" no", " yes stone")])
def test_batches_and_padding_do_not_matter(folder, answers):
    model, tokenizer = loaded(folder)
    prompts = sentences(20)
    one_by_one = [score(model, tokenizer, [p], answers, max_length=64).log_odds[0] for p in prompts]
    for budget in (1, 50, 10_000):
        batched = score(model, tokenizer, prompts, answers, max_length=64, budget=budget).log_odds
        np.testing.assert_allclose(batched, one_by_one, atol=2e-5)


def test_the_short_way_for_answers_of_one_token_equals_the_long_one(folder):
    model, tokenizer = loaded(folder)
    rows = [tokenizer(text)["input_ids"] for text in sentences(12)]
    with torch.inference_mode():
        short, less = prompting._compare_one_token(model, rows, (70, 75), 60, None, prompting.WHOLE)
        long, more = prompting._compare_texts(model, rows, ([70], [75]), 60, None, prompting.WHOLE)
    torch.testing.assert_close(short, long, atol=1e-5, rtol=0)
    assert more.tokens == 2 * less.tokens


def test_what_both_answers_begin_with_counts_for_neither(checkpoints):
    model, tokenizer = loaded(checkpoints["llama"])
    prompts = sentences(5)
    apart = score(model, tokenizer, prompts, (" xa", " xb"), max_length=64)
    within = score(model, tokenizer, [prompt + " x" for prompt in prompts], ("a", "b"), max_length=64)
    np.testing.assert_array_equal(apart.log_odds, within.log_odds)


def test_logits_in_pieces_are_the_same(checkpoints, monkeypatch):
    model, tokenizer = loaded(checkpoints["gpt2"])
    whole = score(model, tokenizer, sentences(9), (" no", " yes"), max_length=64).log_odds
    monkeypatch.setattr(prompting, "LOGITS_AT_ONCE", 1000)  # three positions
    np.testing.assert_allclose(score(model, tokenizer, sentences(9), (" no", " yes"), max_length=64).log_odds, whole)


def test_long_prompts_lose_their_left_but_not_the_special_token(checkpoints, monkeypatch):
    model, tokenizer = loaded(checkpoints["llama"])
    seen, real = [], prompting.hidden_states

    def recorded(model, ids, lengths):
        seen.extend(ids.tolist())
        return real(model, ids, lengths)

    monkeypatch.setattr(prompting, "hidden_states", recorded)
    long, short = "red green blue stone river", "red"
    scored = score(model, tokenizer, [long, short], ("b", "g"), max_length=8, budget=1)
    ids = tokenizer(long)["input_ids"]
    assert len(ids) > 8
    assert seen[0] == [tokenizer.bos_token_id, *ids[-7:]]
    assert seen[1] == tokenizer(short)["input_ids"]
    assert scored.truncated == 1
    assert len(scored.log_odds) == 2


def test_special_tokens_behind_a_prompt_are_left_out(checkpoints):
    model, tokenizer = loaded(checkpoints["llama"])
    closing = copy.deepcopy(tokenizer)
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    special = [(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)]
    closing.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A {eos}", special_tokens=special)
    assert closing("red")["input_ids"][-1] == tokenizer.eos_token_id
    expected, seen = (score(model, t, sentences(3), ("b", "g"), max_length=20) for t in (tokenizer, closing))
    np.testing.assert_array_equal(seen.log_odds, expected.log_odds)


def test_an_answers_tokens_take_their_room_from_the_prompt(checkpoints):
    model, tokenizer = loaded(checkpoints["llama"])
    n = max(len(tokenizer(a, add_special_tokens=False)["input_ids"]) for a in (" no", " yes"))
    prompts = ["red green blue stone river"] * 2
    scored = score(model, tokenizer, prompts, (" no", " yes"), max_length=n + 1)
    assert scored.truncated == 2
    with pytest.raises(DataError, match=r"max_length 2 leaves no room .* larger by \d+ at least"):
        score(model, tokenizer, prompts, (" no", " yes"), max_length=2)


def test_work_is_counted_in_real_tokens(checkpoints):
    model, tokenizer = loaded(checkpoints["llama"])
    prompts = ["red", "green blue"]
    lengths = [len(tokenizer(p)["input_ids"]) for p in prompts]
    scored = score(model, tokenizer, prompts, ("b", "g"), max_length=64)
    assert scored.work == Work(tokens=sum(lengths), squared_lengths=sum(n * n for n in lengths), sequences=0)
    sizes = causal_sizes(model, head_reads="sequences")
    # Two layers: four attention matrices of 16 x 16, three of the MLP of 16 x 32; the head apart.
    assert (sizes.per_token, sizes.per_sequence) == (2 * (4 * 256 + 3 * 512), 16 * len(tokenizer))
    assert causal_sizes(model, head_reads="every token").per_token == sizes.per_token + sizes.per_sequence


def test_no_prompts_have_no_scores(checkpoints):
    model, tokenizer = loaded(checkpoints["llama"])
    assert score(model, tokenizer, [], ("b", "g"), max_length=64).log_odds.shape == (0,)


def test_answers_that_begin_with_each_other_are_refused(checkpoints):
    model, tokenizer = loaded(checkpoints["llama"])
    with pytest.raises(DataError, match="one begins with the other"):
        score(model, tokenizer, ["red"], ("a", "ab c"), max_length=64)


def test_encoders_are_refused_by_name(checkpoints):
    with pytest.raises(ModelError, match=r"is an encoder \(bert\): prompting .* need a causal language model"):
        load_causal_lm(ModelSource(path=checkpoints["bert"]), CPU)


def test_a_checkpoint_without_its_output_head_is_refused(checkpoints, tmp_path):
    model, tokenizer = loaded(checkpoints["gpt_neox"])
    model.base_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks 1 weights .* saved without its output head"):
        load_causal_lm(ModelSource(path=str(tmp_path)), CPU)


def test_logits_computed_another_way_are_refused(checkpoints, monkeypatch):
    real = prompting.logits
    monkeypatch.setattr(prompting, "logits", lambda model, hidden: 2 * real(model, hidden))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM.* in another way than by its output embedding"):
        prompting._read_causal_lm(ModelSource(path=checkpoints["llama"]), 0.0)


def test_no_run_sees_what_another_did_to_the_model(checkpoints):
    first, tokenizer = loaded(checkpoints["llama"])
    before = score(first, tokenizer, ["red"], ("b", "g"), max_length=64).log_odds
    with torch.no_grad():
        for p in first.parameters():
            p.zero_()
    again = score(loaded(checkpoints["llama"])[0], tokenizer, ["red"], ("b", "g"), max_length=64).log_odds
    np.testing.assert_array_equal(again, before)


def test_words_that_a_tokenizer_cannot_read_are_refused(facts_model):
    model, tokenizer = facts_model
    with pytest.raises(DataError, match=r"the tokenizer cannot read a prompt or answer, such as 'maybe'"):
        score(model, tokenizer, ["Orvale is coastal:"], ("maybe", " yes"), max_length=64)


@pytest.fixture(scope="module")
def facts_model(tmp_path_factory):
    """A small rung that has read three statements per document."""
    torch.set_num_threads(1)
    tokenizer = facts_tokenizer()
    trained = pretrain(
        RungShape(hidden_size=16, layers=1, heads=4, tokens=32 * 10 * 1500),
        PretrainSettings(batch_size=32, corpus=FactsCorpus(statements_per_document=3)),
        0,
        tokenizer=tokenizer,
        cache_dir=tmp_path_factory.mktemp("cache"),
        device=CPU,
    )
    return trained.model, tokenizer


@pytest.mark.parametrize("k", [0, 2])
def test_a_model_of_the_facts_answers_better_than_chance(facts_model, k):
    model, tokenizer = facts_model
    frame = load_task(FactsTask(name="facts", source="facts")).frame
    train, test = (frame.filter(frame["part"] == part) for part in ("supervise", "test"))
    positions = choose_shots(train["example_id"].to_numpy(), train["label"].to_numpy(), k, 0)
    shots = [Shot(train["text"][int(i)], train["label"][int(i)]) for i in positions]
    prompts = [build_prompt(FACTS, shots, text) for text in test["text"]]
    scored = score(model, tokenizer, prompts, FACTS.answers, max_length=64)
    accuracy = ((scored.log_odds > 0) == (test["label"].to_numpy() == 1)).mean()
    assert accuracy > 0.6  # of 4,800 statements: 14 standard errors above chance
