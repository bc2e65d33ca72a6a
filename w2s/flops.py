"""Floating-point operations of training and inference, from the tokens really processed.

A multiply-add counts as two. Counted are the model's own operations on real tokens: no padding, and no second forward
pass where an implementation needs one (gradient checkpointing, thresholds over accumulated batches), so that the
number depends on the run and not on how it was fitted into memory. Embeddings are a lookup and left out, as in Kaplan
et al. 2020 (arXiv:2001.08361, section 2.1); Hoffmann et al. 2022 (arXiv:2203.15556, appendix F) count them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Tokens that went through a model."""

    tokens: int = 0
    """Real tokens, without padding."""
    squared_lengths: int = 0
    """Sum of the squared lengths of their sequences, in tokens squared."""
    sequences: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.tokens + other.tokens,
            self.squared_lengths + other.squared_lengths,
            self.sequences + other.sequences,
        )

    def __mul__(self, times: int) -> "Work":
        return Work(self.tokens * times, self.squared_lengths * times, self.sequences * times)


@dataclass(frozen=True)
class MatmulSizes:
    """What a model multiplies its activations with."""

    per_token: int
    """Weights that every token meets: the body's matrices, and an output head that reads every token."""
    per_sequence: int = 0
    """Weights that one token of a sequence meets: a classification head."""
    layers: int = 0
    width: int = 0
    """Attention width: heads times head dimension, nearly always the hidden size."""
    causal: bool = True


def attention_flops(sizes: MatmulSizes, work: Work) -> int:
    """Forward FLOPs of attention scores and their weighted sum of values.

    Per layer and sequence of length L, Q K^T takes 2 L^2 d and the sum over values as much again. A causal token
    attends to half of the sequence on average, which leaves 2 L^2 d: per token 2 L d, the term of Kaplan et al. 2020,
    table 1. An encoder's token attends to all of it: 4 L^2 d.
    """
    return (2 if sizes.causal else 4) * sizes.layers * sizes.width * work.squared_lengths


def inference_flops(sizes: MatmulSizes, work: Work) -> int:
    """Forward FLOPs: 2 per weight and token (Kaplan et al. 2020, equation 2.2), plus attention."""
    return 2 * (sizes.per_token * work.tokens + sizes.per_sequence * work.sequences) + attention_flops(sizes, work)


def training_flops(sizes: MatmulSizes, work: Work, *, tune: str = "full", adapter: int = 0) -> int:
    """Forward and backward FLOPs.

    Full training: the backward pass takes a gradient by the activations and one by the weights, each as much as the
    forward pass, so 6 per weight and token in all; attention has products of activations only, and its backward pass
    costs twice its forward pass as well. LoRA: the body's weights get no gradient, which leaves 4 per weight and
    token, and the `adapter` weights take 6. Head only: the body runs forward, and the head takes 6 per sequence.

    Args:
        sizes: The body's and head's weights.
        work: Tokens of all epochs.
        tune: `full`, `lora` or `head`.
        adapter: Weights of all low-rank adapters, for `lora`.

    Source: Kaplan et al. 2020, section 2.1; Hoffmann et al. 2022, appendix F.
    """
    attention = attention_flops(sizes, work)
    head = 6 * sizes.per_sequence * work.sequences
    body = sizes.per_token * work.tokens
    if tune == "full":
        return 6 * body + head + 3 * attention
    if tune == "lora":
        return 4 * body + 6 * adapter * work.tokens + head + 3 * attention
    return 2 * body + head + attention
