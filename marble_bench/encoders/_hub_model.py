"""One audio model of transformers: from the files of its folder to an encoder, and from those to its `encode`.

Read are config.json, the feature extractor's file and tensors. Tensors are read as `_hub` does it, so that nothing is
unpickled but them, and handed to transformers' own class, which knows what older files call them. Code that a repository
brings is never run: a `model_type` that transformers does not have is refused.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode
from marble_bench.encoders import _hub
from marble_bench.encoders._hub_families import FAMILIES, Facts, Family
from marble_bench.encoders._masks import encode_by_length
from marble_bench.errors import DataError, listing
from marble_bench.files.download import INDEX

if TYPE_CHECKING:
    import torch

PROCESSOR_FILE = "processor_config.json"  # newer folders have the feature extractor in it
# What of a configuration says nothing of the model: where a copy is from, and how somebody ran it.
VOLATILE = (
    "_name_or_path", "transformers_version", "architectures", "auto_map", "torch_dtype", "dtype", "attn_implementation",
    "_attn_implementation", "_attn_implementation_internal", "output_hidden_states", "output_attentions", "return_dict",
    "torchscript",
)  # fmt: skip
SPARE = 1 << 20  # parameters that a file may lack, so that those that are missing are told by name
MOST_LAYERS, MOST = 1024, 10**7  # of numbers in a configuration: no published model has larger ones
MOST_OF = {  # of a spectrogram: its filters are one table of bands and bins
    **dict.fromkeys(("depths", "feature_size", "num_mel_bins"), MOST_LAYERS),
    **dict.fromkeys(("n_fft", "win_length", "fft_window_size", "chunk_length", "max_length_s"), 1 << 16),
}
MAY_LACK = ("masked_spec_embed",)  # takes part in training only
WRONG = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Files:
    """What a folder's configurations say. config: config.json. front: the feature extractor's file; empty without one."""

    config: dict[str, Any]
    front: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Files:
        """The configurations of a folder. Raises DataError where config.json is missing or one cannot be read."""
        if not (folder / "config.json").is_file():
            raise DataError("it has no config.json: it is no model in the form of transformers")
        config, front = _hub.read_json(folder / "config.json"), {}
        if (folder / PROCESSOR_FILE).is_file():
            whole = _hub.read_json(folder / PROCESSOR_FILE)
            front = whole.get("feature_extractor", whole.get("audio_processor", {}))
        if not front and (folder / _hub.PREPROCESSOR_FILE).is_file():
            front = _hub.read_json(folder / _hub.PREPROCESSOR_FILE)
        if not isinstance(front, dict):
            raise DataError(f"{PROCESSOR_FILE} holds {type(front).__name__} in place of a feature extractor's facts")
        return cls(config, front)

    def constant(self) -> dict[str, Any]:
        """What is the same in all copies of a model, for the file that an encoder loads."""
        return {"config": _constant(self.config), _hub.PREPROCESSOR: _constant(self.front)}


def _constant(value: Any) -> Any:
    """A configuration without what is volatile, in all of its parts."""
    if isinstance(value, dict):
        return {name: _constant(each) for name, each in value.items() if name not in VOLATILE}
    return [_constant(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Known:
    """A model that is run: its family, transformers' configuration of its audio side, its feature extractor, its facts."""

    family: Family
    config: Any
    extractor: Any
    facts: Facts


def known(files: Files) -> Known:
    """The model that configurations describe. Raises DataError with the reason where it is not run."""
    try:
        family = _family(files.config)
        config = _config(files.config, family)
        extractor = _extractor(files.front, family)
        return Known(family, config, extractor, family.describe(config, extractor))
    except WRONG as error:
        raise DataError(f"its configuration has values of which no model can be made: {error!r}") from error


