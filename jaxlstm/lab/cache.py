"""What XLA compiles is kept for the next process, which then starts at once.

It lies in the user's cache folder and never in a run directory: what is kept is machine
code, and a run directory may come from a stranger. JAX writes and reads the entries. It
writes them in place, though, so that a process that is killed leaves a part of one, at
which JAX would complain ever after; and it drops none. Both are seen to here.
"""

import functools
import hashlib
import importlib
import os
import platform
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import jax

from jaxlstm.lab.machine import instruction_set, usable_cores

# Bytes that all entries may take.
LIMIT = 2**30
# Its time is that of the last look at the entries.
STAMP = ".checked"
# Files that were written so shortly before that look may have changed after it.
SLACK_NS = 2 * 10**9
# What a frame of Zstandard begins with, and a bit of the byte after that (RFC 8878).
ZSTANDARD, CHECKSUM_FLAG = b"\x28\xb5\x2f\xfd", 1 << 2


def keep_compiled() -> None:
    """Lets XLA keep what it compiles, and use what it kept.

    Results are the same, bit for bit. A folder that JAX has been given already, as by
    the variable JAX_COMPILATION_CACHE_DIR, stays as it is. JAX's own variable
    JAX_ENABLE_COMPILATION_CACHE=false switches all of it off. Where nothing can be
    written, nothing is kept.
    """
    options = jax.config.values
    if options["jax_compilation_cache_dir"] is not None:
        return
    if not options["jax_enable_compilation_cache"]:
        return
    try:
        folder = _folder()
        # For this user alone: who can write here decides what we execute.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        _remove_damaged(folder)
        _remove_oldest(folder.parent, LIMIT)
    except OSError:
        return
    # What cannot be read or written is compiled, and nobody has to act on it.
    warnings.filterwarnings(
        "ignore", message="Error (reading|writing) persistent compilation cache"
    )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default only what took a second is kept: little of what is compiled here.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _folder() -> Path:
    """Returns the folder of this machine and these versions.

    JAX tells entries apart by program, versions and flags, but not by the processor
    and its number of cores, for which code is made.
    """
    # Imported here, with all that it imports, for those who keep nothing.
    import pooch

    facts = (
        instruction_set(),
        str(usable_cores()),
        metadata.version("jaxlib"),
        platform.python_version(),
    )
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    return pooch.os_cache("jaxlstm") / "compiled" / name


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob("*-cache"):
        try:
            yield path, path.stat()
        except OSError:
            continue  # Another process has removed it.


def _remove_damaged(folder: Path) -> None:
    """Removes entries, of those written since the last look, that are not whole."""
    stamp = folder / STAMP
    last = stamp.stat().st_mtime_ns if stamp.exists() else 0
    # Before the look: what is written meanwhile is left to the next one.
    stamp.touch()
    for path, facts in _entries(folder):
        if facts.st_mtime_ns > last - SLACK_NS and not _is_whole(path):
            path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    """Says whether an entry can be unpacked, and sees that it has a checksum."""
    data = path.read_bytes()
    try:
        if not data.startswith(ZSTANDARD):
            zlib.decompress(data)
        elif (sealed := _seal(data)) != data:
            replacement = path.with_suffix(".new")
            replacement.write_bytes(sealed)
            os.replace(replacement, path)
    except Exception:  # Each library has its own, and all say the same.
        return False
    return True


def _seal(data: bytes) -> bytes:
    """Returns what Zstandard packed, with a checksum, which unpacking looks at.

    JAX packs with Zstandard where Python has it, without a checksum: a flipped bit
    would become another program.
    """
    pack, unpack = _zstandard()
    content = unpack(data)
    return data if data[len(ZSTANDARD)] & CHECKSUM_FLAG else pack(content)


def _zstandard() -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    """Returns what packs with a checksum, and what unpacks, of what JAX uses."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        options = {zstd.CompressionParameter.checksum_flag: 1}
        return functools.partial(zstd.compress, options=options), zstd.decompress
    library = importlib.import_module("zstandard")
    packer = library.ZstdCompressor(write_checksum=True)
    return packer.compress, library.ZstdDecompressor().decompress


def _remove_oldest(folder: Path, limit: int) -> None:
    """Removes entries of all machines and versions until they keep the limit."""
    entries = [entry for path in folder.iterdir() for entry in _entries(path)]
    size = sum(facts.st_size for _, facts in entries)
    for path, facts in sorted(entries, key=lambda entry: entry[1].st_mtime_ns):
        if size <= limit:
            break
        path.unlink(missing_ok=True)
        size -= facts.st_size
