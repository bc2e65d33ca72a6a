"""What all kinds of runs share: their inputs, what they leave, and how settings and sources are resolved."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from w2s.checkpoints import Checkpoint
from w2s.config import FinetuneSettings, ModelSource, RunSpec
from w2s.distributed import WHOLE, Placement, Shard
from w2s.errors import ModelError
from w2s.fingerprints import digest
from w2s.models import source_of

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
    "baseline_memory_bytes",
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
    """The supervisor's predictions: columns `example_id` and `p`, covering the training part and validation. Rows whose
    `p` is null are not learned from."""
    predictions: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """For `LabelsRun`, final predictions of its parents by role; columns `example_id`, `split` and `p`."""
    activations_dir: Path | None = None
    """What an `ActivationsRun` left."""
    scratch_dir: Path | None = None
    """Where an unfinished run keeps its state; with several ranks, rank 0's alone counts."""
    keep_weights: bool = True
    """Whether anybody will call `RunResult.save_weights`: gathering a model from many devices takes time and memory."""
    device: str = "cpu"
    shard: Shard = WHOLE
    micro_batch_divisor: int = 1
    """After an out-of-memory error, micro-batches are smaller by this factor, and the run is marked."""
    checkpoint_every_seconds: float | None = None
    on_progress: Callable[[float], None] | None = None
    """Called with the fraction of steps done, about a hundred times."""
    should_stop: Callable[[], bool] | None = None
    """Asked at every step; once true, the run saves its state and raises `InterruptedRunError`."""


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
    """Writes the trained model with its tokenizer, or the tokenizer, into a folder; with several ranks, for rank 0 to
    call. None where the weights are not here."""
    save_activations: Callable[[Path], None] | None = None
    """Writes hidden states into a folder."""


def source_for(spec: Any, inputs: Inputs) -> ModelSource:
    """The checkpoint that a run starts from: its own, or what a parent made."""
    if spec.model is not None:
        return spec.model
    if inputs.model_path is None:
        raise ModelError("the run names no model, and no parent's weights were given")
    return source_of(inputs.model_path)


def resolved(settings: FinetuneSettings, checkpoint: Checkpoint, divisor: int) -> FinetuneSettings:
    """Settings with numbers for the width rule and the micro-batch; a whole batch where neither is fixed."""
    size = settings.batch_size if settings.micro_batch_size == "auto" else settings.micro_batch_size
    size = max(1, min(size, settings.batch_size) // divisor)
    return settings.resolve(width=checkpoint.hidden_size, micro_batch_size=size)


def identity_of(spec: RunSpec, inputs: Inputs) -> str:
    """What a state in the scratch folder belongs to; the folder itself belongs to the run and its parents."""
    return digest([spec.model_dump(mode="json"), inputs.micro_batch_divisor])


def placement_of(inputs: Inputs) -> Placement:
    """How the training loops are to execute."""
    return Placement(
        shard=inputs.shard,
        scratch_dir=inputs.scratch_dir,
        checkpoint_every_seconds=inputs.checkpoint_every_seconds,
        on_progress=inputs.on_progress,
        should_stop=inputs.should_stop,
    )


def metrics_of(**known: Any) -> dict[str, Any]:
    """All of `METRICS`; null where nothing is known."""
    return dict.fromkeys(METRICS) | known


def history_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The table of a loss history."""
    return pl.DataFrame(rows, schema=HISTORY_SCHEMA, orient="row")
