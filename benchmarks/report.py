"""What a contest came to: as a table, and as JSON."""

import os
import platform
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contest import Result
from benchmarks.problems import DTYPE


class Spread(NamedTuple):
    """The rounds' figures: their median, the least and the most."""

    median: float
    least: float
    most: float


class Row(NamedTuple):
    """What one contestant did at one quantity.

    Attributes:
      quantity: what was timed.
      contestant: by name.
      seconds: of one unit.
      times_as_fast: as the baseline within one round, or None without a baseline.
      target: what the median of that should reach, or None at sizes and
        contestants that have none.
    """

    quantity: str
    contestant: str
    seconds: Spread
    times_as_fast: Spread | None
    target: float | None


def summarise(result: Result) -> list[Row]:
    """Returns the rows of the table, in its order."""
    benchmark = result.benchmark
    seconds: dict[tuple[str, str], list[float]] = {}
    for measurement in result.measurements:
        key = measurement.quantity, measurement.contestant
        seconds.setdefault(key, []).append(measurement.seconds)
    targets = {c.name: c.targets for c in benchmark.contestants}
    rows = []
    for (quantity, name), values in seconds.items():
        times_as_fast = target = None
        if (quantity, benchmark.baseline) in seconds:
            base = seconds[quantity, benchmark.baseline]
            ratios = [b / own for b, own in zip(base, values, strict=True)]
            times_as_fast = _spread(ratios)
        if result.size == benchmark.default_size:
            target = targets[name].get(quantity)
        rows.append(Row(quantity, name, _spread(values), times_as_fast, target))
    return rows


def describe_machine() -> dict[str, Any]:
    """Returns what figures depend on beside the packages."""
    return {
        "cpu": _cpu_model(),
        "cores": _count_cores(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def to_table(result: Result, machine: dict[str, Any], rounds: int) -> str:
    """Returns the table with all that its figures depend on."""
    return "\n".join(_lines(result, machine, rounds))


def to_json(result: Result) -> dict[str, Any]:
    """Returns all that was measured."""
    return {
        "benchmark": result.benchmark.name,
        "size": dict(result.size),
        "dtype": DTYPE,
        "unit": result.benchmark.unit,
        "baseline": result.benchmark.baseline,
        "versions": dict(result.versions),
        "devices": dict(result.devices),
        "left_out": dict(result.left_out),
        "differences": dict(result.differences),
        "summary": [_row_to_json(row) for row in summarise(result)],
        "measurements": [m._asdict() for m in result.measurements],
    }


def _row_to_json(row: Row) -> dict[str, Any]:
    times_as_fast = row.times_as_fast and row.times_as_fast._asdict()
    return row._asdict() | {
        "seconds": row.seconds._asdict(),
        "times_as_fast": times_as_fast,
    }


def _lines(result: Result, machine: dict[str, Any], rounds: int) -> Iterator[str]:
    benchmark = result.benchmark
    size = " ".join(f"{axis}={number}" for axis, number in result.size.items())
    versions = ", ".join(f"{name} {v}" for name, v in result.versions.items())
    yield f"{benchmark.name}: {benchmark.summary}"
    yield f"  {size}, {DTYPE}, rounds: {rounds}"
    yield f"  {machine['cpu']}, {machine['cores']} cores, load {machine['load']}"
    yield f"  {machine['system']}, Python {machine['python']}"
    yield f"  {versions}"
    if result.differences:
        largest = max(result.differences.values())
        yield (
            f"  outputs differ by at most {largest:.1g} of their largest entry "
            f"(allowed: {benchmark.tolerance:g})"
        )
    for name, reason in result.left_out.items():
        yield f"  left out: {name}: {reason}"
    yield ""
    yield from _table(result)


def _table(result: Result) -> Iterator[str]:
    benchmark, rows = result.benchmark, summarise(result)
    header = (
        "",
        f"per {benchmark.unit}",
        "spread",
        "per second",
        "times as fast",
        "spread",
        "target",
        "device",
    )
    lines: list[Sequence[str]] = []
    for quantity in dict.fromkeys(row.quantity for row in rows):
        lines.append((quantity, *header[1:]))
        for row in rows:
            if row.quantity == quantity:
                lines.append(_cells(row, result.devices[row.contestant]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, strict=True)
        yield "  ".join(cell.ljust(width) for cell, width in cells).rstrip()
    if benchmark.baseline in result.devices:
        yield f"times as fast: as {benchmark.baseline}, within each round"


def _cells(row: Row, device: str) -> tuple[str, ...]:
    fast, spread = "-", "-"
    if row.times_as_fast is not None:
        fast = f"{row.times_as_fast.median:.2f}"
        spread = f"{row.times_as_fast.least:.2f} .. {row.times_as_fast.most:.2f}"
    return (
        f"  {row.contestant}",
        _duration(row.seconds.median),
        f"{_duration(row.seconds.least)} .. {_duration(row.seconds.most)}",
        _rate(1 / row.seconds.median),
        fast,
        spread,
        _judge(row),
        device,
    )


def _judge(row: Row) -> str:
    if row.target is None or row.times_as_fast is None:
        return "-"
    reached = row.times_as_fast.median >= row.target
    return f"{row.target:g} {'reached' if reached else 'missed'}"


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def _duration(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 1e-9:.3g} ns"


def _rate(per_second: float) -> str:
    return f"{per_second:.0f}" if per_second >= 100 else f"{per_second:.3g}"


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
