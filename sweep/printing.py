"""What the commands share when they print: the console, and sizes for people."""

import sys

from rich.console import Console

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)  # pipes do not wrap


def size(count: float) -> str:
    """Bytes for a person: 12 B, 3.4 kB, 5.6 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
