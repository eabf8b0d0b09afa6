"""Mutated records and tables: does any come through in silence, or end a command?

    python benchmarks/fuzz_records.py --count 500 --seed 0

Honest records are copied beside each other, one of them is mutated (its JSON, its bytes, its grid or its predictions; most
with every digest made again, as a careful forger does), and goes through check, list, board, page, comparison, reproduction
and figure. The outcomes:

- told: a verdict takes the record off the board
- warned: it is valid, with a warning
- cannot be told: a plausible value that no fact at hand contradicts (`CANNOT_BE_TOLD`; counted by name)
- same: the mutation left the record as it was
- bad: an exception that is none of ours, an honest record that fell, a control character in an output, more than 20 s or
  1 GB, or a change that came through in silence and is none of a plausible value

Ends with 1 if anything is bad.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

FILE_S, MEMORY_MB = 20.0, 1000
# What neither the suite nor the tables beside a record can contradict. The corpus and the encoder at hand tell the rest.
CANNOT_BE_TOLD = re.compile(
    r"(suite\.(git|dirty)|cost|environment)\b"
    r"|data\.(fingerprint|marks|clips\.train)"
    r"|model\.(source|revision|weights_sha256)"
    r"|scores\.\w+\.(ci95|trivial|std)"  # std: where it is left out, as older records do
    r"|grid\.(valid|best_epoch|history|diverged)"  # of a probe that was not chosen
    r"|predictions\.(outputs|truth|clip|group)"  # where the answer stays right or wrong; of one seed alone
)
STRANGE = (
    None,
    True,
    -1,
    0,
    1e308,
    2**60,
    "",
    "x" * 10_000,
    "\x1b[31m",
    "a[/b]",
    "../x.py",
    [],
    {},
    [[[]]],
    "1",
    float("inf"),
)


def iterate_leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a record that hold no others."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not inside:
        yield place
        return
    for key, each in inside:
        yield from iterate_leaves(each, (*place, key))


def _find_parent(record: Any, place: Sequence[Any]) -> Any:
    for key in place[:-1]:
        record = record[key]
    return record


def mutate_json(record: dict[str, Any], draw: random.Random) -> tuple[str, str]:
    """Change a record; the kind of change and the place."""
    place = draw.choice([each for each in iterate_leaves(record) if each and each[0] != "digests"])
    parent, key, name = _find_parent(record, place), place[-1], ".".join(map(str, place))
    how = draw.choice(("value", "value", "type", "removed", "added"))
    if how == "removed":
        del parent[key]
    elif how == "added":
        if isinstance(parent, dict):
            parent[draw.choice(("extra", "\x1b", "__proto__", "a" * 200))] = draw.choice(STRANGE)
        else:
            parent.insert(draw.randrange(len(parent) + 1), draw.choice(STRANGE))
    elif how == "type":
        parent[key] = draw.choice(STRANGE)
    else:
        parent[key] = _draw_plausible(parent[key], draw)
    return how, name


def _draw_plausible(value: Any, draw: random.Random) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return max(0, value + draw.choice((-1, 1)))
    if isinstance(value, float):
        return value * draw.choice((0.9, 1.05))
    if isinstance(value, str) and re.fullmatch("(sha256:)?[0-9a-f]{40,}", value):
        return value[:-1] + draw.choice([each for each in "0123456789abcdef" if each != value[-1]])
    return f"{value}x" if isinstance(value, str) else value


def mutate_table(frame: Any, kind: str, draw: random.Random) -> tuple[Any, str, str]:
    """A changed table, the kind of change and the place."""
    import numpy as np

    row, column = draw.randrange(len(frame)), draw.choice(list(frame.columns))
    how = draw.choice(
        ("value", "value", "cell", "column", "dropped", "rows", "twice", "renamed", "type", "nothing", "infinite")
    )
    name = f"{kind}.{column}"
    if how in ("value", "cell"):
        cells = frame[column].tolist()
        held = list(cells[row]) if isinstance(cells[row], (list, np.ndarray)) else cells[row]
        if how == "cell":
            cells[row] = draw.choice(STRANGE)
        elif isinstance(held, list):
            cells[row] = [_draw_plausible(float(held[0]), draw), *held[1:]] if held else [1.0]
        else:
            cells[row] = _draw_plausible(held, draw)
        return frame.assign(**{column: cells}), how, name
    changed = {
        "column": lambda: frame.assign(**{draw.choice(("extra", "a\x1b", "Seed")): 1}),
        "dropped": lambda: frame.drop(columns=column),
        "rows": lambda: frame.drop(index=frame.index[row : row + draw.choice((1, 5, len(frame)))]),
        "twice": lambda: frame.loc[[*frame.index, frame.index[row]]],
        "renamed": lambda: frame.rename(columns={column: column.upper()}),
        "type": lambda: frame.assign(**{column: frame[column].map(str)}),
        "nothing": lambda: frame.assign(**{column: None}),
        "infinite": lambda: frame.assign(**{column: [draw.choice((float("inf"), 1e308))] * len(frame)}),
    }[how]()
    return changed, how, f"{kind}.{column}" if how not in ("rows", "twice", "column") else kind


def mutate_bytes(held: bytes, draw: random.Random) -> bytes:
    """A file cut, with a part flipped, or with something put in."""
    at = draw.randrange(max(1, len(held)))
    how = draw.choice(("cut", "flip", "put", "empty", "encoding"))
    if how == "cut":
        return held[:at]
    if how == "flip":
        return held[:at] + bytes([held[at] ^ (1 << draw.randrange(8))]) + held[at + 1 :]
    if how == "put":
        return held[:at] + bytes(draw.randrange(256) for _ in range(8)) + held[at:]
    return b"" if how == "empty" else held.decode("latin-1").encode("utf-16")


def mutate(path: Path, draw: random.Random) -> tuple[str, str]:
    """Change a record or one of its tables on disk; what was done, and where."""
    import pandas as pd

    from marble_bench.records import results

    files = {"json": path, **{kind: results.find_table_path(path, kind) for kind in results.TABLES}}
    part, careful = draw.choice(("json", "json", "json", "grid", "predictions", "bytes")), draw.random() < 0.8
    if part == "bytes":
        which = draw.choice(list(files))
        files[which].write_bytes(mutate_bytes(files[which].read_bytes(), draw))
        return "bytes", which
    record = json.loads(path.read_text())
    if part == "json":
        how, name = mutate_json(record, draw)
    else:
        frame, how, name = mutate_table(pd.read_parquet(files[part]), part, draw)
        try:
            frame.to_parquet(files[part], index=False)
        except Exception:  # noqa: BLE001 - pandas cannot write a mixture of types, so nobody can send it
            return "none", name
    if careful and isinstance(record.get("digests"), dict):
        for kind in results.TABLES:
            record["digests"][kind] = hashlib.sha256(files[kind].read_bytes()).hexdigest()
        record["digests"]["record"] = results.compute_digest(record)
    path.write_text(json.dumps(record))
    return how, name


def check_everywhere(path: Path, folder: Path, honest: Path, figure: bool) -> tuple[str, list[str]]:
    """The kinds of verdict of a mutated record, with commas, and what was bad when it went through every reader."""

    from marble_bench.board import board as boards
    from marble_bench.board import compare, page, plot
    from marble_bench.board import table as printing
    from marble_bench.cli import show
    from marble_bench.errors import BenchError
    from marble_bench.records import results, validation
    from marble_bench.runs import reproduce

    bad, texts = [], []

    def tried(what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except BenchError as error:
            texts.append(f"{error}")
        except Exception as error:  # noqa: BLE001 - what any reader may not raise
            bad.append(f"{what}: {type(error).__name__}: {error}"[:200])
        return None

    found = tried("check", lambda: validation.check([path]))
    kinds = {each.kind for each in found or ()}
    fallen = any(not each.is_valid for each in found or ())
    texts += [each.words for each in found or ()]
    keep_valid = tried("list", lambda: validation.keep_valid(results.list_paths(folder)))
    texts += keep_valid.left_off if keep_valid else []
    if keep_valid and not any(each.path == honest for each in keep_valid.valid):
        bad.append("the honest record fell")
    for mini in (True, False):
        made = (
            tried(
                "board",
                lambda mini=mini: boards.build_board(keep_valid.valid, boards.BoardFilter(honest.parts[-2], mini)),
            )
            if keep_valid
            else None
        )
        if made is None:
            continue
        for name in ("as_csv", "as_json", "write_markdown", "write_latex"):
            texts.append(tried(name, lambda name=name, made=made: getattr(printing, name)(made)) or "")
        tried("page", lambda made=made: page.write_html(page.collect_data(made)))
        if made.cells:
            tried(
                "table",
                lambda made=made: [
                    printing.build_tables(printing.build_matrix(made, cost=True), 100),
                    printing.list_notes(made),
                ],
            )
        if figure and made.cells:
            tried("figure", lambda made=made: plot.write(folder / "figure.png", made, "intervals"))
            tried("figure", lambda made=made: plot.write(folder / "figure.png", made, "atlas"))
    choice = compare.Choice(folder, [], honest.parts[-2], True)
    compared = tried("compare", lambda: compare.compare_models(str(path), str(honest), choice, 2))
    if compared is not None:
        texts.append(json.dumps(compared.as_json()))
    one = tried("reproduce", lambda: results.read(path))
    if one is not None:
        tried("reproduce", lambda: reproduce.make_config(one.record, folder, folder, "cpu"))
    if any(re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", show.escape_lines(text)) for text in texts):
        bad.append("a control character in an output")
    return ("fallen: " if fallen else "") + ",".join(sorted(kinds)), bad


def run_fuzz(source: Path, count: int, seed: int, figures: int = 10) -> tuple[Counter[str], Counter[str], list[str]]:
    """Mutate records below `source`, `count` times: outcomes, places that cannot be told, and what was bad.

    figures: of how many mutations one is drawn, which takes the most time.
    """
    from marble_bench.records import results

    outcomes: Counter[str] = Counter()
    quiet: Counter[str] = Counter()
    bad: list[str] = []
    before_mb, whole = _measure_peak_mb(), results.list_paths(source)
    for index in range(count):
        draw = random.Random(f"{seed}-{index}")
        pick, other = draw.sample(whole, 2)
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(name) / "results"
            for each in (pick, other):
                place = folder.joinpath(*each.parts[-4:])
                place.parent.mkdir(parents=True, exist_ok=True)
                for file in (each, *(results.find_table_path(each, kind) for kind in results.TABLES)):
                    shutil.copy(file, place.parent)
            path, honest = (folder.joinpath(*each.parts[-4:]) for each in (pick, other))
            before = [file.read_bytes() for file in sorted(path.parent.glob(f"{path.stem}*"))]
            started = time.monotonic()
            how, where = mutate(path, draw)
            same = before == [file.read_bytes() for file in sorted(path.parent.glob(f"{path.stem}*"))]
            unchanged = same or (how != "bytes" and _is_equal(path, pick))
            kinds, wrong = check_everywhere(path, folder, honest, index % figures == 0)
            if time.monotonic() - started > FILE_S:
                wrong.append("too slow")
        if kinds.startswith("fallen"):
            outcome = "told"
        elif unchanged:
            outcome = "same"
        elif kinds != "ok":
            outcome = "warned"
        elif CANNOT_BE_TOLD.match(where) and how in ("value", "cell", "removed", "type", "infinite"):
            outcome = "cannot be told"
            quiet[re.sub(r"\.\d+", "", where)] += 1
        else:
            outcome = "bad"
            wrong.append("it came through in silence")
        outcomes["bad" if wrong else outcome] += 1
        bad += [f"{index}: {how} of {where} ({kinds}): {words}" for words in wrong]
    if _measure_peak_mb() > before_mb + MEMORY_MB:
        bad.append("more than 1 GB of memory")
    return outcomes, quiet, bad


def _measure_peak_mb() -> float:
    """The most memory that this process has had so far; in one that did something else before, what came before counts."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _is_equal(path: Path, before: Path) -> bool:
    """Whether record and tables hold what they held, digests aside."""
    import pandas as pd

    from marble_bench.records import results

    def held(each: Path) -> list[Any]:
        record = json.loads(each.read_text())
        frames = [pd.read_parquet(results.find_table_path(each, kind)).to_json() for kind in results.TABLES]
        return [{key: value for key, value in record.items() if key != "digests"}, *frames]

    try:
        return held(path) == held(before)
    except Exception:  # noqa: BLE001 - it cannot be read any more, so it is another
        return False


def make_honest_records(folder: Path) -> None:
    """Records of small runs of the suite on miniatures."""
    from marble_bench.cli import app

    for task in ("gtzan", "emo", "gs"):
        argv = [
            "bench",
            "run",
            "--model",
            "mfcc",
            "--model",
            "chroma",
            "--task",
            task,
            "--mini",
            "--protocol",
            "linear",
        ]
        sys.argv = [*argv, "--quiet", "--device", "cpu", "--json", "--results-dir", str(folder)]
        try:
            app.main()
        except SystemExit as end:
            if end.code:
                raise


def main() -> int:
    """Print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="honest records to mutate; else some are made now")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = asked.results or Path(name)
        if asked.results is None:
            make_honest_records(source)
        outcomes, quiet, bad = run_fuzz(source, asked.count, asked.seed)
    for outcome, count in outcomes.most_common():
        print(f"{outcome:16} {count:5}")
    print("\ncannot be told by the record alone:")
    for where, count in quiet.most_common():
        print(f"  {where:40} {count:4}")
    for line in bad:
        print(f"bad: {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
