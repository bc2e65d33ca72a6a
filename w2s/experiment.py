"""One run, from its specification and inputs to its results. Start reading here.

From a notebook:

    spec = FinetuneRun(kind="ground_truth", task=..., model=ModelSource(path="gpt2"), settings=..., ...)
    result = run_one(spec, Inputs(cache_dir=Path("cache")))
    result.predictions
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from w2s.checkpoints import Checkpoint
from w2s.config import FinetuneRun, FinetuneSettings, ModelSource, PretrainRun, RunSpec, TokenizerRun
from w2s.corpora import read_texts, train_bpe
from w2s.data import attach_weak_labels, load_tokenised
from w2s.distributed import WHOLE, Shard
from w2s.errors import ModelError
from w2s.finetune import Placement, finetune
from w2s.fingerprints import digest
from w2s.flops import inference_flops, training_flops
from w2s.ladder import corpus_tokenizer, pretrain, save_pretrained, sizes_of
from w2s.methods import LossMethod, Naive, build_method
from w2s.models import load_checkpoint_sizes, load_scorer, load_tokenizer, save_scorer, source_of
from w2s.predict import predictions_table
from w2s.runtime import PeakMemory, cpu_threads, device_name, typed_out_of_memory

HISTORY_SCHEMA = {
    "step": pl.Int64,
    "step_fraction": pl.Float64,
    "train_loss": pl.Float64,
    "validation_loss": pl.Float64,
    "validation_weak_loss": pl.Float64,
    "learning_rate": pl.Float64,
    "tokens": pl.Int64,
}

METRICS = (
    "n_params",
    "n_matmul",
    "pretrain_flops",
    "finetune_flops",
    "inference_flops",
    "train_tokens",
    "predict_tokens",
    "steps",
    "seconds",
    "peak_memory_bytes",
    "device",
    "precision",
    "micro_batch_size",
    "micro_batch_shrunk",
    "truncated",
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run needs beside its specification: its parents' results, and where it executes."""

    cache_dir: Path
    """Tokenised data; may be deleted at any time between runs."""
    model_path: str | None = None
    """The parent's weights, when the specification names no model of its own."""
    tokenizer_path: str | None = None
    """The trained tokenizer, for pretraining on text."""
    weak_labels: pl.DataFrame | None = None
    """The supervisor's predictions: columns `example_id` and `p`, covering the training part and validation."""
    scratch_dir: Path | None = None
    """Where an unfinished run keeps its state; on storage that all machines of the run share."""
    device: str = "cpu"
    shard: Shard = WHOLE
    micro_batch_divisor: int = 1
    """After an out-of-memory error, micro-batches are smaller by this factor, and the run is marked."""
    checkpoint_every_seconds: float | None = None
    on_progress: Callable[[float], None] | None = None
    """Called with the fraction of steps done, about a hundred times."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run leaves."""

    metrics: dict[str, Any]
    """Sizes, tokens, FLOPs, seconds, memory; the keys of `METRICS`, null where they do not apply."""
    history: pl.DataFrame
    """One row per evaluation; columns of `HISTORY_SCHEMA`."""
    predictions: pl.DataFrame | None = None
    """One row per example and evaluation; columns of `w2s.predict.SCHEMA`."""
    save_weights: Callable[[Path], None] | None = None
    """Writes the trained model with its tokenizer, or the tokenizer, into a folder."""


def run_one(spec: RunSpec, inputs: Inputs) -> RunResult:
    """Executes one run.

    The result depends on the specification and the inputs alone: on a CPU, the same run gives the same bits, whatever
    ran before it in this process.

    Raises:
        W2SError: With a message for the person who wrote the specification; `OutOfMemoryError` asks for smaller
            micro-batches.
    """
    start = time.perf_counter()
    if isinstance(spec, TokenizerRun):
        result = _train_tokenizer(spec)
    else:
        memory = PeakMemory(torch.device(inputs.device))
        with cpu_threads(spec.settings.cpu_threads), typed_out_of_memory(f"in a {spec.kind} run on {inputs.device}"):
            result = _pretrain(spec, inputs) if isinstance(spec, PretrainRun) else _finetune(spec, inputs)
        result.metrics["peak_memory_bytes"] = memory.bytes()
        result.metrics["device"] = device_name(torch.device(inputs.device))
    result.metrics["seconds"] = time.perf_counter() - start
    return result


