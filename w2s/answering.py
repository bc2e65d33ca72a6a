"""Finetuning and evaluation for `generate`: a causal language model learns to say the answers to prompts.

The loss is the language-model loss on the answer and on the token that ends it; the prompt is read and not predicted
(Burns et al. 2023, section 4.1, on chess puzzles: models "generate" a move from the moves before it; how tokens are
weighted is not stated there). As usual for language models it is the mean over all these tokens of an optimisation
batch, so that every token counts the same, whatever answer it belongs to and however the batch is cut.

Weak labels are the supervisor's own greedy completions; whatever has none is not learned from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from w2s.config import FinetuneSettings
from w2s.data import BatchOrder, Examples, Tokens, micro_batches
from w2s.decoding import completion_of, end_token, greedy
from w2s.distributed import HERE, WHOLE, Placement, Shard
from w2s.errors import DataError
from w2s.flops import Work
from w2s.generative import LanguageModel, train_language_model
from w2s.predict import token_budget

MARGIN = 4
"""Tokens that a completion may be longer than the longest true answer, its end included."""


@dataclass(frozen=True)
class Speech:
    """How a model's tokenizer begins and ends answers."""

    tokenizer: PreTrainedTokenizerBase
    stops: tuple[int, ...]
    """Tokens that end a completion."""
    max_new_tokens: int
    """Tokens of an answer with its end, at most."""

    def encode(self, answers: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Tokens of each answer with the one that ends it, and which were too long and lost their end, [answers]."""
        end = end_token(self.tokenizer, self.stops)
        rows = [[*row, end] for row in answer_tokens(self.tokenizer, answers)]
        cut = np.array([len(row) > self.max_new_tokens for row in rows], dtype=bool)
        return [row[: self.max_new_tokens] for row in rows], cut


@dataclass(frozen=True)
class Lesson:
    """Prompts with their answers behind them, to be learned or to be scored."""

    examples: Examples
    answers: np.ndarray
    """Tokens of each example's answer, at the end of its row, int64, shape [examples]."""
    cut: int
    """Answers that were too long."""

    def work(self) -> Work:
        """Tokens of one pass; `sequences` are the tokens to predict."""
        whole = self.examples.work()
        return Work(whole.tokens, whole.squared_lengths, int(self.answers.sum()))


@dataclass(frozen=True)
class Completions:
    """What a model said after `step` optimisation steps, by split and sorted by example id."""

    step: int
    texts: Mapping[str, list[str]]
    log_prob: Mapping[str, np.ndarray]
    """Mean log-probability of the tokens of each completion, float32, shape [examples of the split]."""


@dataclass(frozen=True)
class Answered:
    """What finetuning on answers leaves, beside the trained model."""

    evaluations: list[Completions]
    history: list[dict[str, Any]]
    """Rows of the loss history, oldest first; losses are nats per token."""
    steps: int
    trained: Work
    predicted: Work
    """Tokens of the completions at the end, and those before as many times as there were evaluations."""


def answer_tokens(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[list[int]]:
    """Tokens of answers as they follow a prompt: without anything in front or behind."""
    if not answers:
        return []
    try:
        found: Any = tokenizer(list(answers), add_special_tokens=False, return_attention_mask=False, verbose=False)
    except Exception as error:  # a word-level tokenizer meets a word that it has not; the library has no type for it
        raise DataError(f"the tokenizer cannot read an answer, such as {answers[0][:80]!r}: {error}") from error
    return found["input_ids"]


def room_for(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str], *, wanted: int | None) -> int:
    """Tokens that an answer may have, its end included: `wanted`, or a few more than the longest of all true ones.

    The length of the longest answer is a property of the task, like the number of classes: it is taken over all parts.
    """
    return wanted or max(map(len, answer_tokens(tokenizer, answers))) + MARGIN


def lesson(prompts: Examples, answers: Sequence[str], speech: Speech) -> Lesson:
    """Prompts with answers behind them, each row with the token that ends it.

    Args:
        prompts: Of some examples.
        answers: One for each, none blank.
        speech: How they become tokens.
    """
    said, cut = speech.encode(answers)
    read = [_prompt(prompts, i) for i in range(len(prompts))]
    rows = [
        np.concatenate([prompt, np.array(answer, dtype=np.int32)]) for prompt, answer in zip(read, said, strict=True)
    ]
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    lost = prompts.tokens.cut[prompts.rows[:, 0]]
    tokens = Tokens(np.concatenate(rows), offsets, lost | cut)
    examples = Examples("generate", prompts.ids, prompts.gold, tokens, np.arange(len(rows))[:, None])
    return Lesson(examples, np.array([len(answer) for answer in said], dtype=np.int64), int(cut.sum()))


def learn_answers(
    model: LanguageModel,
    train: Lesson,
    splits: Mapping[str, Examples],
    *,
    speech: Speech,
    settings: FinetuneSettings,
    seed: int,
    scored: Mapping[str, Lesson],
    identity: str = "",
    placement: Placement = HERE,
) -> Answered:
    """Trains `model` in place and decodes on the way.

    Args:
        model: On its device, or cut over ranks.
        train: What to learn.
        splits: Prompts of the parts to answer. The end covers all, earlier evaluations `validation` and `test`.
        speech: How answers begin and end.
        settings: Resolved settings.
        seed: Decides the order of the data, and dropout.
        scored: Lessons whose loss is a column of the history, by its name.
        identity: Names the run in its scratch folder.
        placement: Devices, scratch folder, progress.

    Raises:
        TrainingError: The loss became NaN or infinite.
        InterruptedRunError: It was asked to stop.
    """
    assert isinstance(settings.micro_batch_size, int), "settings are resolved before"
    shard, size = placement.shard, settings.micro_batch_size
    order = BatchOrder(len(train.examples), settings.batch_size, settings.epochs, seed)
    works: dict[str, Work] = {}

    def evaluate(step: int, is_last: bool) -> tuple[dict[str, float | None], dict[str, Any]]:
        names = list(splits) if is_last else [name for name in ("validation", "test") if name in splits]
        texts: dict[str, list[str]] = {}
        log_prob: dict[str, torch.Tensor] = {}
        for name in names:
            texts[name], said, works[name] = complete(model, splits[name], speech, size, shard)
            log_prob[name] = torch.from_numpy(said)
        losses = {name: mean_loss(model, one, size, shard) for name, one in scored.items()}
        return {**losses}, {"step": step, "texts": texts, "log_prob": log_prob}

    course = train_language_model(
        model,
        train.examples,
        order,
        settings=settings,
        seed=seed,
        every=settings.eval_every,
        what="finetuning on answers",
        answers=train.answers,
        evaluate=evaluate,
        identity=identity,
        placement=placement,
    )
    evaluations = [
        Completions(e["step"], e["texts"], {name: said.numpy() for name, said in e["log_prob"].items()})
        for e in course.evaluations
    ]
    return Answered(
        evaluations=evaluations,
        history=course.history,
        steps=order.steps,
        trained=train.work() * settings.epochs,
        predicted=sum((works[name] for e in evaluations for name in e.texts), Work()),
    )


def complete(
    model: LanguageModel, prompts: Examples, speech: Speech, micro_batch_size: int, shard: Shard = WHOLE
) -> tuple[list[str], np.ndarray, Work]:
    """The model's greedy completions of some prompts, their mean log-probabilities (float32), and what was computed."""
    was_training = model.training
    model.eval()
    # Inference mode would leave gathered parameters behind that no gradient can be taken of.
    with torch.no_grad() if shard.is_sharded else torch.inference_mode():
        decoded = greedy(
            model,
            [_prompt(prompts, i).tolist() for i in range(len(prompts))],
            config=model.lm.config,
            device=model.device,
            stops=speech.stops,
            max_new_tokens=speech.max_new_tokens,
            # A token's keys and values take less than what training keeps of it.
            budget=token_budget(micro_batch_size, int(prompts.lengths.max()) + speech.max_new_tokens),
            shard=shard,
        )
    model.train(was_training)
    return [completion_of(speech.tokenizer, row) for row in decoded.tokens], decoded.log_prob, decoded.work


def mean_loss(model: LanguageModel, taught: Lesson, micro_batch_size: int, shard: Shard = WHOLE) -> float:
    """Mean cross-entropy per answer token, in nats; every rank gets the same."""
    was_training = model.training
    model.eval()
    positions = np.arange(len(taught.examples))
    mine = positions[shard.slice(len(positions))]
    pieces = [mine[p] for p in micro_batches(mine, taught.examples.lengths, micro_batch_size)]
    with torch.no_grad() if shard.is_sharded else torch.inference_mode():
        total = torch.zeros((), dtype=torch.float32, device=model.device)
        score = partial(_summed_loss, model, taught)
        for piece in pieces:
            total += score(piece)
        if shard.is_sharded:  # the other ranks need this rank's part of the parameters as often as theirs
            rounds = -(-shard.largest_share(len(positions)) // micro_batch_size)
            for _ in range(rounds - len(pieces)):
                score(positions[:1])
        total = shard.sum(total)
    model.train(was_training)
    return float(total) / int(taught.answers.sum())


def _summed_loss(model: LanguageModel, taught: Lesson, positions: np.ndarray) -> torch.Tensor:
    return model(taught.examples.batch(positions), taught.answers[positions])


def _prompt(prompts: Examples, i: int) -> np.ndarray:
    row = int(prompts.rows[i, 0])
    return prompts.tokens.ids[prompts.tokens.offsets[row] : prompts.tokens.offsets[row + 1]]
