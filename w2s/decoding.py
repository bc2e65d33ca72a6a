"""Greedy decoding in batches, with a cache of keys and values, to the same tokens as one by one.

Rows of a batch are padded on the left, so that all of them go on at the same place; positions count real tokens only.
A row that has ended leaves the batch. Rows of similar length share a batch, which wastes little on padding.

Shapes: B rows of a batch, L their padded length, V the vocabulary.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedTokenizerBase

from w2s.caches import RecentlyUsed
from w2s.distributed import WHOLE, Shard
from w2s.errors import DataError
from w2s.flops import Work
from w2s.kv_cache import GroupedCache, is_plain
from w2s.prompting import logits


@dataclass(frozen=True)
class Step:
    """What a model reads to say which token comes next: a whole prompt, or the token that it said last."""

    ids: Tensor
    """int64, shape [B, L]."""
    mask: Tensor | None = None
    """1 on real tokens and 0 on padding, of all tokens so far, shape [B, all]; None where no row is padded."""
    cache: Any = None
    """Keys and values of the tokens before; the model adds those of `ids`."""


READ_AT_ONCE = 1024
"""Tokens of prompts that a CPU reads at once: enough to be efficient, and few enough to stay in its cache."""
ALIKE, ROUGHLY_ALIKE = 0.8, 0.5
"""Prompts of at least this share of a batch's longest one belong to it: where a batch is read at once, and where it is
read in groups, so that only keys and values are padded."""
ENOUGH_TOKENS = 2048
"""Of a batch, before padding is looked at: small models are bound by the overhead per step, which this spreads."""
Forward = Callable[[Step], Tensor]
"""From a step to the logits of the next token, float32, shape [B, V]."""


@dataclass(frozen=True)
class Decoded:
    """Completions, in the order of the prompts."""

    tokens: list[list[int]]
    """Of each completion, with the token that ended it where one did."""
    log_prob: np.ndarray
    """Mean log-probability of a completion's tokens, float32, shape [prompts]."""
    work: Work
    """Tokens that went through the model; `sequences` are the readings of its output head."""


def next_logits(lm: Any, step: Step) -> Tensor:
    """Logits of the token after a step, float32, shape [B, V].

    Args:
        lm: Causal language model with its output head.
        step: What it reads.
    """
    placed = {}
    if step.mask is not None and "position_ids" in inspect.signature(lm.base_model.forward).parameters:
        # Where padding is, any position will do; it is not attended to.
        placed["position_ids"] = (step.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -step.ids.shape[1] :]
    kept = {"past_key_values": step.cache, "use_cache": True} if step.cache is not None else {"use_cache": False}
    hidden = lm.base_model(input_ids=step.ids, attention_mask=step.mask, **kept, **placed).last_hidden_state
    return logits(lm, hidden[:, -1]).float()


