"""Runs that read what a model knows without training it: activations, probes on them, prompts."""

from pathlib import Path

import numpy as np
import torch

from w2s.activations import extract, load_activations
from w2s.config import ActivationsRun, ProbeRun, PromptRun
from w2s.data import attach_weak_labels, load_tokenised, unlabelled
from w2s.errors import DataError
from w2s.flops import inference_flops
from w2s.kinds.common import Inputs, RunResult, history_of, metrics_of, resolved, source_for
from w2s.kinds.tables import examples_of
from w2s.models import load_checkpoint_sizes, load_tokenizer
from w2s.predict import Evaluation, predictions_table, token_budget
from w2s.probing import fit_logistic
from w2s.prompting import Shot, build_prompt, causal_sizes, choose_shots, load_causal_lm, score


def run_activations(spec: ActivationsRun, inputs: Inputs) -> RunResult:
    source = source_for(spec, inputs)
    checkpoint = load_checkpoint_sizes(source)
    settings = resolved(spec.settings, checkpoint, inputs.micro_batch_divisor)
    max_length = min(settings.max_length, checkpoint.max_positions or settings.max_length)
    task = load_tokenised(spec.task, load_tokenizer(source), max_length=max_length, cache_dir=inputs.cache_dir)
    found = extract(source, task, layer=spec.layer, settings=settings, device=torch.device(inputs.device))
    metrics = metrics_of(
        n_params=checkpoint.n_params,
        n_matmul=checkpoint.n_matmul,
        inference_flops=inference_flops(found.sizes, found.work),
        predict_tokens=found.work.tokens,
        truncated=found.truncated,
    )
    return RunResult(metrics=metrics, history=history_of([]), save_activations=found.activations.save)


def run_probe(spec: ProbeRun, inputs: Inputs) -> RunResult:
    activations = load_activations(_folder(inputs))
    splits = examples_of(spec.task)
    train = splits[spec.train_part]
    if spec.labels == "ground_truth":
        labels = train.gold.astype(np.float64)
    else:
        if inputs.weak_labels is None:
            raise ValueError("a probe on weak labels needs them in its inputs")
        train = train.without(unlabelled(inputs.weak_labels))
        labels = attach_weak_labels(train, inputs.weak_labels).astype(np.float64)
    features = activations.of(spec.train_part)
    if not np.array_equal(features.example_id, splits[spec.train_part].ids):
        raise DataError(f"the activations of part {spec.train_part} are not those of the task's examples")
    # Rows without a label are not learned from.
    learned = features.features[np.isin(features.example_id, train.ids)]
    # A pair's features are a difference, which changes its sign with the order of the replies; a bias would not.
    probe = fit_logistic(learned, labels, penalty=spec.penalty, intercept=spec.task.form == "classify")
    log_odds = {name: probe.log_odds(activations.of(name).features).astype(np.float32) for name in splits}
    table = predictions_table([Evaluation(0, log_odds)], splits)
    return RunResult(metrics=metrics_of(), history=history_of([]), predictions=table)


def run_prompt(spec: PromptRun, inputs: Inputs) -> RunResult:
    source = source_for(spec, inputs)
    checkpoint = load_checkpoint_sizes(source)
    settings = resolved(spec.settings, checkpoint, inputs.micro_batch_divisor)
    device = torch.device(inputs.device)
    model, tokenizer = load_causal_lm(source, device), load_tokenizer(source)
    splits = examples_of(spec.task)
    texts = {name: splits[name].texts for name in splits}
    shots = _shots(spec, inputs) if spec.shots else []
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    names = list(splits)
    prompts = [build_prompt(spec.prompt, shots, text) for name in names for text in texts[name]]
    assert isinstance(settings.micro_batch_size, int), "resolved"
    max_length = min(spec.max_length, checkpoint.max_positions or spec.max_length)
    scored = score(
        model,
        tokenizer,
        prompts,
        spec.prompt.answers,
        max_length=max_length,
        budget=token_budget(settings.micro_batch_size, settings.max_length),
        autocast=torch.bfloat16 if bf16 else None,
        shard=inputs.shard,
    )
    ends = np.cumsum([len(splits[name]) for name in names])[:-1]
    log_odds = dict(zip(names, np.split(scored.log_odds, ends), strict=True))
    metrics = metrics_of(
        n_params=checkpoint.n_params,
        n_matmul=checkpoint.n_matmul,
        inference_flops=inference_flops(causal_sizes(model, head_reads="sequences"), scored.work),
        predict_tokens=scored.work.tokens,
        precision="bf16" if bf16 else "fp32",
        truncated=scored.truncated,
    )
    table = predictions_table([Evaluation(0, log_odds)], splits)
    return RunResult(metrics=metrics, history=history_of([]), predictions=table)


def _shots(spec: PromptRun, inputs: Inputs) -> list[Shot]:
    """Solved examples from the training part, with true or with weak labels."""
    train = examples_of(spec.task)[spec.train_part]
    if spec.labels == "ground_truth":
        labels = train.gold.astype(np.float64)
    else:
        if inputs.weak_labels is None:
            raise ValueError("weakly labelled shots need weak labels in the inputs")
        train = train.without(unlabelled(inputs.weak_labels))
        labels = attach_weak_labels(train, inputs.weak_labels)
    chosen = choose_shots(train.ids, labels, spec.shots, spec.seed)
    return [Shot(train.texts[i], int(labels[i] > 0.5)) for i in chosen]


def _folder(inputs: Inputs) -> Path:
    if inputs.activations_dir is None:
        raise ValueError("a probe needs activations in its inputs")
    return inputs.activations_dir
