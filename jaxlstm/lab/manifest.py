"""Manifests: what a checkpoint holds, written beside it, so that damage is found."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxlstm.lab.data import hash_file
from jaxlstm.types import PyTree

MANIFEST = "manifest.json"


def make_manifest(path: Path, items: dict[str, PyTree], run: str = "") -> str:
    """Returns what is written beside a checkpoint, with a hash of itself.

    Args:
      path: of the checkpoint.
      items: what it holds.
      run: what its run is known by.
    """
    content: dict[str, Any] = {
        "run": run,
        "update": int(path.name),
        "files": _hash_files(path),
        "leaves": {item: describe_leaves(tree) for item, tree in items.items()},
    }
    return json.dumps(content | {"sha256": _digest(content)}, indent=2) + "\n"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_damage(path: Path, run: str = "") -> str | None:
    """Returns what is not as it was saved by a run, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        digest = manifest.pop("sha256")
        if digest != _digest(manifest):
            return f"{MANIFEST} is not what was written"
        if manifest["update"] != int(path.name):
            return f"{MANIFEST} is that of update {manifest['update']}"
        if manifest["run"] != run:
            return "another run has saved it"
        expected = manifest["files"]
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return f"{MANIFEST} is not what was written"
    try:
        found = _hash_files(path)
    except OSError as error:
        # Who trains may drop it meanwhile.
        return f"{error.filename or 'a file'} cannot be read: {error.strerror}"
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if expected.get(name) != found[name]:
            return f"{name} is not what was saved"
    return None


def _hash_files(folder: Path) -> dict[str, str]:
    """Returns the hash of each file of a checkpoint but its manifest."""
    return {
        str(path.relative_to(folder)): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(MANIFEST)
    }


def describe_leaves(tree: PyTree) -> dict[str, str]:
    """Returns dtype and shape of each leaf by its path."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def differences(saved: dict[str, str], wanted: dict[str, str]) -> Iterator[str]:
    """Yields what is wrong with each leaf that is not as it is wanted.

    Args:
      saved: of the checkpoint, by `describe_leaves`.
      wanted: of what is to be restored.
    """
    for name in [*wanted, *[name for name in saved if name not in wanted]]:
        was, now = saved.get(name), wanted.get(name)
        if was != now:
            yield (
                f"{name.lstrip('.')} is {was or 'not there'}, and the config asks for "
                f"{now or 'none'}"
            )
