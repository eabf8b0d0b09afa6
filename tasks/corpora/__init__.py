"""The corpora that tasks ask: where each is downloaded from, how it lies on disk, its miniature."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

from marble_bench.errors import DataError

SPLIT_LISTS = Path(__file__).parent.parent / "splits"


def split_rows(name: str, sha256: str) -> list[dict[str, str]]:
    """The rows of a shipped split list. Raises DataError if its bytes are not the published ones."""
    path = SPLIT_LISTS / name
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"the split list {path} was changed (sha256 {found}, published {sha256}); install it again")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