def _family(config: Mapping[str, Any]) -> Family:
    """The row of a `model_type`. Raises DataError that says why there is none."""
    import transformers
    from transformers.models.auto import configuration_auto, feature_extraction_auto

    every: Any = configuration_auto
    of_audio: Any = feature_extraction_auto
    kind = str(config.get("model_type"))
    if kind in FAMILIES:
        return FAMILIES[kind]
    told = f"model_type {ascii(kind)[:60]}"
    if kind not in every.CONFIG_MAPPING_NAMES:
        if config.get("auto_map"):
            raise DataError(
                f"it needs remote code ({told}, auto_map in config.json), which is never run here; write an encoder file "
                "that calls its makers' package (docs/encoders.md)"
            )
        raise DataError(
            f"transformers {transformers.__version__} has no {told}: a newer transformers may, or it is no model in its form"
        )
    if kind not in of_audio.FEATURE_EXTRACTOR_MAPPING_NAMES:
        raise DataError(f"it takes no audio ({told}); audio models that are run: {listing(sorted(FAMILIES), 40)}")
    raise DataError(
        f"its hidden states are not read here ({told}); audio models that are run: {listing(sorted(FAMILIES), 40)}"
    )


def _config(whole: Mapping[str, Any], family: Family) -> Any:
    """transformers' configuration of the audio side, with its defaults. Raises DataError for one that makes no model."""
    from huggingface_hub.errors import StrictDataclassError

    if whole.get("quantization_config"):
        raise DataError(
            "its tensors are quantised (quantization_config in config.json): give the model in full precision"
        )
    part: Any = whole
    for key in family.audio:
        part = part.get(key) if isinstance(part, dict) else None
        if not isinstance(part, dict):
            raise DataError(f"config.json has no {'.'.join(family.audio)}, the configuration of its audio side")
    _check_sizes(part, "config.json")
    kind = _class(family)
    try:
        config = kind.config_class.from_dict(_constant(part))
    except (*WRONG, StrictDataclassError) as error:
        said = str(error).strip().splitlines()
        raise DataError(f"config.json makes no {family.name}: {' '.join(said)[:200]}") from error
    config.apply_spec_augment = False
    return config


def _check_sizes(value: Any, file: str, name: str = "") -> None:
    """Raise DataError for a number that no published model has: building it would take all memory or time."""
    if isinstance(value, dict):
        for key, each in value.items():
            _check_sizes(each, file, str(key))
    elif isinstance(value, list):
        for each in value[: MOST_LAYERS + 1]:
            _check_sizes(each, file, name)
    most = MOST_LAYERS if "layers" in name else MOST_OF.get(name, MOST)
    if isinstance(value, int | float) and not -MOST <= value <= most:
        raise DataError(f"{file} has {name} {value}; at most {most} is built")
    if isinstance(value, list) and len(value) > MOST_LAYERS and not name.startswith("suppress"):
        raise DataError(f"{file} has {name} of {len(value)} values; at most {MOST_LAYERS} are read")


def _extractor(front: Mapping[str, Any], family: Family) -> Any:
    """The feature extractor, transformers' own; the file's facts alone where the family needs none."""
    import transformers

    if not family.extractor:
        return front
    if not front:
        raise DataError(
            f"it has no {_hub.PREPROCESSOR_FILE}, so that its sampling rate and how sound goes into it are not known: get "
            f"that file, or write it with transformers' {family.extractor}(...).save_pretrained"
        )
    told = front.get("feature_extractor_type", family.extractor)
    if told != family.extractor:
        raise DataError(
            f"its feature extractor is {ascii(told)[:60]}, and a {family.name} is fed by {family.extractor} here"
        )
    if not (isinstance(rate := front.get("sampling_rate"), int) and rate > 0):
        raise DataError(f"{_hub.PREPROCESSOR_FILE} has sampling_rate {rate}: give samples per second")
    _check_sizes(dict(front), _hub.PREPROCESSOR_FILE)
    try:
        with warnings.catch_warnings():  # of empty bands, which some published extractors have
            warnings.simplefilter("ignore")
            extractor = getattr(transformers, family.extractor).from_dict(dict(front))
    except WRONG as error:
        raise DataError(f"{_hub.PREPROCESSOR_FILE} makes no {family.extractor}: {str(error)[:200]}") from error
    if getattr(extractor, "dither", 0.0):
        raise DataError("its feature extractor adds noise (dither), so that no two features would be the same")
    return extractor


def count_parameters(model: Known, whole: bool = False) -> int:
    """The numbers that are trained in the modules that compute; whole: in all."""
    with _hub.empty():
        made = _class(model.family)(model.config)
    own = dict(made.named_children())
    parts = [own[part] for part in model.family.parts if part in own and not whole] or [made]
    return sum(each.numel() for part in parts for each in part.parameters())


