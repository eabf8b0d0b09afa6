"""Judges the records that a branch adds, with the code of the tree that this file lies in.

    python -I .github/judge_results.py BRANCH [--base COMMIT]

The branch is data. Nothing of it is checked out, imported or run: git's objects are read, and of those only files below
`results/` that have the name, the kind and the size of a record or of a table beside one. They are laid over the base's
records in a temporary folder, where `bench results check` and `bench leaderboard` of this tree look at all of them, since a
duplicate is one of two. What the branch changes elsewhere is counted and has no influence.

Exit codes: 0 the records may be merged; 1 one may not, and every reason is printed; 2 the branch cannot be read.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
PART = r"[A-Za-z0-9%_+][A-Za-z0-9%._+-]{0,199}"  # of a path; a name's other characters are written as %XX
NAME = re.compile(rf"results/{PART}/[0-9a-f]{{12}}/{PART}/({PART})\.(json|grid\.parquet|predictions\.parquet)")
WINDOWS = ".bsseval.parquet"  # a table that runs of separators leave beside a record, for `bench results export`
PUBLISHED = re.compile(r"results/(README\.md|published/[a-z_]+\.csv)")  # a person reads changes of these
LARGEST = {"json": 4 << 20, "grid.parquet": 64 << 20, "predictions.parquet": 100 << 20}  # bytes
MOST_FILES, MOST_BYTES = 3000, 2 << 30  # of one branch
REGULAR = "100644"
BENCH = "import sys; sys.path.insert(0, sys.argv.pop(1)); from marble_bench.cli import main; main()"


@dataclass(frozen=True)
class Change:
    """A file that a branch changes: its path, its mode and object on the branch (zeros: deleted), and git's letter."""

    path: str
    mode: str
    blob: str
    letter: str

    @property
    def shown(self) -> str:
        """The path as one printable line."""
        return ascii(self.path)


def run_git(*arguments: str, repository: Path = TREE) -> bytes:
    """What git prints, no configuration of a branch being read."""
    call = ["git", "-C", str(repository), *arguments]
    return subprocess.run(call, capture_output=True, check=True).stdout


def list_changes(base: str, branch: str) -> list[Change]:
    """What a branch changes since it left the base."""
    start = run_git("merge-base", base, branch).decode().strip()
    fields = run_git("diff-tree", "-r", "-z", "--no-renames", "--no-ext-diff", start, branch).split(b"\0")[:-1]
    found = []
    for facts, path in zip(fields[::2], fields[1::2], strict=True):
        _, mode, _, blob, letter = facts.decode().split()
        found.append(Change(path.decode("utf-8", "surrogateescape"), mode, blob, letter))
    return found


def read_sizes(blobs: list[str]) -> dict[str, int]:
    """Bytes of each object, without reading it."""
    call = ["git", "-C", str(TREE), "cat-file", "--batch-check=%(objectname) %(objectsize)"]
    output = subprocess.run(
        call, input="".join(f"{blob}\n" for blob in blobs).encode(), capture_output=True, check=True
    )
    return {blob: int(size) for blob, size in (line.split() for line in output.stdout.decode().splitlines())}


def explain_refusal(change: Change, size: int) -> str:
    """Why a changed file below `results/` is not taken, empty if it is."""
    name = NAME.fullmatch(change.path)
    if change.path.endswith(WINDOWS) and change.letter == "A":
        return (
            "holds BSSEval's windows, which no digest of its record covers: leave it out, the record is whole without"
        )
    if name is None or ".." in change.path:
        return "is not named as a record or its table: results/MODEL/DIGEST/PROTOCOL/TASK.json"
    if change.letter == "D":
        return "is deleted; a branch adds records and takes none away"
    if change.mode != REGULAR:
        return f"is no regular file (mode {change.mode}); a symlink, a program or a repository is no record"
    if change.letter != "A":
        return "is on the base already; a record is not changed, a maintainer replaces it"
    if size > LARGEST[name[2]]:
        return f"has {size} bytes; at most {LARGEST[name[2]]} are taken"
    return ""


