"""Memory and work of a run, estimated before it starts. Pure arithmetic; placement never changes a run's identity.

There are two estimates of memory, on purpose.

`training_memory` is a rule: `micro_batch_size: auto` is resolved from it when planning, and the resolved number is part
of a run's id (decision 9). It must not change, or finished runs would lose their names; it knows neither architecture
nor device, and is a guess within a factor of two.

`Memory` is the estimate that runs are placed by. It may become better at any time, and
`execution.measured` corrects it by what finished runs took; neither has a say in what a run is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from w2s.config import FinetuneSettings

ADAMW_BYTES_PER_PARAMETER = 16
"""float32 weight, gradient and two moments."""
ACTIVATION_BYTES = 68
"""Of the rule: per token, layer and hidden unit, kept for the backward pass in float32: twice the 34 bytes of half
precision (Korthikanti et al. 2022, eq. 2, without the attention matrix, which fused attention does not keep)."""
STEP_WORK = 3e7
"""FLOPs' worth of launch overhead per optimisation step; what keeps tiny models from counting as free."""


TRAINED_SHARE = {"full": 1.0, "lora": 0.02, "head": 0.0}
"""Share of the parameters that has a gradient and AdamW's moments, by `finetune.tune`; of LoRA an upper estimate."""


def training_memory(n_params: int, hidden_size: int, layers: int, tokens: int, *, trainable: float = 1.0) -> float:
    """Bytes to train: weights, gradients and AdamW state, and the activations of `tokens` tokens of one micro-batch.

    Args:
        trainable: Share of the parameters that are trained; frozen ones need 4 bytes each.
    """
    weights = n_params * (4 + (ADAMW_BYTES_PER_PARAMETER - 4) * trainable)
    return weights + ACTIVATION_BYTES * tokens * hidden_size * layers


def micro_batch_that_fits(
    n_params: int,
    hidden_size: int,
    layers: int,
    *,
    tokens_per_example: int,
    batch_size: int,
    budget: float,
    trainable: float = 1.0,
) -> int:
    """The largest batch_size / 2^k whose training memory fits `budget` bytes; at least 1, even if that does not fit."""
    size = batch_size
    while size > 1:
        tokens = size * tokens_per_example
        if training_memory(n_params, hidden_size, layers, tokens, trainable=trainable) <= budget:
            break
        size = -(-size // 2)
    return size


@dataclass(frozen=True)
class Family:
    """What a layer of an architecture keeps of each token for its backward pass, and what it computes with at a time.

    Bytes per hidden unit (`d`) and per unit of the MLP's inner width (`m`). Those kept are counted with
    `torch.autograd.graph.saved_tensors_hooks` in transformers' own layers, with padded rows (a mask), each storage
    once; `benchmarks/memory.py --saved` counts them again.
    """

    kept_d: float
    kept_m: float
    half_d: float
    """Of `kept_d`, what is left under bfloat16 autocast, casts included."""
    half_m: float
    live_m: int
    """Tensors of the inner width, float32, that the MLP holds at once; its activation function may be many steps."""
    matrices: int = 2
    """Of d x m in an MLP: 3 where it is gated."""
    eager: bool = False
    """Attention is not fused: a matrix of tokens by tokens is kept of each head."""


_GATED = Family(44, 16, 40, 8, live_m=3, matrices=3)
_POST_NORM = Family(36, 8, 30, 4, live_m=2)
FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(36, 20, 26, 10, live_m=5),
    "gpt_neox": Family(44, 8, 28, 4, live_m=2),
    "opt": Family(36, 4, 30, 2, live_m=2),
    **dict.fromkeys(("llama", "mistral", "qwen2", "olmo", "smollm3", "modernbert"), _GATED),
    **dict.fromkeys(("qwen3", "olmo2"), Family(60, 16, 52, 8, live_m=3, matrices=3)),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), Family(72, 16, 64, 8, live_m=3, matrices=3, eager=True)),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra"), _POST_NORM),
    **dict.fromkeys(("deberta", "deberta-v2"), Family(38, 8, 34, 4, live_m=2, eager=True)),
    **dict.fromkeys(("bloom", "codegen", "gptj", "gpt_neo", "mpt"), Family(36, 20, 26, 10, live_m=5, eager=True)),
}
"""By transformers' `model_type`."""
UNKNOWN = _GATED
LIVE_D = 32
"""Bytes per hidden unit and token that a layer computes with: residual stream, norm, queries, keys, values and their
rotated copies."""
ATTENTION_MATRICES = 12
"""Bytes per head and pair of tokens where attention is not fused: scores, with their mask, and probabilities."""
CACHED_BODY = 2**30
"""Bytes of the largest model that a worker keeps as it was read, for the next run (`w2s.models.CACHED_BYTES`)."""
MIN_EVALUATION_TOKENS = 4096
"""Of an evaluation batch (`w2s.predict.MIN_TOKENS_PER_BATCH`)."""
LOGITS_AT_ONCE = 2 * 2**26
"""Bytes of logits and log-probabilities of prompting (`w2s.prompting.LOGITS_AT_ONCE`, float32)."""

