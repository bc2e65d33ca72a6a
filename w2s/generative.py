"""Generative finetuning: a causal language model reads a task's texts, their labels ignored, before it is finetuned.

Burns et al. 2023 (arXiv:2312.09390), section 5.2.2: "finetune the base models with a language modeling loss on all of
the prefix/completion pairs ... including the worst-ranked completions". Learning rate and steps are not stated there.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from w2s.config import FinetuneSettings, ModelSource
from w2s.data import Batch, BatchOrder, Examples, TokenisedTask, micro_batches
from w2s.distributed import Shard
from w2s.errors import DataError, ModelError, TrainingError
from w2s.finetune import COMPILED_LENGTH_MULTIPLE, HERE, Placement
from w2s.flops import MatmulSizes, Work
from w2s.models import quiet_library
from w2s.optim import FlatAdamW
from w2s.prompting import causal_sizes, hidden_states, load_causal_lm, logits
from w2s.resume import load_state, save_state
from w2s.runtime import Progress, Timer
from w2s.schedules import rate_factor, warmup_steps
from w2s.seeds import Role, torch_seed

HISTORY_ROWS = 20


@dataclass(frozen=True)
class Generated:
    """A language model finetuned on a task's texts, and what it took."""

    model: Any
    """In evaluation mode, on its device."""
    history: list[dict[str, Any]]
    """Rows of the loss history, oldest first: mean cross-entropy per token, in nats."""
    steps: int
    trained: Work
    """Tokens of all optimisation steps."""
    sizes: MatmulSizes
    micro_batch_size: int
    precision: str
    """`fp32` or `bf16`."""
    truncated: int
    """Examples that lost tokens to the length limit."""


