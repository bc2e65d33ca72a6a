"""Classification by prompting a causal language model, zero-shot or with a few solved examples; nothing is trained.

Burns et al. 2023 (arXiv:2312.09390), section 5.2.1. The paper does not say how an answer is read off; here it is the
log-odds of the two answers' texts, each the sum of the log-probabilities of its tokens given the prompt.

Shapes: B token rows of a batch, L their padded length, D the hidden size, V the vocabulary.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from w2s.config import ModelSource, PromptFormat
from w2s.data import inference_batches, shorten, stand_in_token
from w2s.distributed import WHOLE, Shard
from w2s.errors import DataError, ModelError
from w2s.flops import MatmulSizes, Work
from w2s.models import (
    BODIES,
    load_checkpoint_sizes,
    read_pretrained,
    shown_source,
    small_enough,
    source_identity,
)
from w2s.predict import MIN_TOKENS_PER_BATCH
from w2s.seeds import Role, stream

LOGITS_AT_ONCE = 2**24
"""Logits over the whole vocabulary held at a time: 64 MiB in float32."""


@dataclass(frozen=True)
class Shot:
    """A solved example shown in a prompt."""

    text: str
    label: int
    """0 or 1; true, or as a weak supervisor sees it."""


@dataclass(frozen=True)
class Scored:
    """What prompting leaves."""

    log_odds: np.ndarray
    """log P(answer 1 | prompt) - log P(answer 0 | prompt), float32, shape [prompts]."""
    truncated: int
    """Prompts that were too long and lost tokens on their left."""
    work: Work
    """Tokens that went through the model; `sequences` are the readings of its output head over the whole vocabulary."""


def build_prompt(format: PromptFormat, shots: Sequence[Shot], text: str) -> str:
    """Instruction, solved examples and the question without its answer, in this order."""
    # Not str.format: templates may hold braces, and texts anything at all.
    solved = [format.template.replace("{text}", shot.text) + format.answers[shot.label] for shot in shots]
    parts = [format.instruction] if format.instruction else []
    return format.separator.join([*parts, *solved, format.template.replace("{text}", text)])


def choose_shots(ids: np.ndarray, labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Which examples to show: k different ones, classes in turn for as long as both have some left.

    The choice depends on the set of ids, their labels and the seed, not on the order of rows, and the first shots of a
    larger k are those of a smaller one.

    Args:
        ids: Ids of the examples to choose from, a training part and never the test part; shape [examples].
        labels: P(class 1) of each, true or from a weak supervisor; above 1/2 is class 1. Shape [examples].
        k: How many.
        seed: The run's seed.

    Returns:
        Positions in `ids`, in the order to show them, int64, shape [k].

    Raises:
        DataError: There are fewer than k examples, or a label is no number.
    """
    if k > len(ids):
        raise DataError(f"{k} shots are wanted, but the part to choose from has only {len(ids)} examples")
    if np.isnan(np.asarray(labels, dtype=np.float64)).any():
        raise DataError("labels to choose shots by are not numbers; the supervisor's predictions are damaged")
    rng = stream(seed, Role.SHOTS)
    first = int(rng.integers(2))  # the class that an odd k shows once more
    drawn = np.argsort(np.asarray(ids, dtype=str), kind="stable")[rng.permutation(len(ids))]
    hardened = labels[drawn] > 0.5
    queues = [list(drawn[hardened == bool(label)]) for label in (first, 1 - first)]
    chosen: list[int] = []
    while len(chosen) < k:
        turn = len(chosen) % 2
        chosen.append(queues[turn if queues[turn] else 1 - turn].pop(0))
    return np.array(chosen, dtype=np.int64)