def _train_tokenizer(spec: TokenizerRun) -> RunResult:
    tokenizer = train_bpe(read_texts(spec.corpus), spec.corpus.vocab_size)

    def save(folder: Path) -> None:
        tokenizer.save_pretrained(folder)

    return RunResult(metrics=_metrics(), history=_history([]), save_weights=save)


def _pretrain(spec: PretrainRun, inputs: Inputs) -> RunResult:
    tokenizer = corpus_tokenizer(spec.settings, inputs.tokenizer_path)
    trained = pretrain(
        spec.shape,
        spec.settings,
        spec.seed,
        tokenizer=tokenizer,
        cache_dir=inputs.cache_dir,
        device=torch.device(inputs.device),
        identity=_identity(spec, inputs),
        placement=_placement(inputs),
    )
    sizes = sizes_of(trained.model)
    metrics = _metrics(
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
    return RunResult(metrics=metrics, history=_history(trained.history), save_weights=save)


def _finetune(spec: FinetuneRun, inputs: Inputs) -> RunResult:
    source = _source(spec, inputs)
    checkpoint = load_checkpoint_sizes(source)
    settings = _resolved(spec.settings, checkpoint, inputs.micro_batch_divisor)

    # The task, as this model reads it.
    tokenizer = load_tokenizer(source)
    max_length = min(settings.max_length, checkpoint.max_positions or settings.max_length)
    task = load_tokenised(spec.task, tokenizer, max_length=max_length, cache_dir=inputs.cache_dir)
    train = task.part(spec.train_part)
    splits = {name: task.part(name) for name in task.parts() if name != "supervise"}

    # The labels: ground truth for supervisor and ceiling, the supervisor's predictions for the student.
    if spec.kind == "ground_truth":
        method, labels, weak_validation = Naive(), train.gold, None
    else:
        if spec.method is None or inputs.weak_labels is None:
            raise ValueError("a transfer run needs a method in its specification and weak labels in its inputs")
        method = build_method(spec.method)
        assert isinstance(method, LossMethod), "procedures are taken apart by the plan"
        labels = attach_weak_labels(train, inputs.weak_labels)
        weak_validation = attach_weak_labels(splits["validation"], inputs.weak_labels)

    # Train and predict.
    device = torch.device(inputs.device)
    scorer = load_scorer(source, form=spec.task.form, settings=settings, seed=spec.seed, device=device)
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
        identity=_identity(spec, inputs),
        placement=_placement(inputs),
    )
    metrics = _metrics(
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
    return RunResult(
        metrics=metrics,
        history=_history(tuned.history),
        predictions=predictions_table(tuned.evaluations, splits),
        save_weights=partial(save_scorer, scorer, tokenizer),
    )


def _source(spec: FinetuneRun, inputs: Inputs) -> ModelSource:
    if spec.model is not None:
        return spec.model
    if inputs.model_path is None:
        raise ModelError("the run names no model, and no parent's weights were given")
    return source_of(inputs.model_path)


def _resolved(settings: FinetuneSettings, checkpoint: Checkpoint, divisor: int) -> FinetuneSettings:
    """Settings with numbers for the width rule and the micro-batch; a whole batch where neither is fixed."""
    size = settings.batch_size if settings.micro_batch_size == "auto" else settings.micro_batch_size
    size = max(1, min(size, settings.batch_size) // divisor)
    return settings.resolve(width=checkpoint.hidden_size, micro_batch_size=size)


def _identity(spec: RunSpec, inputs: Inputs) -> str:
    """What a state in the scratch folder belongs to; the folder itself belongs to the run and its parents."""
    return digest([spec.model_dump(mode="json"), inputs.micro_batch_divisor])


def _placement(inputs: Inputs) -> Placement:
    return Placement(
        shard=inputs.shard,
        scratch_dir=inputs.scratch_dir,
        checkpoint_every_seconds=inputs.checkpoint_every_seconds,
        on_progress=inputs.on_progress,
    )


def _metrics(**known: Any) -> dict[str, Any]:
    return dict.fromkeys(METRICS) | known


def _history(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=HISTORY_SCHEMA, orient="row")
