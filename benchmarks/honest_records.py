"""Makes honest records of many kinds and says whether any is spoken against: every line of this is a false alarm.

    python benchmarks/honest_records.py --count 100 --reproduce 10

Runs differ in task (shipped and somebody's own), corpus (miniatures, a whole one, one with files missing), encoder
(somebody's own, of two sets of weights, the suite's without weights, brought features), protocol, layers, seeds, limits,
few-shot curves, controls and perturbations. All records are checked together, alone and with their corpora at hand, and some
are run again. Exit code 1 if one is spoken against.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

HARMLESS = ("ok", "below floor", "not recomputed")  # a weak model may score less than a constant answer
OWN = f"{TESTS / 'plugins/toy_encoder.py'}:TOY"
QUICK = ("--protocol", "linear")
# what a run is asked beside its task and encoder; the first are the quickest
VARIANTS: tuple[tuple[str, ...], ...] = (
    QUICK,
    (),
    ("--seeds", "1"),
    (*QUICK, "--limit", "8"),
    ("--layers", "0,sum", "--seeds", "4"),  # a file of its own: more seeds alone replace the full run
    (*QUICK, "--layers", "1"),
    ("--layers", "sum"),
    (*QUICK, "--control", "shuffle"),
    ("--seeds", "2", "--limit", "9"),
    (*QUICK, "--perturb", "gain,noise"),
    ("--control", "shuffle", "--seeds", "1"),
    (*QUICK, "--few-shot"),
    ("--protocol", "marble-bidirectional",),
    (*QUICK, "--layers", "0-1", "--seeds", "2"),
)  # fmt: skip


def draw_plans(world: Any, partial: Path) -> Iterator[tuple[str, list[str]]]:
    """Arguments of runs without end that differ, each with the name of its corpus."""
    hum = ["--model", f"{TESTS / 'plugins/hum_encoder.py'}:HUM"]
    models = [
        [*hum, "--weights", str(world.weights("honest"))],
        [*hum, "--weights", str(world.weights("better"))],
        ["--model", OWN],
    ]
    own_task, toy = ["--task", str(world.named.path)], ["--task", str(TESTS / "plugins/toy_task.py"), "--mini"]
    places = [
        ("hums", [*own_task, "--data-dir", str(world.root)], models),
        ("hums", [*own_task, "--data-dir", str(partial), "--allow-missing"], models),
        ("hums", [*own_task, "--mini"], models[:1]),
        ("toy", toy, models),
        ("gtzan", ["--task", "gtzan", "--mini"], [models[2], ["--model", "logmel"]]),
        ("emo", ["--task", "emo", "--mini"], [models[2], ["--model", "mfcc"]]),
        ("gs", ["--task", "gs", "--mini"], [models[2], ["--model", "chroma"]]),
    ]
    for at, variant in enumerate(VARIANTS):
        for corpus, place, able in places if at < 4 else places[:4]:  # shipped miniatures take the most time
            for model in able if variant == QUICK else able[:2]:
                if "--few-shot" not in variant or corpus in ("hums", "toy"):
                    yield corpus, [*place, *model, *variant]


def make(count: int, folder: Path) -> tuple[list[Path], dict[str, Path]]:
    """Records of `count` honest runs, and the corpora's folders that they were made on."""
    import forgers
    import numpy as np

    from marble_bench.core import plugins
    from marble_bench.data import corpus
    from marble_bench.files.atomic import walk

    world = forgers.build(folder / "world", plugins.find_task(str(TESTS / "plugins/registered/hums.py")))
    partial, features = folder / "partial", folder / "features"
    partial.mkdir()
    for path in walk(world.root):
        if path.stem not in ("test05", "train07"):
            (partial / path.relative_to(world.root)).parent.mkdir(exist_ok=True)
            (partial / path.relative_to(world.root)).write_bytes(path.read_bytes())
    features.mkdir()
    random = np.random.default_rng(0)
    for clip in world.clips():
        np.save(features / f"{clip.id}.npy", random.normal(size=(1, 3, 8)).astype(np.float32))
    brought = ["--task", str(world.named.path), "--data-dir", str(world.root), "--features", str(features)]
    asked = itertools.chain([("hums", [*brought, *variant]) for variant in VARIANTS[:2]], draw_plans(world, partial))
    places: dict[str, Path] = {}
    used = set()
    for name, arguments in itertools.islice(asked, count):
        started = time.perf_counter()
        run_bench(["run", *arguments, "--results-dir", str(folder / "results"), "--device", "cpu", "--quiet"])
        used.add(name)
        print(
            f"{time.perf_counter() - started:5.1f} s  {' '.join(map(_shorten, arguments))}", file=sys.stderr, flush=True
        )
    for name in sorted(used & {"gtzan", "emo", "gs"}):
        named = plugins.find_task(name)
        places[name] = corpus.ensure_mini(named.task.corpus, Path(os.environ["BENCH_CACHE"]))
    return sorted((folder / "results").rglob("*.json")), places


