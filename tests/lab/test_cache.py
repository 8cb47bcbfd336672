"""What XLA compiles is kept, is used again, and is never believed when damaged."""

import os
import stat
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxlstm.lab import cache
from jaxlstm.lab.cache import keep_compiled
from tests.lab.tiny import ROOT

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_enable_compilation_cache",
)
# Trains sine to cosine, and prints a hash of what comes out.
TRAIN = """
import hashlib
from pathlib import Path
import jax
from jaxlstm.lab.cache import keep_compiled
keep_compiled()
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
path = Path("configs/sine_cosine.toml")
experiment = build(load_config(path, ["train.updates_per_call=10"]))
state = experiment.trainer.init(jax.random.key(0), 1)
block = experiment.source.segments(0, 10)
update = experiment.trainer.compile(state, block)
for call in range(5):
    block = experiment.source.segments(10 * call, 10)
    state = update(state, block, 10)[0]
assert int(state.num_updates) == 50
leaves = [jax.device_get(leaf).tobytes() for leaf in jax.tree.leaves(state.params)]
print(hashlib.sha256(b"".join(leaves)).hexdigest())
"""


def forget() -> None:
    """Forgets what this process has compiled, and where it was kept."""
    jax.clear_caches()
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's cache folder, in which nothing has been kept yet."""
    before = {name: jax.config.values[name] for name in OPTIONS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield tmp_path / "home"
    forget()
    for name, value in before.items():
        jax.config.update(name, value)


def compute() -> float:
    """Compiles something, and returns what it makes of 3."""
    return float(jax.jit(lambda x: jnp.sin(x) * x + 41)(np.float32(3)))


EXPECTED = float(np.sin(np.float32(3)) * np.float32(3) + np.float32(41))


def entries(home: Path) -> list[Path]:
    return sorted(home.glob("jaxlstm/compiled/*/*-cache"))


def keep_and_compute() -> float:
    forget()
    keep_compiled()
    return compute()


def test_what_was_compiled_is_read_by_the_next_process(home: Path):
    first = keep_and_compute()
    assert first == pytest.approx(EXPECTED)
    kept = {path: path.read_bytes() for path in entries(home)}
    assert kept

    events: list[str] = []
    jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
    try:
        assert keep_and_compute() == first
    finally:
        jax.monitoring.clear_event_listeners()

    assert "/jax/compilation_cache/cache_hits" in events
    assert "/jax/compilation_cache/cache_misses" not in events
    assert {path: path.read_bytes() for path in entries(home)} == kept


def test_it_lies_with_the_user_and_is_open_to_nobody_else(home: Path):
    keep_and_compute()

    [folder] = (home / "jaxlstm" / "compiled").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)


def test_each_kind_of_machine_has_its_own(home: Path, monkeypatch: pytest.MonkeyPatch):
    keep_and_compute()
    monkeypatch.setattr(cache, "instruction_set", lambda: "x86_64 avx1024")
    keep_and_compute()
    monkeypatch.setattr(cache, "usable_cores", lambda: 4096)
    keep_and_compute()

    assert len(list((home / "jaxlstm" / "compiled").iterdir())) == 3


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "short of a byte": lambda data: data[:-1],
    "empty": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "zeroed at the end": lambda data: data[:-64] + bytes(64),
    "flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_changes_nothing_and_is_made_anew(damage: str, home: Path):
    keep_and_compute()
    kept = entries(home)
    for path in kept:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))

    # Damaged after the look at the start: JAX finds it, and nobody is told.
    jax.clear_caches()
    assert compute() == pytest.approx(EXPECTED)

    # Found at the start, removed, and compiled again.
    assert keep_and_compute() == pytest.approx(EXPECTED)
    assert entries(home) == kept
    for path in kept:
        zlib.decompress(path.read_bytes())


