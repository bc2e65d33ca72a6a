"""What the commands share when they print: the console, and sizes and times for people."""

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


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min, 5 d 3 h."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 100 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def about(seconds: float) -> str:
    """A time that is not known to the second: 40 s, 2 min, 1 h 05 min, 3 d 4 h."""
    return duration(seconds) if not 90 <= seconds < 3570 else f"{seconds / 60:.0f} min"
