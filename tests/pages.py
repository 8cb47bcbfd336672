"""Reading a page of docs/: its blocks, tables, paragraphs and links."""

import re

FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_tables(page: str) -> list[list[list[str]]]:
    """Returns the rows below the header of every table, cell by cell."""
    tables = re.findall(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [
        [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in table.splitlines()
        ]
        for table in tables
    ]


def read_blocks(page: str) -> list[str]:
    """Returns the fenced blocks, and then the indented ones."""
    fenced = [match[0] for match in FENCE.finditer(page)]
    return fenced + [part for part in split(page) if part.startswith("    ")]


def read_paragraphs(page: str) -> list[str]:
    """Returns headings, paragraphs and lists."""
    return [part for part in split(page) if not part.startswith(("    ", "|"))]


def read_links(text: str) -> list[str]:
    """Returns where the links of a text lead."""
    return re.findall(r"\]\(([^)]+)\)", text)


def split(page: str) -> list[str]:
    """Returns what blank lines keep apart, but for the fenced blocks."""
    return re.split(r"\n\n+", FENCE.sub("", page).strip("\n"))