def _shorten(argument: str) -> str:
    return Path(argument).name


def run_bench(arguments: list[str]) -> str:
    """What `run_bench` prints. Raises SystemExit with its words where it fails."""
    import contextlib
    import io

    from marble_bench.cli.app import main

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["bench", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        if ended.code and arguments[0] == "run":
            raise SystemExit(f"{' '.join(arguments)} ended with {ended.code}: {err.getvalue()}") from None
    finally:
        sys.argv = before
    return out.getvalue()


def find_alarms(paths: list[Path], places: dict[str, Path], folder: Path) -> list[str]:
    """What is said against the records: all alone, then those of each corpus with it at hand."""
    import forgers

    from marble_bench.core.plugins import find_task
    from marble_bench.records import validation
    from marble_bench.records.corpus_facts import Corpora

    own = {"hums": find_task(str(forgers.PLUGINS / "registered/hums.py"))}
    found = [("alone", each) for each in validation.check(paths)]
    facts = {path: json.loads(path.read_text()) for path in paths}
    whole = [path for path, record in facts.items() if record["task"]["name"] == "hums" and not record["data"]["mini"]]
    found += [("corpus", each) for each in validation.check(whole, Corpora(folder / "world/hums", own["hums"]))]
    for name, place in places.items():
        of_it = [path for path, record in facts.items() if record["task"]["name"] == name]
        found += [("corpus", each) for each in validation.check(of_it, Corpora(place))]
    kinds = collections.Counter((how, each.kind) for how, each in found)
    print(", ".join(f"{how} {kind}: {count}" for (how, kind), count in sorted(kinds.items())))
    return [f"{how}: {each.path}: {each.kind}: {each.words}" for how, each in found if each.kind not in HARMLESS]


def rerun(paths: list[Path], folder: Path) -> list[str]:
    """What `bench reproduce` finds against some of the records."""
    found = []
    for path in paths:
        record = json.loads(path.read_text())
        model, task, mini = record["model"], record["task"]["name"], record["data"]["mini"]
        arguments = ["reproduce", str(path), "--json", "--quiet"]
        if model["name"] in ("toy", "hum"):
            file = TESTS / f"plugins/{'toy' if model['name'] == 'toy' else 'hum'}_encoder.py"
            arguments += ["--model", f"{file}:{model['name'].upper()}"]
        if model["name"] == "hum":
            arguments += ["--weights", str(folder / "world" / model["source"].removeprefix("file:"))]
        files = {"hums": TESTS / "plugins/registered/hums.py", "toy-task": TESTS / "plugins/toy_task.py"}
        arguments += ["--task", str(files[task])] if task in files else []
        if not mini:
            arguments += ["--data-dir", str(folder / ("partial" if record["data"]["missing"] else "world/hums"))]
        report = json.loads(run_bench(arguments))
        found += [f"{path}: {each['kind']}: {each['words']}" for each in report["differing"]]
    return found


def main() -> int:
    """See the module."""
    asked = argparse.ArgumentParser(description="Make honest records and look for false alarms.")
    asked.add_argument("--count", type=int, default=100)
    asked.add_argument("--reproduce", type=int, default=10, help="how many of them are run again")
    asked.add_argument("--cache-dir", type=Path, help="else a new one, in which miniatures are made first")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "world").mkdir()
        os.environ["BENCH_CACHE"] = str(given.cache_dir or folder / "cache")
        paths, places = make(given.count, folder)
        found = find_alarms(paths, places, folder)
        again = [path for path in paths if not json.loads(path.read_text())["model"]["source"].startswith("features:")]
        sample = again[:: max(1, len(again) // given.reproduce)][: given.reproduce] if given.reproduce else []
        found += rerun(sample, folder)
    print(f"{len(paths)} honest records, {len(sample)} of them run again: {len(found)} false alarms")
    print(*found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
