"""The page on comparisons lists what a config takes and what a report has."""

import re
from pathlib import Path
from typing import Any

import pytest

from jaxlstm.lab.comparison.report.exports import Row
from jaxlstm.lab.schema import CompareSection
from tests.lab.comparison import parts

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")


def read_chapter(heading: str) -> str:
    (chapter,) = re.findall(rf"^##+ {heading}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    return chapter


# Keys that name what is measured, and no figure.
NAMES = {*parts.BLOCKS, *parts.MEMBERS, *parts.LEVELS, *parts.ROUTES, *parts.GATES}
NAMES |= {"dc/dc", "dh/dh", "direct", "snapshots", "members", "refused", "update"}


def find_keys(values: Any) -> set[str]:
    """Returns all keys of objects."""
    if isinstance(values, list):
        return set().union(*map(find_keys, values))
    if not isinstance(values, dict):
        return set()
    return set(values).union(*map(find_keys, values.values()))


def test_keys_of_the_section_are_explained():
    chapter = read_chapter("The config")
    rows = re.findall(r"^\| (`.*?) \|", chapter, re.M)
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert keys == list(CompareSection.model_fields)


@pytest.mark.parametrize("part", parts.MAKERS)
def test_figures_of_a_part_are_explained(part):
    figures = find_keys(parts.MAKERS[part]()) - NAMES
    assert len(figures) > 5
    assert figures - set(re.findall(r"`(\w+)`", read_chapter(part))) == set()


def test_columns_of_the_long_table_are_explained():
    chapter = read_chapter("The figures")
    assert all(f"`{column}`" in chapter for column in Row._fields)
