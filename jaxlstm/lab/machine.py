"""The machine that a process runs on: its instructions, cores and memory."""

import os
import platform
import re
from pathlib import Path

ROOT = Path("/")
# What decides which instructions compute with numbers, by the names of Linux: under
# "flags" on x86, under "Features" on ARM.
EXTENSIONS = {
    "flags": re.compile(r"sse4_\d|avx\w*|fma4?|f16c|amx_\w+"),
    "Features": re.compile(r"neon|vfpv4|asimd\w*|fphp|fcma|sve\w*|sme\w*|i8mm|bf16"),
}


def instruction_set(root: Path = ROOT) -> str:
    """Returns what a compiler for this machine generates code for.

    The architecture and the vector extensions, as one line that is the same at each
    start: `x86_64 avx avx2 f16c fma sse4_1 sse4_2`. Sums are rounded otherwise where
    it differs: vectors are wider, or a product and a sum are fused.

    Args:
      root: the folder that holds `proc`.
    """
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        name = name.strip()
        if name in EXTENSIONS:
            words = {w for w in value.split() if EXTENSIONS[name].fullmatch(w)}
            return " ".join([platform.machine(), *sorted(words)])
        if name == "isa":  # RISC-V: one word of all.
            return f"{platform.machine()} {value.strip()}"
    # Other systems tell the processor's name, or nothing.
    names = platform.machine(), platform.processor()
    return " ".join(dict.fromkeys(name for name in names if name))


def usable_cores() -> int:
    """Returns how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_limit(root: Path = ROOT) -> int | None:
    """Returns how many bytes this process may use; None where that is not known.

    The physical memory, or less where a control group, as of a container, grants less.

    Args:
      root: the folder that holds `proc` and `sys`.
    """
    limits = [_physical_memory(root), *_group_limits(root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _physical_memory(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.M)
    if found:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None  # Windows, or a system that does not say.


def _group_limits(root: Path) -> list[int]:
    """Returns the limits of the control groups that hold this process."""
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if not controllers:  # Version 2: one tree for all.
            top, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A group's own limit and those of all above it hold. In a container the path
        # may be one of the host's, and only the top is there to read.
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            text = _read(folder / file).strip()
            if text.isdigit():  # Not `max`.
                limits.append(int(text))
            if folder == top:
                break
    return limits


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return ""
