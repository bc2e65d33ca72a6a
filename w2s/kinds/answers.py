"""Runs of form `generate`: supervisors, ceilings and students that answer in words."""

import logging
from functools import partial
from typing import Any

import torch

from w2s.answering import Lesson, Speech, learn_answers, lesson, room_for
from w2s.config import FinetuneRun
from w2s.data import (
    Examples,
    attach_weak_answers,
    load_examples,
    load_tokenised,
    tokenizer_fingerprint,
    unlabelled,
)
from w2s.decoding import stop_tokens
from w2s.errors import DataError, ModelError
from w2s.flops import inference_flops, training_flops
from w2s.generative import prepared, whole_language_model
from w2s.generative import save as save_language_model
from w2s.kinds.common import (
    Inputs,
    RunResult,
    history_of,
    identity_of,
    metrics_of,
    placement_of,
    resolved,
    source_for,
)
from w2s.kinds.tables import examples_of
from w2s.models import load_checkpoint_sizes, load_tokenizer
from w2s.predict import answers_table
from w2s.prompting import causal_sizes
from w2s.tasks import judge_of

_log = logging.getLogger("w2s")


def run_answers(spec: FinetuneRun, inputs: Inputs) -> RunResult:
    source = source_for(spec, inputs)
    checkpoint = load_checkpoint_sizes(source)
    settings = resolved(spec.settings, checkpoint, inputs.micro_batch_divisor)
    if settings.tune != "full":
        raise ModelError(f"tasks of form generate train the whole language model; set tune: full, not {settings.tune}")
    if settings.compile:
        _log.warning("compile: true has no effect on tasks of form generate; the results are the same")
        settings = settings.model_copy(update={"compile": False})

    # The task, as this model reads it: answers get the room that they need, prompts what is left.
    tokenizer = load_tokenizer(source)
    max_length = min(settings.max_length, checkpoint.max_positions or settings.max_length)
    truth = load_examples(spec.task).frame["answer"].to_list()
    room = room_for(tokenizer, truth, wanted=getattr(spec.task, "max_new_tokens", None))
    if room >= max_length:
        raise DataError(
            f"answers may have {room} tokens, and prompt and answer together only {max_length}, so that no prompt "
            "would be read; set a larger max_length in finetune, or max_new_tokens in the task"
        )
    speech = Speech(tokenizer, stop_tokens(tokenizer, tokenizer_fingerprint(tokenizer)), room)
    task = load_tokenised(spec.task, tokenizer, max_length=max_length - room, cache_dir=inputs.cache_dir)
    splits = {name: task.part(name) for name in task.parts() if name != "supervise"}
    train, not_learned = _lesson(spec, inputs, task.part(spec.train_part), speech)
    scored = {"validation_loss": lesson(splits["validation"], list(splits["validation"].gold), speech)}
    if spec.kind == "transfer" and (weak := _weak_validation(splits["validation"], inputs, speech)):
        scored["validation_weak_loss"] = weak

    # Train and answer.
    device = torch.device(inputs.device)
    model = prepared(source, settings, device, inputs.shard)
    sizes = causal_sizes(model.lm, head_reads="sequences")
    taught = learn_answers(
        model,
        train,
        splits,
        speech=speech,
        settings=settings,
        seed=spec.seed,
        scored=scored,
        identity=identity_of(spec, inputs),
        placement=placement_of(inputs),
    )
    said = [(e.step, name, e.texts[name], e.log_prob[name]) for e in taught.evaluations for name in e.texts]
    judge = judge_of(spec.task)
    prompts = {name: part.texts for name, part in examples_of(spec.task).items()} if judge else None
    read = [part for name, part in splits.items() if name != spec.train_part]
    metrics: dict[str, Any] = metrics_of(
        n_params=checkpoint.n_params,
        n_matmul=checkpoint.n_matmul,
        finetune_flops=training_flops(sizes, taught.trained),
        inference_flops=inference_flops(sizes, taught.predicted),
        train_tokens=taught.trained.tokens,
        predict_tokens=taught.predicted.tokens,
        steps=taught.steps,
        precision="fp32" if model.autocast is None else "bf16",
        micro_batch_size=settings.micro_batch_size,
        micro_batch_shrunk=inputs.micro_batch_divisor > 1,
        truncated=train.examples.truncated() + sum(part.truncated() for part in read),
        not_learned=not_learned,
    )
    whole = whole_language_model(model, inputs.shard) if inputs.keep_weights else None
    return RunResult(
        metrics=metrics,
        history=history_of(taught.history),
        predictions=answers_table(said, splits, judge=judge, prompts=prompts),
        save_weights=partial(save_language_model, whole, tokenizer) if whole is not None else None,
    )


def _lesson(spec: FinetuneRun, inputs: Inputs, part: Examples, speech: Speech) -> tuple[Lesson, int]:
    """What is learned: true answers, or the supervisor's completions; and how many examples have none."""
    if spec.kind == "ground_truth":
        return lesson(part, list(part.gold), speech), 0
    if spec.method is None or inputs.weak_labels is None:
        raise ValueError("a transfer run needs a method in its specification and weak labels in its inputs")
    if spec.method.name != "naive":
        raise ValueError(f"method {spec.method.name} is not for tasks of form generate; a plan leaves it out")
    train = part.without(unlabelled(inputs.weak_labels))
    if not_learned := len(part) - len(train):
        _log.info("%d of %d examples have no answer to learn from", not_learned, len(part))
    answers = [answer or "" for answer in attach_weak_answers(train, inputs.weak_labels)]
    return lesson(train, answers, speech), not_learned


def _weak_validation(part: Examples, inputs: Inputs, speech: Speech) -> Lesson | None:
    """The supervisor's completions of validation; None where it has none at all."""
    assert inputs.weak_labels is not None
    missing = unlabelled(inputs.weak_labels)
    if missing.issuperset(part.ids):
        return None
    labelled = part.without(missing)
    return lesson(labelled, [answer or "" for answer in attach_weak_answers(labelled, inputs.weak_labels)], speech)
