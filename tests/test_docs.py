"""The code of the documents runs: Python blocks in order, TOML blocks parse."""

import re
import sys
import textwrap
import tomllib
import types
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block of a document.

    Attributes:
      line: where its code begins, from 1.
      language: as the fence names it.
      code: without the indent of the fence.
    """

    line: int
    language: str
    code: str


def find_blocks(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(
            text.count("\n", 0, match.start("code")) + 1,
            match["language"],
            textwrap.dedent(match["code"]),
        )
        for match in FENCE.finditer(text)
    ]


def run_document(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs a document as one module, and returns how many blocks it checked."""
    module = types.ModuleType(f"document_{path.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    checked = 0
    for block in find_blocks(path):
        if block.language == "python":
            # The padding makes a traceback name the document's own lines.
            source = "\n" * (block.line - 1) + block.code
            exec(compile(source, path, "exec"), module.__dict__)
            checked += 1
        elif block.language == "toml":
            tomllib.loads(block.code)
            checked += 1
    return checked


SLOW = (
    "own_cell.md",
    "estimators.md",
    "deer.md",
    "diagnostics.md",
    "flax.md",
    "parallel.md",
    "rule.md",
    "stacks.md",
)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            marks=[pytest.mark.slow] if path.name in SLOW else [],
            id=path.name,
        )
        for path in DOCUMENTS
    ],
)
def test_document_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fences = re.findall(r"^ *```(?:python|toml)\b", path.read_text(), re.MULTILINE)
    assert run_document(path, monkeypatch) == len(fences)


def test_blocks_of_a_document_share_a_namespace(tmp_path, monkeypatch):
    path = tmp_path / "GOOD.md"
    path.write_text(
        "```python\na = 1\n```\n\n1. item\n\n   ```python\n   def f():\n"
        "       return a + 1\n   ```\n\n```toml\nb = 3e-4\n```\n"
        "\n```bash\nexit 1\n```\n\n```python\nassert f() == 2\n```\n"
    )
    assert run_document(path, monkeypatch) == 4


@pytest.mark.parametrize(
    ("block", "error", "line"),
    [
        ("```python\na = 1\nassert a == 2\n```", AssertionError, 5),
        ("```python\nabsent\n```", NameError, 4),
        ("```toml\na = \n```", tomllib.TOMLDecodeError, None),
    ],
)
def test_failing_block_is_caught(tmp_path, monkeypatch, block, error, line):
    path = tmp_path / "BAD.md"
    path.write_text(f"# Title\n\n{block}\n")
    with pytest.raises(error) as caught:
        run_document(path, monkeypatch)
    where = [entry.lineno + 1 for entry in caught.traceback if entry.path == path]
    assert where == ([] if line is None else [line])
