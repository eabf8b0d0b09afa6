"""An encoder's weights as one local safetensors file: had once, checked, converted once, then only looked up.

Had from the hub at a commit, from a web address, from a PyPI package, or from what `--weights` names. `<cache>/weights/
downloads/` holds what addresses and packages handed out (the hub has a cache of its own, HF_HOME);
`<cache>/weights/<encoder>/<key>.safetensors` is what an encoder loads, and `<key>.json` beside it the receipt: where that
came from, at which commit, with the digest of every file. All are written under a temporary name, synced and renamed:
what exists is whole, and two processes that make the same file only make it twice.

A published digest is always compared, and on the hub the one that its server states. Where none is known, the first
download's is in the receipt. A later download must give the same files, or the same tensors in another kind of file
(`pytorch_model.bin`, `model.safetensors`). A record holds the digest of what was loaded. Nothing is unpickled but tensors.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from marble_bench import Encoder
from marble_bench.core.keys import digest_facts
from marble_bench.core.schemes import scheme_of
from marble_bench.errors import DataError, UsageError, listing
from marble_bench.files.atomic import open_atomic_path, walk, write_whole
from marble_bench.files.download import (
    DownloadCallbacks,
    Gated,
    check_protected,
    download,
    from_hub,
    is_published,
    is_stated,
    name_of,
)
from marble_bench.files.names import name_folder
from marble_bench.files.source import Source
from marble_bench.files.tensor_file import compute_tensors_sha256, is_pointer, why_unreadable

CONFIGURATIONS = ("config.json", "preprocessor_config.json")
SILENT = DownloadCallbacks(lambda text: None, lambda name, done, total: None)


@dataclass(frozen=True)
class Weights:
    """What an encoder loads and where it came from.

    path: the safetensors file, None for an encoder without weights.
    sha256: of that file, else of the encoder's declared facts.
    source: the declared url, `file:NAME` for `--weights`, what an adapter made the encoder of, or `none`.
    revision: the commit that was got, or as the source declares it; for a converted `--weights`, the sha256 of what was
        given.
    tensors_sha256: of the tensors in that file, the same for every file that holds them; empty where none are known.
    files: sha256 of each file of tensors that was got, by name; of a model by its hub id or folder.
    """

    path: Path | None
    sha256: str
    source: str
    revision: str
    tensors_sha256: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """What is stored beside converted weights.

    files: sha256 of each file got, by name. sha256: of the converted file. tensors_sha256: of the tensors in it; empty in
    the receipt of an earlier version.
    """

    source: str
    revision: str
    files: dict[str, str]
    sha256: str
    tensors_sha256: str = ""


@dataclass(frozen=True)
class _Downloaded:
    """What a source handed out: a file or a folder, its commit or version, and the files that count, by name."""

    place: Path
    revision: str
    files: dict[str, Path]


def resolve(
    encoder: Encoder,
    cache: Path,
    *,
    override: Path | None = None,
    offline: bool = False,
    callbacks: DownloadCallbacks = SILENT,
) -> Weights:
    """The weights of an encoder under the cache root `cache`, fetched and converted if they are not there yet.

    override: what `--weights` names: a .safetensors file, used as it is, or what the encoder's `convert` takes.
    offline: fetch nothing; what is in the cache is still used.
    Raises UsageError for an override that makes no sense, DataError if weights cannot be got or are not as declared.
    """
    if (source := encoder.weights) is None:
        if override is not None:
            raise UsageError(f"encoder '{encoder.name}' has no weights to load; leave out --weights")
        return Weights(None, digest_facts(encoder), encoder.made_from or "none", "")
    if (given := override or _folder_of(encoder)) is not None:
        return _given(encoder, cache, given.expanduser(), callbacks)
    path = _place(encoder, cache, _key(source))
    receipt = _receipt(path)
    if path.is_file() and receipt:
        digest = _digest(path)
        if digest != receipt.sha256:
            raise DataError(f"the weights of encoder '{encoder.name}' are damaged: delete {path} and run again")
        return _loaded(encoder, path, replace(receipt, source=source.url))
    try:
        got = _get_all(encoder, source, cache / "weights" / "downloads", offline, callbacks)
        files = {name: _digest(file) for name, file in got.files.items()}
        _compare(encoder, source, got.files, files)
        with _alone(got) as place, _converted(encoder, place, path) as temporary:
            made = Receipt(source.url, got.revision, files, _digest(temporary), compute_tensors_sha256(temporary))
            _compare_with_first(encoder, made, receipt, path, callbacks)
        write_whole(_receipt_path(path), json.dumps(asdict(made), indent=1).encode())
    except OSError as error:  # what the network did is told where it happens; this is the disk
        raise DataError(
            f"the weights of encoder '{encoder.name}' cannot be kept in {cache}: {error}; make room, or choose --cache-dir"
        ) from error
    return _loaded(encoder, path, made)


def _loaded(encoder: Encoder, path: Path, receipt: Receipt) -> Weights:
    """Converted weights, with the digests of the files that they are from where the encoder is known by its hub id."""
    files = {name: each for name, each in receipt.files.items() if not name.endswith(".json")}
    kept = files if scheme_of(encoder.name) else {}
    return Weights(path, receipt.sha256, receipt.source, receipt.revision, receipt.tensors_sha256, kept)


def known_digest(encoder: Encoder, cache: Path, override: Path | None = None) -> str | None:
    """The digest that the features of an encoder's weights are stored by, as `resolve` gives it; nothing is fetched,
    converted or written. None where the weights are not in the cache yet."""
    if encoder.weights is None:
        return digest_facts(encoder)
    override = override or _folder_of(encoder)
    if override is None:
        there = find_cached(encoder, cache)
        return there[1].sha256 if there else None
    given = override.expanduser()
    if not (given.is_file() or given.is_dir()):
        return None
    if given.is_file() and given.suffix == ".safetensors":
        return _digest(given)
    path = _place(encoder, cache, _digest(given))
    return _digest(path) if path.is_file() else None


def find_cached(encoder: Encoder, cache: Path) -> tuple[Path, Receipt] | None:
    """The converted weights of an encoder's source and their receipt, if they are in the cache."""
    if encoder.weights is None:
        return None
    if (folder := _folder_of(encoder)) is not None:
        digest = _digest(folder)
        path = _place(encoder, cache, digest)
        return (path, _receipt_of_given(encoder, folder, digest, path)) if path.is_file() else None
    path = _place(encoder, cache, _key(encoder.weights))
    receipt = _receipt(path)
    return (path, receipt) if receipt and path.is_file() else None


