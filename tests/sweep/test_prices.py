"""GPUs by name."""

import pytest

from sweep.errors import SweepError
from sweep.prices import GPUS, find_gpu, smallest_that_holds
from sweep.timing import is_device


@pytest.mark.parametrize(
    ("name", "found"), [("a100-80", "a100-80"), ("A100_80", "a100-80"), ("h100", "h100-80"), ("L4", "l4-24")]
)
def test_a_gpu_is_found_by_name_and_without_memory_where_that_is_clear(name, found):
    assert find_gpu(name).name == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a100", "--gpu a100: which one, a100-40 or a100-80?"),
        ("h100-81", "did you mean 'h100-80'? There is t4-16, "),
        ("gtx", "no GPU of that name is known; there is t4-16, .* h200-141"),
    ],
)
def test_an_unknown_gpu_is_refused_with_those_there_are(name, message):
    with pytest.raises(SweepError, match=message.replace("?", r"\?")):
        find_gpu(name)


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_an_entry_of_the_table_is_sound(gpu):
    assert 0 < gpu.price[0] < gpu.price[1]
    assert gpu.note
    assert gpu.peak("auto") == gpu.peak("bf16") >= gpu.peak("fp32") == gpu.fp32
    assert 1e9 < gpu.memory == float(gpu.name.rpartition("-")[2]) * 1e9


@pytest.mark.parametrize(
    ("gigabytes", "name"), [(1, "t4-16"), (20, "rtx4090-24"), (60, "a100-80"), (100, "h200-141"), (200, None)]
)
def test_the_smallest_gpu_that_holds_a_run(gigabytes, name):
    found = smallest_that_holds(gigabytes * 1e9)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("NVIDIA H100 80GB HBM3", "h100-80"),
        ("NVIDIA L4", "l4-24"),
        ("NVIDIA L40S", "l40s-48"),
        ("NVIDIA A10G", "a10g-24"),
        ("NVIDIA GeForce RTX 4090", "rtx4090-24"),
        ("Tesla T4", "t4-16"),
        ("Tesla V100-SXM2-16GB", "v100-16"),
        ("NVIDIA H200", "h200-141"),
    ],
)
def test_a_device_is_told_by_the_name_that_its_driver_gives(device, name):
    assert [gpu.name for gpu in GPUS.values() if is_device(device, gpu)] == [name]
    assert not is_device(device, None)


def test_a_cpu_is_no_gpu():
    assert is_device("cpu", None)
    assert not any(is_device("cpu", gpu) for gpu in GPUS.values())
