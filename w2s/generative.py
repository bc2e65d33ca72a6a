"""Generative finetuning: a causal language model reads a task's texts, their labels ignored, before it is finetuned.

Burns et al. 2023 (arXiv:2312.09390), section 5.2.2: "finetune the base models with a language modeling loss on all of
the prefix/completion pairs ... including the worst-ranked completions". Learning rate and steps are not stated there.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from w2s.config import FinetuneSettings, ModelSource
from w2s.data import Batch, BatchOrder, Examples, TokenisedTask, micro_batches
from w2s.decoding import Step, next_logits
from w2s.distributed import HERE, WHOLE, Placement, Shard
from w2s.errors import DataError, ModelError, TrainingError
from w2s.finetune import COMPILED_LENGTH_MULTIPLE
from w2s.flops import MatmulSizes, Work
from w2s.models import autocast_of, blank_model, quiet_library, warn_uncompiled
from w2s.optim import adamw_for
from w2s.prompting import causal_sizes, hidden_states, load_causal_lm, logits
from w2s.resume import Pace
from w2s.schedules import rate_factor, warmup_steps
from w2s.seeds import Role, torch_seed

HISTORY_ROWS = 20


@dataclass(frozen=True)
class Generated:
    """A language model finetuned on a task's texts, and what it took."""

    model: Any
    """In evaluation mode, on its device; where it was cut over ranks, on the CPU of rank 0 if anybody wants to save it,
    and None elsewhere."""
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
    keep_model: bool = True,
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
        keep_model: Whether to gather a model that is cut over ranks at the end.

    Raises:
        DataError: There is no such part, or nothing to predict in it.
        ModelError: The checkpoint is an encoder or cannot be read, or `tune` is not `full`.
        TrainingError: The loss became NaN or infinite.
        InterruptedRunError: It was asked to stop.
    """
    assert isinstance(settings.learning_rate, float), "settings are resolved before"
    assert isinstance(settings.micro_batch_size, int), "settings are resolved before"
    if settings.tune != "full":
        raise ModelError(
            f"generative finetuning trains the whole language model, but settings say tune: {settings.tune}; "
            "set tune: full for it"
        )
    shard, train = placement.shard, texts_of(task, parts)
    model = prepared(source, settings, device, shard)
    order = BatchOrder(len(train), settings.batch_size, settings.epochs, seed)
    course = train_language_model(
        model,
        train,
        order,
        settings=settings,
        seed=seed,
        every=max(1, order.steps // HISTORY_ROWS),
        what="generative finetuning",
        identity=identity,
        placement=placement,
    )
    sizes = causal_sizes(model.lm, head_reads="every token")
    return Generated(
        model=whole_language_model(model, shard) if keep_model else None,
        history=course.history,
        steps=order.steps,
        trained=train.work() * settings.epochs,
        sizes=sizes,
        micro_batch_size=settings.micro_batch_size,
        precision="fp32" if model.autocast is None else "bf16",
        truncated=train.truncated(),
    )


@dataclass(frozen=True)
class Course:
    """What a training leaves beside the model."""

    history: list[dict[str, Any]]
    """Rows of the loss history, oldest first: mean cross-entropy per token to predict, in nats."""
    evaluations: list[dict[str, Any]]
    """What `evaluate` returned, oldest first."""


Evaluate = Callable[[int, bool], tuple[dict[str, float | None], dict[str, Any]]]
"""From a step, and whether it is the last, to columns of the loss history and anything else that is to be kept:
tensors, numbers, strings, lists and dictionaries."""


def train_language_model(
    model: "LanguageModel",
    train: Examples,
    order: BatchOrder,
    *,
    settings: FinetuneSettings,
    seed: int,
    every: int | None,
    what: str,
    answers: np.ndarray | None = None,
    evaluate: Evaluate | None = None,
    identity: str = "",
    placement: Placement = HERE,
) -> Course:
    """Trains a language model in place; the loop of every run that learns to predict tokens.

    Args:
        model: On its device, or cut over ranks.
        train: The token rows to learn from.
        order: Which of them meet in which batch.
        settings: Resolved settings.
        seed: Decides dropout.
        every: Steps between rows of the history, and evaluations; the end has one in any case. None: only the end.
        what: What this is, for error messages.
        answers: How many tokens at the end of each row are predicted, shape [examples]; None: all after the first.
        evaluate: Called wherever the history gets a row.
        identity: Names the run in its scratch folder.
        placement: Devices, scratch folder, progress.

    Raises:
        TrainingError: The loss became NaN or infinite.
        InterruptedRunError: It was asked to stop.
    """
    assert isinstance(settings.learning_rate, float), "settings are resolved before"
    shard, device = placement.shard, model.device
    warmup = warmup_steps(order.steps, settings.warmup_fraction)
    optimiser = adamw_for(
        model.parameters(),
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        shard=shard,
    )
    step, tokens = 0, 0
    history: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    loss_sum, loss_steps = torch.zeros((), device=device), 0
    pace = Pace(placement, identity, order.steps, device)
    if stored := pace.load():
        optimiser.load_state(stored["optimiser"])
        step, tokens, history = stored["step"], stored["tokens"], stored["history"]
        loss_sum, loss_steps = stored["loss_sum"].to(device), stored["loss_steps"]
        evaluations = stored.get("evaluations", [])

    def state() -> dict[str, Any]:
        kept = {"step": step, "tokens": tokens, "history": history, "loss_sum": loss_sum, "loss_steps": loss_steps}
        return kept | {"evaluations": evaluations, "optimiser": optimiser.state()}

    while step < order.steps:
        positions = order.positions(step)
        if settings.dropout > 0:
            torch.manual_seed(torch_seed(seed, Role.DROPOUT, step * shard.world + shard.rank))
        optimiser.zero_grad()
        loss = _batch_gradient(model, train, positions, settings, shard, answers)
        loss_sum += pace.sum(loss)
        rate = settings.learning_rate * rate_factor(step, order.steps, schedule=settings.schedule, warmup=warmup)
        optimiser.step(rate)
        step, loss_steps = step + 1, loss_steps + 1
        tokens += int(train.tokens.lengths[train.rows[positions]].sum())
        if step == order.steps or (every and step % every == 0):
            mean = float(loss_sum) / loss_steps
            if not math.isfinite(mean):
                raise TrainingError(
                    f"{what}: the loss is {mean} by step {step} of {order.steps} (all was finite at step "
                    f"{history[-1]['step'] if history else 0}). The likely cause is a learning rate too high for this "
                    f"model: it is {settings.learning_rate:g}; try a third of it, a warmup_fraction of 0.05, or a "
                    "smaller clip_norm"
                )
            row = {
                "step": step,
                "step_fraction": step / order.steps,
                "train_loss": mean,
                "validation_loss": None,
                "validation_weak_loss": None,
                "learning_rate": rate,
                "tokens": tokens,
            }
            if evaluate is not None:
                losses, kept = evaluate(step, step == order.steps)
                row |= losses
                evaluations.append(kept)
            history.append(row)
            loss_sum, loss_steps = torch.zeros((), device=device), 0
        pace.after(step, state)

    optimiser.release()
    return Course(history, evaluations)


class LanguageModel(nn.Module):
    """A causal language model whose forward pass is its loss, or a step of decoding.

    Both go through `forward`, since parameters that are cut over ranks are only there while it runs.
    """

    def __init__(self, lm: Any, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.lm, self.autocast = lm, autocast
        self.blank: Callable[[], LanguageModel] | None = None
        """Where parameters are cut over ranks: makes the same model, whole and without values."""

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def forward(self, batch: Batch | Step, answers: np.ndarray | None = None) -> Tensor:
        """See `next_token_loss` and `w2s.decoding.next_logits`."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return next_logits(self.lm, batch) if isinstance(batch, Step) else next_token_loss(self.lm, batch, answers)


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