def load_causal_lm(source: ModelSource, device: torch.device, *, dropout: float = 0.0) -> Any:
    """A causal language model with its output head, float32, in evaluation mode.

    Args:
        source: Folder or hub id.
        device: Where it will live.
        dropout: Every dropout probability of its configuration.

    Raises:
        ModelError: It is an encoder, lacks files or weights, or computes its logits in a way that `logits` does not.
    """
    checkpoint = load_checkpoint_sizes(source)
    if checkpoint.kind != "causal":
        raise ModelError(
            f"model {shown_source(source)} is an encoder ({checkpoint.model_type}): prompting and language-model "
            "finetuning need a causal language model, such as GPT-2, Pythia, Llama or Qwen"
        )
    key = ("causal language model", *source_identity(source), dropout)
    kept = BODIES.get(key, lambda: (_read_causal_lm(source, dropout), False), keep=small_enough)
    model: Any = copy.deepcopy(kept[0]) if small_enough(kept) else kept[0]
    return model.to(device)


def hidden_states(model: Any, ids: Tensor, lengths: Tensor | None) -> Tensor:
    """What the output head reads at each position, shape [B, L, D].

    Args:
        model: Causal language model.
        ids: Token ids, shape [B, L], padded on the right.
        lengths: Real tokens per row, shape [B]; None when no row is padded, which saves the mask.
    """
    mask = None
    if lengths is not None:
        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
    return model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state


def logits(model: Any, hidden: Tensor, vocabulary: Tensor | None = None) -> Tensor:
    """Logits at some positions, so that none are computed that nobody reads.

    Args:
        model: Causal language model.
        hidden: From `hidden_states`, shape [..., D].
        vocabulary: Token ids to give logits of, shape [tokens]; None for all V.

    Returns:
        Shape [..., V] or [..., tokens].
    """
    head = model.get_output_embeddings()
    weight, bias = head.weight, head.bias
    if vocabulary is not None:
        weight, bias = weight[vocabulary], None if bias is None else bias[vocabulary]
    z = F.linear(hidden, weight, bias)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return z if cap is None else cap * torch.tanh(z / cap)


def causal_sizes(model: Any, *, head_reads: Literal["every token", "sequences"]) -> MatmulSizes:
    """Weights that activations are multiplied with.

    Args:
        model: Causal language model.
        head_reads: Whether the output head reads every token, as in training, or as often as `Work.sequences` says.
    """
    per_token = 0
    for module in model.modules():
        if not isinstance(module, nn.Embedding):
            per_token += sum(p.numel() for p in module.parameters(recurse=False) if p.ndim == 2)
    config = model.config.get_text_config()
    apart = model.get_output_embeddings().weight.numel() if head_reads == "sequences" else 0
    return MatmulSizes(
        per_token=per_token - apart, per_sequence=apart, layers=config.num_hidden_layers, width=config.hidden_size
    )


@torch.inference_mode()
def score(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: tuple[str, str],
    *,
    max_length: int,
    budget: int = MIN_TOKENS_PER_BATCH,
    autocast: torch.dtype | None = None,
    shard: Shard = WHOLE,
) -> Scored:
    """Log-odds of the second answer against the first, for each prompt.

    Prompt and answers become tokens apart from each other, special tokens in front of the prompt only, so that a
    prompt's tokens do not depend on the answer. A tokenizer that would merge the end of a prompt with the beginning of
    an answer is thus read as if it did not; templates that end without a space and answers that begin with one avoid
    the question. Special tokens that a tokenizer puts behind a text are left out, for the answer goes on with it. What
    the tokens of both answers begin with counts for neither: it is read as part of the prompt.

    Args:
        model: From `load_causal_lm`; its mode is restored afterwards.
        tokenizer: The model's.
        prompts: What to complete.
        answers: Texts of class 0 and class 1.
        max_length: Tokens of a prompt with its answer; longer prompts are cut on the left, behind special tokens. Not
            more than the model has positions.
        budget: Padded tokens per batch.
        autocast: Type of the body's arithmetic; the output head always computes in float32.
        shard: Each rank scores every world-th batch; all ranks return all of them.

    Raises:
        DataError: The tokenizer cannot read a text or tell the answers apart, or there is no room for a prompt.
        ModelError: The model's log-odds are not finite.
    """
    common, tails = _answer_tokens(tokenizer, answers)
    room = max_length - max(len(tail) for tail in tails) + 1 - len(common)
    rows, truncated = _prompt_tokens(tokenizer, prompts, room, max_length)
    rows = [row + common for row in rows]
    was_training = model.training
    model.eval()
    if all(len(tail) == 1 for tail in tails):
        log_odds, work = _compare_one_token(model, rows, (tails[0][0], tails[1][0]), budget, autocast, shard)
    else:
        log_odds, work = _compare_texts(model, rows, tails, budget, autocast, shard)
    model.train(was_training)
    z = shard.sum(log_odds).cpu().numpy()
    if not np.isfinite(z).all():
        raise ModelError(f"the log-odds of {(~np.isfinite(z)).sum()} of {len(z)} prompts are not finite")
    return Scored(z, truncated, work)


