"""Pretraining of small causal language models from scratch: the rungs of an offline ladder.

A rung is a Llama (tied embeddings, gated MLP of 4 x hidden size), saved with its tokenizer so that nothing can tell it
from a downloaded checkpoint.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from w2s.caches import appearing_whole
from w2s.config import FactsCorpus, PretrainSettings, RungShape, TextCorpus, WidthRule
from w2s.corpora import corpus_fingerprint, facts_documents, facts_tokenizer, read_texts, text_token_stream
from w2s.data import hash_once, tokenizer_fingerprint
from w2s.distributed import HERE, Placement, Shard
from w2s.errors import DataError, ModelError, TrainingError
from w2s.fingerprints import digest
from w2s.flops import MatmulSizes, Work
from w2s.models import load_tokenizer, quiet_library, source_of
from w2s.optim import adamw_for
from w2s.resume import Pace
from w2s.schedules import rate_factor
from w2s.seeds import Role, stream, torch_seed

HISTORY_ROWS = 20
MIN_POSITIONS = 64
"""Rotary positions cost nothing, so that even a rung of four-token documents can read a somewhat longer text."""


@dataclass(frozen=True)
class Blocks:
    """What a rung reads: token rows of one length, and in which order."""

    rows: np.ndarray
    """Token ids, shape [rows, length]."""
    batch_size: int
    steps: int
    seed: int
    shuffled: bool
    """Whether each pass over the rows has an order of its own, or the rows are already in random order."""

    def batch(self, step: int) -> np.ndarray:
        """Rows of one optimisation step, int64, shape [batch, length]."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, len(self.rows))
        if self.shuffled:
            places = np.array(
                [_order(len(self.rows), self.seed, int(e))[p] for e, p in zip(epochs, places, strict=True)]
            )
        return self.rows[places].astype(np.int64)


@dataclass(frozen=True)
class Pretrained:
    """A trained rung and what it took."""

    model: LlamaForCausalLM
    history: list[dict[str, Any]]
    steps: int
    work: Work


