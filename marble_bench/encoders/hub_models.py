"""Any audio model of transformers by its name on the hub, or in a local folder: `hf:ORG/NAME[@REVISION]`, `hf:FOLDER`.

The configuration is read from there, the model is run by transformers' own class (`_hub_families` has the table), and no
code of a repository is run. A name on the hub is resolved to a commit once for a command; the commit is in the record. An
id whose model this suite has under a name of its own is that encoder, if it is bare or names the pinned revision.
"""

from __future__ import annotations

import difflib
import json
import re
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from marble_bench import Encoder, Source
from marble_bench.core import plugins
from marble_bench.core.encoder import NOT_STATED
from marble_bench.core.schemes import HUB_ID, SCHEMES
from marble_bench.encoders import _hub
from marble_bench.errors import DataError, UsageError
from marble_bench.files.download import INDEX, cached_ids, from_hub
from marble_bench.files.names import RULE, is_name, is_text

TENSORS = f"model.safetensors|{INDEX}|pytorch_model.bin"
CARD = "README.md"
LARGEST_CARD = 1 << 20  # bytes
WAYS = "check the connection, set HF_TOKEN if the model is gated or private, or give a folder of it as hf:FOLDER"
SHORT = 12  # hexadecimal digits of a commit that a name holds


def find(place: str, offline: bool) -> Encoder:
    """The encoder of a hub id, with `@REVISION` or without, or of a folder.

    offline: ask nobody, take what the hub's cache has. Raises UsageError for what is neither, and DataError with the reason
    where the model is not run, not there, or not handed out.
    """
    folder = Path(place).expanduser()
    if place and folder.is_dir():
        return _of_folder(folder)
    name, at, revision = place.partition("@")
    if not HUB_ID.fullmatch(name) or ".." in name or (at and not revision):
        raise UsageError(f"no model 'hf:{place}': give {SCHEMES['hf'].forms}, an existing folder")
    ours = _ours(name)
    pin = ours.weights.revision if ours and ours.weights else ""
    if ours and (not revision or (len(revision) >= 7 and pin.startswith(revision))):
        return ours
    found = _of_hub(name, revision, offline, _instead(ours, revision))
    if not revision:
        return found
    assert found.weights is not None
    return _named(found, f"hf:{name}@{found.weights.revision[:SHORT]}")


def find_recorded(place: str, revision: str, offline: bool) -> Encoder:
    """The encoder of a name in a record, at the record's commit. No path is opened."""
    name, _, _ = place.partition("@")
    if not HUB_ID.fullmatch(name) or ".." in name:
        raise UsageError(f"'hf:{place}' is the folder of another user: give yours as --model hf:FOLDER")
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise UsageError(f"the record has no commit of 'hf:{place}': give the model as --model hf:{name}@REVISION")
    return _named(_of_hub(name, revision, offline), f"hf:{place}")


def _named(encoder: Encoder, name: str) -> Encoder:
    if not is_name(name):
        raise UsageError(f"'{name}' cannot name a model in a record: give {RULE}")
    return replace(encoder, name=name)


def _ours(name: str) -> Encoder | None:
    """The encoder of this suite whose weights a hub id names. Raises UsageError for one that differs in case alone."""
    for hub, encoder in _public():  # of several from one repository, the first
        if hub == name:
            return encoder
        if hub.lower() == name.lower():
            raise UsageError(f"no model '{name}' on the hub; did you mean '{hub}', which is '{encoder.name}' here?")
    return None


def _public() -> list[tuple[str, Encoder]]:
    """The hub ids of this suite's encoders, and the encoders."""
    every = [each for each in plugins.find_encoders().values() if each.weights and each.weights.url.startswith("hf:")]
    return [(each.weights.url.removeprefix("hf:"), each) for each in every if each.weights]


def _instead(ours: Encoder | None, revision: str) -> str:
    """What is said of an id that has an encoder here, at another revision than that one's."""
    if ours is None or ours.weights is None:
        return ""
    pin = ours.weights.revision[:SHORT]
    where = f"at revision {pin}" if pin else "without a pinned revision"
    return f"'{ours.name}' is this model {where}, and {revision} is another encoder: "


