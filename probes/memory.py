"""How much memory there is, and what probes may take of it."""

from __future__ import annotations

from pathlib import Path

SHARE = 0.6  # of what is free; the rest is for activations, other programs and the allocator's waste
# On the CPU what a block's optimiser touches in one step should stay in the last cache: measured on an EPYC with 32 MiB
# of it, 12 probes of 768 x 512 together take 1.5 times as long for each as 6.
CACHE_BYTES = 64 << 20


HELD_BYTES = 31 << 20  # the most that moves glibc's threshold is 32 MiB


def keep_freed_memory() -> None:
    """Have the allocator keep what a step frees for the next step.

    glibc gives memory at a heap's end back to the system where it is more than twice the largest block that was ever
    mapped alone and freed (mallopt(3), dynamic threshold), and fetching it again, page by page, can take as long as a step.
    So one large block is freed at the start; its pages are never touched. Elsewhere it does nothing.
    """
    import torch

    torch.empty(HELD_BYTES, dtype=torch.uint8)


def free_bytes(device: str) -> int:
    """Bytes that can be had on a device: of the CPU what the machine or its cgroup has.

    Of a GPU what its driver calls free, and what torch holds of it without using it: an encoder that ran before leaves that.
    """
    if device.startswith("cuda"):
        import torch

        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + idle)
    found = [_measure_machine()]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        found.append(max(0, int(text) - int(used.read_text())))
    return min(found)


def _measure_machine() -> int:
    about = Path("/proc/meminfo")
    if about.is_file():
        for line in about.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    import os

    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # what is free is not told there