def lay_out(base: str, added: list[Change], folder: Path) -> int:
    """Write the base's records and the branch's into a folder; how many records that are."""
    entries = run_git("ls-tree", "-r", "-z", base, "--", "results/").decode("utf-8", "surrogateescape").split("\0")[:-1]
    here = [(path, *facts.split()[::2]) for facts, path in (entry.split("\t", 1) for entry in entries)]
    blobs = {path: blob for path, mode, blob in here if mode == REGULAR and NAME.fullmatch(path)}
    blobs |= {change.path: change.blob for change in added}
    for path, blob in blobs.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(run_git("cat-file", "blob", blob))
    return sum(path.endswith(".json") for path in blobs)


def run_bench(folder: Path, *arguments: str) -> int:
    """The exit code of this tree's `run_bench` in a folder, with nothing in the environment that Python or it would read."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "BENCH_", "GIT_"))}
    sys.stdout.flush()
    return subprocess.run(
        [sys.executable, "-I", "-c", BENCH, str(TREE), *arguments], cwd=folder, env=environment
    ).returncode


def judge(base: str, branch: str) -> list[str]:
    """Every reason why what a branch adds may not be merged."""
    found = list_changes(base, branch)
    below = [change for change in found if change.path.startswith("results/")]
    records = [change for change in below if not PUBLISHED.fullmatch(change.path)]
    if elsewhere := len(found) - len(below):
        print(f"{elsewhere} files outside results/ are changed; they were not looked at and have no influence here")
    if published := len(below) - len(records):
        print(f"{published} files of published scores are changed; they were not looked at and have no influence here")
    size = read_sizes([change.blob for change in records if change.mode.startswith("100") and change.letter != "D"])
    if len(records) > MOST_FILES or sum(size.values()) > MOST_BYTES:
        return [f"{len(records)} files of {sum(size.values())} bytes; at most {MOST_FILES} of {MOST_BYTES} are taken"]
    reasons = {change: explain_refusal(change, size.get(change.blob, 0)) for change in records}
    wrong = [f"{change.shown} {why}" for change, why in reasons.items() if why]
    added = [change for change, why in reasons.items() if not why]
    named = {change.path.removesuffix(".json") for change in added if change.path.endswith(".json")}
    alone = [
        change for change in added if re.sub(r"(\.(grid|predictions)\.parquet|\.json)$", "", change.path) not in named
    ]
    wrong += [f"{change.shown} is a table without its record" for change in alone]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "results").mkdir()
        print(f"{lay_out(base, added, folder)} records, {len(named)} of them of this branch", flush=True)
        if code := run_bench(folder, "results", "check", "--reference"):
            wrong.append(f"bench results check ended with {code}: a record is not valid")
        elif code := run_bench(folder, "leaderboard"):
            wrong.append(f"bench leaderboard ended with {code}")
    return wrong


def main() -> int:
    """See the module."""
    asked = argparse.ArgumentParser(description="Judge the records that a branch adds.")
    asked.add_argument("branch", help="a commit or reference of this repository")
    asked.add_argument("--base", default="HEAD", help="what it is to be merged into; else what is checked out here")
    given = asked.parse_args()
    if "GITHUB_ACTIONS" in os.environ:  # no text of a record is a command to the runner
        print(f"::stop-commands::{secrets.token_hex(16)}")
    try:
        wrong = judge(given.base, given.branch)
    except subprocess.CalledProcessError as error:
        print(f"git cannot read {given.branch!r}: {error.stderr.decode(errors='replace').strip()}", file=sys.stderr)
        return 2
    for reason in wrong:
        print(f"no: {reason}")
    print("the records of this branch may not be merged" if wrong else "the records of this branch are valid")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
