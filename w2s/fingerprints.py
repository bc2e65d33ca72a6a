"""Content hashes: the same content gives the same hash on every machine, wherever it lies."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HashFile = Callable[[Path], str]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Any) -> str:
    """SHA-256 of a JSON-able value, in hex; the order of mapping keys does not matter."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