def test_every_flipped_bit_is_found(home: Path):
    keep_and_compute()
    path = max(entries(home), key=lambda path: path.stat().st_size)
    data = path.read_bytes()
    content = zlib.decompress(data)

    for bit in np.linspace(0, 8 * len(data) - 1, 300, dtype=int).tolist():
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        # A few bits fill up a byte, and mean nothing.
        same = cache._is_whole(path) and zlib.decompress(flipped) == content
        assert same or not cache._is_whole(path), f"bit {bit} of {path.name}"


def test_only_what_is_new_is_looked_at(home: Path):
    keep_and_compute()
    [whole] = entries(home)
    old, new = whole.with_name("old-cache"), whole.with_name("new-cache")
    for path in (old, new):
        path.write_bytes(b"damaged")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))

    forget()
    keep_compiled()

    assert set(entries(home)) == {whole, old}


def test_the_oldest_go_when_there_are_too_many(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    keep_and_compute()
    other = home / "jaxlstm" / "compiled" / "of-other-versions"
    other.mkdir()
    for age in range(1, 11):
        path = other / f"{age}-cache"
        path.write_bytes(bytes(10_000))
        os.utime(path, (time.time() - 3600 * age,) * 2)
    new = sum(path.stat().st_size for path in entries(home)) - 100_000
    monkeypatch.setattr(cache, "LIMIT", new + 35_000)

    forget()
    keep_compiled()

    assert sorted(path.name for path in other.iterdir()) == [
        "1-cache",
        "2-cache",
        "3-cache",
    ]
    assert sum(path.stat().st_size for path in entries(home)) == new + 30_000


def test_a_cache_that_is_configured_stays(home: Path, tmp_path: Path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    keep_compiled()

    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "mine")
    assert not home.exists()


def test_it_can_be_switched_off(home: Path):
    jax.config.update("jax_enable_compilation_cache", False)

    assert keep_and_compute() == pytest.approx(EXPECTED)
    assert not home.exists()


def test_where_nothing_can_be_written_nothing_is_kept(home: Path):
    home.write_text("a file where a folder is wanted")

    assert keep_and_compute() == pytest.approx(EXPECTED)
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_a_folder_that_is_lost_meanwhile_stops_nothing(home: Path):
    forget()
    keep_compiled()
    [folder] = (home / "jaxlstm" / "compiled").iterdir()
    assert compute() == pytest.approx(EXPECTED)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("no folder any more")

    jax.clear_caches()
    assert compute() == pytest.approx(EXPECTED)


def test_what_zstandard_packed_gets_a_checksum(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    """By a stand-in, whose frames hold their content behind the header."""
    header = cache.ZSTANDARD + b"\x20"
    sealed = cache.ZSTANDARD + bytes([0x20 | cache.CHECKSUM_FLAG])

    def unpack(data: bytes) -> bytes:
        if not data.endswith(b"end"):
            raise RuntimeError("not whole")
        return data[len(header) :]

    monkeypatch.setattr(cache, "_zstandard", lambda: (sealed.__add__, unpack))
    path = home / "entry-cache"
    home.mkdir()

    path.write_bytes(header + b"content, end")
    assert cache._is_whole(path)
    assert path.read_bytes() == sealed + b"content, end"
    assert list(home.iterdir()) == [path]

    path.write_bytes(sealed + b"content, end")
    assert cache._is_whole(path)
    assert path.read_bytes() == sealed + b"content, end"

    path.write_bytes(header + b"cont")
    assert not cache._is_whole(path)


@pytest.mark.slow
def test_processes_give_the_same_results(home: Path):
    """Without a cache, two at once that fill one, and one that reads it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}

    def start(**more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", TRAIN],
            cwd=ROOT,
            env=environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    without = start(JAX_ENABLE_COMPILATION_CACHE="false").communicate()
    assert not entries(home)
    both = [start(), start()]
    cold = [child.communicate() for child in both]
    assert entries(home)
    warm = start().communicate()

    assert len(without[0].strip()) == 64
    assert cold == [without, without]
    assert warm == without
    assert without[1] == ""
