"""AdamW with clipping by the global norm, over whole parameters or over those that are cut over ranks.

Both write the same state, so that a run may continue on another number of ranks, whole or cut.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from w2s.distributed import WHOLE, Shard

ALIGNMENT = 16
"""Every tensor starts at a multiple of this many floats (64 bytes), as the allocator would place it."""


MOMENTS = ("exp_avg", "exp_avg_sq")


def adamw_for(
    parameters: Iterable[nn.Parameter],
    *,
    betas: tuple[float, float],
    weight_decay: float,
    clip_norm: float | None,
    shard: Shard = WHOLE,
) -> "FlatAdamW | ShardedAdamW":
    """The optimiser of a run: of its whole parameters, or of this rank's part of them."""
    kind = ShardedAdamW if shard.is_sharded else FlatAdamW
    return kind(parameters, betas=betas, weight_decay=weight_decay, clip_norm=clip_norm, shard=shard)


class FlatAdamW:
    """AdamW (Loshchilov & Hutter 2019) over one flat vector that holds all trainable parameters.

    Clipping, the update, zeroing and the sum over devices are one operation each, whatever the number of tensors; for
    the smallest models of a ladder, where such overhead is most of a step, this matters, and large models do not lose
    by it. While it lives, `parameters` and their gradients are views into two flat vectors; `release` ends that.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        clip_norm: float | None,
        shard: Shard = WHOLE,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.clip_norm, self.shard = clip_norm, shard
        starts, size = _layout(self.parameters)
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
        """Sum the gradient over ranks, clip it and update; nothing here waits for the device.

        A gradient that is not finite makes every parameter NaN, which the loss shows at the next look at it.
        """
        self.shard.sum(self.grad)
        if self.clip_norm is not None:
            self.grad.mul_(_shrinkage(torch.linalg.vector_norm(self.grad), self.clip_norm))
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()

    def state(self) -> dict[str, Tensor]:
        """Everything needed to continue: parameters, both moments, the step count."""
        moments: dict[str, Any] = self.adam.state.get(self.flat, {})
        return {"flat": self.flat.detach(), **moments}

    def load_state(self, state: dict[str, Tensor] | None) -> None:
        """Continue from what `state` gave; with several ranks all of them call this, and rank 0's state counts."""
        # The fused kernel wants its step count on the parameters' device, in float32.
        kept = {"step": torch.zeros((), device=self.flat.device)}
        kept |= {name: torch.zeros_like(self.flat) for name in MOMENTS}
        for name, value in {"flat": self.flat, **kept}.items():
            if state is not None:
                value.copy_(state[name])
            self.shard.broadcast(value)
        self.adam.state[self.flat] = kept

    def release(self) -> None:
        """Give every parameter storage of its own again and drop the gradients."""
        for p in self.parameters:
            p.data = p.data.clone()
            p.grad = None
        self.parameters = []


class ShardedAdamW:
    """The same over parameters that are cut over ranks (FSDP2): moments are cut like them.

    Gradients arrive summed over ranks and cut, so a step needs no more than the norm of the whole from the others.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        clip_norm: float | None,
        shard: Shard,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.clip_norm, self.shard = clip_norm, shard
        self.adam = torch.optim.AdamW(self.parameters, lr=0.0, betas=betas, weight_decay=weight_decay, fused=True)

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def step(self, learning_rate: float) -> None:
        """Clip the gradient and update; nothing here waits for the device. See `FlatAdamW.step`."""
        for p in self.parameters:
            if p.grad is None:  # not used by the model, but decayed like all others
                p.grad = torch.zeros_like(p)
        if self.clip_norm is not None:
            gradients = [_local(p.grad) for p in self.parameters]
            square = self.shard.sum(torch.nn.utils.get_total_norm(gradients).square())
            shrinkage = _shrinkage(square.sqrt(), self.clip_norm)
            torch._foreach_mul_(gradients, shrinkage)  # pyright: ignore[reportPrivateImportUsage]
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()

    def state(self) -> dict[str, Tensor] | None:
        """What `FlatAdamW.state` gives, on the CPU of rank 0, and None elsewhere; every rank must call it."""
        state: dict[str, Tensor] = {}
        for name in ("flat", *MOMENTS):
            values = [p.data if name == "flat" else self.adam.state[p][name] for p in self.parameters]
            if (whole := self._gathered(values)) is not None:
                state[name] = whole
        state["step"] = self.adam.state[self.parameters[0]]["step"]
        return state if self.shard.is_first else None

    def load_state(self, state: dict[str, Tensor] | None) -> None:
        """Continue from the state that rank 0 gives; every rank must call it."""
        starts, _ = _layout(self.parameters)
        device = _local(self.parameters[0]).device
        step = self.shard.broadcast(
            torch.zeros((), device=device) if state is None else state["step"].to(device, copy=True)
        )
        for p, start in zip(self.parameters, starts, strict=True):
            moments: dict[str, Any] = {"step": step.clone()}
            for name in ("flat", *MOMENTS):
                whole = torch.empty(p.shape, dtype=p.dtype, device=device)
                if state is not None:
                    whole.copy_(state[name][start : start + p.numel()].view(p.shape))
                part = sharded_like(p, self.shard.broadcast(whole))
                if name == "flat":
                    _local(p).copy_(_local(part))
                else:
                    moments[name] = part
            self.adam.state[p] = moments

    def release(self) -> None:
        """Drop the gradients and moments."""
        self.zero_grad()
        self.adam.state.clear()
        self.parameters = []

    def _gathered(self, values: Sequence[Tensor]) -> Tensor | None:
        """Cut tensors in the flat layout, on the CPU of rank 0; one of them at a time is whole on the devices."""
        starts, size = _layout(self.parameters)
        flat = torch.zeros(size, dtype=self.parameters[0].dtype) if self.shard.is_first else None
        for value, start in zip(values, starts, strict=True):
            whole = whole_tensor(value)
            if flat is not None:
                flat[start : start + whole.numel()] = whole.flatten().cpu()
        return flat


def sharded_like(parameter: Tensor, whole: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has whole, cut as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return whole
    part: Any = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    # The part is a view of the whole, which would stay alive with it.
    return DTensor.from_local(
        part.to_local().clone(),
        parameter.device_mesh,
        parameter.placements,
        shape=whole.shape,
        stride=whole.stride(),
    )


def whole_tensor(part: Tensor) -> Tensor:
    """A cut tensor gathered on every rank, which all must call."""
    return part.full_tensor() if isinstance(part, DTensor) else part


def _local(x: Any) -> Tensor:
    """This rank's part, sharing memory."""
    part: Any = x.detach()
    return part.to_local() if isinstance(x, DTensor) else part


def _layout(parameters: Iterable[nn.Parameter]) -> tuple[list[int], int]:
    """Where each parameter starts in a flat vector, and the vector's size, in floats."""
    starts, size = [], 0
    for p in parameters:
        starts.append(size)
        size += -(-p.numel() // ALIGNMENT) * ALIGNMENT
    return starts, size


def _shrinkage(norm: Tensor, clip_norm: float) -> Tensor:
    """What a gradient of this norm is multiplied by."""
    return (clip_norm / (norm + 1e-6)).clamp(max=1.0)
