"""The version: from git's tag or commit in a checkout, else what the build wrote down.

    v0.2.0 itself                      0.2.0
    three commits later                0.2.1.dev3+g1a2b3c4
    the same with changed files        0.2.1.dev3+g1a2b3c4.dirty
    no tag can be reached              0.dev120+g1a2b3c4
    nobody can tell                    0+unknown

A build asks the same function (`tool.setuptools.dynamic` in pyproject.toml), so that a wheel, an sdist and a checkout
agree, and setuptools alone is enough to build. With setuptools-scm, a checkout would go on telling the commit that it was
installed at. This module imports nothing of the suite, because a build loads it alone; git is asked when somebody asks for
the version, not at import.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of a checkout or of an unpacked sdist; else `site-packages`
UNKNOWN = "0+unknown"
# What `git describe --tags --long --always --dirty` says: `v0.2.0-3-g1a2b3c4`, or `1a2b3c4` where there is no tag.
DESCRIBED = re.compile(r"(?:v(?P<tag>\d+(?:\.\d+)*)-(?P<since>\d+)-g)?(?P<commit>[0-9a-f]{7,40})(?P<dirty>-dirty)?")


@lru_cache(maxsize=1)
def version() -> str:
    """The version of this code, by PEP 440."""
    commit()  # known from the same moment on, so that both agree whatever is committed during a run
    if described := _git("describe", "--tags", "--match", "v[0-9]*", "--long", "--always", "--dirty"):
        return parse_description(described, int(_git("rev-list", "--count", "HEAD") or 0))
    if written := _find_first(r"^Version: (\S+)$", ROOT / "PKG-INFO"):  # an unpacked sdist
        return written
    packed = ROOT / ".git_archival.txt"  # git fills it in where a forge packs a commit
    if tag := _find_first(r"^describe: v(\d+(?:\.\d+)*)$", packed):
        return tag
    if described := _find_first(r"^describe: (v\S+)$", packed) or _find_first(r"^commit: ([0-9a-f]{9})", packed):
        return parse_description(described, 0)
    installed = _installed()
    return installed.version if installed else UNKNOWN


@lru_cache(maxsize=1)
def commit() -> tuple[str | None, bool | None]:
    """The commit of this code and whether files differ from it; (None, None) where that cannot be told."""
    if here := _git("rev-parse", "HEAD"):
        return here, bool(_git("status", "--porcelain"))
    installed = _installed()
    # pip writes it down where it installs from a repository
    direct_url = installed.read_text("direct_url.json") if installed else None
    cloned: str | None = json.loads(direct_url).get("vcs_info", {}).get("commit_id") if direct_url else None
    return cloned, False if cloned else None


def parse_description(described: str, commits: int) -> str:
    """What `git describe --tags --long --always --dirty` says, as a version. commits: in all, which count without a tag.

    >>> parse_description("v0.2.0-0-g1a2b3c4", 99), parse_description("v0.2.0-3-g1a2b3c4-dirty", 99)
    ('0.2.0', '0.2.1.dev3+g1a2b3c4.dirty')
    >>> parse_description("1a2b3c4", 99)
    '0.dev99+g1a2b3c4'
    """
    found = DESCRIBED.fullmatch(described)
    if found is None:
        return UNKNOWN
    local = f"+g{found['commit']}{'.dirty' if found['dirty'] else ''}"
    if not found["tag"]:
        return f"0.dev{commits}{local}"
    if found["since"] == "0" and not found["dirty"]:
        return found["tag"]
    *before, last = found["tag"].split(".")
    return f"{'.'.join([*before, str(int(last) + 1)])}.dev{found['since']}{local}"


def _git(*call: str) -> str:
    """What git says of the checkout that this file lies in; empty where it is in none, or git does not answer."""
    if not ((ROOT / ".git").exists() and (ROOT / "pyproject.toml").is_file()):
        return ""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *call], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""  # no git at hand, or not a repository it trusts
    return done.stdout.strip()


def _find_first(pattern: str, path: Path) -> str:
    """The first group where a file matches; empty if there is no such file or no match."""
    found = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE) if path.is_file() else None
    return found[1] if found else ""


def _installed() -> Distribution | None:
    try:
        return distribution("marble-bench")
    except PackageNotFoundError:
        return None