def greedy(
    forward: Forward,
    prompts: Sequence[Sequence[int]],
    *,
    config: Any,
    device: torch.device,
    stops: Sequence[int],
    max_new_tokens: int,
    budget: int,
    shard: Shard = WHOLE,
) -> Decoded:
    """The likeliest token after each prompt, again and again until it is one that ends the completion.

    Args:
        forward: The model, without gradient and in evaluation mode.
        prompts: Token ids, each at least one; with `max_new_tokens` behind, they must fit the model's positions.
        config: The model's, which says what kind of cache it wants.
        device: Where it computes.
        stops: Tokens that end a completion.
        max_new_tokens: Tokens of a completion, at most.
        budget: Tokens of a batch, at most, with their completions; a batch holds at least one prompt.
        shard: Each rank decodes every world-th batch; all ranks return all completions.
    """
    # In one tensor of numbers, so that ranks can add up what each of them found: 0 is no token.
    found = torch.zeros(len(prompts), max_new_tokens, dtype=torch.int64, device=device)
    log_prob = torch.zeros(len(prompts), dtype=torch.float32, device=device)
    ends = torch.tensor(sorted(stops), dtype=torch.int64, device=device)
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    grouped = is_plain(config)
    batches = decoding_batches(lengths, max_new_tokens, budget, alike=ROUGHLY_ALIKE if grouped else ALIKE)
    mine = batches[shard.rank :: shard.world]
    for index in range(shard.largest_share(len(batches))):
        passes: Iterator[None] = iter(())
        if index < len(mine):
            positions = mine[index]
            cache: Cache = DynamicCache(config=config)
            if grouped:
                cache = GroupedCache(rows=len(positions), read=int(lengths[positions].max()), new=max_new_tokens)
            passes = _passes(forward, prompts, positions, cache, ends, max_new_tokens, found, log_prob)
        if shard.is_sharded:
            _in_step(passes, lambda: forward(Step(torch.zeros(1, 1, dtype=torch.int64, device=device))), shard, device)
        else:
            for _ in passes:
                pass
    rows = shard.sum(found).cpu().numpy()
    tokens = [[int(token) - 1 for token in row if token] for row in rows]
    counts = np.array([len(row) for row in tokens], dtype=np.int64)
    mean = shard.sum(log_prob).cpu().numpy() / np.maximum(counts, 1)
    read = lengths + np.maximum(counts, 1) - 1  # the last token is not read any more
    work = Work(tokens=int(read.sum()), squared_lengths=int((read**2).sum()), sequences=int(counts.sum()))
    return Decoded(tokens, mean.astype(np.float32), work)


