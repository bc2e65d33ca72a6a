"""AdamW over one flat vector that holds all trainable parameters.

Clipping, the update, zeroing and the sum over devices are one operation each, whatever the number of tensors; for the
smallest models of a ladder, where such overhead is most of a step, this matters, and large models do not lose by it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 16
"""Every tensor starts at a multiple of this many floats (64 bytes), as the allocator would place it."""


class FlatAdamW:
    """AdamW (Loshchilov & Hutter 2019) with clipping by the global norm.

    While it lives, `parameters` and their gradients are views into two flat vectors; `release` ends that.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        clip_norm: float | None,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.clip_norm = clip_norm
        starts, size = [], 0
        for p in self.parameters:
            starts.append(size)
            size += -(-p.numel() // ALIGNMENT) * ALIGNMENT
        first = self.parameters[0]
        self.flat = torch.zeros(size, dtype=first.dtype, device=first.device)
        self.grad = torch.zeros_like(self.flat)
        for p, start in zip(self.parameters, starts, strict=True):
            view = self.flat[start : start + p.numel()].view(p.shape)
            view.copy_(p.data)
            p.data = view
            p.grad = self.grad[start : start + p.numel()].view(p.shape)
        self.flat.grad = self.grad
        # lr is set anew by every step.
        self.adam = torch.optim.AdamW([self.flat], lr=0.0, betas=betas, weight_decay=weight_decay, fused=True)

    def zero_grad(self) -> None:
        self.grad.zero_()

    def step(self, learning_rate: float) -> None:
        """Clip the gradient and update; nothing here waits for the device.

        A gradient that is not finite makes every parameter NaN, which the loss shows at the next look at it.
        """
        if self.clip_norm is not None:
            norm = torch.linalg.vector_norm(self.grad)
            self.grad.mul_((self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()

    def state(self) -> dict[str, Tensor]:
        """Everything needed to continue: parameters, both moments, the step count."""
        moments: dict[str, Any] = self.adam.state.get(self.flat, {})
        return {"flat": self.flat.detach(), **moments}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.flat.copy_(state["flat"])
        self.adam.state[self.flat] = {
            # The fused kernel wants its step count on the parameters' device, in float32.
            key: value.to(self.flat.device).clone()
            for key, value in state.items()
            if key != "flat"
        }

    def release(self) -> None:
        """Give every parameter storage of its own again and drop the gradients."""
        for p in self.parameters:
            p.data = p.data.clone()
            p.grad = None
        self.parameters = []