def next_token_loss(model: Any, batch: Batch, answers: np.ndarray | None = None) -> Tensor:
    """Summed cross-entropy in nats of every real token after the first of its row, shape [].

    Args:
        model: Causal language model.
        batch: Token rows, padded on the right; at least one has two tokens.
        answers: How many tokens at the end of each row count, below its length, shape [rows]; None: all but the first.
    """
    # The last token predicts nothing: it is only a target.
    read = batch.lengths - 1
    inputs = torch.from_numpy(batch.ids[:, :-1]).to(model.device)
    # A row of one token has nothing to predict, but a row without any would make attention divide by zero.
    lengths = torch.from_numpy(np.maximum(read, 1)).to(model.device) if (read != inputs.shape[1]).any() else None
    hidden = hidden_states(model, inputs, lengths).flatten(0, 1)
    targets = torch.from_numpy(batch.ids[:, 1:].reshape(-1)).to(model.device)
    if lengths is not None or answers is not None:
        counted = np.arange(inputs.shape[1]) < read[:, None]
        if answers is not None:
            counted &= np.arange(inputs.shape[1]) >= (read - answers)[:, None]
        real = torch.from_numpy(np.flatnonzero(counted)).to(model.device)
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


def prepared(source: ModelSource, settings: FinetuneSettings, device: torch.device, shard: Shard) -> LanguageModel:
    """The model as `settings` want it trained."""
    autocast = autocast_of(settings, device)

    def assembled(lm: Any) -> LanguageModel:
        if settings.gradient_checkpointing:
            lm.base_model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        # Evaluation mode unless something asks for the other one: some layers drop whatever their settings say.
        lm.train(settings.dropout > 0 or settings.gradient_checkpointing)
        return LanguageModel(lm, autocast)

    if not shard.is_sharded:
        model = assembled(load_causal_lm(source, device, dropout=settings.dropout))
        if settings.compile:
            torch._dynamo.reset()  # what earlier runs compiled in this process must not decide how this one is
            model.lm.base_model.compile()
        return model

    from w2s.sharding import shard_model

    def whole() -> LanguageModel:
        return assembled(load_causal_lm(source, torch.device("cpu"), dropout=settings.dropout))

    def blank() -> LanguageModel:
        return assembled(blank_model(transformers.AutoModelForCausalLM, source, settings.dropout))

    first, model = shard.on_first(whole), blank()
    layers = model.lm.config.get_text_config().num_hidden_layers
    shard_model(model, first, layers=layers, device=device, autocast=autocast, shard=shard)
    model.blank = blank
    warn_uncompiled(settings)
    return model


