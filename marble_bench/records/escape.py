"""Text of others (records, file names, labels, messages that quote them) made harmless, one function for each output.

Each gives text that the output shows as it was written: nothing of it is markup, a command, a formula or a line of its own.
Figures need none: matplotlib is told to parse no text (`text.parse_math`). JSON on stdout is ASCII, with all else escaped.
"""

from __future__ import annotations

import json
from typing import Any

from marble_bench.files.names import CONTROL

_MARKDOWN = frozenset("\\`*_[]<>|~#$!@&")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "°": r"$^{\circ}$", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$",
    "*": r"$^{*}$",
}  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of one


def escape_line(text: str) -> str:
    r"""Text on one line for a terminal: what would control it is written as an escape.

    >>> print(escape_line("a\x1b[31mb\nc"))
    a\x1b[31mb\nc
    """
    return CONTROL.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def escape_lines(text: str) -> str:
    r"""The same, line by line: the lines of a message stay lines."""
    return "\n".join(escape_line(line) for line in text.split("\n"))


def escape_markdown(text: str) -> str:
    r"""Text in GitHub's Markdown, also in a cell of a table.

    >>> print(escape_markdown("a_b|<c>"))
    a\_b\|\<c\>
    """
    return "".join(f"\\{each}" if each in _MARKDOWN else each for each in escape_line(text))


def escape_latex(text: str) -> str:
    r"""Text in LaTeX, also in a comment.

    >>> print(escape_latex("50% of\na_b"))
    50\% of\textbackslash{}na\_b
    """
    return "".join(_LATEX.get(each, each) for each in escape_line(text))


def escape_csv_cell(value: object) -> object:
    """A value of a CSV file: text that a spreadsheet would compute gets an apostrophe before it; numbers stay.

    >>> escape_csv_cell("=1+1"), escape_csv_cell(-0.5), escape_csv_cell("mfcc")
    ("'=1+1", -0.5, 'mfcc')
    """
    if not isinstance(value, str):
        return value
    return "'" * value.startswith(_FORMULA) + escape_line(value)


def escape_json_in_html(facts: Any) -> str:
    """JSON inside a script element, which no text in it can end."""
    text = json.dumps(facts, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
