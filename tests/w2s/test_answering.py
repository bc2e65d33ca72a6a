"""Tasks whose answers are words: the loss on answers alone, what runs leave, weak answers, labels made of answers."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import WORDS, quick

from w2s import data
from w2s.answering import Speech, lesson, mean_loss, room_for
from w2s.config import Columns, FilesTask, FinetuneRun, LabelsRun, MethodSpec, ModelSource, SplitSpec
from w2s.data import attach_weak_answers, load_tokenised, unlabelled
from w2s.decoding import stop_tokens
from w2s.errors import DataError, ModelError
from w2s.experiment import METRICS, Inputs, run_one
from w2s.generative import LanguageModel, _batch_gradient
from w2s.kinds.answer_tables import keep_first, vote
from w2s.models import load_tokenizer
from w2s.predict import ANSWERS_SCHEMA
from w2s.prompting import load_causal_lm
from w2s.tasks import JUDGES, load_task, summarise

CPU = torch.device("cpu")


@pytest.fixture
def inputs(cache_dir):
    return Inputs(cache_dir=cache_dir)


@pytest.fixture
def truth(tasks, checkpoints):
    def make(family="llama", task=tasks["generate"], **changes):
        return FinetuneRun(
            kind="ground_truth",
            task=task,
            model=ModelSource(path=checkpoints[family]),
            settings=quick(**changes),
            train_part="supervise",
            seed=0,
        )

    return make


def student(spec):
    return spec.model_copy(update={"kind": "transfer", "train_part": "transfer/0", "method": MethodSpec(name="naive")})


def final(result):
    return result.predictions.filter(step=result.predictions["step"].max())


@pytest.fixture
def taught(tasks, checkpoints, cache_dir):
    """A model, and the supervise part of the task with true answers."""

    def make(family="llama", room=8):
        source = ModelSource(path=checkpoints[family])
        tokenizer = load_tokenizer(source)
        speech = Speech(tokenizer, stop_tokens(tokenizer, "of the stand-ins"), room)
        part = load_tokenised(tasks["generate"], tokenizer, max_length=40, cache_dir=cache_dir).part("supervise")
        return LanguageModel(load_causal_lm(source, CPU)), part, speech

    return make


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_the_loss_is_the_mean_over_answer_tokens_and_the_end_and_never_over_the_prompt(taught, family):
    model, part, speech = taught(family)
    train = lesson(part, list(part.gold), speech)
    positions = np.array([3, 11, 40, 41])
    losses = []
    for i in positions:  # by hand, one row at a time and without padding
        row, end = int(part.rows[i, 0]), speech.tokenizer.eos_token_id
        prompt = part.tokens.ids[part.tokens.offsets[row] : part.tokens.offsets[row + 1]].tolist()
        answer = [*speech.tokenizer(part.gold[i], add_special_tokens=False)["input_ids"], end]
        with torch.no_grad():
            z = model.lm(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
        losses += [-float(z[len(prompt) - 1 + j, token]) for j, token in enumerate(answer)]
        assert train.answers[i] == len(answer)
    lengths = {int(train.examples.lengths[i]) for i in positions}
    assert len(lengths) > 1  # so that rows are padded
    settings = quick(micro_batch_size=4).resolve(width=16, micro_batch_size=4)
    loss = _batch_gradient(model, train.examples, positions, settings, answers=train.answers)
    assert float(loss) == pytest.approx(np.mean(losses), abs=1e-4)


def test_micro_batches_change_neither_loss_nor_gradient(taught):
    found = []
    for size in (1, 3, 16):
        model, part, speech = taught()
        train = lesson(part, list(part.gold), speech)
        settings = quick().resolve(width=16, micro_batch_size=size)
        loss = _batch_gradient(model, train.examples, np.arange(16), settings, answers=train.answers)
        found.append((float(loss), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        torch.testing.assert_close(gradient, found[0][1], atol=1e-5, rtol=1e-4)


def test_the_loss_on_validation_is_the_same_whatever_the_micro_batch(taught):
    model, part, speech = taught()
    train = lesson(part, list(part.gold), speech)
    assert mean_loss(model, train, 1) == pytest.approx(mean_loss(model, train, 50), abs=1e-4)


def test_answers_that_are_too_long_lose_their_end_and_are_counted(taught):
    _, part, speech = taught(room=2)
    answers = [" red", *[" red green blue stone"] * (len(part) - 1)]
    train = lesson(part, answers, speech)
    assert (train.answers <= 2).all()
    assert train.cut >= len(part) - 1
    assert train.examples.truncated() == train.cut
    assert room_for(speech.tokenizer, [" red"], wanted=9) == 9
    short, long = (room_for(speech.tokenizer, [text], wanted=None) for text in (" red", " red green blue stone river"))
    assert 4 < short < long


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_a_run_leaves_what_the_contract_says(truth, inputs, tasks, family):
    result = run_one(truth(family, eval_every=4), inputs)
    assert dict(result.predictions.schema) == ANSWERS_SCHEMA
    assert tuple(result.metrics) == METRICS
    json.dumps(result.metrics)
    assert result.predictions["p"].null_count() == result.predictions.height
    last, frame = final(result), load_task(tasks["generate"]).frame.filter(pl.col("part") != "supervise")
    joined = last.join(frame, on="example_id", validate="1:1")
    assert joined.height == frame.height == last.height
    assert (joined["gold"] == joined["answer"]).all()
    assert (joined["split"] == joined["part"]).all()
    assert (last["correct"] == (last["prediction"].str.strip_chars() == last["gold"].str.strip_chars())).all()
    assert set(result.predictions.filter(step=4)["split"]) == {"validation", "test"}
    assert result.history["validation_loss"].null_count() == 0
    assert result.predictions.equals(result.predictions.sort("split", "step", "example_id"))


def test_a_model_learns_the_rule(truth, inputs):
    spec = truth(epochs=40, learning_rate=1e-2)
    result = run_one(spec, inputs)
    assert final(result)["correct"].mean() > 0.5  # of 20 words; one at random is right at 0.05
    weak = final(result).select("example_id", "prediction")
    assert run_one(student(spec), replace(inputs, weak_labels=weak)).history["validation_weak_loss"].null_count() == 0


def test_a_student_says_what_its_supervisor_said_and_learns_nothing_from_silence(truth, inputs):
    spec = student(truth(epochs=20))
    frame = load_task(spec.task).frame.filter(pl.col("part") != "supervise").sort("example_id")
    silent = frame.with_row_index().filter(pl.col("index") % 2 == 1)["example_id"].implode()
    said = pl.when(~pl.col("example_id").is_in(silent)).then(pl.lit(" stone"))
    weak = frame.select("example_id", prediction=said)
    blank = weak.with_columns(pl.col("prediction").fill_null("  "))
    result = run_one(spec, replace(inputs, weak_labels=weak))
    train = frame.filter(part="transfer/0")
    assert result.metrics["not_learned"] == train["example_id"].is_in(silent).sum() > 0
    assert final(result)["prediction"].unique().to_list() == [" stone"]
    assert run_one(spec, replace(inputs, weak_labels=blank)).predictions.equals(result.predictions)
    with pytest.raises(DataError, match="none of the 96 examples to learn from has an answer"):
        run_one(spec, replace(inputs, weak_labels=weak.with_columns(prediction=pl.lit(None, pl.String))))
    with pytest.raises(DataError, match="have no weak answer"):
        run_one(spec, replace(inputs, weak_labels=weak.head(5)))


def test_weak_answers_are_found_by_id():
    class Some:
        ids = np.array(["b", "a"], dtype=object)
        gold = np.array([" x", " y"], dtype=object)

    labels = pl.DataFrame({"example_id": ["a", "b", "c"], "prediction": [" one", "", None]})
    assert attach_weak_answers(Some(), labels) == [None, " one"]
    assert unlabelled(labels) == {"b", "c"}
    twice = pl.concat([labels, labels.with_columns(prediction=pl.lit(" two"))])
    with pytest.raises(DataError, match="several weak answers"):
        attach_weak_answers(Some(), twice)


def test_long_prompts_lose_their_beginning(truth, inputs, tasks):
    result = run_one(truth(max_length=16), inputs)
    assert 0 < result.metrics["truncated"] < 240
    source = truth().model
    tokenizer = load_tokenizer(source)
    task = load_tokenised(tasks["generate"], tokenizer, max_length=8, cache_dir=inputs.cache_dir)
    part = task.part("test")
    prompts = task.data.part("test").sort("example_id")["prompt"].to_list()
    for i, prompt in enumerate(prompts):
        row = int(part.rows[i, 0])
        kept = part.tokens.ids[part.tokens.offsets[row] : part.tokens.offsets[row + 1]].tolist()
        assert len(kept) <= 8
        assert prompt.endswith(tokenizer.decode(kept, skip_special_tokens=True))
    with pytest.raises(DataError, match="no prompt would be read"):
        run_one(truth(max_length=5), inputs)


def test_only_whole_language_models_learn_to_answer(truth, inputs):
    with pytest.raises(ModelError, match="set tune: full"):
        run_one(truth(tune="head"), inputs)
    with pytest.raises(ModelError, match="is an encoder"):
        run_one(truth("bert"), inputs)


def test_a_task_may_have_a_second_opinion(truth, inputs, monkeypatch):
    monkeypatch.setitem(JUDGES, "files", lambda prompt, answer, said: prompt.startswith(said.strip()) or None)
    result = run_one(truth(), inputs)
    assert result.predictions["accepted"].dtype == pl.Boolean
    assert 0 < result.predictions["accepted"].null_count() <= result.predictions.height


# --- the task --------------------------------------------------------------------------------------------------------


def files_task(folder, rows, **changes):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = SplitSpec(supervise=0.4, transfer=0.4, validation=0.1, test=0.1)
    settings = {"name": "mine", "source": "files", "train": (str(path),), "form": "generate", "splits": splits}
    return FilesTask(**settings | changes)


ROWS = [{"prompt": f"{a} {b}:", "answer": f" {b}"} for a in WORDS for b in WORDS]


def test_an_example_is_its_prompt_and_keeps_its_id_with_another_answer(tmp_path):
    frame = load_task(files_task(tmp_path, ROWS)).frame
    assert frame.columns == ["example_id", "part", "prompt", "answer"]
    corrected = [ROWS[0] | {"answer": " corrected"}, *ROWS[1:]]
    other = load_task(files_task(tmp_path, corrected)).frame
    assert other.drop("answer").equals(frame.drop("answer"))
    assert " corrected" in other["answer"]
    summary = summarise(load_task(files_task(tmp_path, ROWS)))
    assert summary.class_balance == {}
    assert sum(summary.sizes.values()) == len(ROWS)


def test_rows_that_are_no_examples_are_counted_by_reason(tmp_path):
    odd = [
        {"prompt": "red red:", "answer": " another"},
        {"prompt": "blank:", "answer": "  "},
        {"prompt": "none:", "answer": None},
        {"prompt": "long:", "answer": "one\ntwo"},
        ROWS[5],
    ]
    found = load_task(files_task(tmp_path, ROWS + odd))
    assert found.dropped == {
        "blank": 1, "contradicting_labels": 2, "duplicates": 1, "several_lines": 1, "unlabelled": 1
    }  # fmt: skip


def test_prompts_that_are_copies_or_share_a_group_lie_in_one_part(tmp_path):
    rows = ROWS + [{"prompt": row["prompt"].upper(), "answer": row["answer"]} for row in ROWS[::40]]
    rows = [row | {"game": i // 4} for i, row in enumerate(rows)]
    frame = load_task(files_task(tmp_path, rows, columns=Columns(group=("game",)))).frame
    game = {row["prompt"]: row["game"] for row in rows}
    parts = frame.with_columns(game=pl.col("prompt").replace_strict(game), key=pl.col("prompt").str.to_lowercase())
    for column in ("game", "key"):
        assert (parts.group_by(column).agg(pl.col("part").n_unique())["part"] == 1).all()


def test_tags_come_from_columns_and_prompts_from_templates(tmp_path):
    rows = [
        row | {"rating": i // 100, "themes": ["fork", "pin"][: i % 3], "q": row["prompt"]} for i, row in enumerate(ROWS)
    ]
    columns = Columns(tags=("rating", "themes"))
    frame = load_task(files_task(tmp_path, rows, columns=columns, template="Q: {q}")).frame
    assert frame["tags"].dtype == pl.List(pl.String)
    row = frame.filter(prompt=f"Q: {ROWS[2]['prompt']}")
    assert row["tags"].to_list() == [["rating:0", "themes:fork", "themes:pin"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": Columns(text="a")}, "columns.text: only for form classify, but form is generate"),
        ({"template": "{a}", "columns": Columns(prompt="b")}, "keep one of them"),
        ({"form": "classify", "max_new_tokens": 3}, "max_new_tokens: only for form generate"),
        ({"source": "facts"}, "bring files"),
    ],
)
def test_settings_of_other_forms_are_refused(tmp_path, changes, message):
    from pydantic import TypeAdapter

    from w2s.config import TaskSpec

    settings = {"name": "a", "source": "files", "train": ["x.jsonl"], "form": "generate"} | changes
    if settings["source"] == "facts":
        del settings["train"]
    with pytest.raises(ValueError, match=message):
        TypeAdapter(TaskSpec).validate_python(settings)


def test_what_only_this_form_has_does_not_change_the_identity_of_other_tasks(tasks):
    """Digests from before there was a third form."""
    spec = FilesTask(name="a", source="files", train=(str(tasks["classify"].train[0]),))
    assert data.task_fingerprint(spec, hash_file=lambda path: "0") == CLASSIFY
    pairs = FilesTask(name="a", source="files", form="compare", columns=Columns(prompt="p"), train=spec.train)
    assert data.task_fingerprint(pairs, hash_file=lambda path: "0") == COMPARE


CLASSIFY = "02f681d2e47f67e6a924de59e1cd3deb4232cc6368e0688718238fc83592219d"
COMPARE = "5a636fd6d36016d8dce977a1e9caf3193bfd8ccc8fc930e306943a725cd6115b"


# --- labels made of answers ------------------------------------------------------------------------------------------


def test_the_vote_goes_to_most_and_then_to_the_largest_member():
    assert vote([[" a", " a", " a", ""], ["a", " b", None, " "], [" b", " c", " c ", None]]) == ["a", " c", " c ", ""]


@given(st.lists(st.none() | st.sampled_from([" a", " b"]), min_size=1, max_size=30), st.floats(0.01, 1))
def test_a_share_of_the_answers_that_there_are_is_kept_in_the_order_of_preference(answers, keep):
    order = np.arange(len(answers))[::-1]
    kept = keep_first(answers, order, keep=keep)
    there = [i for i in order if answers[i] is not None]
    expected = there[: max(1, round(keep * len(there)))]
    assert [i for i in order if kept[i] is not None] == expected
    assert all(kept[i] == answers[i] for i in expected)


@pytest.mark.parametrize("by", ["confidence", "random"])
def test_filters_leave_a_share_of_the_answers_to_the_student(truth, inputs, by):
    spec = truth()
    weak = final(run_one(spec, inputs)).select("example_id", "prediction", "log_prob")
    operation = MethodSpec(name="filter", params={"by": by, "relabel": False, "keep": 0.25})
    labels = LabelsRun(task=spec.task, operation=operation, train_part="transfer/0", seed=3)
    made = run_one(labels, replace(inputs, predictions={"supervisor": weak})).predictions
    assert dict(made.schema) == ANSWERS_SCHEMA
    train = made.filter(split="transfer/0").join(weak, on="example_id", suffix="_weak")
    said = train.filter(pl.col("prediction_weak").str.strip_chars() != "")
    kept = train.filter(pl.col("prediction").is_not_null())
    assert kept.height == max(1, round(0.25 * said.height))
    assert (kept["prediction"] == kept["prediction_weak"]).all()
    assert made.filter(split="test")["prediction"].null_count() == 0
    dropped = ~pl.col("example_id").is_in(kept["example_id"].implode())
    if by == "confidence":
        assert kept["log_prob_weak"].min() >= said.filter(dropped)["log_prob_weak"].max()


def test_an_ensemble_votes(truth, inputs):
    spec = truth()
    members = {
        f"member/{i}": final(run_one(truth(family), inputs)) for i, family in enumerate(("gpt2", "llama", "gpt_neox"))
    }
    given = {role: frame.select("example_id", "prediction") for role, frame in members.items()}
    labels = LabelsRun(
        task=spec.task, operation=MethodSpec(name="ensemble", params={"rule": "vote"}), train_part="transfer/0", seed=0
    )
    made = run_one(labels, replace(inputs, predictions=given)).predictions.sort("example_id")
    said = [frame.sort("example_id")["prediction"].to_list() for frame in members.values()]
    assert made["prediction"].to_list() == vote(said)
