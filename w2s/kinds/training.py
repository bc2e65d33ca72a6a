"""Runs that train: tokenizers, rungs, language models on a task's texts, supervisors, ceilings and students."""

from functools import partial
from pathlib import Path

import torch

from w2s.config import FinetuneRun, GenerativeRun, PretrainRun, TokenizerRun
from w2s.corpora import read_texts, train_bpe
from w2s.data import attach_weak_labels, load_tokenised, unlabelled
from w2s.finetune import finetune
from w2s.flops import inference_flops, training_flops
from w2s.generative import finetune_language_model
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
from w2s.ladder import corpus_tokenizer, pretrain, save_pretrained, sizes_of
from w2s.methods import LossMethod, Naive, build_method
from w2s.models import gather_scorer, load_checkpoint_sizes, load_scorer, load_tokenizer, save_scorer
from w2s.predict import predictions_table


def train_tokenizer(spec: TokenizerRun) -> RunResult:
    tokenizer = train_bpe(read_texts(spec.corpus), spec.corpus.vocab_size)

    def save(folder: Path) -> None:
        tokenizer.save_pretrained(folder)

    return RunResult(metrics=metrics_of(), history=history_of([]), save_weights=save)


def run_pretrain(spec: PretrainRun, inputs: Inputs) -> RunResult:
    tokenizer = corpus_tokenizer(spec.settings, inputs.tokenizer_path)
    trained = pretrain(
        spec.shape,
        spec.settings,
        spec.seed,
        tokenizer=tokenizer,
        cache_dir=inputs.cache_dir,
        device=torch.device(inputs.device),
        identity=identity_of(spec, inputs),
        placement=placement_of(inputs),
    )
    sizes = sizes_of(trained.model)
    metrics = metrics_of(
        n_params=sum(p.numel() for p in trained.model.parameters()),
        n_matmul=sizes.per_token,
        pretrain_flops=training_flops(sizes, trained.work),
        train_tokens=trained.work.tokens,
        steps=trained.steps,
        precision="fp32",
        micro_batch_size=spec.settings.batch_size,
        micro_batch_shrunk=False,
    )
    save = partial(save_pretrained, trained.model, tokenizer)
    return RunResult(metrics=metrics, history=history_of(trained.history), save_weights=save)


def run_finetune(spec: FinetuneRun, inputs: Inputs) -> RunResult:
    source = source_for(spec, inputs)
    checkpoint = load_checkpoint_sizes(source)
    settings = resolved(spec.settings, checkpoint, inputs.micro_batch_divisor)

    # The task, as this model reads it.
    tokenizer = load_tokenizer(source)
    max_length = min(settings.max_length, checkpoint.max_positions or settings.max_length)
    stated = inputs.weak_labels if spec.states_labels else None
    task = load_tokenised(spec.task, tokenizer, max_length=max_length, cache_dir=inputs.cache_dir, stated_labels=stated)
    train = task.part(spec.train_part)
    splits = {name: task.part(name) for name in task.parts() if name != "supervise"}

    # The labels: ground truth for supervisor and ceiling, the supervisor's predictions for the student.
    if spec.kind == "ground_truth":
        method, labels, weak_validation = Naive(), train.gold, None
    else:
        if spec.method is None or inputs.weak_labels is None:
            raise ValueError("a transfer run needs a method in its specification and weak labels in its inputs")
        method = build_method(spec.method)
        if not isinstance(method, LossMethod):
            raise ValueError(f"{spec.method.name} is a procedure, which a plan takes apart into runs")
        train = train.without(unlabelled(inputs.weak_labels))
        labels = attach_weak_labels(train, inputs.weak_labels)
        weak_validation = attach_weak_labels(splits["validation"], inputs.weak_labels)

    # Train and predict.
    device = torch.device(inputs.device)
    scorer = load_scorer(
        source, form=spec.task.form, settings=settings, seed=spec.seed, device=device, shard=inputs.shard
    )
    sizes, adapter = scorer.sizes(), scorer.adapter_weights()
    tuned = finetune(
        scorer,
        train,
        labels,
        splits,
        settings=settings,
        method=method,
        seed=spec.seed,
        weak_validation=weak_validation,
        identity=identity_of(spec, inputs),
        placement=placement_of(inputs),
    )
    metrics = metrics_of(
        n_params=checkpoint.n_params,
        n_matmul=checkpoint.n_matmul,
        finetune_flops=training_flops(sizes, tuned.trained, tune=settings.tune, adapter=adapter),
        inference_flops=inference_flops(sizes, tuned.predicted),
        train_tokens=tuned.trained.tokens,
        predict_tokens=tuned.predicted.tokens,
        steps=tuned.steps,
        precision="fp32" if scorer.autocast is None else "bf16",
        micro_batch_size=settings.micro_batch_size,
        micro_batch_shrunk=inputs.micro_batch_divisor > 1,
        truncated=train.truncated() + sum(part.truncated() for name, part in splits.items() if name != spec.train_part),
    )
    whole = gather_scorer(scorer, inputs.shard) if inputs.keep_weights else None
    return RunResult(
        metrics=metrics,
        history=history_of(tuned.history),
        predictions=predictions_table(tuned.evaluations, splits),
        save_weights=partial(save_scorer, whole, tokenizer) if whole is not None else None,
    )


def run_generative(spec: GenerativeRun, inputs: Inputs) -> RunResult:
    source = source_for(spec, inputs)
    checkpoint = load_checkpoint_sizes(source)
    settings = resolved(spec.settings, checkpoint, inputs.micro_batch_divisor)
    tokenizer = load_tokenizer(source)
    max_length = min(settings.max_length, checkpoint.max_positions or settings.max_length)
    task = load_tokenised(spec.task, tokenizer, max_length=max_length, cache_dir=inputs.cache_dir)
    tuned = finetune_language_model(
        source,
        task,
        spec.parts,
        settings=settings,
        seed=spec.seed,
        device=torch.device(inputs.device),
        identity=identity_of(spec, inputs),
        placement=placement_of(inputs),
        keep_model=inputs.keep_weights,
    )
    metrics = metrics_of(
        n_params=checkpoint.n_params,
        n_matmul=checkpoint.n_matmul,
        finetune_flops=training_flops(tuned.sizes, tuned.trained),
        train_tokens=tuned.trained.tokens,
        steps=tuned.steps,
        precision=tuned.precision,
        micro_batch_size=tuned.micro_batch_size,
        micro_batch_shrunk=inputs.micro_batch_divisor > 1,
        truncated=tuned.truncated,
    )
    save = partial(save_language_model, tuned.model, tokenizer) if tuned.model is not None else None
    return RunResult(metrics=metrics, history=history_of(tuned.history), save_weights=save)
