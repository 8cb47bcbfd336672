"""The directory of a comparison: what was measured, kept so that it is believed.

    config.toml         the resolved config
    comparison.json     what it was made with, and a hash of every file of figures
    reference/          a run directory
    snapshots/N.npz     its parameters after update N
    parts/NAME.json     what was measured, and beside it, in NAME.npz, raw draws if any
    parts/NAME/         pieces of a part that is being measured

What comparison.json does not name was cut short while it was written, and does not
count; what does not have its hash is damaged, and measured again.
"""

import contextlib
import hashlib
import io
import json
import math
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.lab.checkpoints import warn
from jaxlstm.lab.comparison.problem import Part
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.files import cannot_write, write_bytes, write_text
from jaxlstm.lab.runs import COMPARISON, format_facts

PARTS, SNAPSHOTS = "parts", "snapshots"
_AGAIN = "; it is measured again"


class Store:
    """What a comparison has measured so far.

    Attributes:
      path: of its directory.
      facts: what comparison.json says. `measured` holds, by name, the files of what was
        measured with their hashes, and the seconds that it took.
      measures: whether what is lost or damaged is measured again, or left out.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, measures: bool = True):
        self.path, self.facts, self.measures = path, facts, measures
        self.facts.setdefault("measured", {})
        # Of pieces of the part at hand that were measured by an earlier process.
        self._seconds_before = 0.0

    @classmethod
    def open(cls, path: Path, *, measures: bool = False) -> "Store":
        """Opens a directory.

        Args:
          path: of the directory.
          measures: whether it is gone on with, and not only read.

        Raises:
          UserError: its facts cannot be read.
        """
        file = path / COMPARISON
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: not JSON: {error}") from None
        wanted = "status", "settings", "versions", "flags", "devices", "import_path"
        absent = [key for key in wanted if key not in facts] if facts else wanted
        if absent:
            raise UserError(
                f"{file}: is damaged: {absent[0]} is missing; bring back what it held"
            )
        return cls(path, facts, measures=measures)

    def note(self, **facts: Any) -> None:
        """Writes further facts into comparison.json."""
        self.facts.update(facts)
        write_text(self.path / COMPARISON, format_facts(self.facts))

    def part(self, name: str, measure: Callable[[], Part]) -> Part:
        """Returns a part: as it was measured, or else it is measured and kept.

        Args:
          name: of the part.
          measure: gives it. What it has kept as `piece`s is forgotten afterwards.
        """
        key = f"{PARTS}/{name}"
        self._seconds_before = 0.0
        part = self.load(key) or self._measure(key, measure)
        pieces = [
            piece for piece in self.facts["measured"] if piece.startswith(f"{key}/")
        ]
        for piece in pieces:
            del self.facts["measured"][piece]
        if pieces:
            self.note()
        shutil.rmtree(self.path / PARTS / name, ignore_errors=True)
        return part

    def piece(self, part: str, name: str, measure: Callable[[], Part]) -> Part:
        """Returns a piece of a part that is being measured, such as a member's."""
        plain = re.sub(r"[^\w.=-]+", "_", name, flags=re.ASCII)[:60]
        mark = hashlib.sha256(name.encode()).hexdigest()[:8]
        key = f"{PARTS}/{part}/{plain}-{mark}"
        kept = self.load(key)
        if kept is None:
            return self._measure(key, measure)
        self._seconds_before += self.facts["measured"][key]["seconds"]
        return kept

    def _measure(self, key: str, measure: Callable[[], Part]) -> Part:
        began, before = time.perf_counter(), self._seconds_before
        part = measure()
        found = self._seconds_before - before
        return self.save(key, part, found + time.perf_counter() - began)

    def load(self, key: str) -> Part | None:
        """Returns what is kept under a key; None of what is not there, or damaged."""
        known = self.facts["measured"].get(key)
        if known is None:
            return None
        contents = {}
        for name, sha256 in known["files"].items():
            path = self.path / name
            content = None
            with contextlib.suppress(OSError):
                content = path.read_bytes()
            if content is None or _hash(content) != sha256:
                fault = "is missing" if content is None else "is damaged"
                again = f" and left out; `jaxlstm resume {self.path}` measures it again"
                warn(f"{path}: {fault}{_AGAIN if self.measures else again}")
                return None
            contents[path.suffix] = content
        values = json.loads(contents.get(".json", b"{}"))
        if ".npz" not in contents:
            return Part(values)
        with np.load(io.BytesIO(contents[".npz"])) as arrays:
            return Part(values, dict(arrays))

    def save(self, key: str, part: Part, seconds: float) -> Part:
        """Keeps a part, and returns it as it will be read back.

        Args:
          key: the path of its files in the directory, without their endings.
          part: what was measured.
          seconds: that it took.

        Raises:
          UserError: it cannot be written.
        """
        path, contents = self.path / key, {}
        if part.values:
            values = json.dumps(_plain(part.values), indent=1, allow_nan=False)
            contents[".json"] = f"{values}\n".encode()
        if part.arrays:
            file = io.BytesIO()
            np.savez_compressed(file, **dict(part.arrays))  # type: ignore[arg-type]
            contents[".npz"] = file.getvalue()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path.parent, error) from None
        for suffix, content in contents.items():
            write_bytes(path.with_name(path.name + suffix), content)
        self.facts["measured"][key] = {
            "seconds": round(seconds, 3),
            "files": {f"{key}{s}": _hash(content) for s, content in contents.items()},
        }
        self.note()
        return Part(json.loads(contents.get(".json", b"{}")), part.arrays)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _plain(value: Any) -> Any:
    """Returns what JSON can hold, with None where a figure is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
