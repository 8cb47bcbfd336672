"""Figures, labels and tables of a report, as Markdown has them."""

import math
import re

import pytest

from jaxlstm.lab.comparison.report.markdown import (
    code,
    join,
    plain,
    show,
    show_count,
    table,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "n/a"),
        (math.nan, "n/a"),
        (math.inf, "n/a"),
        (0, "0"),
        (0.0, "0"),
        (1, "1.00"),
        (1 / 3, "0.333"),
        (0.9996, "1.00"),
        (-0.0123456, "-0.0123"),
        (123.4, "123"),
        (999.6, "1,000"),
        (98765.4, "98,800"),
        (123456789, "1.23e+08"),
        (1.234e-5, "1.23e-05"),
        (1e-300, "1.00e-300"),
    ],
)
def test_figures_have_three_digits(value, shown):
    assert show(value) == shown


def test_counts_have_all_of_theirs():
    assert show_count(1234567) == "1,234,567"
    assert show_count(None) == "n/a"


@pytest.mark.parametrize("text", ["a", "`", "a`b", "``a", "a```", "带 $x$ *b* |", "\\"])
def test_code_holds_any_text(text):
    shown = code(text)
    fence = re.match("`+", shown)
    assert fence is not None
    inner = shown[fence.end() : -fence.end()]
    assert shown.endswith(fence[0])
    # A code span ends at the first run of as many backticks, and a space is stripped
    # from both ends where both have one.
    assert fence[0] not in re.findall("`+", inner)
    both = inner.startswith(" ") and inner.endswith(" ")
    assert (inner[1:-1] if both else inner) == text


def test_code_moves_no_cursor():
    assert code("a\nb\x1b[2J") == "`a\\nb\\x1b[2J`"


def test_plain_text_has_no_markup():
    text = "*a* _b_ c_d `e` [f](g) <h> $i$ \\"
    assert plain(text) == (
        "\\*a\\* \\_b\\_ c_d \\`e\\` \\[f\\](g) \\<h\\> \\$i\\$ \\\\"
    )


def test_tables_are_aligned():
    rows = [["a|b", "0.100", "yes"], ["带", "< 0.200", ""], ["c", "1.2 (1 to 2)", "no"]]
    assert table(["name", "figure", "note"], rows) == [
        "| name |       figure | note |",
        "| ---- | -----------: | ---- |",
        "| a\\|b |        0.100 | yes  |",
        "| 带   |      < 0.200 |      |",
        "| c    | 1.2 (1 to 2) | no   |",
        "",
    ]


def test_words_are_joined():
    assert [join(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