LIBRARIES = 5e7
"""Bytes of what a process loads and builds on its first run on a CPU (measured with 2 to 4 million parameters)."""

CUT_UP_BY_ADAPTERS = 2.0
"""On a CPU, what malloc holds for each byte that layers with adapters keep: the sums that adapters make and free lie in
between (measured on a Llama; with MALLOC_MMAP_THRESHOLD_=262144 it is 1)."""

Work = Literal["train", "language_model", "read", "prompt"]


@dataclass(frozen=True)
class Sizes:
    """What of a model decides its memory."""

    family: str
    """transformers' `model_type`."""
    n_params: int
    n_matmul: int
    """With a causal model's output head."""
    hidden_size: int
    layers: int
    heads: int
    vocab_size: int
    causal: bool = True
    tied: bool = True
    """Whether the output head is the embedding, so that `n_params` counts it once."""

    @property
    def kind(self) -> Family:
        return FAMILIES.get(self.family, UNKNOWN)

    @property
    def embedding(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def blocks(self) -> int:
        """Weights of the matrices of all layers."""
        return max(0, self.n_matmul - (self.embedding if self.causal else 0))

    @property
    def body(self) -> int:
        """Parameters without an output head of its own."""
        return self.n_params - (self.embedding if self.causal and not self.tied else 0)

    @property
    def inner_width(self) -> float:
        """Of the MLP: what attention's four square matrices leave of a layer."""
        d = self.hidden_size
        return max(d, (self.blocks / max(1, self.layers) - 4 * d * d) / (self.kind.matrices * d))

    def kept(self, *, half: bool) -> float:
        """Bytes that one layer keeps of one token; the attention matrices of unfused attention apart."""
        kind, d, m = self.kind, self.hidden_size, self.inner_width
        return kind.half_d * d + kind.half_m * m if half else kind.kept_d * d + kind.kept_m * m

    def live(self, *, half: bool) -> float:
        """Bytes that one layer computes with at a time, of one token."""
        inner = 4 * self.kind.live_m * self.inner_width
        return LIVE_D * self.hidden_size + (inner / 2 if half else inner)


@dataclass(frozen=True)
class Memory:
    """What a run holds on its device, in parts that depend on where it is placed. See docs/memory.md."""

    sizes: Sizes
    does: Work
    trained: float
    """Parameters with a gradient and AdamW's moments."""
    rows: int
    """Token rows of a micro-batch (two for each pair of `compare`)."""
    batch_rows: int
    """Token rows of an optimisation batch."""
    length: float
    """Tokens of the longest row."""
    evaluated: float = 0.0
    """Rows of the largest part that is predicted; an evaluation batch has no more."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpointing: bool = False
    frozen_body: bool = False
    reads_checkpoint: bool = True
    """Whether the worker reads the model from files, and keeps a small one on the CPU for the next run."""
    budget_length: float | None = None
    """Tokens of a text that evaluation batches are sized for, where that is not the longest row."""
    all_layers: bool = False
    """Whether every layer's hidden states are held at once, to read one of them."""

    def on(self, *, gpu: bool, devices: int = 1, sharded: bool = False) -> float:
        """Peak bytes per device.

        Args:
            gpu: On a GPU `precision: auto` is bfloat16 autocast, and the kept copy of a small model is elsewhere.
            devices: Over how many devices batches are split.
            sharded: Whether parameters, gradients and moments are as well (FSDP2); a device then holds one block
                whole, the next one that is fetched meanwhile, and what belongs to no block (the embeddings).
        """
        s = self.sizes
        half = self.precision == "bf16" or (self.precision == "auto" and gpu)
        weights = s.n_params if self.does in ("language_model", "prompt") else s.body
        matmul = s.n_matmul if self.does in ("language_model", "prompt") else s.blocks
        state, casts = 4 * weights + 12 * self.trained, 2 * matmul * half
        if sharded and devices > 1:
            block = s.blocks / max(1, s.layers)
            root = max(0, weights - s.blocks)
            has_gradient = self.trained > 0.5 * weights
            state = state / devices + 4 * (2 * block + root) + 4 * (block + root) * has_gradient
            casts = casts / max(1, s.layers) * 2
        kept = 4 * weights if self.reads_checkpoint and not gpu and 4 * weights <= CACHED_BODY else 0
        # Every trained tensor gets storage of its own again at the end, while the optimiser still holds its own.
        release = 4 * self.trained if not sharded else 0
        process = 0 if gpu else LIBRARIES
        return state + casts + kept + process + max(self._step(half, devices, gpu), self._evaluation(half), release)

    def _step(self, half: bool, devices: int, gpu: bool) -> float:
        """The most that one forward and backward pass of a micro-batch adds."""
        if self.does in ("read", "prompt"):
            return 0.0
        s, rows = self.sizes, min(self.rows, -(-self.batch_rows // devices))
        tokens = rows * self.length
        live = s.live(half=half) * tokens
        if self.frozen_body:
            return live
        attention = ATTENTION_MATRICES * s.heads * self.length * tokens * s.kind.eager
        layer = s.kept(half=half) * tokens + attention
        kept = 4 * s.hidden_size * s.layers * tokens + layer if self.checkpointing else s.layers * layer
        gradient = 4 * s.embedding if self.trained > s.embedding else 0  # dense, and the last that is made
        if self.does == "language_model":
            # float32 logits, their log-probabilities and the gradient of either; the head's own gradient waits for
            # the embedding's, if they are tied.
            logits = (12 + 2 * half) * s.vocab_size * tokens
            return kept + gradient + max(logits, live)
        if gpu:
            return max(kept + live, gradient)
        # By then the activations are free: for a GPU's allocator, but not for malloc, which keeps what it cut up.
        has_adapters = 0 < self.trained < 0.5 * s.body
        return kept * (CUT_UP_BY_ADAPTERS if has_adapters else 1) + live + gradient

    def _evaluation(self, half: bool) -> float:
        """One batch without gradients."""
        if self.does == "language_model":
            return 0.0
        s = self.sizes
        tokens = max(MIN_EVALUATION_TOKENS, 4 * self.rows * (self.budget_length or self.length))
        tokens = min(tokens, max(self.evaluated, 1) * self.length) if self.evaluated else tokens
        tokens = max(tokens, self.length)
        attention = ATTENTION_MATRICES * s.heads * self.length * tokens * s.kind.eager
        hidden = 4 * s.hidden_size * (s.layers + 1) * tokens * self.all_layers
        return s.live(half=half) * tokens + attention + hidden + LOGITS_AT_ONCE * (self.does == "prompt")


def trained_parameters(sizes: Sizes, settings: FinetuneSettings) -> float:
    """Parameters that a finetuning trains, by `finetune.tune`."""
    s = sizes
    if settings.tune == "full":
        return s.body
    if settings.tune == "head":
        return 2 * s.hidden_size
    d, m = s.hidden_size, s.inner_width  # adapters of rank r on a matrix of a x b have r (a + b) weights
    return settings.lora.rank * s.layers * (8 * d + s.kind.matrices * (d + m)) + 2 * d


SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of a GPU; few shapes, so that Ray can reuse its actors."""


def gpu_share(memory: float, gpu_memory: float) -> float:
    """The share of a GPU to ask for."""
    wanted = memory * 1.25 / gpu_memory  # a quarter for the CUDA context, the allocator and workspaces
    return next((share for share in SHARES if wanted <= share), 1.0)