def _compare_one_token(
    model: Any, rows: list[list[int]], tokens: tuple[int, int], budget: int, autocast: torch.dtype | None, shard: Shard
) -> tuple[Tensor, Work]:
    """Log-odds of two tokens behind each row, shape [rows]: of their two logits, since the normaliser cancels."""
    log_odds = torch.zeros(len(rows), device=model.device)
    vocabulary = torch.tensor(tokens, device=model.device)
    for positions, hidden in _hidden_of_rows(model, rows, budget, autocast, shard):
        last = torch.tensor([len(rows[i]) - 1 for i in positions], device=model.device)
        z = logits(model, hidden[torch.arange(len(positions), device=model.device), last].float(), vocabulary)
        log_odds[torch.from_numpy(positions).to(model.device)] = z[:, 1] - z[:, 0]
    return log_odds, _work(rows, readings=0)


def _compare_texts(
    model: Any,
    prompts: list[list[int]],
    answers: tuple[list[int], list[int]],
    budget: int,
    autocast: torch.dtype | None,
    shard: Shard,
) -> tuple[Tensor, Work]:
    """Log-odds of two token sequences behind each prompt, shape [prompts]; one row per prompt and answer."""
    # An answer's last token is only a target. Rows of a prompt lie side by side, and so mostly share a batch.
    rows = [prompt + answer[:-1] for prompt in prompts for answer in answers]
    log_odds = torch.zeros(len(prompts), device=model.device, dtype=torch.float64)
    for positions, hidden in _hidden_of_rows(model, rows, budget, autocast, shard):
        at: list[tuple[int, int, int]] = []  # row of the batch, place in it, the token that follows
        for b, i in enumerate(positions):
            start = len(prompts[i // 2]) - 1
            at += [(b, start + j, token) for j, token in enumerate(answers[i % 2])]
        b, places, tokens = torch.tensor(at, device=model.device).T
        log_p = torch.zeros(len(positions), device=model.device, dtype=torch.float64)
        chunk = max(1, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
        for piece in torch.arange(len(b), device=model.device).split(chunk):
            z = logits(model, hidden[b[piece], places[piece]].float()).log_softmax(dim=-1)
            log_p.index_add_(0, b[piece], z.gather(1, tokens[piece, None]).squeeze(1).double())
        index = torch.from_numpy(positions).to(model.device)
        log_odds.index_add_(0, index // 2, log_p * (2 * (index % 2) - 1))
    return log_odds.float(), _work(rows, readings=len(prompts) * sum(len(answer) for answer in answers))


def _hidden_of_rows(
    model: Any, rows: list[list[int]], budget: int, autocast: torch.dtype | None, shard: Shard
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """This rank's batches of rows of similar length: which rows, shape [B], and their hidden states, [B, L, D]."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    for index, positions in enumerate(inference_batches(lengths, budget)):
        if index % shard.world != shard.rank:
            continue
        longest = int(lengths[positions].max())
        # Padding repeats a row's last token, which every vocabulary has; the mask hides it.
        ids = torch.tensor([rows[i] + [rows[i][-1]] * (longest - len(rows[i])) for i in positions])
        real = torch.from_numpy(lengths[positions]) if (lengths[positions] != longest).any() else None
        with torch.autocast(model.device.type, autocast, enabled=autocast is not None):
            hidden = hidden_states(model, ids.to(model.device), None if real is None else real.to(model.device))
        yield positions, hidden


def _answer_tokens(tokenizer: Any, answers: tuple[str, str]) -> tuple[list[int], tuple[list[int], list[int]]]:
    """The tokens that both answers begin with, and what each goes on with."""
    first, second = _encode(tokenizer, list(answers), special=False)["input_ids"]
    same = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    if same is None:
        raise DataError(
            f"answers {answers[0]!r} and {answers[1]!r} are tokens {first} and {second}: one begins with the other, so "
            "that they cannot be told apart; write answers that differ in their first words"
        )
    return first[:same], (first[same:], second[same:])


def _prompt_tokens(tokenizer: Any, prompts: Sequence[str], room: int, max_length: int) -> tuple[list[list[int]], int]:
    """Tokens of each prompt, at most `room`, and how many prompts were cut."""
    if not prompts:
        return [], 0
    encoded = _encode(tokenizer, list(prompts), special=True)
    rows, truncated = [], 0
    for row, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        behind = next((i for i, flag in enumerate(reversed(special)) if not flag), 0)
        row, special = row[: len(row) - behind], special[: len(row) - behind]
        front = next((i for i, flag in enumerate(special) if not flag), len(special))
        if room <= front:
            raise DataError(
                f"max_length {max_length} leaves no room for a prompt beside special tokens and answers; it must be "
                f"larger by {front - room + 1} at least"
            )
        if len(row) > room:
            row, truncated = shorten(row, special, room, keep_end=True), truncated + 1
        rows.append(list(row) or [stand_in_token(tokenizer)])
    return rows, truncated


def _encode(tokenizer: Any, texts: list[str], *, special: bool) -> Any:
    try:
        return tokenizer(
            texts, add_special_tokens=special, truncation=False, padding=False, return_attention_mask=False,
            return_special_tokens_mask=True, verbose=False,
        )  # fmt: skip
    except Exception as error:  # a word-level tokenizer meets a word that it has not; the library has no type for it
        raise DataError(f"the tokenizer cannot read a prompt or answer, such as {texts[0][:80]!r}: {error}") from error


def _work(rows: list[list[int]], *, readings: int) -> Work:
    lengths = [len(row) for row in rows]
    return Work(tokens=sum(lengths), squared_lengths=sum(n * n for n in lengths), sequences=readings)


def _read_causal_lm(source: ModelSource, dropout: float) -> Any:
    where = shown_source(source)
    model, info = read_pretrained(transformers.AutoModelForCausalLM, source, dropout)
    if missing := sorted(info["missing_keys"]):
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ModelError(
            f"model {where} lacks {len(missing)} weights of a causal language model: {shown}; the file is incomplete, "
            "or it was saved without its output head"
        )
    model.eval()
    _refuse_other_logits(model, where)
    return model


@torch.no_grad()
def _refuse_other_logits(model: Any, where: str) -> None:
    """Some architectures scale their logits; better to stop than to score with others than the model's own."""
    ids = torch.arange(min(4, model.config.get_text_config().vocab_size))[None]
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear):
        expected = model(input_ids=ids, use_cache=False).logits
        ours = logits(model, hidden_states(model, ids, None))
        largest = max(1.0, float(expected.abs().max()))
        if ours.shape == expected.shape and float((ours - expected).abs().max()) <= 1e-4 * largest:
            return
        if not math.isfinite(largest):
            raise ModelError(f"model {where} computes logits that are not finite; its weights are damaged")
    raise ModelError(
        f"model {where} ({type(model).__name__}) computes its logits in another way than by its output embedding; "
        "prompting and language-model finetuning do not know this architecture"
    )
