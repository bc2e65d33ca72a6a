import torch

from w2s.runtime import PeakMemory


def test_the_growth_of_a_run_is_what_it_held_at_most_whatever_was_there_before():
    before = torch.ones(30_000_000)
    memory = PeakMemory(torch.device("cpu"))
    held = torch.ones(50_000_000)
    del held
    growth = memory.bytes() - memory.baseline
    assert 190e6 < growth < 260e6
    assert memory.baseline > 4 * before.numel()
