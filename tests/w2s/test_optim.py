import pytest
import torch

from w2s.optim import FlatAdamW


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 5), (7,), (16, 2), (1,)]]


def gradients(step):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, generator=generator) for p in parameters()]


@pytest.mark.parametrize("clip_norm", [None, 0.5, 100.0])
def test_it_moves_parameters_as_torchs_own_adamw_and_clipping_do(clip_norm):
    ours, theirs = parameters(), parameters()
    flat = FlatAdamW(ours, betas=(0.9, 0.98), weight_decay=0.1, clip_norm=clip_norm)
    reference = torch.optim.AdamW(theirs, lr=0.0, betas=(0.9, 0.98), weight_decay=0.1)
    for step in range(5):
        flat.zero_grad()
        for p, q, g in zip(ours, theirs, gradients(step), strict=True):
            (p * g).sum().backward()
            q.grad = g.clone()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs, clip_norm)
        reference.param_groups[0]["lr"] = 0.01 / (step + 1)
        reference.step()
        flat.step(0.01 / (step + 1))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)


def test_gradients_add_up_until_they_are_zeroed():
    (p,) = [torch.nn.Parameter(torch.zeros(3))]
    flat = FlatAdamW([p], betas=(0.9, 0.999), weight_decay=0.0, clip_norm=None)
    p.sum().backward()
    p.sum().backward()
    assert flat.grad[:3].tolist() == [2, 2, 2]
    flat.zero_grad()
    assert p.grad is not None
    assert p.grad.tolist() == [0, 0, 0]


def test_frozen_parameters_are_left_alone():
    trained, frozen = parameters()[:2]
    frozen.requires_grad_(False)
    before = frozen.clone()
    flat = FlatAdamW([trained, frozen], betas=(0.9, 0.999), weight_decay=0.5, clip_norm=None)
    flat.step(0.1)
    assert torch.equal(frozen, before)
    assert not torch.equal(trained, parameters()[0])


def test_a_loaded_state_continues_to_the_same_bits():
    def steps(flat, ours, first, last):
        for step in range(first, last):
            flat.zero_grad()
            for p, g in zip(ours, gradients(step), strict=True):
                (p * g).sum().backward()
            flat.step(0.01)

    def optimiser(ours):
        return FlatAdamW(ours, betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0)

    whole, first, second = parameters(), parameters(), parameters()
    steps(optimiser(whole), whole, 0, 6)
    flat = optimiser(first)
    steps(flat, first, 0, 3)
    resumed = optimiser(second)
    resumed.load_state({key: value.clone() for key, value in flat.state().items()})
    steps(resumed, second, 3, 6)
    assert all(torch.equal(p, q) for p, q in zip(whole, second, strict=True))


def test_after_release_every_parameter_has_storage_of_its_own():
    ours = parameters()
    flat = FlatAdamW(ours, betas=(0.9, 0.999), weight_decay=0.0, clip_norm=None)
    flat.release()
    assert len({p.untyped_storage().data_ptr() for p in ours}) == len(ours)
    assert all(p.grad is None for p in ours)