def _of_hub(name: str, revision: str, offline: bool, instead: str = "") -> Encoder:
    """The encoder of a hub id at a revision, `main` where none is given. instead: said before whatever is wrong."""
    asked = f"hf:{name}" + (f"@{revision}" if revision else "")
    optional = (_hub.PREPROCESSOR_FILE, "processor_config.json", CARD)
    source = Source(url=f"hf:{name}", files=("config.json",), optional=optional, revision=revision)
    try:
        folder, commit, _ = from_hub(source, offline)
    except DataError as error:
        raise type(error)(f"{instead}model '{asked}' cannot be read: {error}{_way_on(name, asked, offline)}") from error
    weights = Source(url=f"hf:{name}", files=("config.json", TENSORS), optional=optional[:2], revision=commit)
    return _encoder(f"hf:{name}", asked, folder, weights, instead)


def _way_on(name: str, asked: str, offline: bool) -> str:
    """What to do about a model that cannot be read: the closest id of this suite and of the hub's cache, blind to case."""
    if offline:
        return f"; with a connection, bench models get {asked} puts it into the cache"
    if asked == f"hf:{name}" and name in cached_ids():
        return "; the hub's cache has this model, at the commit that was read last: --offline takes that one"
    spelled = {each.lower(): each for each in (*(hub for hub, _ in _public()), *cached_ids())}
    close = difflib.get_close_matches(name.lower(), spelled, n=1)
    hint = f"; did you mean '{spelled[close[0]]}'?" if close else ""
    return f"{hint or ';'} {WAYS}"


def _of_folder(folder: Path) -> Encoder:
    name = f"hf:{folder.resolve().name}"
    if not is_name(name):
        raise UsageError(
            f"{folder}: a record names the model '{name}', which cannot be: rename the folder; give {RULE}"
        )
    return _encoder(name, f"hf:{folder}", folder, Source(url=f"folder:{folder.resolve()}"), "")


def _encoder(name: str, asked: str, folder: Path, weights: Source, instead: str) -> Encoder:
    """The encoder of a folder's configurations."""
    from marble_bench.encoders import _hub_model

    try:
        model = _hub_model.known(_hub_model.Files.read(folder))
        parameters = _hub_model.count_parameters(model)
    except DataError as error:
        way = "" if weights.files else _mend_folder(folder)
        raise DataError(f"{instead}model '{asked}' is not run: {error}{way}") from error
    facts, (license, trained) = model.facts, _card(folder / CARD)
    where = f"the hub, {weights.url.removeprefix('hf:')}" if weights.files else "a local folder"
    return Encoder(
        name=name,
        description=f"{instead}{model.family.name} of transformers, from {where}",
        sample_rate_hz=facts.sample_rate_hz,
        layers=facts.layers,
        load=_hub_model.load,
        license=license,
        citation=NOT_STATED,
        min_s=facts.samples / facts.sample_rate_hz,
        stretch_s=facts.stretch_s,
        normalize=facts.normalize,
        parameters=parameters,
        training_data=trained,
        masks=True,
        weights=replace(weights, tensors="|".join(model.family.prefixes)),
        convert=partial(_hub_model.convert, model.family.name, facts),
    )


def _mend_folder(folder: Path) -> str:
    """What to do about a folder whose config.json is missing or cannot be read; empty for one that is JSON."""
    file = folder / "config.json"
    if not file.is_file():
        below = sorted(each.parent for each in folder.glob("*/config.json"))
        return (
            f"; give hf:{below[0]}"
            if below
            else "; give the folder that save_pretrained wrote, or a download of the hub"
        )
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return "; download that file again, or write it anew with save_pretrained"
    return ""


def _card(path: Path) -> tuple[str, tuple[str, ...]]:
    """The licence and the data sets that the front matter of a model's card names, `not stated` where it does not."""
    from huggingface_hub import metadata_load

    facts: Any = {}
    if path.is_file() and path.stat().st_size <= LARGEST_CARD:
        with suppress(Exception):  # of whatever kind its parser raises: a card that cannot be read states nothing
            facts = metadata_load(path) or {}
    license = facts.get("license_name") if facts.get("license") == "other" else facts.get("license")
    sets = facts.get("datasets")
    names = [each for each in (sets if isinstance(sets, list) else [sets]) if isinstance(each, str)]
    stated = isinstance(license, str) and license and is_text(license)
    return (license if stated else NOT_STATED), tuple(each for each in names if each and is_text(each))[:100] or (
        NOT_STATED,
    )
