"""The documentation as a site: `make docs` builds it, and a warning of Sphinx is an error there.

Sphinx, because it makes pages of API from docstrings and resolves links between pages; librosa, mir_eval and scikit-learn
use it too. Pages are Markdown (MyST), so that they can also be read where the code is. Two things are made while it builds:
`api.md` lists every public name of `marble_bench`, and docstrings, which this project writes in Markdown, become
reStructuredText.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import marble_bench

project = "marble-bench"
author = "The marble-bench founders"
version = release = marble_bench.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "marble-bench"
html_extra_path = ["board.html"]
html_show_copyright = False
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_url_schemes = ["http", "https", "mailto", "hf", "pypi"]
default_role = "code"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80

# where a public name is shown, by the module that defines it; a module that is not here gets a section of its own
SECTIONS = {
    "api": "Functions",
    "encoders.live": "Your own model",
    "encoders.hear": "Your own model",
    "core.encoder": "Encoders",
    "audio": "Encoders",
    "files.source": "Encoders",
    "core.task": "Tasks",
    "scoring.targets": "Tasks",
    "scoring.frame_targets": "Tasks of frames",
    "data.splits": "Tasks",
    "scoring.metric": "Metrics",
    "core.protocol": "Protocols, heads and task sets",
    "core.head": "Protocols, heads and task sets",
    "core.task_rules": "Protocols, heads and task sets",
    "core.task_set": "Protocols, heads and task sets",
    "errors": "Errors",
}


def list_public_names(app: Any, name: str, source: list[str]) -> None:
    """Replace the marker in `api.md` by a section for each group of public names."""
    marker = "<!-- public names -->"
    if name == "api":
        assert marker in source[0]
        source[0] = source[0].replace(marker, "\n".join(describe_public_names()))


def describe_public_names() -> list[str]:
    """Lines of Markdown: a heading for each section, a directive of autodoc for each name."""
    sections: dict[str, list[str]] = {}
    for public, module in sorted(marble_bench._PUBLIC.items(), key=lambda item: rank_section(item[1])):
        sections.setdefault(SECTIONS.get(module, module), []).append(describe_name(public))
    return [line for title, names in sections.items() for line in (f"## {title}", "", *names)]


def rank_section(module: str) -> int:
    """New modules first: they hold what most people call."""
    return list(SECTIONS.values()).index(SECTIONS[module]) if module in SECTIONS else -1


def describe_name(public: str) -> str:
    """The directive for one public name, in the kind that it has."""
    found = getattr(marble_bench, public)
    if inspect.isclass(found):
        directive = f".. autoclass:: marble_bench.{public}\n   :members:"
    elif inspect.isroutine(found):
        directive = f".. autofunction:: marble_bench.{public}"
    else:  # an alias of a type
        return f"`marble_bench.{public}` is the type `{str(found).replace('typing.', '')}`.\n"
    return f"```{{eval-rst}}\n{directive}\n```\n"


def convert_docstring(app: Any, what: str, name: str, described: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring of this project's form into reStructuredText, in place."""
    paragraphs = "\n".join(lines).split("\n\n")
    lines[:] = "\n\n".join(convert_paragraph(each, read_parameters(described)) for each in paragraphs).split("\n")


def read_parameters(described: Any) -> set[str]:
    """The names of what a class or function takes, which a docstring explains as `name: text`."""
    try:
        return set(inspect.signature(described).parameters)
    except (TypeError, ValueError):
        return set()


def convert_paragraph(paragraph: str, parameters: set[str]) -> str:
    """A paragraph with its parameters as a list; examples stay as they are."""
    if paragraph.lstrip().startswith(">>>"):
        return paragraph
    converted: list[str] = []
    for line in paragraph.split("\n"):
        head, colon, text = line.partition(": ")
        if colon and set(head.split(", ")) <= parameters:
            converted += ["", f"* **{escape_text(head)}**: {escape_text(text)}"]
        elif any(each.startswith("* ") for each in converted):
            converted.append("  " + escape_text(line.strip()))
        else:
            converted.append(escape_text(line.strip()))
    return "\n".join(converted)


def escape_text(text: str) -> str:
    """Markdown's code as code; what reStructuredText would read as markup, as it is."""
    parts = re.split(r"`+([^`]+)`+", text)
    plain = [re.sub(r"([*|\\]|_(?!\w))", r"\\\1", each) for each in parts[::2]]
    # code that touches a letter, as in "`x`s", needs a mark that shows where it ends
    plain = [re.sub(r"^(?=\w)", r"\\ ", each) if number else each for number, each in enumerate(plain)]
    code = [f"``{each}``" for each in parts[1::2]]
    return "".join(a + b for a, b in zip(plain, [*code, ""], strict=True))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", list_public_names)
    app.connect("autodoc-process-docstring", convert_docstring)
