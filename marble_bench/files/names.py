"""Which texts may be a name in a record, and the folder of a name.

A record's names (of tasks, models, protocols, metrics) may come from anybody. They are looked up among what is registered,
and never opened. The rule keeps a name from being a path to code, a hidden file or a way out of a folder.
"""

from __future__ import annotations

import re
from urllib.parse import quote

LONGEST_NAME, LONGEST_TEXT = 120, 4000  # characters
MOST_SCORES = 200  # of a record, which a task's metrics name
RULE = (
    f"at most {LONGEST_NAME} characters of A-Z a-z 0-9 . _ + : / @ -, "
    "no '..', no '.py' at the end or before ':', none of / . ~ first"
)
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9._+:/@-]|\.\.|\.[pP][yY](?::|$)|^[/.~]")
# Control characters (C0, DEL, C1), line separators, marks that turn the direction of text, halves of pairs, and characters
# that nobody sees: zero width space, joiners of words, tags. The joiners of letters stay, for Persian and Hindi need them.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"
)
# Marks that are drawn over a letter. No language has more than eight on one; a heap of them hides the lines around it.
_MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
CONTROL = re.compile(f"[{_UNSEEN}]|[{_MARKS}]{{9,}}")


def _free_of(found: re.Pattern[str]) -> str:
    """The pattern of texts in which `found` finds nothing, in words that every JSON Schema reader has.

    It is in ASCII but for characters beyond U+FFFF, for which readers have no common escape.
    """
    escaped = "".join(
        each if " " <= each <= "~" or each > "\uffff" else f"\\u{ord(each):04x}" for each in found.pattern
    )
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


def name_folder(name: str) -> str:
    """A name as one part of a path: other characters than A-Z a-z 0-9 . _ - are percent-encoded.

    Two names never share a folder; plain names stay as they are.

    >>> name_folder("mert-95m"), name_folder("hf:org/name"), name_folder("100%")
    ('mert-95m', 'hf%3Aorg%2Fname', '100%25')
    """
    return quote(name, safe="").replace("~", "%7E")
