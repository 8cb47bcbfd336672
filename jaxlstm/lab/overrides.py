"""Overrides of a config: `section.key=value`, the value written as in TOML."""

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from jaxlstm.lab.errors import UserError, suggest
from jaxlstm.lab.wording import known_keys, shorten

_BARE = re.compile(r"(?!\.\d)[A-Za-z_./~][\w./:~+-]*")
_KEY = re.compile(r"[\w-]+(\.[\w-]+)*")
# What other languages call a value that TOML writes in another way.
_FOREIGN = {
    "true": "write true",
    "false": "write false",
    **dict.fromkeys(("none", "null", "nil"), "to remove the key, write {key}="),
}


def parse_toml(text: str, fault: str) -> dict[str, Any]:
    """Returns what TOML says, or raises UserError with what is wrong with it."""
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{fault}: nested too deeply; a config is flat") from None
    except ValueError as error:
        # A TOMLDecodeError, or a number with more digits than Python reads.
        reason = str(error).partition("; use sys.")[0]
        raise UserError(f"{fault}: {reason}") from None
    return values


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> set[str]:
    """Writes overrides into values read from a file, and returns their keys.

    Raises:
      UserError: an override is malformed, undoes another one, names a key under a
        value that is no section, or removes one that there is not.
    """
    seen: set[str] = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        where = f"override {shorten(repr(override))}"
        if not _is_text(override):
            raise UserError(f"{where}: is not UTF-8; write it as such")
        if not equals or not _KEY.fullmatch(key):
            raise UserError(
                f"{where}: not of the form section.key=value, such as "
                "train.num_updates=100"
            )
        if key in seen:
            raise UserError(f"{where}: {key} is given twice; keep one")
        undone = next((k for k in sorted(seen) if k.startswith(f"{key}.")), None)
        if undone is not None:
            raise UserError(f"{where}: would undo override {undone}; put it first")
        seen.add(key)
        *sections, last = key.split(".")
        if not text:
            _remove(values, key, where)
            continue
        table = values
        for depth, section in enumerate(sections, start=1):
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                name = ".".join(sections[:depth])
                raise UserError(f"{where}: {name} is not a section; give it keys")
        table[last] = _parse_value(where, key, text)
    return seen


def _is_text(override: str) -> bool:
    # Bytes of a command line that are not UTF-8 stand in a string as surrogates.
    try:
        override.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remove(values: dict[str, Any], key: str, where: str) -> None:
    """Removes a key from values; refuses one that is neither there nor known."""
    *sections, last = key.split(".")
    table: Any = values
    for section in sections:
        table = table.get(section, {}) if isinstance(table, dict) else {}
    there = list(table) if isinstance(table, dict) else []
    known = known_keys(tuple(sections))
    if last not in there and last not in known:
        choices = dict.fromkeys([*there, *known])
        remedy = suggest(last, choices) if choices else "leave it out"
        raise UserError(f"{where}: there is no {key} to remove; {remedy}")
    if last in there:
        del table[last]


def _parse_value(where: str, key: str, text: str) -> Any:
    fault = f"{where}: {shorten(repr(text))} is not a TOML value"
    try:
        parsed = parse_toml(f"value = {text}", fault)
    except UserError:
        if not _BARE.fullmatch(text):
            raise UserError(
                f"{fault}; write numbers as 1000, 0.5 or 1e-3, and a string with "
                "blanks or signs in quotes: key='\"...\"'"
            ) from None
        if text.lower() in _FOREIGN:
            remedy = _FOREIGN[text.lower()].format(key=key)
            raise UserError(
                f"{fault}; {remedy}; for the string, '\"{text}\"'"
            ) from None
        return text
    if set(parsed) != {"value"}:
        raise UserError(f"{where}: holds more than one value; write one for each key")
    return parsed["value"]
