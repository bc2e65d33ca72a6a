"""Counts, lists and numbers with their intervals as parts of sentences."""

from collections.abc import Iterable, Mapping
from typing import Any

from analysis.frames import BOUNDS


def counted(n: int, noun: str) -> str:
    """1 pair; 3 pairs."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def over_all(n: int, noun: str) -> str:
    """over the only pair; over all 3 pairs."""
    return f"over the only {noun}" if n == 1 else f"over all {n} {noun}s"


def listed(names: Iterable[str]) -> str:
    """a, b and c; of at least one."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def estimated(row: Mapping[str, Any], name: str) -> str:
    """0.512 [0.480, 0.544], of the columns `name`, `name_low` and `name_high`, which have values."""
    # Adding zero keeps "-0.000" away.
    value, low, high = (round(row[f"{name}{bound}"], 3) + 0.0 for bound in BOUNDS)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def signed(row: Mapping[str, Any], name: str) -> str:
    """+0.012 [-0.020, +0.044], of a difference."""
    return f"{row[name]:+.3f} [{row[f'{name}_low']:+.3f}, {row[f'{name}_high']:+.3f}]"


def in_points(row: Mapping[str, Any], name: str) -> str:
    """+1.20 [-2.00, +4.40], of a difference of shares, in percentage points."""
    return f"{100 * row[name]:+.2f} [{100 * row[f'{name}_low']:+.2f}, {100 * row[f'{name}_high']:+.2f}]"
