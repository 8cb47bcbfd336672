"""The two languages of the page on gradients say the same."""

import re
from pathlib import Path

import pytest

from tests.pages import read_blocks, read_links, read_paragraphs, read_tables

DOCS = Path(__file__).parents[1] / "docs"
NAMES = "gradients.md", "gradients.zh.md"
ENGLISH, CHINESE = ((DOCS / name).read_text() for name in NAMES)
HAN = re.compile(r"[\u4e00-\u9fff]")


def figures(text: str) -> set[str]:
    """Returns the numbers of a text."""
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def mark(paragraph: str) -> str:
    """Returns how a paragraph begins: as a heading, in bold with a number, ..."""
    found = re.match(r"#+ |\*\*(?:\d+\.)?|- |", paragraph)
    return found[0] if found else ""


def test_blocks_are_the_same():
    blocks = read_blocks(ENGLISH)
    assert read_blocks(CHINESE) == blocks
    assert len(blocks) > 30


def test_paragraphs_have_the_same_marks_figures_and_links():
    pages = map(read_paragraphs, (ENGLISH, CHINESE))
    for ours, theirs in zip(*pages, strict=True):
        assert mark(theirs) == mark(ours), theirs
        assert figures(theirs) == figures(ours), theirs
        links, translated = (set(read_links(text)) for text in (ours, theirs))
        assert translated - {*NAMES} == links - {*NAMES}, theirs


def test_paragraphs_are_translated():
    paragraphs = read_paragraphs(CHINESE)
    left = [text for text in paragraphs if not HAN.search(text)]
    assert [text[:11] for text in left] == ["[English](g", "- S. Hochre"]


def test_tables_have_the_same_figures_and_code():
    tables, translated = map(read_tables, (ENGLISH, CHINESE))
    for ours, theirs in zip(tables, translated, strict=True):
        for row, other in zip(ours, theirs, strict=True):
            for cell, word in zip(row, other, strict=True):
                same = (
                    figures(word) == figures(cell) if HAN.search(word) else word == cell
                )
                assert same, (cell, word)


def test_each_language_begins_with_a_link_to_the_other():
    assert (read_links(CHINESE)[0], read_links(ENGLISH)[0]) == NAMES


# In Markdown, bold text that ends in punctuation does not end before a letter.
def test_bold_text_ends_where_it_should():
    assert not re.findall(r"[\u3002\uff0c\uff1a]\*\*\S", CHINESE)


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=NAMES)
def test_links_lead_somewhere(page):
    links = read_links(page)
    assert not [link for link in links if not (DOCS / link).exists()]
    assert len(links) > 8
