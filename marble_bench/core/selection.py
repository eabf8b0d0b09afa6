"""Several names in one word of a command line: `gtzan,gs`, and globs such as `mtg-*`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from marble_bench.core.schemes import scheme_of
from marble_bench.core.task import name_task
from marble_bench.errors import UsageError, suggest_name


def select_names(words: Sequence[str], known: Iterable[str], kind: str) -> list[str]:
    """The names that a user's words stand for, in the order given, each once.

    words: each a name, several names with commas between them, or a glob over `known`, whose matches come in its order. A
    word that is no glob is left as it is, whether it is known or not, and so is the path of a file, commas included. kind:
    what is named, as in `--task`. Raises UsageError for a glob that matches nothing, and for an empty name.

    >>> select_names(["gs,mtg-*", "gs", "own.py"], ["gs", "mtg-genre", "mtg-top50"], "task")
    ['gs', 'mtg-genre', 'mtg-top50', 'own.py']
    """
    choices, found = list(known), list[str]()
    for word in (part for each in words for part in _split(each, kind)):
        if not _is_glob(word):
            found.append(word)
            continue
        matching = [name for name in choices if fnmatchcase(name, word)]
        if not matching:
            hint = suggest_name(word, choices)
            raise UsageError(f"no {kind} matches '{word}'{hint} (bench list {kind}s)")
        found += matching
    return list(dict.fromkeys(found))


def find_recorded_task(word: str) -> str:
    """The name by which a record has the task that `bench run` was given: of a file that is there, the file's own name."""
    path = Path(word).expanduser()
    return name_task(path) if word.endswith(".py") and path.is_file() else word


def find_recorded_model(word: str) -> str:
    """The name by which a record has the model that `bench run` was given: of `hf:FOLDER`, `hf:` and the folder's name.

    No file is opened, so `FILE.py:NAME` stays as it is.
    """
    scheme = scheme_of(word)
    folder = Path(word.partition(":")[2]).expanduser()
    return f"hf:{folder.resolve().name}" if scheme and scheme.prefix == "hf" and folder.is_dir() else word


def _split(word: str, kind: str) -> list[str]:
    """The parts of a word between commas. A file or folder may have commas in its name."""
    of_file, of_scheme = word.rpartition(":")[0], word.partition(":")[2]
    if "," not in word or any(each and Path(each).expanduser().exists() for each in (word, of_file, of_scheme)):
        return [word]
    parts = [part.strip() for part in word.split(",")]
    if not all(parts):
        raise UsageError(f"--{kind} '{word}' has an empty name beside a comma: leave the comma out")
    return parts


def _is_glob(word: str) -> bool:
    return any(sign in word for sign in "*?[") and ".py" not in word
