"""Models whose parameters are cut over the ranks of a run (FSDP2), from their checkpoint to it.

Every rank holds 1/world of each parameter, of its gradient and of its moments. A transformer block is gathered from
all ranks while it computes and then dropped again; what lies outside of the blocks (embeddings, last norm, head) is one
more such group. So all ranks must run the model the same number of times.

No rank ever holds a whole model on its device, and only rank 0 does in its host's memory: it reads the checkpoint there
and hands out one tensor after the other; the others build a model without storage (`torch.device("meta")`).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from w2s.distributed import Shard
from w2s.optim import sharded_like, whole_tensor


def shard_model(
    model: nn.Module,
    whole: nn.Module | None,
    *,
    layers: int,
    device: torch.device,
    autocast: torch.dtype | None,
    shard: Shard,
) -> None:
    """Cuts a model without storage over the ranks, in place, and fills it.

    Args:
        model: On the meta device, the same on every rank. Its `forward` must be what uses the parameters outside of
            the blocks.
        whole: The same model with its values, on rank 0.
        layers: Number of transformer blocks.
        device: Where this rank computes.
        autocast: Type of the arithmetic; None is float32.
        shard: The ranks.
    """
    mesh = init_device_mesh(device.type, (shard.world,))
    exact, policy = MixedPrecisionPolicy(), block_policy(device, autocast)
    for block in blocks_of(model, layers):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    root: Any = fully_shard(model, mesh=mesh, mp_policy=exact, reshard_after_forward=True)
    # Every rank's loss is its part of the batch's mean: gradients are summed, not averaged.
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    root.to_empty(device=device)
    _fill(root, whole, device, shard)


def block_policy(device: torch.device, autocast: torch.dtype | None) -> MixedPrecisionPolicy:
    """In which types a block's parameters are gathered and its gradients summed.

    Autocast alone would keep a bfloat16 copy of every weight for the backward pass, and with them the whole model. So a
    GPU gathers a block's weights in bfloat16, and autocast has nothing to copy; the residual stream stays in float32,
    as under autocast alone, and gradients are summed in float32. A CPU's layer norm takes no such mixture.
    """
    if autocast is None or device.type != "cuda":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=autocast, reduce_dtype=torch.float32, cast_forward_inputs=False)


def blocks_of(model: nn.Module, layers: int) -> list[nn.Module]:
    """The transformer blocks: the elements of the outermost list of that many modules; none where there is no such."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return list(module)
    return []


@torch.no_grad()
def gather_into(whole: nn.Module | None, model: nn.Module) -> None:
    """Puts the values of a model that is cut over ranks into a whole one without storage, on the CPU of rank 0.

    Args:
        whole: On the meta device, on rank 0; None on the others.
        model: The model that is cut; every rank must call this.
    """
    places = _places(whole) if whole is not None else {}
    for name, part in model.named_parameters():
        value = whole_tensor(part.detach())
        if whole is not None:
            there = nn.Parameter(value.cpu(), requires_grad=part.requires_grad)
            for module, key in places[name]:
                setattr(module, key, there)
    if whole is not None:
        sources = dict(_constants(model))
        for (name, key), (module, _) in _constants(whole):
            setattr(module, key, sources[name, key][1].cpu())


@torch.no_grad()
def _fill(model: nn.Module, whole: nn.Module | None, device: torch.device, shard: Shard) -> None:
    """Gives every rank its part of rank 0's parameters, and all of its constants."""
    parameters = dict(whole.named_parameters()) if whole is not None else {}
    for name, part in model.named_parameters():
        value = torch.empty(part.shape, dtype=part.dtype, device=device)
        if whole is not None:
            value.copy_(parameters[name])
        values: Any = sharded_like(part, shard.broadcast(value))
        target: Any = part
        target.to_local().copy_(values.to_local())
    # What is computed from the configuration, such as rotary frequencies, is in no checkpoint.
    constants = dict(_constants(whole)) if whole is not None else {}
    for place, (module, there) in list(_constants(model)):
        value = torch.empty(there.shape, dtype=there.dtype, device=device)
        if whole is not None:
            value.copy_(constants[place][1])
        setattr(module, place[1], shard.broadcast(value))


def _constants(model: nn.Module) -> Iterator[tuple[tuple[str, str], tuple[nn.Module, Tensor]]]:
    """Buffers, saved or not, and plain tensors that modules hold: (module's name, key), (module, tensor)."""
    for name, module in model.named_modules():
        for key, value in [*module._buffers.items(), *vars(module).items()]:
            if isinstance(value, Tensor):
                yield (name, key), (module, value)


def _places(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Modules and keys that hold each parameter, by its first name; several hold one that is tied."""
    names = {id(p): name for name, p in model.named_parameters()}
    places: dict[str, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for key, p in module._parameters.items():
            if p is not None:
                places.setdefault(names[id(p)], []).append((module, key))
    return places