def verify(encoder: Encoder, cache: Path) -> list[str]:
    """What is wrong with an encoder's weights in the cache, a line each; empty if all digests are as they were."""
    there = find_cached(encoder, cache)
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


def _folder_of(encoder: Encoder) -> Path | None:
    """The local folder that an encoder's weights are in, where they are in one."""
    url = encoder.weights.url if encoder.weights else ""
    return Path(url.removeprefix("folder:")) if url.startswith("folder:") else None


def _key(source: Source) -> str:
    """What tells a source's weights from others: their digest where it is published, else the address and the pin."""
    whole = len(source.sha256) == 64
    pins = [f"{each.url} {each.revision}" for each in (source, *(other for _, other in source.beside))]
    return source.sha256 if whole else hashlib.sha256("\n".join(pins).encode()).hexdigest()


def _receipt_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _receipt(path: Path) -> Receipt | None:
    place = _receipt_path(path)
    if not place.is_file():
        return None
    try:
        return Receipt(**json.loads(place.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{place} is damaged ({error}): delete it and run again") from error


def _compare(encoder: Encoder, source: Source, places: dict[str, Path], files: dict[str, str]) -> None:
    """Raise DataError if what was got is not what was published. places, files: where each file lies, and its sha256."""
    of_others = [(f"{folder}/{name}", known) for folder, other in source.beside for name, known in other.digests]
    for name, published in (*source.digests, *of_others):
        if name in places and not is_stated(places[name], published):
            if not source.url.startswith("hf:"):  # of a download of ours: the next call fetches it again
                os.replace(places[name], places[name].with_name(f"{places[name].name}.bad"))
            raise _failure(encoder, source, f"have {name} with sha256 {files[name]}, {published} is declared")
    tensors = [digest for name, digest in files.items() if not name.endswith(".json")]
    if source.sha256 and not any(is_published(source.sha256, digest) for digest in tensors):
        raise _failure(encoder, source, f"have sha256 {' '.join(tensors)}, {source.sha256} is declared")


def _compare_with_first(
    encoder: Encoder, made: Receipt, first: Receipt | None, path: Path, callbacks: DownloadCallbacks
) -> None:
    """Raise DataError if what was got now and what was got at first are not the same weights.

    They are the same if every file is, or if what is converted of them is, or if other files hold the same tensors and no
    configuration changed.
    """
    if first is None or made.files == first.files or made.sha256 == first.sha256:
        return
    names = sorted(
        name for name in {*made.files, *first.files} if made.files.get(name, "") != first.files.get(name, "")
    )
    same = made.tensors_sha256 and made.tensors_sha256 == first.tensors_sha256
    if same and not any(name.endswith(".json") for name in names):
        callbacks.say(
            f"{made.source} gives {' and '.join(names)} otherwise than at first; the tensors of {encoder.name} are the same"
        )
        return
    name = names[0]
    now, then = made.files.get(name, "none: it is gone"), first.files.get(name, "none: it is new")
    raise DataError(
        f"{made.source} gives {name} of encoder '{encoder.name}' with sha256 {now}, at first it had {then}; "
        f"if that is meant, delete {_receipt_path(path)} and run again"
    )


def _given(encoder: Encoder, cache: Path, given: Path, callbacks: DownloadCallbacks) -> Weights:
    """The weights that `--weights` names. What lacks a configuration is told not to have been compared with it."""
    if not given.exists():
        raise UsageError(f"--weights {given}: there is no such file or folder")
    if not (given.is_file() or given.is_dir()):
        raise UsageError(f"--weights {given}: it is a pipe, a socket or a device; name a file or a folder")
    lacking = [name for name in _configurations(encoder) if not (given / name).is_file()]
    if lacking:
        callbacks.say(
            f"--weights {given} comes without {listing(lacking)}: the names and shapes of its tensors are compared with "
            f"those of {encoder.name}, the sampling rate and the normalisation that it was trained with are not"
        )
    if given.is_file() and is_pointer(given):
        raise DataError(f"--weights {given}: {why_unreadable(given)}")
    if given.is_file() and given.suffix == ".safetensors":
        return Weights(given, _digest(given), f"file:{given.name}", "", compute_tensors_sha256(given))
    if encoder.convert is None:
        raise UsageError(f"--weights {given}: encoder '{encoder.name}' takes a .safetensors file")
    digest = _digest(given)
    path = _place(encoder, cache, digest)
    if not path.is_file():
        with _converted(encoder, given, path):
            pass
    return _loaded(encoder, path, _receipt_of_given(encoder, given, digest, path))


def _receipt_of_given(encoder: Encoder, given: Path, digest: str, path: Path) -> Receipt:
    """What would be the receipt of weights that were converted of a user's own folder or file. digest: of what was given."""
    files = sorted(given.glob("*")) if given.is_dir() and scheme_of(encoder.name) else []
    found = {each.name: _digest(each) for each in files if each.suffix in (".safetensors", ".bin")}
    return Receipt(f"file:{given.name}", digest, found, _digest(path), compute_tensors_sha256(path))


def _configurations(encoder: Encoder) -> list[str]:
    """The makers' files that say how a model is to be fed, which a source of weights names."""
    source = encoder.weights
    return [name for name in (*source.files, *source.optional) if name in CONFIGURATIONS] if source else []


def _place(encoder: Encoder, cache: Path, key: str) -> Path:
    return cache / "weights" / name_folder(encoder.name) / f"v{encoder.version}-{key[:16]}.safetensors"


@contextmanager
def _alone(got: _Downloaded) -> Iterator[Path]:
    """Where the files that count are, and no other that a conversion could take for one: the hub's cache may hold both
    kinds of file of a model, of which one was chosen and compared."""
    kinds = {"model.safetensors", "pytorch_model.bin"} - set(got.files)
    several = any("/" in name for name in got.files)
    if got.place.is_file() or not (several or any((got.place / name).is_file() for name in kinds)):
        yield got.place
        return
    with tempfile.TemporaryDirectory(prefix="marble-bench-weights-") as folder:
        for name, path in got.files.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).symlink_to(path.resolve())
        yield Path(folder)


@contextmanager
def _converted(encoder: Encoder, found: Path, path: Path) -> Iterator[Path]:
    """What is made of `found`, under a temporary name; at `path` once the block ends, if nothing was raised in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic_path(path) as temporary:
        if encoder.convert is None:
            shutil.copyfile(found, temporary)
        else:
            _convert(encoder, found, temporary)
            if not temporary.is_file():
                raise UsageError(
                    f"encoder '{encoder.name}': convert wrote no file: write the tensors to its second argument, as with "
                    "safetensors.torch.save_file(tensors, target)"
                )
        yield temporary


def _convert(encoder: Encoder, found: Path, path: Path) -> None:
    """Call an encoder's `convert`. Raises DataError naming the file where one is a pointer, damaged or cut short."""
    from safetensors import SafetensorError

    assert encoder.convert is not None
    try:
        encoder.convert(found, path)
    except (DataError, SafetensorError) as error:
        why = why_unreadable(found) or str(error)
        raise DataError(f"the weights of encoder '{encoder.name}' cannot be converted: {why}") from error


def _get_all(
    encoder: Encoder, source: Source, folder: Path, offline: bool, callbacks: DownloadCallbacks
) -> _Downloaded:
    """What the source hands out, and what others beside it do, by their folders' names."""
    got = _get(encoder, source, folder, offline, callbacks)
    for name, other in source.beside:
        more = _get(encoder, other, folder, offline, callbacks)
        got.files.update({f"{name}/{each}": file for each, file in more.files.items()})
    return got


def _get(encoder: Encoder, source: Source, folder: Path, offline: bool, callbacks: DownloadCallbacks) -> _Downloaded:
    """What the source hands out, from the cache if it is there."""
    kind = source.url.partition(":")[0]
    if source.status == "dead":
        raise _failure(encoder, source, "cannot be fetched from anywhere")
    if kind == "hf":
        return _from_hub(encoder, source, offline, callbacks)
    if kind not in ("pypi", "https", "http"):
        raise UsageError(
            f"encoder '{encoder.name}' names {source.url}: weights are downloaded from hf:, https: or pypi:"
        )
    check_protected(source)
    files = _downloads(source, folder)
    if not all(file.is_file() for file in files.values()):
        if offline:
            raise _failure(encoder, source, "are not in the cache and nothing is fetched offline")
        callbacks.say(f"fetching the weights of {encoder.name} from {source.url}")
    if kind == "pypi":
        _from_package(encoder, source, next(iter(files.values())))
    else:
        _from_web(encoder, source, files, callbacks)
    first = next(iter(files.values()))
    return _Downloaded(first.parent if source.files else first, source.revision, files)


def _downloads(source: Source, folder: Path) -> dict[str, Path]:
    """Where what is downloaded is kept, by name; nothing for the hub. What is of the web keeps its name."""
    key = _key(source)
    if source.url.startswith("pypi:"):
        return {key: folder / key}
    if source.url.startswith("hf:"):
        return {}
    names = source.files or (name_of(source) or "file",)
    return {name: folder / key[:16] / name for name in names}


def _from_hub(encoder: Encoder, source: Source, offline: bool, callbacks: DownloadCallbacks) -> _Downloaded:
    callbacks.say(f"fetching the weights of {encoder.name} from {source.url}")
    try:
        folder, commit, chosen = from_hub(source, offline)
    except Gated as error:
        raise _failure(encoder, source, f"could not be fetched: {error}", again="or") from error
    except DataError as error:
        raise _failure(encoder, source, f"could not be fetched ({error})") from error
    return _Downloaded(folder, commit, {name: folder / name for name in sorted(chosen)})


def _from_web(encoder: Encoder, source: Source, files: dict[str, Path], callbacks: DownloadCallbacks) -> None:
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
                download(one, file, scratch, callbacks)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic_path(path) as temporary, tempfile.TemporaryDirectory(prefix=".pip-", dir=path.parent) as scratch:
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


def _failure(encoder: Encoder, source: Source, what: str, again: str = "run again with a connection, or") -> DataError:
    return DataError(f"the weights of encoder '{encoder.name}' ({source.url}) {what}; {_by_hand(source, again)}")


def _by_hand(source: Source, again: str) -> str:
    """What to get from where and how to give it. again: what may do besides."""
    kind, _, place = source.url.partition(":")
    files = " and ".join(_wanted(entry, source) for entry in source.files or (source.file,))
    files += "".join(f", {name} too if it is there," for name in source.optional)
    files += f" and the shards that it names for {source.tensors}*" if source.tensors else ""
    beside = "".join(f", and beside it in a folder {name} {_by_name(other)}" for name, other in source.beside)
    if source.status == "dead":
        return f"{source.note}; give yours by --weights PATH"
    if kind == "hf":
        where = f"{files} of {place} on the hub{_at(source)}{beside}"
        return f"{again} get {where} and give their folder by --weights PATH"
    if source.files:
        return f"{again} get {files} from {source.url} and give their folder by --weights PATH"
    what = f"the source archive of {place} from the package index" if kind == "pypi" else source.url
    return f"{again} get {what} elsewhere and give that file by --weights PATH"


def _by_name(source: Source) -> str:
    """The files of a hub's model, with its name and commit."""
    names = (*(_wanted(entry, source) for entry in source.files), *source.optional)
    return f"{' and '.join(names)} of {source.url.removeprefix('hf:')}{_at(source)}"


def _at(source: Source) -> str:
    return f" at revision {source.revision}" if source.revision else ""


def _wanted(entry: str, source: Source) -> str:
    """A file by its name; of several kinds, the one whose digest is known, else all that may be there."""
    known = [name for name in entry.split("|") if name in dict(source.digests)]
    return known[0] if known else entry.replace("|", " or ")


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