def decoding_batches(
    lengths: np.ndarray, max_new_tokens: int, budget: int, *, alike: float = ALIKE
) -> list[np.ndarray]:
    """All prompts in batches, the longest first so that memory runs out at once or never.

    Prompts much shorter than the longest of their batch start a new one: they would mostly be padding.

    Args:
        lengths: Tokens of every prompt, shape [prompts].
        max_new_tokens: Tokens of a completion, at most.
        budget: Padded tokens of a batch with their completions, at most; a batch holds at least one prompt.
        alike: Share of the longest one's length from which prompts belong to its batch.

    Returns:
        Positions of each batch's prompts.
    """
    order = np.argsort(-lengths, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        end = start + max(1, budget // (longest + max_new_tokens))
        similar = start + int(np.searchsorted(-lengths[order[start:]], -longest * alike, side="right"))
        end = min(end, max(similar, start + ENOUGH_TOKENS // (longest + max_new_tokens)))
        batches.append(order[start:end])
        start = end
    return batches


def reading_groups(lengths: np.ndarray, at_once: int) -> list[slice]:
    """The prompts of a batch in groups that are read at once, each of similar length.

    Args:
        lengths: Tokens of every prompt, the longest first, shape [rows].
        at_once: Padded tokens of a group, at most; a group holds at least one prompt.
    """
    groups: list[slice] = []
    start = 0
    while start < len(lengths):
        end = min(start + max(1, at_once // int(lengths[start])), len(lengths))
        groups.append(slice(start, end))
        start = end
    return groups


def _passes(
    forward: Forward,
    prompts: Sequence[Sequence[int]],
    positions: np.ndarray,
    cache: Cache,
    ends: Tensor,
    max_new_tokens: int,
    found: Tensor,
    log_prob: Tensor,
) -> Iterator[None]:
    """Decodes the prompts at `positions`, longest first, into `found` and `log_prob`; yields before every pass."""
    device = found.device
    rows = torch.from_numpy(positions).to(device)
    before = np.array([len(prompts[i]) for i in positions], dtype=np.int64)  # tokens of each row so far
    token = torch.empty(len(rows), dtype=torch.int64, device=device)

    def say(step: Step, rows: Tensor, place: int) -> Tensor:
        z = forward(step)
        said = z.argmax(dim=-1)
        found[rows, place] = said + 1
        log_prob[rows] += z.gather(1, said[:, None]).squeeze(1) - z.logsumexp(dim=-1)
        return said

    # Prompts, in groups where the cache can put them together.
    groups = [slice(0, len(rows))]
    if isinstance(cache, GroupedCache):
        groups = reading_groups(before, READ_AT_ONCE if device.type == "cpu" else len(rows) * int(before[0]))
    for group in groups:
        longest = int(before[group].max())
        if isinstance(cache, GroupedCache):
            cache.begin(group, longest)
        # Padding repeats a row's first token, which every vocabulary has; the mask hides it.
        padded = [[prompts[i][0]] * (longest - len(prompts[i])) + list(prompts[i]) for i in positions[group]]
        ids = torch.tensor(padded, dtype=torch.int64, device=device)
        yield
        token[group] = say(Step(ids, _mask(before[group], longest, device), cache), rows[group], 0)

    if isinstance(cache, GroupedCache):
        cache.go_on(len(rows), int(before.max()))

    # Then token by token.
    for place in range(1, max_new_tokens):
        going = (~torch.isin(token, ends)).nonzero().squeeze(1).cpu().numpy()
        if not len(going):
            return
        width = int(before.max())
        if len(going) < len(rows):
            order = _leave(cache, going, device)
            kept = torch.from_numpy(order).to(device)
            rows, token, before = rows[kept], token[kept], before[order]
        if isinstance(cache, GroupedCache):
            width = int(before.max())  # columns that only rows needed that have left
            cache.go_on(len(rows), width)
        before, width = before + 1, width + 1
        yield
        token = say(Step(token[:, None], _mask(before, width, device), cache), rows, place)


def _mask(real: np.ndarray, width: int, device: torch.device) -> Tensor | None:
    """1 on the last `real` of `width` tokens of each row; None where that is all of them."""
    if (real == width).all():
        return None
    return torch.from_numpy((np.arange(width) >= width - real[:, None]).astype(np.int64)).to(device)


def _leave(cache: Cache, going: np.ndarray, device: torch.device) -> np.ndarray:
    """Keeps the rows that go on; returns which of the rows each of them was."""
    if not isinstance(cache, GroupedCache):
        cache.batch_select_indices(torch.from_numpy(going).to(device))
        return going
    order = np.arange(len(going))
    places, by = np.setdiff1d(order, going), going[going >= len(going)]
    cache.replace(torch.from_numpy(places).to(device), torch.from_numpy(by).to(device))
    order[places] = by
    return order


def _in_step(passes: Iterator[None], idle: Callable[[], Any], shard: Shard, device: torch.device) -> None:
    """Runs one rank's passes beside those of the others, who need its part of the parameters as often as they run."""
    wants = next(passes, _DONE) is not _DONE
    while shard.sum(torch.tensor(int(wants), device=device)) > 0:
        if wants:
            wants = next(passes, _DONE) is not _DONE
        else:
            idle()


_DONE = object()


def completion_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """A completion as text: its first line, without special tokens and without white space behind it."""
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).split("\n", 1)[0].rstrip()


def stop_tokens(tokenizer: PreTrainedTokenizerBase, fingerprint: str) -> tuple[int, ...]:
    """Tokens that end a completion: the end of text, and every token with a line break in it.

    Args:
        tokenizer: The model's.
        fingerprint: What stands for it in this process's memory.

    Raises:
        DataError: The tokenizer has none.
    """
    return _STOPS.get(fingerprint, lambda: _stop_tokens(tokenizer))


def end_token(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> int:
    """The token that ends an answer in training: the end of text, or where the tokenizer has none, a line break."""
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType]
    return next((token for token in stops if tokenizer.decode([token]) == "\n"), stops[0])


_STOPS: RecentlyUsed[tuple[int, ...]] = RecentlyUsed(8)


def _stop_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    stops = {token for token, text in enumerate(texts) if "\n" in text}
    if tokenizer.eos_token_id is not None:
        stops.add(int(tokenizer.eos_token_id))  # pyright: ignore[reportArgumentType]
    if not stops:
        raise DataError(
            "the tokenizer has neither a token for the end of text nor one for a line break, so that no answer would "
            "ever end; a task of form generate needs a model with one"
        )
    return tuple(sorted(stops))
