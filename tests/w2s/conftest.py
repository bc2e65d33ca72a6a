import os
import sys
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.append(str(Path(__file__).parent))  # for stand_ins

from stand_ins import FAMILIES, make_checkpoint, make_task

from w2s import data, models


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def no_caches():
    models.clear_caches()
    data.clear_caches()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder per family of models."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: make_checkpoint(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """A learnable task per form."""
    root = tmp_path_factory.mktemp("tasks")
    return {form: make_task(root, form=form) for form in ("classify", "compare", "generate")}


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")
