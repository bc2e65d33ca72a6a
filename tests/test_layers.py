"""Imports go only downwards: the contracts in pyproject.toml hold."""

import subprocess
import sys
from pathlib import Path


def test_the_layers_hold():
    root = Path(__file__).parents[1]
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([str(command), "--no-cache"], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
