"""What is read of the machine, from the files of several kinds of machine."""

import os
import platform
from pathlib import Path

import pytest

from jaxlstm.lab.machine import instruction_set, memory_limit, usable_cores

X86 = """
processor\t: 0
model name\t: Some processor
flags\t\t: fpu sme smep sse2 ssse3 fma cx16 sse4_1 sse4_2 avx f16c avx2 avx512f amx_tile
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu
"""
ARM = """
processor\t: 0
Features\t: fp asimd evtstrm aes fphp asimdhp cpuid atomics sve i8mm bf16
"""
RISCV = """
processor\t: 0
isa\t\t: rv64imafdcv
"""
MEMINFO = "MemTotal:       16384 kB\nMemFree:        100 kB\n"
MIB = 2**20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, "amx_tile avx avx2 avx512f f16c fma sse4_1 sse4_2"),
        (ARM, "asimd asimdhp bf16 fphp i8mm sve"),
        (RISCV, "rv64imafdcv"),
    ],
)
def test_instruction_set(text: str, expected: str, tmp_path: Path):
    write(tmp_path, {"proc/cpuinfo": text})

    assert instruction_set(tmp_path) == f"{platform.machine()} {expected}"


def test_instruction_set_without_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "processor", lambda: "Apple M9")
    assert instruction_set(tmp_path) == "arm64 Apple M9"

    monkeypatch.setattr(platform, "processor", lambda: "arm64")
    assert instruction_set(tmp_path) == "arm64"


def test_instruction_set_of_this_machine_is_the_same_each_time():
    first = instruction_set()

    assert first == instruction_set()
    assert first.startswith(platform.machine())


def test_usable_cores_are_those_that_the_process_may_run_on(
    monkeypatch: pytest.MonkeyPatch,
):
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert usable_cores() == 3

    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16 * MIB),
        # Version 2: the group above grants less than the group itself.
        (
            {
                "proc/self/cgroup": "0::/user/run\n",
                "sys/fs/cgroup/user/run/memory.max": f"{9 * MIB}\n",
                "sys/fs/cgroup/user/memory.max": f"{5 * MIB}\n",
            },
            5 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "0::/user\n",
                "sys/fs/cgroup/user/memory.max": "max\n",
            },
            16 * MIB,
        ),
        # A container: the path is the host's, and its group is mounted at the top.
        (
            {
                "proc/self/cgroup": "0::/host/only\n",
                "sys/fs/cgroup/memory.max": f"{3 * MIB}\n",
            },
            3 * MIB,
        ),
        # Version 1, beside other controllers.
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job\n1:name=x:/\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{7 * MIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            7 * MIB,
        ),
        # A group may be granted more than there is.
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            16 * MIB,
        ),
        ({"proc/self/cgroup": "damaged\n"}, 16 * MIB),
    ],
)
def test_memory_limit(files: dict[str, str], expected: int, tmp_path: Path):
    write(tmp_path, {"proc/meminfo": MEMINFO, **files})

    assert memory_limit(tmp_path) == expected


def test_memory_limit_without_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sizes = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert memory_limit(tmp_path) == 4_096_000

    monkeypatch.delattr(os, "sysconf")
    assert memory_limit(tmp_path) is None