def _class(family: Family) -> Any:
    """transformers' class of a family. Raises DataError where this version has none."""
    import transformers

    folder, _, name = family.model.rpartition(".")
    try:
        place = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}") if folder else transformers
        return getattr(place, name)
    except (AttributeError, ImportError) as error:
        raise DataError(f"transformers {transformers.__version__} has no {name}: a newer one does") from error


def convert(name: str, expected: Facts, found: Path, path: Path) -> None:
    """Write a folder's configurations and the tensors that its model needs as one safetensors file.

    name, expected: class and facts that the encoder declares, which a folder given by `--weights` has to agree with.
    """
    if not found.is_dir():
        raise DataError(
            f"{found} is a file; give the folder with config.json, the feature extractor's file and tensors"
        )
    files = Files.read(found)
    model = known(files)
    if model.family.name != name:
        raise DataError(f"this is another model: its configuration is of a {model.family.name}, declared is a {name}")
    if model.facts != expected:
        raise DataError("this is another model: its configuration gives other layers, another rate or another input")
    tensors = _tensors(found, model.family)
    _hub.save(files.constant(), _used(model, tensors), path)


def _tensors(folder: Path, family: Family) -> _hub.Tensors:
    """The tensors of a folder, of the audio side alone where a file holds more."""
    named: list[str] = []
    if not any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        named = list(_hub.read_json(folder / INDEX).get("weight_map", {})) if (folder / INDEX).is_file() else []
    for prefix in family.prefixes if named else ():
        if prefix and any(name.startswith(prefix) for name in named):
            return _hub.read(folder, prefix)[1]
    tensors = _hub.read(folder)[1]
    for prefix in family.prefixes:
        if prefix and any(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    return tensors


def _used(model: Known, tensors: _hub.Tensors) -> _hub.Tensors:
    """The tensors that a model takes. Raises DataError for missing ones, other shapes, and what is left of its modules."""
    described, held = count_parameters(model, whole=True), sum(each.numel() for each in tensors.values())
    if described > 1.1 * held + SPARE:
        raise DataError(f"config.json is of a model of {described:,} parameters, the tensors hold {held:,}")
    try:
        made, report = _filled(model, tensors)
    except WRONG as error:
        raise DataError(f"the tensors make no {model.family.name}: {str(error)[:200]}") from error
    problems = []
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(MAY_LACK))
    if missing:
        problems.append(f"{len(missing)} tensors are missing: {listing(missing, 3)}")
    if report["mismatched_keys"]:
        problems.append(f"tensors of other shapes: {listing(sorted(map(str, report['mismatched_keys'])), 3)}")
    unexpected, own = set(report["unexpected_keys"]), {name for name, _ in made.named_children()}
    if left := sorted(name for name in unexpected if name.split(".")[0] in own):
        problems.append(f"{len(left)} tensors are not the model's: {listing(left, 3)}")
    if problems:
        raise DataError(f"the tensors are not those of the {model.family.name} of config.json: {'; '.join(problems)}")
    return {name: each for name, each in tensors.items() if name not in unexpected}


def _filled(model: Known, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, dict[str, Any]]:
    """transformers' model with tensors under any names that it knows, in float32, and what it says of them."""
    import torch

    with _quiet(), torch.random.fork_rng(devices=[]):
        made, report = _class(model.family).from_pretrained(
            None,
            config=model.config,
            state_dict=dict(tensors),
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
        )
    return made, report


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers shows no bars and reports nothing: what is wrong is told in words of this suite."""
    from transformers.utils import logging as said

    logging: Any = said  # its functions carry no types
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load(weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights. A window's `valid` samples are encoded alone, as if it had no more."""
    assert weights is not None
    held, tensors = _hub.load(weights)
    if held is None or "config" not in held:
        raise DataError(f"{weights} holds tensors without their configuration: give the folder that they are from")
    model = known(Files(held["config"], held[_hub.PREPROCESSOR]))
    made, report = _filled(model, tensors)
    if missing := [name for name in report["missing_keys"] if not name.endswith(MAY_LACK)]:
        raise DataError(f"{weights} was made with another transformers and lacks {listing(missing, 3)}: delete it")
    encode = model.family.encoding(_hub.frozen(made, device), model.extractor)
    return encode_by_length(encode, model.facts.samples)
