"""What the files of a comparison say, read back for a report."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxlstm.lab.comparison.store import PARTS, Store
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.runs import CONFIG

# What is measured, in the order of the report.
NAMES = "accuracy", "costs", "races", "lags", "flow", "vanishing"
# A relative bias below is one of float64.
ROUNDING = 1e-9

Values = Mapping[str, Any]


class Material(NamedTuple):
    """What a comparison's directory holds.

    Attributes:
      folder: the directory.
      config: its config, as TOML holds it.
      facts: what comparison.json says.
      parts: the values of each part that was measured, in the order of `NAMES`.
      num_parameters: of the model, where that is known.
    """

    folder: Path
    config: Values
    facts: Values
    parts: Mapping[str, Values]
    num_parameters: int | None

    @property
    def labels(self) -> tuple[str, ...]:
        """The estimators of all parts, those that were refused included."""
        measured = (label for label, _ in self._members())
        return tuple(dict.fromkeys([*self.facts.get("members", ()), *measured]))

    @property
    def refused(self) -> dict[str, str]:
        """Why estimators were refused, by label."""
        return dict(self.facts.get("refused", {})) | {
            label: member["refused"]
            for label, member in self._members()
            if "refused" in member
        }

    def _members(self) -> Iterator[tuple[str, Values]]:
        for values in self.parts.values():
            for holder in (values, *values.get("snapshots", ())):
                yield from holder.get("members", {}).items()


def read_material(folder: Path) -> Material:
    """Reads a comparison's directory; what is damaged is as if not measured.

    Raises:
      UserError: config or facts cannot be read.
    """
    store = Store.open(folder)
    found = {name: store.load(f"{PARTS}/{name}") for name in NAMES}
    parts = {name: part.values for name, part in found.items() if part is not None}
    file = folder / CONFIG
    try:
        config = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file}: not valid TOML: {error}") from None
    arrays = getattr(found["accuracy"], "arrays", {})
    sizes = (array.shape[-1] for name, array in arrays.items() if "exact-" in name)
    return Material(folder, config, store.facts, parts, next(sizes, None))


def measured(members: Values) -> dict[str, Values]:
    """Returns the members that were not refused."""
    return {k: v for k, v in members.items() if "refused" not in v}
