"""The fenced blocks of the documents, and a shell that runs them as a reader would, on miniatures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conftest import Bench

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*).*\n(?P<code>(?:.*\n)*?)(?P=indent)```$", re.MULTILINE)
COMMENT = re.compile(r"<!-- (?P<mark>not run|output): ?(?P<reason>[^>]*?) -->\s*$")
# what is run instead of the words of a document: miniatures for corpora, and the records of miniatures
MINIATURES = (
    (r"--data-dir /data/\S+", "--mini"),
    (
        r"(bench (?:leaderboard|compare|plot)\b(?!.*(?:--mini|jukebox-5b|musicnn\b|marble2|--frozen|\*)))",
        r"\1 --mini",
    ),  # papers print no miniatures
    (r"(/marble/\w+)\.json", r"\1.mini.json"),
)


@dataclass(frozen=True)
class Block:
    """A fenced block. mark: `not run` or `output`, and the reason, from the HTML comment before it; else empty."""

    page: Path
    line: int
    language: str
    code: str
    mark: str
    reason: str

    @property
    def is_site_markup(self) -> bool:
        """Whether it is a directive of the site, such as `{toctree}`, and nothing that a reader runs."""
        return self.language.startswith("{")

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    text, blocks = page.read_text(), []
    for found in FENCE.finditer(text):
        before, indent = text[: found.start()], len(found["indent"])
        told = COMMENT.search(before)
        mark, reason = (told["mark"], told["reason"].strip()) if told else ("", "")
        code = "".join(line[indent:] for line in found["code"].splitlines(keepends=True))
        blocks.append(Block(page, before.count("\n") + 1, found["language"], code, mark, reason))
    return blocks


def split_commands(code: str) -> list[list[str]]:
    """The commands of a `bash` block, each as its words, with miniatures in place of corpora."""
    commands = []
    for line in code.replace("\\\n", " ").splitlines():
        for pattern, instead in MINIATURES:
            line = re.sub(pattern, instead, line)
        if words := shlex.split(line, comments=True):
            commands.append(words)
    return commands


def run_block(block: Block, bench: Bench, folder: Path, shorten: Callable[[str], tuple[str, ...]]) -> None:
    """Run a block in a folder: a file is written, other Python is executed, each `bench` command must end with 0.

    A block is a file if its first line is a comment that begins with the file's name. shorten: from a command without
    `bench` to options that make it end sooner.
    """
    if file := re.match(r"# ([\w-]+\.(?:py|toml))\b", block.code):
        (folder / file[1]).write_text(block.code)
    elif block.language == "python":
        exec(compile(block.code, str(block), "exec"), {"__name__": "__main__"})
    else:
        for words in split_commands(block.code):
            assert words[0] == "bench", f"{block}: {words}: only `bench` is run here; mark the block `not run`"
            words, target = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, "")
            ended = bench(*words[1:], *shorten(" ".join(words[1:])))
            assert ended.code == 0, f"{block}: {' '.join(words)}: {ended.err}"
            if target:
                (folder / target).write_text(ended.out)
