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
from marble_bench.core.sources import Origin, find_origin
from marble_bench.core.trees import find_room
from marble_bench.files.atomic import write_whole


def list_shipped() -> list[Origin]:
    """Where everything comes from that is shipped, each once."""
    tasks = [plugins.find_task(name) for name in plugins.list_task_names()]
    tasks = [named for named in tasks if find_room("task").holds(named.path.resolve())]
    metrics = [*plugins.find_metrics().values(), *(metric for named in tasks for metric in named.task.metrics)]
    shipped = {
        "encoder": plugins.find_encoders().values(),
        "task": tasks,
        "corpus": [named.task.corpus for named in tasks],
        "metric": metrics,
        "protocol": plugins.find_protocols().values(),
        "head": plugins.find_heads(),
    }
    return list(dict.fromkeys(find_origin(kind, each) for kind, plugs in shipped.items() for each in plugs))


def find_missing(origins: Iterable[Origin]) -> list[Origin]:
    """Those whose digest is not entered under their version."""
    return [each for each in origins if not hashes.is_known(each.kind, each.name, each.version, each.digest)]


def add_entries(before: Entered, origins: Iterable[Origin]) -> Entered:
    """What was entered, and these behind it."""
    entries: Entered = json.loads(json.dumps(before))
    for each in origins:
        digests = entries.setdefault(each.kind, {}).setdefault(each.name, {}).setdefault(str(each.version), [])
        if each.digest not in digests:
            digests.append(each.digest)
    return entries


def main(arguments: list[str]) -> int:
    """List what is not entered, exit code 1 if anything; `--enter` enters it, `--reset` begins the file anew."""
    if unknown := set(arguments) - {"--enter", "--reset"}:
        print(f"{' '.join(sorted(unknown))} is no option; there are --enter and --reset", file=sys.stderr)
        return 2
    origins = list_shipped()
    missing = origins if "--reset" in arguments else find_missing(origins)
    for each in missing:
        print(f"{each.kind} {each.name} version {each.version}: {each.digest}")
    if not arguments:
        return 1 if missing else 0
    entries = add_entries({} if "--reset" in arguments else hashes.load_digests(), missing)
    place = Path(str(files("marble_bench.core") / hashes.FILE))
    write_whole(place, (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
