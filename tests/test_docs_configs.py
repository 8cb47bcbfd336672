"""The page on configs names every section, key, choice and default, and no others."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from experiments.text.sources import KNOWN_TEXTS
from experiments.text.task import Text
from jaxlstm.cells import CELLS
from jaxlstm.estimators import ESTIMATORS
from jaxlstm.lab import commands
from jaxlstm.lab.optimizers import OPTIMIZERS
from jaxlstm.lab.options import options_model
from jaxlstm.lab.schema import ConfigFile, OpenSection, Section

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "configs.md").read_text()
TOP = "Top level"
# A key of the section itself, handed on to the cell.
SHARED = "initializer"


def section_of(field: FieldInfo) -> type[Section] | None:
    """Returns the section that a key holds, which may be left out."""
    for part in (field.annotation, *get_args(field.annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def is_section(field: FieldInfo) -> bool:
    return section_of(field) is not None


def find_sections(
    model: type[Section] = ConfigFile, path: tuple[str, ...] = ()
) -> dict[str, type[Section]]:
    """Returns the config's sections by the headings they have on the page."""
    suffix = ", open" if issubclass(model, OpenSection) else ""
    heading = f"`[{'.'.join(path)}]`{suffix}" if path else TOP
    sections = {heading: model}
    for key, field in model.model_fields.items():
        inner = section_of(field)
        if inner is not None:
            sections |= find_sections(inner, (*path, key))
    return sections


SECTIONS = find_sections()


def read_chapter(heading: str) -> str:
    pattern = rf"^### {re.escape(heading)}\n(.*?)(?=^##)"
    (chapter,) = re.findall(pattern, PAGE, re.MULTILINE | re.DOTALL)
    return chapter


def read_rows(text: str, columns: int) -> dict[str, list[str]]:
    """Returns the further cells of each row that starts with a name in backticks."""
    rows = {}
    for line in re.findall(r"^\| `.*\|$", text, re.MULTILINE):
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if len(cells) == columns - 1:
            rows[name.strip("`")] = cells
    return rows


def find_choices(annotation: Any) -> list[str]:
    """Returns the strings of every Literal in an annotation."""
    if isinstance(annotation, str):
        return [annotation]
    return [choice for part in get_args(annotation) for choice in find_choices(part)]


def test_page_has_the_sections_of_the_schema():
    headings = re.findall(rf"^### ({TOP}|`\[.*)$", PAGE, re.MULTILINE)
    assert headings == list(SECTIONS)


@pytest.mark.parametrize("heading", SECTIONS)
def test_keys_and_defaults_are_those_of_the_schema(heading):
    fields = SECTIONS[heading].model_fields
    rows = read_rows(read_chapter(heading), columns=4)
    # At the top level, sections have headings and no rows.
    top = {k for k, f in fields.items() if heading == TOP and is_section(f)}
    assert list(rows) == [key for key in fields if key not in top]
    for key, (kind, default, meaning) in rows.items():
        field = fields[key]
        if field.is_required() or is_section(field):
            assert default == "", key
        elif field.default is None:
            assert default == "none", key
        else:
            value = tomllib.loads(f"value = {default.strip('`')}")["value"]
            assert value == field.default, key
        for choice in find_choices(field.annotation):
            assert f'`"{choice}"`' in kind + meaning, key


@pytest.mark.parametrize(
    ("heading", "key", "table"),
    [
        ("`[model]`, open", "cell", CELLS),
        ("`[estimator]`, open", "name", ESTIMATORS),
        ("`[optimizer]`, open", "name", OPTIMIZERS),
    ],
)
def test_names_and_options_are_those_of_the_tables(heading, key, table):
    *_, meaning = read_rows(read_chapter(heading), columns=4)[key]
    assert re.findall(r'`"(\w+)"`', meaning) == list(table)
    rows = read_rows(read_chapter(heading), columns=2)
    assert list(rows) == list(table)
    for name, (cell,) in rows.items():
        shown = dict(re.findall(r"`(\w+)` \(([^)]*)\)", cell))
        fields = options_model(table[name]).model_fields
        if "those of lstm_variant" in cell:
            assert list(shown) == differing(fields, table["lstm_variant"]), name
        else:
            assert list(shown) == [each for each in fields if each != SHARED], name
        for option, text in shown.items():
            default = fields[option].get_default()
            if fields[option].is_required() or default is None:
                required = fields[option].is_required()
                assert text == ("required" if required else "none"), (name, option)
            else:
                value = tomllib.loads(f"value = {text}")["value"]
                assert value == default, (name, option)
            whole = rows["lstm_variant" if "those of" in cell else name][0]
            for choice in find_choices(fields[option].annotation):
                assert f'"{choice}"' in whole, (name, option)


def differing(fields, factory):
    """Returns the options whose defaults are not those of a factory."""
    others = options_model(factory).model_fields
    assert list(fields) == list(others)
    return [
        option
        for option, field in fields.items()
        if field.get_default() != others[option].get_default()
    ]


def test_bounds_are_those_of_the_schema():
    phrases = {"exclusiveMinimum": "integer > 0", "minimum": "integer ≥ 0"}
    for heading, section in SECTIONS.items():
        rows = read_rows(read_chapter(heading), columns=4)
        schema = TypeAdapter(section).json_schema()["properties"]
        for key, (kind, _, _) in rows.items():
            for part in schema[key].get("anyOf", [schema[key]]):
                if part.get("type") == "integer" and "exclusiveMaximum" not in part:
                    (bound,) = phrases.keys() & part.keys()
                    assert phrases[bound] in kind, key


@pytest.mark.parametrize("page", ["README.md", "docs/configs.md"])
def test_shown_errors_are_those_printed(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    pattern = r"^```console\n\$ jaxlstm (.*)\n((?:.*\n)*?)```"
    sessions = re.findall(pattern, (ROOT / page).read_text(), re.MULTILINE)
    assert sessions
    for command, shown in sessions:
        with pytest.raises(SystemExit, match="2"):
            commands.main(shlex.split(command))
        assert capsys.readouterr().err == shown


def test_keys_of_text_are_its_fields():
    text = (ROOT / "docs" / "text.md").read_text()
    table, _, _ = text.partition("| source | what | from |")
    rows = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert keys == list(Text.model_fields)
    known = re.findall(r"^\| (`.+?`) \|", text.partition("| from |")[2], re.MULTILINE)
    names = [name for row in known for name in re.findall(r"`(\w[\w-]*)`", row)]
    assert names[: len(KNOWN_TEXTS)] == list(KNOWN_TEXTS)
