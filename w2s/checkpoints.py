"""Sizes and identity of a checkpoint, from its config and the headers of its weight files alone.

Nothing is loaded, so planning a sweep over models that would not fit this machine is quick.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w2s.checkpoint_files import ModelKind, Shapes, read_checkpoint_files
from w2s.config import RungShape
from w2s.errors import ModelError
from w2s.fingerprints import HashFile, hash_file

_TIED_UNLESS_SAID = "bloom cohere gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo mpt opt"
"""Families whose output head is the embedding when the config does not say."""
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert"})
"""Families whose position table starts behind the padding id, so that fewer positions are usable."""

_LM_HEAD = re.compile(r"(lm_head|embed_out)\.")
_OTHER_HEAD = re.compile(r"(score|classifier|qa_outputs|v_head)\.")
_EMBEDDING = re.compile(
    r"(^|\.)(wte|wpe|embed_in|embed_tokens|embed_positions|\w*embeddings|relative_attention_bias)\."
)
_TOKEN_EMBEDDING = re.compile(r"(^|\.)(wte|embed_in|embed_tokens|word_embeddings|tok_embeddings)\.weight$")
_BUFFER = re.compile(r"(masked_bias|inv_freq|position_ids|token_type_ids)$")


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a transformer."""

    n_params: int
    """All parameters, with the output head of a causal model; tied weights once. Of an encoder, the body's."""
    n_matmul: int
    """Weights of the matrices that activations are multiplied with: the body's, and a causal model's output head, also
    where that is the embedding. No embeddings otherwise, no positions, norms or biases (as Kaplan et al. 2020, section
    2.1, but for the head)."""
    n_embedding: int
    """Weights of token, position and type embeddings."""
    hidden_size: int
    layers: int
    heads: int
    vocab_size: int


@dataclass(frozen=True)
class Checkpoint(ModelSizes):
    """What can be known of a checkpoint without loading it."""

    max_positions: int | None
    """Longest input in tokens; None if the architecture sets no bound."""
    kind: ModelKind
    model_type: str
    fingerprint: str
    """Hash of the config's, weights' and tokenizer's bytes; for a hub id its commit."""