def whole_language_model(model: LanguageModel, shard: Shard) -> Any:
    """The language model in evaluation mode; where it is cut over ranks, gathered on the CPU of rank 0, else None."""
    if model.blank is None:
        return model.lm.eval()
    from w2s.sharding import gather_into

    whole = model.blank() if shard.is_first else None
    gather_into(whole, model)
    return whole.lm.eval() if whole is not None else None


def _batch_gradient(
    model: LanguageModel,
    train: Examples,
    positions: np.ndarray,
    settings: FinetuneSettings,
    shard: Shard = WHOLE,
    answers: np.ndarray | None = None,
) -> Tensor:
    """Adds the gradient of this rank's share of the batch; returns its part of the mean loss per token, shape [].

    The mean is over all tokens to predict in the whole batch, so that neither ranks nor micro-batches weigh in.
    """
    assert isinstance(settings.micro_batch_size, int)
    counted = train.tokens.lengths[train.rows[positions]] - 1 if answers is None else answers[positions]
    predicted = int(counted.sum())
    mine = positions[shard.slice(len(positions))]
    multiple = COMPILED_LENGTH_MULTIPLE if settings.compile else 1
    total = torch.zeros((), device=model.device)
    pieces = [mine[piece] for piece in micro_batches(mine, train.lengths, settings.micro_batch_size)]
    pieces = [piece for piece in pieces if int(train.lengths[piece].max()) > 1]
    for piece in pieces:
        some = None if answers is None else answers[piece]
        loss = model(train.batch(piece, length_multiple=multiple), some) / predicted
        loss.backward()
        total += loss.detach()
    if shard.is_sharded:
        # The other ranks need this rank's part of the parameters as often as theirs.
        rounds = -(-shard.largest_share(len(positions)) // settings.micro_batch_size)
        short = np.flatnonzero(train.lengths == train.lengths[train.lengths > 1].min())[:1]
        for _ in range(rounds - len(pieces)):
            (model(train.batch(short)) * 0.0).backward()
    return total
