"""Memory and work of a run, estimated before it starts. Pure arithmetic; placement never changes a run's identity."""

ADAMW_BYTES_PER_PARAMETER = 16
"""float32 weight, gradient and two moments."""
ACTIVATION_BYTES = 68
"""Per token, layer and hidden unit, kept for the backward pass in float32: twice the 34 bytes of half precision
(Korthikanti et al. 2022, eq. 2, without the attention matrix, which fused attention does not keep)."""
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


def gpu_share(memory: float, gpu_memory: float) -> float:
    """The share of a GPU to ask for: 1/8, 1/4, 1/2 or 1, few shapes so that Ray can reuse its actors."""
    wanted = memory * 1.25 / gpu_memory  # a quarter for the CUDA context, the allocator and workspaces
    return next((share for share in (0.125, 0.25, 0.5) if wanted <= share), 1.0)
