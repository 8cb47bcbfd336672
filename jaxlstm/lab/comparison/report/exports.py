"""A comparison's figures for programs: one JSON document, one long table."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from jaxlstm.lab.comparison.report.material import Material


class Row(NamedTuple):
    """A figure of the long table.

    Attributes:
      part: that measured it.
      snapshot: the update of the reference run, where it belongs to one.
      estimator: its label, where it belongs to one.
      figure: the other keys that lead to it, with slashes between, as in a JSON Pointer
        (RFC 6901: a slash in a key is ~1, a tilde ~0); the items of a list have the
        names that the part gives them, or are numbered from 0.
      value: the figure; None where there is none.
    """

    part: str
    snapshot: int | None
    estimator: str | None
    figure: str
    value: float | None


# By the keys that lead to a list of figures, labels of estimators as a star: the lists
# beside or above it that say what its items are of, from the outermost list in.
AXES: Mapping[str, tuple[str, ...]] = {
    "accuracy/snapshots/alignment/cosine": ("labels", "labels"),
    "accuracy/reach/members/*": ("lags",),
    "costs/scaling/members/*": ("lengths",),
    "races/members/*/tuning": ("learning_rates",),
    "races/members/*/losses": ("seeds", "updates"),
    "lags/snapshots/path_shares/by_route_and_gate": ("routes", "gates"),
    "lags/snapshots/path_shares/by*": ("routes",),
    "lags/snapshots/path_shares/beyond": ("routes",),
    "lags/snapshots/*cosine": ("horizons",),
    "lags/snapshots/*norm_ratio": ("horizons",),
    "lags/snapshots/*relative_bias": ("horizons",),
    "flow/snapshots/jacobians/[!k]*": ("k",),
    "vanishing/curves/*": ("k",),
}


def to_json(material: Material) -> str:
    """Returns everything in one document: facts, config, and the values of the parts.

    Keys stand in the order in which they were written; where a figure is none it is
    null.
    """
    document = {
        "comparison": material.facts,
        "config": material.config,
        "parts": material.parts,
    }
    text = json.dumps(
        document, indent=1, ensure_ascii=False, allow_nan=False, default=str
    )
    return f"{text}\n"


def to_csv(material: Material) -> str:
    """Returns the long table: a row for each figure, `Row`'s fields as its header.

    Truth values are 1 and 0, and texts are left to the JSON document, so that the
    column of values holds numbers alone; an empty value is a figure that there is none
    of. That an estimator was refused is the figure `refused`, 1.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows(material))
    return text.getvalue()


def rows(material: Material) -> Iterator[Row]:
    """Yields every figure of all parts."""
    for part, values in material.parts.items():
        yield from _walk(Row(part, None, None, "", None), _name_items(part, values, {}))


def _name_items(way: str, value: Any, known: Mapping[str, Any]) -> Any:
    """Returns values with lists whose items have names as objects.

    Args:
      way: the keys that lead to them.
      value: to rename in.
      known: lists on the way, by key.
    """
    if isinstance(value, dict):
        known = {**known, **{k: v for k, v in value.items() if isinstance(v, list)}}
        return {k: _name_items(f"{way}/{k}", v, known) for k, v in value.items()}
    if not isinstance(value, list):
        return value
    axes = next((axes for keys, axes in AXES.items() if fnmatchcase(way, keys)), ())
    if axes and not any(isinstance(item, dict) for item in value):
        return _name_axes(value, [known.get(axis, ()) for axis in axes])
    return [_name_items(way, item, known) for item in value]


def _name_axes(value: Any, axes: Sequence[Sequence[Any]]) -> Any:
    """Returns a list of lists as an object of objects, as far as the names fit."""
    if not axes or not isinstance(value, list):
        return value
    names, *others = axes
    items = [_name_axes(item, others) for item in value]
    keys = [str(name) for name in names]
    fit = len(keys) == len(set(keys)) == len(items)
    return dict(zip(keys, items, strict=True)) if fit else items


def _walk(row: Row, value: Any) -> Iterator[Row]:
    if isinstance(value, dict):
        # A GRU has a gate of that name.
        if isinstance(value.get("update"), int):
            row = row._replace(snapshot=value["update"])
        for key, item in value.items():
            match key:
                case "update" if isinstance(item, int):
                    pass
                case "snapshots":
                    for snapshot in item:
                        yield from _walk(row, snapshot)
                case "members":
                    for label, member in item.items():
                        yield from _walk(row._replace(estimator=label), member)
                case "refused":
                    yield from _walk(_below(row, key), True)
                case _:
                    yield from _walk(_below(row, key), item)
    elif isinstance(value, list):
        for key, item in zip(_names(value), value, strict=True):
            yield from _walk(_below(row, key), item)
    elif value is None or isinstance(value, int | float):
        yield row._replace(value=None if value is None else +value)


def _below(row: Row, key: str) -> Row:
    key = key.replace("~", "~0").replace("/", "~1")
    return row._replace(figure=f"{row.figure}/{key}" if row.figure else key)


def _names(items: list[Any]) -> list[str]:
    """Returns what the items of a list are called, each by another name."""
    names = [
        str(item.get("label", item.get("name", n)))
        if isinstance(item, dict)
        else str(n)
        for n, item in enumerate(items)
    ]
    unique = len(set(names)) == len(names)
    return names if unique else [str(n) for n in range(len(items))]