def inspect_checkpoint(
    path: str,
    revision: str | None = None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    hash_file: HashFile = hash_file,
) -> Checkpoint:
    """Read the sizes, kind and fingerprint of a checkpoint.

    Args:
        path: A folder as `save_pretrained` writes it, or a hub id. What the hub cache holds is read there.
        revision: Branch, tag or commit of a hub id; None is the main branch.
        allow_pickle: Accept pickled weights where there are no others. The shapes then come from building the model
            without storage, which imports torch; the pickle itself is not opened here.
        trust_remote_code: Accept code that comes with it, which transformers then runs; it is part of the fingerprint.
        hash_file: Content hash of a file; a caller may hand in one that remembers.

    Raises:
        ModelError: No such folder or id, no config, weights or tokenizer in it, pickled weights or code that are not
            allowed, adapters beside the weights, an index that leads elsewhere, or an architecture that is neither a
            causal language model nor an encoder.
    """
    files = read_checkpoint_files(
        path, revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, hash_file=hash_file
    )
    config = {**files.config, **files.config.get("text_config", {})}
    if any(config.get(key, 0) > 1 for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ModelError(f"model {path}: is a mixture of experts; only dense models are supported")
    vocab_size = _number(path, config, "vocab_size")
    shapes = {name: shape for name, shape in files.shapes.items() if not _is_buffer(name, shape)}
    count = _count_causal if files.kind == "causal" else _count_encoder
    n_params, n_matmul, n_embedding = count(path, config, shapes)
    return Checkpoint(
        n_params=n_params,
        n_matmul=n_matmul,
        n_embedding=n_embedding,
        hidden_size=_number(path, config, "hidden_size", "n_embd", "d_model", "dim"),
        layers=_number(path, config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        heads=_number(path, config, "num_attention_heads", "n_head", "n_heads", "num_heads"),
        vocab_size=vocab_size,
        max_positions=_max_positions(config),
        kind=files.kind,
        model_type=config["model_type"],
        fingerprint=files.fingerprint,
    )


def llama_shape_sizes(shape: RungShape, vocab_size: int) -> ModelSizes:
    """Sizes of a rung to be pretrained: a Llama with tied embeddings and no biases.

    Per layer 4 d^2 for attention, 3 * d * 4d for the gated MLP and 2 d for the norms; one more norm of d at the end;
    the embedding of vocab_size * d is the output head as well.
    """
    d = shape.hidden_size
    embedding = vocab_size * d
    matrices = shape.layers * 16 * d * d
    return ModelSizes(
        n_params=embedding + matrices + (2 * shape.layers + 1) * d,
        n_matmul=matrices + embedding,
        n_embedding=embedding,
        hidden_size=d,
        layers=shape.layers,
        heads=shape.heads,
        vocab_size=vocab_size,
    )


def _count_causal(path: str, config: Mapping[str, Any], shapes: Shapes) -> tuple[int, int, int]:
    """Parameters, matrix-multiplied weights and embedding weights, with exactly one output head."""
    body = {name: shape for name, shape in shapes.items() if not (_LM_HEAD.match(name) or _OTHER_HEAD.match(name))}
    head = {name: shape for name, shape in shapes.items() if _LM_HEAD.match(name)}
    embedding = next((math.prod(shape) for name, shape in body.items() if _TOKEN_EMBEDDING.search(name)), None)
    if embedding is None:
        raise ModelError(f"model {path}: no token embedding among its weights (model type {config['model_type']})")
    tied = config.get("tie_word_embeddings", config["model_type"] in _TIED_UNLESS_SAID.split() or not head)
    if tied:  # some checkpoints store the tied head a second time
        head = {name: shape for name, shape in head.items() if len(shape) == 1}
    elif not head:  # the body alone was saved; the model that it belongs to has a head of this size
        head = {"lm_head.weight": (embedding,), **head}
    head_size = embedding if tied else sum(math.prod(shape) for name, shape in head.items() if name.endswith("weight"))
    n_params = sum(math.prod(shape) for shape in (*body.values(), *head.values()))
    return n_params, _matrices(body) + head_size, _embeddings(body)


def _count_encoder(path: str, config: Mapping[str, Any], shapes: Shapes) -> tuple[int, int, int]:
    """The same of an encoder's body, with its pooler if it has one; heads of pretraining are left out."""
    prefix = next((name.partition("embeddings.")[0] for name in shapes if _TOKEN_EMBEDDING.search(name)), None)
    if prefix is None:
        raise ModelError(f"model {path}: no token embedding among its weights (model type {config['model_type']})")
    body = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
    return sum(map(math.prod, body.values())), _matrices(body), _embeddings(body)


def _matrices(body: Shapes) -> int:
    return sum(math.prod(shape) for name, shape in body.items() if len(shape) == 2 and not _EMBEDDING.search(name))


def _embeddings(body: Shapes) -> int:
    return sum(math.prod(shape) for name, shape in body.items() if len(shape) == 2 and _EMBEDDING.search(name))


def _is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Constants that old checkpoints store among their parameters: causal masks, rotary frequencies, position
    numbers."""
    return bool(_BUFFER.search(name)) or (name.endswith((".attn.bias", ".attention.bias")) and len(shape) == 4)


def _max_positions(config: Mapping[str, Any]) -> int | None:
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(config.get(key), int):
            offset = config.get("pad_token_id", 1) + 1 if config["model_type"] in _OFFSET_POSITIONS else 0
            return config[key] - offset
    return None


def _number(path: str, config: Mapping[str, Any], *keys: str) -> int:
    """The first of these keys that the config has; families name the same thing differently."""
    for key in keys:
        if isinstance(config.get(key), int):
            return config[key]
    raise ModelError(f"model {path}: config.json has no number under {' or '.join(keys)}")