def finetune_language_model(
    source: ModelSource,
    task: TokenisedTask,
    parts: Sequence[str],
    *,
    settings: FinetuneSettings,
    seed: int,
    device: torch.device,
    identity: str = "",
    placement: Placement = HERE,
) -> Generated:
    """Finetunes a causal language model on the texts of some parts of a task; labels are never read.

    Args:
        source: Checkpoint to start from.
        task: Texts, and for `compare` every pair's prompt with either reply. A batch of pairs holds both texts of each.
        parts: Which parts to read, in any order.
        settings: Resolved settings, `tune: full`; the loss is all that is evaluated.
        seed: Decides the order of the data, and dropout.
        device: Where to train.
        identity: Names the run in its scratch folder.
        placement: Devices, scratch folder, progress.

    Raises:
        DataError: There is no such part, or nothing to predict in it.
        ModelError: The checkpoint is an encoder or cannot be read, or `tune` is not `full`.
        TrainingError: The loss became NaN or infinite.
    """
    assert isinstance(settings.learning_rate, float), "settings are resolved before"
    assert isinstance(settings.micro_batch_size, int), "settings are resolved before"
    if settings.tune != "full":
        raise ModelError(
            f"generative finetuning trains the whole language model, but settings say tune: {settings.tune}; "
            "set tune: full for it"
        )
    shard, train = placement.shard, texts_of(task, parts)
    model, autocast = _prepared(source, settings, device)
    order = BatchOrder(len(train), settings.batch_size, settings.epochs, seed)
    warmup = warmup_steps(order.steps, settings.warmup_fraction)
    optimiser = FlatAdamW(
        model.parameters(), betas=settings.betas, weight_decay=settings.weight_decay, clip_norm=settings.clip_norm
    )
    every = max(1, order.steps // HISTORY_ROWS)
    step, tokens, history = 0, 0, []
    loss_sum, loss_steps = torch.zeros((), device=device), 0
    if stored := load_state(placement.scratch_dir, identity, shard):
        optimiser.load_state(stored["optimiser"])
        step, tokens, history = stored["step"], stored["tokens"], stored["history"]
        loss_sum, loss_steps = stored["loss_sum"].to(device), stored["loss_steps"]
    timer = Timer(placement.checkpoint_every_seconds if placement.scratch_dir else None)
    progress = Progress(placement.on_progress, order.steps)

    while step < order.steps:
        positions = order.positions(step)
        if settings.dropout > 0:
            torch.manual_seed(torch_seed(seed, Role.DROPOUT, step * shard.world + shard.rank))
        optimiser.zero_grad()
        loss = _batch_gradient(model, train, positions, settings, shard, autocast)
        loss_sum += shard.sum(loss)
        shard.sum(optimiser.grad)
        rate = settings.learning_rate * rate_factor(step, order.steps, schedule=settings.schedule, warmup=warmup)
        optimiser.step(rate)
        step, loss_steps = step + 1, loss_steps + 1
        tokens += int(train.tokens.lengths[train.rows[positions]].sum())
        progress(step)
        if step == order.steps or step % every == 0:
            mean = float(loss_sum) / loss_steps
            if not math.isfinite(mean):
                raise TrainingError(
                    f"generative finetuning's loss is {mean} by step {step} of {order.steps} (all was finite at step "
                    f"{history[-1]['step'] if history else 0}). The likely cause is a learning rate too high for this "
                    f"model: it is {settings.learning_rate:g}; try a third of it, a warmup_fraction of 0.05, or a "
                    "smaller clip_norm"
                )
            history.append(
                {
                    "step": step,
                    "step_fraction": step / order.steps,
                    "train_loss": mean,
                    "validation_loss": None,
                    "validation_weak_loss": None,
                    "learning_rate": rate,
                    "tokens": tokens,
                }
            )
            loss_sum, loss_steps = torch.zeros((), device=device), 0
        if placement.scratch_dir and shard.is_first and step < order.steps and timer.due():
            state = {"step": step, "tokens": tokens, "history": history}
            state |= {"loss_sum": loss_sum, "loss_steps": loss_steps, "optimiser": optimiser.state()}
            save_state(placement.scratch_dir, identity, state)

    optimiser.release()
    model.eval()
    return Generated(
        model=model,
        history=history,
        steps=order.steps,
        trained=train.work() * settings.epochs,
        sizes=causal_sizes(model, head_reads="every token"),
        micro_batch_size=settings.micro_batch_size,
        precision="fp32" if autocast is None else "bf16",
        truncated=train.truncated(),
    )


def texts_of(task: TokenisedTask, parts: Sequence[str]) -> Examples:
    """The examples of several parts together, sorted by id, so that the order of `parts` decides nothing.

    Raises:
        DataError: No such part, or all texts are of a single token, which leaves nothing to predict.
    """
    if not parts:
        raise DataError("generative finetuning was given no part of the task to read")
    several = [task.part(name) for name in dict.fromkeys(parts)]
    ids = np.concatenate([part.ids for part in several])
    order = np.argsort(ids.astype(str), kind="stable")
    gold, rows = (np.concatenate([getattr(part, name) for part in several])[order] for name in ("gold", "rows"))
    examples = Examples(several[0].form, ids[order], gold, task.tokens, rows)
    if int(examples.lengths.max()) < 2:
        raise DataError(f"every text of {', '.join(parts)} is a single token, which leaves no next token to predict")
    return examples


def next_token_loss(model: Any, batch: Batch) -> Tensor:
    """Summed cross-entropy in nats of every real token after the first of its row, shape [].

    Args:
        model: Causal language model.
        batch: Token rows, padded on the right; at least one has two tokens.
    """
    # The last token predicts nothing: it is only a target.
    read = batch.lengths - 1
    inputs = torch.from_numpy(batch.ids[:, :-1]).to(model.device)
    # A row of one token has nothing to predict, but a row without any would make attention divide by zero.
    lengths = torch.from_numpy(np.maximum(read, 1)).to(model.device) if (read != inputs.shape[1]).any() else None
    hidden = hidden_states(model, inputs, lengths).flatten(0, 1)
    targets = torch.from_numpy(batch.ids[:, 1:].reshape(-1)).to(model.device)
    if lengths is not None:
        real = torch.from_numpy(np.flatnonzero(np.arange(inputs.shape[1]) < read[:, None])).to(model.device)
        hidden, targets = hidden[real], targets[real]
    return F.cross_entropy(logits(model, hidden).float(), targets, reduction="sum")


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a checkpoint folder that `from_pretrained` loads, with or without the output head."""
    with quiet_library():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Dropout as it was published: what was set for this run is no part of the model.
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | model.w2s_published, indent=2) + "\n")


def _prepared(source: ModelSource, settings: FinetuneSettings, device: torch.device) -> tuple[Any, torch.dtype | None]:
    """The model as `settings` want it trained, and the type of its arithmetic; None is float32."""
    model = load_causal_lm(source, device, dropout=settings.dropout)
    if settings.gradient_checkpointing:
        model.base_model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    # Evaluation mode unless something asks for the other one: some layers drop whatever their settings say.
    model.train(settings.dropout > 0 or settings.gradient_checkpointing)
    if settings.compile:
        torch._dynamo.reset()  # what earlier runs compiled in this process must not decide how this one is
        model.base_model.compile()
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    return model, torch.bfloat16 if bf16 else None


def _batch_gradient(
    model: Any,
    train: Examples,
    positions: np.ndarray,
    settings: FinetuneSettings,
    shard: Shard,
    autocast: torch.dtype | None,
) -> Tensor:
    """Adds the gradient of this rank's share of the batch; returns its part of the mean loss per token, shape [].

    The mean is over all tokens to predict in the whole batch, so that neither ranks nor micro-batches weigh in.
    """
    assert isinstance(settings.micro_batch_size, int)
    predicted = int((train.tokens.lengths[train.rows[positions]] - 1).sum())
    mine = positions[shard.slice(len(positions))]
    multiple = COMPILED_LENGTH_MULTIPLE if settings.compile else 1
    total = torch.zeros((), device=model.device)
    for piece in micro_batches(mine, train.lengths, settings.micro_batch_size):
        batch = train.batch(mine[piece], length_multiple=multiple)
        if int(batch.lengths.max()) < 2:
            continue
        with torch.autocast(model.device.type, autocast, enabled=autocast is not None):
            loss = next_token_loss(model, batch) / predicted
        loss.backward()
        total += loss.detach()
    return total
