"""Log-odds of whole parts, and the table of predictions that a run leaves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from w2s.data import Examples, Identified, inference_batches
from w2s.distributed import WHOLE, Shard
from w2s.models import Scorer

MIN_TOKENS_PER_BATCH = 4096
"""Small models are bound by the overhead per batch, which this spreads over many examples."""

SCHEMA = {
    "example_id": pl.String,
    "split": pl.String,
    "step": pl.Int64,
    "gold": pl.Int8,
    "prediction": pl.Int8,
    "correct": pl.Boolean,
    "p": pl.Float32,
}


@dataclass(frozen=True)
class Evaluation:
    """What a model said after `step` optimisation steps."""

    step: int
    log_odds: Mapping[str, np.ndarray]
    """Log-odds of class 1 per split, float32, shape [examples of the split], sorted by example id."""


def token_budget(micro_batch_size: int, longest: int) -> int:
    """Padded tokens per inference batch.

    Inference keeps the activations of one layer, training those of all, so four micro-batches fit where one trains.
    """
    return max(MIN_TOKENS_PER_BATCH, 4 * micro_batch_size * longest)


def predict(
    scorer: Scorer, examples: Examples, *, budget: int, length_multiple: int = 1, shard: Shard = WHOLE
) -> np.ndarray:
    """Log-odds of class 1 of each example, float32, shape [examples].

    Args:
        scorer: The model; its mode is restored afterwards.
        examples: What to predict.
        budget: Padded tokens per batch.
        length_multiple: See `Examples.batch`.
        shard: Each rank predicts every world-th batch; all ranks return all of them.
    """
    was_training = scorer.training
    scorer.eval()
    batches = list(inference_batches(examples.lengths * examples.rows.shape[1], budget))
    mine = batches[shard.rank :: shard.world]
    if shard.is_sharded:
        # All ranks run the model as often as the first: the others need this rank's part of the parameters.
        mine += [batches[-1][:0]] * (shard.largest_share(len(batches)) - len(mine))
    # Inference mode would leave gathered parameters behind that no gradient can be taken of.
    with torch.no_grad() if shard.is_sharded else torch.inference_mode():
        # float32 whatever computes: a rank's zeros add nothing to what another rank predicted.
        log_odds = torch.zeros(len(examples), dtype=torch.float32, device=scorer.device)
        for positions in mine:
            read = positions if len(positions) else batches[-1][-1:]
            scores = scorer(examples.batch(read, length_multiple=length_multiple))[: len(positions)]
            log_odds[torch.from_numpy(positions).to(scorer.device)] = scores.float()
        scorer.train(was_training)
        return shard.sum(log_odds).cpu().numpy()


def probabilities(log_odds: np.ndarray) -> np.ndarray:
    """P(class 1), float32, shape as given: the logistic function in double precision, then rounded."""
    z = log_odds.astype(np.float64)
    # exp of a non-positive number overflows nowhere.
    e = np.exp(-np.abs(z))
    return (np.where(z >= 0, 1.0, e) / (1 + e)).astype(np.float32)


def mean_cross_entropy(log_odds: np.ndarray, target: np.ndarray) -> float:
    """Mean cross-entropy in nats of log-odds against targets in [0, 1], both of shape [examples]."""
    z = log_odds.astype(np.float64)
    return float(np.mean(np.logaddexp(0.0, z) - target * z))


def predictions_table(evaluations: Iterable[Evaluation], splits: Mapping[str, Identified]) -> pl.DataFrame:
    """One row per example and evaluation, sorted by (split, step, example_id).

    `prediction` is 1 where `p` exceeds 1/2, so that an undecided model predicts class 0.
    """
    frames = [pl.DataFrame(schema=SCHEMA)]
    for evaluation in evaluations:
        for split, log_odds in evaluation.log_odds.items():
            frames.append(_split_table(split, evaluation.step, splits[split], probabilities(log_odds)))
    return pl.concat(frames).sort("split", "step", "example_id")


def labels_table(labels: Mapping[str, np.ndarray], splits: Mapping[str, Identified]) -> pl.DataFrame:
    """Labels that no model gave, in the form of predictions at step 0.

    Args:
        labels: P(class 1) per split, shape [examples of the split]; NaN on rows that are not to be learned from. Those
            get a null `p`, and no verdict: `prediction` is 0 there.
        splits: Ids and true labels, in the same order.
    """
    frames = [pl.DataFrame(schema=SCHEMA)]
    frames += [
        _split_table(split, 0, splits[split], p).with_columns(pl.col("p").fill_nan(None)) for split, p in labels.items()
    ]
    return pl.concat(frames).sort("split", "step", "example_id")


def _split_table(split: str, step: int, examples: Identified, p: np.ndarray) -> pl.DataFrame:
    prediction = (p > 0.5).astype(np.int8)
    return pl.DataFrame(
        {
            "example_id": examples.ids.tolist(),
            "split": [split] * len(p),
            "step": np.full(len(p), step),
            "gold": examples.gold,
            "prediction": prediction,
            "correct": prediction == examples.gold,
            "p": p,
        }
    ).cast(SCHEMA)  # pyright: ignore[reportArgumentType]
