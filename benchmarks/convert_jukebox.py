"""How much memory the conversion of Jukebox's checkpoint takes, as the checkpoint grows: a process's peak.

A scaled checkpoint (width 1920, half floats, the format of 2020) of a few sizes is written to a temporary folder and
converted in a process of its own. Its peak resident memory is compared with that of a process that imports the same and
converts nothing.

python benchmarks/convert_jukebox.py [--layers 12 24 48] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, CONTEXT = 1920, 512

CONVERT = """
import resource, sys, time
from pathlib import Path
from marble_bench.encoders import jukebox
folder, layers = Path(sys.argv[1]), int(sys.argv[2])
size = jukebox.Size(width={width}, heads=8, context={context}, parts=8, depth=abs(layers))
started = time.perf_counter()
if layers > 0:
    jukebox._convert(size, folder, folder / "jukebox.safetensors")
taken = time.perf_counter() - started
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) / 1024, taken)
"""


def write(folder: Path, layers: int) -> None:
    """A checkpoint pair of `layers` needed layers and as many that are not, in the published form."""
    import torch

    from marble_bench.encoders import jukebox

    size = jukebox.Size(width=WIDTH, heads=8, context=CONTEXT, parts=8, depth=2 * layers)
    shapes = size.shapes()
    tensors = {name: torch.full(shape, 0.5, dtype=torch.float16) for name, shape in shapes.items()}
    coder = {name: value for name, value in tensors.items() if not name.startswith(("prior.", "y_emb."))}
    prior = {name: value for name, value in tensors.items() if name not in coder}
    for name, model in zip(jukebox.FILES, (coder, prior), strict=True):
        torch.save({"model": model, "step": 0}, folder / name, _use_new_zipfile_serialization=False)


def measure(folder: Path, layers: int) -> tuple[float, float]:
    """Peak resident MiB and seconds of a process that converts; of one that does not if `layers` is negative."""
    code = CONVERT.format(width=WIDTH, context=CONTEXT)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(layers)], check=True, capture_output=True, text=True
    )
    peak, taken = done.stdout.split()
    return float(peak), float(taken)


def main() -> None:
    """Write, convert and print one size after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 24, 48])
    parser.add_argument("--json", action="store_true", help="figures for a program")
    options = parser.parse_args()
    found = []
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder, layers)
            idle, _ = measure(folder, -layers)
            peak, taken = measure(folder, layers)
            found.append(
                {
                    "checkpoint_mb": sum(path.stat().st_size for path in folder.glob("*.tar")) / 2**20,
                    "converted_mb": (folder / "jukebox.safetensors").stat().st_size / 2**20,
                    "peak_mb": peak,
                    "grown_mb": peak - idle,
                    "seconds": taken,
                }
            )
    if options.json:
        print(json.dumps(found))
        return
    for each in found:
        print(
            f"checkpoint {each['checkpoint_mb']:7.0f} MiB -> {each['converted_mb']:7.0f} MiB in {each['seconds']:5.1f} s: "
            f"peak {each['peak_mb']:6.1f} MiB, of which the conversion {each['grown_mb']:5.1f} MiB"
        )


if __name__ == "__main__":
    main()
