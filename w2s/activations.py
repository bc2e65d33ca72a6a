"""What a pretrained model makes of every example: its hidden state where a head would read it.

Shapes: n examples of all parts, D the hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from w2s.config import FinetuneSettings, Layer, ModelSource
from w2s.data import Examples, TokenisedTask, inference_batches
from w2s.errors import DataError, ModelError
from w2s.flops import MatmulSizes, Work
from w2s.models import Scorer, load_scorer
from w2s.predict import token_budget

FEATURES_FILE = "features.npy"
INDEX_FILE = "index.parquet"


@dataclass(frozen=True)
class Activations:
    """One feature vector per example, rows sorted by (part, example id).

    For `compare` it is the second reply's hidden state minus the first's, so that a linear probe without intercept is
    a Bradley-Terry model: its log-odds are the difference of two linear rewards.
    """

    example_id: np.ndarray
    """str objects, shape [n]."""
    part: np.ndarray
    """Name of each example's part, str objects, shape [n]."""
    features: np.ndarray
    """float32, shape [n, D]; read-only and on disk when it comes from `load_activations`."""

    def of(self, part: str) -> "Activations":
        """The examples of one part, sorted by id, as `TokenisedTask.part` has them.

        Raises:
            DataError: There is no such part.
        """
        rows = np.flatnonzero(self.part == part)
        if not rows.size:
            parts = ", ".join(np.unique(self.part.astype(str)).tolist())
            raise DataError(f"there are no activations of part {part!r}; there are some of {parts}")
        # Parts are sorted, so this is one range of rows, and a slice copies nothing.
        span = slice(int(rows[0]), int(rows[-1]) + 1)
        return Activations(self.example_id[span], self.part[span], self.features[span])

    def save(self, folder: Path) -> None:
        """Writes `features.npy` and, with columns `example_id` and `part`, `index.parquet`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / FEATURES_FILE, self.features)
        index = {"part": self.part.tolist(), "example_id": self.example_id.tolist()}
        pl.DataFrame(index, schema={"part": pl.String, "example_id": pl.String}).write_parquet(folder / INDEX_FILE)


@dataclass(frozen=True)
class Extraction:
    """Activations, and what they cost: `inference_flops(sizes, work)`."""

    activations: Activations
    layer: int
    """The index that was read, for `middle` the number it stands for."""
    work: Work
    """Tokens that went through the model."""
    sizes: MatmulSizes
    """The whole body, which runs whatever the layer, without a head."""
    truncated: int
    """How many examples lost tokens to the length limit."""


def extract(
    source: ModelSource,
    task: TokenisedTask,
    *,
    layer: Layer,
    settings: FinetuneSettings,
    device: torch.device,
    parts: Sequence[str] | None = None,
) -> Extraction:
    """Hidden states of a pretrained model, untouched by adapters and dropout whatever `settings` says.

    Read at the last real token of a causal model and at the first token of an encoder. Layer -1 is what the head
    reads: the output of the final norm and, for an encoder that was pretrained with a pooler, the pooled one.

    Args:
        source: The checkpoint.
        task: Its tokens must come from the checkpoint's tokenizer.
        layer: Index into `hidden_states` of transformers, or `middle`.
        settings: Resolved finetuning settings; precision and micro-batch size count.
        device: Where to compute.
        parts: Which parts of the task; all of them by default.

    Raises:
        ModelError: The checkpoint cannot be used, has no such layer, or its hidden states are not finite.
        DataError: There is no such part.
    """
    assert isinstance(settings.micro_batch_size, int), "settings are resolved before"
    plain = settings.model_copy(update={"tune": "head", "gradient_checkpointing": False, "compile": False})
    scorer = load_scorer(source, form=task.data.form, settings=plain, seed=0, device=device).eval()
    sizes = scorer.sizes()
    index = layer_index(layer, sizes.layers, where=source.path)
    pieces = {name: task.part(name) for name in sorted(task.parts() if parts is None else set(parts))}
    longest = max((int(examples.lengths.max()) for examples in pieces.values()), default=0)
    budget = token_budget(settings.micro_batch_size, longest)
    features = [_features(scorer, examples, index, budget) for examples in pieces.values()]
    for name, values in zip(pieces, features, strict=True):
        if bad := int((~np.isfinite(values)).any(axis=1).sum()):
            raise ModelError(
                f"model {source.path} has hidden states that are not finite in layer {index}, on {bad} of "
                f"{len(values)} examples of part {name}: its weights are damaged, or it needs precision: fp32"
            )
    width = scorer.head.in_features
    activations = Activations(
        example_id=np.array([i for examples in pieces.values() for i in examples.ids], dtype=object),
        part=np.array([name for name, examples in pieces.items() for _ in range(len(examples))], dtype=object),
        features=np.concatenate(features) if features else np.zeros((0, width), dtype=np.float32),
    )
    return Extraction(
        activations=activations,
        layer=index,
        work=sum((examples.work() for examples in pieces.values()), Work()),
        sizes=MatmulSizes(
            per_token=sizes.per_token,
            per_sequence=sizes.per_sequence - scorer.head.weight.numel(),
            layers=sizes.layers,
            width=sizes.width,
            causal=sizes.causal,
        ),
        truncated=sum(examples.truncated() for examples in pieces.values()),
    )


def layer_index(layer: Layer, layers: int, *, where: str) -> int:
    """The index that a layer stands for: -1 stays, other negative ones are counted from the end.

    Args:
        layer: Index or `middle`.
        layers: Number of layers of the model; it has one hidden state more, the embeddings.
        where: The model, for the message.

    Raises:
        ModelError: The model has no such layer.
    """
    if layer == "middle":
        return layers // 2
    if not -layers - 1 <= layer <= layers:
        raise ModelError(
            f"model {where} has no hidden state {layer}: with {layers} layers they are 0 (embeddings) to {layers}, or "
            f"-{layers + 1} to -1 counted from the end, or middle"
        )
    return layer if layer >= -1 else layer + layers + 1


def load_activations(folder: Path) -> Activations:
    """What `Activations.save` wrote; features stay on disk until they are read.

    Raises:
        DataError: A file is missing or cannot be read, or the two do not belong together.
    """
    try:
        features = np.load(folder / FEATURES_FILE, mmap_mode="r")
        index = pl.read_parquet(folder / INDEX_FILE, columns=["part", "example_id"])
    except (OSError, ValueError, EOFError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the activations in {folder} cannot be read: {error}") from error
    if features.ndim != 2 or len(features) != index.height:
        raise DataError(
            f"{FEATURES_FILE} in {folder} has shape {list(features.shape)}, but {INDEX_FILE} has {index.height} rows; "
            "they are not of the same run"
        )
    return Activations(
        example_id=np.array(index["example_id"].to_list(), dtype=object),
        part=np.array(index["part"].to_list(), dtype=object),
        features=features,
    )


@torch.inference_mode()
def _features(scorer: Scorer, examples: Examples, layer: int, budget: int) -> np.ndarray:
    """Features of one part, float32, shape [examples, D]."""
    features: np.ndarray | None = None
    for positions in inference_batches(examples.lengths * examples.rows.shape[1], budget):
        hidden = scorer.hidden(examples.batch(positions), layer)
        if examples.form == "compare":
            first, second = hidden.chunk(2)
            hidden = second - first
        if features is None:  # the width of a layer may differ from what the head reads
            features = np.empty((len(examples), hidden.shape[1]), dtype=np.float32)
        features[positions] = hidden.cpu().numpy()
    assert features is not None, "a part is never empty"
    return features