def corpus_blocks(
    shape: RungShape, settings: PretrainSettings, seed: int, tokenizer: PreTrainedTokenizerFast, cache_dir: Path
) -> Blocks:
    """The token rows that a rung is pretrained on, for `shape.tokens` tokens in all.

    Facts are drawn anew for every document. Text is joined, cut into windows of `settings.context` tokens and read in
    random order, as often as it takes.

    Raises:
        DataError: The text has fewer tokens than one window.
    """
    corpus = settings.corpus
    if isinstance(corpus, FactsCorpus):
        rows = facts_documents(corpus, shape.tokens, stream(seed, Role.CORPUS))
        steps = max(1, len(rows) // settings.batch_size)
        return Blocks(rows, settings.batch_size, steps, seed, shuffled=False)
    tokens = _token_stream(corpus, tokenizer, cache_dir)
    windows = len(tokens) // settings.context
    if windows == 0:
        raise DataError(
            f"the text of {', '.join(corpus.files)} has {len(tokens)} tokens, less than one window of context: "
            f"{settings.context}; give more text or a smaller context"
        )
    rows = tokens[: windows * settings.context].reshape(windows, settings.context)
    steps = max(1, shape.tokens // (settings.batch_size * settings.context))
    return Blocks(rows, settings.batch_size, steps, seed, shuffled=True)


def corpus_tokenizer(settings: PretrainSettings, tokenizer_path: str | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a corpus: the world's own for facts, a trained one for text.

    Raises:
        ModelError: Text, but no trained tokenizer was given.
    """
    if isinstance(settings.corpus, FactsCorpus):
        return facts_tokenizer()
    if tokenizer_path is None:
        raise ModelError("pretraining on text needs the tokenizer that a tokenizer run trained; none was given")
    tokenizer = load_tokenizer(source_of(tokenizer_path))
    assert isinstance(tokenizer, PreTrainedTokenizerFast), "a tokenizer run writes no other kind"
    return tokenizer


def new_llama(
    shape: RungShape, *, vocab_size: int, positions: int, tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlamaForCausalLM:
    """An untrained rung, float32, on the CPU.

    Weights start normal with standard deviation `0.5 / sqrt(hidden size)`: the library's default of 0.02 leaves small
    models on a plateau for most of their training.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=4 * shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=positions,
        initializer_range=0.5 / math.sqrt(shape.hidden_size),
        tie_word_embeddings=True,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(torch_seed(seed, Role.PRETRAIN_INIT))
    return LlamaForCausalLM(config)


def peak_rate(settings: PretrainSettings, width: int) -> float:
    """Peak learning rate of a rung: a number as it stands, or what a width rule gives, within the settings' bound."""
    rate = settings.learning_rate
    return min(settings.max_learning_rate, rate.resolve(width)) if isinstance(rate, WidthRule) else rate


def language_model_loss(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Summed cross-entropy in nats of every token after the first of its row, shape [].

    Args:
        model: Causal model with tied embeddings.
        ids: Token rows without padding, shape [rows, length].
    """
    # The last token predicts nothing: it is only a target. Of four-token documents that is a quarter of the work.
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = F.linear(hidden.flatten(0, 1), model.lm_head.weight)
    return F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum")


def sizes_of(model: LlamaForCausalLM) -> MatmulSizes:
    """Weights that every token is multiplied with: all matrices, the tied embedding once, as output head."""
    return MatmulSizes(
        per_token=sum(p.numel() for p in model.parameters() if p.ndim == 2),
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
    )


def pretrain(
    shape: RungShape,
    settings: PretrainSettings,
    seed: int,
    *,
    tokenizer: PreTrainedTokenizerFast,
    cache_dir: Path,
    device: torch.device,
    identity: str = "",
    placement: Placement = HERE,
) -> Pretrained:
    """Pretrains one rung. On several devices each holds it whole: rungs are small.

    Raises:
        DataError: Too little text, or tokens outside the vocabulary.
        TrainingError: The loss became NaN or infinite.
        InterruptedRunError: It was asked to stop.
    """
    shard = replace(placement.shard, sharded=False)
    blocks = corpus_blocks(shape, settings, seed, tokenizer, cache_dir)
    length = blocks.rows.shape[1]
    vocab_size = len(tokenizer)
    if (largest := int(blocks.rows.max())) >= vocab_size:
        raise DataError(f"the corpus holds token {largest}, but the tokenizer has only {vocab_size} tokens")
    positions = max(MIN_POSITIONS, length) if isinstance(settings.corpus, FactsCorpus) else length
    model = new_llama(shape, vocab_size=vocab_size, positions=positions, tokenizer=tokenizer, seed=seed)
    model.to(device)  # pyright: ignore[reportArgumentType]
    # Nothing here drops out; what training mode switches on in this model is only checked for in every layer.
    model.eval()
    optimiser = adamw_for(
        model.parameters(),
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        shard=shard,
    )
    peak = peak_rate(settings, shape.hidden_size)
    every = max(1, blocks.steps // HISTORY_ROWS)
    step, history = 0, []
    loss_sum, loss_steps = torch.zeros((), device=device), 0
    pace = Pace(replace(placement, shard=shard), identity, blocks.steps, device)
    if stored := pace.load():
        optimiser.load_state(stored["optimiser"])
        step, history, loss_steps = stored["step"], stored["history"], stored["loss_steps"]
        loss_sum = stored["loss_sum"].to(device)

    def state() -> dict[str, Any]:
        kept = {"step": step, "history": history, "loss_sum": loss_sum, "loss_steps": loss_steps}
        return kept | {"optimiser": optimiser.state()}

    while step < blocks.steps:
        optimiser.zero_grad()
        loss = _batch_gradient(model, blocks.batch(step), shard, device)
        loss_sum += pace.sum(loss)
        rate = peak * rate_factor(
            step, blocks.steps, schedule="linear", warmup=settings.warmup_steps, final=settings.final_fraction
        )
        optimiser.step(rate)
        step, loss_steps = step + 1, loss_steps + 1
        if step == blocks.steps or step % every == 0:
            mean = float(loss_sum) / loss_steps
            if not math.isfinite(mean):
                raise TrainingError(
                    f"pretraining loss is {mean} by step {step} of {blocks.steps}. The likely cause is a learning rate "
                    f"too high for hidden_size {shape.hidden_size}: its peak is {peak:g}; lower learning_rate or "
                    "max_learning_rate"
                )
            history.append(
                {
                    "step": step,
                    "step_fraction": step / blocks.steps,
                    "train_loss": mean,
                    "validation_loss": None,
                    "validation_weak_loss": None,
                    "learning_rate": rate,
                    "tokens": step * settings.batch_size * length,
                }
            )
            loss_sum, loss_steps = torch.zeros((), device=device), 0
        pace.after(step, state)

    optimiser.release()
    rows = blocks.steps * settings.batch_size
    work = Work(tokens=rows * length, squared_lengths=rows * length**2, sequences=rows)
    return Pretrained(model, history, blocks.steps, work)


def save_pretrained(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes a checkpoint folder in the library's own format."""
    with quiet_library():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _batch_gradient(model: LlamaForCausalLM, rows: np.ndarray, shard: Shard, device: torch.device) -> Tensor:
    """Adds the gradient of this rank's share of the batch; returns its part of the mean loss per token, shape []."""
    predicted = rows.shape[0] * (rows.shape[1] - 1)
    mine = rows[shard.slice(len(rows))]
    if len(mine) == 0:
        return torch.zeros((), device=device)
    loss = language_model_loss(model, torch.from_numpy(mine).to(device)) / predicted
    loss.backward()
    return loss.detach()


@lru_cache(maxsize=2)
def _order(rows: int, seed: int, epoch: int) -> np.ndarray:
    return stream(seed, Role.PRETRAIN_ORDER, epoch).permutation(rows)


def _token_stream(corpus: TextCorpus, tokenizer: PreTrainedTokenizerFast, cache_dir: Path) -> np.ndarray:
    """All text as one row of tokens, int32, made once per corpus and tokenizer."""
    key = digest([corpus_fingerprint(corpus, hash_file=hash_once), tokenizer_fingerprint(tokenizer)])
    path = cache_dir / "corpora" / f"{key}.npy"
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        pass  # not there, or damaged: a cache may always be made again
    tokens = text_token_stream(tokenizer, read_texts(corpus)).astype(np.int32)
    with appearing_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, tokens)
    return tokens
