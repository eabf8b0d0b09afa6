"""Where everything that is shipped comes from, and what of it is not entered in `hashes.json`.

`python -m marble_bench.core.shipped` lists what is not entered, `--enter` enters it under the version that is declared:
only where the encoder's golden, or the miniature's scores and predictions, came out the same. Else raise the version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from marble_bench.core import hashes, plugins
from marble_bench.core.hashes import Entered
from marble_bench.core.sources import Origin, origin
from marble_bench.core.trees import room_of
from marble_bench.files.atomic import write_whole


def all_shipped() -> list[Origin]:
    """Where everything comes from that is shipped, each once."""
    tasks = [plugins.find_task(name) for name in plugins.task_names()]
    tasks = [named for named in tasks if room_of("task").holds(named.path.resolve())]
    metrics = [*plugins.metrics().values(), *(metric for named in tasks for metric in named.task.metrics)]
    shipped = {
        "encoder": plugins.encoders().values(),
        "task": tasks,
        "corpus": [named.task.corpus for named in tasks],
        "metric": metrics,
        "protocol": plugins.protocols().values(),
        "head": plugins.heads(),
    }
    return list(dict.fromkeys(origin(kind, each) for kind, plugs in shipped.items() for each in plugs))


def find_missing(origins: Iterable[Origin]) -> list[Origin]:
    """Those whose digest is not entered under their version."""
    return [each for each in origins if not hashes.known(each.kind, each.name, each.version, each.digest)]


def with_entries(before: Entered, origins: Iterable[Origin]) -> Entered:
    """What was entered, and these behind it."""
    made: Entered = json.loads(json.dumps(before))
    for each in origins:
        digests = made.setdefault(each.kind, {}).setdefault(each.name, {}).setdefault(str(each.version), [])
        if each.digest not in digests:
            digests.append(each.digest)
    return made


def main(arguments: list[str]) -> int:
    """List what is not entered, exit code 1 if anything; `--enter` enters it, `--reset` begins the file anew."""
    if unknown := set(arguments) - {"--enter", "--reset"}:
        print(f"{' '.join(sorted(unknown))} is no option; there are --enter and --reset", file=sys.stderr)
        return 2
    origins = all_shipped()
    missing = origins if "--reset" in arguments else find_missing(origins)
    for each in missing:
        print(f"{each.kind} {each.name} version {each.version}: {each.digest}")
    if not arguments:
        return 1 if missing else 0
    made = with_entries({} if "--reset" in arguments else hashes.load_digests(), missing)
    place = Path(str(files("marble_bench.core") / hashes.FILE))
    write_whole(place, (json.dumps(made, indent=1, sort_keys=True) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
