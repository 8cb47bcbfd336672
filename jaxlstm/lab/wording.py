"""How errors in a config are worded: place, value, remedy, a line for each key."""

import re
from collections.abc import Sequence
from typing import Any, get_args

import pydantic
import tomli_w

from jaxlstm.lab.errors import suggest
from jaxlstm.lab.schema import ConfigFile

# Characters of a value that are shown; of a longer one, its two ends.
LONGEST = 400

# A key as TOML writes it without quotes, or what is inside a list.
_PLAIN = re.compile(r"[\w.\[\]-]{1,100}")

_MESSAGES = {
    "int_type": "is not an integer",
    "float_type": "is not a number",
    "string_type": "is not a string; put it in quotes",
    "bool_type": "is not true or false",
    "finite_number": "is not a finite number",
    "greater_than": "use a number greater than {gt}",
    "greater_than_equal": "use a number of at least {ge}",
    "less_than": "use a number less than {lt}",
    "less_than_equal": "use a number of at most {le}",
    "too_short": "name at least {min_length}",
    "list_type": "is not a list; write [...]",
    "model_type": "is not a section; write [{key}] and its keys below",
}


class Reporter:
    """Words errors by file, or override, and key.

    Attributes:
      source: the config file.
      overridden: the keys that overrides have set.
    """

    def __init__(self, source: str, overridden: set[str]):
        self.source = source
        self.overridden = overridden

    def where(self, loc: tuple[str, ...]) -> str:
        """Returns the place of a key, by its sections and its name.

        What is inside a list has one name: published[0].label.
        """
        key = ".".join(loc)
        # An override may have set a whole section.
        for depth in range(1, len(loc) + 1):
            if ".".join(loc[:depth]).partition("[")[0] in self.overridden:
                return f"override {key}"
        # Or a key of a section that only overrides have.
        if len(loc) == 1 and any(k.startswith(f"{key}.") for k in self.overridden):
            return f"override {key}"
        *sections, last = (
            part if _PLAIN.fullmatch(part) else _toml(part) for part in loc
        )
        if not sections:
            return f"{self.source}: {last}"
        return f"{self.source}: [{'.'.join(sections)}] {last}"

    def line(self, loc: tuple[str, ...], value: Any, message: str) -> str:
        """Returns what is wrong with the value of a key."""
        return f"{self.where(loc)} = {_toml(value)}: {message}"

    def lines(
        self,
        error: pydantic.ValidationError,
        prefix: tuple[str, ...],
        values: Any,
        choices: Sequence[str] | None = None,
    ) -> list[str]:
        """Returns a line for each key that is wrong.

        Args:
          error: from pydantic.
          prefix: the section that was validated; or the item of a list in it, such as
            `("estimator", "shadow[0]")`.
          values: what was validated.
          choices: the keys of that section; by default read off the schema.
        """
        found: dict[tuple[str, ...], list[str]] = {}
        shown: dict[tuple[str, ...], str] = {}
        for item in error.errors():
            if item["type"] == "callable_type":
                continue  # No config can give a function, only its name.
            # The location goes on into the members of a union; a key does not.
            loc = _known(item["loc"], values, missing=item["type"] == "missing")
            in_list = bool(loc) and "[" in loc[-1]
            if prefix and prefix[-1].endswith("]"):
                *before, item_name = prefix
                loc = (*before, ".".join([item_name, *loc]))
            else:
                loc = (*prefix, *loc)
            found.setdefault(loc, []).append(_message(item, loc, choices, in_list))
            hidden = item["type"] in ("missing", "extra_forbidden", "value_error")
            shown[loc] = "" if hidden else f" = {_toml(item['input'])}"
        return [
            f"{self.where(loc)}{shown[loc]}: {' or '.join(dict.fromkeys(messages))}"
            for loc, messages in found.items()
        ]


def _message(
    item: Any, loc: tuple[str, ...], choices: Sequence[str] | None, in_list: bool
) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden" and in_list:
        return "unknown key; leave it out"
    if kind == "model_type" and in_list:
        return "is not a table; write {...}"
    if kind == "extra_forbidden":
        known = choices if choices is not None else known_keys(loc[:-1])
        return f"unknown key; {suggest(loc[-1].rpartition('].')[2], known)}"
    if kind == "missing":
        if loc in (("task",), ("task", "use")):
            return 'is missing; write [task] use = "package.module:Class"'
        if len(loc) == 1:
            return f"is missing; write [{loc[0]}] and its keys below"
        return "is missing; set it"
    if kind == "literal_error":
        return f"use {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    if kind in _MESSAGES:
        return _MESSAGES[kind].format(key=".".join(loc), **context)
    return item["msg"]


def _known(loc: tuple[Any, ...], values: Any, *, missing: bool) -> tuple[str, ...]:
    known: list[str] = []
    in_list = False
    for part in loc:
        if isinstance(values, list) and isinstance(part, int):
            in_list = True
            known[-1] += f"[{part}]"
            values = values[part]
            continue
        # The location ends in the key that is missing.
        there = isinstance(values, dict) and part in values
        if not there and not missing:
            break
        if in_list:
            known[-1] += f".{part}"
        else:
            known.append(str(part))
        values = values[part] if there else None
    return tuple(known)


def known_keys(section: tuple[str, ...]) -> list[str]:
    """Returns the keys that the schema has in a section; none of one it lacks."""
    model: Any = ConfigFile
    for part in section:
        field = model.model_fields.get(part)
        annotations = field and (field.annotation, *get_args(field.annotation))
        models = (a for a in annotations or () if hasattr(a, "model_fields"))
        model = next(models, None)
        if model is None:
            return []
    return list(model.model_fields)


def shorten(text: str) -> str:
    """Returns a text, or the two ends of one that is too long to be shown."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        value = f"[{', '.join(map(_item, value))}]"
    else:
        value = _item(value)
    return shorten(value)


def _item(value: Any) -> str:
    if isinstance(value, dict | list):
        return "{...}" if isinstance(value, dict) else "[...]"
    if isinstance(value, str | bool | int | float):
        return tomli_w.dumps({"v": value})[4:].strip()
    return str(value)
