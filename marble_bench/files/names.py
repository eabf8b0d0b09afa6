"""Which texts may be a name in a record, and the folder of a name.

A record's names (of tasks, models, protocols, metrics) may come from anybody. They are looked up among what is registered,
and never opened. The rule keeps a name from being a path to code, a hidden file or a way out of a folder.
"""

from __future__ import annotations

import re
from urllib.parse import quote

LONGEST_NAME, LONGEST_TEXT = 120, 4000  # characters
RULE = (
    f"at most {LONGEST_NAME} characters of A-Z a-z 0-9 . _ + : / @ -, "
    "no '..', no '.py' at the end or before ':', none of / . ~ first"
)
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9._+:/@-]|\.\.|\.[pP][yY](?::|$)|^[/.~]")
# Control characters (C0, DEL, C1), line separators, marks that turn the direction of text, and halves of pairs.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _free_of(found: re.Pattern[str]) -> str:
    """The pattern of texts in which `found` finds nothing, in ASCII and in words that every JSON Schema reader has."""
    escaped = "".join(each if " " <= each <= "~" else f"\\u{ord(each):04x}" for each in found.pattern)
    return rf"^(?![\s\S]*(?:{escaped}))"


NAME_PATTERN, TEXT_PATTERN = _free_of(_NOT_A_NAME), _free_of(CONTROL)  # beside their lengths, all of their rules


def is_name(text: str) -> bool:
    """Whether a text may be a name in a record.

    >>> [is_name(each) for each in ("mert-95m", "hf:org/name@v1", "../x", "notes.py", "~me", "a b", "")]
    [True, True, False, False, False, False, False]
    """
    return 0 < len(text) <= LONGEST_NAME and _NOT_A_NAME.search(text) is None


def is_text(text: str) -> bool:
    """Whether a text may be in a record at all: on one line, of characters that are shown as themselves.

    >>> is_text("chroma, 12 bins"), is_text("two\\nlines"), is_text("\\x1b[31mred")
    (True, False, False)
    """
    return len(text) <= LONGEST_TEXT and CONTROL.search(text) is None


def folder_name(name: str) -> str:
    """A name as one part of a path: other characters than A-Z a-z 0-9 . _ - are percent-encoded.

    Two names never share a folder; plain names stay as they are.

    >>> folder_name("mert-95m"), folder_name("hf:org/name"), folder_name("100%")
    ('mert-95m', 'hf%3Aorg%2Fname', '100%25')
    """
    return quote(name, safe="").replace("~", "%7E")
